"""From the losses of elements to one number."""

from keras import ops

from keras_genai import backend
from keras_genai.backend.precision import widen


def per_sample(values):
    """`(B, ...)` -> `(B,)`: the mean over all but the batch, at least in float32."""
    values = widen(values)
    if len(values.shape) == 1:
        return values
    return ops.mean(values, axis=tuple(range(1, len(values.shape))))  # (B,)


def mean_over_samples(losses, weight=None):
    """Mean over samples of `(B, ...)`, weighted by `weight` `(B,)` if given."""
    losses = per_sample(losses)  # (B,)
    if weight is None:
        return ops.mean(losses)
    weight = ops.cast(ops.reshape(weight, (-1,)), losses.dtype)  # (B,)
    if None not in (weight.shape[0], losses.shape[0]) and weight.shape != losses.shape:
        raise ValueError(
            "weight must hold one number per sample: expected shape "
            f"{tuple(losses.shape)}, got {tuple(weight.shape)}."
        )
    return weighted_mean(losses, weight, backend.replicas.normalizer(ops.sum(weight)))


def weighted_mean(values, weights, total=None):
    """`sum(weights * values) / total`, and 0, not 0 / 0, where nothing counts.

    Args:
        values, weights: tensors of one shape.
        total: by default the sum of the weights; for a loss
            `backend.replicas.normalizer` of it, that of the whole batch.
    """
    total = ops.sum(weights) if total is None else total
    one = ops.ones_like(total)
    return ops.sum(weights * values) / ops.where(total == 0, one, total)
