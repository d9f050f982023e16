"""BERT: a transformer that reads a text from both sides (1810.04805)."""

import keras
import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.backend import random, replicas
from keras_genai.backend.precision import dtype_policy, widen
from keras_genai.layers.embedding import check_ids
from keras_genai.losses.reduction import weighted_mean
from keras_genai.training import Model
from keras_genai.training.compiled import Range
from keras_genai.training.optimizer import decaying
from keras_genai.training.tuning import Tuning
from keras_genai.transformers.bert_network import BERTNetwork
from keras_genai.transformers.mlm import (
    mask_tokens,
    word_numbers,
    word_table,
)
from keras_genai.transformers.padding import not_padding, pad_rows
from keras_genai.transformers.tokenizers import Tokenizer
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import (
    check_heads,
    check_labels,
    check_sample_weight,
    check_tokens,
    sizes_of,
)
from keras_genai.utils.serialization import PACKAGE, configuration
from keras_genai.utils.validation import (
    array,
    either,
    integer,
    number,
    prompts,
    text,
    texts,
    tuple_of,
    word,
)
from keras_genai.weights.pretrained import Pretrained

PARTS = ("tokens", "token_types", "mask", "words")

# Layers, channels, heads: base and large of 1810.04805, the others of 1908.08962.
SIZES = {
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "small": (4, 512, 8),
    "medium": (8, 512, 8),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
}
VOCABULARY = 30_522  # of the published lower-case word pieces,
SPECIAL = (0, 101, 102, 103)  # and its [PAD], [CLS], [SEP] and [MASK]


def _texts(name, value):
    """Strings, token ids `(N, T)`, or a dict of such arrays, for `checked`."""
    says = "strings, token ids (N, T), or a dict of such arrays with 'tokens'"
    if isinstance(value, dict) and "tokens" in value:
        return {key: array(2, "iub", says=says)(name, x) for key, x in value.items()}
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    if isinstance(first, str):
        return prompts(name, value)
    return array((1, 2), "iu", says=says)(name, value)


