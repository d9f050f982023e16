"""The towers of CLIP and SigLIP: images and texts to vectors."""

import keras
import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.layers.composite import INITIAL_STD, CompositeLayer
from keras_genai.layers.initializers import normal_or_uniform
from keras_genai.transformers import GPTNetwork, ViTNetwork
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_heads, check_image_shape
from keras_genai.utils.serialization import PACKAGE
from keras_genai.utils.validation import flag, integer, one_of, text
from keras_genai.weights.pretrained import Pretrained

IMAGE_POOLINGS = ("token", "attention", "mean")
TEXT_POOLINGS = ("first_end", "largest", "last")


@keras.saving.register_keras_serializable(PACKAGE)
class ImageTower(Pretrained, CompositeLayer):
    """The vision transformer of CLIP (2103.00020) and of SigLIP (2303.15343).

    Called on images, scaled as the published mean and standard deviation say (`CLIP`
    does that), it gives a vector for each: of the class token, of attention pooling, or
    the mean; with `projection_dim` mapped linearly.

    Published weights (`from_pretrained`, `save_pretrained`): transformers'
    `CLIPVisionModel`, `CLIPVisionModelWithProjection` or `SiglipVisionModel`.

    Args:
        image_shape: `(H, W, C)`. What the patches leave at the right and at the bottom
            is not seen, as in the published networks: 384 of patches of 14 are 378.
        patch_size: side of a patch.
        num_layers: number of blocks.
        hidden_dim: D, channels; divisible by `num_heads`.
        num_heads: of the attention.
        intermediate_dim: channels inside the feed-forward; by default `4 * hidden_dim`.
        activation: of the feed-forward: `"quick_gelu"` (OpenAI's weights), `"gelu"`
            (OpenCLIP's) or `"gelu_tanh"` (SigLIP's), see `kg.layers.FeedForward`.
        pooling: `"token"`: a class token before the patches; `"attention"`: a learned
            query attends to them; or `"mean"`.
        pre_norm: whether the tokens are normalised before the first block.
        patch_bias: whether the map of the patches has a bias.
        layer_norm_epsilon: of the normalizations.
        projection_dim: E of the map behind the pooling, without a bias; None for none.
        dropout: rate in training of the shortcuts, in [0, 1).
        attention_dropout: that of the attention's probabilities.
        remat: computes the blocks again for the gradient: less memory, more time.
        seed: integer, the model's.
        stream: name of its weights.

    Raises:
        ValueError: for an argument out of range.

    Example:

    ```python
    tower = kg.clip.ImageTower((32, 32, 3), 8, num_layers=4, hidden_dim=128,
                               num_heads=4, projection_dim=64)
    tower(images)                                           # (B, 64)
    tower.hidden_states(images)[-1]                         # (B, 17, 128)
    ```
    """

    weights_module = "clip"
    weights_part = "image"

    @checked(
        intermediate_dim=integer(1),
        activation=text,
        pooling=one_of(*IMAGE_POOLINGS),
        pre_norm=flag,
        patch_bias=flag,
        projection_dim=integer(1),
    )
    def __init__(
        self,
        image_shape=(224, 224, 3),
        patch_size=32,
        num_layers=12,
        hidden_dim=768,
        num_heads=12,
        intermediate_dim=None,
        activation="quick_gelu",
        pooling="token",
        pre_norm=True,
        patch_bias=False,
        layer_norm_epsilon=1e-5,
        projection_dim=None,
        dropout=0.0,
        attention_dropout=0.0,
        remat=False,
        **kwargs,
    ):
        super().__init__(initializer=normal_or_uniform(INITIAL_STD), **kwargs)
        check_heads(num_heads, hidden_dim)
        self.image_shape = check_image_shape(image_shape)
        self.patch_size = patch_size
        if min(self.image_shape[:2]) < patch_size:
            raise ValueError(
                f"patch_size must be at most the sides of image_shape, {image_shape}; "
                f"got {patch_size}."
            )
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim or 4 * hidden_dim
        self.activation = activation
        self.pooling = pooling
        self.pre_norm = pre_norm
        self.patch_bias = patch_bias
        self.layer_norm_epsilon = layer_norm_epsilon
        self.projection_dim = projection_dim
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.remat = remat
        own = {*self.arguments()}.intersection(ViTNetwork.arguments())
        self.network = ViTNetwork(
            **{name: getattr(self, name) for name in own},
            class_token=pooling == "token",
            attention_pooling=pooling == "attention",
            initialization="clip",
            **self._place("network"),
        )
        self.built = True

    @property
    def output_dim(self):
        """Channels of the vectors."""
        return self.projection_dim or self.hidden_dim

    def call(self, images, training=False):
        """`(B, H, W, C)` -> `(B, output_dim)`.

        Images of other sizes do, too: the positions are interpolated.
        """
        images = self._whole_patches(images)
        return self.network.features(self.network(images, training=training))

    def _whole_patches(self, images):
        """The images without what is left of the last patches."""
        height, width = (
            n // self.patch_size * self.patch_size for n in images.shape[1:3]
        )
        if (height, width) == tuple(images.shape[1:3]):
            return images
        return images[:, :height, :width]

    def hidden_states(self, images, training=False):
        """The states `(B, T, D)` before the first block and after each, a list.

        T has the class token first, where there is one. The last is not normalised:
        `tower.network.norm` does that.
        """
        return self.network.hidden_states(self._whole_patches(images), training)

    def levels(self):
        """The weights from the bottom up, for rates that fall with depth.

        Returns:
            List of lists of variables: the map of the patches with token and positions,
            each block, and what follows them.
        """
        network = self.network
        tops = (network.norm, network.attention_pool, network.projection)
        return levels_of(self, network.blocks, tops)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.output_dim)


