"""The network of BERT (1810.04805): an encoder of tokens, and its heads."""

import keras
from keras import ops

from keras_genai import backend
from keras_genai.backend.precision import widen
from keras_genai.layers import Dropout, TransformerBlock
from keras_genai.layers.composite import INITIAL_STD, CompositeLayer
from keras_genai.layers.initializers import normal_or_uniform
from keras_genai.layers.transformer_block import tied_logits
from keras_genai.utils.checks import check_length
from keras_genai.utils.serialization import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class BERTNetwork(CompositeLayer):
    """Tokens to hidden states, and what the heads make of these.

    Section 3 and figure 2 of 1810.04805: the sum of the vectors of token, place and
    sentence, normalised; then blocks with their normalizations behind.

    Args:
        vocabulary_size, max_sequence_length, num_layers, hidden_dim, num_heads,
        intermediate_dim, token_types,
        dropout, attention_dropout, layer_norm_epsilon, remat: see `BERT`.
        pooler: whether there is the dense layer over the first token.
        masked_lm: whether there is the head of the masked tokens.
        next_sentence: whether there is that of the next sentence.
        num_classes: number of classes of the classifier, or None.
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
        token_types=2,
        dropout=0.1,
        attention_dropout=0.1,
        layer_norm_epsilon=1e-12,
        remat=False,
        pooler=True,
        masked_lm=True,
        next_sentence=True,
        num_classes=None,
        **kwargs,
    ):
        super().__init__(initializer=normal_or_uniform(INITIAL_STD), **kwargs)
        self.vocabulary_size = vocabulary_size
        self.max_sequence_length = max_sequence_length
        self.num_layers = num_layers
        self.hidden_dim = hidden_dim
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.token_types = token_types
        self.dropout = dropout
        self.attention_dropout = attention_dropout
        self.layer_norm_epsilon = layer_norm_epsilon
        self.remat = remat
        self.pooler = pooler
        self.masked_lm = masked_lm
        self.next_sentence = next_sentence
        self.num_classes = num_classes
        self.tokens = self._table("tokens", vocabulary_size, hidden_dim)
        self.positions = self._table(
            "positions", max_sequence_length, hidden_dim, "Positions"
        )
        self.types = self._table("types", token_types, hidden_dim, "token_types")
        self.norm = self._layer_norm("norm", hidden_dim, layer_norm_epsilon)
        self.drop = Dropout(dropout, **self._place("dropout")) if dropout else None
        self.blocks = []
        for i in range(num_layers):
            block = TransformerBlock(
                num_heads,
                intermediate_dim,
                "gelu",
                norm_first=False,
                epsilon=layer_norm_epsilon,
                dropout=dropout,
                attention={"dropout": attention_dropout},
                remat=remat,
                initial_std=INITIAL_STD,
                **self._place(f"block_{i}"),
            )
            block.build((None, None, hidden_dim))
            self.blocks.append(block)
        self.pool = self.transform = self.next = self.classifier = None
        if pooler:
            self.pool = self._built_dense("pool", hidden_dim, hidden_dim)
        if masked_lm:
            self.transform = self._built_dense("transform", hidden_dim, hidden_dim)
            self.transform_norm = self._layer_norm(
                "transform_norm", hidden_dim, layer_norm_epsilon
            )
            self.bias = self.add_weight(
                name="bias", shape=(vocabulary_size,), initializer="zeros"
            )
        if next_sentence:
            self.next = self._built_dense("next", hidden_dim, 2)
        if num_classes:
            self.classifier = self._built_dense("classifier", hidden_dim, num_classes)
            # The published fine-tuning drops here once more.
            if dropout:
                self.class_drop = Dropout(dropout, **self._place("class_dropout"))
        self.built = True

    def call(self, tokens, token_types=None, mask=None, training=False):
        """Hidden states.

        Args:
            tokens: integers `(B, T)`.
            token_types: integers `(B, T)`: which sentence; None: all the first.
            mask: `(B, T)`, zero where there is padding; None: all is seen.
            training: whether there is dropout.

        Returns:
            `(B, T, C)`.
        """
        tokens = ops.cast(tokens, "int32")
        check_length(tokens, self.max_sequence_length)
        x = self.tokens(tokens)  # (B, T, C)
        if token_types is None:
            token_types = ops.zeros_like(tokens)
        x = x + self.types(ops.cast(token_types, "int32"))
        x = x + self.positions(ops.arange(ops.shape(tokens)[1], dtype="int32"))
        x = self.norm(x)
        if self.drop is not None:
            x = self.drop(x, training=training)
        seen = None if mask is None else ops.cast(mask, "bool")
        for block in self.blocks:
            x = block(x, mask=seen, training=training)
        return x

    def pooled(self, states):
        """`tanh(W h + b)` of the first token: `(B, T, C)` -> `(B, C)`."""
        return ops.tanh(self.pool(states[:, 0]))

    def mlm(self, states):
        """Logits of every place's token: `(B, T, C)` -> `(B, T, V)`, float32.

        The matrix is the table of the tokens.
        """
        x = backend.gelu(self.transform(states))
        x = self.transform_norm(x)
        table = ops.cast(self.tokens.embeddings, x.dtype)  # (V, C)
        return tied_logits(x, table) + widen(self.bias)

    def nsp(self, states):
        """Logits of "follows" and "does not": `(B, T, C)` -> `(B, 2)`, float32."""
        return widen(self.next(self.pooled(states)))

    def classify(self, states, training=False):
        """Logits of the classes: `(B, T, C)` -> `(B, K)`, float32."""
        x = self.pooled(states)
        if self.dropout:
            x = self.class_drop(x, training=training)
        return widen(self.classifier(x))

    def compute_output_shape(self, tokens_shape, *others):
        return (*tokens_shape, self.hidden_dim)
