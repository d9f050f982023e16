"""Positional encodings: learned, sinusoidal, rotary and linear biases."""

import keras
import numpy as np
from keras import ops

from keras_genai.backend.precision import widen
from keras_genai.layers.composite import CompositeLayer
from keras_genai.layers.embedding import check_ids
from keras_genai.layers.initializers import Normal
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_positive
from keras_genai.utils.memory import check_weight
from keras_genai.utils.serialization import PACKAGE
from keras_genai.utils.validation import number, text

KINDS = ("learned", "sinusoidal", "sinusoidal_halves")


def sinusoidal_positions(length, dim, interleaved=True):
    """Sines and cosines at geometrically falling frequencies (1706.03762, 3.5).

    Args:
        length: number of positions.
        dim: even number of channels.
        interleaved: channels 2i and 2i + 1 are the sine and the cosine of the
            frequency `10000 ** (-2i / dim)`, as in the paper; False puts all sines
            before all cosines, as Marian does.

    Returns:
        float32 array `(length, dim)`.
    """
    check_positive("length", length)
    check_even("dim", dim)
    check_weight((length, dim))
    frequencies = 10_000.0 ** (-np.arange(0, dim, 2) / dim)
    angles = np.arange(length)[:, None] * frequencies  # (length, dim / 2)
    parts = [np.sin(angles), np.cos(angles)]
    if interleaved:
        return np.stack(parts, -1).reshape(length, dim).astype("float32")
    return np.concatenate(parts, -1).astype("float32")


def sinusoidal_grid(height, width, dim):
    """Fixed sines and cosines of the column, then of the row, of each position.

    Each takes half of the channels, first its sines, then its cosines, at the
    frequencies `10000 ** (-4 i / dim)` (1706.03762, section 3.5, in two dimensions).

    Args:
        height: rows of the grid.
        width: its columns.
        dim: number of channels, divisible by 4.

    Returns:
        float32 array `(height * width, dim)`.
    """
    check_weight((height, width, dim))
    frequencies = 10_000.0 ** (-np.arange(dim // 4) / (dim / 4))
    rows, columns = np.mgrid[:height, :width].reshape(2, -1, 1) * frequencies
    parts = [np.sin(columns), np.cos(columns), np.sin(rows), np.cos(rows)]
    return np.concatenate(parts, axis=-1).astype("float32")


@keras.saving.register_keras_serializable(PACKAGE)
class PositionEmbedding(CompositeLayer):
    """A vector for each position, to be added to the tokens'.

    Args:
        length: number of positions.
        dim: number of channels.
        kind: `"learned"`; `"sinusoidal"` (1706.03762, section 3.5), or
            `"sinusoidal_halves"`, sines before cosines: see `sinusoidal_positions`.
        initial_std: standard deviation of learned vectors at the beginning.
        seed: integer, the model's.
        stream: name of its weights: layers of one model take different names.

    Example:

    ```python
    x = x + PositionEmbedding(1024, 768)(ops.arange(128))        # (T,) -> (T, 768)
    ```
    """

    @checked(kind=text)
    def __init__(self, length, dim, kind="learned", initial_std=0.02, **kwargs):
        super().__init__(**kwargs)
        check_positive("length", length)
        check_positive("dim", dim)
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}.")
        self.length = length
        self.dim = dim
        self.kind = kind
        self.initial_std = initial_std
        if kind == "learned":
            initial = Normal(initial_std, seed=self.seed, stream=self.stream)
            self.embeddings = self.add_weight(
                name="embeddings", shape=(length, dim), initializer=initial
            )
        else:
            interleaved = kind == "sinusoidal"
            self.embeddings = sinusoidal_positions(length, dim, interleaved)
        self.built = True

    def call(self, positions):
        check_ids("Positions", positions, self.length)
        table = ops.convert_to_tensor(self.embeddings, dtype=self.compute_dtype)
        return ops.take(table, ops.cast(positions, "int32"), axis=0)  # (..., T, dim)

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.dim)


# Rotary (2104.09864)


SCALINGS = {
    "linear": ("factor",),
    "llama3": (
        "factor",
        "low_freq_factor",
        "high_freq_factor",
        "original_max_position_embeddings",
    ),
}


