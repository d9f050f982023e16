"""Attention to a context, and the transformer over an image's positions.

The blocks by which a text or another sequence reaches the U-Nets of 2112.10752
(section 3.3 and appendix E.2.1), those of Stable Diffusion.
"""

import keras
from keras import ops

from keras_genai import backend
from keras_genai.layers.attention import Attention
from keras_genai.layers.image_blocks import Block
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_positive
from keras_genai.utils.serialization import PACKAGE
from keras_genai.utils.validation import integer


@keras.saving.register_keras_serializable(PACKAGE)
class GatedFeedForward(Block):
    """`W_2 (a * gelu(g)) + b_2`, `a` and `g` the halves of `W_1 x + b_1`: GEGLU.

    2002.05202, equation 6, with biases, and the exact GELU.

    Args:
        expansion: `a` has that many times the channels of `x`.
        seed: integer, the model's.
        stream: name of the place: blocks of one model take different names.

    Example:

    ```python
    y = GatedFeedForward()(x)                           # (B, T, C) -> (B, T, C)
    ```
    """

    _ARGUMENTS = ("expansion",)

    @checked(expansion=integer(1))
    def __init__(self, expansion=4, **kwargs):
        super().__init__(**kwargs)
        check_positive("expansion", expansion)
        self.expansion = expansion

    def build(self, input_shape):
        channels = input_shape[-1]
        width = self.expansion * channels
        self.dense1 = self._dense("dense1", 2 * width)
        self.dense2 = self._dense("dense2", channels)
        self.dense1.build(input_shape)
        self.dense2.build((*input_shape[:-1], width))
        self.built = True

    def call(self, x):
        a, gate = ops.split(self.dense1(x), 2, axis=-1)  # (B, T, expansion C) twice
        return self.dense2(a * backend.gelu(gate))

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(PACKAGE)
class CrossAttentionBlock(Block):
    """Self-attention, attention to a context, gated feed-forward.

    Each is `x + f(norm(x))` with layer normalization (2112.10752, appendix E.2.1).

    Args:
        heads: number of heads of both attentions; it must divide the channels.
        epsilon: of the layer normalizations.
        wide_scores: see `Attention`.
        seed: integer, the model's.
        stream: name of the place: blocks of one model take different names.

    Example:

    ```python
    y = CrossAttentionBlock(8)(x, context)  # (B, T, C), (B, S, D) -> (B, T, C)
    ```
    """

    _ARGUMENTS = ("heads", "epsilon", "wide_scores")

    @checked()
    def __init__(self, heads=1, epsilon=1e-5, wide_scores=False, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads
        self.epsilon = epsilon
        self.wide_scores = wide_scores

    def build(self, x_shape, context_shape):
        how = {"heads": self.heads, "wide_scores": self.wide_scores}
        self.attention = Attention(**how, **self._place("attention"))
        self.attention.build(x_shape)
        self.cross_attention = Attention(**how, **self._place("cross_attention"))
        self.cross_attention.build(x_shape, context_shape)
        self.feed_forward = GatedFeedForward(**self._place("feed_forward"))
        self.feed_forward.build(x_shape)
        for name in ("norm1", "norm2", "norm3"):
            norm = keras.layers.LayerNormalization(
                epsilon=self.epsilon, dtype=self.dtype_policy, name=name
            )
            norm.build(x_shape)
            setattr(self, name, norm)
        self.built = True

    def call(self, x, context):
        x = x + self.attention(self.norm1(x))  # (B, T, C)
        x = x + self.cross_attention(self.norm2(x), context)
        return x + self.feed_forward(self.norm3(x))

    def compute_output_shape(self, x_shape, context_shape):
        return x_shape


@keras.saving.register_keras_serializable(PACKAGE)
class CrossAttention2D(Block):
    """A transformer over the positions of an image that attends to a context.

    `x + W_o T(W_i norm(x) + b_i, context) + b_o`, T blocks of `CrossAttentionBlock`
    (2112.10752, appendix E.2.1).

    Args:
        heads: number of heads; it must divide the channels.
        depth: number of blocks.
        groups: of the group normalization.
        wide_scores: see `Attention`.
        zero_out: `W_o` begins at zero.
        seed: integer, the model's.
        stream: name of the place: blocks of one model take different names.

    Example:

    ```python
    y = CrossAttention2D(8)(x, context)  # (B, H, W, C), (B, S, D) -> (B, H, W, C)
    ```
    """

    _ARGUMENTS = ("heads", "depth", "groups", "wide_scores", "zero_out")

    @checked()
    def __init__(
        self,
        heads=1,
        depth=1,
        groups=32,
        wide_scores=False,
        zero_out=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive("heads", heads)
        check_positive("depth", depth)
        self.heads = heads
        self.depth = depth
        self.groups = groups
        self.wide_scores = wide_scores
        self.zero_out = zero_out

    def build(self, x_shape, context_shape):
        channels = x_shape[-1]
        positions = (None, None, channels)
        self.norm = self._norm("norm", self.groups, 1e-6)
        self.norm.build(x_shape)
        self.inward = self._dense("inward", channels)
        self.inward.build(positions)
        self.blocks = []
        for i in range(self.depth):
            block = CrossAttentionBlock(
                self.heads, wide_scores=self.wide_scores, **self._place(f"block_{i}")
            )
            block.build(positions, context_shape)
            self.blocks.append(block)
        self.out = self._dense("out", channels, zero=self.zero_out)
        self.out.build(positions)
        self.built = True

    def call(self, x, context):
        shape = ops.shape(x)
        y = ops.reshape(self.norm(x), (shape[0], -1, x.shape[-1]))  # (B, HW, C)
        y = self.inward(y)
        for block in self.blocks:
            y = block(y, context)
        return x + ops.reshape(self.out(y), shape)

    def compute_output_shape(self, x_shape, context_shape):
        return x_shape
