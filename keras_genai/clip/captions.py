"""Captions and pairs as CLIP trains on them: tokens, several an image, checks."""

import warnings

import keras
import numpy as np
from keras import ops

from keras_genai.backend import random
from keras_genai.training.data import WrappedDataset
from keras_genai.utils.checks import check_images, check_sample_weight, check_tokens
from keras_genai.utils.validation import is_integer, refuse

ABSENT = -1  # what fills the row of a caption that an image does not have
FEWEST = 50  # steps, until an epoch's loss says something: rates begin low
NEAR = 0.01  # of the loss to that of chance


# From texts to tokens


def check_names(x):
    """Refuses data that are no dict of images and tokens."""
    if not isinstance(x, dict) or set(x) != {"images", "tokens"}:
        got = sorted(map(str, x)) if isinstance(x, dict) else type(x).__name__
        raise ValueError(
            "CLIP's data are a dict of 'images' and of 'captions' or 'tokens'; got "
            f"{got}."
        )


def tokenized(model, texts, truncate=False):
    """See `CLIP.tokenize`."""
    if model.tokenizer is None:
        raise ValueError(
            "Captions and texts need a tokenizer, which this CLIP has not: give token "
            "ids, or make it with tokenizer=."
        )
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, (list, tuple, np.ndarray)):
        refuse("captions", "strings, or a list of strings for each image", texts)
    texts = list(texts)
    several = bool(texts) and not isinstance(texts[0], str)
    if not several:
        _check_strings(texts)
        return _rows(model, texts, truncate)
    counts = []
    for number, group in enumerate(texts):
        if isinstance(group, str) or not len(group):
            raise ValueError(
                f"captions must be strings, or a list of strings for each image; "
                f"number {number} is {group!r}."
            )
        _check_strings(group)
        counts.append(len(group))
    rows = _rows(model, [text for group in texts for text in group], truncate)
    made = np.full((len(texts), max(counts), rows.shape[1]), ABSENT, "int32")
    ends = np.cumsum(counts)
    for line, count, end in zip(made, counts, ends, strict=True):
        line[:count] = rows[end - count : end]
    return made


def _check_strings(texts):
    wrong = next((x for x in texts if not isinstance(x, str)), None)
    if wrong is not None:
        raise ValueError(f"captions must be strings; one is {wrong!r}.")


def _rows(model, texts, truncate):
    """Token ids `(N, T)` of strings, filled up."""
    length, end = (
        model.max_sequence_length,
        getattr(model.text_tower, "eos_token_id", None),
    )
    if not texts:
        raise ValueError("There are no captions; at least one is needed.")
    found = [list(row) for row in model.tokenizer.encode(texts)]
    if end is not None:
        # Of a tokenizer that sets none around a text.
        found = [row if end in row else [*row, end] for row in found]
    empty = [i for i, row in enumerate(found) if not row]
    if empty:
        raise ValueError(f"The text of number {empty[0]} has no tokens.")
    long = [i for i, row in enumerate(found) if len(row) > length]
    if long:
        says = (
            f"{len(long)} of {len(texts)} texts have more than {length} tokens, the "
            f"first of number {long[0]}, {texts[long[0]][:80]!r}, {len(found[long[0]])}"
        )
        if not truncate:
            raise ValueError(
                f"{says}. Shorten them, or cut them: "
                "model.tokenize(texts, truncate=True)."
            )
        warnings.warn(f"{says}: they are cut.", stacklevel=4)
        found = [
            row if len(row) <= length else [*row[: length - 1], row[-1]]
            for row in found
        ]
    tokens = np.full((len(found), length), model.pad_token_id, "int32")
    for line, row in zip(tokens, found, strict=True):
        line[: len(row)] = row
    return tokens


def ids_of(model, texts, truncate):
    """Strings or token ids as int32 ids `(N, T)`."""
    first = texts[0] if isinstance(texts, (list, tuple)) else texts
    if isinstance(first, str):
        return tokenized(model, texts, truncate)
    if isinstance(texts, np.ndarray) and texts.dtype.kind in "UO":
        return tokenized(model, texts.tolist(), truncate)
    if is_integer(first):
        texts = [texts]
    try:
        tokens = np.asarray(texts)
    except ValueError:
        tokens = np.empty(0)
    if tokens.dtype.kind not in "iu":
        raise ValueError(
            "texts must be strings or token ids (N, T) of one length; got lists of "
            "other lengths."
        )
    return (tokens[None] if tokens.ndim == 1 else tokens).astype("int32")


