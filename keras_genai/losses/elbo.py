"""Variational bounds on a likelihood, and what they are made of.

Every function is pure: tensors in, tensors out, no noise and no state, at least in
float32 whatever comes in. With `x` the data, `z` the latents, `q(z|x)` the encoder,
`p(x|z)` the decoder and `p(z)` the prior:

    ELBO         E_q log p(x|z) - KL(q(z|x) || p(z))              1312.6114, eq. 3
    IWAE, L_k    E log 1/k sum_i w_i,  w_i = p(x, z_i) / q(z_i|x)   1509.00519, eq. 8

Log-likelihoods are sums over all axes but the first `batch_axes`, in nats. Their
arguments broadcast against each other.
"""

import math

from keras import ops

from keras_genai.backend.precision import widen

LOG_2PI = math.log(2.0 * math.pi)


def _sum(values, batch_axes):
    """The sum over all axes but the first `batch_axes`."""
    return ops.sum(values, axis=tuple(range(batch_axes, len(values.shape))))


# Gaussians


def gaussian_kl(mean, log_variance, prior_mean=0.0, prior_log_variance=0.0):
    """`KL(q || p)` of diagonal Gaussians, for each dimension.

    Against N(0, I), the default, it is 1312.6114's appendix B:
    `-1/2 (1 + log s^2 - m^2 - s^2)`. The sum over the latent axes is the KL of a
    sample.

    Args:
        mean: of q, `(B, ...)`.
        log_variance: log of the variances of q, likewise.
        prior_mean: of p, a number or a tensor that broadcasts to `mean`.
        prior_log_variance: log of the variances of p, likewise.

    Returns:
        Tensor like `mean`, in nats, never negative but for rounding.

    Example:

    >>> float(gaussian_kl(ops.array([1.0]), ops.array([0.0]))[0])
    0.5
    """
    mean, log_variance = widen(mean), widen(log_variance)
    prior_mean, prior = _like(prior_mean, mean), _like(prior_log_variance, mean)
    difference = log_variance - prior
    distance = ops.square(mean - prior_mean) * ops.exp(-prior)
    return 0.5 * (distance + ops.exp(difference) - 1.0 - difference)


def _like(value, x):
    """A number as a tensor of the type of `x`; a tensor at least in float32."""
    if isinstance(value, (int, float)):
        return ops.cast(value, x.dtype)
    return widen(value)


def gaussian_log_density(z, mean=0.0, log_variance=0.0):
    """`log N(z; mean, exp(log_variance))` for each dimension.

    Args:
        z: `(B, ...)`.
        mean: a number, or a tensor that broadcasts against `z`.
        log_variance: likewise.

    Returns:
        Tensor of the broadcast shape, in nats.
    """
    z = widen(z)
    log_variance = _like(log_variance, z)
    distance = ops.square(z - _like(mean, z)) * ops.exp(-log_variance)
    return -0.5 * (LOG_2PI + log_variance + distance)


# Likelihoods


def bernoulli_log_likelihood(x, logits, batch_axes=1):
    """`log p(x|z) = sum_i x_i log p_i + (1 - x_i) log(1 - p_i)` (1312.6114, C.1).

    Args:
        x: data in [0, 1], `(B, ...)`. Values between are taken as probabilities.
        logits: `log p / (1 - p)`: finite where the logarithm of a saturated
            probability is not.
        batch_axes: number of leading axes that are kept.

    Returns:
        Tensor of the leading axes.
    """
    x, logits = widen(x), widen(logits)
    normalizer = _sum(ops.softplus(logits), batch_axes)
    if batch_axes == 2 and x.shape[1] == 1:
        # One image for all its latents: a product of matrices, not an array of them.
        x, logits = (ops.reshape(t, (*ops.shape(t)[:2], -1)) for t in (x, logits))
        products = ops.matmul(logits, ops.transpose(x, (0, 2, 1)))  # (B, k, 1)
        return products[..., 0] - normalizer
    return _sum(x * logits, batch_axes) - normalizer


def gaussian_log_likelihood(x, mean, log_scale, batch_axes=1):
    """`log N(x; mean, scale^2)` (1312.6114, appendix C.2).

    Args:
        x: data, `(B, ...)`.
        mean: of the data, likewise.
        log_scale: log of the standard deviation: a number, one tensor for all
            pixels, or one for each.
        batch_axes: number of leading axes that are kept.

    Returns:
        Tensor of the leading axes.
    """
    log_variance = 2.0 * _like(log_scale, widen(mean))
    return _sum(gaussian_log_density(x, mean, log_variance), batch_axes)


def discretized_logistic_log_likelihood(x, mean, log_scale, levels=256, batch_axes=1):
    """The log-probability of the bins of a logistic (1606.04934; 1701.05517, eq. 2).

    `P(x) = sigmoid((x + h - m) / s) - sigmoid((x - h - m) / s)` with `h = 1 / (levels
    - 1)` half the distance of two levels; the lowest and the highest bin reach to
    infinity, so that the probabilities of all levels sum to 1.

    Written as `sigmoid(a) sigmoid(-b) (1 - exp(b - a))` for `a > b`, an identity, it
    has no difference of two nearly equal numbers and needs no threshold.

    Args:
        x: levels of an image in [-1, 1], `(B, ...)`: 8-bit images by `/ 127.5 - 1`.
        mean: m, likewise.
        log_scale: log s: a number, one tensor for all pixels, or one for each.
        levels: number of levels from -1 to 1.
        batch_axes: number of leading axes that are kept.

    Returns:
        Tensor of the leading axes.
    """
    x, mean = widen(x), widen(mean)
    h = 1.0 / (levels - 1)
    inverse = ops.exp(-_like(log_scale, x))
    centred = x - mean
    above = ops.log_sigmoid((centred + h) * inverse)
    below = ops.log_sigmoid((h - centred) * inverse)
    width = ops.log(-ops.expm1(-2.0 * h * inverse)) + ops.zeros_like(centred)
    lowest, highest = x < h - 1.0, x > 1.0 - h
    zero = ops.zeros_like(centred)
    values = ops.where(highest, zero, above) + ops.where(lowest, zero, below)
    edge = ops.logical_or(lowest, highest)
    return _sum(values + ops.where(edge, zero, width), batch_axes)


