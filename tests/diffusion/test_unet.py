"""UNet against diffusers' two networks: numbers, gradients, files, configurations."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from safetensors.numpy import load_file, save_file

import keras_genai as kg
from keras_genai import backend
from keras_genai.weights import unet as weights
from tests.support.tiny_unet import NETWORKS, inputs, make

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # beside TensorFlow's or JAX's own

FILE = "diffusion_pytorch_model.safetensors"


def host(x):
    return backend.to_host(x)


def to_torch(x):
    return torch.from_numpy(x).permute(0, 3, 1, 2)


def reference_of(config):
    """diffusers' network of a configuration."""
    config = dict(config)
    kind = getattr(diffusers, config.pop("_class_name"))
    return kind(**{k: v for k, v in config.items() if k[0] != "_"})


def pair(folder, name):
    """diffusers' network with random weights, and ours of its folder."""
    torch.manual_seed(0)
    reference = reference_of(weights.to_config(make(name)))
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    reference.save_pretrained(folder)
    return reference.eval(), kg.UNet.from_pretrained(folder)


def theirs(reference, values):
    """The reference's output `(B, C, H, W)`."""
    conditions = {
        {"context": "encoder_hidden_states"}.get(k, "class_labels"): torch.from_numpy(v)
        for k, v in values.items()
        if k not in ("x", "t")
    }
    return reference(
        to_torch(values["x"]), torch.from_numpy(values["t"]), **conditions
    ).sample


EVERYWHERE = ("heads, classes, scales", "Stable Diffusion 2, with a vector")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in EVERYWHERE else pytest.mark.in_turn)
        for name in NETWORKS
    ],
)
def test_equals_diffusers_with_its_gradients(tmp_path, name):
    reference, model = pair(tmp_path, name)
    values = inputs(model)
    wanted = theirs(reference, values)
    factor = np.random.default_rng(1).normal(size=wanted.shape).astype("float32")
    torch.sum(torch.from_numpy(factor) * wanted).backward()
    wanted_gradients = {n: p.grad.numpy() for n, p in reference.named_parameters()}

    entries = weights.table(model)
    assert {entry.name for entry in entries} == set(wanted_gradients)
    assert len(entries) == len(model.trainable_variables)

    # The gradient by a factor of the output is the output: one pass gives both.
    factor = keras.Variable(factor.transpose(0, 2, 3, 1))
    variables = [factor, *(entry.variable for entry in entries)]
    run = backend.jit(
        lambda: backend.value_and_gradients(
            lambda: ops.sum(factor.value * model(**values)), variables
        ),
        [factor, *model.variables],
        compiled=keras.backend.backend() != "tensorflow",  # `TestDDPM` holds a trace
    )
    _, (y, *gradients) = run()
    wanted = wanted.detach().permute(0, 2, 3, 1).numpy()
    assert np.abs(wanted).max() > 0.5
    np.testing.assert_allclose(host(y), wanted, atol=1e-4)
    # A shift of the keys changes no softmax: that gradient is 0 but for rounding.
    largest = max(np.abs(g).max() for g in wanted_gradients.values())
    for entry, gradient in zip(entries, gradients, strict=True):
        one = wanted_gradients[entry.name]
        difference = np.linalg.norm(entry.theirs(host(gradient)) - one)
        scale = max(np.linalg.norm(one), 1e-4 * largest)
        assert difference <= 1e-3 * scale, entry.name


# Published files


@pytest.mark.once
@pytest.mark.parametrize("name", NETWORKS)
def test_from_diffusers_and_back_without_loss(tmp_path, name):
    reference, model = pair(tmp_path / "theirs", name)
    model.save_pretrained(tmp_path / "ours")
    first, second = (load_file(tmp_path / n / FILE) for n in ("theirs", "ours"))
    assert set(first) == set(second)
    for tensor, array in first.items():
        np.testing.assert_array_equal(array, second[tensor])
        assert array.shape == second[tensor].shape
    again, said = type(reference).from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(said.values())
    for key, value in reference.config.items():
        assert key[0] == "_" or again.config[key] == value, key
    same = kg.UNet.from_pretrained(tmp_path / "ours").get_config()
    assert same == {**model.get_config(), "name": same["name"]}


CIFAR = {  # google/ddpm-cifar10-32
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", *["DownBlock2D"] * 2],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": [*["UpBlock2D"] * 2, "AttnUpBlock2D", "UpBlock2D"],
}
STABLE_1 = {  # that of Stable Diffusion 1.5, a tenth as wide
    "_class_name": "UNet2DConditionModel",
    "_diffusers_version": "0.6.0",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [32, 64, 128, 128],
    "center_input_sample": False,
    "cross_attention_dim": 76,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
}
STABLE_2 = {  # that of Stable Diffusion 2.1
    **STABLE_1,
    "attention_head_dim": [1, 2, 4, 4],
    "dual_cross_attention": False,
    "num_class_embeds": None,
    "only_cross_attention": False,
    "sample_size": 96,
    "upcast_attention": True,
    "use_linear_projection": True,
}


@pytest.mark.once
@pytest.mark.parametrize("config", [CIFAR, STABLE_1, STABLE_2])
def test_the_tensors_of_the_published_networks(config):
    arguments = weights.from_config(config)
    model = kg.UNet(**arguments)
    if config is CIFAR:
        assert model.get_config() == {**kg.UNet().get_config(), "name": model.name}
    with torch.device("meta"):
        reference = reference_of(config)
    wanted = {n: tuple(p.shape) for n, p in reference.named_parameters()}
    assert {e.name: e.shape for e in weights.table(model)} == wanted
    written = weights.to_config(model)
    for key, value in config.items():
        assert key == "_diffusers_version" or written[key] == value, key


