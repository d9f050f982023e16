"""The networks of ViT (2010.11929) and of its masked autoencoder (2111.06377)."""

import functools

import keras
import numpy as np
from keras import ops

from keras_genai.backend.precision import widen
from keras_genai.layers import Attention, Dropout, FeedForward, TransformerBlock
from keras_genai.layers.attention import unpacked
from keras_genai.layers.composite import INITIAL_STD, CompositeLayer
from keras_genai.layers.initializers import VarianceScaling, normal_or_uniform
from keras_genai.layers.patches import patchify
from keras_genai.layers.positions import sinusoidal_grid
from keras_genai.layers.transformer_block import initial_stds
from keras_genai.utils.serialization import PACKAGE

POSITIONS = ("learned", "sinusoidal", "rotary")
ROTARY_BASE = 100.0  # of small grids: 2403.13298, section 3.2


@functools.cache
def bicubic(old, new):
    """The matrix that takes `old` values on a line to `new`: float32 `(new, old)`.

    Cubic convolution (Keys, 1981) with a = -0.75 between the centres of the cells, the
    ends continued, as PyTorch's and the published networks' interpolation.
    """
    a = -0.75
    matrix = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * old / new - 0.5
        first = int(np.floor(centre))
        for j in range(first - 1, first + 3):
            d = abs(centre - j)
            near = ((a + 2) * d - (a + 3)) * d * d + 1
            far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
            matrix[i, min(max(j, 0), old - 1)] += near if d <= 1 else far
    return matrix.astype("float32")


def resized(table, old, new):
    """A table of vectors `(T, D)` of one grid, interpolated for another.

    Args:
        table: tensor `(rows * columns, D)`.
        old: `(rows, columns)` of it.
        new: likewise of the result.
    """
    if old == new:
        return table
    dim = table.shape[-1]
    grid = ops.reshape(widen(table), (*old, dim))
    grid = ops.einsum("ah,hwd->awd", bicubic(old[0], new[0]), grid)
    grid = ops.einsum("bw,awd->abd", bicubic(old[1], new[1]), grid)
    return ops.cast(ops.reshape(grid, (new[0] * new[1], dim)), table.dtype)


def grid_positions(grid, class_token):
    """Row and column of each token, int32 `(T, 2)`; the class token's are its own."""
    positions = np.mgrid[: grid[0], : grid[1]].reshape(2, -1).T + class_token
    first = np.zeros((int(class_token), 2), int)
    return np.concatenate([first, positions]).astype("int32")


class _PatchTransformer(CompositeLayer):
    """The base of encoder and decoder: a table of positions, and blocks."""

    def __init__(self, **kwargs):
        super().__init__(initializer=normal_or_uniform(INITIAL_STD), **kwargs)

    def _positions(self, name, tokens, dim, sinusoidal, std=None):
        if not sinusoidal:
            initial = self._normal(name, std)
        else:

            def initial(shape, dtype):
                table = sinusoidal_grid(*self.grid, dim)
                extra = np.zeros((shape[1] - len(table), dim), "float32")
                table = np.concatenate([extra, table])[None]
                return ops.convert_to_tensor(table, dtype=dtype)

        return self.add_weight(
            name=name,
            shape=(1, tokens, dim),
            initializer=initial,
            trainable=not sinusoidal,
        )

    def _block(
        self,
        name,
        num_heads,
        hidden_dim,
        intermediate_dim,
        attention=None,
        activation="gelu",
        initialization="vit",
    ):
        block = TransformerBlock(
            num_heads,
            intermediate_dim,
            activation,
            epsilon=self.layer_norm_epsilon,
            dropout=self.dropout,
            attention={"dropout": self.attention_dropout, **(attention or {})},
            remat=self.remat,
            **initial_stds(initialization, hidden_dim, self.num_layers),
            **self._place(name),
        )
        block.build((None, None, hidden_dim))
        return block


