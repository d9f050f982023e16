"""Noise schedules: how much is left of a sample at a time t, and how much noise.

A schedule is the pair of functions in

    x_t = alpha(t) x_0 + sigma(t) eps,    eps ~ N(0, I),

a small frozen object. Its methods take Python numbers, NumPy arrays (float64, for
tables) or tensors (in their own float dtype), of any shape:

- `alpha(t)`, `sigma(t)`, `log_snr(t)` = log(alpha^2 / sigma^2), which falls with t;
- `time_at(log_snr)`: its inverse;
- `quantile(u)`: u in [0, 1] to a time, from `t_min` to `t_max`: uniform u are the times
  to train on, equal steps of u the steps to sample with;
- `add_noise(x_0, noise, t)`: a draw of q(x_t | x_0).

`Discrete` has the integer times 0 to `num_train_timesteps` - 1 of DDPM, with -1 for no
noise; `Continuous` the same noise as functions in closed form of t in [0, 1]; `Karras`
and `Exponential` leave the signal as it is and have sigma for their time;
`RectifiedFlow` is the straight line from data to noise. `get(name)` makes one.
"""

import dataclasses
import functools
import math
from typing import ClassVar

import numpy as np
from keras import ops

from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_positive
from keras_genai.utils.validation import array, either, integer, number, text

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

# Where log-SNR is infinite: sigmoid(-80) is still a normal float32.
LARGEST_LOG_SNR = 80.0


def library(x):
    """`(ops or np, x)`: tensors stay tensors of floats, numbers become float64."""
    if ops.is_tensor(x):
        is_float = "float" in str(x.dtype)
        return ops, x if is_float else ops.cast(x, "float32")
    return np, np.asarray(x, "float64")


def sigmoid(xp, x):
    # NumPy has none; this one neither overflows nor loses digits on either side.
    return ops.sigmoid(x) if xp is ops else np.exp(-np.logaddexp(0.0, -x))


def softplus(xp, x):
    return ops.softplus(x) if xp is ops else np.logaddexp(0.0, x)


def expand(factor, x):
    """A factor for each sample, `(B,)` or a scalar, to broadcast against `(B, ...)`."""
    factor = ops.cast(factor, x.dtype)
    missing = len(x.shape) - len(factor.shape) if len(factor.shape) else 0
    return ops.reshape(factor, (-1,) + (1,) * missing) if missing else factor


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The base class of the schedules, whose methods are those above."""

    kinds: ClassVar[dict] = {}

    def __init_subclass__(cls):
        Schedule.kinds[cls.__name__] = cls

    @property
    def t_min(self):
        """The time of least noise that a network is trained at."""
        return 0.0

    @property
    def t_max(self):
        """The time of most noise."""
        return 1.0

    @property
    def prior_std(self):
        """Standard deviation of the noise that sampling starts from at `t_max`."""
        return 1.0

    def alpha(self, t):
        xp, _ = library(t)
        return xp.sqrt(sigmoid(xp, self.log_snr(t)))

    def sigma(self, t):
        xp, _ = library(t)
        return xp.sqrt(sigmoid(xp, -self.log_snr(t)))

    def log_snr(self, t):
        raise NotImplementedError

    def time_at(self, log_snr):
        raise NotImplementedError

    def quantile(self, u):
        return self.t_min + (self.t_max - self.t_min) * u

    def noise_level(self, t):
        """`sigma / alpha`, the sigma of 2206.00364; infinite where alpha is 0."""
        xp, _ = library(t)
        return xp.exp(-0.5 * self.log_snr(t))

    def add_noise(self, x, noise, t):
        """Draws `x_t ~ q(x_t | x_0)`.

        Args:
            x: clean samples `(B, ...)`.
            noise: standard normal noise of the same shape.
            t: times `(B,)`, or one for all.

        Returns:
            Tensor of the shape of `x`.
        """
        x, noise, t = map(ops.convert_to_tensor, (x, noise, t))
        if "int" not in str(t.dtype):
            t = ops.cast(t, x.dtype)
        return expand(self.alpha(t), x) * x + expand(self.sigma(t), x) * noise

    def get_config(self):
        """The constructor's arguments with the `class`, as a plain dict."""
        return {"class": type(self).__name__, **dataclasses.asdict(self)}

    @staticmethod
    def from_config(config):
        """The schedule of a `get_config`."""
        config = dict(config)
        kind = config.pop("class", None)
        if kind not in Schedule.kinds:
            raise ValueError(
                "A schedule's config names its class, one of "
                f"{', '.join(Schedule.kinds)}; got {kind!r}."
            )
        return Schedule.kinds[kind](**config)


