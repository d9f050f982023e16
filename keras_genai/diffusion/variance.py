"""The posterior of one denoising step, and the variance that a network learns.

`q(x_s | x_t, x_0)` for s < t (2006.11239, equations 6 and 7, for any alpha and sigma)
and Improved DDPM's variance with its term of the variational bound (2102.09672).
"""

import math

import numpy as np
from keras import ops

from keras_genai.backend.precision import widen
from keras_genai.diffusion.schedules import expand


def posterior(alpha_t, sigma_t, alpha_s, sigma_s):
    """Mean and variances of a step from t to s, as NumPy float64.

    With `r = SNR(t) / SNR(s)`:

        mean = (alpha_s / alpha_t) r x_t + alpha_s (1 - r) x_0,
        small = sigma_s^2 (1 - r)                   the posterior's variance,
        large = sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2    that of q(x_t | x_s).

    Args:
        alpha_t, sigma_t: of the noisier time; sigma_t above 0.
        alpha_s, sigma_s: of the other; alpha_s above 0.

    Returns:
        `(factor of x_t, factor of x_0, small, large)`.
    """
    scale = alpha_t / alpha_s
    large = sigma_t**2 - (scale * sigma_s) ** 2
    return (
        scale * (sigma_s / sigma_t) ** 2,
        alpha_s * large / sigma_t**2,
        sigma_s**2 * large / sigma_t**2,
        large,
    )


def log_variances(small, large):
    """`(log small, log large)`, with the small one bounded where it is 0."""
    small, large = np.asarray(small, "float64"), np.asarray(large, "float64")
    return np.log(np.maximum(small, 1e-20)), np.log(np.maximum(large, 1e-20))


def log_variance(v, log_small, log_large):
    """2102.09672, equation 15: v = -1 is the small one, v = 1 the large."""
    share = 0.5 * (v + 1.0)
    return share * log_large + (1.0 - share) * log_small


def vlb_terms(schedule, x_0, x, t, mean_x0, v):
    """The terms of the variational bound at t, in bits per dimension.

    `KL(q(x_{t-1} | x_t, x_0) || p)` for t above 0, and at t = 0 the discretised
    Gaussian `-log p(x_0 | x_1)` (2006.11239, equations 5 and 13).

    Args:
        schedule: a `Discrete` schedule.
        x_0: clean samples `(B, ...)` in [-1, 1].
        x: noisy samples of the same shape.
        t: integer times `(B,)`.
        mean_x0: the network's estimate of x_0, of the same shape.
        v: its variances in [-1, 1] (not bounded), of the same shape.

    Returns:
        Tensor `(B,)`.
    """
    x_0, x, mean_x0, v = map(ops.convert_to_tensor, (x_0, x, mean_x0, v))
    t = ops.broadcast_to(ops.cast(t, "int32"), (ops.shape(x)[0],))

    def at_t(table):
        return expand(ops.take(ops.convert_to_tensor(table, dtype=x.dtype), t), x)

    of_x, of_x0, log_small, log_large = map(at_t, tables(schedule))
    true_mean = of_x * x + of_x0 * x_0
    mean = of_x * x + of_x0 * mean_x0
    log_var = log_variance(v, log_small, log_large)
    kl = 0.5 * (
        log_var
        - log_small
        - 1.0
        + ops.exp(log_small - log_var)
        + ops.square(true_mean - mean) * ops.exp(-log_var)
    )
    decoder = -discretized_log_likelihood(x_0, mean, 0.5 * log_var)
    axes = tuple(range(1, len(x.shape)))
    terms = [ops.mean(term, axis=axes) / math.log(2.0) for term in (kl, decoder)]
    return ops.where(ops.equal(t, 0), terms[1], terms[0])


def tables(schedule):
    """The posterior's factors and log-variances at every step, float64 `(T,)` each."""
    alpha_bar = np.append(1.0, schedule.alpha_bar)
    alpha = np.sqrt(alpha_bar)
    times = np.arange(-1, schedule.num_train_timesteps)
    sigma = np.where(times < 0, 0.0, schedule.sigma(times))
    of_x, of_x0, small, large = posterior(alpha[1:], sigma[1:], alpha[:-1], sigma[:-1])
    if len(small) > 1:
        small[0] = small[1]  # it is 0, and has no logarithm: as the paper's authors do
    return of_x, of_x0, *log_variances(small, large)


def discretized_log_likelihood(x, mean, log_std, levels=256):
    """The log-probability of the level of x under a Gaussian (2006.11239, eq. 13).

    Args:
        x: values in [-1, 1], `levels` of them, the outer ones with open ends.
        mean: of the Gaussian, of the same shape.
        log_std: logarithm of its standard deviation, of the same shape.
        levels: number of the levels.

    Returns:
        Natural logarithms, of the shape of x.
    """
    x, mean = widen(x), widen(mean)
    half = 1.0 / (levels - 1)
    scale = ops.exp(-log_std) / math.sqrt(2.0)
    upper = 0.5 * (1.0 + ops.erf((x - mean + half) * scale))
    lower = 0.5 * (1.0 + ops.erf((x - mean - half) * scale))
    upper = ops.where(x > 1.0 - half, ops.ones_like(upper), upper)
    lower = ops.where(x < -1.0 + half, ops.zeros_like(lower), lower)
    return ops.log(ops.maximum(upper - lower, 1e-12))
