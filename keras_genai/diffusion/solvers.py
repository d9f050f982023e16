"""The samplers' formulas: functions of a path that make `Sampler`s.

Each reads like its paper: `y` is x at the node where the network was asked, `D` the
clean sample it answered, `z` fresh noise. Several are one formula in the coordinates
x / alpha, sigma / alpha of 2206.00364 (appendix C.3), where every schedule is the one
with alpha = 1: Euler's step there, the step of DDIM and that of a flow are the same.
"""

import math

import numpy as np

from keras_genai.diffusion.linear import tabulate
from keras_genai.diffusion.variance import log_variances, posterior
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import having, number, text

TRAJECTORY = having("schedule times alphas sigmas", "a path of kg.samplers.path")


def nodes(path):
    """`(times of the steps' beginnings, alphas, sigmas)`."""
    return path.times[:-1], path.alphas, path.sigmas


def check_falling(name, path):
    """Refuses a rising path."""
    if path.sigmas[0] < path.sigmas[-1]:
        raise ValueError(
            f"{name} draws noise, which goes from much noise to little; this path "
            "rises. Invert by a sampler without noise, such as 'ddim' with eta=0."
        )


def _check_flow(name, path):
    if not np.allclose(path.alphas + path.sigmas, 1.0, atol=1e-9):
        raise ValueError(
            f"{name} is a sampler of flows, alpha + sigma = 1 (kg.schedules."
            f"RectifiedFlow); this path is of {type(path.schedule).__name__}. Take "
            "'euler' or 'heun' instead."
        )


# One evaluation a step


@checked(
    variance=text,
    path=TRAJECTORY,
)
def ddpm(path, variance="small"):
    """Ancestral sampling (2006.11239, algorithm 2).

    Args:
        path: a `Path`.
        variance: of a step, "small", the posterior's, "large", that of the noise it
            takes back, or "learned", between them (2102.09672, equation 15).
    """
    if variance not in ("small", "large", "learned"):
        raise ValueError(
            f"variance must be 'small', 'large' or 'learned'; got {variance!r}."
        )
    check_falling("ddpm", path)
    times, alpha, sigma = nodes(path)
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
    path=TRAJECTORY,
)
def ddim(path, eta=0.0, name="ddim"):
    """Denoising diffusion implicit models (2010.02502, equation 12).

    Args:
        path: a `Path`; a rising one inverts, with `eta=0`.
        eta: 0 is deterministic, the step of the probability-flow ODE; 1 adds the noise
            of `ddpm`.
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must be in [0, 1]; got {eta!r}.")
    if eta:
        check_falling(name, path)
    times, alpha, sigma = nodes(path)

    def update(i, state, y, D, z):
        a, s, a_next, s_next = alpha[i], sigma[i], alpha[i + 1], sigma[i + 1]
        std = eta * math.sqrt(max(0.0, posterior(a, s, a_next, s_next)[2]))
        eps = (y - a * D) / s
        return (a_next * D + math.sqrt(s_next**2 - std**2) * eps + std * z,)

    return tabulate(name, times, update)


@checked(path=TRAJECTORY)
def euler(path):
    """Euler's method in sigma / alpha (2206.00364): DDIM's deterministic step."""
    return ddim(path, 0.0, "euler")


@checked(
    eta=number("[0, 1]"),
    path=TRAJECTORY,
)
def euler_ancestral(path, eta=1.0):
    """Euler's method to a lower noise, and noise up to the node (k-diffusion).

    The same step as that of DDIM with this eta.

    Args:
        path: a `Path`.
        eta: share of the noise, in [0, 1].
    """
    return ddim(path, eta, "euler_ancestral")


@checked(path=TRAJECTORY)
def flow_euler(path):
    """Euler's method along the velocity of a flow (2209.03003): the step of DDIM."""
    _check_flow("flow_euler", path)
    return ddim(path, 0.0, "flow_euler")


@checked(
    time_scaling=number("> 0"),
    path=TRAJECTORY,
)
def lcm(path, sigma_data=0.5, time_scaling=10.0):
    """Multistep sampling of a consistency model (2310.04378, algorithm 3).

    Args:
        path: a `Path`, usually with the spacing "lcm".
        sigma_data: of the boundary condition f(x, 0) = x.
        time_scaling: the t of the boundary condition is that multiple of the time.
    """
    check_falling("lcm", path)
    times, alpha, sigma = nodes(path)

    def update(i, state, y, D, z):
        t = time_scaling * times[i]
        c_skip = sigma_data**2 / (t**2 + sigma_data**2)
        c_out = t / math.sqrt(t**2 + sigma_data**2)
        return (alpha[i + 1] * (c_skip * y + c_out * D) + sigma[i + 1] * z,)

    return tabulate("lcm", times, update)


# Two evaluations a step


def _pairs(path):
    """`(step, second)` of each evaluation: no second one where sigma' = 0."""
    return [
        (i, second)
        for i in range(path.steps)
        for second in (False, True)
        if not (second and path.sigmas[i + 1] == 0)
    ]


@checked(
    churn=number(">= 0"),
    churn_min=number(">= 0"),
    churn_max=number(">= 0"),
    churn_noise=number("> 0"),
    path=TRAJECTORY,
)
def heun(path, churn=0.0, churn_min=0.0, churn_max=math.inf, churn_noise=1.0):
    """Heun's method with churn (2206.00364, algorithm 2), in sigma / alpha.

    Args:
        path: a `Path`, with alpha above 0.
        churn: S_churn, at least 0; 0 is deterministic.
        churn_min: S_min, the least sigma / alpha that is churned.
        churn_max: S_max, the largest.
        churn_noise: S_noise, the factor of the noise that is added.
    """
    if not churn >= 0:
        raise ValueError(f"churn must be at least 0; got {churn!r}.")
    if churn:
        check_falling("heun with churn", path)
    level, alpha = path.noise_levels, path.alphas
    pairs = _pairs(path)
    gamma = np.where(
        (level >= churn_min) & (level <= churn_max),
        min(churn / path.steps, math.sqrt(2.0) - 1.0),
        0.0,
    )
    raised = level * (1.0 + gamma)  # sigma_hat
    schedule, t_hat, alpha_hat = path.schedule, path.times.copy(), alpha.copy()
    up = gamma[:-1] > 0
    if np.any(up):
        t_hat[:-1][up] = schedule.time(-2.0 * np.log(raised[:-1][up]))
        alpha_hat[:-1][up] = schedule.alpha(t_hat[:-1][up])
        # Above the schedule's own range there is no such time.
        reached = schedule.noise_level(t_hat[:-1][up])
        if not np.allclose(reached, raised[:-1][up], rtol=1e-6):
            raise ValueError(
                f"churn={churn!r} raises the noise above the schedule's most, "
                f"{float(level[0]):.4g}; lower churn_max below it."
            )
    times = [path.times[i + 1] if second else t_hat[i] for i, second in pairs]

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


@checked(path=TRAJECTORY)
def flow_heun(path):
    """Heun's method along the velocity of a flow, in its own time (2209.03003)."""
    _check_flow("flow_heun", path)
    pairs, sigma = _pairs(path), path.sigmas

    def update(j, state, y, D, z):
        _, base, slope = state
        i, second = pairs[j]
        step = sigma[i + 1] - sigma[i]
        velocity = (y - D) / sigma[i + second]
        if second:
            return base + 0.5 * step * (slope + velocity), base, slope
        return y + step * velocity, y, velocity

    times = [path.times[i + second] for i, second in pairs]
    return tabulate("flow_heun", times, update, 3, nodes=[i + 1 for i, _ in pairs])
