"""Translation: the transformer of "Attention Is All You Need" (1706.03762)."""

import keras
import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.backend import replicas
from keras_genai.backend.precision import dtype_policy
from keras_genai.layers.positions import KINDS as POSITIONS
from keras_genai.losses.reduction import weighted_mean
from keras_genai.training import Model
from keras_genai.transformers.checks import check_tokens, row_of
from keras_genai.transformers.seq2seq_network import Seq2SeqNetwork
from keras_genai.transformers.translation import Translation
from keras_genai.transformers.tuning import Tuning
from keras_genai.transformers.writing_rules import Generation
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_sample_weight
from keras_genai.utils.serialization import PACKAGE, configuration
from keras_genai.utils.validation import integer, number, one_of, text

# Table 3 of 1706.03762: layers, channels, heads, channels inside, dropout.
SIZES = {"base": (6, 512, 8, 2048, 0.1), "big": (6, 1024, 16, 4096, 0.3)}


@keras.saving.register_keras_serializable(PACKAGE)
class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """`factor hidden^-0.5 min(t^-0.5, t warmup^-1.5)`: 1706.03762, equation 3.

    Args:
        hidden: channels of the model.
        warmup: steps in which the rate rises.
        factor: on all of it.

    Example:

    ```python
    keras.optimizers.Adam(WarmupSchedule(512, 4000), beta_2=0.98, epsilon=1e-9)
    ```
    """

    @checked(warmup=integer(1), factor=number("> 0"))
    def __init__(self, hidden, warmup=4000, factor=1.0):
        self.hidden = hidden
        self.warmup = warmup
        self.factor = factor

    def __call__(self, step):
        t = ops.cast(step, "float32") + 1.0  # Keras counts from 0
        rising = t * self.warmup**-1.5
        return self.factor * self.hidden**-0.5 * ops.minimum(ops.rsqrt(t), rising)

    def get_config(self):
        return {"hidden": self.hidden, "warmup": self.warmup, "factor": self.factor}


