"""Gradient penalties: how steep a critic may be where the data lies.

Every function is pure and draws nothing: interpolation factors and perturbations are
handed in. A `critic` is a callable from a batch `(B, ...)` to logits `(B,)`,
`(B, 1)` or one per patch, `(B, h, w, 1)`, whose mean is then the sample's logit, as
in the adversarial losses. Each penalty is a scalar, in float32 under mixed
precision, without its weight: the caller multiplies by gamma or lambda. All of them
are differentiable with respect to the critic's weights, and finite, with a finite
derivative, where the critic's gradient is zero.

The critic must treat samples apart: batch normalization in it mixes them, and the
gradient then is no longer that of one sample (1704.00028, section 4).
"""

from collections.abc import Callable

from keras import ops

from keras_genai import backend
from keras_genai.backend.precision import widen
from keras_genai.losses.reduction import per_sample


def _squared_norms(critic, x):
    """`||grad_x critic(x)||^2` of each sample, `(B,)`."""

    def total(x):
        return ops.sum(per_sample(critic(x)))

    gradient = widen(backend.gradients(total, x))  # (B, ...)
    axes = tuple(range(1, len(gradient.shape)))
    return ops.sum(ops.square(gradient), axis=axes)  # (B,)


def _norms(critic, x):
    """`||grad_x critic(x)||` of each sample, `(B,)`, with derivative 0 at 0."""
    squared = _squared_norms(critic, x)
    # sqrt has an infinite slope at 0, and where() multiplies the unused branch's slope
    # by 0: only an argument that is never 0 keeps inf * 0 = NaN out of the gradient.
    # The bound is above 0 because denormal numbers are flushed to 0 on some devices.
    positive = squared > 1e-30
    root = ops.sqrt(ops.where(positive, squared, ops.ones_like(squared)))
    return ops.where(positive, root, ops.zeros_like(root))


def _point(x):
    # In float32, so that the gradient that comes back is float32 under mixed
    # precision. Constant, so that no gradient runs on into a generator.
    return ops.stop_gradient(widen(x))


def r1(critic: Callable, real):
    """`E ||grad critic(real)||^2 / 2`: 1801.04406, equation 9, with gamma = 1.

    Args:
        critic: Callable `x -> logits`.
        real: Real samples `(B, ...)`.

    Returns:
        Scalar, the mean over the batch.

    Example:

    >>> r1(lambda x: 3.0 * x, ops.ones((4, 1)))  # (3^2) / 2 = 4.5
    """
    return 0.5 * ops.mean(_squared_norms(critic, _point(real)))


def r2(critic: Callable, fake):
    """`E ||grad critic(fake)||^2 / 2`: 1801.04406, equation 10, with gamma = 1.

    `r1` on generated samples, which are taken as constants.

    Args:
        critic: Callable `x -> logits`.
        fake: Generated samples `(B, ...)`.

    Returns:
        Scalar, the mean over the batch.

    Example:

    >>> r2(lambda x: 3.0 * x, ops.ones((4, 1)))  # (3^2) / 2 = 4.5
    """
    return r1(critic, fake)


def wgan_gp(critic: Callable, real, fake, alpha):
    """`E (||grad critic(x_hat)|| - 1)^2`: 1704.00028, equation 3, with lambda = 1.

    Two-sided, at `x_hat = alpha * real + (1 - alpha) * fake` (Algorithm 1).

    Args:
        critic: Callable `x -> logits`.
        real: Real samples `(B, ...)`.
        fake: Generated samples of the same shape.
        alpha: Uniform numbers in [0, 1), one per sample: `(B, 1, 1, 1)` for images.

    Returns:
        Scalar, the mean over the batch.

    Raises:
        ValueError: `alpha` has not one number per sample, or not the samples' rank.

    Example:

    >>> real, fake, alpha = ops.ones((4, 1)), ops.zeros((4, 1)), ops.ones((4, 1))
    >>> wgan_gp(lambda x: 3.0 * x, real, fake, alpha)  # (3 - 1)^2 = 4
    """
    real, fake = _point(real), _point(fake)
    alpha = _factor(alpha, real)
    x_hat = alpha * real + (1.0 - alpha) * fake  # (B, ...)
    return ops.mean(ops.square(_norms(critic, x_hat) - 1.0))


def dragan(critic: Callable, real, perturbation, alpha):
    """`E (||grad critic(x_hat)|| - 1)^2` near the data: DRAGAN, 1705.07215.

    At `x_hat = real + alpha * perturbation`. The paper adds Gaussian noise; its
    authors' code adds `alpha * 0.5 * std(real) * u` with `u` and `alpha` uniform in
    [0, 1), `std` over the whole batch, one `alpha` per sample. There the critic is a
    probability: hand in `lambda x: ops.sigmoid(discriminator(x))` for that.

    Args:
        critic: Callable `x -> logits`.
        real: Real samples `(B, ...)`.
        perturbation: Noise of the same shape, already scaled.
        alpha: Factors, one per sample: `(B, 1, 1, 1)` for images. Ones keep the
            perturbation whole.

    Returns:
        Scalar, the mean over the batch.

    Raises:
        ValueError: `alpha` has not one number per sample, or not the samples' rank.

    Example:

    >>> real, alpha = ops.ones((4, 1)), ops.ones((4, 1))
    >>> dragan(lambda x: 3.0 * x, real, 0.1 * real, alpha)  # (3 - 1)^2 = 4
    """
    real = _point(real)
    x_hat = real + _factor(alpha, real) * _point(perturbation)  # (B, ...)
    return ops.mean(ops.square(_norms(critic, x_hat) - 1.0))


def _factor(alpha, x):
    """`alpha` checked to be one number per sample of `x`, broadcastable to it."""
    alpha = _point(alpha)
    # Any other shape broadcasts to something that is not a line between two points.
    if len(alpha.shape) != len(x.shape) or any(n != 1 for n in alpha.shape[1:]):
        raise ValueError(
            f"alpha must have shape {('B',) + (1,) * (len(x.shape) - 1)}, one number "
            f"per sample; got {tuple(alpha.shape)} for samples {tuple(x.shape)}."
        )
    return alpha


_PENALTIES = {f.__name__: f for f in (r1, r2, wgan_gp, dragan)}

NAMES = tuple(_PENALTIES)


def get(penalty: str | Callable) -> Callable:
    """The penalty of a name: `"r1"`, `"r2"`, `"wgan_gp"` or `"dragan"`.

    Args:
        penalty: One of these names, or a function, which is returned as it is.

    Returns:
        The function; see each for its arguments.

    Raises:
        ValueError: The name is unknown; the message lists the known ones.

    Example:

    >>> get("r1") is r1
    True
    """
    if callable(penalty):
        return penalty
    if isinstance(penalty, str) and penalty in _PENALTIES:
        return _PENALTIES[penalty]
    raise ValueError(
        f"unknown gradient penalty {penalty!r}; expected one of {', '.join(NAMES)}."
    )
