"""DiT: a diffusion model's network as a transformer over patches (2212.09748)."""

import functools

import keras
from keras import ops

from keras_genai import backend
from keras_genai.backend import random
from keras_genai.layers.attention import Attention
from keras_genai.layers.composite import CompositeLayer
from keras_genai.layers.initializers import Normal, VarianceScaling, Zeros
from keras_genai.layers.patches import patchify, unpatchify
from keras_genai.layers.positions import sinusoidal_grid
from keras_genai.layers.time_embedding import TimeEmbedding
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_image_shape, check_positive, patched_row
from keras_genai.utils.serialization import PACKAGE, Saving, configuration, deserialized
from keras_genai.utils.validation import number, text
from keras_genai.weights.pretrained import Pretrained

# Table 1: depth, hidden channels, heads.
SIZES = {
    "S": (12, 384, 6),
    "B": (12, 768, 12),
    "L": (24, 1024, 16),
    "XL": (28, 1152, 16),
}
PATCHES = (2, 4, 8)


FREQUENCIES = 256  # channels of the sinusoidal embedding of t
MODULATION_EPSILON = 1e-6  # of the normalizations
MLP_EPSILON = 1e-5  # of that before the MLP, as in diffusers; 1e-6 in the paper's code


def modulate(x, shift, scale):
    """`x (1 + scale) + shift`, with `(B, 1, D)` for all positions of `(B, T, D)`."""
    return x * (1.0 + scale) + shift


# The initial weights of the published training
_NORMAL = functools.partial(Normal, 0.02)


def _glorot(seed, stream):
    """Glorot's; the published query, key and value are one matrix to 3 D channels."""
    scale = 0.5 if stream.endswith(("/query", "/key", "/value")) else 1.0
    return VarianceScaling(scale, seed=seed, stream=stream)


def _plain_norm(name, epsilon, policy):
    """Layer normalization over the channels, with no weights."""
    return keras.layers.LayerNormalization(
        epsilon=epsilon, center=False, scale=False, dtype=policy, name=name
    )


@keras.saving.register_keras_serializable(PACKAGE)
class Condition(CompositeLayer):
    """`silu(e(t) + e(label))`, what the modulations of a DiT are linear in.

    Args:
        units: D, channels of both embeddings.
        rows: of the labels' table; 0 for none.
        freq_shift: see `keras_genai.layers.sinusoidal_embedding`.
        seed: integer, the model's.
        stream: name of its weights: layers of one model take different names.
    """

    def __init__(self, units, rows=0, freq_shift=1.0, **kwargs):
        # Of half precision, 999.5 would not be a time.
        super().__init__(initializer=_NORMAL, autocast=False, **kwargs)
        self.units = units
        self.rows = rows
        self.freq_shift = freq_shift

    def build(self, t_shape, labels_shape=None):
        self.time = TimeEmbedding(
            self.units,
            FREQUENCIES,
            flip_sin_to_cos=True,
            freq_shift=self.freq_shift,
            initializer=_NORMAL,
            **self._place("time"),
        )
        self.time.build(t_shape)
        self.table = None
        if self.rows:
            self.table = self._table("labels", self.rows, self.units, "Labels")
        self.built = True

    def call(self, t, labels=None):
        e = self.time(t)  # (B, D), or (1, D) of one t for all
        return ops.silu(e if self.table is None else e + self.table(labels))

    def compute_output_shape(self, t_shape, labels_shape=None):
        return (*(labels_shape or t_shape), self.units)


@keras.saving.register_keras_serializable(PACKAGE)
class DiTBlock(CompositeLayer):
    """A transformer block with adaLN-Zero (2212.09748, section 3.2, figure 3).

    Self-attention over the tokens, then an MLP of 4 D, each on normalised tokens that
    the condition scales and shifts, each added times a gate of the condition's. Gates,
    scales and shifts begin at zero: the block begins as the identity.

    Args:
        num_heads: number of heads; it must divide the channels.
        seed: integer, the model's.
        stream: name of its weights: blocks of one model take different names.

    Example:

    ```python
    y = DiTBlock(6)(x, c)                          # (B, T, D), (B, D) -> (B, T, D)
    ```
    """

    def __init__(self, num_heads, **kwargs):
        super().__init__(initializer=_glorot, **kwargs)
        check_positive("num_heads", num_heads)
        self.num_heads = num_heads

    def build(self, x_shape, c_shape):
        channels = x_shape[-1]
        zeros = Zeros()
        self.modulation = self._dense("modulation", 6 * channels, initializer=zeros)
        self.modulation.build(c_shape)
        self.norm1 = _plain_norm("norm1", MODULATION_EPSILON, self.dtype_policy)
        self.norm2 = _plain_norm("norm2", MLP_EPSILON, self.dtype_policy)
        place = {**self._place("attention"), "stream": self.stream}
        self.attention = Attention(
            self.num_heads, use_bias=True, initializer=_glorot, **place
        )
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