@keras.saving.register_keras_serializable(PACKAGE)
class Translator(Tuning, Translation, Model):
    """The encoder-decoder of 1706.03762, and Marian's weight for weight.

    `fit({"source": ids, "target": ids})` takes two arrays of token ids, filled up with
    `pad_token`; each target ends with `stop_token`. `model.pairs(sources, targets)`
    makes them of texts.

    Args:
        size: `"base"` or `"big"` of table 3. The arguments below, where given, stand
            for what it says.
        depth: number of the encoder's blocks.
        decoder_depth: of the decoder's; by default as many.
        hidden: C, channels; even, and divisible by `heads`.
        heads: of the attention.
        hidden_units: channels inside the feed-forward.
        vocabulary_size: V, of both languages; by default the tokenizer's, or 32000.
        context: most tokens of a text of either language.
        activation: of the feed-forward: see `kg.layers.FeedForward`.
        norm_first: whether the normalizations come first (2002.04745), with one more
            at each end, rather than behind.
        epsilon: of the normalizations.
        positions: `"sinusoidal"`, `"sinusoidal_halves"` (Marian's order) or
            `"learned"`.
        scale_embedding: whether the tokens' vectors are times the root of C.
        logits_bias: whether the logits have a fixed bias, as Marian's files do.
        dropout: rate in training, in [0, 1), of embeddings and shortcuts.
        attention_dropout: that of the attention's probabilities.
        hidden_dropout: that inside the feed-forward.
        label_smoothing: share of the target spread over all tokens (section 5.4).
        tokenizer: a `Tokenizer`; then `translate` takes and gives texts.
        pad_token: id that fills rows up; by default the tokenizer's, or 0.
        start_token: id that a target begins with; by default the tokenizer's first
            token, or `pad_token`, as Marian does.
        stop_token: id that ends a text; by default the tokenizer's, or 1.
        generation: dict of the defaults of `translate` that are other than its own,
            and of tokens that it never writes: the arguments of
            `keras_genai.transformers.writing_rules.Generation`.
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
    model = kg.Translator("base", depth=3, hidden=256, heads=4, hidden_units=1024,
                          tokenizer=tokenizer, context=96)
    model.compile()                                   # Adam, warmed up
    model.fit(model.pairs(verses["source"], verses["target"]), batch_size=64)
    model.translate(["In the beginning God created the heaven and the earth."])
    ```
    """

    _ARGUMENTS = (
        *Seq2SeqNetwork._ARGUMENTS,
        *("label_smoothing", "pad_token", "start_token", "stop_token", "seed"),
    )

    @checked(
        size=text,
        hidden_units=integer(1),
        activation=text,
        positions=one_of(*POSITIONS),
    )
    def __init__(
        self,
        size="base",
        *,
        depth=None,
        decoder_depth=None,
        hidden=None,
        heads=None,
        hidden_units=None,
        vocabulary_size=None,
        context=512,
        activation="relu",
        norm_first=False,
        epsilon=1e-5,
        positions="sinusoidal",
        scale_embedding=True,
        logits_bias=False,
        dropout=None,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        label_smoothing=0.1,
        tokenizer=None,
        pad_token=None,
        start_token=None,
        stop_token=None,
        generation=None,
        remat=False,
        seed=0,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        given = locals()
        for name in self._ARGUMENTS:
            setattr(self, name, given[name])
        names = ("depth", "hidden", "heads", "hidden_units", "dropout")
        for name, value in row_of(size, SIZES, names).items():
            setattr(self, name, value if given[name] is None else given[name])
        self.decoder_depth = decoder_depth or self.depth
        self.tokenizer = tokenizer
        if vocabulary_size is None:
            known = 32_000 if tokenizer is None else tokenizer.vocabulary_size
            self.vocabulary_size = known
        self._check_arguments()
        self._set_tokens(pad_token, start_token, stop_token)
        self.generation = Generation.of(generation)
        self.generation.check_tokens(self.vocabulary_size)
        with dtype_policy(kwargs.get("dtype")):
            self.network = Seq2SeqNetwork(
                **{name: getattr(self, name) for name in Seq2SeqNetwork._ARGUMENTS},
                seed=seed,
                stream="translator",
                name="translator",
            )
        self.set_players("network", metrics=("entropy", "accuracy"))

    def _check_arguments(self):
        if self.hidden % self.heads or self.hidden % 2:
            raise ValueError(
                "hidden must be even and divisible by heads; got "
                f"hidden={self.hidden}, heads={self.heads}."
            )

    def _set_tokens(self, pad, start, stop):
        tokenizer, size = self.tokenizer, self.vocabulary_size
        if tokenizer is not None:
            tokenizer.check_fits(size, "this Translator")
            pad = tokenizer.pad_id if pad is None else pad
            start = tokenizer.bos_id if start is None else start
            stop = tokenizer.eos_id if stop is None else stop
            if pad is None or stop is None:
                raise ValueError(
                    "A translator's tokenizer must have a token for padding and one "
                    "for the end: train it with special_tokens=['<pad>', '<s>', "
                    "'</s>'], or give pad_token= and stop_token=."
                )
        pad = 0 if pad is None else pad
        named = {
            "pad_token": pad,
            "start_token": pad if start is None else start,
            "stop_token": 1 if stop is None else stop,
        }
        for name, value in named.items():
            if not 0 <= value < size:
                raise ValueError(
                    f"{name} must be an id in [0, {size}); got {value!r} with "
                    f"vocabulary_size={size}."
                )
            setattr(self, name, value)
        if self.stop_token in (self.pad_token, self.start_token):
            raise ValueError(
                f"stop_token must be another than pad_token and start_token; got "
                f"{named}."
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
                tokens, self.vocabulary_size, self.context, f"The {name}'s tokens"
            )
        if not np.all(np.any(x["target"] == self.stop_token, axis=1)):
            row = int(np.argmin(np.any(x["target"] == self.stop_token, axis=1)))
            raise ValueError(
                f"Each target must end with stop_token, {self.stop_token}; row {row} "
                "has none: the model would never learn to stop."
            )
        check_sample_weight(weight, len(x["target"]), each="pair")

    # Training

    def default_optimizer(self, player):
        """Adam(beta_2=0.98, epsilon=1e-9) with `WarmupSchedule` (1706.03762, 5.3)."""
        del player
        rate = WarmupSchedule(self.hidden)
        return keras.optimizers.Adam(rate, beta_2=0.98, epsilon=1e-9)

    def objective(self, data, training):
        """`(loss, parts)` of a batch: the loss and dict metric -> (mean, its weight).

        The loss is that of the smoothed targets (section 5.4), a mean over tokens;
        `entropy` is that of the targets themselves, in nats a token.
        """
        x, _, weight = data
        source, target = (ops.cast(x[name], "int32") for name in ("source", "target"))
        seen = source != self.pad_token
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
        counted = ops.cast(target != self.pad_token, "float32")
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
