"""A distance of images by the features of a network: LPIPS (1801.03924)."""

from keras import ops

from keras_genai.backend.precision import widen

EPSILON = 1e-10


def unit_normalize(features):
    """Scales the vector of channels of every position to length 1.

    Args:
        features: `(B, h, w, C)`.

    Returns:
        Tensor of the same shape, at least float32; zeros stay zeros.
    """
    features = widen(features)
    squared = ops.sum(ops.square(features), axis=-1, keepdims=True)  # (B, h, w, 1)
    # The root of 0 has no slope; 1e-10 is the addend of the paper's code.
    positive = squared > 0.0
    length = ops.sqrt(ops.where(positive, squared, ops.ones_like(squared)))
    length = ops.where(positive, length, ops.zeros_like(length))
    return features / (length + EPSILON)


def perceptual_distance(features, others, weights=None):
    """`sum_l mean_hw || w_l (f_l - g_l) ||^2` of unit features: 1801.03924, equation 1.

    Args:
        features: list over layers of `(B, h, w, C)`, of the first images; or one.
        others: likewise, of the second.
        weights: list over layers of `(C,)`, not negative: the learned weights of the
            channels, squared as the published ones are. By default 1: the distance
            that the paper calls the baseline, a sum over channels.

    Returns:
        `(B,)`, at least 0.

    Raises:
        ValueError: the lists have different lengths.

    Example:

    >>> a = ops.array([[[[2.0, 0.0]]]])  # (1, 1, 1, 2): one position
    >>> b = ops.array([[[[0.0, 5.0]]]])
    >>> perceptual_distance([a], [b])    # |(1, 0) - (0, 1)|^2 = 2
    """
    features, others = _list(features), _list(others)
    weights = [None] * len(features) if weights is None else _list(weights)
    if not len(features) == len(others) == len(weights):
        raise ValueError(
            "perceptual_distance needs as many layers of features for both images, "
            f"and of weights; got {len(features)}, {len(others)} and {len(weights)}."
        )
    total = 0.0
    for f, g, weight in zip(features, others, weights, strict=True):
        squares = ops.square(unit_normalize(f) - unit_normalize(g))  # (B, h, w, C)
        if weight is not None:
            squares = squares * ops.cast(weight, squares.dtype)
        total = total + ops.mean(ops.sum(squares, axis=-1), axis=(1, 2))  # (B,)
    return total


def _list(features):
    return list(features) if isinstance(features, (list, tuple)) else [features]
