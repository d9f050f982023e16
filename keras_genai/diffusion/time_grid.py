"""Time grids: the times of a sampler's steps, from much noise to none."""

import dataclasses

import numpy as np
from keras import ops

from keras_genai.diffusion import schedules
from keras_genai.diffusion.schedules import Schedule
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_positive
from keras_genai.utils.validation import either, flag, having, integer, number, text

SPACINGS = ("leading", "trailing", "linspace", "karras", "exponential", "lcm")
ENDS = ("zero", "least", "least_divided")
PRIORS = ("unit", "sigma")


@dataclasses.dataclass(frozen=True, eq=False)
class TimeGrid:
    """The nodes of n steps: n + 1 times with their alpha and sigma, in float64.

    `time_grid(schedule, num_steps)` makes the usual ones; `at(schedule, times)` any
    other. A slice is the part between its nodes: `grid[10:]` begins at node 10.

    Args:
        schedule: the schedule they are of.
        times: `(n + 1,)`; strictly falling, or strictly rising (an inversion).
        alphas: `(n + 1,)`.
        sigmas: `(n + 1,)`.
        prior: see `time_grid`.
    """

    schedule: Schedule
    times: np.ndarray
    alphas: np.ndarray
    sigmas: np.ndarray
    prior: str = "unit"

    def __post_init__(self):
        num_steps = np.diff(self.sigmas / np.maximum(self.alphas, 1e-30))
        if len(num_steps) < 1 or not (np.all(num_steps < 0) or np.all(num_steps > 0)):
            raise ValueError(
                "A time grid needs at least two nodes, whose noise falls (or rises) at "
                "every step; got times "
                f"{np.array2string(self.times, threshold=12, precision=4)}. With many "
                "steps neighbouring nodes may be rounded to the same time: take fewer."
            )

    @property
    def num_steps(self):
        """The number n of steps."""
        return len(self.times) - 1

    @property
    def noise_levels(self):
        """`sigma / alpha` at the nodes, infinite where alpha is 0."""
        with np.errstate(divide="ignore"):
            return self.sigmas / self.alphas

    @property
    def half_log_snrs(self):
        """`log(alpha / sigma)` at the nodes: lambda of 2206.00927."""
        with np.errstate(divide="ignore"):
            return np.log(self.alphas) - np.log(self.sigmas)

    def __getitem__(self, nodes):
        if not isinstance(nodes, slice):
            raise TypeError("A time grid is cut by slices of its nodes, as grid[10:].")
        return TimeGrid(
            self.schedule,
            self.times[nodes],
            self.alphas[nodes],
            self.sigmas[nodes],
            self.prior,
        )

    def last(self, strength):
        """The end of the grid, that share of its steps: how img2img begins.

        Args:
            strength: in (0, 1]; 1 is the whole grid.
        """
        if not 0 < strength <= 1:
            raise ValueError(f"strength must be in (0, 1]; got {strength!r}.")
        return self[self.num_steps - max(1, int(self.num_steps * strength)) :]

    def reversed(self):
        """The way back, from little noise to much: for the inversion by an ODE.

        A node without noise is left out, since there is no noise in it to tell: what
        is inverted is taken to lie at the next one. Make the grid with
        `end="least"` for that to be the least noise that the network knows.
        """
        return self[: len(self.times) - (self.sigmas[-1] == 0)][::-1]

    def start(self, noise, x_0=None):
        """The sample at the first node.

        Args:
            noise: standard normal noise `(B, ...)`.
            x_0: clean samples of the same shape, to which it is added; without them
                the noise alone, as sampling from nothing begins.
        """
        noise = ops.convert_to_tensor(noise)
        alpha, sigma, prior_std = self.begin
        if x_0 is None:
            return prior_std * noise
        return alpha * ops.convert_to_tensor(x_0, dtype=noise.dtype) + sigma * noise

    @property
    def begin(self):
        """Alpha, sigma and the prior's standard deviation at the first node."""
        return float(self.alphas[0]), float(self.sigmas[0]), self.prior_std

    @property
    def prior_std(self):
        """Standard deviation that sampling begins with at the first node."""
        explodes = self.schedule.prior_std != 1.0
        return float(self.sigmas[0]) if explodes or self.prior == "sigma" else 1.0

    def renoise(self, x, noise, i, j):
        """From node j back to the noisier node i: a draw of q(x_i | x_j) (RePaint)."""
        scale = self.alphas[i] / self.alphas[j]
        variance = self.sigmas[i] ** 2 - (scale * self.sigmas[j]) ** 2
        if variance < 0:
            raise ValueError(f"node {i} has less noise than node {j}.")
        x, noise = ops.convert_to_tensor(x), ops.convert_to_tensor(noise)
        return float(scale) * x + float(np.sqrt(variance)) * noise