# Variance preserving: alpha^2 + sigma^2 = 1


def _linear_betas(total, start, end):
    return np.linspace(start, end, total)


def _scaled_linear_betas(total, start, end):
    return np.linspace(math.sqrt(start), math.sqrt(end), total) ** 2


def _sigmoid_betas(total, start, end):
    return sigmoid(np, np.linspace(-6.0, 6.0, total)) * (end - start) + start


def _cosine_betas(total, start, end):
    """2102.09672, equation 17, with its bound of 0.999."""
    angle = (np.arange(total + 1) / total + 0.008) / 1.008 * math.pi / 2
    alpha_bar = np.cos(angle) ** 2
    return np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


BETAS = {
    "linear": (_linear_betas, 1e-4, 0.02),
    "scaled_linear": (_scaled_linear_betas, 0.00085, 0.012),
    "cosine": (_cosine_betas, None, None),
    "sigmoid": (_sigmoid_betas, 1e-4, 0.02),
}


def _check_betas(schedule, largest):
    """Checks `name`, `beta_start` and `beta_end`; fills in the defaults."""
    name, (start, end) = schedule.name, (schedule.beta_start, schedule.beta_end)
    if name not in BETAS:
        raise ValueError(
            f"unknown schedule of betas, name={name!r}; expected one of "
            f"{', '.join(BETAS)}."
        )
    _, default_start, default_end = BETAS[name]
    if default_start is None:
        if (start, end) != (None, None):
            raise ValueError(f"The {name} schedule takes no beta_start and beta_end.")
        return
    scale = 1 if largest == 1 else 1000
    start = default_start * scale if start is None else start
    end = default_end * scale if end is None else end
    if not 0 < start < end < largest:
        raise ValueError(
            "beta_start and beta_end must fulfil 0 < beta_start < beta_end < "
            f"{largest:g}; got {start!r} and {end!r}."
        )
    object.__setattr__(schedule, "beta_start", start)
    object.__setattr__(schedule, "beta_end", end)


