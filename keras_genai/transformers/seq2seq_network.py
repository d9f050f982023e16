"""The encoder and decoder of 1706.03762."""

import math

import keras
from keras import ops

from keras_genai.backend.precision import widen
from keras_genai.layers import Dropout, TransformerBlock
from keras_genai.layers.composite import CompositeLayer
from keras_genai.layers.initializers import normal_or_uniform
from keras_genai.layers.positions import PositionEmbedding
from keras_genai.layers.transformer_block import tied_logits
from keras_genai.utils.checks import check_length
from keras_genai.utils.serialization import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class Seq2SeqNetwork(CompositeLayer):
    """A source's tokens and a target's, to the logits of the target's next ones.

    Figure 1 of 1706.03762. One table of vectors is that of both languages and of the
    logits (section 3.4).

    Args:
        vocabulary_size, max_sequence_length, num_layers, decoder_num_layers,
        hidden_dim, num_heads, intermediate_dim, activation, norm_first,
        layer_norm_epsilon, positions, scale_embedding, logits_bias,
        dropout, attention_dropout, hidden_dropout, remat: see `Translator`.
        seed: integer, the model's.
        stream: name of the place.
    """

    def __init__(
        self,
        vocabulary_size,
        max_sequence_length,
        num_layers,
        decoder_num_layers,
        hidden_dim,
        num_heads,
        intermediate_dim,
        activation="relu",
        norm_first=False,
        layer_norm_epsilon=1e-5,
        positions="sinusoidal",
        scale_embedding=True,
        logits_bias=False,
        dropout=0.1,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        remat=False,
        **kwargs,
    ):
        std = hidden_dim**-0.5  # scaled up, as large as the positions'
        super().__init__(initializer=normal_or_uniform(std), **kwargs)
        self.vocabulary_size = vocabulary_size
        self.max_sequence_length = max_sequence_length
        self.num_layers = num_layers
        self.decoder_num_layers = decoder_num_layers
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.activation = activation
        self.norm_first = norm_first
        self.layer_norm_epsilon = layer_norm_epsilon
        self.positions = positions
        self.scale_embedding = scale_embedding
        self.logits_bias = logits_bias
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.hidden_dropout = hidden_dropout
        self.remat = remat
        self.table = self._table("table", vocabulary_size, hidden_dim)
        self.places = PositionEmbedding(
            max_sequence_length, hidden_dim, positions, **self._place("places")
        )
        self.drop = Dropout(dropout, **self._place("dropout")) if dropout else None
        self.encoder = [
            self._block(f"encoder_{i}", hidden_dim, {}, False)
            for i in range(num_layers)
        ]
        self.decoder = [
            self._block(f"decoder_{i}", hidden_dim, {"causal": True}, True)
            for i in range(decoder_num_layers)
        ]
        self.encoder_norm = self.decoder_norm = None
        if norm_first:
            self.encoder_norm = self._layer_norm(
                "encoder_norm", hidden_dim, layer_norm_epsilon
            )
            self.decoder_norm = self._layer_norm(
                "decoder_norm", hidden_dim, layer_norm_epsilon
            )
        self.bias = None
        if logits_bias:
            # Published networks hold one that was never trained here or there.
            self.bias = self.add_weight(
                name="logits_bias",
                shape=(1, vocabulary_size),
                initializer="zeros",
                trainable=False,
            )
        self.built = True

    def _block(self, name, hidden_dim, attention, cross):
        block = TransformerBlock(
            self.num_heads,
            self.intermediate_dim,
            self.activation,
            norm_first=self.norm_first,
            epsilon=self.layer_norm_epsilon,
            cross=cross,
            dropout=self.dropout,
            hidden_dropout=self.hidden_dropout,
            attention={**attention, "dropout": self.attention_dropout},
            remat=self.remat,
            # Of Xavier's deviation for a square matrix (1706.03762's own code).
            initial_std=hidden_dim**-0.5,
            out_std=(2.0 / (hidden_dim + self.intermediate_dim)) ** 0.5,
            **self._place(name),
        )
        shape = (None, None, hidden_dim)
        block.build(shape, shape if cross else None)
        return block

    def embedded(self, tokens, first=0, training=False):
        """Vectors with their places: `(B, T)` -> `(B, T, C)`.

        Args:
            tokens: int32.
            first: place of the first, an integer or an int32 scalar.
            training: whether there is dropout.
        """
        if isinstance(first, int) and first == 0:
            check_length(tokens, self.max_sequence_length)
        x = self.table(tokens)
        if self.scale_embedding:
            x = x * ops.cast(math.sqrt(self.hidden_dim), x.dtype)
        places = ops.arange(ops.shape(tokens)[1], dtype="int32")
        x = x + self.places(places + ops.cast(first, "int32"))
        return x if self.drop is None else self.drop(x, training=training)

    def encode(self, source, mask, training=False):
        """Hidden states `(B, S, C)` of a source `(B, S)`; the mask is bool `(B, S)`."""
        x = self.embedded(source, training=training)
        for block in self.encoder:
            x = block(x, mask=mask, training=training)
        return x if self.encoder_norm is None else self.encoder_norm(x)

    def decode(
        self,
        target,
        context,
        mask,
        cache=None,
        cache_index=None,
        context_cache=None,
        return_weights=False,
        training=False,
    ):
        """Hidden states of a target's tokens, given a source's.

        Args:
            target: int32 `(B, T)`.
            context: `(B, S, C)`, or None with a `context_cache`.
            mask: bool `(B, S)`, False where the source is padded.
            cache, cache_index, context_cache: of all blocks, see `TransformerBlock`.
            return_weights: whether the probabilities are returned.
            training: whether there is dropout.

        Returns:
            `(x, cache, weights)`: `(B, T, C)`; the new cache, empty without a
            `cache_index`; each block's probabilities of the source's tokens, a list of
            `(B, N, T, S)`, empty where they are not returned.
        """
        first = 0 if cache_index is None else cache_index
        x = self.embedded(target, first, training)
        caches, weights = [], []
        for i, block in enumerate(self.decoder):
            made = block(
                x,
                context,
                context_mask=mask,
                cache=None if cache is None else cache[i],
                cache_index=cache_index,
                context_cache=None if context_cache is None else context_cache[i],
                return_weights=return_weights,
                training=training,
            )
            if cache_index is None and not return_weights:
                x = made
                continue
            x, *more = made
            if return_weights:
                weights.append(more.pop())
            if more:
                caches.append(more.pop())
        x = x if self.decoder_norm is None else self.decoder_norm(x)
        return x, tuple(caches), weights

    def logits(self, x):
        """`(..., C)` -> `(..., V)`, float32."""
        table = ops.cast(self.table.embeddings, x.dtype)
        y = tied_logits(x, table)
        return y if self.bias is None else y + widen(self.bias[0])

    def context_caches(self, context):
        """The keys and values that the decoder's blocks make of a source, once."""
        return tuple(b.cross_attention.cache_of(context) for b in self.decoder)

    def empty_cache(self, batch, length):
        return tuple(block.empty_cache(batch, length) for block in self.decoder)

    def call(self, source, target, mask=None, training=False):
        """Logits `(B, T, V)` of a source `(B, S)` and a target's tokens `(B, T)`.

        Args:
            source: integers.
            target: integers; the first is the one that a text begins with.
            mask: bool `(B, S)`, False where the source is padded; None: all is seen.
            training: whether there is dropout.
        """
        source, target = ops.cast(source, "int32"), ops.cast(target, "int32")
        mask = None if mask is None else ops.cast(mask, "bool")
        context = self.encode(source, mask, training)
        x, _, _ = self.decode(target, context, mask, training=training)
        return self.logits(x)

    def compute_mask(self, inputs, previous_mask):
        """None: what follows is told what is padding, not left to find out."""

    def compute_output_shape(self, source_shape, target_shape, *others):
        return (*target_shape, self.vocabulary_size)
