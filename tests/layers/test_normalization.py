"""Batch normalization against Keras's own and, per class, against its formula."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_genai.layers import BatchNormalization, ConditionalBatchNormalization


def host(x):
    return ops.convert_to_numpy(x)


@pytest.mark.parametrize("shape", [(32, 6), (4, 5, 5, 6)])
def test_equals_keras(shape):
    x = np.random.default_rng(0).normal(1.0, 3.0, shape).astype("float32")
    ours = BatchNormalization(momentum=0.8, epsilon=1e-3)
    theirs = keras.layers.BatchNormalization(momentum=0.8, epsilon=1e-3)
    for training in (True, True, False):
        np.testing.assert_allclose(
            host(ours(x, training=training)),
            host(theirs(x, training=training)),
            atol=1e-5,
        )
    for name in ("moving_mean", "moving_variance"):
        np.testing.assert_allclose(
            host(getattr(ours, name)), host(getattr(theirs, name)), rtol=1e-5, atol=1e-6
        )


def test_frozen_or_without_gain_and_offset():
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    layer = BatchNormalization(center=False, scale=False)
    layer.trainable = False
    np.testing.assert_allclose(
        host(layer(x, training=True)), x / np.sqrt(1 + 1e-5), rtol=1e-5
    )
    assert len(layer.variables) == 2


def test_the_gain_and_offset_of_the_class():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 2, 2, 3)).astype("float32")
    labels = np.array([0, 1, 2, 0, 1, 2], "int32")
    layer = ConditionalBatchNormalization(3)
    layer(x, labels)
    gamma, beta = rng.normal(size=(2, 3, 3)).astype("float32")
    layer.gamma.assign(gamma)
    layer.beta.assign(beta)
    y = host(layer(x, labels, training=True))
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    wanted = (x - mean) / np.sqrt(variance + 1e-5)
    wanted = wanted * gamma[labels][:, None, None] + beta[labels][:, None, None]
    np.testing.assert_allclose(y, wanted, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_keeps_whole_statistics(policy):
    layer = BatchNormalization(dtype=policy)
    x = np.full((4, 2), 300.0, "float32")  # its square has no float16
    y = layer(x, training=True)
    assert keras.backend.standardize_dtype(y.dtype) == policy.removeprefix("mixed_")
    assert layer.moving_mean.dtype == "float32"
    np.testing.assert_allclose(host(layer.moving_variance), 0.9, rtol=1e-5)


def test_configuration_round_trip_and_errors():
    layer = ConditionalBatchNormalization(5, momentum=0.5)
    copy = ConditionalBatchNormalization.from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
    with pytest.raises(ValueError, match="momentum"):
        BatchNormalization(momentum=1.0)
