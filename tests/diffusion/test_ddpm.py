"""DDPM with a network that knows its data: everything it does has a closed form."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from keras_genai import samplers, schedules
from keras_genai.diffusion.repaint import resampled
from tests.support.gaussian_network import GaussianNetwork
from tests.support.tiny_ddpm import network

pytestmark = pytest.mark.in_turn

SHAPE = (2, 2, 1)
MEANS = 0.4 * np.array([[1, -1, 1, -1], [-1, 1, 1, -1], [0, 0, 0, 0]], "float64")
COVARIANCE = 0.09 * (0.3 * np.eye(4) + 0.7 * np.ones((4, 4)))


@functools.cache
def gaussian(labels=False, schedule="linear", parameterization="epsilon", **kwargs):
    """A DDPM of Gaussian data; `labels`: of two classes."""
    means = MEANS if labels else MEANS[:1]
    scale = 1000.0 if schedule == "rectified_flow" else 1.0
    net = GaussianNetwork(
        means, COVARIANCE, SHAPE, schedule, parameterization, time_scale=scale
    )
    model = kg.DDPM(
        net, schedule, parameterization, clip=None, ema_decay=None, seed=3, **kwargs
    )
    model.compile(keras.optimizers.SGD(0.0))
    return model


def moments(x):
    flat = x.reshape(len(x), -1)
    return flat.mean(0), np.cov(flat.T)


# What it computes


@pytest.mark.parametrize(
    ("schedule", "parameterization"),
    [("linear", "epsilon"), ("cosine", "v"), ("rectified_flow", "flow")],
)
def test_samples_have_the_distribution(schedule, parameterization):
    model = gaussian(False, schedule, parameterization)
    x = model.generate(4000, sampler="dpmpp_2m", num_steps=40, batch_size=4000)
    mean, covariance = moments(x)
    np.testing.assert_allclose(mean, MEANS[0], atol=0.02)
    np.testing.assert_allclose(covariance, COVARIANCE, atol=0.01)


def test_the_loss_of_the_best_network_is_what_theory_gives():
    """E |eps - E[eps | x_t]|^2 = alpha^2 S / (alpha^2 S + sigma^2), over the times."""
    model = gaussian()
    t = np.arange(1000)
    alpha, sigma = model.schedule.alpha(t), model.schedule.sigma(t)
    values = model.network.values[:, None]
    wanted = (alpha**2 * values / (alpha**2 * values + sigma**2)).mean(0)  # (1000,)
    data = model.network.draw(4096)
    logs = model.evaluate(data, batch_size=1024, verbose=0, return_dict=True)
    parts = [logs[f"loss_{k}_{k + 25}"] for k in (0, 25, 50, 75)]
    np.testing.assert_allclose(parts, wanted.reshape(4, 250).mean(1), rtol=0.05)
    np.testing.assert_allclose(logs["loss"], np.mean(parts), rtol=1e-5)
    again = model.evaluate(data, batch_size=512, verbose=0, return_dict=True)
    np.testing.assert_allclose(list(again.values()), list(logs.values()), rtol=1e-5)
    trained = model.fit(data, batch_size=512, verbose=0).history
    np.testing.assert_allclose(trained["loss"][0], logs["loss"], rtol=0.1)
    found = [trained[f"loss_{k}_{k + 25}"][0] for k in (0, 25, 50, 75)]
    np.testing.assert_allclose(found, parts, rtol=0.15)


@pytest.mark.parametrize(
    "schedule", ["linear", pytest.param("rectified_flow", marks=pytest.mark.once)]
)
@pytest.mark.slow
def test_log_likelihood_is_the_exact_one(schedule):
    model = gaussian(False, schedule, "flow" if schedule != "linear" else "epsilon")
    x = model.network.draw(16, seed=1)
    found = model.log_likelihood(x, num_steps=25, probe="exact", batch_size=8)
    np.testing.assert_allclose(found, model.network.log_density(x), atol=0.03)
    estimates = model.log_likelihood(x, num_steps=10, probes=8, batch_size=16)
    assert abs(np.mean(estimates - found)) < 0.3
    bits = model.bits_per_dim(x, num_steps=10, probe="exact", batch_size=16)
    wanted = -found / (4 * np.log(2)) + np.log2(255 / 2)
    np.testing.assert_allclose(bits, wanted, atol=0.1)


@pytest.mark.slow
def test_invert_and_generate_undo_each_other():
    model = gaussian()
    x = model.network.draw(8, seed=2)
    errors = []
    for num_steps in (125, 250):
        noise = model.invert(x, num_steps=num_steps, batch_size=3)
        back = model.generate(noise=noise, num_steps=num_steps)
        errors.append(np.abs(back - x).max())
    # Both are of first order: twice the steps, half the error.
    assert errors[1] < 0.04 and errors[1] < 0.6 * errors[0], errors
    # The map of the probability-flow ODE between Gaussians: the whitened data.
    flat = (x.reshape(8, -1) - MEANS[0]) @ model.network.vectors
    white = flat / np.sqrt(model.network.values) @ model.network.vectors.T
    np.testing.assert_allclose(noise.reshape(8, -1), white, atol=0.1)
    way = model.interpolate(x[0], x[1], n=3, num_steps=250)
    np.testing.assert_allclose(way[[0, -1]], x[:2], atol=0.05)
    straight = model.interpolate(x[0], x[1], n=3, num_steps=125, kind="linear")
    middle = straight[1] if straight.shape == (3, *SHAPE) else None
    np.testing.assert_allclose(middle, (x[0] + x[1]) / 2, atol=0.05)


@pytest.mark.slow
def test_inpainting_draws_from_the_conditional():
    """RePaint (2201.09865): with resampling, what is painted fits what is known."""
    model = gaussian()
    known = np.array([0.9, -0.5], "float32")
    images = np.zeros((3000, *SHAPE), "float32")
    images[:, 0, :, 0] = known
    mask = np.array([[False, False], [True, True]])
    x = model.inpaint(
        images, mask, num_steps=100, jump_length=5, resamplings=10, batch_size=3000
    )
    np.testing.assert_array_equal(x[:, 0], images[:, 0])
    a, b, c = COVARIANCE[:2, :2], COVARIANCE[2:, :2], COVARIANCE[2:, 2:]
    gain = b @ np.linalg.inv(a)
    mean, covariance = moments(x[:, 1])
    wanted = MEANS[0][2:] + gain @ (known - MEANS[0][:2])
    unconditional = MEANS[0][2:]
    assert np.abs(mean - wanted).max() < 0.25 * np.abs(wanted - unconditional).max()
    np.testing.assert_allclose(covariance, c - gain @ b.T, atol=0.02)
    other = model.inpaint(images, mask, num_steps=100, resamplings=1, batch_size=3000)
    assert (
        np.abs(mean - wanted).max() < np.abs(other[:, 1].mean(0)[:, 0] - wanted).max()
    )


def test_the_walk_of_repaint():
    assert resampled(3, 1, 1) == [(0, 1), (1, 2), (2, 3)]
    # Two steps down, back to the start, and on.
    assert resampled(4, 2, 2) == [(0, 1), (1, 2), (2, 3), (3, 2), (2, 3), (3, 4)]
    walk = resampled(250, 10, 10)
    assert len(walk) == 250 + 24 * 9 * 10
    assert all(b[0] == a[1] for a, b in zip(walk, walk[1:], strict=False))
    assert walk[-1] == (249, 250)


def test_img2img_keeps_more_of_the_image_the_less_it_is_noised():
    model = gaussian()
    x = model.network.draw(64, seed=5)
    distances = [
        np.abs(model.img2img(x, strength, seed=1, num_steps=20) - x).mean()
        for strength in (0.1, 0.4, 1.0)
    ]
    assert distances[0] < 0.7 * distances[1] < 0.7 * distances[2]
    fresh = model.generate(64, seed=1, num_steps=20)
    again = model.img2img(x, 1.0, seed=1, num_steps=20)
    np.testing.assert_allclose(again.std(), fresh.std(), rtol=0.1)


# Conditions


def test_labels_and_guidance():
    model = gaussian(labels=True)
    labels = np.array([0, 1, 0, 1, 1])
    one = model.generate(labels=labels, num_steps=30, seed=4)
    for label in (0, 1):
        mean = model.generate(labels=[label] * 500, num_steps=30).mean(0).ravel()
        np.testing.assert_allclose(mean, MEANS[label], atol=0.05)
    # A scale of 0 is no condition at all; of 1 is the condition.
    null = model.generate(labels=[2] * 5, num_steps=30, seed=4)
    zero = model.generate(labels=labels, num_steps=30, seed=4, guidance_scale=0.0)
    np.testing.assert_allclose(zero, null, atol=1e-4)
    for scale in (2.0, np.array([1, 1, 1, 1, 1], "float32")):
        strong = model.generate(
            labels=labels, num_steps=30, seed=4, guidance_scale=scale
        )
        shown = model.generate(
            labels=labels, num_steps=30, seed=4, guidance_scale=scale, verbose=1
        )
        np.testing.assert_allclose(shown, strong, atol=1e-5)
    beyond = model.generate(labels=labels, num_steps=30, seed=4, guidance_scale=2.0)
    towards = (beyond - one).reshape(5, -1) * MEANS[labels]
    assert np.all(towards.sum(1) > 0)
    away = model.generate(
        labels=labels,
        num_steps=30,
        seed=4,
        guidance_scale=2.0,
        negative={"labels": 1 - labels},
    )
    towards = (away - beyond).reshape(5, -1) * (MEANS[labels] - MEANS[1 - labels])
    assert np.all(towards.sum(1) > 0)


def test_conditions_of_several_kinds():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (8, 4, 4, 1)).astype("float32")
    y = {
        "labels": rng.integers(0, 3, 8),
        "vector": rng.normal(size=(8, 5)).astype("float32"),
    }
    net = network(num_classes=3, vector_dim=5)
    model = kg.DDPM(net, num_classes=3, vector_dim=5, num_steps=3)
    model.compile()
    model.fit(x, y, batch_size=4, verbose=0)
    images = model.generate(**y, seed=1)
    np.testing.assert_allclose(
        model.generate(**y, seed=1, batch_size=3), images, atol=1e-5
    )
    moved = model.generate(labels=y["labels"], vector=y["vector"] + 1.0, seed=1)
    assert np.abs(moved - images).max() > 1e-3
    with pytest.raises(ValueError, match="missing: vector"):
        model.fit(x, {"labels": y["labels"]}, verbose=0)
    with pytest.raises(ValueError, match="give a dict"):
        model.fit(x, y["labels"], verbose=0)
    with pytest.raises(ValueError, match=r"must be floats of the shape \(8, 5\)"):
        model.generate(labels=y["labels"], vector=y["vector"][:, :4])


def test_dropping_a_condition():
    conditions = kg.diffusion.conditions.Conditions(3, 2, dropout=0.5)
    given = {"labels": ops.convert_to_tensor([0, 1, 2]), "vector": ops.ones((3, 2))}
    kept = conditions.dropped(given, ops.convert_to_tensor([True, False, True]))
    assert ops.convert_to_numpy(kept["labels"]).tolist() == [0, 3, 2]
    assert ops.convert_to_numpy(kept["vector"]).tolist() == [[1, 1], [0, 0], [1, 1]]


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": "quadratic"}, "unknown schedule 'quadratic'; expected one of"),
        ({"parameterization": "noise"}, "unknown parameterization 'noise'"),
        ({"weighting": "snr"}, "unknown weighting 'snr'"),
        ({"time_sampling": "normal"}, "unknown time_sampling 'normal'"),
        ({"time_sampling": "logit_normal"}, "of schedule='rectified_flow'"),
        ({"time_sampling": "lognormal"}, "take a continuous one"),
        ({"variance": "fixed"}, "unknown variance 'fixed'"),
        ({"variance": "learned"}, r"must give \(4, 4, 2\)"),
        ({"sampler": "dpm"}, "unknown sampler 'dpm'; expected one of"),
        ({"sampler": "flow_euler"}, "is a sampler of flows"),
        ({"num_steps": 0}, "num_steps must be an integer of at least 1"),
        ({"num_steps": 1001}, "at most the 1000 training steps"),
        ({"clip": 0.0}, "clip must be a finite number over 0"),
        ({"condition_dropout": 1.0}, r"condition_dropout must be in \[0, 1\)"),
        ({"image_shape": (8, 8)}, r"image_shape must be \(height, width, channels\)"),
        ({"image_shape": (8, 8, 3)}, "expected shape"),
        (
            {
                "schedule": schedules.Discrete("linear", zero_terminal_snr=True),
            },
            "predict 'v'",
        ),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        kg.DDPM(network(), **arguments)


def test_calls_that_do_not_fit():
    model = kg.DDPM(network(num_classes=3), num_classes=3, condition_dropout=0.0)
    plain = kg.DDPM(network(), num_steps=4)
    x = np.zeros((2, 4, 4, 1), "float32")
    model.compile()
    plain.compile()
    for call, message in (
        (lambda: model.generate(2, guidance_scale=2.0), "condition_dropout above 0"),
        (lambda: plain.generate(2, guidance_scale=2.0), "no conditions"),
        (lambda: model.generate(labels=[0, 3]), r"Labels must lie in \[0, 3\)"),
        (lambda: plain.generate(labels=[0]), "not known: labels"),
        (lambda: plain.fit(x, np.zeros(2, "int32")), "takes no labels"),
        (lambda: model.fit(x), "Labels are missing"),
        (lambda: plain.fit(2.0 + x), r"Images must lie in \[-1, 1\]"),
        (lambda: plain.generate(2, num_steps=0), "num_steps must be an integer"),
        (lambda: plain.generate(2, num_steps=2000), "at most the 1000"),
        (lambda: plain.generate(2, sampler="ddimm"), "unknown sampler"),
        (lambda: plain.generate(2, sampler_options={"eta": 3.0}), "eta must be in"),
        (lambda: plain.generate(2, sampler_options={"rate": 3}), "sampler_options"),
        (lambda: plain.generate(noise=x[:, :3]), "noise must be floats"),
        (lambda: plain.img2img(x, 0.0), r"strength must be in \(0, 1\]"),
        (lambda: plain.inpaint(x, np.ones((3, 4), bool)), "mask must be booleans"),
        (lambda: plain.inpaint(x, 0.5 * np.ones((4, 4))), "mask must be booleans"),
        (
            lambda: plain.inpaint(x, np.eye(4), num_steps=5, sampler="heun"),
            "take 'ddpm' or 'ddim'",
        ),
        (lambda: plain.invert(x, guidance=1), "invert does not take guidance"),
        (lambda: plain.interpolate(x[0], x[1], n=1), "n must be an integer of at"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_sampler_of_ones_own():
    model = gaussian()
    own = functools.partial(samplers.ddim, eta=1.0)
    x = model.generate(3, sampler=own, num_steps=10)
    same = model.generate(3, sampler="ddim", sampler_options={"eta": 1.0}, num_steps=10)
    np.testing.assert_array_equal(x, same)


def test_grids_of_guided_samples(tmp_path):
    pytest.importorskip("PIL")
    model = kg.DDPM(network(num_classes=3), num_classes=3, num_steps=3)
    model.compile()
    x = np.zeros((4, 4, 4, 1), "float32")
    grid = kg.callbacks.ImageGrid(
        tmp_path, labels=[0, 1, 2], num_steps=2, guidance_scale=2.0, animation=False
    )
    model.fit(x, np.arange(4) % 3, verbose=0, callbacks=[grid])
    assert (grid.run_folder / "epoch-0001.png").exists()
    wrong = kg.callbacks.ImageGrid(tmp_path, num_steps=2000)
    with pytest.raises(ValueError, match="at most the 1000"):
        model.fit(x, np.arange(4) % 3, verbose=0, callbacks=[wrong])
