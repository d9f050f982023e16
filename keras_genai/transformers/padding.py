"""Padding: rows of tokens of one length, and where their texts are."""

import numpy as np
from keras import ops


def pad_rows(tokens, width, value):
    """Rows `(N, T)`, right-padded with a value: a NumPy array `(N, width)`."""
    room = ((0, 0), (0, width - tokens.shape[1]))
    return np.pad(tokens, room, constant_values=value)


def padded_left(tokens, lengths):
    """Right-padded rows, left-padded.

    Args:
        tokens: int32 `(B, T)`.
        lengths: int32 `(B,)`, or None where all are T.

    Returns:
        `(tokens, valid)`, each `(B, T)`; `valid` is False where there is padding.
    """
    if lengths is None:
        return tokens, ops.ones_like(tokens, dtype="bool")
    count = ops.shape(tokens)[1]
    gap = count - ops.expand_dims(ops.cast(lengths, "int32"), 1)  # (B, 1)
    index = ops.arange(count, dtype="int32") - gap
    tokens = ops.take_along_axis(tokens, ops.maximum(index, 0), axis=1)
    return tokens, index >= 0


def positions_of(mask):
    """The positions of tokens without padding: int32 like `mask`."""
    return ops.maximum(ops.cumsum(ops.cast(mask, "int32"), axis=1) - 1, 0)


def not_padding(tokens, pad, ends=()):
    """Where a token counts: bool like `tokens` `(B, T)`, a tensor or NumPy array.

    All but `pad`. Where `pad` ends texts too, the one that directly follows a text is
    the text's end and counts; those after an end, and those that begin a row, are
    padding.

    Args:
        tokens: int32 `(B, T)`.
        pad: id of the padding.
        ends: ids that end a text.
    """
    counts = tokens != pad
    if pad not in ends:
        return counts
    text = tokens[:, :-1] != pad
    for end in ends:
        text = text & (tokens[:, :-1] != end)
    host = isinstance(tokens, np.ndarray)
    first, concatenate = counts[:, :1], np.concatenate if host else ops.concatenate
    return counts | concatenate([first, text], axis=1)
