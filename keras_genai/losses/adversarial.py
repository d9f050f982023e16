"""Adversarial objectives: what a discriminator and a generator minimise.

Every function is pure: logits in, one scalar out, no state and no noise. A
discriminator's output is always a logit (no sigmoid at its end): `(B,)`, `(B, 1)`,
or one logit per patch, `(B, h, w, 1)`. Patches are averaged within their sample
before the samples are averaged.

    loss            discriminator               generator
    minimax         softplus(-r) + softplus(f)  -softplus(f)
    non_saturating  softplus(-r) + softplus(f)  softplus(-f)
    least_squares   ((r - 1)^2 + f^2) / 2       (f - 1)^2 / 2
    hinge           relu(1 - r) + relu(1 + f)   -f
    wasserstein     f - r                       -f

`r` is the logit of a real sample, `f` that of a generated one. With `D =
sigmoid(logit)`, `softplus(-r) = -log D` and `softplus(f) = -log(1 - D)`: finite where
the logarithm of a saturated sigmoid is not.
"""

from collections.abc import Callable
from dataclasses import dataclass

from keras import ops

from keras_genai.backend.precision import widen
from keras_genai.losses.reduction import mean_over_samples as _mean
from keras_genai.utils.arguments import checked


def _target(label_smoothing):
    """The target of a real sample: 1 - s."""
    if not 0.0 <= label_smoothing < 1.0:
        raise ValueError(
            f"label_smoothing must lie in [0, 1); got {label_smoothing}. A common "
            "choice is 0.1."
        )
    return 1.0 - label_smoothing


def _refuse_smoothing(name, label_smoothing):
    if label_smoothing:
        raise ValueError(
            f"the {name} loss has no target to smooth; got label_smoothing="
            f"{label_smoothing}. Leave it at 0 or choose one of "
            f"{', '.join(k for k, v in _LOSSES.items() if v.smoothing)}."
        )


# Goodfellow et al. 2014, 1406.2661: equation 1 and, for the second generator, the
# paragraph below it in section 3.


def cross_entropy_discriminator(
    real_logits, fake_logits, weight=None, label_smoothing=0.0
):
    # -(1 - s) log D - s log(1 - D) for a real sample of target 1 - s: 1606.03498, 3.4
    target = _target(label_smoothing)
    real = widen(real_logits)
    real = target * ops.softplus(-real) + (1.0 - target) * ops.softplus(real)
    return _mean(real, weight) + _mean(ops.softplus(widen(fake_logits)), weight)


def minimax_generator(fake_logits, weight=None):
    return -_mean(ops.softplus(widen(fake_logits)), weight)  # E log(1 - D)


def non_saturating_generator(fake_logits, weight=None):
    return _mean(ops.softplus(-widen(fake_logits)), weight)  # -E log D


# Mao et al. 2016, 1611.04076, equation 9: the 0-1 coding a = 0, b = c = 1.


def least_squares_discriminator(
    real_logits, fake_logits, weight=None, label_smoothing=0.0
):
    real = ops.square(widen(real_logits) - _target(label_smoothing))
    return 0.5 * (_mean(real, weight) + _mean(ops.square(widen(fake_logits)), weight))


def least_squares_generator(fake_logits, weight=None):
    return 0.5 * _mean(ops.square(widen(fake_logits) - 1.0), weight)


# Lim & Ye 2017, 1705.02894; Miyato et al. 2018, 1802.05957, equations 16 and 17.


def hinge_discriminator(real_logits, fake_logits, weight=None, label_smoothing=0.0):
    _refuse_smoothing("hinge", label_smoothing)
    real = ops.relu(1.0 - widen(real_logits))
    return _mean(real, weight) + _mean(ops.relu(1.0 + widen(fake_logits)), weight)


# Arjovsky et al. 2017, 1701.07875, equation 2 and Algorithm 1. Keeping the critic
# Lipschitz is the caller's: a gradient penalty or spectral normalization.


def wasserstein_discriminator(
    real_logits, fake_logits, weight=None, label_smoothing=0.0
):
    _refuse_smoothing("wasserstein", label_smoothing)
    return _mean(fake_logits, weight) - _mean(real_logits, weight)


def critic_generator(fake_logits, weight=None):
    return -_mean(fake_logits, weight)


@dataclass(frozen=True)
class Adversarial:
    """One adversarial objective: what each of the two players minimises.

    Args:
        name: The name that `get` knows it by.
        discriminator: Function `(real_logits, fake_logits, weight=None,
            label_smoothing=0.0)` to a scalar.
        generator: Function `(fake_logits, weight=None)` to a scalar.
        smoothing: Whether a real sample has a target, so that one-sided label
            smoothing (1606.03498, section 3.4) is defined: its target becomes
            `1 - label_smoothing`; that of a generated one stays 0.

    Both functions take logits `(B,)`, `(B, 1)` or `(B, h, w, 1)` and `weight` `(B,)`,
    not negative: the mean over samples is then `sum(w * loss) / sum(w)`. They
    compute in float32 (float64 for float64 logits) and return a scalar of it. They
    raise `ValueError` for a `weight` of another length and for a `label_smoothing`
    that is not in [0, 1), or not 0 where `smoothing` is false.

    An own objective is an instance of this class, given wherever a name is:

    >>> relativistic = Adversarial(
    ...     "relativistic",
    ...     lambda real, fake, weight=None, label_smoothing=0.0: ops.mean(
    ...         ops.softplus(fake - real)
    ...     ),
    ...     lambda fake, weight=None: ops.mean(ops.softplus(-fake)),
    ... )
    """

    name: str
    discriminator: Callable
    generator: Callable
    smoothing: bool = False


_LOSSES = {
    loss.name: loss
    for loss in (
        Adversarial("minimax", cross_entropy_discriminator, minimax_generator, True),
        Adversarial(
            "non_saturating",
            cross_entropy_discriminator,
            non_saturating_generator,
            True,
        ),
        Adversarial(
            "least_squares",
            least_squares_discriminator,
            least_squares_generator,
            True,
        ),
        Adversarial("hinge", hinge_discriminator, critic_generator),
        Adversarial("wasserstein", wasserstein_discriminator, critic_generator),
    )
}

NAMES = tuple(_LOSSES)


@checked()
def get(loss: str | Adversarial) -> Adversarial:
    """The adversarial objective of a name.

    - `"minimax"`: 1406.2661, equation 1; the generator minimises `E log(1 - D)`.
    - `"non_saturating"`: 1406.2661, section 3; it minimises `-E log D` instead.
    - `"least_squares"`: 1611.04076, equation 9 (targets 0 and 1).
    - `"hinge"`: 1705.02894; 1802.05957, equations 16 and 17.
    - `"wasserstein"`: 1701.07875, Algorithm 1, without its weight clipping.

    Args:
        loss: One of these names, or an `Adversarial`, which is returned as it is.

    Returns:
        An `Adversarial`.

    Raises:
        ValueError: The name is unknown; the message lists the known ones.

    Example:

    >>> hinge = get("hinge")
    >>> float(hinge.discriminator(ops.array([2.0, 0.5]), ops.array([-3.0, 0.0])))
    0.75
    >>> float(hinge.generator(ops.array([-3.0, 0.0])))
    1.5
    """
    if isinstance(loss, Adversarial):
        return loss
    if isinstance(loss, str) and loss in _LOSSES:
        return _LOSSES[loss]
    raise ValueError(
        f"unknown adversarial loss {loss!r}; expected one of {', '.join(NAMES)}, or a "
        "keras_genai.losses.Adversarial."
    )
