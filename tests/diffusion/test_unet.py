"""UNet against diffusers' two networks on the same random weights, and as a model."""

import json

import keras
import numpy as np
import pytest
from keras import ops
from safetensors.numpy import load_file, save_file

import keras_genai as kg
from keras_genai import engine
from keras_genai.weights import unet as weights

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # beside TensorFlow's or JAX's own

FILE = "diffusion_pytorch_model.safetensors"
TINY = {"block_channels": (8, 16), "layers_per_block": 1, "groups": 4}
STABLE = {
    **TINY,
    "image_shape": (8, 12, 4),
    "epsilon": 1e-5,
    "context_dim": 6,
    "downsample_padding": "before",
    "cosine_first": True,
    "frequency_shift": 0,
}
NETWORKS = {
    "DDPM": {**TINY, "attention": (False, True)},
    "heads, classes, scales": {
        **TINY,
        "out_channels": 6,
        "attention": (True, False),
        "head_channels": 4,
        "num_classes": 3,
        "time_scale_shift": True,
        "epsilon": 1e-5,
        "downsample_padding": "before",
        "cosine_first": True,
        "frequency_shift": 0,
    },
    "one level, no attention": {
        "block_channels": (8,),
        "layers_per_block": 2,
        "groups": 2,
        "attention": False,
        "mid_attention": False,
    },
    "Stable Diffusion 1": {**STABLE, "attention": (False, True), "heads": 2},
    "Stable Diffusion 2, with a vector": {
        **STABLE,
        "attention": (True, False),
        "heads": (2, 4),
        "vector_dim": 5,
        "transformer_layers": (1, 2),
        "linear_projection": True,
        "wide_scores": True,
    },
}


def host(x):
    return engine.to_host(x)


def to_torch(x):
    return torch.from_numpy(x).permute(0, 3, 1, 2)


def make(name="DDPM", **kwargs):
    return kg.UNet(**{"image_shape": (8, 12, 3), **NETWORKS[name], **kwargs})


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


def inputs(model, batch=3):
    """Images, times and the conditions, a dict of NumPy arrays."""
    rng = np.random.default_rng(0)
    values = {
        "x": rng.normal(size=(batch, *model.image_shape)),
        "t": rng.uniform(0, 999, batch),
    }
    if model.context_dim is not None:
        values["context"] = rng.normal(size=(batch, 7, model.context_dim))
    if model.vector_dim is not None:
        values["vector"] = rng.normal(size=(batch, model.vector_dim))
    values = {k: v.astype("float32") for k, v in values.items()}
    if model.num_classes is not None:
        values["labels"] = rng.integers(0, model.num_classes, batch)
    return values


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


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_diffusers_with_its_gradients(tmp_path, name):
    reference, model = pair(tmp_path, name)
    values = inputs(model)
    wanted = theirs(reference, values)
    torch.sum(torch.sin(3.0 * wanted)).backward()
    wanted_gradients = {n: p.grad.numpy() for n, p in reference.named_parameters()}

    entries = weights.table(model)
    assert {entry.name for entry in entries} == set(wanted_gradients)
    assert len(entries) == len(model.trainable_variables)

    def both():
        _, gradients = engine.value_and_gradients(
            lambda: ops.sum(ops.sin(3.0 * model(**values))),
            [entry.variable for entry in entries],
        )
        return model(**values), gradients

    y, gradients = engine.jit(both, model.variables)()
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
        (STABLE_1, {"cross_attention_dim": [8, 8, 8, 9]}, "must be 'one integer'"),
        (STABLE_1, {"dual_cross_attention": True, "conv_in_kernel": 1}, "conv_.*dual_"),
    ],
)
def test_configurations_of_other_networks(config, change, message):
    with pytest.raises(ValueError, match=message):
        weights.from_config({**config, **change})


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vector_dim": 4}, "a vector beside labels or without a context"),
        ({"context_dim": 4, "mid_attention": False}, "attention in the middle"),
        ({"attention": (True, True), "heads": (1, 4)}, r"\[4, 8\] channels"),
    ],
)
def test_networks_that_diffusers_has_not(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments).save_pretrained(tmp_path / "made")
    assert not (tmp_path / "made").exists()


# As a model


def randomized(**kwargs):
    """A network whose last kernels are not zero, as after some training."""
    model = make(**kwargs)
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        if not np.any(host(variable.value)):
            variable.assign(rng.normal(size=variable.shape, scale=0.1))
    return model


def call(model, training=False, **values):
    """Its output, compiled once where the backend compiles."""
    run = engine.jit(lambda: model(**values, training=training), model.variables)
    return host(run())


def test_it_begins_at_zero_with_the_same_weights_everywhere():
    model, again, other = make(seed=3), make(seed=3), make(seed=4)
    assert not np.any(call(model, **inputs(model)))
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [host(m.conv_in.kernel.value) for m in (model, other)]
    assert not np.array_equal(*kernels)
    assert len({v.path for v in model.variables}) == len(model.variables)


