"""Schedules that keep the variance: alpha^2 + sigma^2 = 1, made of betas."""

import dataclasses
import functools
import math

import numpy as np
from keras import ops

from keras_genai.diffusion.schedule import (
    LARGEST_LOG_SNR,
    Schedule,
    library,
    sigmoid,
    softplus,
)
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_positive
from keras_genai.utils.validation import integer, number, text


def _linear_betas(steps, start, end):
    return np.linspace(start, end, steps)


def _scaled_linear_betas(steps, start, end):
    return np.linspace(math.sqrt(start), math.sqrt(end), steps) ** 2


def _sigmoid_betas(steps, start, end):
    return sigmoid(np, np.linspace(-6.0, 6.0, steps)) * (end - start) + start


def _cosine_betas(steps, start, end):
    """2102.09672, equation 17, with its bound of 0.999."""
    angle = (np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2
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
    name=text, beta_start=number("> 0"), beta_end=number("> 0"), steps=integer(1, 10**7)
)
@dataclasses.dataclass(frozen=True)
class Discrete(Schedule):
    """The schedule of DDPM (2006.11239): integer times with a table of betas.

    `alpha(t)^2 = prod_{s <= t} (1 - beta_s)`, in float64. Between the integers log-SNR
    is linear in t; time -1 has no noise.

    Args:
        name: "linear" (2006.11239), "scaled_linear" (Stable Diffusion), "cosine"
            (2102.09672) or "sigmoid" (GeoDiff).
        steps: number T of training times.
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
    steps: int = 1000
    beta_start: float | None = None
    beta_end: float | None = None
    zero_terminal_snr: bool = False

    def __post_init__(self):
        check_positive("steps", self.steps)
        _check_betas(self, 1)

    @functools.cached_property
    def betas(self):
        """float64 `(T,)`."""
        betas = BETAS[self.name][0](self.steps, self.beta_start, self.beta_end)
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
        return float(self.steps - 1)

    def times(self, u):
        """Each integer time is an equal part of [0, 1); u = 1 is the last."""
        xp, u = library(u)
        return xp.minimum(xp.floor(u * self.steps), self.t_max)

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
            return np.interp(t, np.arange(-1.0, self.steps), table)
        place = ops.clip(t + 1.0, 0.0, float(self.steps))
        left = ops.clip(ops.floor(place), 0.0, float(self.steps - 1))
        # Rows of two: one lookup, and one that PyTorch exports.
        pairs = np.stack([table[:-1], table[1:]], axis=1)  # (T, 2)
        pairs = ops.convert_to_tensor(pairs, dtype=t.dtype)
        found = ops.take(pairs, ops.cast(left, "int32"), axis=0)  # (..., 2)
        low, high = found[..., 0], found[..., 1]
        return low + (place - left) * (high - low)

    def time(self, log_snr):
        xp, log_snr = library(log_snr)
        rising = self._log_snrs[::-1].copy()
        if xp is np:
            return np.interp(log_snr, rising, np.arange(self.steps - 1.0, -2.0, -1.0))
        table = ops.convert_to_tensor(rising, dtype=log_snr.dtype)
        bounded = ops.clip(log_snr, rising[0], rising[-1])
        flat = ops.reshape(bounded, (-1,))
        index = ops.searchsorted(table, flat, side="right")
        index = ops.clip(ops.reshape(index, ops.shape(bounded)) - 1, 0, self.steps - 1)
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
    schedule.time(schedule.log_snr(0.5))  # 0.5
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

    def time(self, log_snr):
        xp, log_snr = library(log_snr)
        if self.name == "cosine":
            return 2.0 / math.pi * xp.arctan(xp.exp(-0.5 * log_snr))
        return self._inverse_integral(xp, softplus(xp, -log_snr))
