"""Parameterizations by their definitions, weightings, and the learned variance."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy.stats import norm

from keras_genai import backend
from keras_genai.diffusion import (
    PARAMETERIZATIONS,
    Denoiser,
    convert,
    denoiser,
    logit_normal_times,
    lognormal_times,
    loss_weight,
    schedules,
    target,
    uniform_times,
    variance,
)

pytestmark = pytest.mark.in_turn

RNG = np.random.default_rng(5)
X_0, EPS = RNG.normal(size=(2, 4, 3))
LEVELS = [(0.9, np.sqrt(1 - 0.81)), (0.1, np.sqrt(1 - 0.01)), (1.0, 7.0), (0.3, 0.7)]


def numpy(x):
    return np.asarray(ops.convert_to_numpy(x))


def predictions(alpha, sigma, sigma_data=0.5):
    """Every parameterization as its paper defines it."""
    x = alpha * X_0 + sigma * EPS
    level = sigma / alpha  # 2206.00364: x / alpha = x_0 + level eps
    c_skip = sigma_data**2 / (level**2 + sigma_data**2)
    c_out = level * sigma_data / np.sqrt(level**2 + sigma_data**2)
    return x, {
        "epsilon": EPS,
        "x0": X_0,
        "v": alpha * EPS - sigma * X_0,
        "flow": EPS - X_0,
        "edm": (X_0 - c_skip * x / alpha) / c_out,
    }


@pytest.mark.parametrize("alpha, sigma", LEVELS)
def test_exact_conversion_between_any_two(alpha, sigma):
    x, known = predictions(alpha, sigma)
    assert tuple(known) == PARAMETERIZATIONS
    for source, prediction in known.items():
        np.testing.assert_allclose(
            target(source, X_0, EPS, alpha, sigma), prediction, atol=1e-12
        )
        for to, wanted in known.items():
            got = convert(prediction, x, alpha, sigma, source, to)
            np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-9)
            tensors = map(ops.convert_to_tensor, (prediction, x))
            got = convert(*tensors, float(alpha), float(sigma), source, to)
            np.testing.assert_allclose(numpy(got), wanted, rtol=2e-3, atol=2e-3)


def test_conversion_where_nothing_is_left():
    """At alpha = 0 all but the noise still mean an x_0, at sigma = 0 all but x_0's."""
    for name in ("x0", "v", "flow", "edm"):
        prediction = target(name, X_0, EPS, 0.0, 1.0)
        np.testing.assert_allclose(denoiser.to_x0(name, prediction, EPS, 0.0, 1.0), X_0)
        prediction = target(name, X_0, EPS, 1.0, 0.0)
        np.testing.assert_allclose(denoiser.to_x0(name, prediction, X_0, 1.0, 0.0), X_0)


def test_weightings():
    """Of any parameterization the same loss as that of x_0, which the papers give."""
    alpha = np.sqrt(np.array([0.99, 0.7, 0.2, 1e-4]))
    sigma = np.sqrt(1 - alpha**2)
    snr = alpha**2 / sigma**2
    on_x0 = {
        "min_snr": np.minimum(snr, 5.0),
        "edm": (1 / snr + 0.25) / (0.25 / snr),
        "sigmoid": snr / (1 + np.exp(np.log(snr) + 1.0)),
    }
    for weighting, wanted in on_x0.items():
        for name in PARAMETERIZATIONS:
            a, b = denoiser.coefficients(name, alpha, sigma)
            error = (a - b * alpha / sigma) ** 2  # of a unit error of x_0
            got = loss_weight(weighting, name, alpha, sigma)
            np.testing.assert_allclose(got * error, wanted, rtol=1e-9)
    for name in PARAMETERIZATIONS:
        np.testing.assert_array_equal(loss_weight("uniform", name, alpha, sigma), 1.0)
    # Min-SNR as 2303.09556 writes it, and EDM's unit weight of its own prediction.
    for name, wanted in (
        ("epsilon", np.minimum(snr, 5.0) / snr),
        ("v", np.minimum(snr, 5.0) / (snr + 1)),
    ):
        got = loss_weight("min_snr", name, alpha, sigma)
        np.testing.assert_allclose(got, wanted, rtol=1e-9)
    got = loss_weight("edm", "edm", np.ones(3), np.array([0.01, 1.0, 50.0]))
    np.testing.assert_allclose(got, 1.0)
    assert loss_weight("min_snr", "epsilon", np.zeros(1), np.ones(1))[0] == 1.0