@keras.saving.register_keras_serializable(PACKAGE)
class DiT(Pretrained, Saving, keras.Model):
    """The transformer of 2212.09748 with adaLN-Zero, weight for weight with diffusers'.

    Called as `dit(x, t, labels)`. The image, most often an autoencoder's latents, is
    cut into patches; each becomes a token, a linear map of it plus a fixed embedding
    of its position. Blocks (figure 3, right) see the time and the label through scales,
    shifts and gates alone. A last normalization with scale and shift, and a linear
    map, make each token a patch of the answer, which begins at zero.

    Published networks have one embedding of t and one table of labels. diffusers
    holds a copy of both in every block. `shared_embedding=True` is the paper's;
    `from_pretrained` takes it where the file's copies are equal, else each block
    keeps its own, and `save_pretrained` writes diffusers' copies.

    Published weights (`from_pretrained`, `save_pretrained`): diffusers'
    `DiTTransformer2DModel`, `subfolder="transformer"` of a DiT pipeline. Not with
    `shared_embedding=True` where the blocks' embeddings differ; diffusers has none
    without labels or null class, with images that are not square, or with another
    `freq_shift`.

    Args:
        image_shape: `(H, W, C)` of x, each side divisible by the patch.
        size: `"S/2"` to `"XL/8"`: the row of the paper's table 1, then the side of a
            patch. The four arguments below, where given, stand for what it says.
        patch_size: side of a patch.
        num_layers: number of blocks.
        hidden_dim: D, channels of a token; divisible by 4 and by `num_heads`.
        num_heads: of the attention.
        num_classes: N of the labels, or None for a network without labels.
        null_class: whether label N stands for no label, for guidance.
        out_channels: of the answer; by default C. `2 * C` with a learned variance.
        shared_embedding: False gives every block its own embedding of time and label.
        freq_shift: of the embedding of t (see
            `keras_genai.layers.sinusoidal_embedding`): 1 is diffusers', 0 that of the
            paper's code, which trained the published weights.
        seed: integer >= 0: the initial weights follow from it.

    Raises:
        ValueError: for an argument out of range, before any work.

    Example:

    ```python
    dit = kg.DiT((32, 32, 4), "S/2", num_classes=10)
    x = keras.random.normal((2, 32, 32, 4))
    y = dit(x, np.array([0, 999]), np.array([3, 10]))     # 10: no label
    ```
    """

    weights_module = "dit"

    @checked(size=text, freq_shift=number())
    def __init__(
        self,
        image_shape=(32, 32, 4),
        size="S/2",
        *,
        patch_size=None,
        num_layers=None,
        hidden_dim=None,
        num_heads=None,
        num_classes=None,
        null_class=True,
        out_channels=None,
        shared_embedding=True,
        freq_shift=1.0,
        seed=0,
        **kwargs,
    ):
        # Of half precision, 999.5 would not be a time.
        super().__init__(autocast=False, **kwargs)
        self._allow_non_tensor_positional_args = True  # one t for all may be a number
        row = patched_row(size, SIZES, PATCHES)
        given = {
            "num_layers": num_layers,
            "hidden_dim": hidden_dim,
            "num_heads": num_heads,
        }
        for name, value in {**given, "patch_size": patch_size}.items():
            value = row[name] if value is None else value
            check_positive(name, value)
            setattr(self, name, value)
        self.image_shape = check_image_shape(
            image_shape, self.patch_size, instead="Give another patch_size."
        )
        self.num_classes = num_classes
        self.null_class = null_class
        self.out_channels = out_channels
        if out_channels is None:
            self.out_channels = self.image_shape[-1]
        self.shared_embedding = shared_embedding
        self.freq_shift = freq_shift
        self.seed = random.check_seed(seed)
        self._check_arguments()
        self._make_layers()
        self.built = True

    def _check_arguments(self):
        check_positive("out_channels", self.out_channels)
        if self.num_classes is not None:
            check_positive("num_classes", self.num_classes)
        for divisor, why in (
            (self.num_heads, "num_heads"),
            (4, "4, of the position table"),
        ):
            if self.hidden_dim % divisor:
                raise ValueError(
                    f"hidden_dim must be divisible by {why}; {divisor} does not divide "
                    f"{self.hidden_dim}."
                )

    def _make_layers(self):
        height, width, channels = self.image_shape
        policy, side, hidden_dim = self.dtype_policy, self.patch_size, self.hidden_dim
        self.grid = (height // side, width // side)
        tokens = self.grid[0] * self.grid[1]
        shared = {"seed": self.seed, "dtype": policy}
        self.positions = self.add_weight(
            name="positions",
            shape=(tokens, hidden_dim),
            initializer=lambda shape, dtype: ops.convert_to_tensor(
                sinusoidal_grid(*self.grid, hidden_dim), dtype=dtype
            ),
            trainable=False,
        )
        self.patches = keras.layers.Dense(
            hidden_dim,
            kernel_initializer=VarianceScaling(seed=self.seed, stream="dit/patches"),
            dtype=policy,
            name="patches",
        )
        self.patches.build((None, tokens, side * side * channels))
        rows = self.num_classes + self.null_class if self.num_classes else 0
        self.conditions = []
        for i in range(1 if self.shared_embedding else self.num_layers):
            name = f"condition_{i}"
            condition = Condition(
                hidden_dim,
                rows,
                self.freq_shift,
                stream=f"dit/{name}",
                name=name,
                **shared,
            )
            condition.build((None,), (None,) if rows else None)
            self.conditions.append(condition)
        self.blocks = []
        for i in range(self.num_layers):
            name = f"block_{i}"
            block = DiTBlock(self.num_heads, stream=f"dit/{name}", name=name, **shared)
            block.build((None, tokens, hidden_dim), (None, hidden_dim))
            self.blocks.append(block)
        self.norm = _plain_norm("norm", MODULATION_EPSILON, policy)
        self.norm.build((None, tokens, hidden_dim))
        for name, units in (
            ("modulation", 2 * hidden_dim),
            ("last", side * side * self.out_channels),
        ):
            layer = keras.layers.Dense(
                units, kernel_initializer=Zeros(), dtype=policy, name=name
            )
            layer.build((None, hidden_dim))
            setattr(self, name, layer)

    def call(self, x, t, labels=None, training=False):
        """The prediction for noisy images.

        Args:
            x: `(B, H, W, C)`.
            t: times `(B,)`, or one for all; integers or floats.
            labels: integers `(B,)` in [0, num_classes), or num_classes for no label;
                None for a network without labels.
            training: without effect: whoever trains drops labels.

        Returns:
            `(B, H, W, out_channels)`.
        """
        self._check_call(x, labels)
        t = ops.reshape(ops.convert_to_tensor(t), (-1,))  # (B,), or (1,)
        given = () if labels is None else (ops.reshape(labels, (-1,)),)
        conditions = [layer(t, *given) for layer in self.conditions]
        x = patchify(ops.cast(x, self.compute_dtype), self.patch_size)
        x = self.patches(x)
        x = x + ops.cast(self.positions, x.dtype)  # (B, T, D)
        for i, block in enumerate(self.blocks):
            x = block(x, conditions[0 if self.shared_embedding else i])
        parts = ops.expand_dims(self.modulation(conditions[0]), 1)  # (B, 1, 2D)
        x = self.last(modulate(self.norm(x), *ops.split(parts, 2, axis=-1)))
        return unpatchify(x, self.patch_size, self.grid, self.out_channels)

    def _check_call(self, x, labels):
        if len(x.shape) != 4 or tuple(x.shape[1:]) != self.image_shape:
            raise ValueError(
                f"x must have the shape (B, {', '.join(map(str, self.image_shape))}), "
                f"channels last; got {tuple(x.shape)}."
            )
        if self.num_classes is None and labels is not None:
            raise ValueError(
                "This DiT takes no labels, but was given some. Leave them out, or make "
                "it with num_classes."
            )
        if self.num_classes is not None and labels is None:
            null = f"; {self.num_classes} is no label" if self.null_class else ""
            raise ValueError(
                f"Labels are missing: this DiT has {self.num_classes} classes. Give "
                f"dit(x, t, labels), integers (B,){null}."
            )

    def get_config(self):
        names = (
            "image_shape",
            "patch_size",
            "num_layers",
            "hidden_dim",
            "num_heads",
            "num_classes",
            "null_class",
            "out_channels",
            "shared_embedding",
            "freq_shift",
        )
        return configuration(self, names)

    @classmethod
    def from_config(cls, config):
        return cls(**deserialized(config))
