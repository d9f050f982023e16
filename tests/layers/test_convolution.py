"""The backend's convolutions against Keras's, with first and second derivatives."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_genai import backend, layers


def host(x):
    return ops.convert_to_numpy(x)


class _PaddedBefore(keras.layers.Layer):
    """A layer of Keras after a layer of zeros."""

    def __init__(self, layer, zeros):
        super().__init__()
        self.zeros, self.layer = keras.layers.ZeroPadding2D(zeros), layer

    def build(self, shape):
        self.layer.build(self.zeros.compute_output_shape(shape))

    def call(self, x):
        return self.layer(self.zeros(x))


@pytest.mark.in_turn
@pytest.mark.parametrize(("size", "strides"), [(4, 2), (3, 1), (3, 2), (5, 2), (2, 2)])
@pytest.mark.parametrize(
    ("name", "padding"),
    [
        ("Conv2D", "same"),
        ("Conv2D", "valid"),
        ("Conv2D", 1),
        ("Conv2DTranspose", "same"),
        ("DepthwiseConv2D", "same"),
        ("DepthwiseConv2D", "valid"),
        ("DepthwiseConv2D", 2),
    ],
)
@pytest.mark.parametrize("sides", [(6, 8), (7, 5)])
def test_equals_keras(name, padding, size, strides, sides):
    rng = np.random.default_rng(0)
    x = ops.convert_to_tensor(rng.normal(size=(2, *sides, 3)).astype("float32"))
    depthwise = name == "DepthwiseConv2D"
    width = {"depth_multiplier": 2} if depthwise else {"filters": 4}
    arguments = {**width, "kernel_size": size, "strides": strides}
    arguments |= {"padding": padding, "activation": "tanh"}
    ours = getattr(layers, name)(**arguments)
    same = type(ours).from_config(ours.get_config())
    theirs = getattr(keras.layers, name)
    if isinstance(padding, int):
        theirs = _PaddedBefore(theirs(**arguments | {"padding": "valid"}), padding)
    else:
        theirs = theirs(**arguments)
    for layer in (ours, theirs):
        layer.build(x.shape)
    shape = theirs(x).shape
    for layer in (ours, same):
        assert tuple(layer.compute_output_shape(x.shape)) == tuple(shape)
    for variable, other in zip(ours.variables, theirs.variables, strict=True):
        variable.assign(rng.normal(size=variable.shape))
        other.assign(variable.value)

    def everything(layer):
        def fn(x):
            return ops.sum(ops.square(layer(x)))

        def penalty():
            return ops.sum(ops.square(backend.gradients(fn, x)))

        loss, gradients = backend.value_and_gradients(lambda: fn(x), layer.variables)
        second, twice = backend.value_and_gradients(penalty, layer.variables)
        return [layer(x), backend.gradients(fn, x), loss, *gradients, second, *twice]

    for got, wanted in zip(everything(ours), everything(theirs), strict=True):
        scale = max(1.0, np.abs(host(wanted)).max())
        np.testing.assert_allclose(host(got), host(wanted), atol=2e-5 * scale)


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("use_bias", [True, False])
def test_without_gradients_the_same(channels, use_bias):
    """What is not trained may be computed in another way, and in place."""
    rng = np.random.default_rng(0)
    x = ops.convert_to_tensor(rng.normal(size=(2, 5, 4, 6)).astype("float32"))
    for name in ("Conv2D", "Conv2DTranspose"):
        layer = getattr(layers, name)(
            channels, 4, 2, "same", use_bias=use_bias, activation="relu"
        )
        trained = host(layer(x))
        layer.trainable = False
        with backend.without_gradients():
            found = host(layer(x))
        np.testing.assert_allclose(found, trained, atol=1e-5)
        assert found.min() == 0.0


@pytest.mark.parametrize("name", ["Conv2D", "Conv2DTranspose"])
def test_other_arguments_fall_back_on_keras(name):
    x = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype("float32")
    arguments = {"filters": 2, "kernel_size": 3, "padding": "valid", "use_bias": False}
    arguments["dilation_rate"] = 2
    ours = getattr(layers, name)(**arguments)
    y = host(ours(x))
    theirs = getattr(keras.layers, name)(**arguments)
    theirs.build(x.shape)
    theirs.kernel.assign(ours.kernel.value)
    np.testing.assert_allclose(y, host(theirs(x)), atol=1e-5)
    copy = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(ours)
    )
    assert type(copy) is type(ours) and copy.get_config() == ours.get_config()


@pytest.mark.parametrize("name", ["Conv2D", "Conv2DTranspose"])
def test_half_precision(name):
    layer = getattr(layers, name)(
        2, 4, strides=2, padding="same", dtype="mixed_bfloat16"
    )
    y = layer(np.ones((1, 4, 4, 1), "float32"))
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    assert layer.kernel.dtype == "float32"


@pytest.mark.parametrize("policy", ["float64", "mixed_float16"])
def test_the_gradient_of_a_single_filter(policy):
    # Its kernel is a view that PyTorch's plain convolution does not take.
    layer = layers.Conv2D(1, 3, dtype=policy)
    x = ops.ones((1, 5, 5, 2))
    layer.build(x.shape)
    _, (gradient, _) = backend.value_and_gradients(
        lambda: ops.sum(ops.cast(layer(x), "float32")), layer.variables
    )
    np.testing.assert_allclose(host(gradient), np.full((3, 3, 2, 1), 9.0))