@checked(
    name=text,
    beta_start=number("> 0"),
    beta_end=number("> 0"),
    num_train_timesteps=integer(1, 10**7),
)
@dataclasses.dataclass(frozen=True)
class Discrete(Schedule):
    """The schedule of DDPM (2006.11239): integer times with a table of betas.

    `alpha(t)^2 = prod_{s <= t} (1 - beta_s)`, in float64. Between the integers log-SNR
    is linear in t; time -1 has no noise.

    Args:
        name: "linear" (2006.11239), "scaled_linear" (Stable Diffusion), "cosine"
            (2102.09672) or "sigmoid" (GeoDiff).
        num_train_timesteps: number T of training times.
        beta_start: first beta, in (0, 1); by default the usual one.
        beta_end: last beta, likewise.
        zero_terminal_snr: rescales the table so that nothing but noise is left at the
            last time (2305.08891, algorithm 1). A network that predicts the noise
            cannot be sampled there: predict v.

    Example:

    ```python
    schedule = Discrete("linear")
    schedule.alpha(999) ** 2  # 4.04e-5
    ```
    """

    name: str = "linear"
    num_train_timesteps: int = 1000
    beta_start: float | None = None
    beta_end: float | None = None
    zero_terminal_snr: bool = False

    def __post_init__(self):
        check_positive("num_train_timesteps", self.num_train_timesteps)
        _check_betas(self, 1)

    @functools.cached_property
    def betas(self):
        """float64 `(T,)`."""
        betas = BETAS[self.name][0](
            self.num_train_timesteps, self.beta_start, self.beta_end
        )
        if self.zero_terminal_snr:
            root = np.sqrt(np.cumprod(1.0 - betas))
            root = (root - root[-1]) * root[0] / (root[0] - root[-1])
            betas = 1.0 - root**2 / np.append(1.0, root[:-1]) ** 2
        betas.setflags(write=False)
        return betas

    @functools.cached_property
    def alpha_bar(self):
        """float64 `(T,)`: the squares of alpha at the integer times."""
        alpha_bar = np.cumprod(1.0 - self.betas)
        alpha_bar.setflags(write=False)
        return alpha_bar

    @functools.cached_property
    def _log_snrs(self):
        """float64 `(T + 1,)`: at the times -1 to T - 1."""
        with np.errstate(divide="ignore"):
            # sigma^2 by its own recursion: 1 - alpha_bar would lose its digits.
            variance, noise = 0.0, []
            for beta in self.betas:
                variance = variance + beta * (1.0 - variance)
                noise.append(variance)
            table = np.log(self.alpha_bar) - np.log(noise)
        table = np.append(LARGEST_LOG_SNR, np.maximum(table, -LARGEST_LOG_SNR))
        if np.any(np.diff(table) >= 0):
            raise ValueError("The betas must let the signal fall at every step.")
        table.setflags(write=False)
        return table

    @property
    def t_max(self):
        return float(self.num_train_timesteps - 1)

    def quantile(self, u):
        """Each integer time is an equal part of [0, 1); u = 1 is the last."""
        xp, u = library(u)
        return xp.minimum(xp.floor(u * self.num_train_timesteps), self.t_max)

    def alpha(self, t):
        if not ops.is_tensor(t):
            alpha = super().alpha(t)
            last = (np.asarray(t) == self.t_max) & (self.alpha_bar[-1] < 1e-30)
            return np.where(last, 0.0, alpha)
        return super().alpha(t)

    def log_snr(self, t):
        xp, t = library(t)
        table = self._log_snrs
        if xp is np:
            return np.interp(t, np.arange(-1.0, self.num_train_timesteps), table)
        place = ops.clip(t + 1.0, 0.0, float(self.num_train_timesteps))
        left = ops.clip(ops.floor(place), 0.0, float(self.num_train_timesteps - 1))
        # Rows of two: one lookup, and one that PyTorch exports.
        pairs = np.stack([table[:-1], table[1:]], axis=1)  # (T, 2)
        pairs = ops.convert_to_tensor(pairs, dtype=t.dtype)
        found = ops.take(pairs, ops.cast(left, "int32"), axis=0)  # (..., 2)
        low, high = found[..., 0], found[..., 1]
        return low + (place - left) * (high - low)

    def time_at(self, log_snr):
        xp, log_snr = library(log_snr)
        rising = self._log_snrs[::-1].copy()
        if xp is np:
            return np.interp(
                log_snr, rising, np.arange(self.num_train_timesteps - 1.0, -2.0, -1.0)
            )
        table = ops.convert_to_tensor(rising, dtype=log_snr.dtype)
        bounded = ops.clip(log_snr, rising[0], rising[-1])
        flat = ops.reshape(bounded, (-1,))
        index = ops.searchsorted(table, flat, side="right")
        index = ops.clip(
            ops.reshape(index, ops.shape(bounded)) - 1, 0, self.num_train_timesteps - 1
        )
        low, high = ops.take(table, index), ops.take(table, index + 1)
        part = (bounded - low) / (high - low)
        return self.t_max - ops.cast(index, log_snr.dtype) - part


