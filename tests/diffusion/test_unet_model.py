"""UNet as a Keras model: what it begins with, how it is saved, what it refuses."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_genai import backend
from tests.support.tiny_unet import inputs, make

pytestmark = pytest.mark.in_turn

PLAIN = {"block_channels": (4, 4), "groups": 2, "attention": False}


def randomized(**kwargs):
    """A network whose last kernels are not zero, as after some training."""
    model = make(**kwargs)
    rng = np.random.default_rng(1)
    for variable in model.trainable_variables:
        if not np.any(host(variable.value)):
            variable.assign(rng.normal(size=variable.shape, scale=0.1))
    return model


def host(x):
    return backend.to_host(x)


def compiled(model, training=False):
    """Its call as a function of a dict, compiled where the backend compiles."""
    run = backend.jit(lambda v: model(**v, training=training), model.variables)
    return lambda values: host(
        run({k: ops.convert_to_tensor(v) for k, v in values.items()})
    )


def test_it_begins_at_zero_with_the_same_weights_everywhere():
    model, again, other = make(seed=3), make(seed=3), make(seed=4)
    assert not np.any(compiled(model)(inputs(model)))
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
    model = randomized(**PLAIN, mid_attention=False)
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype("float32")
    y = host(model(x, np.array([7, 7], "int32")))
    assert y.shape == x.shape
    for t in (7, 7.0, np.array(7), np.array([7.0, 7.0], "float32")):
        np.testing.assert_allclose(host(model(x, t)), y, atol=1e-5)
    assert not np.allclose(host(model(x, 8)), y, atol=1e-3)


def test_dropout():
    name = "one level, no attention"
    model = randomized(name=name, dropout=0.5)
    values = inputs(model)
    assert sum(v.path.endswith("step") for v in model.non_trainable_variables) == 7
    still = compiled(model)(values)
    np.testing.assert_allclose(
        compiled(randomized(name=name))(values), still, atol=1e-6
    )
    dropped = compiled(model, training=True)(values)
    assert not np.allclose(dropped, still, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        ("heads, classes, scales", "mixed_bfloat16"),
        pytest.param("Stable Diffusion 1", "mixed_float16", marks=pytest.mark.once),
    ],
)
def test_half_precision(name, policy):
    model, half = randomized(name=name), randomized(name=name, dtype=policy)
    values = inputs(model)
    values["t"] = np.array([999.0, 3.0, 998.0], "float32")
    run = compiled(half)
    wanted, y = compiled(model)(values), run(values)
    assert y.dtype == "float32" and half.conv_in.compute_dtype == policy[6:]
    assert np.linalg.norm(y - wanted) <= 0.05 * np.linalg.norm(wanted)
    times = {**values, "t": values["t"] + 1.0}  # 999 is 1000 in bfloat16
    assert not np.array_equal(run(times)[0], y[0])


def test_in_a_graph_of_unknown_sides():
    model = randomized(**PLAIN, num_classes=3)
    x, t = keras.Input((None, None, 3)), keras.Input(())
    labels = keras.Input((), dtype="int32")
    graph = keras.Model([x, t, labels], 2.0 * model(x, t, labels))
    assert graph.output.shape == (None, None, None, 3)
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
        run = backend.jit(lambda *args: graph(list(args)), graph.variables)
    for sides in ((4, 6), (8, 2)):
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
        (
            {"block_channels": (), "attention": ()},
            "block_channels must be a list of integers",
        ),
        ({"block_channels": (8, 16, 16)}, "attention must have one entry .* 3 levels"),
        ({"attention": (False,) * 4}, "attention must have one entry .* 2 levels"),
        ({"num_heads": (1, 1, 1)}, "heads must have one entry"),
        ({"num_heads": 3}, "3 does not divide 16"),
        ({"head_dim": 5}, "5 does not divide 16"),
        ({"num_heads": 2, "head_dim": 4}, "heads or head_dim, not both"),
        ({"num_heads": 0}, "heads must be"),
        ({"image_shape": (7, 8, 3)}, "image_shape must have sides divisible by 2"),
        ({"image_shape": (8, 8)}, "image_shape must be"),
        ({"image_shape": (8, 8, None)}, "image_shape must be"),
        ({"out_channels": 0}, "out_channels must be"),
        ({"layers_per_block": 0}, "layers_per_block must be"),
        ({"num_classes": 0}, "num_classes must be"),
        ({"dropout": 1.0}, "dropout must be"),
        ({"downsample_padding": "same"}, "padding must be"),
        ({"transformer_layers": 0, "context_dim": 4}, "transformer_layers must be"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


@pytest.mark.once
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
        (known, (x, t, vector[:, 0]), "labels must be integers"),
        (known, (x, t, np.eye(2, 3, dtype="int32")), r"labels must be .*\(2, 3\)"),
        (known, (x, t, labels[:1]), "labels must have one entry for each of the 2"),
        (plain, (x, np.zeros(3)), "t must have one entry for each of the 2 images"),
        (texts, (x, t, None, context[:1]), "context must have one entry for each"),
        (texts, (x, t), r"has context_dim=6.*\(B, S, 6\)"),
        (texts, (x, t, None, context[..., :5]), r"shape \(B, S, 6\); got"),
        (texts, (x, t, None, context[0]), "context must have the shape"),
        (projected, (x, t), "has vector_dim=4"),
        (projected, (x, t, None, None, vector[:, :3]), r"\(B, 4\); got \(2, 3\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            model(*values)
