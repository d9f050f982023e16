"""diffusers' folders, both ways: lossless, complete, and never a pickle."""

import json
import shutil

import huggingface_hub as hub
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import keras_genai as kg
from keras_genai.weights import _safetensors, autoencoder_kl

# Reading and writing of files, in NumPy: the networks that they fill are held equal to
# their references and across the backends elsewhere.
pytestmark = pytest.mark.once

FILE = "diffusion_pytorch_model.safetensors"
ARGUMENTS = {
    "image_shape": (8, 12, 3),
    "block_channels": (4, 8),
    "layers_per_block": 1,
    "groups": 2,
    "discriminator_weight": 0.0,
}


@pytest.fixture(scope="module")
def model():
    return kg.AutoencoderKL(**ARGUMENTS, seed=3)


@pytest.fixture
def folder(model, tmp_path):
    folder = tmp_path / "made" / "vae"
    model.save_pretrained(folder)
    return folder


def load(folder, **kwargs):
    return kg.AutoencoderKL.from_pretrained(folder, discriminator_weight=0.0, **kwargs)


def same_weights(model, other):
    pairs = zip(model.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def rewrite(folder, change):
    """The weights' file with its dict of tensors changed."""
    tensors = load_file(folder / FILE)
    change(tensors)
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / FILE)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_a_round_trip_in_the_dtype_of_the_file_keeps_every_bit(model, tmp_path, dtype):
    model.save_pretrained(tmp_path / "first", dtype=dtype)
    load(tmp_path / "first").save_pretrained(tmp_path / "second", dtype=dtype)
    first, second = (load_file(tmp_path / n / FILE) for n in ("first", "second"))
    assert set(first) == set(second)
    for name, array in first.items():
        assert array.dtype == dtype and array.tobytes() == second[name].tobytes(), name
    assert sorted(p.name for p in (tmp_path / "first").iterdir()) == [
        "config.json",
        FILE,
    ]


def test_the_configuration_makes_the_same_model(model, folder):
    again = load(folder, kl_weight=1e-3)
    assert same_weights(model, again)
    wanted = {**model.get_config(), "kl_weight": 1e-3, "seed": 0}
    got = again.get_config()
    assert {k: v for k, v in got.items() if k != "name"} == {
        k: v for k, v in wanted.items() if k != "name"
    }
    shutil.copytree(folder, folder.parent / "pipeline" / "vae")
    assert same_weights(model, load(folder.parent / "pipeline", subfolder="vae"))
    (folder / FILE).rename(folder / FILE.replace(".saf", ".fp16.saf"))
    assert same_weights(model, load(folder, variant="fp16"))


def test_names_and_shapes_of_older_files(model, folder):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def change(tensors):
        for name in [n for n in tensors if ".attentions." in n]:
            for new, before in old.items():
                if f".{new}." in name:
                    array = tensors.pop(name)
                    if array.ndim == 2:  # a 1 x 1 convolution's, in the first ones
                        array = array[:, :, None, None]
                    tensors[name.replace(f".{new}.", f".{before}.")] = array

    rewrite(folder, change)
    assert same_weights(model, load(folder))


def test_the_index_decides_where_a_tensor_is_read(model, folder):
    tensors = load_file(folder / FILE)
    (folder / FILE).unlink()
    first, *others = sorted(tensors)
    parts = ("a.safetensors", "b.safetensors")
    save_file({first: tensors[first]}, folder / parts[0])
    # Another value of the tensor, and one of which the index says nothing.
    wrong = {first: tensors[first] + 7, "beside": np.zeros(3, "float32")}
    save_file({**tensors, **wrong}, folder / parts[1])
    places = {first: parts[0], **dict.fromkeys(others, parts[1])}
    index = folder / f"{FILE}.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert same_weights(model, load(folder))