@pytest.mark.parametrize(
    "name, kind",
    [
        (name, kind)
        for name in PARAMETERIZATIONS
        for kind in ("linear", "karras", "rectified_flow")
        if (name, kind) != ("epsilon", "rectified_flow")  # refused: see the errors
    ],
)
def test_denoiser(name, kind):
    """A network that knows the answer gives x_0; its inputs are the paper's."""
    schedule = schedules.get(kind)
    t = schedule.quantile(np.array([0.2, 0.4, 0.7, 0.9]))
    alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
    seen = []

    def network(x, t, *condition):
        seen[:] = [numpy(x), numpy(t), *map(numpy, condition)]
        return ops.convert_to_tensor(target(name, X_0, EPS, alpha, sigma), "float32")

    denoise = Denoiser(network, schedule, name)
    x = ops.convert_to_tensor(alpha * X_0 + sigma * EPS, dtype="float32")
    times = ops.convert_to_tensor(t, dtype="float32")
    np.testing.assert_allclose(numpy(denoise(x, times)), X_0, rtol=5e-3, atol=5e-4)
    if name == "edm":
        c_in = 1 / np.sqrt((sigma / alpha) ** 2 + 0.25)
        np.testing.assert_allclose(seen[0], c_in * numpy(x) / alpha, rtol=1e-4)
        np.testing.assert_allclose(seen[1], np.log(sigma / alpha)[:, 0] / 4, atol=1e-4)
    else:
        np.testing.assert_allclose(seen[1], t, rtol=1e-6)
    denoise(x, times[0], np.arange(4))
    assert seen[1].shape == (4,) and seen[2].tolist() == [0, 1, 2, 3]
    clipped = Denoiser(network, schedule, name, clip=0.5)(x, times)
    np.testing.assert_allclose(
        numpy(clipped), np.clip(X_0, -0.5, 0.5), rtol=5e-3, atol=5e-4
    )
    prediction, _ = denoise.predict(x, times)
    back = denoise.to_prediction(denoise.to_x0(prediction, x, times), x, times)
    np.testing.assert_allclose(numpy(back), numpy(prediction), rtol=1e-2, atol=2e-3)


def test_what_the_network_is_handed():
    seen = []

    def network(x, t):
        seen[:] = [numpy(t)]
        return x

    x = np.ones((1, 2), "float32")
    Denoiser(network, schedules.get("linear"), round_times=True)(x, 41.6)
    assert seen[0] == [42.0]
    flow = schedules.get("rectified_flow")
    Denoiser(network, flow, "flow", time_scale=1000.0)(x, 0.25)
    assert seen[0] == [250.0]


def test_loss_and_its_gradient():
    """One number for each sample: the weighted mean of the squared error."""
    schedule = schedules.get("linear")
    x_0, noise = X_0.astype("float32"), EPS.astype("float32")
    t = np.array([3, 250, 600, 999], "int32")
    w = keras.Variable(np.array(0.5, "float32"))
    denoise = Denoiser(lambda x, t: w * x, schedule, "v")
    alpha, sigma = schedule.alpha(t)[:, None], schedule.sigma(t)[:, None]
    x = alpha * X_0 + sigma * EPS
    error = 0.5 * x - (alpha * EPS - sigma * X_0)
    weight = loss_weight("min_snr", "v", alpha, sigma, gamma=2.0)[:, 0]
    options = {"weighting": "min_snr", "gamma": 2.0}
    value, (slope,) = backend.value_and_gradients(
        lambda: ops.sum(denoise.loss(x_0, noise, t, **options)), [w]
    )
    loss = numpy(denoise.loss(x_0, noise, t, **options))
    np.testing.assert_allclose(loss, weight * (error**2).mean(1), rtol=1e-4)
    np.testing.assert_allclose(numpy(value), loss.sum(), rtol=1e-5)
    wanted = (weight * (2 * error * x).mean(1)).sum()
    np.testing.assert_allclose(numpy(slope), wanted, rtol=1e-4)


# The learned variance


def closed_form(schedule, x_0, x, t, mean_x0, v):
    """2102.09672 and 2006.11239 in float64, one number after the other."""
    bar = schedule.alpha_bar[t]
    before = schedule.alpha_bar[t - 1] if t else 1.0
    beta = schedule.betas[t]
    small = (1 - before) / (1 - bar) * beta
    if t == 0:
        bar_1 = schedule.alpha_bar[1]
        small = (1 - bar) / (1 - bar_1) * schedule.betas[1]

    def mean(x_0):
        return (np.sqrt(before) * beta * x_0 + np.sqrt(1 - beta) * (1 - before) * x) / (
            1 - bar
        )

    log_var = (v + 1) / 2 * np.log(beta) + (1 - v) / 2 * np.log(small)
    if t:
        ratio = small / np.exp(log_var)
        kl = ratio - 1 - np.log(ratio)
        kl = 0.5 * (kl + (mean(x_0) - mean(mean_x0)) ** 2 / np.exp(log_var))
        return kl.mean() / np.log(2)
    std = np.exp(0.5 * log_var)
    upper = np.where(x_0 > 0.999, 1.0, norm.cdf((x_0 + 1 / 255 - mean(mean_x0)) / std))
    lower = np.where(x_0 < -0.999, 0.0, norm.cdf((x_0 - 1 / 255 - mean(mean_x0)) / std))
    return -np.log(np.maximum(upper - lower, 1e-12)).mean() / np.log(2)