@pytest.mark.parametrize("name", ["heads, classes, scales", "Stable Diffusion 1"])
def test_saved_as_a_model(tmp_path, name):
    model = randomized(name=name, dropout=0.25, dtype="mixed_bfloat16")
    model.save(tmp_path / "unet.keras")
    again = keras.saving.load_model(tmp_path / "unet.keras")
    assert again.get_config() == model.get_config()
    for a, b in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_one_time_for_all_and_other_sides():
    model = randomized()
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype("float32")
    y = host(model(x, np.array([7, 7], "int32")))
    assert y.shape == x.shape
    for t in (7, 7.0, np.array(7), np.array([7.0, 7.0], "float32")):
        np.testing.assert_allclose(host(model(x, t)), y, atol=1e-5)
    assert not np.allclose(host(model(x, 8)), y, atol=1e-3)


def test_dropout():
    model = randomized(dropout=0.5)
    values = inputs(model)
    steps = [v for v in model.non_trainable_variables if v.path.endswith("step")]
    assert len(steps) == 8  # residual blocks
    still, again = (call(model, **values) for _ in range(2))
    np.testing.assert_array_equal(still, again)
    dropped = call(model, training=True, **values)
    assert not np.allclose(dropped, still, atol=1e-3)
    same = call(randomized(), **values)
    np.testing.assert_allclose(same, still, atol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", ["heads, classes, scales", "Stable Diffusion 1"])
def test_half_precision(name, policy):
    model = randomized(name=name)
    half = randomized(name=name, dtype=policy)
    values = inputs(model)
    values["t"] = np.array([999.0, 3.0, 998.0], "float32")
    wanted, y = call(model, **values), call(half, **values)
    assert y.dtype == "float32" and half.conv_in.compute_dtype == policy[6:]
    assert np.linalg.norm(y - wanted) <= 0.05 * np.linalg.norm(wanted)
    assert y.dtype == wanted.dtype
    times = {**values, "t": values["t"] - 1.0}  # 999 is 1000 in bfloat16
    assert not np.array_equal(call(half, **times), y)


def test_in_a_graph_of_unknown_sides():
    model = randomized(name="heads, classes, scales")
    x, t = keras.Input((None, None, 3)), keras.Input(())
    labels = keras.Input((), dtype="int32")
    graph = keras.Model([x, t, labels], 2.0 * model(x, t, labels))
    assert graph.output.shape == (None, None, None, 6)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        kinds = [
            ((None, None, None, 3), "float32"),
            ((None,), "float32"),
            ((None,), "int32"),
        ]
        signature = [tf.TensorSpec(*kind) for kind in kinds]
        run = tf.function(lambda *args: graph(args), input_signature=signature)
    else:
        run = engine.jit(lambda *args: graph(list(args)), graph.variables)
    for sides in ((4, 6), (6, 2)):
        images = np.random.default_rng(0).normal(size=(2, *sides, 3)).astype("float32")
        args = [images, np.array([1.0, 500.0], "float32"), np.array([0, 3], "int32")]
        args = [ops.convert_to_tensor(a) for a in args]
        y = host(model(*args))
        np.testing.assert_allclose(host(run(*args)), 2.0 * y, atol=1e-4)


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": 3}, "3 does not divide 8"),
        ({"block_channels": (), "attention": ()}, "at least one level"),
        ({"block_channels": (8, 16, 16)}, "attention must have one entry .* 3 levels"),
        ({"attention": (False,) * 4}, "attention must have one entry .* 2 levels"),
        ({"heads": (1, 1, 1)}, "heads must have one entry"),
        ({"heads": 3}, "3 does not divide 16"),
        ({"head_channels": 5}, "5 does not divide 16"),
        ({"heads": 2, "head_channels": 4}, "heads or head_channels, not both"),
        ({"heads": 0}, "heads must be"),
        ({"image_shape": (7, 8, 3)}, "image_shape must have sides divisible by 2"),
        ({"image_shape": (8, 8)}, "image_shape must be"),
        ({"layers_per_block": 0}, "layers_per_block must be"),
        ({"num_classes": 0}, "num_classes must be"),
        ({"dropout": 1.0}, "rate must be"),
        ({"downsample_padding": "same"}, "padding must be"),
        ({"transformer_layers": 0, "context_dim": 4}, "depth must be"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_bad_input():
    x, t = np.zeros((2, 8, 12, 3), "float32"), np.zeros(2, "int32")
    labels, vector = np.zeros(2, "int32"), np.zeros((2, 4), "float32")
    context = np.zeros((2, 7, 6), "float32")
    plain, known = make(), make(num_classes=3)
    texts, projected = make(context_dim=6), make(vector_dim=4)
    for model, values, message in [
        (plain, (x[:, :7], t), "x must have sides divisible by 2.*halves them 1 time"),
        (plain, (x[..., :1], t), r"x must have the shape \(B, H, W, 3\)"),
        (plain, (x[0], t), "x must have the shape"),
        (plain, (x, t[:, None]), "t must be a number or have the shape"),
        (plain, (x, t, labels), "takes no labels.*num_classes is None"),
        (plain, (x, t, None, context), "takes no context.*context_dim is None"),
        (plain, (x, t, None, None, vector), "takes no vector"),
        (known, (x, t), "has num_classes=3.*labels=labels.*3 for no label"),
        (texts, (x, t), r"has context_dim=6.*\(B, S, 6\)"),
        (texts, (x, t, None, context[..., :5]), r"shape \(B, S, 6\); got"),
        (texts, (x, t, None, context[0]), "context must have the shape"),
        (projected, (x, t), "has vector_dim=4"),
        (projected, (x, t, None, None, vector[:, :3]), r"\(B, 4\); got \(2, 3\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            model(*values)