@keras.saving.register_keras_serializable(PACKAGE)
class AttentionPooling(CompositeLayer):
    """One vector of a sequence: a learned query attends to it (2106.04560, section 3).

    `y = attention(q, x)`, then `y + f(norm(y))` with a feed-forward f: big_vision's
    "MAP head", which SigLIP's image tower ends with.

    Args:
        num_heads: of the attention.
        intermediate_dim: channels inside the feed-forward.
        activation: of it, see `FeedForward`.
        epsilon: of the normalization.
        seed: integer, the model's.
        stream: name of its weights.
    """

    def __init__(
        self, num_heads, intermediate_dim, activation="gelu", epsilon=1e-6, **kwargs
    ):
        super().__init__(initializer=VarianceScaling, **kwargs)  # Glorot's, as there
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.activation = activation
        self.epsilon = epsilon
        self.attention = Attention(
            num_heads,
            use_bias=True,
            initializer=VarianceScaling,
            **self._place("attention"),
        )
        self.feed_forward = FeedForward(
            intermediate_dim, activation, **self._place("feed_forward")
        )

    def build(self, input_shape):
        dim = input_shape[-1]
        self.query = self.add_weight(
            name="query", shape=(1, 1, dim), initializer=self._initial("query")
        )
        self.attention.build((None, 1, dim), (None, None, dim))
        self.norm = self._layer_norm("norm", dim, self.epsilon)
        self.feed_forward.build((None, None, dim))
        self.built = True

    def call(self, states):
        """`(B, T, D)` -> `(B, D)`."""
        query = ops.cast(self.query, self.compute_dtype)
        shape = (ops.shape(states)[0], 1, states.shape[-1])
        y = self.attention(ops.broadcast_to(query, shape), states)  # (B, 1, D)
        y = y + self.feed_forward(self.norm(y))
        return y[:, 0]

    def compute_output_shape(self, input_shape):
        return (input_shape[0], input_shape[-1])


