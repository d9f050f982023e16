"""What a network predicts, how its error is weighted, and the denoiser it makes.

With `x = alpha x_0 + sigma eps`, every parameterization is a linear combination
`prediction = a x_0 + b eps`:

| name      | predicts                                                     |
|-----------|--------------------------------------------------------------|
| "epsilon" | eps (2006.11239)                                             |
| "x0"      | x_0                                                          |
| "v"       | alpha eps - sigma x_0 (2202.00512, appendix D)               |
| "flow"    | eps - x_0, the velocity of 2209.03003, from data to noise    |
| "edm"     | F of 2206.00364, equation 7, also for alpha other than 1     |

so that each follows from each and x. All functions take `alpha` and `sigma` that
broadcast against `x` (see `schedules`), tensors or NumPy arrays.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
from keras import ops

from keras_genai.backend.precision import widen
from keras_genai.diffusion import variance
from keras_genai.diffusion.schedules import (
    Discrete,
    RectifiedFlow,
    Schedule,
    expand,
)

PARAMETERIZATIONS = ("epsilon", "x0", "v", "flow", "edm")
WEIGHTINGS = ("uniform", "min_snr", "edm", "sigmoid")


def _check(name, known, what):
    if name not in known:
        raise ValueError(
            f"unknown {what} {name!r}; expected one of {', '.join(known)}."
        )


def _sqrt(x):
    return ops.sqrt(x) if ops.is_tensor(x) else np.sqrt(x)


def _root(alpha, sigma, sigma_data):
    """`sqrt(sigma^2 + sigma_data^2 alpha^2)`: the size of x where x_0 has that size."""
    return _sqrt(sigma * sigma + sigma_data * sigma_data * alpha * alpha)


def coefficients(parameterization, alpha, sigma, sigma_data=0.5):
    """`(a, b)` of the `prediction = a x_0 + b eps`.

    Args:
        parameterization: one of `PARAMETERIZATIONS`.
        alpha, sigma: of the schedule at the time.
        sigma_data: standard deviation of the data, for "edm".
    """
    _check(parameterization, PARAMETERIZATIONS, "parameterization")
    if parameterization == "epsilon":
        return 0.0, 1.0
    if parameterization == "x0":
        return 1.0, 0.0
    if parameterization == "v":
        return -sigma, alpha
    if parameterization == "flow":
        return -1.0, 1.0
    root = _root(alpha, sigma, sigma_data)
    return sigma / (sigma_data * root), -sigma_data * alpha / root


def target(parameterization, x_0, noise, alpha, sigma, sigma_data=0.5):
    """What the network should predict, from the clean sample and its noise."""
    a, b = coefficients(parameterization, alpha, sigma, sigma_data)
    return a * x_0 + b * noise


def to_x0(parameterization, prediction, x, alpha, sigma, sigma_data=0.5):
    """The clean sample that a prediction at x means.

    Args:
        parameterization: of the prediction.
        prediction: `(B, ...)`.
        x: noisy samples of the same shape.
        alpha, sigma, sigma_data: see `coefficients`; alpha above 0 for "epsilon".
    """
    _check(parameterization, PARAMETERIZATIONS, "parameterization")
    if parameterization == "x0":
        return prediction
    if parameterization == "epsilon":
        return (x - sigma * prediction) / alpha
    if parameterization == "v":
        return (alpha * x - sigma * prediction) / (alpha * alpha + sigma * sigma)
    if parameterization == "flow":
        return (x - sigma * prediction) / (alpha + sigma)
    root = _root(alpha, sigma, sigma_data)
    scale = sigma_data / root
    return scale * (scale * alpha * x + sigma * prediction)


def to_epsilon(parameterization, prediction, x, alpha, sigma, sigma_data=0.5):
    """The noise that a prediction at x means: as `to_x0`; sigma above 0 for "x0"."""
    _check(parameterization, PARAMETERIZATIONS, "parameterization")
    if parameterization == "epsilon":
        return prediction
    if parameterization == "x0":
        return (x - alpha * prediction) / sigma
    if parameterization == "v":
        return (sigma * x + alpha * prediction) / (alpha * alpha + sigma * sigma)
    if parameterization == "flow":
        return (x + alpha * prediction) / (alpha + sigma)
    root = _root(alpha, sigma, sigma_data)
    return (sigma * x / root - sigma_data * alpha * prediction) / root


def convert(prediction, x, alpha, sigma, source, to, sigma_data=0.5):
    """The prediction of one parameterization in another.

    Args:
        prediction: `(B, ...)`, of the parameterization `source`.
        x: noisy samples of the same shape.
        alpha, sigma, sigma_data: see `coefficients`. Both above 0, unless the two
            predictions are defined there: a noise says nothing of x_0 at alpha = 0.
        source: one of `PARAMETERIZATIONS`.
        to: likewise.

    Returns:
        The prediction in the parameterization `to`.
    """
    if source == to:
        _check(source, PARAMETERIZATIONS, "parameterization")
        return prediction
    arguments = prediction, x, alpha, sigma, sigma_data
    a, b = coefficients(to, alpha, sigma, sigma_data)
    if to == "epsilon":
        return to_epsilon(source, *arguments)
    if to == "x0":
        return to_x0(source, *arguments)
    return a * to_x0(source, *arguments) + b * to_epsilon(source, *arguments)


def loss_weight(
    weighting, parameterization, alpha, sigma, gamma=5.0, sigma_data=0.5, bias=-1.0
):
    """The weight of the squared error of a prediction.

    Weights belong to the error of x_0 and are carried over to what the network
    predicts: at a given x its error is `(a sigma - b alpha) / sigma` times that of x_0.

    Args:
        weighting: "uniform", 1 whatever the parameterization; "min_snr",
            `min(SNR, gamma)` on x_0 (2303.09556); "edm",
            `(sigma^2 + sigma_data^2) / (sigma sigma_data)^2` on x_0 (2206.00364, table
            1); "sigmoid", `sigmoid(bias - log SNR)` on eps (2303.00848, 2410.19324).
        parameterization: what the network predicts.
        alpha, sigma: of the schedule, of any shape.
        gamma: for "min_snr".
        sigma_data: for "edm", as a weighting and as a parameterization.
        bias: for "sigmoid".

    Returns:
        Weights of the shape of sigma.
    """
    _check(weighting, WEIGHTINGS, "weighting")
    a, b = coefficients(parameterization, alpha, sigma, sigma_data)
    if weighting == "uniform":
        return 0.0 * sigma + 1.0
    squared = (a * sigma - b * alpha) ** 2
    if weighting == "min_snr":
        least = ops.minimum if ops.is_tensor(sigma) else np.minimum
        # The small numbers are for alpha = 0, where the noise's weight is 0 / 0: 1.
        weight = least(alpha * alpha, gamma * sigma * sigma)
        return (weight + 1e-20) / (squared + 1e-20)
    if weighting == "edm":
        return _root(alpha, sigma, sigma_data) ** 2 / (sigma_data**2 * squared)
    gate = sigma * sigma / (sigma * sigma + math.exp(-bias) * alpha * alpha)
    return (alpha * alpha * gate + 1e-20) / (squared + 1e-20)


def split(denoised):
    """`(x_0, v)` of what a denoiser returned; v is None without a learned variance."""
    return denoised if isinstance(denoised, tuple) else (denoised, None)


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """A network as the function `denoise(x, t, condition=None) -> x_0`.

    That is the only form in which samplers and guidance know a model. With a learned
    variance it returns the pair `(x_0, v)`.

    Args:
        network: callable `(x, t)` or `(x, t, condition)` to the prediction, x
            `(B, ...)`, t `(B,)`. With "edm" it is handed c_in x and c_noise.
        schedule: a schedule of `kg.schedules`.
        parameterization: one of `PARAMETERIZATIONS`.
        clip: x_0 is clipped to `[-clip, clip]`, or handed through a callable; None
            leaves it as it is.
        learned_variance: the network gives 2C channels, the second half v, of which
            the variance is made (2102.09672, equation 15). Needs a `Discrete` schedule.
        sigma_data: standard deviation of the data, for "edm".
        time_scale: the network is handed `time_scale * t`; flows published with times
            up to 1,000 take 1,000.
        round_times: the network is handed the nearest integers of its times.

    Example:

    ```python
    denoise = Denoiser(network, kg.schedules.get("linear"), "epsilon", clip=1.0)
    x_0 = denoise(x, 500)
    ```
    """

    network: Callable
    schedule: Schedule
    parameterization: str = "epsilon"
    clip: float | Callable | None = None
    learned_variance: bool = False
    sigma_data: float = 0.5
    time_scale: float = 1.0
    round_times: bool = False

    def __post_init__(self):
        _check(self.parameterization, PARAMETERIZATIONS, "parameterization")
        if not isinstance(self.schedule, Schedule):
            raise ValueError(
                "schedule must be a schedule of kg.schedules, such as "
                f"kg.schedules.get('linear'); got {self.schedule!r}."
            )
        if self.parameterization == "epsilon" and self.schedule.alpha(self.t_max) == 0:
            raise ValueError(
                "This schedule leaves nothing of the data at its last time, where the "
                "noise says nothing of x_0 (2305.08891, section 3.2): predict 'v' "
                "(or 'flow', 'x0', 'edm') instead of 'epsilon'."
            )
        if self.learned_variance and not isinstance(self.schedule, Discrete):
            raise ValueError(
                "A learned variance is one of discrete steps: it needs a Discrete "
                f"schedule; got {type(self.schedule).__name__}."
            )
        if self.parameterization == "edm" and not self.sigma_data > 0:
            raise ValueError(f"sigma_data must be above 0; got {self.sigma_data!r}.")

    @property
    def t_max(self):
        return self.schedule.t_max

    def levels(self, x, t):
        """`(alpha, sigma)` at the times t, to broadcast against x."""
        t = ops.cast(t, x.dtype)
        return expand(self.schedule.alpha(t), x), expand(self.schedule.sigma(t), x)

    def predict(self, x, t, condition=None):
        """What the network predicts: `(prediction, v)`, v None without a variance.

        Args:
            x: noisy samples `(B, ...)`.
            t: times `(B,)`, or one for all.
            condition: tensor or structure of tensors `(B, ...)`, handed to the network.
        """
        inputs = x
        times = ops.cast(t, x.dtype)
        if self.parameterization == "edm":
            inputs = x / _root(*self.levels(x, t), self.sigma_data)  # c_in x / alpha
            times = -self.schedule.log_snr(times) / 8.0  # c_noise = log(sigma) / 4
        elif self.time_scale != 1.0:
            times = times * self.time_scale
        if self.round_times:
            times = ops.round(times)
        times = ops.broadcast_to(times, (ops.shape(x)[0],))
        extra = () if condition is None else (condition,)
        prediction = ops.cast(widen(self.network(inputs, times, *extra)), x.dtype)
        if not self.learned_variance:
            return prediction, None
        if prediction.shape[-1] != 2 * x.shape[-1]:
            raise ValueError(
                "With learned_variance the network must give twice the channels of its "
                f"input, {2 * x.shape[-1]}; it gave {prediction.shape[-1]}."
            )
        return tuple(ops.split(prediction, 2, axis=-1))

    def to_x0(self, prediction, x, t):
        """The clean sample that a prediction means, not clipped."""
        return to_x0(
            self.parameterization, prediction, x, *self.levels(x, t), self.sigma_data
        )

    def to_prediction(self, x_0, x, t):
        """The network's prediction that means `x_0`."""
        return convert(
            x_0, x, *self.levels(x, t), "x0", self.parameterization, self.sigma_data
        )

    def clipped(self, x_0):
        """x_0 within the bounds of `clip`."""
        if self.clip is None:
            return x_0
        if callable(self.clip):
            return self.clip(x_0)
        return ops.clip(x_0, -self.clip, self.clip)

    def __call__(self, x, t, condition=None):
        x = ops.convert_to_tensor(x)
        prediction, v = self.predict(x, t, condition)
        x_0 = self.clipped(self.to_x0(prediction, x, t))
        return x_0 if v is None else (x_0, v)

    def loss(
        self,
        x_0,
        noise,
        t,
        condition=None,
        weighting="uniform",
        gamma=5.0,
        vlb_weight=1e-3,
    ):
        """The training loss of each sample.

        The weighted squared error of the prediction; with a learned variance plus
        `vlb_weight * T` times the term of the variational bound at t in bits per
        dimension (L_hybrid of 2102.09672, equation 16, in its authors' units), through
        which no gradient reaches the mean.

        Args:
            x_0: clean samples `(B, ...)`; in [-1, 1] for a learned variance.
            noise: standard normal noise of the same shape.
            t: times `(B,)`.
            condition: see `predict`.
            weighting: one of `WEIGHTINGS`.
            gamma: see `loss_weight`.
            vlb_weight: lambda of L_hybrid.

        Returns:
            Tensor `(B,)`: means over the elements of each sample.
        """
        x_0, noise = widen(x_0), widen(noise)
        x = self.schedule.add_noise(x_0, noise, t)
        alpha, sigma = self.levels(x, t)
        prediction, v = self.predict(x, t, condition)
        wanted = target(
            self.parameterization, x_0, noise, alpha, sigma, self.sigma_data
        )
        axes = tuple(range(1, len(x.shape)))
        error = ops.mean(ops.square(prediction - wanted), axis=axes)  # (B,)
        times = ops.cast(t, x.dtype)
        weight = loss_weight(
            weighting,
            self.parameterization,
            self.schedule.alpha(times),
            self.schedule.sigma(times),
            gamma,
            self.sigma_data,
        )
        loss = weight * error
        if v is None:
            return loss
        mean_x0 = self.to_x0(ops.stop_gradient(prediction), x, t)
        bound = variance.vlb_terms(self.schedule, x_0, x, t, mean_x0, v)
        return loss + vlb_weight * self.schedule.num_train_timesteps * bound


# Times to train at


def uniform_times(schedule, u):
    """Times for uniform u in [0, 1): integer ones for a `Discrete` schedule."""
    times = schedule.quantile(u)
    return ops.cast(times, "int32") if isinstance(schedule, Discrete) else times


def lognormal_times(schedule, z, mean=-1.2, std=1.2):
    """`log(sigma / alpha)` normal (2206.00364, table 1), for standard normal z."""
    return schedule.time_at(-2.0 * (mean + std * z))


def logit_normal_times(schedule, z, mean=0.0, std=1.0):
    """A flow's times `sigmoid(mean + std z)`, shifted (2403.03206, section 3.1)."""
    if not isinstance(schedule, RectifiedFlow):
        raise ValueError(
            "logit_normal_times are times of a RectifiedFlow; got "
            f"{type(schedule).__name__}."
        )
    return schedule.quantile(ops.sigmoid(mean + std * z))
