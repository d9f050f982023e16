"""Schedules by their identities, and the forward process in closed form."""

import json

import keras
import numpy as np
import pytest
from keras import ops

from keras_genai.diffusion import samplers, schedules
from keras_genai.diffusion.schedules import Continuous, Discrete, Schedule

DISCRETE = [Discrete(name) for name in ("linear", "scaled_linear", "cosine", "sigmoid")]
CONTINUOUS = [Continuous(schedule.name) for schedule in DISCRETE]
VE = [schedules.Karras(), schedules.Exponential()]
FLOW = [schedules.RectifiedFlow(), schedules.RectifiedFlow(shift=3.0)]
ALL = [*DISCRETE, *CONTINUOUS, *VE, *FLOW]


def name(schedule):
    return f"{type(schedule).__name__} {getattr(schedule, 'name', '')}"


@pytest.mark.parametrize("schedule", ALL, ids=name)
def test_identities(schedule):
    u = np.linspace(0.02, 0.98, 25)
    t = schedule.t_min + u * (schedule.t_max - schedule.t_min)
    alpha, sigma, log_snr = schedule.alpha(t), schedule.sigma(t), schedule.log_snr(t)
    assert alpha.dtype == sigma.dtype == log_snr.dtype == "float64"
    if isinstance(schedule, Discrete | Continuous):
        np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, rtol=1e-12)
    elif isinstance(schedule, schedules.RectifiedFlow):
        np.testing.assert_allclose(alpha + sigma, 1.0, rtol=1e-12)
    else:
        np.testing.assert_array_equal(alpha, 1.0)
    np.testing.assert_allclose(log_snr, 2 * np.log(alpha / sigma), rtol=1e-9)
    np.testing.assert_allclose(schedule.noise_level(t), sigma / alpha, rtol=1e-9)
    assert np.all(np.diff(log_snr) < 0)
    np.testing.assert_allclose(schedule.time_at(log_snr), t, rtol=1e-9)
    # Tensors: the same in float32, of any shape, in the graph.
    tensor = ops.convert_to_tensor(t.reshape(5, 5), dtype="float32")
    for function, wanted in (
        (schedule.alpha, alpha),
        (schedule.sigma, sigma),
        (schedule.log_snr, log_snr),
        (lambda t: schedule.time_at(schedule.log_snr(t)), t),
    ):
        got = function(tensor)
        assert keras.backend.standardize_dtype(got.dtype) == "float32"
        got = ops.convert_to_numpy(got).ravel()
        np.testing.assert_allclose(got, wanted, rtol=2e-4, atol=1e-5)
    times = schedule.quantile(np.linspace(0.0, 1.0, 9))
    first = 0.0 if isinstance(schedule, schedules.RectifiedFlow) else schedule.t_min
    np.testing.assert_allclose(times[[0, -1]], [first, schedule.t_max], rtol=1e-12)
    assert np.all(np.diff(times) > 0)
    config = json.loads(json.dumps(schedule.get_config()))
    assert Schedule.from_config(config) == schedule


@pytest.mark.parametrize("schedule", DISCRETE, ids=name)
def test_forward_process(schedule):
    """The steps of q(x_t | x_{t-1}), composed, are q(x_t | x_0) in closed form."""
    mean, variance = 1.0, 0.0
    for t, beta in enumerate(schedule.betas):
        mean, variance = np.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        if t in (0, 1, 137, 500, 999):
            np.testing.assert_allclose(schedule.alpha(t), mean, rtol=1e-9)
            np.testing.assert_allclose(schedule.sigma(t) ** 2, variance, rtol=1e-9)
    assert schedule.alpha(-1) == 1.0 and schedule.sigma(-1) < 1e-15


