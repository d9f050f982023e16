"""GPT: a decoder-only language model (Radford and others, 2018 and 2019).

GPT-2 as it was published, and by arguments what came after: root-mean-square
normalization (1910.07467), rotary positions (2104.09864), SwiGLU (2002.05202) and
grouped queries (2305.13245), which together are Llama (2302.13971) and its kind.
"""

import math

import keras
import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.backend import random, replicas
from keras_genai.backend.precision import dtype_policy
from keras_genai.layers.transformer_block import GATED
from keras_genai.losses.reduction import weighted_mean
from keras_genai.training import Model
from keras_genai.training.compiled import Range
from keras_genai.training.optimizer import decaying
from keras_genai.training.tuning import Tuning
from keras_genai.transformers import text_generation
from keras_genai.transformers.gpt_network import GPTNetwork
from keras_genai.transformers.logits_processors import NUMBERS, SamplingConfig
from keras_genai.transformers.padding import not_padding, pad_rows, positions_of
from keras_genai.transformers.prompts import Prompts
from keras_genai.transformers.tokenizers import Tokenizer
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_tokens, sizes_of
from keras_genai.utils.serialization import PACKAGE, configuration
from keras_genai.utils.validation import (
    either,
    flag,
    integer,
    mapping,
    network,
    number,
    optional,
    prompts,
    text,
    tuple_of,
    word,
)
from keras_genai.weights.pretrained import Pretrained

# Blocks, channels, heads: table 2 of "Language models are unsupervised multitask
# learners" (2019), with the heads of its code.
SIZES = {
    "small": (12, 768, 12),
    "medium": (24, 1024, 16),
    "large": (36, 1280, 20),
    "xl": (48, 1600, 25),
}
VOCABULARY = 50_257
STOP = 50_256  # <|endoftext|>