@keras.saving.register_keras_serializable(PACKAGE)
class ViTNetwork(_PatchTransformer):
    """Images to hidden states, to features, to logits (2010.11929, section 3.1).

    By its last arguments it is CLIP's image tower (2103.00020, section 2.4: a norm
    before the blocks, no bias of the patches) and SigLIP's (2303.15343: attention
    pooling) as well.

    Args:
        image_shape, patch_size, num_layers, hidden_dim, num_heads, intermediate_dim,
        class_token,
        positions, dropout, attention_dropout, layer_norm_epsilon, pooler, num_classes,
            remat: see `ViT`.
        pre_norm: whether the tokens are normalised before the first block.
        patch_bias: whether the linear map of the patches has a bias.
        activation: of the feed-forwards, see `FeedForward`.
        attention_pooling: whether an image's vector is an `AttentionPooling`'s.
        projection_dim: E: an image's vector is mapped to so many channels, without a
            bias; None for none.
        initialization: `"vit"`, or `"clip"` as CLIP's image tower begins: see
            `initial_stds`; its class token and positions have 1 / sqrt(hidden_dim).
        seed: integer, the model's.
        stream: name of its weights.
    """

    def __init__(
        self,
        image_shape,
        patch_size,
        num_layers,
        hidden_dim,
        num_heads,
        intermediate_dim,
        class_token=True,
        positions="learned",
        dropout=0.0,
        attention_dropout=0.0,
        layer_norm_epsilon=1e-6,
        pooler=False,
        num_classes=None,
        remat=False,
        pre_norm=False,
        patch_bias=True,
        activation="gelu",
        attention_pooling=False,
        projection_dim=None,
        initialization="vit",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.image_shape = image_shape
        self.patch_size = patch_size
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.class_token = class_token
        self.positions = positions
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.pooler = pooler
        self.num_classes = num_classes
        self.remat = remat
        self.pre_norm = pre_norm
        self.patch_bias = patch_bias
        self.activation = activation
        self.attention_pooling = attention_pooling
        self.projection_dim = projection_dim
        self.initialization = initialization
        height, width, channels = image_shape
        self.grid = (height // patch_size, width // patch_size)
        tokens = self.grid[0] * self.grid[1] + class_token
        self.patches = self._dense("patches", hidden_dim, patch_bias)
        self.patches.build((None, patch_size**2 * channels))
        self.token = self.table = None
        std = hidden_dim**-0.5 if initialization == "clip" else None
        if class_token:
            self.token = self.add_weight(
                name="token",
                shape=(1, 1, hidden_dim),
                initializer=self._normal("token", std),
            )
        attention = {}
        if positions == "rotary":
            attention = {"rotary": ROTARY_BASE, "rotary_axes": 2}
        else:
            self.table = self._positions(
                "table", tokens, hidden_dim, positions == "sinusoidal", std
            )
        self.drop = Dropout(dropout, **self._place("dropout")) if dropout else None
        self.norm_before = None
        if pre_norm:
            self.norm_before = self._layer_norm(
                "norm_before", hidden_dim, layer_norm_epsilon
            )
        self.blocks = [
            self._block(
                f"block_{i}",
                num_heads,
                hidden_dim,
                intermediate_dim,
                attention,
                activation,
                initialization,
            )
            for i in range(num_layers)
        ]
        self.norm = self._layer_norm("norm", hidden_dim, layer_norm_epsilon)
        self.pool = self.head = self.attention_pool = self.projection = None
        if attention_pooling:
            self.attention_pool = AttentionPooling(
                num_heads,
                intermediate_dim,
                activation,
                layer_norm_epsilon,
                **self._place("attention_pool"),
            )
            self.attention_pool.build((None, None, hidden_dim))
        if projection_dim:
            self.projection = self._dense(
                "projection",
                projection_dim,
                use_bias=False,
                # Of CLIP's code: vectors that are not short, whose lengths divide.
                initializer=self._normal("projection", hidden_dim**-0.5),
            )
            self.projection.build((None, hidden_dim))
        if pooler:
            self.pool = self._built_dense("pool", hidden_dim, hidden_dim)
        if num_classes:
            self.head = self._built_dense("head", hidden_dim, num_classes)
        self.built = True

    def embedded(self, images):
        """Tokens of the patches with their positions `(B, T, D)`, and the class token.

        The second, `(1, 1, D)`, is not yet in front of them; None where there is none.
        """
        side = self.patch_size
        grid = (images.shape[1] // side, images.shape[2] // side)
        images = ops.cast(images, self.compute_dtype)
        x = self.patches(patchify(images, side))
        first = self.token
        first = None if first is None else ops.cast(first, x.dtype)
        if self.table is not None:
            table = ops.cast(self.table, x.dtype)
            front = int(self.class_token)
            x = x + ops.expand_dims(resized(table[0, front:], self.grid, grid), 0)
            first = None if first is None else first + table[:, :1]
        return x, first

    def call(self, images, keep=None, return_weights=False, training=False):
        """Normalised hidden states.

        Args:
            images: `(B, H, W, C)`, of the model's size or another that the patches
                divide, to which the positions are interpolated.
            keep: int32 `(B, K)`: the only patches that are encoded; None: all.
            return_weights: each block's probabilities of the attention, `(B, N, 1 + T,
                1 + T)`, are returned beside, a list.
            training: whether there is dropout.

        Returns:
            `(B, 1 + T, D)`, the class token first where there is one; then the
            probabilities.
        """
        x, positions = self._tokens(images, keep, training)
        weights = []
        for block in self.blocks:
            outputs = block(
                x, positions=positions, return_weights=return_weights, training=training
            )
            x, _, probabilities = unpacked(outputs, False, return_weights)
            weights.append(probabilities)
        x = self.norm(x)
        return (x, weights) if return_weights else x

    def _tokens(self, images, keep, training):
        """What the first block reads, `(B, 1 + T, D)`, and the rotary positions."""
        side = self.patch_size
        grid = (images.shape[1] // side, images.shape[2] // side)
        x, first = self.embedded(images)
        positions = None
        if self.positions == "rotary":
            positions = ops.convert_to_tensor(grid_positions(grid, self.class_token))
            if keep is not None:
                front = int(self.class_token)
                of_patches = ops.take(positions[front:], keep, axis=0)  # (B, K, 2)
                zeros = ops.zeros_like(of_patches[:, :front])
                positions = ops.concatenate([zeros, of_patches], axis=1)
        if keep is not None:
            x = ops.take_along_axis(x, ops.expand_dims(keep, -1), axis=1)  # (B, K, D)
        if first is not None:
            shape = (ops.shape(x)[0], 1, self.hidden_dim)
            x = ops.concatenate([ops.broadcast_to(first, shape), x], axis=1)
        if self.norm_before is not None:
            x = self.norm_before(x)
        if self.drop is not None:
            x = self.drop(x, training=training)
        return x, positions

    def hidden_states(self, images, training=False):
        """The states `(B, 1 + T, D)` before the first block and after each, a list.

        None is normalised: `network.norm(states[-1])` is what the call returns.
        """
        x, positions = self._tokens(images, None, training)
        states = [x]
        for block in self.blocks:
            states.append(block(states[-1], positions=positions, training=training))
        return states

    def features(self, states):
        """One vector for each image: `(B, 1 + T, D)` -> `(B, D)` or `(B, E)`.

        By attention pooling, or of the class token, or else the mean; with a pooler its
        hyperbolic tangent; with a projection its map.
        """
        if self.attention_pool is not None:
            x = self.attention_pool(states)
        else:
            x = states[:, 0] if self.class_token else ops.mean(states, axis=1)
        x = x if self.pool is None else ops.tanh(self.pool(x))
        return x if self.projection is None else self.projection(x)

    def logits(self, states):
        """`(B, 1 + T, D)` -> `(B, K)`, float32."""
        return widen(self.head(self.features(states)))

    def compute_output_shape(self, shape):
        tokens = (shape[1] // self.patch_size) * (shape[2] // self.patch_size)
        return (shape[0], tokens + self.class_token, self.hidden_dim)


@keras.saving.register_keras_serializable(PACKAGE)
class MAEDecoder(_PatchTransformer):
    """From the hidden states of some patches to the pixels of all (2111.06377).

    Section 3: a mask token, fixed positions, blocks, a linear map.

    Args:
        grid: `(rows, columns)` of the patches.
        pixels: numbers in a patch.
        inputs: channels of the hidden states.
        num_layers, hidden_dim, num_heads, intermediate_dim: of its blocks.
        class_token: whether the hidden states begin with the class token's.
        dropout, attention_dropout, layer_norm_epsilon, remat: see `ViT`.
        seed: integer, the model's.
        stream: name of its weights.
    """

    def __init__(
        self,
        grid,
        pixels,
        inputs,
        num_layers,
        hidden_dim,
        num_heads,
        intermediate_dim,
        class_token=True,
        dropout=0.0,
        attention_dropout=0.0,
        layer_norm_epsilon=1e-6,
        remat=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.grid = tuple(grid)
        self.pixels = pixels
        self.inputs = inputs
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.class_token = class_token
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.remat = remat
        tokens = grid[0] * grid[1] + class_token
        self.embed = self._built_dense("embed", inputs, hidden_dim)
        self.token = self.add_weight(
            name="token", shape=(1, 1, hidden_dim), initializer=self._initial("token")
        )
        self.table = self._positions("table", tokens, hidden_dim, True)
        self.blocks = [
            self._block(f"block_{i}", num_heads, hidden_dim, intermediate_dim)
            for i in range(num_layers)
        ]
        self.norm = self._layer_norm("norm", hidden_dim, layer_norm_epsilon)
        self.predict = self._built_dense("predict", hidden_dim, pixels)
        self.built = True

    def call(self, states, restore, training=False):
        """The pixels of every patch.

        Args:
            states: `(B, 1 + K, D)`, of the patches that were not masked.
            restore: int32 `(B, T)`: the index of each patch among those that were not
                masked and, after them, those that were.
            training: whether there is dropout.

        Returns:
            `(B, T, pixels)`, float32.
        """
        x = self.embed(states)
        front = int(self.class_token)
        batch, tokens = ops.shape(restore)[0], restore.shape[1]
        masked = tokens + front - x.shape[1]
        token = ops.cast(self.token, x.dtype)
        tail = ops.broadcast_to(token, (batch, masked, self.hidden_dim))
        body = ops.concatenate([x[:, front:], tail], axis=1)  # (B, T, D)
        body = ops.take_along_axis(body, ops.expand_dims(restore, -1), axis=1)
        x = ops.concatenate([x[:, :1], body], axis=1) if front else body
        x = x + ops.cast(self.table, x.dtype)
        for block in self.blocks:
            x = block(x, training=training)
        return widen(self.predict(self.norm(x))[:, front:])

    def compute_output_shape(self, hidden_shape, restore_shape):
        return (*restore_shape, self.pixels)
