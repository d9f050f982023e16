"""The samplers' formulas: functions of a time grid that make `Sampler`s.

Each reads like its paper: `y` is x at the node where the network was asked, `D` the
clean sample it answered, `z` fresh noise. Several are one formula in the coordinates
x / alpha, sigma / alpha of 2206.00364 (appendix C.3), where every schedule is the one
with alpha = 1: Euler's step there, the step of DDIM and that of a flow are the same.
"""

import math

import numpy as np

from keras_genai.diffusion.linear_sampler import tabulate
from keras_genai.diffusion.schedules import Discrete
from keras_genai.diffusion.variance import log_variances, posterior
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import having, integer, number, text

GRID = having("schedule times alphas sigmas", "a grid of kg.samplers.time_grid")


def nodes(grid):
    """`(times of the num_steps' beginnings, alphas, sigmas)`."""
    return grid.times[:-1], grid.alphas, grid.sigmas


def check_falling(name, grid):
    """Refuses a rising grid."""
    if grid.sigmas[0] < grid.sigmas[-1]:
        raise ValueError(
            f"{name} draws noise, which goes from much noise to little; this time "
            "grid rises. Invert by a sampler without noise, such as 'ddim' with eta=0."
        )


def _check_flow(name, grid):
    if not np.allclose(grid.alphas + grid.sigmas, 1.0, atol=1e-9):
        raise ValueError(
            f"{name} is a sampler of flows, alpha + sigma = 1 (kg.schedules."
            f"RectifiedFlow); this grid is of {type(grid.schedule).__name__}. Take "
            "'euler' or 'heun' instead."
        )


# One evaluation a step


@checked(
    variance=text,
    grid=GRID,
)
def ddpm(grid, variance="small"):
    """Ancestral sampling (2006.11239, algorithm 2).

    Args:
        grid: a `TimeGrid`.
        variance: of a step, "small", the posterior's, "large", that of the noise it
            takes back, or "learned", between them (2102.09672, equation 15).
    """
    if variance not in ("small", "large", "learned"):
        raise ValueError(
            f"variance must be 'small', 'large' or 'learned'; got {variance!r}."
        )
    check_falling("ddpm", grid)
    times, alpha, sigma = nodes(grid)
    of_x, of_x0, small, large = posterior(alpha[:-1], sigma[:-1], alpha[1:], sigma[1:])
    # A learned deviation is made in the loop; the last step adds no noise.
    std = np.sqrt({"small": small, "large": large, "learned": 1.0}[variance])
    std = np.where(sigma[1:] == 0, 0.0, std)

    def update(i, state, y, D, z):
        return (of_x[i] * y + of_x0[i] * D + std[i] * z,)

    bounds = np.stack(log_variances(small, large), axis=1)  # (n, 2)
    learned = bounds if variance == "learned" else None
    return tabulate("ddpm", times, update, variances=learned)


@checked(
    eta=number("[0, 1]"),
    grid=GRID,
)
def ddim(grid, eta=0.0, name="ddim"):
    """Denoising diffusion implicit models (2010.02502, equation 12).

    Args:
        grid: a `TimeGrid`; a rising one inverts, with `eta=0`.
        eta: 0 is deterministic, the step of the probability-flow ODE; 1 adds the noise
            of `ddpm`.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1]; got {eta!r}.")
    if eta:
        check_falling(name, grid)
    times, alpha, sigma = nodes(grid)

    def update(i, state, y, D, z):
        a, s, a_next, s_next = alpha[i], sigma[i], alpha[i + 1], sigma[i + 1]
        std = eta * math.sqrt(max(0.0, posterior(a, s, a_next, s_next)[2]))
        eps = (y - a * D) / s
        return (a_next * D + math.sqrt(s_next**2 - std**2) * eps + std * z,)

    return tabulate(name, times, update)


@checked(grid=GRID)
def euler(grid):
    """Euler's method in sigma / alpha (2206.00364): DDIM's deterministic step."""
    return ddim(grid, 0.0, "euler")


@checked(
    eta=number("[0, 1]"),
    grid=GRID,
)
def euler_ancestral(grid, eta=1.0):
    """Euler's method to a lower noise, and noise up to the node (k-diffusion).

    The same step as that of DDIM with this eta.

    Args:
        grid: a `TimeGrid`.
        eta: share of the noise, in [0, 1].
    """
    return ddim(grid, eta, "euler_ancestral")


@checked(grid=GRID)
def flow_euler(grid):
    """Euler's method along the velocity of a flow (2209.03003): the step of DDIM."""
    _check_flow("flow_euler", grid)
    return ddim(grid, 0.0, "flow_euler")