@keras.saving.register_keras_serializable(PACKAGE)
class GPT(Tuning, Pretrained, Model):
    """A language model that learns the next token, weight for weight GPT-2 or Llama.

    `fit(tokens)` takes token ids `(N, T)` and minimises the mean negative
    log-likelihood, in nats, of each token given those before it in its row; T is at
    most `max_sequence_length + 1`, since the last token of a row is only predicted. The
    logs show the loss, the perplexity and the bits of a token. Rows are right-padded
    with `pad_token_id`, which does not count; where it is a `eos_token_id` too, the
    first after a text ends that text and counts. `sample_weight` `(N,)` or `(N, T)`
    weighs rows or tokens.

    Published weights (`from_pretrained`, `save_pretrained`): transformers' GPT-2, or
    Llama and its kind. A tokenizer in the folder is taken along, and what its
    `generation_config.json` says.

    Args:
        size: `"small"` (124 million weights), `"medium"`, `"large"` or `"xl"`. The
            three arguments below, where given, stand for what it says.
        num_layers: number of blocks.
        hidden_dim: C, channels.
        num_heads: of the attention; it must divide `hidden_dim` unless there is a
            `head_dim`.
        intermediate_dim: channels inside the feed-forward; by default `4 * hidden_dim`,
            and two thirds of that with a gate.
        vocabulary_size: V; by default the tokenizer's, or 50257.
        max_sequence_length: most tokens that it sees.
        activation: see `kg.layers.FeedForward`: `"gelu_tanh"`, or `"swiglu"`.
        norm: `"layer"` or `"rms"`.
        layer_norm_epsilon: of the normalizations.
        positions: `"learned"`, `"rotary"`, `"alibi"`, `"sinusoidal"` or `"none"`.
        rope_theta: base of the rotary frequencies.
        rope_scaling: None, or how these change for texts longer than those learned, as
            transformers' configurations say it: `{"rope_type": "linear", "factor": 2}`,
            or Llama 3's (see `keras_genai.layers.positions.rotary_frequencies`).
        num_key_value_heads: heads of keys and values, shared by groups of queries.
        head_dim: channels of a head; by default `hidden_dim / num_heads`.
        use_bias: whether the dense layers of the blocks have biases.
        tie_word_embeddings: whether the table of the tokens is the head too.
        sliding_window: how many tokens one sees, its own and those before; None for
            all.
        qk_norm: `"rms"` or `"layer"` normalization of queries and keys, or None.
        dropout: rate in training, in [0, 1), of embeddings and shortcuts.
        attention_dropout: that of the attention's probabilities; by default as
            `dropout`.
        remat: computes the blocks again for the gradient: less memory, more time.
        tokenizer: a `kg.Tokenizer`; then prompts may be texts.
        pad_token_id: padding id, or None: by default the tokenizer's.
        eos_token_id: id that ends a text, or a tuple of such, with the first of which a
            text begins that has no prompt; by default the tokenizer's, or GPT-2's with
            its vocabulary.
        ema_decay: decay of the average of the weights that writes, or None.
        seed: integer >= 0.

    Raises:
        ValueError: for an argument out of range, before any work.

    Example:

    ```python
    tokenizer = kg.Tokenizer.characters([text])
    model = kg.GPT(
        num_layers=4, hidden_dim=128, num_heads=4, max_sequence_length=64,
        tokenizer=tokenizer,
    )
    model.compile()                                     # AdamW(6e-4), clipped
    model.fit(rows, batch_size=12, epochs=1)            # (N, 65) of token ids
    model.generate("ROMEO:", max_new_tokens=200, temperature=0.8, seed=0)
    llama = kg.GPT(
        num_layers=6, hidden_dim=288, num_heads=6, vocabulary_size=32000, **kg.GPT.LLAMA
    )
    ```
    """

    unit_name = "text"
    weights_module = "gpt"
    tokenizer_class = Tokenizer
    max_shard_size = "50GB"

    LLAMA = {
        "norm": "rms",
        "positions": "rotary",
        "activation": "swiglu",
        "use_bias": False,
        "tie_word_embeddings": False,
    }
    # All of the network's but one: this is a GPT, and causal.
    _NETWORK = tuple(  # the others are of the towers of CLIP and SigLIP
        name
        for name in GPTNetwork.arguments()
        if name not in ("causal", "initialization")
    )
    _ARGUMENTS = (*_NETWORK, "pad_token_id", "eos_token_id", "ema_decay")

    @checked(
        size=text,
        intermediate_dim=integer(1),
        activation=text,
        norm=text,
        positions=text,
        rope_scaling=mapping,
        sliding_window=either(integer(1), tuple_of(optional(integer(1)))),
        eos_token_id=either(integer(), tuple_of(integer())),
    )
    def __init__(
        self,
        size="small",
        *,
        num_layers=None,
        hidden_dim=None,
        num_heads=None,
        intermediate_dim=None,
        vocabulary_size=None,
        max_sequence_length=1024,
        activation="gelu_tanh",
        norm="layer",
        layer_norm_epsilon=1e-5,
        positions="learned",
        rope_theta=10_000.0,
        rope_scaling=None,
        num_key_value_heads=None,
        head_dim=None,
        use_bias=True,
        tie_word_embeddings=True,
        sliding_window=None,
        qk_norm=None,
        dropout=0.0,
        attention_dropout=None,
        remat=False,
        tokenizer=None,
        pad_token_id=None,
        eos_token_id=None,
        ema_decay=None,
        seed=0,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        self.supports_masking = True  # see compute_mask
        sizes = sizes_of(
            size,
            SIZES,
            num_layers=num_layers,
            hidden_dim=hidden_dim,
            num_heads=num_heads,
        )
        self.num_layers = sizes["num_layers"]
        self.hidden_dim = sizes["hidden_dim"]
        self.num_heads = sizes["num_heads"]
        if intermediate_dim is None:
            gated = activation in GATED
            intermediate_dim = (
                8 * self.hidden_dim // 3 if gated else 4 * self.hidden_dim
            )
        self.intermediate_dim = intermediate_dim
        if vocabulary_size is None:
            known = VOCABULARY if tokenizer is None else tokenizer.vocabulary_size
            vocabulary_size = known
        self.vocabulary_size = vocabulary_size
        self.max_sequence_length = max_sequence_length
        self.activation = activation
        self.norm = norm
        self.layer_norm_epsilon = layer_norm_epsilon
        self.positions = positions
        self.rope_theta = rope_theta
        self.rope_scaling = rope_scaling
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim
        self.use_bias = use_bias
        self.tie_word_embeddings = tie_word_embeddings
        self.sliding_window = sliding_window
        self.qk_norm = qk_norm
        self.dropout = float(dropout)
        if attention_dropout is None:
            attention_dropout = self.dropout
        self.attention_dropout = attention_dropout
        self.remat = remat
        self.tokenizer = tokenizer
        self._set_tokens(pad_token_id, eos_token_id)
        self.ema_decay = ema_decay
        with dtype_policy(kwargs.get("dtype")):
            self.network = GPTNetwork(
                **{name: getattr(self, name) for name in self._NETWORK},
                seed=self.seed,
                stream="gpt",
                name="network",
            )
        self.set_players("network", ema="network", ema_decay=ema_decay)

    def _set_tokens(self, pad_token_id, eos_token_id):
        """Takes those of the tokenizer where none are given; refuses unknown ones."""
        tokenizer = self.tokenizer
        if tokenizer is not None:
            tokenizer.check_fits(self.vocabulary_size, "the model")
            pad_token_id = (
                tokenizer.pad_token_id if pad_token_id is None else pad_token_id
            )
            eos_token_id = (
                tokenizer.eos_token_id if eos_token_id is None else eos_token_id
            )
        elif eos_token_id is None and self.vocabulary_size == VOCABULARY:
            eos_token_id = STOP
        if isinstance(eos_token_id, (list, tuple)):
            eos_token_id = tuple(eos_token_id)
        self.pad_token_id = pad_token_id
        self.eos_token_id = eos_token_id
        tokens = [("pad_token_id", pad_token_id)]
        tokens += [("eos_token_id", token) for token in self.stop_tokens]
        for name, token in tokens:
            if token is not None and token not in range(self.vocabulary_size):
                raise ValueError(
                    f"{name} must be a token of the vocabulary, in [0, "
                    f"vocabulary_size={self.vocabulary_size}), or None; got {token!r}."
                )

    def check_data(self, x, condition, weight):
        check_tokens(x, self.vocabulary_size)
        if not 2 <= x.shape[1] <= self.max_sequence_length + 1:
            raise ValueError(
                f"Rows must have 2 to {self.max_sequence_length + 1} tokens, "
                f"max_sequence_length and one to predict; got {x.shape[1]}. Cut the "
                "text into such rows."
            )
        if condition is not None:
            raise ValueError(
                "The targets are the tokens themselves, moved by one: fit(tokens)."
            )
        if weight is not None and np.shape(weight) not in ((len(x),), x.shape):
            raise ValueError(
                f"sample_weight must have the shape ({len(x)},), one for each row, or "
                f"{x.shape}, one for each token; got {np.shape(weight)}."
            )

    # Training

    def default_optimizer(self, player):
        """AdamW(6e-4), betas 0.9 and 0.95, decay 0.1 of matrices, clipped to norm 1.

        The setting of 2005.14165, appendix B, for the smallest model.
        """
        del player
        optimizer = keras.optimizers.AdamW(
            6e-4, weight_decay=0.1, beta_2=0.95, global_clipnorm=1.0
        )
        return decaying(optimizer, self.network.variables)

    def token_losses(self, tokens, weight=None, training=False):
        """The loss of each token after the first, and what it counts.

        Args:
            tokens: integers `(B, T)`.
            weight: `(B,)`, `(B, T)` or None.
            training: whether there is dropout.

        Returns:
            `(losses, weights)`, each float `(B, T - 1)`.
        """
        tokens = ops.cast(tokens, "int32")
        logits = self.network(tokens[:, :-1], training=training)  # (B, T - 1, V)
        targets = tokens[:, 1:]
        losses = backend.cross_entropy(targets, logits)
        return losses, self._token_weights(tokens, weight, losses.dtype)

    def _token_weights(self, tokens, weight, dtype="float32"):
        """What each token after the first counts, `(B, T - 1)`."""
        weights = ops.ones_like(tokens[:, 1:], dtype=dtype)
        if weight is not None:
            # TensorFlow may not know the rank; one column is broadcast.
            weight = ops.reshape(weight, (ops.shape(tokens)[0], -1))
            weight = weight[:, -(ops.shape(tokens)[1] - 1) :]
            weights = weights * ops.cast(weight, dtype)
        if self.pad_token_id is not None:
            counts = not_padding(tokens, self.pad_token_id, self.stop_tokens)[:, 1:]
            weights = weights * ops.cast(counts, dtype)
        return weights

    def train_step(self, data):
        tokens, _, weight = data

        def loss(tokens, weight):
            losses, weights = self.token_losses(tokens, weight, training=True)
            whole = replicas.normalizer(ops.sum(weights))
            return weighted_mean(losses, weights, whole)

        weights = self._token_weights(ops.cast(tokens, "int32"), weight)
        with replicas.counted(ops.shape(tokens)[0], weights):  # by its tokens
            self.minimize("network", loss, tokens, weight)

    def test_step(self, data):
        tokens, _, weight = data
        losses, weights = self.run_averaged(
            "network", lambda: self.token_losses(tokens, weight)
        )
        mean = weighted_mean(losses, weights)
        self.track("network", mean, samples=ops.sum(weights))

    def logs(self):
        logs = super().logs()
        return {
            **logs,
            "perplexity": ops.exp(logs["loss"]),
            "bits_per_token": logs["loss"] / math.log(2.0),
        }

    # Configuration and files

    def get_config(self):
        return configuration(self, self._ARGUMENTS, ["tokenizer"])

    # Inference and export

    def call(self, tokens, mask=None, training=False):
        """The logits of each token's next one, by the average where one is kept.

        Args:
            tokens: integers `(B, T)`.
            mask: bool `(B, T)`, False where a row is padded at its beginning.

        Returns:
            `(B, T, V)`, in float32.
        """
        positions = None
        if mask is not None:
            mask = ops.cast(mask, "bool")
            positions = positions_of(mask)
        return self.run_averaged(
            "network",
            lambda: self.network(
                ops.cast(tokens, "int32"),
                mask=mask,
                positions=positions,
                training=training,
            ),
        )

    def compute_mask(self, inputs, previous_mask):
        """None: what follows is told what is padding, not left to find out."""

    def sampling_variables(self):
        return self.averaged_variables("network")

    # Text generation

    @checked(
        prompts=either(integer(1, 10**6), prompts),
        stop=either(word, tuple_of(text, least=0)),
        temperature=number(">= 0"),
        top_k=integer(1),
        top_p=number("(0, 1]"),
        min_p=number("[0, 1]"),
        repetition_penalty=number("> 0"),
        no_repeat_ngram_size=integer(1),
        length_penalty=number(),
        penalty_alpha=number("[0, 1]"),
        draft_model=network,
        draft_tokens=integer(1, 1000),
        stream=flag,
    )
    def generate(
        self,
        prompts,
        max_new_tokens=None,
        seed=0,
        *,
        temperature=1.0,
        top_k=None,
        top_p=None,
        min_p=None,
        repetition_penalty=1.0,
        no_repeat_ngram_size=None,
        num_beams=None,
        length_penalty=1.0,
        early_stopping=False,
        penalty_alpha=None,
        draft_model=None,
        draft_tokens=4,
        stop=(),
        stream=False,
        batch_size=64,
        verbose=0,
    ):
        """Writes on from prompts, or from nothing.

        Row i depends on the seed, its prompt and i alone, not on `batch_size`.

        Args:
            prompts: integers `(N, T)`; a list of lists of them, of any lengths; with a
                tokenizer a string or a list of strings; or the number of texts to write
                that begin with `eos_token_id`.
            max_new_tokens: by default as many as the context leaves each prompt room
                for.
            seed: integer >= 0.
            temperature: the logits are divided by it; 0 takes the most probable token.
            top_k: draws from that many of the most probable tokens.
            top_p: draws from the most probable tokens that together have that
                probability (1904.09751).
            min_p: draws from the tokens at least that many times as probable as the
                most probable one (2407.01082).
            repetition_penalty: over 1 makes what occurred less probable (1909.05858).
            no_repeat_ngram_size: no sequence of that many tokens occurs twice.
            num_beams: K, searches for the most probable text by K beams instead of
                drawing: see `decoding.beam_search`.
            length_penalty: of beams: over 0 prefers longer texts.
            early_stopping: of beams: whether K ended ones are enough.
            penalty_alpha: the penalty in [0, 1] of contrastive search (2202.06417),
                among `top_k` tokens, instead of drawing.
            draft_model: a smaller `GPT` of the same vocabulary that proposes tokens, of
                which this model takes those that it would have drawn (2211.17192): the
                same distribution (with temperature 0 the same text), in fewer steps.
            draft_tokens: how many it proposes at a time.
            stop: strings that end a text, beside the `eos_token_id`; they are not in
                it.
            stream: an iterator is returned of the pieces of what is written on from one
                prompt, as they come: strings, or token ids.
            batch_size: rows in one pass.
            verbose: 1 prints what is written on from a single prompt as it comes, or
                shows a progress bar of several.

        Returns:
            Of strings, strings: prompt and continuation. Of lists, a list of NumPy
            arrays that end where the text ends. Else NumPy int32 `(N, T + new)`, padded
            with `pad_token_id` or `eos_token_id`.

        Raises:
            ValueError: for arguments that are out of range or contradict each other,
                tokens outside the vocabulary, and prompts that are empty or too long.
        """
        config = SamplingConfig(
            temperature, top_k, top_p, min_p, repetition_penalty, no_repeat_ngram_size
        )
        return text_generation.generate(
            self,
            prompts,
            config,
            max_new_tokens=max_new_tokens,
            seed=seed,
            num_beams=num_beams,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            penalty_alpha=penalty_alpha,
            draft_model=draft_model,
            draft_tokens=draft_tokens,
            stop=stop,
            stream=stream,
            batch_size=batch_size,
            verbose=verbose,
        )

    @property
    def stop_tokens(self):
        """The ids that end a text, a tuple."""
        stop = self.eos_token_id
        return () if stop is None else stop if isinstance(stop, tuple) else (stop,)

    @property
    def fill_token(self):
        """What follows the end of a text."""
        tokens = (self.pad_token_id, *self.stop_tokens, 0)
        return next(token for token in tokens if token is not None)

    # Scores and vectors

    def _rows(self, texts, most):
        """Texts or token ids as `(tokens, lengths)`: arrays `(N, T)` and `(N,)`."""
        prompts = Prompts.of(texts, self, "Texts")
        check_tokens(prompts.tokens, self.vocabulary_size, most)
        return prompts.tokens, prompts.lengths

    @checked(texts=prompts)
    def score(self, texts, batch_size=32):
        """The log-probability of each token given those before it, in nats.

        Args:
            texts: integers `(N, T)`, a list of lists of them, or, with a tokenizer,
                strings.
            batch_size: rows in one pass.

        Returns:
            NumPy float32 `(N, T - 1)`: of the second token on, 0 after a row's end.
        """
        tokens, lengths = self._rows(texts, self.max_sequence_length + 1)
        if tokens.shape[1] < 2:
            raise ValueError("The first token has no score: give at least two.")
        made = self._run(
            "score",
            self._scores,
            tokens,
            lengths,
            batch_size,
            self.max_sequence_length + 1,
        )
        return made[:, : tokens.shape[1] - 1]

    def _run(self, name, fn, tokens, lengths, batch_size, most):
        """`fn` of rows, padded to a shape that many calls share."""
        how = ((tokens.shape[1],), batch_size, (most,))
        size, width = self.programs.shape(name, len(tokens), *how)
        arrays = [pad_rows(tokens, width, self.fill_token), lengths]
        variables = self.sampling_variables()
        return self.run_in_batches(name, fn, variables, arrays, batch_size, size)

    def _scores(self, tokens, lengths=None):
        tokens = ops.cast(tokens, "int32")
        losses = backend.cross_entropy(tokens[:, 1:], self(tokens[:, :-1]))
        if lengths is None:
            return -losses
        places = ops.arange(1, ops.shape(tokens)[1], dtype="int32")
        real = places < ops.expand_dims(ops.cast(lengths, "int32"), 1)
        return ops.where(real, -losses, ops.zeros_like(losses))

    @checked(texts=prompts)
    def embed(self, texts, batch_size=32):
        """A vector of each text: the mean of its last hidden states.

        Args:
            texts: see `score`.
            batch_size: rows in one pass.

        Returns:
            NumPy float32 `(N, C)`.
        """
        rows = self._rows(texts, self.max_sequence_length)
        return self._run(
            "embed", self._vectors, *rows, batch_size, self.max_sequence_length
        )

    def _vectors(self, tokens, lengths):
        tokens = ops.cast(tokens, "int32")
        x, _ = self.run_averaged("network", lambda: self.network.hidden_states(tokens))
        x = ops.cast(x, "float32")
        lengths = ops.expand_dims(ops.cast(lengths, "int32"), 1)  # (B, 1)
        real = ops.arange(ops.shape(tokens)[1], dtype="int32") < lengths
        real = ops.expand_dims(ops.cast(real, "float32"), -1)
        total = ops.sum(x * real, axis=1)
        return total / ops.maximum(ops.cast(lengths, "float32"), 1.0)

    # Export

    def input_ranges(self):
        return {
            **super().input_ranges(),
            "tokens": Range(least=0, most=self.vocabulary_size - 1),
            "lengths": Range(least=1),
            "temperature": Range(least=0),
            "top_p": Range(above=0, most=1),
        }

    def export_signatures(self):
        """What `export` writes: name -> (function, its inputs); the first serves.

        - `generate`: `tokens (batch, length)`, right-padded, `lengths (batch,)`,
          `seed`, `temperature` (0: the most probable token) and `top_p` (1: all tokens)
          -> `tokens (batch, length + new)`, moved to the right so that all prompts end
          at `length`: the whole loop with its cache, until each row has its
          `eos_token_id` or fills the context.
        - `score`: `tokens (batch, length)` -> `log_probabilities (batch, length - 1)`.
        - `embed`: `tokens` and `lengths` -> `vectors (batch, C)`.
        - `logits`: `tokens` -> `logits (batch, length, V)`.

        A SavedModel of a model with a tokenizer of characters has also `generate_text`:
        strings `texts (batch,)` and the options of `generate` -> `texts`.
        """
        tokens = ("tokens", (None, None), "int32")
        lengths = ("lengths", (None,), "int32")

        def generate(tokens, lengths, seed, temperature, top_p):
            # At so low a temperature a draw is the largest logit.
            values = {"temperature": ops.maximum(temperature, 1e-6), "top_p": top_p}
            limits = self.max_sequence_length - lengths
            rows = text_generation.decode(
                self,
                tokens,
                lengths,
                limits,
                ops.shape(tokens)[1] + ops.max(limits),
                config=SamplingConfig(top_p=1.0),
                numbers=[values.get(name) for name in NUMBERS],
                key=random.key(seed, "generate/tokens"),
            )
            return {"tokens": rows}

        return {
            "generate": (
                generate,
                [
                    tokens,
                    lengths,
                    ("seed", (), "int32"),
                    ("temperature", (), "float32"),
                    ("top_p", (), "float32"),
                ],
            ),
            "score": (
                lambda tokens: {"log_probabilities": self._scores(tokens)},
                [tokens],
            ),
            "embed": (
                lambda tokens, lengths: {"vectors": self._vectors(tokens, lengths)},
                [tokens, lengths],
            ),
            "logits": (lambda tokens: {"logits": self(tokens)}, [tokens]),
        }
