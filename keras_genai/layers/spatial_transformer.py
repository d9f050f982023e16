"""The transformer over an image's positions, which attends to a context.

The block by which a text or another sequence reaches the U-Nets of 2112.10752
(section 3.3 and appendix E.2.1), those of Stable Diffusion.
"""

import keras
from keras import ops

from keras_genai.layers.composite import CompositeLayer
from keras_genai.layers.initializers import Zeros
from keras_genai.layers.transformer_block import TransformerBlock
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_positive
from keras_genai.utils.serialization import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class CrossAttention2D(CompositeLayer):
    """A transformer over the positions of an image that attends to a context.

    `x + W_o T(W_i norm(x) + b_i, context) + b_o`, T blocks of attention to the
    positions, to the context, and GEGLU (2112.10752, appendix E.2.1).

    Args:
        num_heads: number of heads; it must divide the channels.
        num_layers: number of blocks.
        groups: of the group normalization.
        upcast_attention: see `Attention`.
        zero_out: `W_o` begins at zero.
        seed: integer, the model's.
        stream: name of its weights: blocks of one model take different names.

    Example:

    ```python
    y = CrossAttention2D(8)(x, context)  # (B, H, W, C), (B, S, D) -> (B, H, W, C)
    ```
    """

    @checked()
    def __init__(
        self,
        num_heads=1,
        num_layers=1,
        groups=32,
        upcast_attention=False,
        zero_out=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive("num_heads", num_heads)
        check_positive("num_layers", num_layers)
        self.num_heads = num_heads
        self.num_layers = num_layers
        self.groups = groups
        self.upcast_attention = upcast_attention
        self.zero_out = zero_out

    def build(self, x_shape, context_shape):
        channels = x_shape[-1]
        positions = (None, None, channels)
        self.norm = self._group_norm("norm", self.groups, 1e-6)
        self.norm.build(x_shape)
        self.inward = self._dense("inward", channels)
        self.inward.build(positions)
        self.blocks = []
        for i in range(self.num_layers):
            block = TransformerBlock(
                self.num_heads,
                4 * channels,
                "geglu",
                cross=True,
                attention={
                    "use_bias": False,
                    "upcast_attention": self.upcast_attention,
                },
                fused_gate=True,
                **self._place(f"block_{i}"),
            )
            block.build(positions, context_shape)
            self.blocks.append(block)
        zeros = Zeros() if self.zero_out else None
        self.out = self._dense("out", channels, initializer=zeros)
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
