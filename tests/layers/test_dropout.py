"""Dropout: the share, the scale, fresh masks, the same on every backend."""

import hashlib

import numpy as np
import pytest
from keras import ops

from keras_genai.layers import Dropout


def call(layer, shape=(400, 50), training=True):
    return ops.convert_to_numpy(layer(np.ones(shape, "float32"), training=training))


def test_the_share_dropped_and_the_scale_kept():
    y = call(Dropout(0.3))
    assert abs((y == 0).mean() - 0.3) < 0.01
    np.testing.assert_allclose(y[y != 0], 1 / 0.7, rtol=1e-6)


def test_masks_are_fresh_for_each_call_seed_and_stream():
    layer = Dropout(0.5, seed=1, stream="a")
    first, second = call(layer), call(layer)
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.03
    np.testing.assert_array_equal(first, call(Dropout(0.5, seed=1, stream="a")))
    for other in (Dropout(0.5, seed=2, stream="a"), Dropout(0.5, seed=1, stream="b")):
        assert abs(np.corrcoef(first.ravel(), call(other).ravel())[0, 1]) < 0.03


def test_the_mask_is_the_same_on_every_backend():
    mask = call(Dropout(0.5, seed=1, stream="a"), (8, 16)) > 0
    assert hashlib.sha256(mask.tobytes()).hexdigest()[:16] == "501b25266ad3b5ed"


def test_nothing_is_dropped_in_inference():
    layer = Dropout(0.9)
    np.testing.assert_array_equal(call(layer, training=False), np.ones((400, 50)))
    assert ops.convert_to_numpy(layer.noise.step) == 0


@pytest.mark.parametrize("rate", [1.0, -0.1, True])
def test_a_rate_out_of_range_is_refused(rate):
    with pytest.raises(ValueError, match="rate"):
        Dropout(rate)


def test_configuration_round_trip():
    layer = Dropout(0.2, seed=3, stream="x")
    assert Dropout.from_config(layer.get_config()).get_config() == layer.get_config()
