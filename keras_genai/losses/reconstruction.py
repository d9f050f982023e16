"""How far an image is from what a decoder made of it: pure functions.

    loss          what the decoder makes            of each element
    squared       the image                         (x - y)^2
    absolute      the image                         |x - y|
    logit_laplace mu and log b, 2C channels         2102.12092, equation 2

Images are in [-1, 1]. `get(name)` gives a `Reconstruction`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from keras import ops

from keras_genai.backend.precision import widen

# The logit-Laplace density is on (0, 1); pixels are moved into (EPSILON, 1 - EPSILON)
# (2102.12092, appendix A.3).
EPSILON = 0.1


def squared(images, output):
    """`(B, H, W, C)` twice -> the squared differences."""
    return ops.square(widen(images) - widen(output))


def absolute(images, output):
    """`(B, H, W, C)` twice -> the absolute differences."""
    return ops.abs(widen(images) - widen(output))


def logit_laplace(images, output):
    """Minus the logarithm of the logit-Laplace density (2102.12092, equation 2).

    `f(x | mu, b) = exp(-|logit(x) - mu| / b) / (2 b x (1 - x))`.

    Args:
        images: `(B, H, W, C)` in [-1, 1].
        output: `(B, H, W, 2C)`: mu, then log b.

    Returns:
        `(B, H, W, C)`, in nats.
    """
    x = (1.0 - 2.0 * EPSILON) * (widen(images) + 1.0) / 2.0 + EPSILON
    mu, log_b = ops.split(widen(output), 2, axis=-1)
    logit = ops.log(x) - ops.log1p(-x)
    distance = ops.abs(logit - mu) * ops.exp(-log_b)
    return distance + log_b + ops.log(2.0 * x * (1.0 - x))


def _clipped(output):
    return ops.clip(widen(output), -1.0, 1.0)


def _median(output):
    """The image at the median of the density: `sigmoid(mu)`, moved back."""
    mu, _ = ops.split(widen(output), 2, axis=-1)
    x = (ops.sigmoid(mu) - EPSILON) / (1.0 - 2.0 * EPSILON)
    return ops.clip(2.0 * x - 1.0, -1.0, 1.0)


@dataclass(frozen=True)
class Reconstruction:
    """One way to compare, and what the decoder's output means by it.

    Args:
        name: the name that `get` knows it by.
        loss: function `(images, output)` to `(B, H, W, C)`.
        images: function from the output to images in [-1, 1].
        parameters: channels of the output for each of the image.
    """

    name: str
    loss: Callable
    images: Callable
    parameters: int = 1


_LOSSES = {
    each.name: each
    for each in (
        Reconstruction("squared", squared, _clipped),
        Reconstruction("absolute", absolute, _clipped),
        Reconstruction("logit_laplace", logit_laplace, _median, 2),
    )
}


def get(name):
    """The `Reconstruction` of that name.

    Raises:
        ValueError: the name is not known; the known ones are listed.
    """
    if not isinstance(name, str) or name not in _LOSSES:
        raise ValueError(
            f"reconstruction must be one of {', '.join(_LOSSES)}; got {name!r}."
        )
    return _LOSSES[name]
