"""Grids of codes: what is asked of them, and how they are counted."""

import keras
import numpy as np
from keras import ops

from keras_genai.backend import replicas


def check_codes(codes, shape, vocabulary_size, name="Codes"):
    """Refuses codes of another shape or type, or out of range."""
    if tuple(np.shape(codes)[1:]) != tuple(shape) or np.ndim(codes) == 0:
        raise ValueError(
            f"{name} must have the shape (N, {', '.join(map(str, shape))}); got "
            f"{np.shape(codes)}."
        )
    if not np.issubdtype(codes.dtype, np.integer):
        raise ValueError(f"{name} must be integers; got the type {codes.dtype}.")
    if len(codes) == 0:
        raise ValueError("The data holds no codes; at least one is needed.")
    if codes.min() < 0 or codes.max() >= vocabulary_size:
        raise ValueError(
            f"{name} must lie in [0, {vocabulary_size}); got values from "
            f"{codes.min()} to {codes.max()}."
        )


def check_temperature(temperature):
    """Refuses a temperature that is not over 0."""
    number = isinstance(temperature, (int, float, np.number))
    if not number or isinstance(temperature, bool) or not temperature > 0:
        raise ValueError(f"temperature must be over 0; got {temperature!r}.")


class Perplexity(keras.metrics.Metric):
    """`exp` of the entropy of the codes' frequencies: from 1 to the codebook's size.

    Of several stages the mean of theirs.

    Args:
        codebook_size: K.
        stages: how many indices stand for one code, or None.
    """

    def __init__(self, codebook_size, stages=None, name="perplexity"):
        super().__init__(name=name)
        self.codebook_size = codebook_size
        self.stages = stages
        self.counts = self.add_variable(
            (stages or 1, codebook_size), initializer="zeros", name="counts"
        )

    def update_state(self, indices, sample_weight=None):
        """Adds the indices `(B, ...)` of a batch, by their samples' weights `(B,)`."""
        batch = ops.shape(indices)[0]
        indices = ops.reshape(indices, (-1, self.stages or 1))  # (N, stages)
        found = ops.one_hot(indices, self.codebook_size, dtype=self.counts.dtype)
        if sample_weight is not None:
            each = ops.cast(ops.reshape(sample_weight, (-1,)), found.dtype)
            each = ops.repeat(each, ops.shape(indices)[0] // batch)  # (N,)
            found = found * ops.reshape(each, (-1, 1, 1))
        (found,) = replicas.total([ops.sum(found, axis=0)])  # (stages, K)
        self.counts.assign(self.counts + found)

    def result(self):
        counts = ops.convert_to_tensor(self.counts)
        total = ops.sum(counts, axis=1, keepdims=True)
        p = counts / ops.where(total > 0.0, total, ops.ones_like(total))
        entropy = -ops.sum(p * ops.log(ops.maximum(p, 1e-30)), axis=1)
        return ops.mean(ops.exp(entropy))
