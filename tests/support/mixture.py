"""Data whose score is known: a mixture of Gaussians, on every backend and in NumPy."""

import dataclasses

import numpy as np
from keras import ops

from keras_genai.diffusion.schedules import expand


@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """Weights `(K,)`, means `(K, d)` and standard deviations `(K,)`."""

    weights: np.ndarray
    means: np.ndarray
    stds: np.ndarray

    def denoise(self, schedule, components=None):
        """`E[x_0 | x_t]` as a denoiser of x `(B, d)`; of some of the components."""
        chosen = slice(None) if components is None else list(components)

        def denoise(x, t):
            t = ops.cast(t, x.dtype)
            alpha, sigma = expand(schedule.alpha(t), x), expand(schedule.sigma(t), x)
            return self._mean(ops, x, alpha, sigma, chosen)

        return denoise

    def reference(self, x, alpha, sigma):
        """The same in NumPy, for numbers alpha and sigma."""
        return self._mean(np, x, alpha, sigma, slice(None))

    def _mean(self, xp, x, alpha, sigma, chosen):
        def constant(array):
            array = np.asarray(array, "float64")
            return array if xp is np else ops.convert_to_tensor(array, dtype=x.dtype)

        means, stds = constant(self.means[chosen]), constant(self.stds[chosen])
        variance = alpha**2 * stds**2 + sigma**2  # (K,) or (B, K)
        squared = sum(
            (x[:, i : i + 1] - alpha * means[:, i]) ** 2 for i in range(x.shape[1])
        )  # (B, K)
        log_p = -0.5 * squared / variance - 0.5 * x.shape[1] * xp.log(variance)
        log_p = log_p + constant(np.log(self.weights[chosen]))
        highest = xp.max(log_p, axis=-1, keepdims=True)
        p = xp.exp(log_p - highest)
        p = p / xp.sum(p, axis=-1, keepdims=True)  # (B, K)
        shrink = alpha * stds**2 / variance
        return (
            xp.matmul(p * sigma**2 / variance, means)
            + xp.sum(p * shrink, axis=-1, keepdims=True) * x
        )

    def log_density(self, x, level=0.0):
        """Of x `(B, d)` with noise of standard deviation `level` added."""
        x = np.asarray(x, "float64")
        variance = self.stds**2 + level**2
        squared = ((x[:, None] - self.means) ** 2).sum(-1)  # (B, K)
        log_p = np.log(self.weights) - 0.5 * squared / variance
        log_p = log_p - 0.5 * x.shape[1] * np.log(2 * np.pi * variance)
        highest = log_p.max(-1, keepdims=True)
        return highest[:, 0] + np.log(np.exp(log_p - highest).sum(-1))


LINE = Mixture(
    np.array([0.3, 0.5, 0.2]),
    np.array([[-1.2], [0.4], [1.5]]),
    np.array([0.5, 0.4, 0.7]),
)
PLANE = Mixture(
    np.array([0.5, 0.3, 0.2]),
    np.array([[-1.0, 0.5], [0.8, 0.8], [0.2, -1.0]]),
    np.array([0.3, 0.5, 0.4]),
)