# What `fit` is given


def prepared(model, x):
    """Data with tokens in the place of captions, where those can be looked at."""
    if isinstance(x, dict) and "captions" in x:
        if "tokens" in x:
            raise ValueError("Give captions or tokens, not both.")
        captions = x["captions"]
        captions = captions.tolist() if hasattr(captions, "tolist") else captions
        tokens = tokenized(model, captions)
        images = x.get("images")
        if images is not None and len(images) != len(tokens):
            raise ValueError(
                f"There must be as many captions as images; got {len(tokens)} and "
                f"{len(images)}."
            )
        return {k: v for k, v in x.items() if k != "captions"} | {"tokens": tokens}
    if isinstance(x, keras.utils.PyDataset):
        batch = x[0]
        first = batch[0] if isinstance(batch, (tuple, list)) else batch
        if isinstance(first, dict) and "captions" in first:
            known = getattr(x, "captions", None)
            if known is not None:
                tokenized(model, known)  # one that does not fit is found at once
            return TokenizedDataset(x, model)
    return x


def prepared_validation(model, data):
    """The same for `validation_data`, of which the first part is the pairs."""
    if isinstance(data, (tuple, list)) and data:
        return (prepared(model, data[0]), *data[1:])
    return prepared(model, data)


class TokenizedDataset(WrappedDataset):
    """A `PyDataset` whose captions are tokens.

    Args:
        dataset: `PyDataset` of batches `{"images": ..., "captions": ...}`, alone or
            first of a tuple.
        model: `CLIP`, whose `tokenize` is used.
    """

    def __init__(self, dataset, model):
        super().__init__(dataset)
        self.model = model

    def __getitem__(self, index):
        batch = self.dataset[index]
        if isinstance(batch, (tuple, list)):
            return (prepared(self.model, batch[0]), *batch[1:])
        return prepared(self.model, batch)


def rows_of(tokens, count):
    """All captions' tokens `(N, T)`, checked against the number of images.

    Args:
        tokens: array `(N, T)` or `(N, K, T)`; of K captions those that are not there
            are rows of -1, and the first is there.
        count: number of images.
    """
    shape = np.shape(tokens)
    if not shape or shape[0] != count:
        raise ValueError(
            f"There must be tokens for each image: got {count} images and tokens of "
            f"the shape {shape}."
        )
    if len(shape) != 3:
        return tokens
    absent = (tokens == ABSENT).all(axis=-1)  # (N, K)
    ragged = absent[:, :-1] & ~absent[:, 1:]
    if absent[:, 0].any() or ragged.any():
        raise ValueError(
            "Of tokens (N, K, T), the rows of -1 must come last, and each image must "
            "have a caption."
        )
    return tokens[~absent]


# Checks


def check(model, x, condition, weight):
    """Refuses data that `CLIP` cannot train on: see `Model.check_data`."""
    if condition is not None:
        raise ValueError(
            "CLIP takes no labels: give fit({'images': ..., 'captions': ...}) the "
            "pairs alone."
        )
    check_names(x)
    images, tokens = x["images"], x["tokens"]
    count = len(images)
    check_images_of(model, images)
    tokens = rows_of(tokens, count)
    check_tokens_of(model, tokens)
    check_sample_weight(weight, count)
    if model.loss_name == "softmax" and count > 1 and len(tokens) == count:
        if (tokens == tokens[:1]).all():
            raise ValueError(
                f"All {count} captions are equal: there is nothing to tell apart."
            )


def check_images_of(model, images):
    """Refuses images of another size, type or range, and says how to mend them."""
    shape = np.shape(images)
    if len(shape) == 4 and shape[1:] != model.image_shape:
        height, width, channels = model.image_shape
        raise ValueError(
            f"Images must have the shape (N, {height}, {width}, {channels}); got "
            f"{shape}. "
            + (
                "Resize them: keras.ops.image.resize(images, "
                f"({height}, {width}), antialias=True)."
                if shape[3] == channels
                else f"They must have {channels} channels, last."
            )
        )
    check_images(images, model.image_shape)