def test_shards(model, folder):
    tensors = load_file(folder / FILE)
    (folder / FILE).unlink()
    weight_map, names = {}, sorted(tensors)
    for i in range(3):
        shard = f"diffusion_pytorch_model-0000{i + 1}-of-00003.safetensors"
        part = {n: tensors[n] for n in names[i::3]}
        save_file(part, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    index = folder / f"{FILE}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    assert same_weights(model, load(folder))

    (folder / shard).rename(folder / "elsewhere")
    with pytest.raises(ValueError, match="There is no file .*00003-of-00003"):
        load(folder)
    (folder / "elsewhere").rename(folder / shard)
    wrong = {**weight_map, "absent": shard}
    index.write_text(json.dumps({"weight_map": wrong}))
    with pytest.raises(ValueError, match="lacks tensors that .*absent"):
        load(folder)
    for value in (3, None, []):
        index.write_text(json.dumps({"weight_map": {**weight_map, names[0]: value}}))
        with pytest.raises(ValueError, match="must hold a weight_map"):
            load(folder)
    index.write_text(json.dumps({"weight_map": {"x": "../outside.safetensors"}}))
    with pytest.raises(ValueError, match="not a file beside it"):
        load(folder)


def test_missing_extra_and_misshapen_tensors_are_listed(model, folder):
    def change(tensors):
        del tensors["decoder.conv_in.bias"], tensors["quant_conv.weight"]
        tensors["loss.logvar"] = np.zeros(1, "float32")
        tensors["encoder.conv_in.weight"] = np.zeros((4, 3, 1, 1), "float32")
        tensors["encoder.conv_in.bias"] = np.zeros(4, "int32")

    rewrite(folder, change)
    other = kg.AutoencoderKL(**ARGUMENTS, seed=4)
    before = other.get_weights()
    with pytest.raises(ValueError) as caught:
        _safetensors.load(autoencoder_kl.table(other), folder / FILE)
    message = str(caught.value)
    for part in (
        "2 missing: decoder.conv_in.bias (8,); quant_conv.weight (8, 8, 1, 1)",
        "1 extra: loss.logvar (1,)",
        "encoder.conv_in.weight is (4, 3, 1, 1), expected (4, 3, 3, 3)",
        "encoder.conv_in.bias is I32",
        "nothing was loaded",
    ):
        assert part in message
    pairs = zip(before, other.get_weights(), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    with pytest.raises(ValueError, match="extra: loss.logvar"):
        load(folder)


@pytest.mark.parametrize("suffix", [".bin", ".ckpt", ".pt"])
def test_a_pickle_is_never_read(folder, suffix):
    pickle = (folder / FILE).with_suffix(suffix)
    (folder / FILE).rename(pickle)
    with pytest.raises(ValueError, match="is a pickle.*save_file"):
        load(folder)
    with pytest.raises(ValueError, match="is a pickle.*save_file"):
        load(pickle)


def test_damaged_and_absent_files(folder, monkeypatch):
    whole = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged or no safetensors file"):
        load(folder)
    (folder / FILE).unlink()
    with pytest.raises(ValueError, match=f"no {FILE} in .*there is: config.json"):
        load(folder)
    (folder / "config.json").write_text("{")
    (folder / FILE).write_bytes(whole)
    with pytest.raises(ValueError, match="is no JSON"):
        load(folder)
    with pytest.raises(ValueError, match="no id 'owner/name'"):
        load(folder / "absent")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "VQModel"}, "configuration of VQModel"),
        ({"act_fn": "relu"}, "act_fn must be 'silu'"),
        ({"down_block_types": ["AttnDownEncoderBlock2D"] * 2}, "down_block_types"),
        ({"use_post_quant_conv": False}, "use_post_quant_conv must be True"),
        ({"of_the_future": 1}, "of_the_future=1 is not known"),
        ({"block_out_channels": [4, 4]}, "misshapen"),
    ],
)
def test_configurations_of_other_networks(folder, change, message):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        load(folder)


def test_nothing_is_written_by_halves(model, folder, monkeypatch):
    before = (folder / FILE).read_bytes()

    def full(*args, **kwargs):
        raise OSError("no space left")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(OSError, match="no space"):
        model.save_pretrained(folder)
    assert (folder / FILE).read_bytes() == before
    assert len(list(folder.iterdir())) == 2
    with pytest.raises(ValueError, match="dtype must be one of"):
        model.save_pretrained(folder, dtype="int8")
    with pytest.raises(ValueError, match="is no folder"):
        model.save_pretrained(folder / FILE)


def test_the_hub(monkeypatch, folder, model):
    asked = []

    def snapshot(name, allow_patterns):
        asked.append((name, allow_patterns))
        if name == "owner/offline":
            raise hub.errors.LocalEntryNotFoundError("no network")
        return folder.parent

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    assert same_weights(model, load("owner/model", subfolder="vae"))
    assert asked == [("owner/model", ["vae/*.json", "vae/*.safetensors"])]
    with pytest.raises(OSError, match="could not be reached.*give its path"):
        load("owner/offline")
