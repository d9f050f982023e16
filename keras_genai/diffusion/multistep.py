"""Samplers that remember the last evaluations: LMS, PNDM, DPM-Solver++, UniPC.

In the notation of `solvers`; `lambda = log(alpha / sigma)` is half the log-SNR.
"""

import math

import numpy as np

from keras_genai.diffusion.linear import tabulate
from keras_genai.diffusion.schedules import Discrete
from keras_genai.diffusion.solvers import TRAJECTORY, check_falling, nodes
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import integer


@checked(
    order=integer(),
    path=TRAJECTORY,
)
def lms(path, order=4):
    """Linear multistep: Adams and Bashforth's method in sigma / alpha (k-diffusion).

    Args:
        path: a `Path`, with alpha above 0.
        order: how many derivatives are used, 1 to 6; fewer at the first steps.
    """
    if order not in range(1, 7):
        raise ValueError(f"order must be an integer in [1, 6]; got {order!r}.")
    times, alpha, _ = nodes(path)
    level = path.noise_levels

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


@checked(path=TRAJECTORY)
def pndm(path, runge_kutta=False):
    """Pseudo linear multistep (2202.09778): PLMS, as Stable Diffusion samples.

    The transfer of its equation 9 is DDIM's step; the noise it takes is a combination
    of the last four. n + 1 evaluations, since the first step is done twice.

    Args:
        path: a `Path` of equal steps of time, with alpha above 0.
        runge_kutta: does the first three steps by the pseudo Runge-Kutta method of
            four evaluations each, as the paper has it; at least four steps.
    """
    if runge_kutta and path.steps < 4:
        raise ValueError(
            "runge_kutta=True takes four evaluations at each of three steps before "
            f"the first of PLMS: it needs at least 4 steps; got {path.steps}."
        )
    plan = _pndm_plan(path, runge_kutta)

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
                *(base, mean, e1, e2, e3),
            )
        past = {
            1: eps,
            2: (3.0 * eps - e1) / 2.0,
            3: (23.0 * eps - 16.0 * e1 + 5.0 * e2) / 12.0,
            4: (55.0 * eps - 59.0 * e1 + 37.0 * e2 - 9.0 * e3) / 24.0,
        }
        return transfer(y, start, stop, past[kind]), y, mean, eps, e1, e2

    times = [here[0] for _, here, _, _ in plan]
    places = list(zip(path.times, path.alphas, path.sigmas, strict=True))
    reached = [
        next((k for k, place in enumerate(places) if place == stop), -1)
        for *_, stop in plan
    ]
    return tabulate("pndm", times, update, 6, nodes=reached)


# The shares of the four noises in the step of Runge and Kutta.
_STAGES = {"stage 1": 1 / 6, "stage 2": 1 / 3, "stage 3": 1 / 3, "stage 4": 1 / 6}


def _pndm_plan(path, runge_kutta):
    """`(kind, here, start, stop)` of every evaluation, places as (t, alpha, sigma).

    The kind is the number of noises that PLMS combines, "again" for the second half of
    its first step, or a stage of Runge and Kutta's method.
    """
    node = list(zip(path.times, path.alphas, path.sigmas, strict=True))
    plan = []
    if runge_kutta:
        for i in range(3):
            start, stop = node[i], node[i + 1]
            middle = (start[0] + stop[0]) / 2
            if isinstance(path.schedule, Discrete):
                middle = math.ceil(middle)
            schedule = path.schedule
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
        if path.steps > 1:
            plan.append(("again", node[1], node[0], node[1]))
        first, count = 1, 2
    for i in range(first, path.steps):
        plan.append((min(4, count + i - first), node[i], node[i], node[i + 1]))
    return plan


def _lower(path, i):
    """Whether a step of DPM-Solver++ is of first order: the first, and the last where
    it ends without noise or the path is short (2211.01095, section 3.3)."""
    last = i == path.steps - 1
    return i == 0 or last and (path.sigmas[-1] == 0 or path.steps < 15)


@checked(path=TRAJECTORY)
def dpmpp_2m(path):
    """DPM-Solver++(2M): second order, multistep (2211.01095, algorithm 2).

    Args:
        path: a `Path`.
    """
    times, alpha, sigma = nodes(path)
    half_snr = path.half_log_snrs

    def update(i, state, y, D, z):
        h = half_snr[i + 1] - half_snr[i]
        mean = D
        if not _lower(path, i):
            h_last = half_snr[i] - half_snr[i - 1]
            mean = D + 0.5 * (h / h_last) * (D - state[1])
        x = sigma[i + 1] / sigma[i] * y - alpha[i + 1] * np.expm1(-h) * mean
        return x, D

    return tabulate("dpmpp_2m", times, update, 2)


@checked(path=TRAJECTORY)
def dpmpp_2m_sde(path):
    """SDE-DPM-Solver++(2M): that of the diffusion SDE (2211.01095, appendix C).

    Args:
        path: a `Path`.
    """
    check_falling("dpmpp_2m_sde", path)
    times, alpha, sigma = nodes(path)
    half_snr = path.half_log_snrs

    def update(i, state, y, D, z):
        h = half_snr[i + 1] - half_snr[i]
        mean = D
        if not _lower(path, i):
            h_last = half_snr[i] - half_snr[i - 1]
            mean = D + 0.5 * (h / h_last) * (D - state[1])
        share = -np.expm1(-2.0 * h)
        x = sigma[i + 1] / sigma[i] * np.exp(-h) * y + alpha[i + 1] * share * mean
        return x + sigma[i + 1] * math.sqrt(share) * z, D

    return tabulate("dpmpp_2m_sde", times, update, 2)


@checked(path=TRAJECTORY)
def unipc(path):
    """UniPC of order 2 with B_2(h) (2302.04867, algorithms 1 and 2).

    Each evaluation first corrects the sample it was made at, and then predicts the
    next; the first and the last step are of order 1.

    Args:
        path: a `Path`.
    """
    times, alpha, sigma = nodes(path)
    half_snr = path.half_log_snrs

    def order(i):
        return min(2, path.steps - i, i + 1)

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
