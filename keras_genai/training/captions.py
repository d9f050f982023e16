"""Images with captions as models train on them: tokens, several captions an image.

The functions take the model that they are for. It has a `tokenizer` or None, a
`max_sequence_length`, a `pad_token_id` and an `end_token_id` or None.
"""

import warnings

import keras
import numpy as np
from keras import ops

from keras_genai.training.data import WrappedDataset
from keras_genai.utils.validation import is_integer, refuse

ABSENT = -1  # what fills the row of a caption that an image does not have


# From texts to tokens


def check_names(model, x):
    """Refuses data that are no dict of images and tokens."""
    if not isinstance(x, dict) or set(x) != {"images", "tokens"}:
        got = sorted(map(str, x)) if isinstance(x, dict) else type(x).__name__
        raise ValueError(
            f"The data of {type(model).__name__} are a dict of 'images' and of "
            f"'captions' or 'tokens'; got {got}."
        )


def tokenized(model, texts, truncate=False):
    """See `CLIP.tokenize`, and `LatentDiffusion.tokenize`."""
    if model.tokenizer is None:
        raise ValueError(
            "Captions and texts need a tokenizer, which this model has not: give token "
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
    length, end = model.max_sequence_length, model.end_token_id
    if not texts:
        raise ValueError("There are no captions; at least one is needed.")
    found = [list(row) for row in model.tokenizer.encode(texts)]
    if end is not None:
        # Of a tokenizer that sets none around a text.
        found = [row if end in row else [*row, end] for row in found]
    null = getattr(model, "null_tokens", None)  # of a model that has such a prompt
    if null is not None:
        found = [
            row if text else null.tolist()
            for row, text in zip(found, texts, strict=True)
        ]
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
        lost = model.tokenizer.decode(found[long[0]][length - 1 : -1])
        warnings.warn(f"{says}: they are cut, that one before {lost!r}.", stacklevel=4)
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
        model: whose `tokenize` is used.
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


# In a step


def drawn(tokens, noise):
    """One caption of each image: `(B, T)` or `(B, K, T)` -> `(B, T)`.

    Args:
        tokens: int32.
        noise: `random.Noise` that the draw is keyed by; None takes the first.
    """
    return drawn_of([tokens], noise)[0]


def drawn_of(arrays, noise):
    """The same of arrays that belong to captions, of which the first are the tokens.

    Args:
        arrays: list of tensors `(B, T, ...)` or `(B, K, T, ...)`.
        noise: see `drawn`.
    """
    tokens = arrays[0]
    if len(tokens.shape) == 2:
        return arrays
    if noise is None:
        return [array[:, 0] for array in arrays]
    counts = ops.sum(ops.cast(tokens[:, :, 0] != ABSENT, "int32"), axis=1)  # (B,)
    u = noise.uniform("caption", (ops.shape(tokens)[0],), dtype="float32")
    index = ops.cast(u * ops.cast(counts, "float32"), "int32")
    index = ops.minimum(index, counts - 1)  # where the product rounds up

    def taken(array):
        axes = tuple(range(1, len(array.shape)))
        return ops.take_along_axis(array, ops.expand_dims(index, axes), axis=1)[:, 0]

    return [taken(array) for array in arrays]