@checked(
    name=text, beta_start=number("> 0"), beta_end=number("> 0"), t_min=number("[0, 1)")
)
@dataclasses.dataclass(frozen=True)
class Continuous(Schedule):
    """The same noise in continuous time, t in [0, 1], in closed form (2011.13456).

    `alpha(t)^2 = exp(-B(t))` with B the integral of beta(t) from 0 to t; for "cosine"
    `alpha(t) = cos(pi t / 2)` (2202.00512), without an offset.

    Args:
        name: "linear", "scaled_linear", "cosine" or "sigmoid".
        beta_start: beta(0); by default 1,000 times that of `Discrete`, which is the
            same noise in 1,000 steps.
        beta_end: beta(1), likewise.
        t_min: the least time to train and to sample at, in (0, 1).

    Example:

    ```python
    schedule = Continuous("linear")
    schedule.time_at(schedule.log_snr(0.5))  # 0.5
    ```
    """

    name: str = "linear"
    beta_start: float | None = None
    beta_end: float | None = None
    t_min: float = 1e-3

    def __post_init__(self):
        _check_betas(self, math.inf)
        if not 0 < self.t_min < 1:
            raise ValueError(f"t_min must be in (0, 1); got {self.t_min!r}.")

    def _integral(self, xp, t):
        b0, b1 = self.beta_start, self.beta_end
        if self.name == "linear":
            return b0 * t + 0.5 * (b1 - b0) * t * t
        if self.name == "scaled_linear":
            a, d = math.sqrt(b0), math.sqrt(b1) - math.sqrt(b0)
            return t * (a * a + a * d * t + d * d * t * t / 3.0)
        bend = softplus(xp, 12.0 * t - 6.0) - math.log1p(math.exp(-6.0))
        return b0 * t + (b1 - b0) / 12.0 * bend

    def _inverse_integral(self, xp, integral):
        b0, b1 = self.beta_start, self.beta_end
        if self.name == "linear":
            return 2 * integral / (b0 + xp.sqrt(b0 * b0 + 2 * (b1 - b0) * integral))
        if self.name == "scaled_linear":
            a, d = math.sqrt(b0), math.sqrt(b1) - math.sqrt(b0)
            c = (a**3 + 3.0 * d * integral) ** (1.0 / 3.0)
            return 3.0 * integral / (c * c + c * a + a * a)
        t = xp.ones_like(integral)
        # B is convex, so that Newton's steps from the right never pass the root.
        for _ in range(24):
            slope = b0 + (b1 - b0) * sigmoid(xp, 12.0 * t - 6.0)
            t = t - (self._integral(xp, t) - integral) / slope
        return t

    def alpha(self, t):
        xp, t = library(t)
        if self.name == "cosine":
            return xp.sin(math.pi / 2 * (1.0 - t))  # exactly 0 at 1
        return xp.exp(-0.5 * self._integral(xp, t))

    def sigma(self, t):
        xp, t = library(t)
        if self.name == "cosine":
            return xp.sin(math.pi / 2 * t)
        return xp.sqrt(-xp.expm1(-self._integral(xp, t)))

    def log_snr(self, t):
        xp, t = library(t)
        if self.name == "cosine":
            return 2.0 * (xp.log(self.alpha(t)) - xp.log(self.sigma(t)))
        return -xp.log(xp.expm1(self._integral(xp, t)))

    def time_at(self, log_snr):
        xp, log_snr = library(log_snr)
        if self.name == "cosine":
            return 2.0 / math.pi * xp.arctan(xp.exp(-0.5 * log_snr))
        return self._inverse_integral(xp, softplus(xp, -log_snr))


# Variance exploding: alpha = 1, and the time is sigma


@checked(sigma_min=number("> 0"), sigma_max=number("> 0"), rho=number("> 0"))
@dataclasses.dataclass(frozen=True)
class Karras(Schedule):
    """The schedule of EDM (2206.00364): alpha = 1, and the time is sigma itself.

    `quantile(u)` is its equation 5, from `sigma_min` at u = 0 to `sigma_max` at 1.

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

    def time_at(self, log_snr):
        xp, log_snr = library(log_snr)
        return xp.exp(-0.5 * log_snr)

    def quantile(self, u):
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

    def quantile(self, u):
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
        shift: `quantile(u) = shift u / (1 + (shift - 1) u)` (2403.03206, equation 23):
            more of the steps where there is much noise, as large images need. 1 is
            none; Stable Diffusion 3 takes 3.
    """

    shift: float = 1.0

    def __post_init__(self):
        if not self.shift > 0:
            raise ValueError(f"shift must be above 0; got {self.shift!r}.")

    @property
    def t_min(self):
        return self.quantile(1e-3)  # the least of 1,000 training times

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

    def time_at(self, log_snr):
        xp, log_snr = library(log_snr)
        return sigmoid(xp, -0.5 * log_snr)

    def quantile(self, u):
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