# Bounds


def elbo(log_likelihood, kl, beta=1.0):
    """`E_q log p(x|z) - beta KL` for each sample (1312.6114, eq. 3).

    Args:
        log_likelihood: `(B,)`, by one draw of z from q.
        kl: `(B,)`.
        beta: weight of the KL: 1 for a bound on `log p(x)`.

    Returns:
        `(B,)`.
    """
    return widen(log_likelihood) - beta * widen(kl)


def log_weights(log_likelihood, z, mean, log_variance):
    """`log w = log p(x|z) + log p(z) - log q(z|x)`, with p(z) = N(0, I).

    Args:
        log_likelihood: `log p(x|z)`, `(B, k)`.
        z: `(B, k, D)`.
        mean: of q(z|x), `(B, 1, D)`.
        log_variance: likewise.

    Returns:
        `(B, k)`.
    """
    z, mean, log_variance = widen(z), widen(mean), widen(log_variance)
    # The halves of log(2 pi) in both densities cancel.
    distance = ops.square(z - mean) * ops.exp(-log_variance)
    difference = distance + log_variance - ops.square(z)
    return widen(log_likelihood) + 0.5 * ops.sum(difference, axis=-1)


def iwae_bound(log_weights):
    """`L_k = log 1/k sum_i w_i` for each sample (1509.00519, eq. 8).

    It rises with k towards `log p(x)` (theorem 1); k = 1 is the ELBO by one draw. Its
    derivative weighs each draw by `w_i / sum_j w_j` (eq. 14).

    Args:
        log_weights: `(B, k)`.

    Returns:
        `(B,)`.
    """
    log_weights = widen(log_weights)
    return ops.logsumexp(log_weights, axis=-1) - math.log(log_weights.shape[-1])


def free_bits(kl, amount):
    """`sum_j max(amount, KL_j)`: 1606.04934, equation 15, a group a dimension.

    Below that amount a dimension has nothing to gain from being switched off.

    Args:
        kl: mean over the batch of the KL of each dimension, `(D,)`.
        amount: lambda, in nats for each dimension, at least 0.

    Returns:
        Scalar.
    """
    kl = widen(kl)
    return ops.sum(ops.maximum(kl, _like(amount, kl)))


def capacity(kl, amount):
    """`|KL - C|`: 1804.03599, equation 8, without its weight.

    Args:
        kl: mean over the batch, a scalar.
        amount: C, in nats.

    Returns:
        Scalar.
    """
    return ops.abs(widen(kl) - amount)


# The doubly reparameterized estimator, 1810.04152


def dreg_path(z):
    """Latents whose gradient will be weighed, and the place where the weight enters.

    Equation 8 multiplies the path derivative of draw i by the square of its
    normalized weight, while the decoder's weights are multiplied by the first power
    alone. Both come from one pass back: what returns here is the derivative of the
    first power, and it is multiplied by the normalized weight once more. That weight
    is known only after the decoder has run, so it comes back as a derivative as well:
    of `token`, two zeros for each draw, which `dreg_bound` multiplies by it and by 1.

    Args:
        z: `(B, k, D)`.

    Returns:
        `(z, token)`: the same latents, and zeros `(B, k, 2)`.
    """

    @ops.custom_gradient
    def path(z):
        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            by_z, weighed, by_one = (
                upstream[..., :-2],
                upstream[..., -2:-1],
                upstream[..., -1:],
            )
            # Whatever scales the loss (its mean, float16) scales both: only their
            # ratio is the weight. Samples of weight 0 have none.
            none = ops.equal(by_one, 0.0)
            one = ops.where(none, ops.ones_like(by_one), by_one)
            return by_z * ops.where(none, ops.zeros_like(one), weighed / one)

        zero = ops.zeros_like(z[..., :1])
        return ops.concatenate([z, zero, zero], axis=-1), gradient

    joined = path(widen(z))
    return joined[..., :-2], joined[..., -2:]


def dreg_bound(log_weights, token):
    """`iwae_bound`, for latents from `dreg_path`: the estimator of 1810.04152, eq. 8.

    The value is that of the bound. The score of q must have been stopped: take
    `log_weights(..., stop_gradient(mean), stop_gradient(log_variance))`.

    Args:
        log_weights: `(B, k)`.
        token: `(B, k, 2)`, from `dreg_path`.

    Returns:
        `(B,)`.
    """
    log_weights = widen(log_weights)
    normalized = ops.stop_gradient(ops.softmax(log_weights, axis=-1))  # (B, k)
    carried = token[..., 0] * normalized + token[..., 1]
    return iwae_bound(log_weights) + ops.sum(carried, axis=-1)


__all__ = [
    "bernoulli_log_likelihood",
    "capacity",
    "discretized_logistic_log_likelihood",
    "dreg_bound",
    "dreg_path",
    "elbo",
    "free_bits",
    "gaussian_kl",
    "gaussian_log_density",
    "gaussian_log_likelihood",
    "iwae_bound",
    "log_weights",
]
