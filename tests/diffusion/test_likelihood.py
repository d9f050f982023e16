"""The likelihood by the ODE against the exact one of a mixture."""

import numpy as np
import pytest
from keras import ops

from keras_genai import backend
from keras_genai.diffusion import bits_per_dim, likelihood, log_likelihood, schedules
from tests.support.mixture import PLANE

pytestmark = pytest.mark.in_turn

RNG = np.random.default_rng(4)
X = (PLANE.means[[0, 1, 2, 0]] + 0.4 * RNG.normal(size=(4, 2))).astype("float32")


def numpy(x):
    return np.asarray(ops.convert_to_numpy(x), "float64")


@pytest.mark.parametrize(
    "schedule, t_range, method",
    [
        (schedules.Continuous("linear"), None, "rk4"),
        (schedules.Continuous("linear"), None, "heun"),
        (schedules.get("cosine"), (0.0, 998.0), "rk4"),
        (schedules.get("karras"), None, "rk4"),
        (schedules.get("rectified_flow"), (0.002, 0.999), "rk4"),
    ],
    ids=["continuous", "continuous, heun", "discrete", "karras", "flow"],
)
def test_exact_trace(schedule, t_range, method):
    """Equal to the closed form on every kind of schedule."""
    low = schedule.t_min if t_range is None else t_range[0]
    num_steps = 40 if method == "rk4" else 120

    def whole(x):
        return log_likelihood(
            PLANE.denoise(schedule),
            schedule,
            x,
            num_steps=num_steps,
            probe="exact",
            method=method,
            t_range=t_range,
        )

    got, latent = map(numpy, backend.jit(whole)(ops.convert_to_tensor(X)))
    wanted = PLANE.log_density(X, float(schedule.noise_level(low)))
    np.testing.assert_allclose(got, wanted, atol=5e-3)
    assert latent.shape == X.shape and np.abs(latent).max() < 4


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_hutchinson(probe):
    """Unbiased: the mean over many probes, and each sample by its own number."""
    schedule = schedules.Continuous("linear")
    denoise = PLANE.denoise(schedule)
    many = np.repeat(X, 400, axis=0)

    def run(x, first=0, probes=1):
        options = {"num_steps": 15, "probe": probe, "key": (1, 2), "probes": probes}

        def whole(x):
            return log_likelihood(denoise, schedule, x, first=first, **options)[0]

        return numpy(backend.jit(whole)(ops.convert_to_tensor(x)))

    got = run(many).reshape(4, 400)
    exact, _ = log_likelihood(denoise, schedule, X, num_steps=15, probe="exact")
    error = got.std(1) / np.sqrt(400) + 1e-4
    assert np.all(np.abs(got.mean(1) - numpy(exact)) < 5 * error)
    np.testing.assert_allclose(run(many[2:5], first=2), got.ravel()[2:5], atol=1e-4)
    assert run(many, probes=3).reshape(4, 400).std() < 1.1 * got.std()


def test_images_and_bits():
    """Any shape; a uniform density over the levels is 8 bits."""
    schedule = schedules.Continuous("linear")
    x = RNG.normal(size=(2, 2, 2, 1)).astype("float32")

    def denoise(x, t):  # of data N(0, 0.5^2)
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return alpha * 0.25 / (alpha**2 * 0.25 + sigma**2) * x

    got, _ = log_likelihood(denoise, schedule, x, num_steps=30)
    variance = 0.25 + schedule.noise_level(schedule.t_min) ** 2
    each = -0.5 * x.astype("float64") ** 2 / variance - 0.5 * np.log(
        2 * np.pi * variance
    )
    np.testing.assert_allclose(numpy(got), each.sum((1, 2, 3)), rtol=1e-3)
    uniform = np.full(3, 12 * np.log(1 / (2 + 2 / 255)))
    np.testing.assert_allclose(bits_per_dim(uniform, (2, 2, 3)), 8.0)


def test_errors():
    schedule, x = schedules.get("linear"), np.ones((1, 2), "float32")
    flow = schedules.RectifiedFlow()
    for call, message in (
        (lambda: log_likelihood(None, schedule, x, num_steps=0), "steps must be"),
        (lambda: log_likelihood(None, schedule, x, probe="sign"), "one of rademacher"),
        (lambda: log_likelihood(None, schedule, x, method="rk45"), "one of heun, rk4"),
        (lambda: log_likelihood(None, flow, x), "Give another t_range"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert likelihood.PROBES == ("rademacher", "gaussian", "exact")
