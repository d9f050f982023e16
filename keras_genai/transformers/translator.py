"""Translation: the transformer of "Attention Is All You Need" (1706.03762)."""

import keras
import numpy as np
from keras import ops, tree

from keras_genai import backend
from keras_genai.backend import replicas
from keras_genai.backend.precision import dtype_policy
from keras_genai.layers.positions import KINDS as POSITIONS
from keras_genai.losses.reduction import weighted_mean
from keras_genai.training import Model
from keras_genai.training.compiled import Range
from keras_genai.training.tuning import Tuning
from keras_genai.transformers import decoding
from keras_genai.transformers.logits_processors import MINUS
from keras_genai.transformers.padding import pad_rows
from keras_genai.transformers.seq2seq_network import Seq2SeqNetwork
from keras_genai.transformers.tokenizers import Tokenizer
from keras_genai.transformers.translation_config import TranslationConfig
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_sample_weight, check_tokens, sizes_of
from keras_genai.utils.serialization import PACKAGE, configuration
from keras_genai.utils.validation import (
    integer,
    is_integer,
    number,
    one_of,
    prompts,
    text,
)
from keras_genai.weights.pretrained import Pretrained

# Table 3 of 1706.03762: layers, channels, heads, channels inside, dropout.
SIZES = {"base": (6, 512, 8, 2048, 0.1), "big": (6, 1024, 16, 4096, 0.3)}


@keras.saving.register_keras_serializable(PACKAGE)
class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """`factor hidden_dim^-0.5 min(t^-0.5, t warmup^-1.5)`: 1706.03762, equation 3.

    Args:
        hidden_dim: channels of the model.
        warmup: steps in which the rate rises.
        factor: on all of it.

    Example:

    ```python
    keras.optimizers.Adam(WarmupSchedule(512, 4000), beta_2=0.98, epsilon=1e-9)
    ```
    """

    @checked(warmup=integer(1), factor=number("> 0"))
    def __init__(self, hidden_dim, warmup=4000, factor=1.0):
        self.hidden_dim = hidden_dim
        self.warmup = warmup
        self.factor = factor

    def __call__(self, step):
        t = ops.cast(step, "float32") + 1.0  # Keras counts from 0
        rising = t * self.warmup**-1.5
        return self.factor * self.hidden_dim**-0.5 * ops.minimum(ops.rsqrt(t), rising)

    def get_config(self):
        return {
            "hidden_dim": self.hidden_dim,
            "warmup": self.warmup,
            "factor": self.factor,
        }


