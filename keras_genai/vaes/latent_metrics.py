"""Metrics of the latents over all the data: how many are active, and their KL."""

import keras
from keras import ops

from keras_genai import backend
from keras_genai.backend.precision import widen
from keras_genai.utils.arguments import checked
from keras_genai.utils.serialization import PACKAGE
from keras_genai.utils.validation import number


@keras.saving.register_keras_serializable(PACKAGE)
class ActiveUnits(keras.metrics.Metric):
    """The number of latents whose posterior mean moves with the data.

    1509.00519, section 5.2: unit u is active if the variance over x of `E[u|x]` is
    above 0.01. Sums are kept over all batches, so that the number is that of the
    whole evaluation, whatever the batch size and the number of replicas. While
    training the means are those of a moving encoder.

    Args:
        latent_dim: D.
        threshold: of the variance.
    """

    @checked(threshold=number(">= 0"))
    def __init__(self, latent_dim, threshold=0.01, name="active_units"):
        super().__init__(name=name)
        self.latent_dim = latent_dim
        self.threshold = threshold
        self.count = self.add_variable((), "zeros", name="count")
        self.total = self.add_variable((latent_dim,), "zeros", name="total")
        self.squares = self.add_variable((latent_dim,), "zeros", name="squares")

    def update_state(self, mean, sample_weight=None):
        """Adds the posterior means `(B, D)` of a batch, by their weights `(B,)`."""
        mean = ops.stop_gradient(widen(mean))
        each = ops.ones_like(mean[:, :1])  # (B, 1)
        if sample_weight is not None:
            each = ops.cast(ops.reshape(sample_weight, (-1, 1)), mean.dtype)
        sums = [ops.sum(each)]
        sums += [ops.sum(each * x, axis=0) for x in (mean, ops.square(mean))]
        variables = (self.count, self.total, self.squares)
        for variable, value in zip(
            variables, backend.replicas.total(sums), strict=True
        ):
            variable.assign(variable + ops.cast(value, variable.dtype))

    def variance(self):
        """The variance of each unit's mean over what was seen, `(D,)`."""
        count = ops.where(self.count.value > 0.0, self.count.value, 1.0)
        return self.squares / count - ops.square(self.total / count)

    def result(self):
        active = self.variance() > self.threshold
        return ops.sum(ops.cast(active, self.dtype))

    def get_config(self):
        return {
            "latent_dim": self.latent_dim,
            "threshold": self.threshold,
            "name": self.name,
        }


@keras.saving.register_keras_serializable(PACKAGE)
class LatentMeans(keras.metrics.Metric):
    """The mean over the data of a number of each latent, such as its KL, `(D,)`.

    Args:
        latent_dim: D.
    """

    def __init__(self, latent_dim, name="latent_means"):
        super().__init__(name=name)
        self.latent_dim = latent_dim
        self.count = self.add_variable((), "zeros", name="count")
        self.total = self.add_variable((latent_dim,), "zeros", name="total")

    def update_state(self, mean, sample_weight):
        """Adds the mean over a batch `(D,)`, which counts by that scalar."""
        weight = ops.cast(sample_weight, self.dtype)
        self.total.assign(self.total + weight * ops.cast(mean, self.dtype))
        self.count.assign(self.count + weight)

    def result(self):
        count = ops.where(self.count.value > 0.0, self.count.value, 1.0)
        return self.total / count

    def get_config(self):
        return {"latent_dim": self.latent_dim, "name": self.name}
