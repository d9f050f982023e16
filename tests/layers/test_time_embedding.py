"""Embeddings of time, against the formula; against diffusers': tests/diffusion."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_genai import layers


@pytest.mark.parametrize("shift", [0.0, 1.0])
@pytest.mark.parametrize("flip_sin_to_cos", [False, True])
def test_sines_and_cosines(shift, flip_sin_to_cos):
    t = np.array([0, 1, 499, 999], "int32")
    found = layers.sinusoidal_embedding(
        ops.convert_to_tensor(t), 8, flip_sin_to_cos, shift
    )
    angles = t[:, None] * 10_000.0 ** (-np.arange(4) / (4 - shift))
    wanted = [np.sin(angles), np.cos(angles)][:: -1 if flip_sin_to_cos else 1]
    found = ops.convert_to_numpy(found)
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, np.concatenate(wanted, 1), atol=1e-4)


def test_a_time_embedding_is_a_layer(tmp_path):
    t = keras.Input(())
    layer = layers.TimeEmbedding(6, 4, freq_shift=1.0, seed=2, stream="time")
    model = keras.Model(t, layer(t))
    times = np.array([0.0, 3.5, 999.0], "float32")
    y = ops.convert_to_numpy(model(times))
    assert y.shape == (3, 6) and model.output.shape == (None, 6)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(ops.convert_to_numpy(again(times)), y)
    with pytest.raises(ValueError, match="dim must be even"):
        layers.TimeEmbedding(6, 5)


def test_times_stay_exact_in_half_precision():
    exact, half = (
        layers.TimeEmbedding(6, 4, seed=2, dtype=dtype)
        for dtype in ("float32", "mixed_bfloat16")
    )
    times = np.array([999.5, 997.25], "float32")
    y = half(times)
    assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
    wanted = ops.convert_to_numpy(exact(times))
    y = ops.convert_to_numpy(ops.cast(y, "float32"))
    np.testing.assert_allclose(y, wanted, atol=0.02)