@keras.saving.register_keras_serializable(PACKAGE)
class BERT(Tuning, Pretrained, Model):
    """BERT (1810.04805), weight for weight with transformers'.

    `fit` learns by masked words, and with `next_sentence` by whether a second sentence
    follows the first; with `num_classes` it learns to classify sentences instead. The
    masked words are drawn anew at each step from the model's noise, whole
    words at a time.

    Data are token ids `(N, T)`, or a dict of arrays as `Tokenizer.batch` makes it:
    `tokens`, and where wanted `token_types`, `mask` and `words`. Without a mask,
    padding is masked; without words, they follow from the tokenizer, and without one
    each token is a word.

    Published weights (`from_pretrained`, `save_pretrained`): transformers' `BertModel`
    and its heads, those that the file holds; with `num_classes` a file without a
    classifier gets a new one. A tokenizer in the folder is taken along.

    Args:
        size: `"tiny"` to `"large"`. The four arguments below, where given, stand for
            what it says.
        num_layers: number of blocks.
        hidden_dim: C, channels; divisible by `num_heads`.
        num_heads: of the attention.
        intermediate_dim: channels inside the feed-forward; by default `4 * hidden_dim`.
        vocabulary_size: V; by default the tokenizer's, or 30522.
        max_sequence_length: most tokens of a text.
        token_types: how many sentences can be told apart.
        dropout: rate in training, in [0, 1), of embeddings and shortcuts.
        attention_dropout: that of the attention's probabilities; by default as
            `dropout`.
        layer_norm_epsilon: of the normalizations.
        masked_lm: whether there is the head that predicts masked tokens; by default
            where there is no classifier.
        next_sentence: whether there is the head of the next sentence. `fit` then takes
            labels: 0 where the second follows, 1 where it does not.
        num_classes: K of a classifier of sentences, or None.
        pooler: whether there is a dense layer over the first token; by default where
            a head needs it.
        mask_rate: share of the words that are masked.
        tokenizer: a `Tokenizer`; then texts may be given to `embed` and `classify`.
        mask_token_id, pad_token_id: ids; by default the tokenizer's, or those of the
            published vocabulary.
        special_tokens: ids that are never masked, likewise.
        remat: computes the blocks again for the gradient: less memory, more time.
        seed: integer >= 0: initial weights, noise and shuffling follow from it.

    Raises:
        ValueError: for an argument out of range, before any work.

    Example:

    ```python
    tokenizer = kg.Tokenizer.train(sentences, 8000, "wordpiece", lowercase=True)
    model = kg.BERT("tiny", tokenizer=tokenizer, max_sequence_length=128)
    model.compile()                                       # AdamW(1e-4)
    model.fit(tokenizer.batch(sentences, length=128), epochs=3)
    vectors = model.embed(["a king", "a queen"])          # (2, 128), of length 1
    ```
    """

    weights_module = "bert"
    tokenizer_class = Tokenizer
    max_shard_size = "50GB"

    _ARGUMENTS = (
        "num_layers",
        "hidden_dim",
        "num_heads",
        "intermediate_dim",
        "vocabulary_size",
        "max_sequence_length",
        "token_types",
        "dropout",
        "attention_dropout",
        "layer_norm_epsilon",
        "masked_lm",
        "next_sentence",
        "num_classes",
        "pooler",
        "mask_rate",
        "mask_token_id",
        "pad_token_id",
        "special_tokens",
        "remat",
        "seed",
    )

    @checked(
        size=text,
        intermediate_dim=integer(1),
        token_types=integer(1),
        mask_rate=number("(0, 1)"),
        special_tokens=tuple_of(integer(0), least=0),
    )
    def __init__(
        self,
        size="base",
        *,
        num_layers=None,
        hidden_dim=None,
        num_heads=None,
        intermediate_dim=None,
        vocabulary_size=None,
        max_sequence_length=512,
        token_types=2,
        dropout=0.1,
        attention_dropout=None,
        layer_norm_epsilon=1e-12,
        masked_lm=None,
        next_sentence=False,
        num_classes=None,
        pooler=None,
        mask_rate=0.15,
        tokenizer=None,
        mask_token_id=None,
        pad_token_id=None,
        special_tokens=None,
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
        )
        self.num_layers = sizes["num_layers"]
        self.hidden_dim = sizes["hidden_dim"]
        self.num_heads = sizes["num_heads"]
        self.intermediate_dim = intermediate_dim or 4 * self.hidden_dim
        self.tokenizer = tokenizer
        if vocabulary_size is None:
            known = VOCABULARY if tokenizer is None else tokenizer.vocabulary_size
            vocabulary_size = known
        self.vocabulary_size = vocabulary_size
        self.max_sequence_length = max_sequence_length
        self.token_types = token_types
        check_heads(self.num_heads, self.hidden_dim)
        self.dropout = dropout
        self.attention_dropout = (
            dropout if attention_dropout is None else attention_dropout
        )
        self.layer_norm_epsilon = layer_norm_epsilon
        self.masked_lm = not num_classes if masked_lm is None else masked_lm
        self.next_sentence = next_sentence
        self.num_classes = num_classes
        headed = bool(next_sentence or num_classes)
        self.pooler = headed if pooler is None else pooler
        if headed and not self.pooler:
            raise ValueError("next_sentence and num_classes need the pooler.")
        self.mask_rate = mask_rate
        self.remat = remat
        self._set_tokens(mask_token_id, pad_token_id, special_tokens)
        names = BERTNetwork.arguments()
        with dtype_policy(kwargs.get("dtype")):
            self.network = BERTNetwork(
                **{name: getattr(self, name) for name in names},
                seed=seed,
                stream="bert",
                name="bert",
            )
        metrics = ["accuracy"] if num_classes else ["mlm_accuracy"] * self.masked_lm
        if next_sentence and not num_classes:
            metrics.append("nsp_accuracy")
        losses = ("mlm_loss", "nsp_loss") if next_sentence and not num_classes else ()
        self.set_players("network", metrics=metrics, hidden_metrics=losses)

    def _set_tokens(self, mask_token_id, pad_token_id, special_tokens):
        tokenizer, size = self.tokenizer, self.vocabulary_size
        if tokenizer is not None:
            tokenizer.check_fits(size, "this BERT")
            mask_token_id = (
                tokenizer.mask_token_id if mask_token_id is None else mask_token_id
            )
            pad_token_id = tokenizer.fill_id if pad_token_id is None else pad_token_id
            known = tokenizer.special_ids()
        else:
            if mask_token_id is None and size > SPECIAL[3]:
                mask_token_id = SPECIAL[3]
            pad_token_id = SPECIAL[0] if pad_token_id is None else pad_token_id
            known = [i for i in SPECIAL if i < size]
        self.special_tokens = list(known if special_tokens is None else special_tokens)
        for name, value in (
            ("mask_token_id", mask_token_id),
            ("pad_token_id", pad_token_id),
        ):
            if value is not None and not 0 <= value < size:
                raise ValueError(
                    f"{name} must be an id in [0, {size}); got {value!r} with "
                    f"vocabulary_size={size}."
                )
            setattr(self, name, value)
        self._table = word_table(size, self.special_tokens, tokenizer)

    # Data

    def check_data(self, x, condition, weight):
        given = parts_of(x)
        check_tokens(given["tokens"], self.vocabulary_size, self.max_sequence_length)
        count, shape = len(given["tokens"]), np.shape(given["tokens"])
        limits = {"token_types": (0, self.token_types), "mask": (0, 2)}
        limits["words"] = (-(2**31), shape[1])
        for name, (low, high) in limits.items():
            part = given.get(name)
            if part is None:
                continue
            if np.shape(part) != shape or part.min() < low or part.max() >= high:
                raise ValueError(
                    f"{name} must have the shape of the tokens, {shape}, and values "
                    f"under {high}, at least {max(low, -1)}; got {np.shape(part)} with "
                    f"{part.min()} to {part.max()}."
                )
        if self.num_classes or self.next_sentence:
            check_labels(condition, self.num_classes or 2, count, "This BERT")
        else:
            check_labels(
                condition,
                None,
                count,
                "This BERT",
                "Leave them out, or make it with num_classes= or next_sentence=True.",
            )
        check_sample_weight(weight, count, each="text")
        if not self.num_classes and not self.masked_lm:
            raise ValueError(
                "This BERT has no head to train. Make it with masked_lm=True or "
                "num_classes=."
            )
        if not self.num_classes and self.mask_token_id is None:
            raise ValueError(
                "To mask words the vocabulary must have a mask: give mask_token_id= "
                "(or a tokenizer that has one)."
            )

    def seen(self, tokens):
        """Where tokens are no padding: bool `(B, T)`, of a tensor or NumPy array."""
        one = self.tokenizer
        ends = () if one is None else (one.eos_token_id, one.sep_token_id)
        return not_padding(
            tokens, self.pad_token_id, [i for i in ends if i is not None]
        )

    def _inputs(self, x):
        """Tokens, sentences, mask and words as int32 tensors `(B, T)`."""
        x = parts_of(x)
        tokens = ops.cast(ops.convert_to_tensor(x["tokens"]), "int32")
        check_ids("Tokens", tokens, self.vocabulary_size)
        mask = x.get("mask")
        mask = self.seen(tokens) if mask is None else ops.cast(mask, "bool")
        types, words = x.get("token_types"), x.get("words")
        types = ops.zeros_like(tokens) if types is None else ops.cast(types, "int32")
        if words is None:
            words = word_numbers(tokens, mask, self._table)
        return tokens, types, mask, ops.cast(words, "int32")

    # Training

    def default_optimizer(self, player):
        """AdamW, decay 0.01, of 1e-4 (1810.04805, A.2); 5e-5 with a classifier (A.3).

        Biases and normalizations do not decay, as in the authors' code. The paper
        warms the rate up and lets it fall in a line.
        """
        del player
        rate = 5e-5 if self.num_classes else 1e-4
        optimizer = keras.optimizers.AdamW(rate, weight_decay=0.01, clipnorm=1.0)
        return decaying(optimizer, self.network.variables)

    def objective(self, data, key, offset, training):
        """The loss of a batch, and what the metrics are means of.

        Args:
            data: `(x, labels, weight)`.
            key: of the masked words.
            offset: number of the first sample.
            training: whether there is dropout.

        Returns:
            `(loss, parts)`: scalar; dict metric, or loss that it is the sum of ->
            (mean, the weight of what it is the mean of).
        """
        x, labels, weight = data
        tokens, types, mask, words = self._inputs(x)
        if labels is not None:
            labels = ops.cast(ops.reshape(labels, (-1,)), "int32")
        each = ops.ones(ops.shape(tokens)[:1], "float32")
        if weight is not None:
            each = ops.cast(weight, "float32")  # (B,)
        if self.num_classes:
            states = self.network(tokens, types, mask, training=training)
            logits = self.network.classify(states, training=training)
            loss, *parts = _entropy(labels, logits, each)
            return loss, dict(zip(("network", "accuracy"), parts, strict=True))
        masked, chosen = mask_tokens(
            tokens,
            words,
            key,
            self.mask_token_id,
            self.vocabulary_size,
            rate=self.mask_rate,
            offset=offset,
        )
        states = self.network(masked, types, mask, training=training)
        counted = ops.cast(chosen, "float32") * ops.expand_dims(each, 1)  # (B, T)
        loss, mlm, accuracy = _entropy(tokens, self.network.mlm(states), counted)
        if not self.next_sentence:
            return loss, {"network": mlm, "mlm_accuracy": accuracy}
        parts = {"mlm_loss": mlm, "mlm_accuracy": accuracy}
        more, parts["nsp_loss"], parts["nsp_accuracy"] = _entropy(
            labels, self.network.nsp(states), each
        )
        return loss + more, parts

    def _track_parts(self, parts):
        for name, (value, count) in parts.items():
            self.track(name, ops.stop_gradient(value), count)

    def train_step(self, data):
        key = self.noise.key("mask")

        def loss_fn(*data):
            loss, parts = self.objective(data, key, replicas.number(), training=True)
            parts.pop("network", None)  # `minimize` tracks it
            self._track_parts(parts)
            return loss

        self.minimize("network", loss_fn, *data)

    def test_step(self, data):
        # The masked words follow from the text's place in the data.
        first = self.samples_seen() + replicas.offset()
        key = random.key(self.seed, "evaluate/mask")
        _, parts = self.objective(data, key, first, training=False)
        self._track_parts(parts)
        if "network" not in parts:  # one counts by masked words, the other by texts
            sums = [self.mean_so_far(name) for name in ("mlm_loss", "nsp_loss")]
            self.derive("network", sums[0] + sums[1])

    # Configuration

    def get_config(self):
        return configuration(self, self._ARGUMENTS, ["tokenizer"])

    # Inference

    @property
    def mlm(self):
        """Function: hidden states -> logits `(B, T, V)` of every token."""
        return self.network.mlm if self.masked_lm else None

    @property
    def nsp(self):
        """Function: hidden states -> logits `(B, 2)` of "follows", "does not"."""
        return self.network.nsp if self.next_sentence else None

    @property
    def pooled(self):
        """Function: hidden states -> `(B, C)`."""
        return self.network.pooled if self.pooler else None

    @property
    def classifier(self):
        """Function: hidden states -> logits `(B, K)`."""
        return self.network.classify if self.num_classes else None

    # Use

    def call(self, tokens, token_types=None, mask=None, training=False):
        """Hidden states `(B, T, C)` of tokens `(B, T)`, or of such a dict.

        Args:
            tokens: integers, or a dict with `tokens`.
            token_types: integers: which sentence; None: all the first.
            mask: zero where there is padding; by default at `pad_token_id`.
            training: whether there is dropout.
        """
        x = tokens if isinstance(tokens, dict) else {"tokens": tokens}
        mask = None if isinstance(mask, dict) else mask  # Keras's own, of a dict
        more = {"token_types": token_types, "mask": mask}
        x = {**x, **{name: part for name, part in more.items() if part is not None}}
        tokens, types, mask, _ = self._inputs(x)
        return self.network(tokens, types, mask, training=training)

    def _arrays_of(self, texts, pairs=None):
        """The arrays of texts or of tokens, checked: tokens, sentences, mask."""
        if isinstance(texts, str) or (
            isinstance(texts, (list, tuple)) and texts and isinstance(texts[0], str)
        ):
            if self.tokenizer is None:
                raise ValueError(
                    "Texts need a tokenizer: make the model with tokenizer=, or give "
                    "token ids."
                )
            texts = [texts] if isinstance(texts, str) else texts
            given, texts = texts, self.tokenizer.batch(texts, pairs)
            if texts["tokens"].shape[1] > self.max_sequence_length:
                texts = self.tokenizer.batch(
                    given, pairs, length=self.max_sequence_length
                )
        x = {name: np.asarray(part) for name, part in parts_of(texts).items()}
        check_tokens(x["tokens"], self.vocabulary_size, self.max_sequence_length)
        tokens = x["tokens"].astype("int32")
        types = x.get("token_types", np.zeros_like(tokens))
        mask = x["mask"] if "mask" in x else self.seen(tokens)
        return [tokens, types, mask.astype("int32")]

    @checked(texts=_texts)
    def embed(self, texts, *, normalize=True, batch_size=32):
        """One vector for each text: the mean of the hidden states of its tokens.

        Args:
            texts: list of strings, with a tokenizer; or token ids `(N, T)`, or a dict
                of arrays.
            normalize: whether the vectors have length 1, so that their products are
                cosines.
            batch_size: texts in one pass.

        Returns:
            NumPy float32 `(N, C)`.
        """
        arrays = self._arrays_of(texts)

        def run(tokens, types, mask):
            return self._embedding(tokens, types, mask, normalize)

        return self._run(f"embed/{normalize}", run, arrays, batch_size)

    def _run(self, name, fn, arrays, batch_size):
        """`fn` of rows, padded to a shape that many calls share."""
        how = ((arrays[0].shape[1],), batch_size, (self.max_sequence_length,))
        size, width = self.programs.shape(name, len(arrays[0]), *how)
        values = (self.pad_token_id, 0, 0)
        arrays = [pad_rows(a, width, v) for a, v in zip(arrays, values, strict=True)]
        variables = self.network.variables
        return self.run_in_batches(name, fn, variables, arrays, batch_size, size)

    def _embedding(self, tokens, types, mask, normalize=True):
        states = widen(self.network(tokens, types, mask))
        counted = ops.expand_dims(ops.cast(mask, states.dtype), -1)  # (B, T, 1)
        total = ops.maximum(ops.sum(counted, axis=1), 1e-9)
        mean = ops.sum(states * counted, axis=1) / total  # (B, C)
        if not normalize:
            return mean
        length = ops.sqrt(ops.sum(ops.square(mean), axis=-1, keepdims=True))
        return mean / ops.maximum(length, 1e-12)

    @checked(texts=_texts, pairs=either(word, texts))
    def classify(self, texts, pairs=None, *, batch_size=32):
        """The probabilities of the classes of each text.

        Args:
            texts: see `embed`.
            pairs: the second sentence of each, with texts as strings; or None.
            batch_size: texts in one pass.

        Returns:
            NumPy float32 `(N, K)`.
        """
        if not self.num_classes:
            raise ValueError("This BERT has no classifier: make it with num_classes=.")

        def run(tokens, types, mask):
            return ops.softmax(self.network.classify(self.network(tokens, types, mask)))

        arrays = self._arrays_of(texts, pairs)
        return self._run("classify", run, arrays, batch_size)

    def input_ranges(self):
        return {
            **super().input_ranges(),
            "tokens": Range(least=0, most=self.vocabulary_size - 1),
            "token_types": Range(least=0, most=self.token_types - 1),
            "mask": Range(least=0, most=1),
        }

    def export_signatures(self):
        """`embed`: vectors of length 1; `hidden_states`; `logits` of the classes or
        tokens.

        Each takes `tokens`, `token_types` and `mask`, int32 `(B, T)`.
        """
        names = ("tokens", "token_types", "mask")
        inputs = [(name, (None, None), "int32") for name in names]
        head = self.classifier or self.mlm

        def embed(tokens, types, mask):
            return {"embeddings": self._embedding(tokens, types, mask)}

        def hidden_states(tokens, types, mask):
            return {"hidden_states": widen(self.network(tokens, types, mask))}

        def logits(tokens, types, mask):
            return {"logits": head(self.network(tokens, types, mask))}

        made = {"embed": (embed, inputs), "hidden_states": (hidden_states, inputs)}
        return made if head is None else {**made, "logits": (logits, inputs)}


def _entropy(labels, logits, weight):
    """The loss of the whole batch; (mean, weight) of this part's; of its accuracy."""
    losses = backend.cross_entropy(labels, logits)
    weight = ops.cast(weight, losses.dtype)
    count = ops.sum(weight)
    loss = weighted_mean(losses, weight, replicas.normalizer(count))
    right = ops.cast(backend.argmax(logits) == labels, losses.dtype)
    means = ((weighted_mean(value, weight), count) for value in (losses, right))
    return loss, *means


def parts_of(x):
    """The arrays of a batch as a dict; refuses names that are not known."""
    if not isinstance(x, dict):
        return {"tokens": x}
    unknown = sorted(set(x) - set(PARTS))
    if unknown or "tokens" not in x:
        raise ValueError(
            f"A dict of data holds 'tokens' and may hold {', '.join(PARTS[1:])}; got "
            f"{', '.join(sorted(x))}."
        )
    return x
