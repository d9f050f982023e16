"""OpenCLIP's folders against OpenCLIP itself: both image towers, texts, both ways."""

import importlib
import importlib.machinery
import json
import os
import sys
import types

import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from keras_genai.weights import _open_clip as weights
from tests.support.conformance import host
from tests.support.parity import gradients_are_equal, shaken

pytestmark = pytest.mark.once

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

# Where `pip install --target FOLDER --no-deps open_clip_torch==3.3.0` has put it.
FOLDER = os.environ.get("KERAS_GENAI_OPEN_CLIP", "/tmp/clip_x")
END = 29
TEXT = {
    "context_length": 7,
    "vocab_size": END + 1,
    "width": 12,
    "heads": 2,
    "layers": 2,
}
VIT = {
    "image_size": 12,
    "layers": 2,
    "width": 16,
    "head_width": 8,
    "patch_size": 4,
    "mlp_ratio": 1.7,
}
STAND_INS = {  # modules that are not imported, and what is taken of them
    "open_clip": None,
    "open_clip.hf_model": "HFTextEncoder",
    "open_clip.timm_model": "TimmModel",
    "torchvision": None,
    "torchvision.ops": None,
    "torchvision.ops.misc": "FrozenBatchNorm2d",
}
RESNET = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 4, "patch_size": None}


@pytest.fixture(scope="module")
def open_clip():
    """The module `open_clip.model`, imported without torchvision and timm.

    The package's own `__init__` wants both for pictures and for other towers.
    """
    found = importlib.machinery.PathFinder.find_spec("open_clip", [*sys.path, FOLDER])
    if found is None:
        pytest.skip(
            f"pip install --target {FOLDER} --no-deps open_clip_torch==3.3.0 gets the "
            "reference."
        )
    stand_ins = {name: types.ModuleType(name) for name in STAND_INS}
    stand_ins["open_clip"].__path__ = list(found.submodule_search_locations)
    for name, attribute in STAND_INS.items():
        if attribute:
            setattr(stand_ins[name], attribute, torch.nn.Identity)
    with pytest.MonkeyPatch.context() as patch:
        for name, module in stand_ins.items():
            patch.setitem(sys.modules, name, module)
        model = importlib.import_module("open_clip.model")
    for name in [n for n in sys.modules if n.startswith("open_clip.")]:
        del sys.modules[name]
    return model


def settings(vision, **changes):
    text = {**TEXT, **changes.pop("text_cfg", {})}
    return {"embed_dim": 10, "vision_cfg": vision, "text_cfg": text, **changes}


def written(network, folder, config):
    """Writes a folder as OpenCLIP's `save_for_hf` does."""
    folder.mkdir(exist_ok=True)
    state = {k: v.contiguous() for k, v in network.state_dict().items()}
    safetensors.save_file(state, folder / weights.WEIGHTS)
    images = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    content = {"model_cfg": config, "preprocess_cfg": images}
    (folder / weights.CONFIG).write_text(json.dumps(content))


def reference(open_clip, config):
    network = shaken(open_clip.CLIP(**config))
    with torch.no_grad():
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(0.1 * torch.randn_like(buffer))
            if name.endswith("running_var"):
                buffer.copy_(1.0 + 0.5 * torch.rand_like(buffer))
    return network


def tokens():
    made = np.random.default_rng(0).integers(1, END, (3, 7))
    for i, row in enumerate(made):
        row[3 + i] = END
        row[4 + i :] = 0
    return made.astype("int32")


def images(side):
    return np.random.default_rng(1).uniform(-1, 1, (3, side, side, 3)).astype("float32")


def theirs(network, model, x):
    pixels = ((x + 1) / 2 - np.array(model.mean)) / np.array(model.std)
    pixels = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype("float32"))
    image, text, scale = network(pixels, torch.from_numpy(tokens()))[:3]
    return image, text, scale * image @ text.T


