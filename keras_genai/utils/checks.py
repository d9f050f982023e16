"""Checks of data and of sizes, before any work."""

import numpy as np

from keras_genai.utils.validation import integer


def check_integer(name, value, least=1):
    """The integer; refuses anything but one of at least `least`."""
    return integer(least)(name, value)


def check_positive(name, value):
    """The integer; refuses anything but one of at least 1."""
    return check_integer(name, value)


def check_image_shape(shape, divisor=1, most_channels=None, instead=""):
    """The shape as a tuple of integers; refuses what the networks cannot make.

    Args:
        shape: `(height, width, channels)`.
        divisor: what height and width must be divisible by.
        most_channels: how many channels there may be; None for any number.
        instead: what to do where the sides do not divide, for the message.
    """
    ok = isinstance(shape, (tuple, list)) and len(shape) == 3
    ok = ok and all(isinstance(n, (int, np.integer)) and n > 0 for n in shape)
    if not ok or shape[0] % divisor or shape[1] % divisor:
        raise ValueError(
            "image_shape must be (height, width, channels), positive integers"
            + (f" with sides divisible by {divisor}" if divisor > 1 else "")
            + f"; got {shape!r}."
            + (f" {instead}" if ok and instead else "")
        )
    if most_channels is not None and shape[2] > most_channels:
        raise ValueError(
            f"image_shape must have 1 to {most_channels} channels, channels last; got "
            f"{shape!r}."
        )
    return tuple(int(n) for n in shape)


def _array(name, given):
    """The data as an array; refuses what makes none of numbers."""
    if isinstance(given, (list, tuple)):
        try:
            given = np.asarray(given)
        except ValueError:
            given = None  # rows of different lengths
    if getattr(getattr(given, "dtype", None), "kind", "f") == "O" or given is None:
        raise ValueError(
            f"{name} must be an array of numbers; got {type(given).__name__}, or rows "
            "of different lengths."
        )
    return given


def check_images(images, shape, value_range=(-1.0, 1.0)):
    """Refuses images of another shape, type or range."""
    low, high = value_range
    wanted = f"[{low:g}, {high:g}]"
    images = _array("Images", images)
    if np.ndim(images) != 4 or tuple(np.shape(images)[1:]) != tuple(shape):
        raise ValueError(
            f"Images must have the shape (N, {', '.join(map(str, shape))}), channels "
            f"last; got {np.shape(images)}."
            + (" Add the channel: images[..., None]." if np.ndim(images) == 3 else "")
        )
    scale = {
        (-1.0, 1.0): "Scale 8-bit images by images.astype('float32') / 127.5 - 1.",
        (0.0, 1.0): "Scale 8-bit images by images.astype('float32') / 255.",
    }.get((low, high), "")
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(
            f"Images must be floats in {wanted}; got the type {images.dtype}. {scale}"
        )
    if len(images) == 0:
        raise ValueError("The data holds no images; at least one is needed.")
    least, most = float(images.min()), float(images.max())
    if not (least >= low - 1e-3 and most <= high + 1e-3):  # also where one is NaN
        raise ValueError(
            f"Images must lie in {wanted}; got values from {least:.6g} to {most:.6g}. "
            f"{scale}"
        )


def check_sample_weight(weight, count, each="image"):
    """Refuses weights that are not one for each sample; None is no weights."""
    if weight is not None and np.shape(_array("sample_weight", weight)) != (count,):
        raise ValueError(
            f"sample_weight must have shape ({count},), one for each {each}; got "
            f"{np.shape(weight)}."
        )


def check_labels(
    labels, num_classes, count, model="This model", instead="Leave them out."
):
    """Refuses labels that are missing, unwanted, of another shape or out of range.

    Args:
        labels: NumPy array, or None.
        num_classes: K, or None for a model without labels.
        count: number of samples.
        model: what takes no labels, for the message.
        instead: what to do with labels that it does not take, likewise.
    """
    if num_classes is None:
        if labels is not None:
            raise ValueError(f"{model} takes no labels, but some were given. {instead}")
        return
    if labels is None:
        raise ValueError(
            f"Labels are missing: this model has {num_classes} classes. Give them as "
            "fit(images, labels), integers (N,)."
        )
    labels = _array("Labels", labels)
    if np.shape(labels) not in ((count,), (count, 1)):
        raise ValueError(
            f"Labels must be integers of the shape ({count},), one for each image; "
            f"got the shape {np.shape(labels)}."
            + (
                " For one-hot labels give labels.argmax(-1)."
                if labels.ndim == 2
                else ""
            )
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"Labels must be integers; got the type {labels.dtype}.")
    if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
        raise ValueError(
            f"Labels must lie in [0, {num_classes}); got values from {labels.min()} "
            f"to {labels.max()}."
        )


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


def patched_row(size, table, patches=None):
    """What a name such as `"B/16"` stands for: a row and the side of a patch.

    Args:
        size: the name.
        table: dict name -> `(num_layers, hidden_dim, num_heads)`.
        patches: the sides that there are; None for any.

    Returns:
        Dict of arguments.
    """
    name, _, patch = str(size).partition("/")
    side = int(patch) if patch.isdecimal() else 0
    if name not in table or side < 1 or (patches and side not in patches):
        known = ", ".join(f"{key}/{n}" for key in table for n in patches or (16,))
        says = "one of" if patches else "a name and the side of a patch, such as"
        raise ValueError(f"size must be {says} {known}; got {size!r}.")
    row = row_of(name, table, ("num_layers", "hidden_dim", "num_heads"))
    return {**row, "patch_size": side}


def sizes_of(size, table, **given):
    """The arguments given, and in the place of None what a size's name stands for.

    Args:
        size, table: see `row_of`.
        **given: in the order of a row.

    Returns:
        Dict of arguments.
    """
    row = row_of(size, table, given)
    return {name: row[name] if x is None else x for name, x in given.items()}


def check_heads(num_heads, hidden_dim):
    """Refuses a number of heads that does not divide the channels."""
    if hidden_dim % num_heads:
        raise ValueError(
            f"num_heads must divide hidden_dim: {num_heads} does not divide "
            f"{hidden_dim}."
        )


def check_length(tokens, context):
    """Refuses tokens `(B, T)` longer than a table of positions, also in a graph."""
    length = tokens.shape[1]  # no integer in a graph for any length
    if isinstance(length, int) and length > context:
        raise ValueError(
            f"Tokens may be at most {context} for each text, the model's context; got "
            f"{length}. Cut the texts, or make a model with "
            f"max_sequence_length={length}."
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
            f"{shape[1]}. Cut the texts, or make a model with "
            f"max_sequence_length={shape[1]}."
        )
