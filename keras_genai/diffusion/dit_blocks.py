"""The layers that a DiT is made of (2212.09748, figure 3)."""

import keras
from keras import ops

from keras_genai import backend
from keras_genai.layers.embedding import Embedding
from keras_genai.layers.image_blocks import Block
from keras_genai.layers.initializers import Normal, VarianceScaling, Zeros
from keras_genai.layers.time_embedding import TimeEmbedding
from keras_genai.layers.transformer import Attention
from keras_genai.utils.checks import check_positive
from keras_genai.utils.serialization import PACKAGE

FREQUENCIES = 256  # channels of the sinusoidal embedding of t
MODULATION_EPSILON = 1e-6  # of the normalizations,
MLP_EPSILON = (
    1e-5  # but for that before the MLP in diffusers (1e-6 in the paper's code)
)


def modulate(x, shift, scale):
    """`x (1 + scale) + shift`, with `(B, 1, D)` for all positions of `(B, T, D)`."""
    return x * (1.0 + scale) + shift


class _Time(TimeEmbedding):
    """The embedding of t with the first weights of the published training."""

    def _initial(self, name, zero=False):
        del zero
        return Normal(0.02, seed=self.seed, stream=f"{self.stream}/{name}")


class _Glorot:
    """The first weights of a block in the published training."""

    def _initial(self, name, zero=False):
        if zero:
            return Zeros()
        # The published query, key and value are one matrix to 3 D channels.
        scale = 0.5 if name in ("query", "key", "value") else 1.0
        return VarianceScaling(scale, seed=self.seed, stream=f"{self.stream}/{name}")


class _Attention(_Glorot, Attention):
    pass


@keras.saving.register_keras_serializable(PACKAGE)
class Condition(Block):
    """`silu(e(t) + e(label))`, what the modulations of a DiT are linear in.

    Args:
        units: D, channels of both embeddings.
        rows: of the labels' table; 0 for none.
        frequency_shift: see `keras_genai.layers.sinusoidal_embedding`.
        seed: integer, the model's.
        stream: name of the place: layers of one model take different names.
    """

    _ARGUMENTS = ("units", "rows", "frequency_shift")

    def __init__(self, units, rows=0, frequency_shift=1.0, **kwargs):
        # Of half precision, 999.5 would not be a time.
        super().__init__(autocast=False, **kwargs)
        self.units = units
        self.rows = rows
        self.frequency_shift = frequency_shift

    def build(self, t_shape, labels_shape=None):
        self.time = _Time(
            self.units,
            FREQUENCIES,
            cosine_first=True,
            frequency_shift=self.frequency_shift,
            **self._place("time"),
        )
        self.time.build(t_shape)
        self.table = None
        if self.rows:
            self.table = Embedding(
                self.rows,
                self.units,
                embeddings_initializer=Normal(
                    0.02, seed=self.seed, stream=f"{self.stream}/labels"
                ),
                dtype=self.dtype_policy,
                name="labels",
                what="Labels",
            )
            self.table.build(labels_shape)
        self.built = True

    def call(self, t, labels=None):
        e = self.time(t)  # (B, D), or (1, D) of one t for all
        return ops.silu(e if self.table is None else e + self.table(labels))

    def compute_output_shape(self, t_shape, labels_shape=None):
        return (*(labels_shape or t_shape), self.units)


@keras.saving.register_keras_serializable(PACKAGE)
class DiTBlock(_Glorot, Block):
    """A transformer block with adaLN-Zero (2212.09748, section 3.2, figure 3).

    Self-attention over the tokens, then an MLP of 4 D, each on normalised tokens that
    the condition scales and shifts, each added times a gate of the condition's. Gates,
    scales and shifts begin at zero: the block begins as the identity.

    Args:
        heads: number of heads; it must divide the channels.
        seed: integer, the model's.
        stream: name of the place: blocks of one model take different names.

    Example:

    ```python
    y = DiTBlock(6)(x, c)                          # (B, T, D), (B, D) -> (B, T, D)
    ```
    """

    _ARGUMENTS = ("heads",)

    def __init__(self, heads, **kwargs):
        super().__init__(**kwargs)
        check_positive("heads", heads)
        self.heads = heads

    def build(self, x_shape, c_shape):
        channels = x_shape[-1]
        self.modulation = self._dense("modulation", 6 * channels, zero=True)
        self.modulation.build(c_shape)
        self.norm1 = normalization("norm1", MODULATION_EPSILON, self.dtype_policy)
        self.norm2 = normalization("norm2", MLP_EPSILON, self.dtype_policy)
        place = {**self._place("attention"), "stream": self.stream}
        self.attention = _Attention(self.heads, use_bias=True, **place)
        self.mlp1 = self._dense("mlp1", 4 * channels)
        self.mlp2 = self._dense("mlp2", channels)
        for layer in (self.norm1, self.norm2, self.attention, self.mlp1):
            layer.build(x_shape)
        self.mlp2.build((*x_shape[:-1], 4 * channels))
        self.built = True

    def call(self, x, c):
        parts = ops.expand_dims(self.modulation(c), 1)  # (B, 1, 6D)
        shift1, scale1, gate1, shift2, scale2, gate2 = ops.split(parts, 6, axis=-1)
        y = gate1 * self.attention(modulate(self.norm1(x), shift1, scale1))
        x = backend.materialized(x + y)
        y = self.mlp1(modulate(self.norm2(x), shift2, scale2))  # (B, T, 4D)
        y = self.mlp2(ops.gelu(y, approximate=True))
        return backend.materialized(x + gate2 * y)

    def compute_output_shape(self, x_shape, c_shape):
        return x_shape


def zero_dense(name, units, policy):
    """A dense layer whose weights begin at zero."""
    return keras.layers.Dense(
        units, kernel_initializer=Zeros(), dtype=policy, name=name
    )


def normalization(name, epsilon, policy):
    """Layer normalization over the channels, with no weights."""
    return keras.layers.LayerNormalization(
        epsilon=epsilon, center=False, scale=False, dtype=policy, name=name
    )
