"""Adversarial losses against float64 NumPy formulas and known optima."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_genai import backend
from keras_genai.losses import adversarial

REAL = np.array([2.0, -1.5, 0.25, 3.0, -0.5], "float32")
FAKE = np.array([-2.5, 0.75, 1.5, -0.1, 0.4], "float32")
WEIGHT = np.array([1.0, 0.0, 2.0, 0.5, 3.0], "float32")


def numpy(x):
    return np.asarray(ops.convert_to_numpy(x))


def tensor(x, dtype="float32"):
    return ops.convert_to_tensor(np.asarray(x), dtype=dtype)


def log_sigmoid(x):
    return -np.logaddexp(0.0, -x)


# Per-sample losses, written from the papers and not from the package: D = sigmoid.
def log_d(r, s):
    return -((1 - s) * log_sigmoid(r) + s * log_sigmoid(-r))


EXPECTED = {
    "minimax": (log_d, lambda f: -log_sigmoid(-f), lambda f: log_sigmoid(-f)),
    "non_saturating": (log_d, lambda f: -log_sigmoid(-f), lambda f: -log_sigmoid(f)),
    "least_squares": (
        lambda r, s: 0.5 * (r - (1 - s)) ** 2,
        lambda f: 0.5 * f**2,
        lambda f: 0.5 * (f - 1) ** 2,
    ),
    "hinge": (
        lambda r, s: np.maximum(0, 1 - r),
        lambda f: np.maximum(0, 1 + f),
        lambda f: -f,
    ),
    "wasserstein": (lambda r, s: -r, lambda f: f, lambda f: -f),
}
NAMES = list(EXPECTED)
SMOOTHED = ["minimax", "non_saturating", "least_squares"]


def expected(name, real, fake, weight=None, smoothing=0.0):
    """(discriminator, generator) in float64."""
    real, fake = np.asarray(real, "float64"), np.asarray(fake, "float64")
    on_real, on_fake, generator = EXPECTED[name]
    w = np.ones(len(real)) if weight is None else np.asarray(weight, "float64")
    w = w / w.sum()
    discriminator = (w * on_real(real, smoothing)).sum() + (w * on_fake(fake)).sum()
    return discriminator, (w * generator(fake)).sum()


def central_differences(fn, x, h=1e-6):
    x = np.asarray(x, "float64")
    steps = h * np.eye(len(x))
    return np.array([(fn(x + e) - fn(x - e)) / (2 * h) for e in steps])


def test_names():
    assert list(adversarial.NAMES) == NAMES
    for name in NAMES:
        assert adversarial.get(name).name == name
        assert adversarial.get(name).smoothing == (name in SMOOTHED)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["mean", "weighted"])
@pytest.mark.parametrize("name", NAMES)
def test_values(name, weight):
    loss = adversarial.get(name)
    w = None if weight is None else tensor(weight)
    d, g = expected(name, REAL, FAKE, weight)
    got = loss.discriminator(tensor(REAL), tensor(FAKE), weight=w)
    assert got.shape == ()
    np.testing.assert_allclose(numpy(got), d, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(
        numpy(loss.generator(tensor(FAKE), weight=w)), g, rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("name", NAMES)
def test_gradients_equal_finite_differences(name):
    loss = adversarial.get(name)
    smoothing = 0.1 if loss.smoothing else 0.0
    real, fake, weight = tensor(REAL), tensor(FAKE), tensor(WEIGHT)

    def discriminator(r, f):
        return expected(name, r, f, WEIGHT, smoothing)[0]

    def ours(r, f):
        return loss.discriminator(r, f, weight=weight, label_smoothing=smoothing)

    pairs = [
        (
            backend.gradients(lambda r: ours(r, fake), real),
            central_differences(lambda r: discriminator(r, FAKE), REAL),
        ),
        (
            backend.gradients(lambda f: ours(real, f), fake),
            central_differences(lambda f: discriminator(REAL, f), FAKE),
        ),
        (
            backend.gradients(lambda f: loss.generator(f, weight), fake),
            central_differences(lambda f: expected(name, REAL, f, WEIGHT)[1], FAKE),
        ),
    ]
    for got, reference in pairs:
        np.testing.assert_allclose(numpy(got), reference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_of_logits(name):
    loss = adversarial.get(name)
    flat = numpy(loss.discriminator(tensor(REAL), tensor(FAKE), tensor(WEIGHT)))
    column = loss.discriminator(
        tensor(REAL[:, None]), tensor(FAKE[:, None]), tensor(WEIGHT[:, None])
    )
    np.testing.assert_allclose(numpy(column), flat, rtol=1e-6, atol=1e-6)
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(2, 5, 3, 2, 1)).astype("float32")
    patches = loss.discriminator(tensor(real), tensor(fake), tensor(WEIGHT))
    # Patches are averaged within a sample: each place counts as a batch of its own.
    places = [
        expected(name, real[:, i, j, 0], fake[:, i, j, 0], WEIGHT)[0]
        for i in range(3)
        for j in range(2)
    ]
    np.testing.assert_allclose(numpy(patches), np.mean(places), rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_weights(name):
    loss = adversarial.get(name)
    ones = loss.generator(tensor(FAKE), tensor(np.full(5, 7.0)))
    np.testing.assert_allclose(
        numpy(ones), numpy(loss.generator(tensor(FAKE))), rtol=1e-6, atol=1e-6
    )
    # An integer weight is a sample seen that many times.
    repeated = np.repeat(FAKE, [2, 0, 1, 0, 3])
    got = loss.generator(tensor(FAKE), tensor([2, 0, 1, 0, 3], "int32"))
    np.testing.assert_allclose(
        numpy(got), numpy(loss.generator(tensor(repeated))), rtol=1e-6, atol=1e-6
    )
    nothing = loss.discriminator(tensor(REAL), tensor(FAKE), tensor(np.zeros(5)))
    assert float(numpy(nothing)) == 0.0
    with pytest.raises(ValueError, match=r"expected shape \(5,\), got \(4,\)"):
        loss.generator(tensor(FAKE), tensor(WEIGHT[:4]))


@pytest.mark.parametrize("name", SMOOTHED)
def test_label_smoothing(name):
    loss = adversarial.get(name)
    for s in (0.0, 0.1, 0.3):
        got = loss.discriminator(tensor(REAL), tensor(FAKE), label_smoothing=s)
        d, _ = expected(name, REAL, FAKE, smoothing=s)
        np.testing.assert_allclose(numpy(got), d, rtol=1e-6, atol=1e-6)
    # The optimum on real samples alone is D = 1 - s, for least squares the logit.
    target = 0.9 if name == "least_squares" else np.log(0.9 / 0.1)
    gradient = backend.gradients(
        lambda r: loss.discriminator(r, tensor(FAKE), label_smoothing=0.1),
        tensor(np.full(5, target)),
    )
    np.testing.assert_allclose(numpy(gradient), 0.0, atol=1e-7)
    for s in (-0.1, 1.0):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\)"):
            loss.discriminator(tensor(REAL), tensor(FAKE), label_smoothing=s)


@pytest.mark.parametrize("name", ["hinge", "wasserstein"])
def test_label_smoothing_refused(name):
    with pytest.raises(ValueError, match=f"the {name} loss has no target.*minimax"):
        adversarial.get(name).discriminator(
            tensor(REAL), tensor(FAKE), label_smoothing=0.1
        )


P = np.array([0.1, 0.2, 0.3, 0.4])
Q = np.array([0.4, 0.1, 0.25, 0.25])


def on_distributions(loss, logits):
    """The discriminator's loss for real ~ P and fake ~ Q on four points."""
    # A fake batch of logits 0 under P's weights, and vice versa, is subtracted.
    zero = ops.zeros_like(logits)
    on_real = loss.discriminator(logits, zero, tensor(P))
    on_fake = loss.discriminator(zero, logits, tensor(Q))
    return on_real + on_fake - loss.discriminator(zero, zero)