@pytest.mark.once
def test_diffusers_reads_shards(tmp_path):
    model = make()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = list(tmp_path.glob("diffusion_pytorch_model-*.safetensors"))
    assert len(shards) > 2 and not (tmp_path / FILE).exists()
    reference = diffusers.UNet2DModel.from_pretrained(tmp_path, use_safetensors=True)
    tensors = {n: p.detach().numpy() for n, p in reference.named_parameters()}
    for entry in weights.table(model):
        ours = entry.theirs(host(entry.variable.value))
        np.testing.assert_array_equal(ours, tensors[entry.name])
    again = kg.UNet.from_pretrained(tmp_path)
    for old, new in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.once
def test_the_class_for_no_label(tmp_path):
    model = make(num_classes=3)
    assert model.class_embedding.embeddings.shape[0] == 4
    model.save_pretrained(tmp_path)
    again = kg.UNet.from_pretrained(tmp_path)
    assert (again.num_classes, again.null_class) == (3, True)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["num_class_embeds"] == 4
    del config["_null_class"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    again = kg.UNet.from_pretrained(tmp_path)
    assert (again.num_classes, again.null_class) == (4, False)
    again = kg.UNet.from_pretrained(tmp_path, num_classes=3, null_class=True)
    assert again.num_classes == 3


@pytest.mark.once
def test_missing_extra_and_misshapen_tensors_are_listed(tmp_path):
    make().save_pretrained(tmp_path)
    tensors = load_file(tmp_path / FILE)
    del tensors["mid_block.resnets.1.time_emb_proj.bias"]
    tensors["class_embedding.weight"] = np.zeros((3, 32), "float32")
    tensors["conv_in.weight"] = np.zeros((8, 3, 1, 1), "float32")
    save_file(tensors, tmp_path / FILE)
    with pytest.raises(ValueError) as caught:
        kg.UNet.from_pretrained(tmp_path)
    for part in (
        "1 missing: mid_block.resnets.1.time_emb_proj.bias (16,)",
        "1 extra: class_embedding.weight (3, 32)",
        "conv_in.weight is (8, 3, 1, 1), expected (8, 3, 3, 3)",
        "nothing was loaded",
    ):
        assert part in str(caught.value)


@pytest.mark.once
@pytest.mark.parametrize(
    ("config", "change", "message"),
    [
        (CIFAR, {"_class_name": "VQModel"}, "configuration of VQModel"),
        (CIFAR, {"of_the_future": 1}, "of_the_future=1 is not known"),
        (CIFAR, {"act_fn": "gelu"}, "act_fn must be 'silu'"),
        (CIFAR, {"center_input_sample": True}, "center_input_sample must be False"),
        (CIFAR, {"mid_block_type": None}, "mid_block_type must be 'UNetMidBlock2D'"),
        (CIFAR, {"downsample_type": "resnet"}, "downsample_type must be 'conv'"),
        (CIFAR, {"downsample_padding": 2}, "downsample_padding must be"),
        (CIFAR, {"class_embed_type": "timestep"}, "class_embed_type must be None"),
        (CIFAR, {"time_embedding_type": "fourier"}, "time_embedding_type must be"),
        (CIFAR, {"time_embedding_dim": 128}, "time_embedding_dim must be None"),
        (CIFAR, {"attn_norm_num_groups": 16}, "attn_norm_num_groups must be 32"),
        (
            CIFAR,
            {"resnet_time_scale_shift": "scale_shift"},
            "attn_norm_num_groups must be 32; it is None",
        ),
        (CIFAR, {"up_block_types": ["UpBlock2D"] * 4}, "up_block_types must be"),
        (CIFAR, {"cross_attention_dim": 8}, "cross_attention_dim=8 is not known"),
        (
            CIFAR,
            {"down_block_types": ["AttnSkipDownBlock2D"] * 4},
            "down_block_types must be",
        ),
        (STABLE_1, {"addition_embed_type": "text_time"}, "addition_embed_type must be"),
        (STABLE_1, {"class_embed_type": "identity"}, "class_embed_type must be"),
        (STABLE_1, {"only_cross_attention": True}, "only_cross_attention must be"),
        (
            STABLE_1,
            {"cross_attention_dim": [8, 8, 8, 9]},
            "dim must be a positive integer",
        ),
        (STABLE_1, {"dual_cross_attention": True, "conv_in_kernel": 1}, "conv_.*dual_"),
    ],
)
def test_configurations_of_other_networks(config, change, message):
    with pytest.raises(ValueError, match=message):
        weights.from_config({**config, **change})


@pytest.mark.once
def test_lists_that_say_one_thing():
    lists = {
        "layers_per_block": [2] * 4,
        "only_cross_attention": [False] * 4,
        "cross_attention_dim": [76] * 4,
        "mid_block_only_cross_attention": False,
        "act_fn": "swish",
        "time_embedding_dim": 128,
    }
    assert weights.from_config({**STABLE_1, **lists}) == weights.from_config(STABLE_1)


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vector_dim": 4}, "a vector beside labels or without a context"),
        ({"context_dim": 4, "mid_attention": False}, "attention in the middle"),
        ({"attention": (True, True), "num_heads": (1, 4)}, r"\[4, 8\] channels"),
    ],
)
def test_networks_that_diffusers_has_not(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments).save_pretrained(tmp_path / "made")
    assert not (tmp_path / "made").exists()