@checked(
    time_scaling=number("> 0"),
    grid=GRID,
)
def lcm(grid, sigma_data=0.5, time_scaling=10.0):
    """Multistep sampling of a consistency model (2310.04378, algorithm 3).

    Args:
        grid: a `TimeGrid`, usually with the spacing "lcm".
        sigma_data: of the boundary condition f(x, 0) = x.
        time_scaling: the t of the boundary condition is that multiple of the time.
    """
    check_falling("lcm", grid)
    times, alpha, sigma = nodes(grid)

    def update(i, state, y, D, z):
        t = time_scaling * times[i]
        c_skip = sigma_data**2 / (t**2 + sigma_data**2)
        c_out = t / math.sqrt(t**2 + sigma_data**2)
        return (alpha[i + 1] * (c_skip * y + c_out * D) + sigma[i + 1] * z,)

    return tabulate("lcm", times, update)


# Two evaluations a step


def _pairs(grid):
    """`(step, second)` of each evaluation: no second one where sigma' = 0."""
    return [
        (i, second)
        for i in range(grid.num_steps)
        for second in (False, True)
        if not (second and grid.sigmas[i + 1] == 0)
    ]


@checked(
    churn=number(">= 0"),
    churn_min=number(">= 0"),
    churn_max=number(">= 0"),
    churn_noise=number("> 0"),
    grid=GRID,
)
def heun(grid, churn=0.0, churn_min=0.0, churn_max=math.inf, churn_noise=1.0):
    """Heun's method with churn (2206.00364, algorithm 2), in sigma / alpha.

    Args:
        grid: a `TimeGrid`, with alpha above 0.
        churn: S_churn, at least 0; 0 is deterministic.
        churn_min: S_min, the least sigma / alpha that is churned.
        churn_max: S_max, the largest.
        churn_noise: S_noise, the factor of the noise that is added.
    """
    if not churn >= 0:
        raise ValueError(f"churn must be at least 0; got {churn!r}.")
    if churn:
        check_falling("heun with churn", grid)
    level, alpha = grid.noise_levels, grid.alphas
    pairs = _pairs(grid)
    gamma = np.where(
        (level >= churn_min) & (level <= churn_max),
        min(churn / grid.num_steps, math.sqrt(2.0) - 1.0),
        0.0,
    )
    raised = level * (1.0 + gamma)  # sigma_hat
    schedule, t_hat, alpha_hat = grid.schedule, grid.times.copy(), alpha.copy()
    up = gamma[:-1] > 0
    if np.any(up):
        t_hat[:-1][up] = schedule.time_at(-2.0 * np.log(raised[:-1][up]))
        alpha_hat[:-1][up] = schedule.alpha(t_hat[:-1][up])
        # Above the schedule's own range there is no such time.
        reached = schedule.noise_level(t_hat[:-1][up])
        if not np.allclose(reached, raised[:-1][up], rtol=1e-6):
            raise ValueError(
                f"churn={churn!r} raises the noise above the schedule's most, "
                f"{float(level[0]):.4g}; lower churn_max below it."
            )
    times = [grid.times[i + 1] if second else t_hat[i] for i, second in pairs]

    def inputs(j, state, z):
        i, second = pairs[j]
        if second or not gamma[i]:
            return state[0]
        std = churn_noise * math.sqrt(raised[i] ** 2 - level[i] ** 2)
        return alpha_hat[i] * (state[0] / alpha[i] + std * z)

    def update(j, state, y, D, z):
        _, base, slope = state
        i, second = pairs[j]
        step = level[i + 1] - raised[i]
        if second:
            other = (y / alpha[i + 1] - D) / level[i + 1]
            x = alpha[i + 1] * (base + 0.5 * step * (slope + other))
            return x, base, slope
        base = y / alpha_hat[i]
        slope = (base - D) / raised[i]
        return alpha[i + 1] * (base + step * slope), base, slope

    reached = [i + 1 for i, _ in pairs]
    return tabulate("heun", times, update, 3, inputs, reached)


@checked(grid=GRID)
def flow_heun(grid):
    """Heun's method along the velocity of a flow, in its own time (2209.03003)."""
    _check_flow("flow_heun", grid)
    pairs, sigma = _pairs(grid), grid.sigmas

    def update(j, state, y, D, z):
        _, base, slope = state
        i, second = pairs[j]
        step = sigma[i + 1] - sigma[i]
        velocity = (y - D) / sigma[i + second]
        if second:
            return base + 0.5 * step * (slope + velocity), base, slope
        return y + step * velocity, y, velocity

    times = [grid.times[i + second] for i, second in pairs]
    return tabulate("flow_heun", times, update, 3, nodes=[i + 1 for i, _ in pairs])