def check_scaling(scaling, name="rope_scaling"):
    """Refuses what `rotary_frequencies` does not know.

    Args:
        scaling: None, or a dict as transformers' configurations have it: `rope_type`
            and the numbers that belong to it, see `SCALINGS`.
        name: of the argument.
    """
    if scaling is None:
        return
    kind = scaling.get("rope_type") if isinstance(scaling, dict) else None
    names = SCALINGS.get(kind)
    if names is None or set(scaling) != {"rope_type", *names}:
        forms = "; ".join(f"{k!r} with {', '.join(v)}" for k, v in SCALINGS.items())
        raise ValueError(
            f"{name} must be None or a dict of a rope_type: {forms}; got {scaling!r}."
        )
    for key in names:
        number("> 0")(f"{name}[{key!r}]", scaling[key])
    if scaling.get("low_freq_factor", 0) >= scaling.get("high_freq_factor", 1):
        raise ValueError(
            f"The low_freq_factor of {name} must be under high_freq_factor; got "
            f"{scaling!r}."
        )


def rotary_frequencies(dim, theta=10_000.0, scaling=None):
    """How far pair i turns from one token to the next, float32 `(dim / 2,)`.

    Args:
        dim, theta: see `rotary_angles`.
        scaling: for texts longer than those of the training: None; `"linear"` turns
            all by a `factor` more slowly (2306.15595); `"llama3"` those whose turn is
            longer than `original_max_position_embeddings / low_freq_factor`, none that
            are shorter than the same over `high_freq_factor`, and those between by a
            share (2407.21783).
    """
    # In float32, as the published networks do.
    exponents = np.arange(0, dim, 2, dtype="float32") / np.float32(dim)
    plain = (np.float32(1.0) / np.float32(theta) ** exponents).astype("float32")
    if scaling is None:
        return plain
    slow = plain / np.float32(scaling["factor"])
    if scaling["rope_type"] == "linear":
        return slow
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * plain / (2.0 * np.pi)
    share = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return ((1.0 - share) * slow + share * plain).astype("float32")


def rotary_angles(positions, dim, theta=10_000.0, axes=1, scaling=None):
    """The cosines and sines by which `rotate` turns pairs of channels.

    Pair i turns by `position * theta ** (-2i / dim)` (2104.09864, equation 15). In two
    dimensions the first half of the pairs turns by the row and the second by the
    column, each at the frequencies of `dim / 2`.

    Args:
        positions: integers `(T,)` or `(B, T)`; with two axes `(T, 2)` or `(B, T, 2)`.
        dim: how many channels turn: a multiple of `2 axes`.
        theta: base of the frequencies.
        axes: 1 for sequences, 2 for images.
        scaling: see `rotary_frequencies`.

    Returns:
        `(cosines, sines)`, float32 `(T, 1, dim / 2)` or `(B, T, 1, dim / 2)`.
    """
    frequencies = rotary_frequencies(dim // axes, theta, scaling)
    positions = ops.cast(positions, "float32")
    frequencies = ops.convert_to_tensor(frequencies)
    angles = ops.expand_dims(positions, -1) * frequencies  # with two axes (..., 2, n)
    if axes == 2:
        shape = ops.shape(positions)
        angles = ops.reshape(angles, (*shape[:-1], dim // 2))
    angles = ops.expand_dims(angles, -2)
    return ops.cos(angles), ops.sin(angles)


def rotate(x, cosines, sines):
    """Turns channels i and i + n/2 of the first n of each head, as one pair.

    Args:
        x: `(B, T, N, d)`.
        cosines, sines: `(T, 1, n / 2)` or `(B, T, 1, n / 2)`, n at most d; the other
            channels stay.

    Returns:
        Tensor like `x`.
    """
    half = cosines.shape[-1]
    wide = widen(x)
    cosines, sines = (ops.cast(y, wide.dtype) for y in (cosines, sines))
    a, b = wide[..., :half], wide[..., half : 2 * half]
    parts = [a * cosines - b * sines, b * cosines + a * sines]
    if 2 * half < x.shape[-1]:
        parts.append(wide[..., 2 * half :])
    return ops.cast(ops.concatenate(parts, axis=-1), x.dtype)


# ALiBi (2108.12409)


def alibi_slopes(num_heads):
    """The slope of each head: how fast what is far away counts less.

    `2 ** (-8 i / n)` for i = 1 to n heads, n a power of two; for other numbers those of
    the power below, then every other one of the power above (the authors' code).

    Returns:
        float32 array `(num_heads,)`.
    """
    check_positive("num_heads", num_heads)
    below = 2 ** (num_heads.bit_length() - 1)
    slopes = 2.0 ** (-8.0 * np.arange(1, below + 1) / below)
    more = 2.0 ** (-8.0 * np.arange(1, 2 * below + 1, 2) / (2 * below))
    return np.concatenate([slopes, more[: num_heads - below]]).astype("float32")


def check_even(name, value, divisor=2):
    """Refuses a number of channels that does not divide into pairs."""
    check_positive(name, value)
    if value % divisor:
        raise ValueError(f"{name} must be divisible by {divisor}; got {value}.")
