"""The diagonal Gaussian that an encoder gives for each image."""

import keras
import numpy as np
from keras import ops

from keras_genai.backend import random, to_host
from keras_genai.losses import elbo
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import array

LEAST, MOST = -30.0, 20.0


class DiagonalGaussian:
    """`q(z | x) = N(mean, diag(exp(log_variance)))` (1312.6114, appendix C.2).

    Of tensors inside a model, of NumPy arrays where `encode` of a model returns it;
    its methods give the same kind.

    Args:
        mean: `(B, ...)`.
        log_variance: likewise, clipped to [-30, 20] as in the published models.
    """

    def __init__(self, mean, log_variance):
        self.mean = mean
        self._np = np if isinstance(mean, np.ndarray) else ops
        self.log_variance = self._np.clip(log_variance, LEAST, MOST)

    @classmethod
    def from_moments(cls, moments):
        """Of what the encoder returns: means and log variances along the last axis."""
        half = moments.shape[-1] // 2
        return cls(moments[..., :half], moments[..., half:])

    @property
    def variance(self):
        return self._np.exp(self.log_variance)

    @property
    def standard_deviation(self):
        return self._np.exp(0.5 * self.log_variance)

    def mode(self):
        """The most probable latents: the mean."""
        return self.mean

    @checked(noise=array())
    def sample(self, seed=0, noise=None):
        """`mean + standard_deviation * noise` (1312.6114, section 2.4).

        Args:
            seed: integer >= 0: the noise of sample i depends on it and on i alone, the
                same on every backend.
            noise: the noise itself, like `mean`, in place of a seed.

        Returns:
            Latents like `mean`.
        """
        if noise is None:
            key = random.key(seed, "posterior")
            host = self._np is np
            shape = tuple(self.mean.shape) if host else ops.shape(self.mean)
            noise = random.normal(key, shape, host=host)
        return self.mean + self.standard_deviation * noise

    def kl(self, other=None):
        """`KL(self || other)` in nats, for each sample (1312.6114, appendix B).

        Args:
            other: a `DiagonalGaussian`; by default N(0, I).

        Returns:
            `(B,)`.
        """
        prior = () if other is None else (other.mean, other.log_variance)
        return self._total(elbo.gaussian_kl(self.mean, self.log_variance, *prior))

    def negative_log_likelihood(self, latents):
        """`-log q(latents)` in nats, for each sample.

        Args:
            latents: like `mean`.

        Returns:
            `(B,)`.
        """
        density = elbo.gaussian_log_density(latents, self.mean, self.log_variance)
        return -self._total(density)

    def _total(self, values):
        total = ops.sum(values, axis=tuple(range(1, len(values.shape))))  # (B,)
        return to_host(total) if self._np is np else total

    def __repr__(self):
        kind = keras.backend.standardize_dtype(self.mean.dtype)
        return f"DiagonalGaussian(shape={tuple(self.mean.shape)}, dtype={kind})"