def at(schedule, times):
    """The `TimeGrid` of these times of a schedule."""
    times = np.asarray(times, "float64")
    return TimeGrid(schedule, times, schedule.alpha(times), schedule.sigma(times))


@checked(
    schedule=having("alpha sigma quantile log_snr", "a schedule of kg.schedules"),
    spacing=text,
    end=text,
    prior=text,
    between=text,
    offset=either(integer(0), flag),
    rho=number("> 0"),
    origin_steps=integer(1),
)
def time_grid(
    schedule,
    num_steps,
    spacing="trailing",
    end="zero",
    offset=0,
    skip_last=False,
    rounded=False,
    rho=7.0,
    origin_steps=50,
    between=None,
    prior="unit",
):
    """The nodes that the published samplers step through.

    Args:
        schedule: a schedule of `kg.schedules`.
        num_steps: how many, at least 1 and at most the training steps of a `Discrete`.
        spacing: of the T times of a `Discrete` schedule (2305.08891, table 2),
            "leading": multiples of T // steps from 0; "trailing": from T - 1 down in
            steps of T / steps; "linspace": from T - 1 to 0, both included. In
            continuous time, "trailing" is equal steps from 1 to 0 of u in
            `schedule.quantile(u)` and "linspace" n nodes from 1 to 0. "karras" and
            "exponential" space sigma / alpha, by 2206.00364's equation 5 and
            geometrically. "lcm": the part of 2310.04378's `origin_steps` times.
        end: "zero", a last step to no noise; "least", which ends at `t_min` (and has a
            step fewer where the spacing ends there by itself); or "least_divided",
            likewise, with x divided by alpha there, as k-diffusion leaves it.
        offset: is added to the times of "leading" (Stable Diffusion takes 1).
        skip_last: makes `num_steps + 1` nodes and leaves the cleanest out, as
            DPM-Solver's and UniPC's "leading" and "linspace" do in diffusers.
        rounded: moves the times of a `Discrete` schedule to the nearest integers,
            which is what "linspace" is for DDPM, DDIM and the multistep solvers in
            diffusers.
        rho: for "karras".
        origin_steps: for "lcm".
        between: a spacing of a `Discrete` schedule, between whose first and last times
            "karras" and "exponential" lie; by default from the last training time to
            the first.
        prior: standard deviation of what sampling begins with: "unit", or "sigma", that
            of the noise at the first node, as the schedulers of k-diffusion have it
            with "linspace" and "trailing".

    Returns:
        A `TimeGrid` of `num_steps` steps.

    Raises:
        ValueError: for steps or a spacing that this schedule does not have.

    Example:

    ```python
    time_grid(kg.schedules.get("linear"), 4).times  # 999, 749, 499, 249, -1
    ```
    """
    check_positive("num_steps", num_steps)
    for name, value, known in (
        ("spacing", spacing, SPACINGS),
        ("end", end, ENDS),
        ("prior", prior, PRIORS),
        ("between", between, (None, "leading", "trailing", "linspace")),
    ):
        if value not in known:
            raise ValueError(
                f"unknown {name} {value!r}; expected one of "
                f"{', '.join(map(str, known))}."
            )
    discrete = isinstance(schedule, schedules.Discrete)
    if discrete and num_steps > schedule.num_train_timesteps - skip_last:
        raise ValueError(
            f"num_steps must be at most the {schedule.num_train_timesteps} training "
            f"steps; got {num_steps}."
        )
    count = num_steps + bool(skip_last)
    if spacing in ("karras", "exponential"):
        ends = schedule.t_max, schedule.t_min
        if between is not None and discrete:
            ends = _discrete_times(schedule, count, between, offset, 1)[[0, -1]]
        levels = _spaced_levels(schedule, count, spacing, rho, ends)
        times = schedule.time_at(-2.0 * np.log(levels))
    elif discrete:
        times = _discrete_times(schedule, count, spacing, offset, origin_steps)
    elif spacing in ("trailing", "linspace"):
        times = _continuous_times(schedule, count, spacing)
    else:
        raise ValueError(
            f"spacing {spacing!r} is one of discrete times; this schedule, "
            f"{type(schedule).__name__}, has 'trailing', 'linspace', 'karras' and "
            "'exponential'."
        )
    if skip_last:
        times = times[:-1]
    if rounded and discrete:
        times = np.round(times)
    alphas, sigmas = schedule.alpha(times), schedule.sigma(times)
    return _ended(schedule, times, alphas, sigmas, end, prior)