def test_terms_of_the_variational_bound():
    schedule = schedules.get("linear")
    levels = RNG.integers(0, 256, (5, 6)) / 127.5 - 1.0
    levels[0, :2] = [-1.0, 1.0]
    t = np.array([0, 1, 40, 500, 999])
    x = schedule.alpha(t)[:, None] * levels + schedule.sigma(t)[:, None] * RNG.normal(
        size=(5, 6)
    )
    mean_x0 = levels + 0.02 * RNG.normal(size=(5, 6))
    v = RNG.uniform(-1, 1, (5, 6))
    wanted = [
        closed_form(schedule, levels[i], x[i], t[i], mean_x0[i], v[i]) for i in range(5)
    ]
    tensors = (ops.convert_to_tensor(a, dtype="float32") for a in (levels, x))
    rest = (ops.convert_to_tensor(a, dtype="float32") for a in (mean_x0, v))
    got = variance.vlb_terms(schedule, *tensors, t, *rest)
    np.testing.assert_allclose(numpy(got), wanted, rtol=2e-3, atol=1e-5)


def test_hybrid_loss():
    """Its bound trains the variance alone; with v it is L_simple plus T / 1,000 L_t."""
    schedule = schedules.get("linear")
    x_0 = np.clip(X_0, -1, 1).astype("float32")
    noise, t = EPS.astype("float32"), np.array([0, 5, 300, 900], "int32")
    w, u = (keras.Variable(np.array(n, "float32")) for n in (0.4, 0.1))

    def network(x, t):
        return ops.concatenate([w * x, u * ops.ones_like(x)], axis=-1)

    hybrid = Denoiser(network, schedule, learned_variance=True)
    simple = Denoiser(lambda x, t: w * x, schedule)
    x_0_hat, v = hybrid(x_0, 300)
    np.testing.assert_array_equal(numpy(x_0_hat), numpy(simple(x_0, 300)))
    np.testing.assert_allclose(numpy(v), 0.1)

    def slopes(denoise, weight=1e-3):
        return backend.value_and_gradients(
            lambda: ops.mean(denoise.loss(x_0, noise, t, vlb_weight=weight)), [w, u]
        )[1]

    (of_w, of_u), (alone, _) = slopes(hybrid), slopes(hybrid, 0.0)
    np.testing.assert_allclose(numpy(of_w), numpy(alone), rtol=1e-5)
    assert abs(numpy(of_u)) > 1e-6
    x = schedule.add_noise(x_0, noise, t)
    mean_x0 = simple.to_x0(0.4 * x, x, t)
    bound = variance.vlb_terms(schedule, x_0, x, t, mean_x0, 0.1 * ops.ones_like(x))
    wanted = numpy(simple.loss(x_0, noise, t)) + numpy(bound)
    np.testing.assert_allclose(numpy(hybrid.loss(x_0, noise, t)), wanted, rtol=1e-4)


# Times and errors


def test_training_times():
    u = ops.convert_to_tensor(np.array([0.0, 0.5, 0.99999], "float32"))
    z = ops.convert_to_tensor(np.array([-1.0, 0.0, 1.0], "float32"))
    t = uniform_times(schedules.get("linear"), u)
    assert keras.backend.standardize_dtype(t.dtype) == "int32"
    assert numpy(t).tolist() == [0, 500, 999]
    sigma = lognormal_times(schedules.get("karras"), z)
    np.testing.assert_allclose(numpy(sigma), np.exp(-1.2 + 1.2 * numpy(z)), rtol=1e-5)
    flow = schedules.get("rectified_flow", shift=3.0)
    middle = numpy(logit_normal_times(flow, z))[1]
    np.testing.assert_allclose(middle, 0.75, rtol=1e-6)
    with pytest.raises(ValueError, match="times of a RectifiedFlow; got Karras"):
        logit_normal_times(schedules.get("karras"), z)


def test_errors():
    def network(x, t):
        return x

    linear = schedules.get("linear")
    zero = schedules.get("linear", zero_terminal_snr=True)
    x = np.ones((1, 2), "float32")
    Denoiser(network, zero, "v")
    for call, message in (
        (lambda: Denoiser(network, linear, "eps"), "expected one of epsilon, x0, v"),
        (lambda: Denoiser(network, "linear"), "must be a schedule of kg.schedules"),
        (lambda: Denoiser(network, zero), "predict 'v'"),
        (lambda: Denoiser(network, schedules.RectifiedFlow()), "predict 'v'"),
        (
            lambda: Denoiser(network, schedules.Karras(), learned_variance=True),
            "needs a Discrete schedule; got Karras",
        ),
        (lambda: Denoiser(network, linear, "edm", sigma_data=0.0), "sigma_data must"),
        (
            lambda: Denoiser(network, linear, learned_variance=True)(x, 3),
            "twice the channels of its input, 4; it gave 2",
        ),
        (lambda: loss_weight("snr", "v", 1.0, 1.0), "expected one of uniform, min_snr"),
        (lambda: convert(x, x, 1.0, 1.0, "eps", "v"), "unknown parameterization 'eps'"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