# Several steps: with the last evaluations remembered. lambda = log(alpha / sigma)


@checked(
    order=integer(),
    grid=GRID,
)
def lms(grid, order=4):
    """Linear multistep: Adams and Bashforth's method in sigma / alpha (k-diffusion).

    Args:
        grid: a `TimeGrid`, with alpha above 0.
        order: how many derivatives are used, 1 to 6; fewer at the first steps.
    """
    if order not in range(1, 7):
        raise ValueError(f"order must be an integer in [1, 6]; got {order!r}.")
    times, alpha, _ = nodes(grid)
    level = grid.noise_levels

    def weight(i, k, count):
        """The integral over step i of the Lagrange polynomial of node i - k."""
        step = level[i + 1] - level[i]
        nodes = (level[i - np.arange(count)] - level[i]) / step
        others = np.delete(nodes, k)
        integral = np.polyint(
            np.atleast_1d(np.poly(others)) / np.prod(nodes[k] - others)
        )
        return step * np.polyval(integral, 1.0)  # the integral is 0 at 0

    def update(i, state, y, D, z):
        slopes = ((y / alpha[i] - D) / level[i], *state[1:])
        count = min(i + 1, order)
        total = sum(weight(i, k, count) * slopes[k] for k in range(count))
        return alpha[i + 1] * (y / alpha[i] + total), *slopes[: order - 1]

    return tabulate("lms", times, update, order)


@checked(grid=GRID)
def pndm(grid, runge_kutta=False):
    """Pseudo linear multistep (2202.09778): PLMS, as Stable Diffusion samples.

    The transfer of its equation 9 is DDIM's step; the noise it takes is a combination
    of the last four. n + 1 evaluations, since the first step is done twice.

    Args:
        grid: a `TimeGrid` of equal steps of time, with alpha above 0.
        runge_kutta: does the first three steps by the pseudo Runge-Kutta method of
            four evaluations each, as the paper has it; at least four steps.
    """
    if runge_kutta and grid.num_steps < 4:
        raise ValueError(
            "runge_kutta=True takes four evaluations at each of three steps before "
            f"the first of PLMS: it needs at least 4 steps; got {grid.num_steps}."
        )
    plan = _pndm_plan(grid, runge_kutta)

    def transfer(x, start, stop, eps):
        (_, a, s), (_, a_next, s_next) = start, stop
        return a_next / a * x + (s_next - a_next * s / a) * eps

    def update(j, state, y, D, z):
        _, base, mean, e1, e2, e3 = state
        kind, here, start, stop = plan[j]
        eps = (y - here[1] * D) / here[2]
        if kind in _STAGES:
            if kind == "stage 1":
                base, mean, (e1, e2, e3) = y, 0.0 * y, (eps, e1, e2)
            mean = mean + _STAGES[kind] * eps
            x = transfer(base, start, stop, mean if kind == "stage 4" else eps)
            return x, base, mean, e1, e2, e3
        if kind == "again":
            return (
                transfer(base, start, stop, 0.5 * (eps + e1)),
                base,
                mean,
                e1,
                e2,
                e3,
            )
        past = {
            1: eps,
            2: (3.0 * eps - e1) / 2.0,
            3: (23.0 * eps - 16.0 * e1 + 5.0 * e2) / 12.0,
            4: (55.0 * eps - 59.0 * e1 + 37.0 * e2 - 9.0 * e3) / 24.0,
        }
        return transfer(y, start, stop, past[kind]), y, mean, eps, e1, e2

    times = [here[0] for _, here, _, _ in plan]
    places = list(zip(grid.times, grid.alphas, grid.sigmas, strict=True))
    reached = [
        next((k for k, place in enumerate(places) if place == stop), -1)
        for *_, stop in plan
    ]
    return tabulate("pndm", times, update, 6, nodes=reached)


# The shares of the four noises in the step of Runge and Kutta.
_STAGES = {"stage 1": 1 / 6, "stage 2": 1 / 3, "stage 3": 1 / 3, "stage 4": 1 / 6}


