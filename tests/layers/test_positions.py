"""Positions against the formulas of their papers."""

import numpy as np
import pytest
from keras import ops

from keras_genai.layers import (
    PositionEmbedding,
    alibi_slopes,
    rotary_angles,
    rotate,
    sinusoidal_positions,
)
from keras_genai.layers.positions import check_scaling, rotary_frequencies


def host(x):
    return ops.convert_to_numpy(x)


def test_sinusoidal_positions():
    table = sinusoidal_positions(50, 6)
    for place in (0, 7, 49):
        for i in range(3):
            angle = place / 10_000.0 ** (2 * i / 6)
            wanted = [np.sin(angle), np.cos(angle)]
            np.testing.assert_allclose(table[place, 2 * i : 2 * i + 2], wanted, 1e-6)
    halves = sinusoidal_positions(50, 6, interleaved=False)
    np.testing.assert_array_equal(halves[:, :3], table[:, ::2])
    np.testing.assert_array_equal(halves[:, 3:], table[:, 1::2])
    # A shift is linear in the embedding: the same rotation at every place.
    sine, cosine = np.sin(3.0), np.cos(3.0)
    turn = np.array([[cosine, sine], [-sine, cosine]])
    np.testing.assert_allclose(table[3:, :2], table[:-3, :2] @ turn.T, atol=1e-5)


@pytest.mark.parametrize("kind", ["learned", "sinusoidal", "sinusoidal_halves"])
def test_a_vector_for_each_position(kind):
    layer = PositionEmbedding(9, 4, kind, seed=1, stream="p")
    places = np.array([[0, 3], [8, 3]])
    y = host(layer(places))
    assert y.shape == (2, 2, 4) and len(layer.weights) == (kind == "learned")
    np.testing.assert_array_equal(y[0, 1], y[1, 1])
    again = PositionEmbedding.from_config(layer.get_config())
    np.testing.assert_array_equal(host(again(places)), y)
    if kind == "sinusoidal":
        np.testing.assert_array_equal(y, sinusoidal_positions(9, 4)[places])


def test_rotary_turns_pairs_by_their_angle():
    x = np.random.default_rng(0).normal(size=(2, 5, 3, 8)).astype("float32")
    places = np.array([0, 1, 2, 50, 1000])
    for dim in (8, 4):
        y = host(rotate(x, *rotary_angles(places, dim, 500.0)))
        half = dim // 2
        angles = places[:, None] * 500.0 ** (-np.arange(half) / half)
        z = (x[..., :half] + 1j * x[..., half:dim]) * np.exp(1j * angles)[:, None]
        wanted = np.concatenate([z.real, z.imag, x[..., dim:]], -1)
        np.testing.assert_allclose(y, wanted, atol=2e-4)
    np.testing.assert_array_equal(y[:, 0], x[:, 0])


def test_rotary_by_row_and_column():
    grid = np.array([[[2, 0], [0, 3]]])
    cosines, sines = map(host, rotary_angles(grid, 8, 100.0, axes=2))
    assert cosines.shape == (1, 2, 1, 4)
    angles = [[2.0, 0.2, 0.0, 0.0], [0.0, 0.0, 3.0, 0.3]]
    np.testing.assert_allclose(cosines[0, :, 0], np.cos(angles), atol=1e-6)
    np.testing.assert_allclose(sines[0, :, 0], np.sin(angles), atol=1e-6)


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize("scaling", [{"rope_type": "linear", "factor": 4.0}, LLAMA3])
def test_scaled_frequencies_are_transformers_own(scaling):
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = transformers.LlamaConfig(
        hidden_size=256,
        num_attention_heads=2,
        rope_parameters={**scaling, "rope_theta": 5e5},
    )
    wanted, times = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, "cpu")
    assert times == 1.0
    found = rotary_frequencies(128, 5e5, scaling)
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-5)
    cosines, sines = rotary_angles(np.array([3]), 128, 5e5, scaling=scaling)
    np.testing.assert_allclose(host(cosines)[0, 0], np.cos(3 * found), atol=1e-6)
    np.testing.assert_allclose(host(sines)[0, 0], np.sin(3 * found), atol=1e-6)


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "yarn", "factor": 2.0},
        {"rope_type": "linear"},
        {"rope_type": "linear", "factor": 0.0},
        {**LLAMA3, "low_freq_factor": 4.0},
        {"factor": 2.0},
        "linear",
    ],
)
def test_scalings_that_are_none(scaling):
    with pytest.raises(ValueError, match="rope_scaling"):
        check_scaling(scaling)


def test_slopes():
    np.testing.assert_allclose(alibi_slopes(8), 0.5 ** np.arange(1, 9))
    np.testing.assert_allclose(alibi_slopes(1), [2.0**-8])
    np.testing.assert_allclose(
        alibi_slopes(6), [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3]
    )


def test_errors():
    with pytest.raises(ValueError, match="kind must be"):
        PositionEmbedding(4, 4, "none")
    with pytest.raises(ValueError, match="dim must be divisible by 2"):
        PositionEmbedding(4, 3, "sinusoidal")
    with pytest.raises(ValueError, match="length must be"):
        PositionEmbedding(0, 4)
    with pytest.raises(ValueError, match="heads must be"):
        alibi_slopes(0)