def test_optimal_discriminator():
    """1406.2661, Proposition 1 and Theorem 1; 1611.04076, Theorem 1's optimum."""
    m = (P + Q) / 2
    jsd = 0.5 * (P * np.log(P / m)).sum() + 0.5 * (Q * np.log(Q / m)).sum()
    optima = {
        "minimax": (np.log(P / Q), 2 * np.log(2) - 2 * jsd),
        "non_saturating": (np.log(P / Q), 2 * np.log(2) - 2 * jsd),
        "least_squares": (P / (P + Q), 0.5 * (P * Q / (P + Q)).sum()),
    }
    for name, (logits, value) in optima.items():
        loss = adversarial.get(name)
        got = numpy(on_distributions(loss, tensor(logits)))
        np.testing.assert_allclose(got, value, rtol=1e-5, err_msg=name)
        gradient = backend.gradients(
            lambda x, loss=loss: on_distributions(loss, x), tensor(logits)
        )
        np.testing.assert_allclose(numpy(gradient), 0.0, atol=1e-6, err_msg=name)
    # Hinge: the optimum is sign(P - Q), its value 2 - total variation * 2.
    got = numpy(on_distributions(adversarial.get("hinge"), tensor(np.sign(P - Q))))
    np.testing.assert_allclose(got, 2 * np.minimum(P, Q).sum(), rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_finite_at_extreme_logits(name):
    loss = adversarial.get(name)
    extreme = tensor([1e4, -1e4, 0.0])
    values = [loss.discriminator(extreme, extreme), loss.generator(extreme)]
    values.append(backend.gradients(lambda x: loss.discriminator(x, x), extreme))
    values.append(backend.gradients(loss.generator, extreme))
    assert all(np.all(np.isfinite(numpy(v))) for v in values)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision_accumulates_in_float32(name, dtype):
    loss = adversarial.get(name)
    real, fake = tensor(np.full((3, 1), 300.0), dtype), tensor([[1], [2], [4]], dtype)
    d, g = expected(name, [300.0] * 3, [1.0, 2.0, 4.0])
    for got, value in (
        (loss.discriminator(real, fake), d),  # 300^2 overflows in float16
        (loss.generator(fake), g),
    ):
        assert keras.backend.standardize_dtype(got.dtype) == "float32"
        np.testing.assert_allclose(numpy(got), value, rtol=1e-6, atol=1e-6)


def test_get():
    own = adversarial.Adversarial("own", lambda *a, **k: 0.0, lambda *a: 0.0)
    assert adversarial.get(own) is own
    for unknown in ("wgan", 3, None):
        with pytest.raises(ValueError, match="minimax, non_saturating, .*wasserstein"):
            adversarial.get(unknown)