@pytest.mark.parametrize(
    "schedule", [DISCRETE[0], CONTINUOUS[2], VE[0], FLOW[1]], ids=name
)
def test_add_noise(schedule):
    """alpha x + sigma eps, with a time for each sample or one for all."""
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(2, 3, 2, 2, 1)).astype("float32")
    t = schedule.quantile(np.array([0.1, 0.5, 0.9]))
    dtype = "int32" if isinstance(schedule, Discrete) else "float32"
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    got = schedule.add_noise(x, noise, ops.convert_to_tensor(t, dtype=dtype))
    wanted = alpha[:, None, None, None] * x + sigma[:, None, None, None] * noise
    np.testing.assert_allclose(ops.convert_to_numpy(got), wanted, rtol=1e-5, atol=1e-6)
    one = schedule.add_noise(x, noise, float(t[1]))
    wanted = alpha[1] * x + sigma[1] * noise
    np.testing.assert_allclose(ops.convert_to_numpy(one), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pair", zip(DISCRETE, CONTINUOUS, strict=True), ids=str)
def test_continuous_time_is_the_limit(pair):
    """1,000 steps are near it (cosine has an offset; scaled betas bend a little)."""
    discrete, continuous = pair
    t = np.array([99, 299, 499, 799])
    near = continuous.alpha((t + 1) / 1000)
    np.testing.assert_allclose(discrete.alpha(t), near, atol=0.012)


@pytest.mark.parametrize("schedule", CONTINUOUS, ids=name)
def test_beta_is_the_slope(schedule):
    """-2 d log alpha / dt = beta(t)."""
    t, h = np.array([0.2, 0.6, 0.9]), 1e-6
    slope = -(np.log(schedule.alpha(t + h)) - np.log(schedule.alpha(t - h))) / h
    b0, b1 = schedule.beta_start, schedule.beta_end
    beta = {
        "linear": lambda: b0 + t * (b1 - b0),
        "scaled_linear": lambda: (b0**0.5 + t * (b1**0.5 - b0**0.5)) ** 2,
        "cosine": lambda: np.pi * np.tan(np.pi * t / 2),
        "sigmoid": lambda: b0 + (b1 - b0) / (1 + np.exp(6 - 12 * t)),
    }[schedule.name]()
    np.testing.assert_allclose(slope, beta, rtol=1e-6)


@pytest.mark.parametrize("schedule", DISCRETE, ids=name)
def test_zero_terminal_snr(schedule):
    """2305.08891: the last alpha is 0, the first unchanged, the roots linear maps."""
    zero = Discrete(schedule.name, zero_terminal_snr=True)
    old, new = np.sqrt(schedule.alpha_bar), np.sqrt(zero.alpha_bar)
    assert zero.alpha(999) == 0.0 and zero.sigma(999) == 1.0 and new[-1] == 0.0
    np.testing.assert_allclose(new[0], old[0], rtol=1e-12)
    slope = (new[0] - new[-1]) / (old[0] - old[-1])
    np.testing.assert_allclose(new, (old - old[-1]) * slope, atol=1e-12)
    t = ops.convert_to_tensor(np.array([998.0, 999.0], "float32"))
    alpha = ops.convert_to_numpy(zero.alpha(t))
    np.testing.assert_allclose(alpha, [new[-2], 0.0], rtol=1e-3, atol=1e-15)


def test_karras_exponential_and_shift():
    """Written out from the papers."""
    u = np.linspace(0, 1, 5)
    karras = schedules.get("karras", sigma_min=0.1, sigma_max=10.0, rho=3.0)
    np.testing.assert_allclose(
        karras.quantile(u), (0.1 ** (1 / 3) * (1 - u) + 10 ** (1 / 3) * u) ** 3
    )
    grid = samplers.time_grid(karras, 3, "linspace")
    i = np.arange(3)
    equation_5 = (10 ** (1 / 3) + i / 2 * (0.1 ** (1 / 3) - 10 ** (1 / 3))) ** 3
    np.testing.assert_allclose(grid.times, [*equation_5, 0.0])
    exponential = schedules.get("exponential", sigma_min=0.1, sigma_max=10.0)
    np.testing.assert_allclose(exponential.quantile(u), 0.1 * 100**u)
    flow = schedules.get("rectified_flow", shift=3.0)
    np.testing.assert_allclose(flow.quantile(u), 3 * u / (1 + 2 * u))
    # Equation 23 of 2403.03206: the shift multiplies sigma / alpha.
    t = flow.quantile(np.array([0.3, 0.6]))
    np.testing.assert_allclose(
        flow.noise_level(t), 3 * np.array([0.3, 0.6]) / [0.7, 0.4]
    )


def test_times_of_the_spacings():
    """2305.08891, table 2."""
    schedule = schedules.get("linear")

    def times(num_steps, spacing, **options):
        return samplers.time_grid(
            schedule, num_steps, spacing, **options
        ).times.tolist()

    assert times(4, "leading") == [750, 500, 250, 0, -1]
    assert times(4, "leading", offset=1) == [751, 501, 251, 1, -1]
    assert times(4, "trailing") == [999, 749, 499, 249, -1]
    assert times(4, "linspace") == [999, 666, 333, 0, -1]
    assert times(5, "linspace", rounded=True) == [999, 749, 500, 250, 0, -1]
    assert times(4, "leading", skip_last=True) == [800, 600, 400, 200, -1]
    assert times(3, "trailing", end="least") == [999, 666, 332, 0]
    assert times(3, "lcm") == [999, 679, 339, -1]
    whole = samplers.time_grid(schedule, 1000).times
    np.testing.assert_array_equal(whole, np.arange(999, -2, -1))
    flow = samplers.time_grid(schedules.RectifiedFlow(), 4).times
    np.testing.assert_allclose(flow, [1.0, 0.75, 0.5, 0.25, 0.0])
    for spacing in ("karras", "exponential"):
        levels = samplers.time_grid(schedule, 6, spacing).noise_levels
        ends = schedule.noise_level(np.array([999, 0]))
        np.testing.assert_allclose(levels[[0, -2]], ends, rtol=1e-9)
        root = levels[:-1] ** (1 / 7) if spacing == "karras" else np.log(levels[:-1])
        np.testing.assert_allclose(np.diff(root, 2), 0.0, atol=1e-9)


def test_parts_of_a_path():
    grid = samplers.time_grid(schedules.get("linear"), 10)
    assert grid.last(0.35).times.tolist() == [299, 199, 99, -1]
    assert grid[7:].num_steps == 3 and grid.last(1.0).num_steps == 10
    back = grid.reversed()
    assert back.times.tolist() == grid.times[:-1][::-1].tolist()
    # Noise added in two parts is the noise added at once.
    x, z = 0.3, 1.0
    scale, std = grid.renoise(1.0, 0.0, 2, 5), grid.renoise(0.0, 1.0, 2, 5)
    np.testing.assert_allclose(scale * grid.alphas[5], grid.alphas[2])
    variance = (scale * grid.sigmas[5]) ** 2 + std**2
    np.testing.assert_allclose(variance, grid.sigmas[2] ** 2)
    started = grid[3:].start(np.float32(z), np.float32(x))
    wanted = grid.alphas[3] * x + grid.sigmas[3] * z
    np.testing.assert_allclose(ops.convert_to_numpy(started), wanted, rtol=1e-6)
    karras = samplers.time_grid(schedules.get("karras"), 5, "linspace")
    assert float(ops.convert_to_numpy(karras.start(np.float32(1)))) == 80.0


def test_errors():
    linear = schedules.get("linear")
    assert schedules.get(linear) is linear
    for call, message in (
        (lambda: schedules.get("quadratic"), "expected one of linear, scaled_linear"),
        (lambda: Discrete("quadratic"), "unknown schedule of betas, name='quadratic'"),
        (
            lambda: Discrete(num_train_timesteps=0),
            "num_train_timesteps must be an integer of at least 1",
        ),
        (lambda: Discrete("linear", beta_start=0.1, beta_end=0.05), "0 < beta_start"),
        (lambda: Discrete("cosine", beta_start=0.1), "takes no beta_start"),
        (lambda: Continuous("linear", t_min=0.0), r"t_min must be in \(0, 1\)"),
        (lambda: schedules.Karras(sigma_min=2.0, sigma_max=1.0), "0 < sigma_min"),
        (lambda: schedules.Karras(rho=0.0), "rho must be a finite number over 0"),
        (
            lambda: schedules.RectifiedFlow(shift=0.0),
            "shift must be a finite number over 0",
        ),
        (lambda: Schedule.from_config({"class": "Linear"}), "one of Discrete"),
        (
            lambda: samplers.time_grid(linear, 0),
            "steps must be an integer of at least 1",
        ),
        (lambda: samplers.time_grid(linear, 1001), "at most the 1000 training steps"),
        (
            lambda: samplers.time_grid(linear, 5, "even"),
            "expected one of leading, trailing",
        ),
        (
            lambda: samplers.time_grid(linear, 5, end="one"),
            "expected one of zero, least",
        ),
        (
            lambda: samplers.time_grid(linear, 1, "leading", offset=1000),
            "beyond the last",
        ),
        (
            lambda: samplers.time_grid(linear, 60, "lcm"),
            "takes its steps from origin_steps",
        ),
        (lambda: samplers.time_grid(FLOW[0], 5, "leading"), "is one of discrete times"),
        (lambda: samplers.time_grid(FLOW[0], 5, "karras"), "infinite at the last time"),
        (lambda: samplers.at(linear, [5, 5]), "noise falls .or rises. at every step"),
        (
            lambda: samplers.time_grid(linear, 5).last(0.0),
            r"strength must be in \(0, 1\]",
        ),
        (lambda: samplers.time_grid(linear, 5).renoise(0, 0, 4, 1), "has less noise"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