def _pndm_plan(grid, runge_kutta):
    """`(kind, here, start, stop)` of every evaluation, places as (t, alpha, sigma).

    The kind is the number of noises that PLMS combines, "again" for the second half of
    its first step, or a stage of Runge and Kutta's method.
    """
    node = list(zip(grid.times, grid.alphas, grid.sigmas, strict=True))
    plan = []
    if runge_kutta:
        for i in range(3):
            start, stop = node[i], node[i + 1]
            middle = (start[0] + stop[0]) / 2
            if isinstance(grid.schedule, Discrete):
                middle = math.ceil(middle)
            schedule = grid.schedule
            half = (middle, schedule.alpha(middle), schedule.sigma(middle))
            plan += [
                ("stage 1", start, start, half),
                ("stage 2", half, start, half),
                ("stage 3", half, start, stop),
                ("stage 4", stop, start, stop),
            ]
        first, count = 3, 4
    else:
        plan.append((1, node[0], node[0], node[1]))
        if grid.num_steps > 1:
            plan.append(("again", node[1], node[0], node[1]))
        first, count = 1, 2
    for i in range(first, grid.num_steps):
        plan.append((min(4, count + i - first), node[i], node[i], node[i + 1]))
    return plan


def _lower(grid, i):
    """Whether a step of DPM-Solver++ is of first order: the first, and the last where
    it ends without noise or the grid is short (2211.01095, section 3.3)."""
    last = i == grid.num_steps - 1
    return i == 0 or last and (grid.sigmas[-1] == 0 or grid.num_steps < 15)


def _second_order(grid, half_snr, i, D, last):
    """`(h, mean)`: the step in half log-SNR, and the D extrapolated over it."""
    h = half_snr[i + 1] - half_snr[i]
    if _lower(grid, i):
        return h, D
    h_last = half_snr[i] - half_snr[i - 1]
    return h, D + 0.5 * (h / h_last) * (D - last)


@checked(grid=GRID)
def dpmpp_2m(grid):
    """DPM-Solver++(2M): second order, multistep (2211.01095, algorithm 2).

    Args:
        grid: a `TimeGrid`.
    """
    times, alpha, sigma = nodes(grid)
    half_snr = grid.half_log_snrs

    def update(i, state, y, D, z):
        h, mean = _second_order(grid, half_snr, i, D, state[1])
        x = sigma[i + 1] / sigma[i] * y - alpha[i + 1] * np.expm1(-h) * mean
        return x, D

    return tabulate("dpmpp_2m", times, update, 2)


@checked(grid=GRID)
def dpmpp_2m_sde(grid):
    """SDE-DPM-Solver++(2M): that of the diffusion SDE (2211.01095, appendix C).

    Args:
        grid: a `TimeGrid`.
    """
    check_falling("dpmpp_2m_sde", grid)
    times, alpha, sigma = nodes(grid)
    half_snr = grid.half_log_snrs

    def update(i, state, y, D, z):
        h, mean = _second_order(grid, half_snr, i, D, state[1])
        share = -np.expm1(-2.0 * h)
        x = sigma[i + 1] / sigma[i] * np.exp(-h) * y + alpha[i + 1] * share * mean
        return x + sigma[i + 1] * math.sqrt(share) * z, D

    return tabulate("dpmpp_2m_sde", times, update, 2)


@checked(grid=GRID)
def unipc(grid):
    """UniPC of order 2 with B_2(h) (2302.04867, algorithms 1 and 2).

    Each evaluation first corrects the sample it was made at, and then predicts the
    next; the first and the last step are of order 1.

    Args:
        grid: a `TimeGrid`.
    """
    times, alpha, sigma = nodes(grid)
    half_snr = grid.half_log_snrs

    def order(i):
        return min(2, grid.num_steps - i, i + 1)

    def corrected(i, state, y, D):
        _, base, last, before = state
        h = half_snr[i] - half_snr[i - 1]
        b_h = np.expm1(-h)
        x = sigma[i] / sigma[i - 1] * base - alpha[i] * b_h * last
        if order(i - 1) == 1:
            return x - 0.5 * alpha[i] * b_h * (D - last)
        r = (half_snr[i - 2] - half_snr[i - 1]) / h
        phi = b_h / -h - 1.0
        b_1, b_2 = phi / b_h, 2.0 * (phi / -h - 0.5) / b_h
        # rho_1 + rho_2 = b_1 and r rho_1 + rho_2 = b_2
        rho_1 = (b_1 - b_2) / (1.0 - r)
        rho_2 = b_1 - rho_1
        change = rho_1 * (before - last) / r + rho_2 * (D - last)
        return x - alpha[i] * b_h * change

    def update(i, state, y, D, z):
        x = corrected(i, state, y, D) if i else y
        h = half_snr[i + 1] - half_snr[i]
        b_h = np.expm1(-h)
        predicted = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * b_h * D
        if order(i) == 2:
            r = (half_snr[i - 1] - half_snr[i]) / h
            predicted = predicted - 0.5 * alpha[i + 1] * b_h * (state[2] - D) / r
        return predicted, x, D, state[2]

    return tabulate("unipc", times, update, 4)
