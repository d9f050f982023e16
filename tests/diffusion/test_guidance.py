"""Guidance on mixtures, where every conditional score is known."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_genai import backend
from keras_genai.diffusion import Denoiser, guidance, samplers, schedules
from tests.support.mixture import PLANE

pytestmark = pytest.mark.in_turn

SCHEDULE = schedules.get("linear")
RNG = np.random.default_rng(2)
X = RNG.normal(size=(3, 2)).astype("float32")
ALL = len(PLANE.weights)


def numpy(x):
    return np.asarray(ops.convert_to_numpy(x))


class Conditional:
    """`denoise(x, t, label)`: one component, or all of them for label `ALL`."""

    def __init__(self):
        self.batches = []

    def __call__(self, x, t, labels):
        x = ops.convert_to_tensor(x)
        self.batches.append(x.shape[0])
        of_each = [PLANE.denoise(SCHEDULE, [k])(x, t) for k in range(ALL)]
        of_each.append(PLANE.denoise(SCHEDULE)(x, t))
        chosen = ops.one_hot(labels, ALL + 1, dtype=x.dtype)  # (B, K + 1)
        return ops.einsum("bk,kbd->bd", chosen, ops.stack(of_each))


LABELS = np.array([0, 2, 1], "int32")
NULL = np.full(3, ALL, "int32")


@pytest.mark.parametrize("t", [500.0, np.array([10.0, 500.0, 900.0], "float32")])
def test_classifier_free(t):
    """null + scale (condition - null), by one call on a doubled batch."""
    denoise = Conditional()
    strong, base = (numpy(denoise(X, t, labels)) for labels in (LABELS, NULL))
    del denoise.batches[:]
    x = ops.convert_to_tensor(X)
    for scale in (3.0, np.array([0.0, 1.0, 4.0], "float32")):
        guided = guidance.classifier_free(denoise, LABELS, NULL, scale)
        factor = np.reshape(scale, (-1, 1))
        wanted = base + factor * (strong - base)
        np.testing.assert_allclose(numpy(guided(x, t)), wanted, rtol=1e-4, atol=1e-5)
    assert denoise.batches == [6, 6]
    negative = guidance.classifier_free(denoise, LABELS, LABELS[::-1].copy(), 2.0)
    away = numpy(denoise(X, t, LABELS[::-1].copy()))
    np.testing.assert_allclose(
        numpy(negative(x, t)), 2 * strong - away, rtol=1e-4, atol=1e-5
    )


def test_interval():
    """Outside it no guidance, and no second half of the batch."""
    denoise, x = Conditional(), ops.convert_to_tensor(X)
    strong = numpy(denoise(X, 900.0, LABELS))
    guided = guidance.classifier_free(denoise, LABELS, NULL, 3.0, interval=(200, 800))
    plain = guidance.classifier_free(denoise, LABELS, NULL, 3.0)
    run = backend.jit(guided)
    for t, wanted in (
        (900.0, strong),
        (800.0, numpy(plain(x, 800.0))),
        (199.0, numpy(denoise(X, 199.0, LABELS))),
    ):
        got = numpy(run(x, ops.convert_to_tensor(t, dtype="float32")))
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    if keras.backend.backend() == "torch":
        del denoise.batches[:]
        guided(x, ops.convert_to_tensor(900.0))
        assert denoise.batches == [3]
    times = np.array([100.0, 500.0, 900.0], "float32")
    mixed = numpy(guided(x, times))
    np.testing.assert_allclose(mixed[1], numpy(plain(x, times))[1], rtol=1e-4)
    np.testing.assert_allclose(mixed[2], strong[2], rtol=1e-4)


def test_rescale():
    """2305.08891, section 3.4: the deviation of the conditional prediction."""

    def network(x, t, labels):
        return x * ops.reshape(1.0 + ops.cast(labels, x.dtype), (-1, 1))

    denoise = Denoiser(network, SCHEDULE, "v")
    x = ops.convert_to_tensor(X)
    t, share = 400.0, 0.7
    one = np.ones(3, "int32")
    strong, base = 2.0 * X, X  # what the network predicts: v
    mixed = base + 3.0 * (strong - base)
    ratio = strong.std(1, keepdims=True) / mixed.std(1, keepdims=True)
    v = share * mixed * ratio + (1 - share) * mixed
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    guided = guidance.classifier_free(denoise, one, 0 * one, 3.0, rescale=share)
    np.testing.assert_allclose(numpy(guided(x, t)), alpha * X - sigma * v, rtol=1e-4)
    whole = guidance.classifier_free(denoise, one, 0 * one, 3.0, rescale=1.0)
    got = numpy(denoise.to_prediction(whole(x, t), x, t)).std(1)
    np.testing.assert_allclose(got, strong.std(1), rtol=1e-3)


def test_autoguidance():
    good, weak = PLANE.denoise(SCHEDULE), PLANE.denoise(SCHEDULE, [0])
    x, t = ops.convert_to_tensor(X), 300.0
    base, strong = numpy(weak(x, t)), numpy(good(x, t))
    guided = guidance.autoguidance(good, weak, 2.5, interval=(0, 400))
    wanted = base + 2.5 * (strong - base)
    np.testing.assert_allclose(numpy(guided(x, t)), wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        numpy(guided(x, 500.0)), numpy(good(x, 500.0)), rtol=1e-5
    )


def log_posterior(x, t, label):
    """log p(label | x_t), from the densities of the components."""
    t = ops.cast(t, x.dtype)
    alpha, sigma = SCHEDULE.alpha(t), SCHEDULE.sigma(t)
    parts = []
    for k in range(ALL):
        variance = alpha**2 * PLANE.stds[k] ** 2 + sigma**2
        mean = ops.convert_to_tensor(PLANE.means[k], dtype=x.dtype) * alpha
        squared = ops.sum(ops.square(x - mean), axis=-1)
        log_p = -0.5 * squared / variance - ops.log(variance)
        parts.append(log_p + float(np.log(PLANE.weights[k])))
    return ops.log_softmax(ops.stack(parts, axis=-1), axis=-1)[:, label]


@pytest.mark.parametrize("t", [60.0, 500.0, 900.0])
def test_classifier_guidance_is_bayes(t):
    """score(x) + grad log p(y | x) is the score of the component: scale 1 is exact."""
    guided = guidance.classifier(
        PLANE.denoise(SCHEDULE), lambda x, t: log_posterior(x, t, 2), SCHEDULE, 1.0
    )
    x = ops.convert_to_tensor(X)
    wanted = numpy(PLANE.denoise(SCHEDULE, [2])(x, t))
    run = backend.jit(guided)
    got = numpy(run(x, ops.convert_to_tensor(t, dtype="float32")))
    np.testing.assert_allclose(got, wanted, rtol=2e-3, atol=2e-3)


def test_guided_samples():
    """In the loop in the graph: scale 1 gives the class, a large one its far side."""
    grid = samplers.time_grid(SCHEDULE, 20)
    labels, null = np.full(64, 1, "int32"), np.full(64, ALL, "int32")
    start = grid.start(backend.random.normal(backend.random.key(0), (64, 2)))
    denoise = Conditional()

    def sample(x, scale):
        guided = guidance.classifier_free(denoise, labels, null, scale)
        return samplers.dpmpp_2m(grid)(guided, x)

    run = backend.jit(sample)
    one, four = (numpy(run(start, ops.convert_to_tensor(s))) for s in (1.0, 4.0))
    np.testing.assert_allclose(one.mean(0), PLANE.means[1], atol=0.25)
    others = PLANE.means[[0, 2]].mean(0)
    away = (PLANE.means[1] - others) / np.linalg.norm(PLANE.means[1] - others)
    assert four.mean(0) @ away > one.mean(0) @ away + 0.1
    assert four.std(0).max() < one.std(0).max()


def test_learned_variance_goes_through():
    """Of the conditional half."""

    def network(x, t, labels):
        v = ops.ones_like(x) * ops.reshape(ops.cast(labels, x.dtype), (-1, 1))
        return ops.concatenate([x, v], axis=-1)

    denoise = Denoiser(network, SCHEDULE, learned_variance=True)
    one = np.ones(3, "int32")
    guided = guidance.classifier_free(denoise, one, 0 * one, 2.0)
    x_0, v = guided(ops.convert_to_tensor(X), 100.0)
    assert x_0.shape == (3, 2)
    np.testing.assert_array_equal(numpy(v), 1.0)


def test_errors():
    for call, message in (
        (
            lambda: guidance.classifier_free(Conditional(), LABELS, None, 2.0),
            "trained with label dropout",
        ),
        (
            lambda: guidance.classifier_free(
                Conditional(), LABELS, NULL, 2.0, interval=(800, 200)
            ),
            "t_low < t_high; got",
        ),
        (
            lambda: guidance.classifier_free(
                Conditional(), LABELS, NULL, 2.0, rescale=2.0
            ),
            r"rescale must be in \[0, 1\]",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()
