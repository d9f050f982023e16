"""A network that knows: the best prediction for Gaussian data, in closed form."""

import keras
import numpy as np
from keras import ops

from keras_genai.diffusion import schedules
from keras_genai.diffusion.denoiser import convert
from keras_genai.diffusion.schedules import expand


@keras.saving.register_keras_serializable("tests")
class GaussianNetwork(keras.Model):
    """Predicts for images `(H, W, C)` from N(mean, covariance), or of K means.

    `x_0 = m + alpha S (alpha^2 S + sigma^2)^-1 (x - alpha m)`.

    Args:
        means: `(K + 1, D)` for labels 0 to K, or `(1, D)` without labels.
        covariance: `(D, D)`.
        image_shape: of D pixels.
        schedule: its name or configuration.
        parameterization: of the prediction.
        time_scale: what the times that it is given are multiples of.
    """

    def __init__(
        self,
        means,
        covariance,
        image_shape,
        schedule="linear",
        parameterization="epsilon",
        time_scale=1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.means = np.asarray(means, "float64")
        self.covariance = np.asarray(covariance, "float64")
        self.image_shape = tuple(image_shape)
        self.num_classes = len(self.means) - 1 or None
        self.schedule = schedules.get(schedule)
        self.parameterization = parameterization
        self.time_scale = time_scale
        self.values, self.vectors = np.linalg.eigh(self.covariance)
        # Something to train, without an influence.
        self.idle = self.add_weight(shape=(1,), initializer="zeros", name="idle")
        self.built = True

    def call(self, x, t, labels=None, training=False):
        del training
        t = t / self.time_scale
        alpha, sigma = (
            expand(f(t), x) for f in (self.schedule.alpha, self.schedule.sigma)
        )
        flat = ops.reshape(x, (-1, self.means.shape[1]))
        label = ops.zeros_like(t, dtype="int32") if labels is None else labels
        mean = ops.take(ops.convert_to_tensor(self.means, dtype=x.dtype), label, axis=0)
        a, s = ops.reshape(alpha, (-1, 1)), ops.reshape(sigma, (-1, 1))
        vectors = ops.convert_to_tensor(self.vectors, dtype=x.dtype)
        values = ops.convert_to_tensor(self.values, dtype=x.dtype)
        gain = a * values / (a * a * values + s * s)  # (B, D)
        parts = ops.matmul(flat - a * mean, vectors) * gain
        x_0 = mean + ops.matmul(parts, ops.transpose(vectors))
        x_0 = ops.reshape(x_0, ops.shape(x))
        prediction = convert(x_0, x, alpha, sigma, "x0", self.parameterization)
        return prediction + 0.0 * self.idle[0]

    def draw(self, n, seed=0, label=0):
        """`(n, H, W, C)` samples in NumPy."""
        z = np.random.default_rng(seed).normal(size=(n, len(self.values)))
        # By Cholesky's root: the eigenvectors of equal values are the machine's choice.
        x = self.means[label] + z @ np.linalg.cholesky(self.covariance).T
        return x.reshape(n, *self.image_shape).astype("float32")

    def log_density(self, x, label=0):
        flat = x.reshape(len(x), -1).astype("float64") - self.means[label]
        parts = flat @ self.vectors
        terms = parts**2 / self.values + np.log(2 * np.pi * self.values)
        return -0.5 * terms.sum(1)