def check_tokens_of(model, tokens):
    """Refuses token ids that the text tower does not take, or cannot pool."""
    check_tokens(tokens, model.vocabulary_size, model.max_sequence_length)
    if hasattr(model.text_tower, "check_ends"):
        model.text_tower.check_ends(tokens)


def check_batches(model, x, y=None, batch_size=None, *args, **kwargs):
    """Refuses arrays of which `fit`, so called, makes a batch of one pair."""
    del y, args, kwargs
    if isinstance(x, dict) and "images" in x:
        count, size = len(x["images"]), 32 if batch_size is None else batch_size
        if is_integer(size) and size > 0 and 1 in (count, size, count % size):
            check_count(model, 1, f": batch_size={size} of {count} pairs")


def check_count(model, count, why=""):
    """Refuses a batch of one pair, of which the softmax learns nothing."""
    if count == 1 and model.loss_name == "softmax":
        raise ValueError(
            f"A batch must have two pairs or more; got one{why}. Its softmax loss "
            "is 0: there is nothing to tell it from. Give another batch_size, or "
            "leave a pair out."
        )


# In a step


def drawn(tokens, noise):
    """One caption of each image: `(B, T)` or `(B, K, T)` -> `(B, T)`.

    Args:
        tokens: int32.
        noise: `random.Noise` that the draw is keyed by; None takes the first.
    """
    if len(tokens.shape) == 2:
        return tokens
    if noise is None:
        return tokens[:, 0]
    counts = ops.sum(ops.cast(tokens[:, :, 0] != ABSENT, "int32"), axis=1)  # (B,)
    u = noise.uniform("caption", (ops.shape(tokens)[0],), dtype="float32")
    index = ops.cast(u * ops.cast(counts, "float32"), "int32")
    index = ops.minimum(index, counts - 1)  # where the product rounds up
    index = ops.expand_dims(index, (1, 2))
    return ops.take_along_axis(tokens, index, axis=1)[:, 0]


def digests(tokens):
    """A digest of each row of ids, `(B, T)` -> `(B, 4)`: numbers in [0, 2^16).

    Two sums of 32 bits with odd random factors: other rows have the same with a chance
    of about 2^-60. In halves, since float32 holds those exactly, and floats alone are
    summed over devices.
    """
    halves = []
    for i in range(2):
        key = random.key(0, f"captions/{i}")
        words = random.bits(key, (tokens.shape[1], 1), host=True)[:, 0]
        total = ops.sum(tokens * ops.convert_to_tensor(words | 1), axis=1)
        low = ops.bitwise_and(total, 0xFFFF)
        high = ops.bitwise_and(ops.right_shift(total, 16), 0xFFFF)
        halves += [low, high]
    return ops.cast(ops.stack(halves, axis=1), "float32")


def equal_pairs(names):
    """Which other captions are equal: bool `(B, B)`, False on the diagonal.

    Args:
        names: `(B, 4)`, see `digests`.
    """
    same = ops.all(ops.equal(names[:, None], names[None]), axis=-1)
    own = ops.cast(ops.eye(ops.shape(names)[0]), "bool")
    return ops.logical_and(same, ops.logical_not(own))


# Whether anything is learned


class StuckLoss(keras.callbacks.Callback):
    """Warns once where an epoch's loss is that of chance, `log(batch)`."""

    def __init__(self):
        super().__init__()
        self.steps = 0
        self.done = False

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1

    def on_epoch_end(self, epoch, logs=None):
        if self.done or self.steps < FEWEST:
            return
        self.done = True
        chance = float(ops.convert_to_numpy(self.model.mean_so_far("chance")))
        loss = (logs or {}).get("loss")
        if loss is not None and abs(loss - chance) < NEAR * chance:
            warnings.warn(
                f"After {self.steps} steps the epoch's loss, {loss:.4g}, is that "
                f"of chance, log(batch) = {chance:.4g}: nothing is learned yet. Do "
                "images and captions belong together, row by row? Otherwise another "
                "learning rate (warmed up), larger batches, or more epochs.",
                stacklevel=2,
            )
