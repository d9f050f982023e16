"""The network of a GPT: tokens in, the next token's logits out."""

import keras
from keras import ops

from keras_genai.backend.precision import widen
from keras_genai.layers.attention import normalization
from keras_genai.layers.composite import INITIAL_STD, CompositeLayer
from keras_genai.layers.dropout import Dropout
from keras_genai.layers.initializers import normal_or_uniform
from keras_genai.layers.positions import PositionEmbedding
from keras_genai.layers.transformer_block import (
    TransformerBlock,
    initial_stds,
    tied_logits,
)
from keras_genai.utils.checks import check_heads, check_length, check_positive
from keras_genai.utils.serialization import PACKAGE

POSITIONS = ("learned", "sinusoidal", "rotary", "alibi", "none")


@keras.saving.register_keras_serializable(PACKAGE)
class GPTNetwork(CompositeLayer):
    """A stack of causal transformer blocks between a table of tokens and its logits.

    Args:
        vocabulary_size, max_sequence_length, num_layers, hidden_dim, num_heads,
        intermediate_dim, activation, norm, layer_norm_epsilon, positions, rope_theta,
        rope_scaling, num_key_value_heads, head_dim, use_bias, tie_word_embeddings,
        sliding_window, qk_norm, dropout, attention_dropout, remat: see `GPT`.
        causal: whether a token attends to none after it. False is an encoder, such as
            SigLIP's of texts.
        initialization: `"gpt2"` or `"clip"`, see `initial_stds`.
        seed: integer, the model's.
        stream: name of the place.
    """

    def __init__(
        self,
        vocabulary_size,
        max_sequence_length,
        num_layers,
        hidden_dim,
        num_heads,
        intermediate_dim,
        activation,
        norm,
        layer_norm_epsilon,
        positions,
        rope_theta,
        num_key_value_heads,
        head_dim,
        use_bias,
        tie_word_embeddings,
        sliding_window,
        qk_norm,
        dropout,
        attention_dropout,
        remat,
        rope_scaling=None,
        causal=True,
        initialization="gpt2",
        **kwargs,
    ):
        super().__init__(initializer=normal_or_uniform(INITIAL_STD), **kwargs)
        self.supports_masking = True  # see compute_mask
        self.vocabulary_size = vocabulary_size
        self.max_sequence_length = max_sequence_length
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.activation = activation
        self.norm = norm
        self.layer_norm_epsilon = layer_norm_epsilon
        self.positions = positions
        self.rope_theta = rope_theta
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim
        self.use_bias = use_bias
        self.tie_word_embeddings = tie_word_embeddings
        self.sliding_window = sliding_window
        self.qk_norm = qk_norm
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.remat = remat
        self.rope_scaling = rope_scaling
        self.causal = causal
        self.initialization = initialization
        for name in (
            "vocabulary_size",
            "max_sequence_length",
            "num_layers",
            "hidden_dim",
            "num_heads",
        ):
            check_positive(name, getattr(self, name))
        if positions not in POSITIONS:
            raise ValueError(
                f"positions must be one of {', '.join(POSITIONS)}; got {positions!r}."
            )
        if rope_scaling is not None and positions != "rotary":
            raise ValueError(
                f"rope_scaling is of rotary positions; positions is {positions!r}."
            )
        if head_dim is None:
            check_heads(num_heads, hidden_dim)
        stds = initial_stds(initialization, hidden_dim, num_layers)
        self.embedding = self._table("embedding", vocabulary_size, hidden_dim)
        self.position = None
        if positions in ("learned", "sinusoidal"):
            self.position = PositionEmbedding(
                max_sequence_length,
                hidden_dim,
                positions,
                INITIAL_STD / 2 if initialization == "clip" else INITIAL_STD,
                **self._place("position"),
            )
        self.drop = Dropout(dropout, **self._place("dropout")) if dropout else None
        self.blocks = [
            TransformerBlock(
                num_heads,
                intermediate_dim,
                activation,
                norm=norm,
                epsilon=layer_norm_epsilon,
                use_bias=use_bias,
                dropout=dropout,
                attention={
                    "causal": causal,
                    "num_key_value_heads": num_key_value_heads,
                    "head_dim": head_dim,
                    "sliding_window": sliding_window,
                    "qk_norm": qk_norm,
                    "dropout": attention_dropout,
                    "alibi": positions == "alibi",
                    "rotary": rope_theta if positions == "rotary" else None,
                    "rotary_scaling": rope_scaling,
                },
                remat=remat,
                **stds,
                **self._place(f"block_{i}"),
            )
            for i in range(num_layers)
        ]
        self.norm_last = normalization(
            norm, layer_norm_epsilon, self.dtype_policy, "norm"
        )
        self.head = None
        if not tie_word_embeddings:
            self.head = self._dense("head", vocabulary_size, use_bias=False)
        self.build()

    def build(self, input_shape=None):
        shape = (None, None, self.hidden_dim)
        for layer in (*self.blocks, self.norm_last):
            layer.build(shape)
        if self.head is not None:
            self.head.build(shape)
        self.built = True

    def embedded(self, tokens, positions, training=False):
        """What the first block reads, `(B, T, C)`; the positions as `hidden_states`."""
        x = self.embedding(tokens)  # (B, T, C)
        if self.position is not None:
            x = x + self.position(positions)
        return x if self.drop is None else self.drop(x, training=training)

    def hidden_states(
        self,
        tokens,
        mask=None,
        positions=None,
        cache=None,
        cache_index=None,
        training=False,
    ):
        """What the head reads, and the new cache.

        Args:
            tokens: integers `(B, T)`.
            mask: bool `(B, S)`, False where a token is padding; S is T, or the length
                of the cache.
            positions: integers `(T,)` or `(B, T)`; by default the places.
            cache, cache_index: see `Attention.call`; of all blocks, a tuple.

        Returns:
            `(x, cache)`: `(B, T, C)`, and None without a `cache_index`.
        """
        if self.position is not None and cache is None:
            check_length(tokens, self.max_sequence_length)
        if positions is None and self.position is not None:
            first = 0 if cache_index is None else ops.cast(cache_index, "int32")
            positions = ops.arange(ops.shape(tokens)[1], dtype="int32") + first
        x = self.embedded(tokens, positions, training)
        made = []
        for i, block in enumerate(self.blocks):
            x = block(
                x,
                mask=mask,
                positions=positions,
                cache=None if cache is None else cache[i],
                cache_index=cache_index,
                training=training,
            )
            if cache_index is not None:
                x, new = x
                made.append(new)
        return self.norm_last(x), (None if cache_index is None else tuple(made))

    def logits(self, x):
        """Of what `hidden_states` made: `(..., C)` to wide `(..., V)`."""
        if self.head is not None:
            return widen(self.head(x))
        table = ops.cast(self.embedding.embeddings, self.compute_dtype)
        return tied_logits(ops.cast(x, self.compute_dtype), table)

    def empty_cache(self, batch, length):
        """The cache of all blocks, of no tokens yet: see `Attention.empty_cache`."""
        return tuple(block.empty_cache(batch, length) for block in self.blocks)

    def call(self, tokens, mask=None, positions=None, training=False):
        x, _ = self.hidden_states(tokens, mask, positions, training=training)
        return self.logits(x)

    def compute_mask(self, inputs, previous_mask):
        """None: what follows is told what is padding, not left to find out."""

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.vocabulary_size)