@keras.saving.register_keras_serializable(PACKAGE)
class TextTower(Pretrained, CompositeLayer):
    """The transformer of texts of CLIP (2103.00020) and of SigLIP (2303.15343).

    Called on token ids it gives a vector for each text, of the last block's states,
    normalised, at one position; with `projection_dim` mapped linearly.

    Published weights (`from_pretrained`, `save_pretrained`): transformers'
    `CLIPTextModel`, `CLIPTextModelWithProjection` or `SiglipTextModel`, such as the
    text encoders of Stable Diffusion.

    Args:
        vocabulary_size: V, number of tokens.
        max_sequence_length: most tokens of a text.
        num_layers: number of blocks.
        hidden_dim: D, channels; divisible by `num_heads`.
        num_heads: of the attention.
        intermediate_dim: channels inside the feed-forward; by default `4 * hidden_dim`.
        activation: of the feed-forward, see `ImageTower`.
        causal: whether a token attends to none after it (CLIP), or to all (SigLIP),
            padding too.
        pooling: at which position the vector is taken: `"first_end"`: the first
            `eos_token_id`; `"largest"`: the largest id, which is the end token in the
            vocabulary of CLIP; or `"last"`: the last, whatever stands there (SigLIP).
        eos_token_id: id of the end token, for `"first_end"`.
        layer_norm_epsilon: of the normalizations.
        projection_dim: E of the map behind the pooling; None for none.
        projection_bias: whether that map has a bias (SigLIP's).
        dropout: rate in training of embeddings and shortcuts, in [0, 1).
        attention_dropout: that of the attention's probabilities.
        remat: computes the blocks again for the gradient: less memory, more time.
        seed: integer, the model's.
        stream: name of its weights.

    Raises:
        ValueError: for an argument out of range, or no `eos_token_id` where the pooling
            needs one.

    Example:

    ```python
    tower = kg.clip.TextTower(1000, 32, num_layers=4, hidden_dim=128, num_heads=4,
                              eos_token_id=2, projection_dim=64)
    tower(tokens)                                           # (B, T) -> (B, 64)
    states = tower.hidden_states(tokens)                    # 5 of (B, T, 128)
    tower.normalized(states[-2])                            # as Stable Diffusion 2
    ```
    """

    weights_module = "clip"
    weights_part = "text"

    @checked(
        intermediate_dim=integer(1),
        activation=text,
        pooling=one_of(*TEXT_POOLINGS),
        projection_dim=integer(1),
        projection_bias=flag,
    )
    def __init__(
        self,
        vocabulary_size=49408,
        max_sequence_length=77,
        num_layers=12,
        hidden_dim=512,
        num_heads=8,
        intermediate_dim=None,
        activation="quick_gelu",
        causal=True,
        pooling="first_end",
        eos_token_id=None,
        layer_norm_epsilon=1e-5,
        projection_dim=None,
        projection_bias=False,
        dropout=0.0,
        attention_dropout=0.0,
        remat=False,
        **kwargs,
    ):
        super().__init__(initializer=normal_or_uniform(INITIAL_STD), **kwargs)
        check_heads(num_heads, hidden_dim)
        if pooling == "first_end" and eos_token_id is None:
            raise ValueError(
                "pooling='first_end' needs eos_token_id, the id of the end token."
            )
        self.vocabulary_size = vocabulary_size
        self.max_sequence_length = max_sequence_length
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim or 4 * hidden_dim
        self.activation = activation
        self.causal = causal
        self.pooling = pooling
        self.eos_token_id = eos_token_id
        self.layer_norm_epsilon = layer_norm_epsilon
        self.projection_dim = projection_dim
        self.projection_bias = projection_bias
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.remat = remat
        own = {*self.arguments()}.intersection(GPTNetwork.arguments())
        self.network = GPTNetwork(
            **{name: getattr(self, name) for name in own},
            norm="layer",
            positions="learned",
            rope_theta=None,
            num_key_value_heads=None,
            head_dim=None,
            use_bias=True,
            tie_word_embeddings=True,  # there is no head
            sliding_window=None,
            qk_norm=None,
            initialization="clip",
            **self._place("network"),
        )
        self.projection = None
        if projection_dim:
            self.projection = self._dense(
                "projection",
                projection_dim,
                projection_bias,
                self._normal("projection", hidden_dim**-0.5),
            )
            self.projection.build((None, hidden_dim))
        self.built = True

    @property
    def output_dim(self):
        """Channels of the vectors."""
        return self.projection_dim or self.hidden_dim

    def call(self, tokens, training=False):
        """`(B, T)` -> `(B, output_dim)`."""
        states, _ = self.network.hidden_states(tokens, training=training)
        return self.projected(self.pooled(states, tokens))

    def hidden_states(self, tokens, training=False):
        """The states `(B, T, D)` before the first block and after each, a list.

        As transformers' `output_hidden_states`: the last is not normalised.
        """
        network = self.network
        positions = ops.arange(ops.shape(tokens)[1], dtype="int32")
        states = [network.embedded(tokens, positions, training)]
        for block in network.blocks:
            states.append(block(states[-1], positions=positions, training=training))
        return states

    def normalized(self, states):
        """States `(B, T, D)` behind the last normalization."""
        return self.network.norm_last(states)

    def pooled(self, states, tokens):
        """The state of each text's position `(B, D)`: see `pooling`.

        Args:
            states: `(B, T, D)`, normalised.
            tokens: ids `(B, T)`. A text without an end token has its first position.
        """
        if self.pooling == "last":
            return states[:, -1]
        tokens = ops.cast(tokens, "int32")
        if self.pooling == "first_end":
            tokens = ops.cast(ops.equal(tokens, self.eos_token_id), "int32")
        position = ops.cast(
            backend.argmax(tokens), "int32"
        )  # (B,), the first of equals
        positions = ops.arange(ops.shape(tokens)[1], dtype="int32")
        here = ops.equal(ops.expand_dims(position, 1), positions)  # (B, T)
        # A sum of one: taken by an index, an exported graph has one size of batch.
        return ops.sum(
            ops.where(ops.expand_dims(here, -1), states, ops.zeros_like(states)), axis=1
        )

    def projected(self, x):
        """Pooled states `(B, D)` -> `(B, output_dim)`."""
        return x if self.projection is None else self.projection(x)

    def check_ends(self, tokens):
        """Refuses texts that the pooling would take at the wrong position.

        Args:
            tokens: NumPy integers `(N, T)`.

        Raises:
            ValueError: texts without an end token, or of one id all over: padding.
        """
        wrong = np.flatnonzero((tokens == tokens[:, :1]).all(axis=1))
        if tokens.shape[1] > 1 and len(wrong):
            raise ValueError(
                f"Tokens of {len(wrong)} texts, the first of number {wrong[0]}, are "
                f"{tokens[wrong[0], 0]} all over: nothing but padding."
            )
        if self.pooling != "first_end":
            return
        wrong = np.flatnonzero((tokens != self.eos_token_id).all(axis=1))
        if len(wrong):
            raise ValueError(
                f"Tokens of {len(wrong)} texts, the first of number {wrong[0]}, have "
                f"no end token, {self.eos_token_id}, at which the text's vector is "
                "taken. Were they cut? Cut before the end token is set."
            )

    def levels(self):
        """See `ImageTower.levels`."""
        tops = (self.network.norm_last, self.projection)
        return levels_of(self, self.network.blocks, tops)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.output_dim)


def levels_of(tower, middle, tops):
    """The trainable variables of a tower from the bottom up: see `ImageTower.levels`.

    Args:
        tower: a layer.
        middle: list of its layers, or of lists of them, from the bottom up.
        tops: layers above them; None are left out.
    """
    parts = [part if isinstance(part, (list, tuple)) else [part] for part in middle]
    parts.append([layer for layer in tops if layer is not None])
    found = [[v for layer in part for v in layer.trainable_variables] for part in parts]
    above = {id(v) for variables in found for v in variables}
    return [[v for v in tower.trainable_variables if id(v) not in above], *found]
