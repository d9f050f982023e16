"""Group normalization against its formula and Keras's, with both derivatives."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_genai import backend
from keras_genai.layers import GroupNormalization


def host(x):
    return ops.convert_to_numpy(x)


def layer_of(shape, groups, **kwargs):
    rng = np.random.default_rng(1)
    layer = GroupNormalization(groups, 1e-3, **kwargs)
    layer.build(shape)
    for variable in layer.variables:
        variable.assign(rng.normal(1.0, 0.5, variable.shape))
    return layer


@pytest.mark.parametrize(
    ("shape", "groups"),
    [((2, 5, 4, 6), 3), ((3, 7, 4), 1), ((4, 6), 2), ((1, 2, 2, 4), 4)],
)
def test_the_formula(shape, groups):
    # Far from 0: the variance is not that of the small difference of large squares.
    x = np.random.default_rng(0).normal(300.0, 2.0, shape).astype("float32")
    layer = layer_of(shape, groups)
    parts = x.astype("float64").reshape(shape[0], -1, groups, shape[-1] // groups)
    mean = parts.mean((1, 3), keepdims=True)
    variance = parts.var((1, 3), keepdims=True)
    wanted = ((parts - mean) / np.sqrt(variance + 1e-3)).reshape(shape)
    wanted = wanted * host(layer.gamma.value) + host(layer.beta.value)
    np.testing.assert_allclose(host(layer(x)), wanted, atol=2e-4)


def test_derivatives_equal_keras():
    shape = (2, 4, 3, 6)
    x = ops.convert_to_tensor(np.random.default_rng(0).normal(size=shape), "float32")
    ours = layer_of(shape, 3)
    theirs = keras.layers.GroupNormalization(3, epsilon=1e-3)
    theirs.build(shape)
    for variable, other in zip(theirs.variables, ours.variables, strict=True):
        variable.assign(other.value)

    def everything(layer):
        def fn(x):
            return ops.sum(ops.sin(layer(x)))

        def penalty():
            return ops.sum(ops.square(backend.gradients(fn, x)))

        _, gradients = backend.value_and_gradients(lambda: fn(x), layer.variables)
        second, twice = backend.value_and_gradients(penalty, layer.variables)
        by_input = backend.gradients(
            lambda x: ops.sum(ops.square(backend.gradients(fn, x))), x
        )
        first = backend.gradients(fn, x)
        return [layer(x), first, *gradients, second, *twice, by_input]

    for got, wanted in zip(everything(ours), everything(theirs), strict=True):
        np.testing.assert_allclose(host(got), host(wanted), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "policy", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"]
)
def test_half_precision_keeps_whole_statistics(policy):
    x = np.array([[300.0, -300.0, 299.0, 0.0]], "float32")  # squares have no float16
    layer = GroupNormalization(1, dtype=policy)
    y = layer(x)
    assert keras.backend.standardize_dtype(y.dtype) == policy.removeprefix("mixed_")
    if policy.startswith("mixed"):
        assert layer.gamma.dtype == "float32"
    wanted = host(GroupNormalization(1)(x))
    np.testing.assert_allclose(host(ops.cast(y, "float32")), wanted, atol=2e-2)


def test_configuration_and_errors():
    layer = GroupNormalization(4, epsilon=1e-5)
    copy = GroupNormalization.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    with pytest.raises(ValueError, match="4 does not divide 6"):
        layer.build((None, 6))
    with pytest.raises(ValueError, match="groups must be an integer"):
        GroupNormalization(0)
    with pytest.raises(ValueError, match="epsilon must be over 0"):
        GroupNormalization(4, epsilon=0.0)