CASES = {
    "vit": settings(VIT, quick_gelu=True),
    "vit without norm before": settings({**VIT, "no_ln_pre": True}),
    "end token, to all": settings(
        VIT, text_cfg={"pool_type": "eos", "eos_id": END, "no_causal_mask": True}
    ),
    "resnet": settings(RESNET),
}


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_gradients_equal_open_clip(open_clip, tmp_path, case):
    config = CASES[case]
    network = reference(open_clip, config)
    written(network, tmp_path, config)
    model = kg.CLIP.from_pretrained(tmp_path)
    assert model.mean == (0.5, 0.4, 0.3)
    x, ids = images(config["vision_cfg"]["image_size"]), tokens()
    image, text, logits = theirs(network, model, x)
    assert np.std(logits.detach().numpy()) > 0.02
    for got, want in (
        (model.encode_image(x), image),
        (model.encode_text(ids), text),
        (model.similarity(x, ids), logits),
    ):
        np.testing.assert_allclose(got, want.detach().numpy(), atol=1e-4)
    inputs = {"images": ops.convert_to_tensor(x), "tokens": ops.convert_to_tensor(ids)}
    network.save_pretrained = lambda folder: safetensors.save_file(
        {k: v.contiguous() for k, v in network.state_dict().items()},
        os.path.join(folder, "model.safetensors"),
    )
    entries = [
        e for e in weights.table(model) if "running" not in e.name.rpartition(".")[2]
    ]
    gradients_are_equal(lambda: [model(inputs)], entries, [logits], network)


@pytest.mark.parametrize("case", CASES)
def test_a_round_trip_keeps_every_bit(open_clip, tmp_path, case):
    config = CASES[case]
    network = reference(open_clip, config)
    written(network, tmp_path / "theirs", config)
    model = kg.CLIP.from_pretrained(tmp_path / "theirs")
    model.save_pretrained(tmp_path / "ours", layout="open_clip")
    found = json.loads((tmp_path / "ours" / weights.CONFIG).read_text())
    again = open_clip.CLIP(**found["model_cfg"]).eval()
    state = safetensors.load_file(tmp_path / "ours" / weights.WEIGHTS)
    again.load_state_dict(state)
    for key, value in network.state_dict().items():
        if "num_batches" not in key:
            assert torch.equal(value, again.state_dict()[key]), key
    x = images(config["vision_cfg"]["image_size"])
    wanted, got = theirs(network, model, x)[2], theirs(again, model, x)[2]
    assert torch.equal(wanted, got)
    assert kg.CLIP.from_pretrained(tmp_path / "ours").mean == model.mean


def test_a_vision_transformer_leaves_for_transformers_too(open_clip, tmp_path):
    transformers = pytest.importorskip("transformers")
    config = settings(VIT)
    network = reference(open_clip, config)
    written(network, tmp_path / "theirs", config)
    model = kg.CLIP.from_pretrained(tmp_path / "theirs")
    model.save_pretrained(tmp_path / "ours")
    again = transformers.CLIPModel.from_pretrained(tmp_path / "ours").eval()
    x = images(12)
    pixels = ((x + 1) / 2 - np.array(model.mean)) / np.array(model.std)
    pixels = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype("float32"))
    with torch.no_grad():
        made = again(input_ids=torch.from_numpy(tokens()), pixel_values=pixels)
    got = made.logits_per_image.numpy()
    np.testing.assert_allclose(got, model.similarity(x, tokens()), atol=1e-4)


def test_what_does_not_fit_is_named(open_clip, tmp_path):
    config = settings(VIT)
    network = reference(open_clip, config)
    written(network, tmp_path, {**config, "vision_cfg": {**VIT, "ls_init_value": 0.1}})
    with pytest.raises(ValueError, match="ls_init_value must be None; it is 0.1"):
        kg.CLIP.from_pretrained(tmp_path)
    other = {"timm_model_name": "vit_base_patch16_siglip_224"}
    written(network, tmp_path, {**config, "vision_cfg": other})
    with pytest.raises(ValueError, match="timm_model_name must be None"):
        kg.CLIP.from_pretrained(tmp_path)
    written(network, tmp_path, {**config, "embed_dim": 12})
    with pytest.raises(ValueError, match="visual.proj is .16, 10., expected .16, 12."):
        kg.CLIP.from_pretrained(tmp_path)


def test_the_mean_of_a_resnet_is_trained(open_clip, tmp_path):
    """In training, statistics of the batch, as PyTorch's."""
    config = settings(RESNET)
    network = reference(open_clip, config)
    written(network, tmp_path, config)
    model = kg.CLIP.from_pretrained(tmp_path)
    x = images(64)
    pixels = ((x + 1) / 2 - np.array(model.mean)) / np.array(model.std)
    pixels = torch.from_numpy(pixels.transpose(0, 3, 1, 2).astype("float32"))
    with torch.no_grad():
        want = network.train().visual(pixels).numpy()
    given = (x + 1) / 2 - np.array(model.mean, "float32")
    given = ops.convert_to_tensor(given / np.array(model.std, "float32"))
    got = host(model.image_tower(given, training=True))
    np.testing.assert_allclose(got, want, atol=1e-3)