def _discrete_times(schedule, count, spacing, offset, origin_steps):
    total = schedule.num_train_timesteps
    if spacing == "leading":
        times = np.arange(count)[::-1] * (total // count) + offset
    elif spacing == "trailing":
        times = np.round(np.arange(total, 0, -total / count))[:count] - 1
    elif spacing == "linspace":
        times = np.linspace(0, total - 1, count)[::-1]
    else:
        if not count <= origin_steps <= total:
            raise ValueError(
                "The lcm spacing takes its steps from origin_steps, at most "
                f"{total}; got num_steps={count} of origin_steps={origin_steps!r}."
            )
        origin = np.arange(origin_steps, 0, -1) * (total // origin_steps) - 1
        chosen = np.floor(np.linspace(0, origin_steps, count, endpoint=False))
        times = origin[chosen.astype(int)]
    if times[0] > total - 1:
        raise ValueError(
            f"offset={offset!r} leads to time {times[0]:g}, beyond the last, "
            f"{total - 1}."
        )
    return times.astype("float64")


def _continuous_times(schedule, count, spacing):
    if spacing == "trailing":
        u = np.arange(count, 0, -1) / count
    elif isinstance(schedule, schedules.RectifiedFlow):
        u = np.linspace(1.0, 1e-3, count)  # the 1,000 training times of 2403.03206
    else:
        u = np.linspace(1.0, 0.0, count)
    return np.asarray(schedule.quantile(u))


def _spaced_levels(schedule, count, spacing, rho, ends):
    high, low = at(schedule, ends).noise_levels
    if not np.isfinite(high):
        raise ValueError(
            f"spacing {spacing!r} spaces sigma / alpha, which is infinite at the last "
            "time of this schedule; take 'trailing' or 'linspace'."
        )
    u = np.linspace(1.0, 0.0, count)
    if spacing == "karras":
        return schedules.karras_sigmas(u, low, high, rho)
    return schedules.exponential_sigmas(u, low, high)


def _ended(schedule, times, alphas, sigmas, end, prior):
    if end != "zero":
        least = schedule.t_min
        if times[-1] > least:
            alphas = np.append(alphas, schedule.alpha(least))
            sigmas = np.append(sigmas, schedule.sigma(least))
            times = np.append(times, least)
        if end == "least_divided":
            sigmas[-1], alphas[-1] = sigmas[-1] / alphas[-1], 1.0
    elif sigmas[-1] > 0:
        discrete = isinstance(schedule, schedules.Discrete)
        times = np.append(times, -1.0 if discrete else 0.0)
        alphas, sigmas = np.append(alphas, 1.0), np.append(sigmas, 0.0)
    return TimeGrid(schedule, times, alphas, sigmas, prior)
