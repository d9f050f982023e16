"""The blocks of image networks: against plain NumPy or Keras, and as layers.

Against diffusers' own, with all derivatives: tests/vaes/test_autoencoder_kl.py.
"""

import keras
import numpy as np
import pytest
from keras import ops

from keras_genai import layers

BLOCKS = {
    "ResNetBlock": {"filters": 6, "groups": 2, "dropout": 0.1},
    "SelfAttention2D": {"num_heads": 2, "groups": 2},
    "Downsample2D": {"filters": 6},
    "Upsample2D": {},
}


def host(x):
    return ops.convert_to_numpy(x)


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_is_a_layer(name, tmp_path):
    block = getattr(layers, name)(**BLOCKS[name], seed=3, stream="here", name="block")
    image = keras.Input((None, None, 4))
    model = keras.Model(image, block(image))
    x = noise(2, 6, 8, 4)
    y = host(model(x))
    assert model.compute_output_shape(x.shape) == y.shape
    assert tuple(model.output.shape[1:3]) == (None, None)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(host(again(x)), y)
    same, other = (
        keras.Sequential([getattr(layers, name)(**BLOCKS[name], seed=3, stream=stream)])
        for stream in ("here", "there")
    )
    np.testing.assert_array_equal(host(same(x)), y)
    assert not np.allclose(host(other(x)), y)


def test_the_embedding_shifts_every_position():
    block = layers.ResNetBlock(4, groups=2)
    x, embedding = noise(2, 3, 5, 4), noise(2, 7)
    first = host(block(x, embedding))
    assert block.shortcut is None
    block.embed.kernel.assign(ops.zeros((7, 4)))
    plain = layers.ResNetBlock(4, groups=2)
    plain.build(x.shape)
    for name in ("norm1", "conv1", "norm2", "conv2"):
        getattr(plain, name).set_weights(getattr(block, name).get_weights())
    np.testing.assert_allclose(host(block(x, embedding)), host(plain(x)), atol=1e-6)
    assert not np.allclose(host(block(x, embedding)), first)


def test_the_embedding_scales_and_shifts():
    block = layers.ResNetBlock(4, groups=2, scale_shift=True)
    x, embedding = noise(2, 3, 5, 4), noise(2, 7)
    y = host(block(x, embedding))
    assert block.embed.kernel.shape == (7, 8)
    hidden = host(block.norm2(block.conv1(ops.silu(block.norm1(x)))))
    silu = embedding / (1.0 + np.exp(-embedding))
    scale, shift = np.split(
        (silu @ host(block.embed.kernel.value))[:, None, None], 2, 3
    )
    hidden = ops.convert_to_tensor(hidden * (1.0 + scale) + shift)
    wanted = x + host(block.conv2(ops.silu(hidden)))
    np.testing.assert_allclose(y, wanted, atol=1e-5)


def test_a_block_drops_before_its_second_convolution():
    block = layers.ResNetBlock(4, groups=2, dropout=0.5, stream="here")
    x = noise(2, 3, 5, 4)
    still = host(block(x))
    np.testing.assert_array_equal(host(block(x, training=False)), still)
    hidden = ops.silu(block.norm2(block.conv1(ops.silu(block.norm1(x)))))
    drop = layers.Dropout(0.5, stream="here/dropout")
    wanted = x + host(block.conv2(drop(hidden, training=True)))
    np.testing.assert_allclose(host(block(x, training=True)), wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["ResNetBlock", "SelfAttention2D"])
def test_a_block_that_begins_as_its_shortcut(name):
    arguments = {**BLOCKS[name], **({"filters": 4} if name == "ResNetBlock" else {})}
    x = noise(2, 3, 5, 4)
    block = getattr(layers, name)(**arguments, zero_out=True)
    np.testing.assert_array_equal(host(block(x)), x)
    assert getattr(layers, name).from_config(block.get_config()).zero_out
    assert not np.allclose(host(getattr(layers, name)(**arguments)(x)), x)


def test_attention_in_plain_numpy():
    block = layers.SelfAttention2D(num_heads=2, groups=2)
    x = noise(2, 3, 2, 4)
    y = host(block(x))
    positions = host(block.norm(x)).reshape(2, 6, 4)
    query, key, value = (
        (positions @ host(layer.kernel.value)).reshape(2, 6, 2, 2)
        for layer in (block.query, block.key, block.value)
    )
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(2.0)
    share = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    mixed = np.einsum("bhqk,bkhd->bqhd", share, value).reshape(2, 6, 4)
    wanted = x + (mixed @ host(block.out.kernel.value)).reshape(x.shape)
    np.testing.assert_allclose(y, wanted, atol=1e-5)


def test_attention_in_half_precision():
    x = noise(2, 3, 2, 4)
    block = layers.SelfAttention2D(groups=2, seed=1, dtype="mixed_float16")
    y = block(x)
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    wanted = layers.SelfAttention2D(groups=2, seed=1)(x)
    np.testing.assert_allclose(host(y), host(wanted), atol=1e-2)


def test_upsampling_repeats_pixels():
    block = layers.Upsample2D(filters=3)
    x = noise(2, 3, 4, 2)
    y = host(block(x))
    plain = keras.layers.Conv2D(3, 3, padding="same")
    plain.build((None, None, None, 2))
    plain.set_weights(block.get_weights())
    wanted = host(plain(x.repeat(2, axis=1).repeat(2, axis=2)))
    np.testing.assert_allclose(y, wanted, atol=1e-5)


@pytest.mark.parametrize(("padding", "zeros"), [("after", (0, 1)), ("before", (1, 0))])
def test_downsampling_pads_after_or_before(padding, zeros):
    block = layers.Downsample2D(padding=padding)
    x = noise(1, 4, 6, 2)
    y = host(block(x))
    plain = keras.layers.Conv2D(2, 3, strides=2)
    plain.build((None, None, None, 2))
    plain.set_weights(block.get_weights())
    padded = np.pad(x, ((0, 0), zeros, zeros, (0, 0)))
    np.testing.assert_allclose(y, host(plain(padded)), atol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match="3 does not divide 4"):
        layers.SelfAttention2D(num_heads=3, groups=2)(noise(1, 2, 2, 4))
    with pytest.raises(ValueError, match="halves even sides alone"):
        layers.Downsample2D()(noise(1, 5, 4, 2))
    with pytest.raises(ValueError, match='"after" or "before"'):
        layers.Downsample2D(padding="same")
    with pytest.raises(ValueError, match="scale_shift needs a vector"):
        layers.ResNetBlock(4, groups=2, scale_shift=True)(noise(1, 2, 2, 4))
    with pytest.raises(ValueError, match="dropout must be"):
        layers.ResNetBlock(4, dropout=-0.1)
    with pytest.raises(ValueError, match="filters must be"):
        layers.ResNetBlock(0)
