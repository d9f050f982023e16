"""The blocks that image autoencoders and diffusion U-Nets are made of.

Residual block, self-attention over positions, halving and doubling of the sides, as
in the networks of 2006.11239 and 2112.10752. Every kernel begins as PyTorch's do,
uniform within `1 / sqrt(fan in)`, and every bias at zero. With `zero_out` the last
kernel of a block begins at zero, so that the block begins as its shortcut, as all of
2006.11239's do.
"""

import keras
from keras import ops

from keras_genai import backend
from keras_genai.layers.composite import CompositeLayer
from keras_genai.layers.dropout import Dropout
from keras_genai.layers.initializers import Zeros
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_positive
from keras_genai.utils.serialization import PACKAGE
from keras_genai.utils.validation import integer, text


@keras.saving.register_keras_serializable(PACKAGE)
class ResNetBlock(CompositeLayer):
    """Two times (group normalization, SiLU, 3 x 3 convolution), and a shortcut.

    `x + f(x)`, with a 1 x 1 convolution of `x` where the channels change. A vector
    `e` given beside (a diffusion model's embedded time) is added to every position
    after the first convolution, as `W silu(e) + b` (2006.11239, appendix B).

    Args:
        filters: channels of the output.
        groups: of the normalizations; it must divide both numbers of channels.
        epsilon: of the normalizations.
        dropout: rate before the second convolution, in [0, 1).
        scale_shift: the vector scales too, `(1 + s) norm(y) + b` after the second
            normalization (2102.09672, section 3.1), s and b the halves of
            `W silu(e) + b`.
        zero_out: the second convolution begins at zero.
        seed: integer, the model's.
        stream: name of its weights: blocks of one model take different names.

    Example:

    ```python
    y = ResNetBlock(128)(x)                  # (B, H, W, C) -> (B, H, W, 128)
    y = ResNetBlock(128)(x, embedding)       # with (B, E) beside
    ```
    """

    @checked(filters=integer(1))
    def __init__(
        self,
        filters,
        groups=32,
        epsilon=1e-6,
        dropout=0.0,
        scale_shift=False,
        zero_out=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive("filters", filters)
        self.filters = filters
        self.groups = groups
        self.epsilon = epsilon
        self.dropout = dropout
        self.scale_shift = scale_shift
        self.zero_out = zero_out
        self.drop = None
        if dropout:
            self.drop = Dropout(dropout, **self._place("dropout"))

    def build(self, x_shape, embedding_shape=None):
        between = (*x_shape[:-1], self.filters)
        self.norm1 = self._group_norm("norm1", self.groups, self.epsilon)
        self.conv1 = self._convolution("conv1", self.filters, 3)
        self.norm2 = self._group_norm("norm2", self.groups, self.epsilon)
        zeros = Zeros() if self.zero_out else None
        self.conv2 = self._convolution("conv2", self.filters, 3, initializer=zeros)
        self.norm1.build(x_shape)
        self.conv1.build(x_shape)
        self.norm2.build(between)
        self.conv2.build(between)
        self.embed = self.shortcut = None
        if embedding_shape is not None:
            self.embed = self._dense("embed", self.filters * (1 + self.scale_shift))
            self.embed.build(embedding_shape)
        elif self.scale_shift:
            raise ValueError("scale_shift needs a vector: block(x, embedding).")
        if x_shape[-1] != self.filters:
            self.shortcut = self._convolution("shortcut", self.filters, 1)
            self.shortcut.build(x_shape)
        self.built = True

    def call(self, x, embedding=None, training=False):
        y = self.conv1(ops.silu(self.norm1(x)))  # (B, H, W, filters)
        if embedding is not None:
            shift = self.embed(ops.silu(embedding))  # (B, filters), or twice as many
            shift = ops.expand_dims(shift, (1, 2))
            if not self.scale_shift:
                y = y + shift
        y = self.norm2(y)
        if self.scale_shift:
            scale, shift = ops.split(shift, 2, axis=-1)
            y = y * (1.0 + scale) + shift
        y = ops.silu(y)
        if self.drop is not None:
            y = self.drop(y, training=training)
        y = self.conv2(y)
        return y + (x if self.shortcut is None else self.shortcut(x))

    def compute_output_shape(self, x_shape, embedding_shape=None):
        return (*x_shape[:-1], self.filters)


@keras.saving.register_keras_serializable(PACKAGE)
class SelfAttention2D(CompositeLayer):
    """Self-attention over the positions of an image, and a shortcut.

    `x + W_o softmax(Q K^T / sqrt(d)) V` with `Q, K, V` linear in the normalised `x`,
    d the channels of a head (1706.03762, equation 1, as placed in 2006.11239).

    Args:
        num_heads: number of heads; it must divide the channels.
        groups: of the normalization.
        epsilon: of the normalization.
        zero_out: `W_o` begins at zero.
        seed: integer, the model's.
        stream: name of its weights: blocks of one model take different names.

    Raises:
        ValueError: `num_heads` does not divide the channels.

    Example:

    ```python
    y = SelfAttention2D()(x)                          # (B, H, W, C) -> (B, H, W, C)
    ```
    """

    @checked()
    def __init__(self, num_heads=1, groups=32, epsilon=1e-6, zero_out=False, **kwargs):
        super().__init__(**kwargs)
        check_positive("num_heads", num_heads)
        self.num_heads = num_heads
        self.groups = groups
        self.epsilon = epsilon
        self.zero_out = zero_out

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels % self.num_heads:
            raise ValueError(
                f"num_heads must divide the channels: {self.num_heads} does not divide "
                f"{channels}."
            )
        self.norm = self._group_norm("norm", self.groups, self.epsilon)
        self.norm.build(input_shape)
        for name in ("query", "key", "value", "out"):
            zero = self.zero_out and name == "out"
            layer = self._dense(name, channels, initializer=Zeros() if zero else None)
            layer.build((None, None, channels))
            setattr(self, name, layer)
        self.built = True

    def call(self, x):
        shape = ops.shape(x)
        channels = x.shape[-1]
        positions = ops.reshape(self.norm(x), (shape[0], -1, channels))  # (B, HW, C)
        num_heads = (shape[0], -1, self.num_heads, channels // self.num_heads)
        query, key, value = (
            ops.reshape(layer(positions), num_heads)  # (B, HW, heads, d)
            for layer in (self.query, self.key, self.value)
        )
        y = backend.attention(query, key, value)
        y = self.out(ops.reshape(y, (shape[0], -1, channels)))  # (B, HW, C)
        return x + ops.reshape(y, shape)

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(PACKAGE)
class Downsample2D(CompositeLayer):
    """Halves the sides by a 3 x 3 convolution of stride 2.

    A row and a column of zeros are added below and at the right, none above or at
    the left, as in 2006.11239, in the autoencoders of 2112.10752 and in TensorFlow's
    padding "same": position i of the output sees 2i, 2i + 1 and 2i + 2. With the
    padding "before" they are added above and at the left, so that it sees 2i - 1, 2i
    and 2i + 1, as with PyTorch's padding 1 and in the U-Nets of 2112.10752.

    Args:
        filters: channels of the output; by default those of the input.
        padding: `"after"` the image or `"before"` it: where the zeros are.
        seed: integer, the model's.
        stream: name of its weights: blocks of one model take different names.

    Example:

    ```python
    y = Downsample2D()(x)                     # (B, H, W, C) -> (B, H / 2, W / 2, C)
    ```
    """

    @checked(filters=integer(1), padding=text)
    def __init__(self, filters=None, padding="after", **kwargs):
        super().__init__(**kwargs)
        if padding not in ("after", "before"):
            raise ValueError(f'padding must be "after" or "before"; got {padding!r}.')
        self.filters = filters
        self.padding = padding

    def build(self, input_shape):
        filters = self.filters or input_shape[-1]
        # No kernel reaches the last of the zeros after the image.
        padding = "same" if self.padding == "after" else 1
        self.conv = self._convolution("conv", filters, 3, strides=2, padding=padding)
        self.conv.build(input_shape)
        self.built = True

    def call(self, x):
        sides = [side for side in x.shape[1:3] if isinstance(side, int)]
        if any(side % 2 for side in sides):
            raise ValueError(
                f"Downsample2D halves even sides alone; got {tuple(x.shape)}. Crop or "
                "pad the images so that every halving divides their sides."
            )
        return self.conv(x)

    def compute_output_shape(self, input_shape):
        batch, *sides, channels = input_shape
        halves = [None if side is None else side // 2 for side in sides]
        return (batch, *halves, self.filters or channels)


@keras.saving.register_keras_serializable(PACKAGE)
class Upsample2D(CompositeLayer):
    """Doubles the sides: each pixel becomes four, then a 3 x 3 convolution.

    Computed on the small image, with kernels that give the same numbers.

    Args:
        filters: channels of the output; by default those of the input.
        seed: integer, the model's.
        stream: name of its weights: blocks of one model take different names.

    Example:

    ```python
    y = Upsample2D()(x)                           # (B, H, W, C) -> (B, 2H, 2W, C)
    ```
    """

    @checked(filters=integer(1))
    def __init__(self, filters=None, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters

    def build(self, input_shape):
        filters = self.filters or input_shape[-1]
        self.conv = self._convolution("conv", filters, 3)
        self.conv.build(input_shape)
        self.built = True

    def call(self, x):
        # A row of an output pixel's 3 x 3 kernel falls on two rows of x: the even rows
        # see (k0, k1 + k2), the odd ones (k0 + k1, k2), and likewise the columns. So
        # four 2 x 2 kernels do it, with 16 products for the 36 of the large image.
        kernel = ops.convert_to_tensor(self.conv.kernel)  # (3, 3, C, F)
        kernel = _folded(_folded(kernel, 0), 1)  # (2, 2, C, F, 2, 2)
        channels, filters = kernel.shape[2:4]
        kernel = ops.transpose(kernel, (0, 1, 2, 4, 5, 3))
        kernel = ops.reshape(kernel, (2, 2, channels, 4 * filters))
        bias = ops.tile(ops.convert_to_tensor(self.conv.bias), 4)
        batch, height, width, _ = ops.shape(x)
        y = backend.convolution(x, kernel, bias, (1, 1), 1)  # (B, H + 1, W + 1, 4F)
        y = [
            [
                y[:, i : i + height, j : j + width, n * filters : (n + 1) * filters]
                for n, j in ((2 * i, 0), (2 * i + 1, 1))
            ]
            for i in (0, 1)
        ]
        y = ops.stack([ops.stack(row, axis=3) for row in y], axis=2)
        return ops.reshape(y, (batch, 2 * height, 2 * width, filters))

    def compute_output_shape(self, input_shape):
        batch, *sides, channels = input_shape
        doubles = [None if side is None else 2 * side for side in sides]
        return (batch, *doubles, self.filters or channels)


def _folded(kernel, axis):
    """The kernels of the even and of the odd positions along a side.

    Args:
        kernel: its axis `axis` has the size 3.

    Returns:
        The same with that axis of size 2, and a last axis: even, odd.
    """
    k0, k1, k2 = ops.split(kernel, 3, axis=axis)
    even = ops.concatenate([k0, k1 + k2], axis=axis)
    odd = ops.concatenate([k0 + k1, k2], axis=axis)
    return ops.stack([even, odd], axis=-1)
