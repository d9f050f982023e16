"""The transformer of an image's positions: in plain NumPy, and as layers.

Against diffusers' own, with all derivatives: tests/diffusion/test_unet.py.
"""

import math

import keras
import numpy as np
import pytest
from keras import ops

from keras_genai import layers

GATED = {"intermediate_dim": 12, "activation": "geglu", "fused_gate": True}
LAYERS = {
    "Attention": {"num_heads": 2, "upcast_attention": True},
    "FeedForward": GATED,
    "TransformerBlock": {
        "num_heads": 2,
        "intermediate_dim": 16,
        "activation": "geglu",
        "cross": True,
        "attention": {"use_bias": False},
        "fused_gate": True,
    },
    "CrossAttention2D": {"num_heads": 2, "num_layers": 2, "groups": 2},
}


def host(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def given(name):
    """The inputs of a layer: positions or an image, and a context."""
    x = noise(2, 3, 2, 4) if name == "CrossAttention2D" else noise(2, 6, 4)
    return [x] if name == "FeedForward" else [x, noise(2, 5, 3)]


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_of_its_kind(name, tmp_path):
    arrays = given(name)
    kind = getattr(layers, name)
    layer = kind(**LAYERS[name], seed=3, stream="here", name="layer")
    inputs = [
        keras.Input((*[None] * (a.ndim - 2), a.shape[-1]), dtype="float32")
        for a in arrays
    ]
    model = keras.Model(inputs, layer(*inputs))
    y = host(model(arrays))
    assert y.shape == arrays[0].shape
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(host(again(arrays)), y)
    same, other = (
        kind(**LAYERS[name], seed=3, stream=stream) for stream in ("here", "there")
    )
    np.testing.assert_array_equal(host(same(*arrays)), y)
    assert not np.allclose(host(other(*arrays)), y)
    half = kind(**LAYERS[name], seed=3, stream="here", dtype="mixed_float16")
    made = half(*arrays)
    assert keras.backend.standardize_dtype(made.dtype) == "float16"
    np.testing.assert_allclose(host(made), y, atol=2e-2)


@pytest.mark.parametrize("crossed", [False, True])
def test_attention_in_plain_numpy(crossed):
    layer = layers.Attention(num_heads=2)
    x, context = given("Attention")
    y = host(layer(x, context) if crossed else layer(x))
    source = context if crossed else x
    weights = {
        n: host(getattr(layer, n).kernel.value) for n in ("query", "key", "value")
    }
    query, key, value = (
        (a @ weights[n]).reshape(2, -1, 2, 2)
        for n, a in (("query", x), ("key", source), ("value", source))
    )
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(2.0)
    share = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    mixed = np.einsum("bhqk,bkhd->bqhd", share, value).reshape(2, 6, 4)
    np.testing.assert_allclose(y, mixed @ host(layer.out.kernel.value), atol=1e-5)
    assert layer.query.bias is None and layer.out.bias is not None


def test_the_gated_feed_forward_in_plain_numpy():
    layer = layers.FeedForward(**GATED)
    (x,) = given("FeedForward")
    y = host(layer(x))
    a, gate = np.split(x @ host(layer.dense1.kernel.value), 2, axis=-1)
    gelu = gate * (0.5 + 0.5 * np.vectorize(math.erf)(gate / np.sqrt(2.0)))
    wanted = (a * gelu) @ host(layer.dense2.kernel.value)
    np.testing.assert_allclose(y, wanted, atol=1e-5)


def test_it_begins_as_its_shortcut():
    x, context = given("CrossAttention2D")
    block = layers.CrossAttention2D(groups=2, zero_out=True)
    np.testing.assert_array_equal(host(block(x, context)), x)


def test_errors():
    x, context = given("Attention")
    with pytest.raises(ValueError, match="3 does not divide 4"):
        layers.Attention(3)(x)
    with pytest.raises(ValueError, match="heads must be"):
        layers.CrossAttention2D(0)
    with pytest.raises(ValueError, match="num_layers must be"):
        layers.CrossAttention2D(num_layers=0)
    with pytest.raises(ValueError, match="fused_gate=True needs a gate"):
        layers.FeedForward(12, "gelu", fused_gate=True)
