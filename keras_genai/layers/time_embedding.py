"""Embeddings of a diffusion model's time."""

import math

import keras
import numpy as np
from keras import ops

from keras_genai.layers.composite import CompositeLayer
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_positive
from keras_genai.utils.serialization import PACKAGE
from keras_genai.utils.validation import number


def sinusoidal_embedding(
    t, dim, flip_sin_to_cos=False, freq_shift=0.0, max_period=10_000.0
):
    """Sines and cosines of t at geometrically falling frequencies (1706.03762, 3.5).

    The frequencies are `max_period ** (-i / (dim / 2 - freq_shift))`.

    Args:
        t: times `(B,)`, of integers or floats.
        dim: even number of the embedding's channels.
        flip_sin_to_cos: the cosines come before the sines.
        freq_shift: 1 makes the last frequency `1 / max_period`, as in
            1706.03762's own code and in 2006.11239; 0 is 2112.10752's.
        max_period: the longest wavelength over 2 pi.

    Returns:
        float32 tensor `(B, dim)`.
    """
    half = dim // 2
    # In float32 as the published networks do: at t = 999 its rounding shows.
    exponents = -math.log(max_period) * np.arange(half, dtype="float32")
    exponents = exponents / np.float32(half - freq_shift)
    frequencies = ops.convert_to_tensor(np.exp(exponents.astype("float32")))
    angles = ops.expand_dims(ops.cast(t, "float32"), -1) * frequencies  # (B, dim / 2)
    parts = [ops.sin(angles), ops.cos(angles)]
    return ops.concatenate(parts[::-1] if flip_sin_to_cos else parts, axis=-1)


@keras.saving.register_keras_serializable(PACKAGE)
class TimeEmbedding(CompositeLayer):
    """`W_2 silu(W_1 s(t))`, s the sinusoidal embedding (2006.11239, appendix B).

    Args:
        units: channels of both dense layers.
        dim: even, channels of the sinusoidal embedding.
        flip_sin_to_cos, freq_shift: see `sinusoidal_embedding`.
        seed: integer, the model's.
        stream: name of its weights: layers of one model take different names.

    Example:

    ```python
    e = TimeEmbedding(512, 128)(t)                          # (B,) -> (B, 512)
    ```
    """

    @checked(freq_shift=number())
    def __init__(self, units, dim, flip_sin_to_cos=False, freq_shift=0.0, **kwargs):
        # In half precision 999 is 1000: the times come as they are given.
        super().__init__(**{"autocast": False, **kwargs})
        check_positive("units", units)
        check_positive("dim", dim)
        if dim % 2:
            raise ValueError(f"dim must be even, half sines, half cosines; got {dim}.")
        self.units = units
        self.dim = dim
        self.flip_sin_to_cos = flip_sin_to_cos
        self.freq_shift = freq_shift

    def build(self, input_shape):
        self.dense1 = self._dense("dense1", self.units)
        self.dense2 = self._dense("dense2", self.units)
        self.dense1.build((None, self.dim))
        self.dense2.build((None, self.units))
        self.built = True

    def call(self, t):
        y = sinusoidal_embedding(t, self.dim, self.flip_sin_to_cos, self.freq_shift)
        y = ops.cast(y, self.compute_dtype)
        return self.dense2(ops.silu(self.dense1(y)))

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.units)
