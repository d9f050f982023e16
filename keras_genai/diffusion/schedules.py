"""Noise schedules: how much is left of a sample at a time t, and how much noise.

A schedule is the pair of functions in

    x_t = alpha(t) x_0 + sigma(t) eps,    eps ~ N(0, I),

a small frozen object. Its methods take Python numbers, NumPy arrays (float64, for
tables) or tensors (in their own float dtype), of any shape:

- `alpha(t)`, `sigma(t)`, `log_snr(t)` = log(alpha^2 / sigma^2), which falls with t;
- `time(log_snr)`: its inverse;
- `times(u)`: u in [0, 1] to a time, from `t_min` to `t_max`: uniform u are the times
  to train on, equal steps of u the steps to sample with;
- `add_noise(x_0, noise, t)`: a draw of q(x_t | x_0).

`Discrete` has the integer times 0 to `steps` - 1 of DDPM, with -1 for no noise;
`Continuous` the same noise as functions in closed form of t in [0, 1]; `Karras` and
`Exponential` leave the signal as it is and have sigma for their time;
`RectifiedFlow` is the straight line from data to noise. `get(name)` makes one.
"""

import dataclasses
import math

import numpy as np
from keras import ops

from keras_genai.diffusion.betas import BETAS, Continuous, Discrete
from keras_genai.diffusion.schedule import Schedule, library, sigmoid
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import array, either, number

__all__ = [
    "NAMES",
    "Continuous",
    "Discrete",
    "Exponential",
    "Karras",
    "RectifiedFlow",
    "Schedule",
    "exponential_sigmas",
    "get",
    "karras_sigmas",
]

# Variances that explode: alpha = 1, and the time is sigma


@checked(sigma_min=number("> 0"), sigma_max=number("> 0"), rho=number("> 0"))
@dataclasses.dataclass(frozen=True)
class Karras(Schedule):
    """The schedule of EDM (2206.00364): alpha = 1, and the time is sigma itself.

    `times(u)` is its equation 5, from `sigma_min` at u = 0 to `sigma_max` at 1.

    Args:
        sigma_min: least noise, in units of the data.
        sigma_max: most noise.
        rho: how much shorter the steps are where there is little noise.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self):
        _check_sigmas(self.sigma_min, self.sigma_max)
        if not self.rho > 0:
            raise ValueError(f"rho must be above 0; got {self.rho!r}.")

    @property
    def t_min(self):
        return self.sigma_min

    @property
    def t_max(self):
        return self.sigma_max

    @property
    def prior_std(self):
        return self.sigma_max

    def alpha(self, t):
        xp, t = library(t)
        return xp.ones_like(t)

    def sigma(self, t):
        return library(t)[1]

    def log_snr(self, t):
        xp, t = library(t)
        return -2.0 * xp.log(t)

    def time(self, log_snr):
        xp, log_snr = library(log_snr)
        return xp.exp(-0.5 * log_snr)

    def times(self, u):
        return karras_sigmas(u, self.sigma_min, self.sigma_max, self.rho)


@checked(sigma_min=number("> 0"), sigma_max=number("> 0"))
@dataclasses.dataclass(frozen=True)
class Exponential(Karras):
    """Alpha = 1 with a geometric series of sigmas (2011.13456, equation 30).

    Args:
        sigma_min: least noise.
        sigma_max: most noise.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    rho: float = dataclasses.field(default=math.inf, init=False, repr=False)

    def times(self, u):
        return exponential_sigmas(u, self.sigma_min, self.sigma_max)

    def get_config(self):
        config = super().get_config()
        del config["rho"]
        return config


def _check_sigmas(sigma_min, sigma_max):
    if not 0 < sigma_min < sigma_max:
        raise ValueError(
            "sigma_min and sigma_max must fulfil 0 < sigma_min < sigma_max; got "
            f"{sigma_min!r} and {sigma_max!r}."
        )


@checked(
    u=either(number("[0, 1]"), array()),
    sigma_min=number("> 0"),
    sigma_max=number("> 0"),
    rho=number("> 0"),
)
def karras_sigmas(u, sigma_min, sigma_max, rho=7.0):
    """2206.00364, equation 5: u = 0 is `sigma_min`, u = 1 is `sigma_max`."""
    _, u = library(u)
    low, high = sigma_min ** (1.0 / rho), sigma_max ** (1.0 / rho)
    return (low + u * (high - low)) ** rho


@checked(
    u=either(number("[0, 1]"), array()),
    sigma_min=number("> 0"),
    sigma_max=number("> 0"),
)
def exponential_sigmas(u, sigma_min, sigma_max):
    """A geometric series: equal steps of log-SNR."""
    xp, u = library(u)
    return sigma_min * xp.exp(u * math.log(sigma_max / sigma_min))


# The straight line


@checked(shift=number("> 0"))
@dataclasses.dataclass(frozen=True)
class RectifiedFlow(Schedule):
    """`x_t = (1 - t) x_0 + t eps` (2209.03003), and the shift of 2403.03206.

    Args:
        shift: `times(u) = shift u / (1 + (shift - 1) u)` (2403.03206, equation 23):
            more of the steps where there is much noise, as large images need. 1 is
            none; Stable Diffusion 3 takes 3.
    """

    shift: float = 1.0

    def __post_init__(self):
        if not self.shift > 0:
            raise ValueError(f"shift must be above 0; got {self.shift!r}.")

    @property
    def t_min(self):
        return self.times(1e-3)  # the least of 1,000 training times

    def alpha(self, t):
        return 1.0 - library(t)[1]

    def sigma(self, t):
        return library(t)[1]

    def log_snr(self, t):
        xp, t = library(t)
        if xp is np:
            with np.errstate(divide="ignore"):
                return 2.0 * (np.log1p(-t) - np.log(t))
        return 2.0 * (ops.log1p(-t) - ops.log(t))

    def time(self, log_snr):
        xp, log_snr = library(log_snr)
        return sigmoid(xp, -0.5 * log_snr)

    def times(self, u):
        return self.shift * u / (1.0 + (self.shift - 1.0) * u)


_OTHERS = {
    "karras": Karras,
    "exponential": Exponential,
    "rectified_flow": RectifiedFlow,
}

NAMES = (*BETAS, *_OTHERS)


def get(schedule, **arguments):
    """The schedule of a name, with 1,000 discrete times where there are betas.

    Args:
        schedule: one of `NAMES`, the `get_config()` of a schedule, or a schedule, which
            is returned as it is.
        **arguments: of the schedule's class.

    Returns:
        A `Discrete`, `Karras`, `Exponential` or `RectifiedFlow`.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.
    """
    if isinstance(schedule, Schedule) and not arguments:
        return schedule
    if isinstance(schedule, dict) and not arguments:
        return Schedule.from_config(schedule)
    if isinstance(schedule, str) and schedule in BETAS:
        return Discrete(schedule, **arguments)
    if isinstance(schedule, str) and schedule in _OTHERS:
        return _OTHERS[schedule](**arguments)
    raise ValueError(
        f"unknown schedule {schedule!r}; expected one of {', '.join(NAMES)}."
    )
