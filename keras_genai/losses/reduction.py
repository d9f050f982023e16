"""From the losses of elements to one number."""

from keras import ops

from keras_genai import engine
from keras_genai.engine.precision import widen


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
    total = engine.replicas.normalizer(ops.sum(weight))
    # A batch whose weights are all zero has no say: a loss of 0, not 0 / 0.
    return ops.sum(weight * losses) / ops.where(total == 0, ops.ones_like(total), total)