@keras.saving.register_keras_serializable(PACKAGE)
class Translator(Tuning, Pretrained, Model):
    """The encoder-decoder of 1706.03762, and Marian's weight for weight.

    `fit({"source": ids, "target": ids})` takes two arrays of token ids, padded with
    `pad_token_id`; each target ends with `eos_token_id`. `model.pairs(sources,
    targets)` makes them of texts.

    Published weights (`from_pretrained`, `save_pretrained`): a `MarianMTModel`. A
    tokenizer in the folder (source.spm, target.spm, vocab.json) is taken along, and
    what its `generation_config.json` says: `translate` then has the defaults of that
    file, or else those of transformers (one beam, length_penalty 1, 20 tokens), which
    are the model's `generation`. A warning names what is passed over.

    Args:
        size: `"base"` or `"big"` of table 3. The arguments below, where given, stand
            for what it says.
        num_layers: number of the encoder's blocks.
        decoder_num_layers: of the decoder's; by default as many.
        hidden_dim: C, channels; even, and divisible by `num_heads`.
        num_heads: of the attention.
        intermediate_dim: channels inside the feed-forward.
        vocabulary_size: V, of both languages; by default the tokenizer's, or 32000.
        max_sequence_length: most tokens of a text of either language.
        activation: of the feed-forward: see `kg.layers.FeedForward`.
        norm_first: whether the normalizations come first (2002.04745), with one more
            at each end, rather than behind.
        layer_norm_epsilon: of the normalizations.
        positions: `"sinusoidal"`, `"sinusoidal_halves"` (Marian's order) or
            `"learned"`.
        scale_embedding: whether the tokens' vectors are times the root of C.
        logits_bias: whether the logits have a fixed bias, as Marian's files do.
        dropout: rate in training, in [0, 1), of embeddings and shortcuts.
        attention_dropout: that of the attention's probabilities.
        hidden_dropout: that inside the feed-forward.
        label_smoothing: share of the target spread over all tokens (section 5.4).
        tokenizer: a `Tokenizer`; then `translate` takes and gives texts.
        pad_token_id: padding id; by default the tokenizer's, or 0.
        decoder_start_token_id: id that a target begins with; by default the tokenizer's
            first token, or `pad_token_id`, as Marian does.
        eos_token_id: id that ends a text; by default the tokenizer's, or 1.
        generation: dict of the defaults of `translate` that are other than its own,
            and of tokens that it never generates: the arguments of
            `keras_genai.transformers.translation_config.TranslationConfig`.
        remat: computes the blocks again for the gradient: less memory, more time.
        seed: integer >= 0: initial weights, noise and shuffling follow from it.

    Raises:
        ValueError: for an argument out of range, before any work.

    Example:

    ```python
    verses = kg.datasets.pairs("verses")
    tokenizer = kg.Tokenizer.train(
        verses["source"] + verses["target"], 8000,
        special_tokens=["<pad>", "<s>", "</s>"],
    )
    model = kg.Translator("base", num_layers=3, hidden_dim=256, num_heads=4,
    intermediate_dim=1024,
                          tokenizer=tokenizer, max_sequence_length=96)
    model.compile()                                   # Adam, warmed up
    model.fit(model.pairs(verses["source"], verses["target"]), batch_size=64)
    model.translate(["In the beginning God created the heaven and the earth."])
    ```
    """

    weights_module = "marian"
    tokenizer_class = Tokenizer
    max_shard_size = "50GB"

    _ARGUMENTS = (
        *Seq2SeqNetwork.arguments(),
        "label_smoothing",
        "pad_token_id",
        "decoder_start_token_id",
        "eos_token_id",
        "seed",
    )

    @checked(
        size=text,
        intermediate_dim=integer(1),
        activation=text,
        positions=one_of(*POSITIONS),
    )
    def __init__(
        self,
        size="base",
        *,
        num_layers=None,
        decoder_num_layers=None,
        hidden_dim=None,
        num_heads=None,
        intermediate_dim=None,
        vocabulary_size=None,
        max_sequence_length=512,
        activation="relu",
        norm_first=False,
        layer_norm_epsilon=1e-5,
        positions="sinusoidal",
        scale_embedding=True,
        logits_bias=False,
        dropout=None,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        label_smoothing=0.1,
        tokenizer=None,
        pad_token_id=None,
        decoder_start_token_id=None,
        eos_token_id=None,
        generation=None,
        remat=False,
        seed=0,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        sizes = sizes_of(
            size,
            SIZES,
            num_layers=num_layers,
            hidden_dim=hidden_dim,
            num_heads=num_heads,
            intermediate_dim=intermediate_dim,
            dropout=dropout,
        )
        self.num_layers = sizes["num_layers"]
        self.decoder_num_layers = decoder_num_layers or self.num_layers
        self.hidden_dim = sizes["hidden_dim"]
        self.num_heads = sizes["num_heads"]
        self.intermediate_dim = sizes["intermediate_dim"]
        if vocabulary_size is None:
            known = 32_000 if tokenizer is None else tokenizer.vocabulary_size
            vocabulary_size = known
        self.vocabulary_size = vocabulary_size
        self.max_sequence_length = max_sequence_length
        self.activation = activation
        self.norm_first = norm_first
        self.layer_norm_epsilon = layer_norm_epsilon
        self.positions = positions
        self.scale_embedding = scale_embedding
        self.logits_bias = logits_bias
        self.dropout = sizes["dropout"]
        self.attention_dropout = attention_dropout
        self.hidden_dropout = hidden_dropout
        self.label_smoothing = label_smoothing
        self.remat = remat
        self.tokenizer = tokenizer
        self._check_arguments()
        self._set_tokens(pad_token_id, decoder_start_token_id, eos_token_id)
        self.generation = TranslationConfig.of(generation)
        self.generation.check_tokens(self.vocabulary_size)
        with dtype_policy(kwargs.get("dtype")):
            self.network = Seq2SeqNetwork(
                **{name: getattr(self, name) for name in Seq2SeqNetwork.arguments()},
                seed=seed,
                stream="translator",
                name="translator",
            )
        self.set_players("network", metrics=("entropy", "accuracy"))

    def _check_arguments(self):
        if self.hidden_dim % self.num_heads or self.hidden_dim % 2:
            raise ValueError(
                "hidden_dim must be even and divisible by num_heads; got "
                f"hidden_dim={self.hidden_dim}, num_heads={self.num_heads}."
            )

    def _set_tokens(self, pad, start, stop):
        tokenizer, size = self.tokenizer, self.vocabulary_size
        if tokenizer is not None:
            tokenizer.check_fits(size, "this Translator")
            pad = tokenizer.pad_token_id if pad is None else pad
            start = tokenizer.bos_token_id if start is None else start
            stop = tokenizer.eos_token_id if stop is None else stop
            if pad is None or stop is None:
                raise ValueError(
                    "A translator's tokenizer must have a token for padding and one "
                    "for the end: train it with special_tokens=['<pad>', '<s>', "
                    "'</s>'], or give pad_token_id= and eos_token_id=."
                )
        pad = 0 if pad is None else pad
        named = {
            "pad_token_id": pad,
            "decoder_start_token_id": pad if start is None else start,
            "eos_token_id": 1 if stop is None else stop,
        }
        for name, value in named.items():
            if not 0 <= value < size:
                raise ValueError(
                    f"{name} must be an id in [0, {size}); got {value!r} with "
                    f"vocabulary_size={size}."
                )
            setattr(self, name, value)
        if self.eos_token_id in (self.pad_token_id, self.decoder_start_token_id):
            raise ValueError(
                "eos_token_id must differ from pad_token_id and "
                f"decoder_start_token_id; got {named}."
            )

    # Data

    def check_data(self, x, condition, weight):
        if not isinstance(x, dict) or set(x) != {"source", "target"}:
            found = sorted(x) if isinstance(x, dict) else type(x).__name__
            raise ValueError(
                "A translator learns from a dict of two arrays of token ids, 'source' "
                f"and 'target' (model.pairs makes them of texts); got {found}."
            )
        if condition is not None:
            raise ValueError("The target belongs into the dict: no labels beside it.")
        for name, tokens in x.items():
            check_tokens(
                tokens,
                self.vocabulary_size,
                self.max_sequence_length,
                f"The {name}'s tokens",
            )
        if not np.all(np.any(x["target"] == self.eos_token_id, axis=1)):
            row = int(np.argmin(np.any(x["target"] == self.eos_token_id, axis=1)))
            raise ValueError(
                f"Each target must end with eos_token_id, {self.eos_token_id}; row "
                f"{row} has none: the model would never learn to stop."
            )
        check_sample_weight(weight, len(x["target"]), each="pair")

    # Training

    def default_optimizer(self, player):
        """Adam(beta_2=0.98, epsilon=1e-9) with `WarmupSchedule` (1706.03762, 5.3)."""
        del player
        rate = WarmupSchedule(self.hidden_dim)
        return keras.optimizers.Adam(rate, beta_2=0.98, epsilon=1e-9)

    def objective(self, data, training):
        """`(loss, parts)` of a batch: the loss and dict metric -> (mean, its weight).

        The loss is that of the smoothed targets (section 5.4), a mean over tokens;
        `entropy` is that of the targets themselves, in nats a token.
        """
        x, _, weight = data
        source, target = (ops.cast(x[name], "int32") for name in ("source", "target"))
        seen = source != self.pad_token_id
        before = self._before(target)
        logits = self.network(source, before, seen, training=training)  # (B, T, V)
        counted = self._counted(target, weight)  # (B, T)
        entropy = backend.cross_entropy(target, logits)  # (B, T)
        losses = entropy
        if self.label_smoothing:
            # The mean over all tokens of -log p, without a pass for each.
            total = ops.logsumexp(logits, axis=-1) - ops.mean(logits, axis=-1)
            losses = entropy + self.label_smoothing * (total - entropy)
        counted = ops.cast(counted, losses.dtype)
        count = ops.sum(counted)
        loss = weighted_mean(losses, counted, replicas.normalizer(count))
        right = ops.cast(backend.argmax(logits) == target, losses.dtype)
        parts = {
            name: (weighted_mean(value, counted), count)
            for name, value in (
                ("entropy", entropy),
                ("accuracy", right),
                ("network", losses),
            )
        }
        return loss, parts

    def _counted(self, target, weight):
        """What each token of the targets counts: `(B, T)`."""
        counted = ops.cast(target != self.pad_token_id, "float32")
        if weight is None:
            return counted
        return counted * ops.expand_dims(ops.cast(weight, "float32"), 1)

    def _track_parts(self, parts):
        for name, (value, count) in parts.items():
            self.track(name, ops.stop_gradient(value), count)

    def train_step(self, data):
        def loss_fn(x, weight):
            loss, parts = self.objective((x, None, weight), training=True)
            del parts["network"]  # `minimize` tracks it
            self._track_parts(parts)
            return loss

        x, _, weight = data
        counted = self._counted(ops.cast(x["target"], "int32"), weight)
        with replicas.counted(ops.shape(counted)[0], counted):  # by its tokens
            self.minimize("network", loss_fn, x, weight)

    def test_step(self, data):
        _, parts = self.objective(data, training=False)
        self._track_parts(parts)

    # Configuration

    def get_config(self):
        config = configuration(self, self._ARGUMENTS, ["tokenizer"])
        return {**config, "generation": self.generation.get_config() or None}

    # Translation

    def call(self, source, target=None, training=False):
        """Logits `(B, T, V)` of what follows each token of a target.

        Args:
            source: integers `(B, S)`, or the list `[source, target]`.
            target: integers `(B, T)`; the first is `decoder_start_token_id`.
            training: whether there is dropout.
        """
        if target is None:
            source, target = source
        source = ops.cast(source, "int32")
        mask = source != self.pad_token_id
        return self.network(source, target, mask, training=training)

    def compute_mask(self, inputs, previous_mask):
        """None: what follows is told what is padding, not left to find out."""

    # Texts

    def _encoded(self, texts, target=False):
        """Texts as lists of ids that end with `eos_token_id`."""
        if self.tokenizer is None:
            raise ValueError(
                "Texts need a tokenizer: make the model with tokenizer=, or give token "
                "ids."
            )
        texts = [texts] if isinstance(texts, str) else list(texts)
        rows = self.tokenizer.encode(texts, target=target)
        stop = self.eos_token_id
        return [row if row[-1:] == [stop] else [*row, stop] for row in rows]

    @checked(sources=prompts, targets=prompts)
    def pairs(self, sources, targets, *, length=None):
        """What `fit` takes, of two lists of texts.

        Args:
            sources: list of strings.
            targets: list of strings, their translations.
            length: pairs of which either has more tokens are left out; by default
                those of more than the context.

        Returns:
            Dict of int32 arrays `source` `(N, S)` and `target` `(N, T)`.
        """
        if len(sources) != len(targets):
            raise ValueError(
                f"There must be a target for each source; got {len(sources)} and "
                f"{len(targets)}."
            )
        rows = zip(self._encoded(sources), self._encoded(targets, True), strict=True)
        limit = length or self.max_sequence_length
        kept = [pair for pair in rows if max(map(len, pair)) <= limit]
        if not kept:
            raise ValueError(f"No pair has at most {limit} tokens on each side.")
        names = zip(("source", "target"), zip(*kept, strict=True), strict=True)
        return {name: self._padded(rows) for name, rows in names}

    def _padded(self, rows):
        array = np.full((len(rows), max(map(len, rows))), self.pad_token_id, "int32")
        for line, row in zip(array, rows, strict=True):
            line[: len(row)] = row
        return array

    def _ids(self, given, name, target=False):
        """Texts or ids of either side as an array of ids; and whether they were texts.

        Their form was checked (`validation.prompts`).

        Args:
            name: of the argument.
            target: whether texts are in the language that is translated to.
        """
        listed = isinstance(given, (list, tuple))
        texts = isinstance(given[0] if listed else given, str)
        if texts:
            given = self._padded(self._encoded(given, target))
        elif listed and not is_integer(given[0]):
            given = self._padded([list(row) for row in given])
        given = np.asarray(given)
        check_tokens(
            given,
            self.vocabulary_size,
            self.max_sequence_length,
            f"The tokens of {name}",
        )
        return given.astype("int32"), texts

    # Translating

    @checked(sentences=prompts, length_penalty=number(">= 0"))
    def translate(
        self,
        sentences,
        num_beams=None,
        length_penalty=None,
        *,
        max_length=None,
        early_stopping=None,
        batch_size=32,
        verbose=0,
    ):
        """The most probable translations found by several beams.

        Args:
            sentences: a string or a list of them, with a tokenizer; or token ids
                `(N, S)` padded with `pad_token_id`, or a list of lists of them.
            num_beams: K, at least 1: how many beginnings are kept (1: the most
                probable next token each time). By default 4, or what the model's
                `generation` says, as for the next three.
            length_penalty: the score of n tokens is their log-probability over
                `n ** length_penalty`; 0.6.
            max_length: most tokens of a translation; by default `2 S + 10` of each
                sentence by itself, S its tokens, at most the context.
            early_stopping: whether K translations that have ended are enough; False.
            batch_size: sentences in one pass.
            verbose: 1 shows a progress bar.

        Returns:
            Of a string a string, of strings a list of them; of token ids a list of
            NumPy int32 arrays, without `decoder_start_token_id`, that end with
            `eos_token_id` where there was room.

        Raises:
            ValueError: for arguments out of range, ids outside the vocabulary, or
                sentences that are empty or longer than the context.
        """
        defaults, room = self.generation, self.max_sequence_length - 1
        num_beams = defaults.num_beams if num_beams is None else num_beams
        if length_penalty is None:
            length_penalty = defaults.length_penalty
        if early_stopping is None:
            early_stopping = defaults.early_stopping
        if max_length is None and defaults.max_length is not None:
            max_length = min(room, defaults.max_length)
        sources, texts = self._ids(sentences, "sentences")
        limits = np.minimum(room, 2 * np.sum(sources != self.pad_token_id, axis=1) + 10)
        if max_length is not None:
            if max_length > room:
                raise ValueError(
                    f"max_length may be at most {room}, one less than the context; got "
                    f"{max_length}."
                )
            limits = np.full(len(sources), max_length)
        limits = limits.astype("int32")
        name = ("translate", num_beams, early_stopping)
        lengths = (sources.shape[1], int(limits.max()))
        size, width, longest = self.programs.shape(
            name, len(sources), lengths, batch_size, (self.max_sequence_length, room)
        )

        def run(length_penalty, source, limits):
            return self._decode(
                source,
                num_beams=num_beams,
                length_penalty=length_penalty,
                early_stopping=early_stopping,
                max_length=longest,
                limits=limits,
            )

        batches = self.stream(
            (*name, longest, defaults),
            run,
            self.network.variables,
            [pad_rows(sources, width, self.pad_token_id), limits],
            size,
            constants=[np.float32(length_penalty)],
            verbose=verbose,
        )
        rows = np.concatenate([rows[:count] for _, count, rows in batches])
        rows = [self._ended(row[: n + 1]) for row, n in zip(rows, limits, strict=True)]
        if not texts:
            return rows
        found = self.tokenizer.decode([row.tolist() for row in rows])
        return found[0] if isinstance(sentences, str) else found

    def _ended(self, row):
        """A row without its first token and what follows the end."""
        row = row[1:]
        ends = np.flatnonzero(row == self.eos_token_id)
        return row[: ends[0] + 1] if len(ends) else row

    def generate(self, sources, **options):
        """See `translate`."""
        return self.translate(sources, **options)

    def _decode(
        self,
        source,
        *,
        num_beams,
        length_penalty,
        early_stopping,
        max_length,
        limits=None,
    ):
        """Translations in the graph: int32 `(B, S)` -> `(B, 1 + max_length)`.

        `limits`, int32 `(B,)`, are the most tokens of each; None: of all `max_length`.
        """
        network = self.network
        batch = ops.shape(source)[0]
        mask = source != self.pad_token_id
        length = 1 + max_length
        caches = network.context_caches(network.encode(source, mask))

        def next_logits(tokens, cache, index, mask, context):
            x, cache, _ = network.decode(
                tokens,
                None,
                mask,
                cache=cache,
                cache_index=index,
                context_cache=context,
            )
            logits = network.logits(x[:, -1])  # (R, V)
            if self.generation.bad_words_ids is None:
                barred = ops.arange(logits.shape[-1]) == self.pad_token_id
                logits = ops.where(barred, MINUS, logits)
            return logits, cache

        start = ops.full((batch, 1), self.decoder_start_token_id, "int32")
        rest = ops.full((batch, max_length), self.pad_token_id, "int32")
        tokens = ops.concatenate([start, rest], axis=1)
        valid = ops.ones_like(tokens, dtype="bool")
        empty = network.empty_cache(batch, length)
        logits, cache = next_logits(start, empty, 0, mask, caches)
        if num_beams > 1:
            # The beams of a sentence read the same source: it does not move with them.
            mask, caches = tree.map_structure(
                lambda x: ops.repeat(x, num_beams, axis=0), (mask, caches)
            )
        most = max_length
        if limits is not None:  # of each row, or of each of its beams
            most = ops.expand_dims(ops.repeat(limits, num_beams), 1)
        stops = (self.eos_token_id,)

        def step(tokens, cache, i):
            return next_logits(tokens, cache, i + 1, mask, caches)

        def process(logits, tokens, visible):
            return self.generation.process(
                logits, tokens, visible, stops=stops, length=1 + most
            )

        if num_beams == 1:
            sampler = decoding.Sampler(
                step=step,
                process=process,
                prompt=1,
                valid=valid,
                stops=stops,
                fill=self.pad_token_id,
                limits=limits,
            )
            return decoding.sample(sampler, logits, tokens, cache)
        beams, _ = decoding.beam_search(
            step,
            logits,
            tokens,
            cache,
            process=process,
            valid=valid,
            prompt=1,
            num_beams=num_beams,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            stops=stops,
            fill=self.pad_token_id,
            limits=limits,
        )
        return beams[:, 0]

    # Scores and attention maps

    def _given(self, sources, targets):
        """Two arrays of ids, checked, of texts or ids; targets end with the stop."""
        sources, _ = self._ids(sources, "sources")
        targets, _ = self._ids(targets, "targets", True)
        if len(targets) != len(sources):
            raise ValueError(
                f"There must be a target for each source; got {len(sources)} and "
                f"{len(targets)}."
            )
        return [sources, targets]

    def _before(self, target):
        """What stands before each token of a target: `(B, T)`, the start first."""
        start = ops.full_like(target[:, :1], self.decoder_start_token_id)
        return ops.concatenate([start, target[:, :-1]], axis=1)

    @checked(sources=prompts, targets=prompts)
    def score(self, sources, targets, *, batch_size=32):
        """The log-probability of each translation, in nats: NumPy float32 `(N,)`.

        Args:
            sources, targets: lists of strings, with a tokenizer; or token ids.
            batch_size: pairs in one pass.
        """
        arrays = self._given(sources, targets)
        return self._run("score", self._scores, arrays, batch_size)

    def _run(self, name, fn, arrays, batch_size):
        """`fn` of pairs, padded to a shape that many calls share."""
        lengths, most = [a.shape[1] for a in arrays], [self.max_sequence_length] * 2
        size, *widths = self.programs.shape(
            name, len(arrays[0]), lengths, batch_size, most
        )
        arrays = [
            pad_rows(array, width, self.pad_token_id)
            for array, width in zip(arrays, widths, strict=True)
        ]
        variables = self.network.variables
        return self.run_in_batches(name, fn, variables, arrays, batch_size, size)

    def _scores(self, source, target):
        logits = self(source, self._before(target))
        losses = backend.cross_entropy(target, logits)
        counted = ops.cast(target != self.pad_token_id, losses.dtype)
        return -ops.sum(losses * counted, axis=1)

    @checked(sources=prompts, targets=prompts)
    def attention_maps(self, sources, targets, *, batch_size=32):
        """How much each token of a target looks at each of its source.

        Args:
            sources, targets: see `score`.
            batch_size: pairs in one pass.

        Returns:
            NumPy float32 `(N, blocks, num_heads, T, S)`; each row of S sums to 1.
        """

        def run(source, target):
            mask = source != self.pad_token_id
            context = self.network.encode(source, mask)
            _, _, weights = self.network.decode(
                self._before(target), context, mask, return_weights=True
            )
            return ops.stack(weights, axis=1)

        source, target = arrays = self._given(sources, targets)
        made = self._run("maps", run, arrays, batch_size)
        return made[..., : target.shape[1], : source.shape[1]]

    def input_ranges(self):
        tokens = Range(least=0, most=self.vocabulary_size - 1)
        names = ("tokens", "source", "target")
        return {**super().input_ranges(), **dict.fromkeys(names, tokens)}

    def export_signatures(self):
        """`translate`: `tokens` -> `tokens`, as by default; `score`: of two arrays.

        Rows begin with `decoder_start_token_id` and are as long as the context.
        """

        def translate(tokens):
            defaults, room = self.generation, self.max_sequence_length - 1
            rows = self._decode(
                tokens,
                num_beams=defaults.num_beams,
                length_penalty=defaults.length_penalty,
                early_stopping=defaults.early_stopping,
                max_length=min(room, defaults.max_length or room),
            )
            return {"tokens": rows}

        def score(source, target):
            return {"scores": self._scores(source, target)}

        def inputs(*names):
            return [(name, (None, None), "int32") for name in names]

        return {
            "translate": (translate, inputs("tokens")),
            "score": (score, inputs("source", "target")),
        }
