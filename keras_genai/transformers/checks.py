"""What is said before any work when tokens or an argument do not fit."""

import numpy as np

from keras_genai.utils.validation import number


def row_of(size, table, names):
    """What a size's name stands for: a dict of arguments.

    Args:
        size: name of a row.
        table: dict name -> values.
        names: of the values.
    """
    if size not in table:
        raise ValueError(f"size must be one of {', '.join(table)}; got {size!r}.")
    return dict(zip(names, table[size], strict=True))


def check_rate(name, value):
    """The number; refuses what is not in [0, 1)."""
    return float(number("[0, 1)")(name, value))


def filled(tokens, width, value):
    """Rows `(N, T)` filled up behind with a value: `(N, width)`."""
    room = ((0, 0), (0, width - tokens.shape[1]))
    return np.pad(tokens, room, constant_values=value)


def check_length(tokens, context):
    """Refuses tokens `(B, T)` longer than a table of positions, also in a graph."""
    length = tokens.shape[1]  # no integer in a graph for any length
    if isinstance(length, int) and length > context:
        raise ValueError(
            f"Tokens may be at most {context} for each text, the model's context; got "
            f"{length}. Cut the texts, or make a model with context={length}."
        )


def check_tokens(tokens, vocabulary_size, context=None, name="Tokens"):
    """Refuses token ids of another shape, type or range.

    Args:
        tokens: NumPy array.
        vocabulary_size: V.
        context: most tokens of a text, or None.
        name: what they are, the first word of the message.
    """
    shape = np.shape(tokens)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(
            f"{name} must be integers (N, T), N texts of T tokens, padded, neither of "
            f"them 0; got the shape {shape}."
            + (" Add the axis: tokens[None]." if len(shape) == 1 else "")
        )
    if not np.issubdtype(tokens.dtype, np.integer):
        raise ValueError(f"{name} must be integers; got the type {tokens.dtype}.")
    if tokens.min() < 0 or tokens.max() >= vocabulary_size:
        raise ValueError(
            f"{name} must lie in the vocabulary, [0, {vocabulary_size}); got values "
            f"from {tokens.min()} to {tokens.max()}. Is the tokenizer the model's?"
        )
    if context is not None and shape[1] > context:
        raise ValueError(
            f"{name} may be at most {context} for each text, the model's context; got "
            f"{shape[1]}. Cut the texts, or make a model with context={shape[1]}."
        )
