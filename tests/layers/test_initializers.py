"""Initial weights: their distribution, and the same bits everywhere."""

import hashlib

import keras
import numpy as np
import pytest
from keras import ops

from keras_genai.layers.initializers import Normal, VarianceScaling


def draw(initializer, shape):
    return ops.convert_to_numpy(initializer(shape))


def test_normal_has_its_moments_and_follows_seed_and_stream():
    values = draw(Normal(0.02, mean=1.0, seed=3, stream="a"), (200, 300))
    assert abs(values.mean() - 1.0) < 5e-4
    assert abs(values.std() - 0.02) < 5e-4
    same = draw(Normal(0.02, mean=1.0, seed=3, stream="a"), (200, 300))
    np.testing.assert_array_equal(values, same)
    for other in (Normal(0.02, 1.0, 4, "a"), Normal(0.02, 1.0, 3, "b")):
        assert abs(
            np.corrcoef(values.ravel(), draw(other, (200, 300)).ravel())[0, 1]
        ) < (0.02)


@pytest.mark.parametrize("distribution", ["normal", "truncated_normal", "uniform"])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
def test_variance_scaling_has_the_variance(distribution, mode):
    values = draw(VarianceScaling(2.0, mode, distribution, stream="k"), (3, 3, 32, 64))
    fan = {"fan_in": 288, "fan_out": 576, "fan_avg": 432}[mode]
    np.testing.assert_allclose(values.var(), 2.0 / fan, rtol=0.05)


def test_the_bits_are_the_same_on_every_backend():
    values = draw(Normal(0.02, seed=1, stream="kernel"), (4, 4, 8, 8))
    digest = hashlib.sha256(values.astype("<f4").tobytes()).hexdigest()[:16]
    assert digest == "b7682662c29f8806"


def test_configuration_round_trip():
    for initializer in (
        Normal(0.1, mean=0.5, seed=2, stream="x"),
        VarianceScaling(2.0, "fan_in", "normal", seed=2, stream="x"),
    ):
        copy = keras.initializers.deserialize(keras.initializers.serialize(initializer))
        np.testing.assert_array_equal(draw(initializer, (5, 4)), draw(copy, (5, 4)))


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="scale must be a finite number over 0"):
        VarianceScaling(0.0)
    with pytest.raises(ValueError, match="fan_sum"):
        VarianceScaling(1.0, "fan_sum")
