"""Gradient penalties against closed forms of critics whose gradient is known."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_genai import backend
from keras_genai.losses import penalties

RNG = np.random.default_rng(7)
REAL = RNG.normal(size=(6, 4)).astype("float32")
FAKE = RNG.normal(size=(6, 4)).astype("float32")
NOISE = 0.3 * RNG.normal(size=(6, 4)).astype("float32")
ALPHA = RNG.uniform(size=(6, 1)).astype("float32")
W = np.array([[1.5], [-2.0], [0.5], [1.0]], "float32")
A = RNG.normal(size=(4, 4)).astype("float32")
NAMES = ["r1", "r2", "wgan_gp", "dragan"]


def numpy(x):
    return np.asarray(ops.convert_to_numpy(x))


def tensor(x, dtype="float32"):
    return ops.convert_to_tensor(np.asarray(x), dtype=dtype)


def penalty(name, critic):
    """The penalty of a name on the constants above."""
    arguments = {
        "r1": (REAL,),
        "r2": (FAKE,),
        "wgan_gp": (REAL, FAKE, ALPHA),
        "dragan": (REAL, NOISE, ALPHA),
    }[name]
    return penalties.get(name)(critic, *[tensor(a) for a in arguments])


def expected(name, gradient):
    """The same in float64 NumPy, from the critic's gradient `x -> (B, n)`."""
    real, fake, noise, alpha = (
        np.asarray(a, "float64") for a in (REAL, FAKE, NOISE, ALPHA)
    )
    points = {
        "r1": real,
        "r2": fake,
        "wgan_gp": alpha * real + (1 - alpha) * fake,
        "dragan": real + alpha * noise,
    }
    squared = (gradient(points[name]) ** 2).sum(1)
    if name in ("r1", "r2"):
        return 0.5 * squared.mean()
    return ((np.sqrt(squared) - 1) ** 2).mean()


def test_names():
    assert list(penalties.NAMES) == NAMES
    assert penalties.get(penalties.r1) is penalties.r1
    for unknown in ("gp", None):
        with pytest.raises(ValueError, match="one of r1, r2, wgan_gp, dragan"):
            penalties.get(unknown)


@pytest.mark.parametrize("name", NAMES)
def test_linear_critic(name):
    w = keras.Variable(W)
    value, (gradient,) = backend.value_and_gradients(
        lambda: penalty(name, lambda x: ops.matmul(x, w)), [w]
    )
    norm = np.linalg.norm(W)
    if name in ("r1", "r2"):
        closed, slope = norm**2 / 2, W
    else:
        closed, slope = (norm - 1) ** 2, 2 * (norm - 1) * W / norm
    assert value.shape == ()
    np.testing.assert_allclose(numpy(value), closed, rtol=1e-5)
    np.testing.assert_allclose(numpy(gradient), slope, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_quadratic_critic(name):
    """D(x) = x A x / 2 has the gradient (A + A^T) x / 2."""
    a = keras.Variable(A)

    def critic(x):
        return 0.5 * ops.sum(ops.matmul(x, a) * x, axis=1)  # (B,)

    value, (gradient,) = backend.value_and_gradients(lambda: penalty(name, critic), [a])

    def reference(matrix):
        return expected(name, lambda x: x @ (matrix + matrix.T) / 2)

    matrix = A.astype("float64")
    np.testing.assert_allclose(numpy(value), reference(matrix), rtol=1e-5)
    slope, h = np.zeros((4, 4)), 1e-5
    for i, j in np.ndindex(4, 4):
        step = np.zeros((4, 4))
        step[i, j] = h
        slope[i, j] = (reference(matrix + step) - reference(matrix - step)) / (2 * h)
    np.testing.assert_allclose(numpy(gradient), slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_safe_at_zero_gradient(name):
    w = keras.Variable(np.zeros_like(W))
    value, (gradient,) = backend.value_and_gradients(
        lambda: penalty(name, lambda x: ops.matmul(x, w)), [w]
    )
    assert float(numpy(value)) == (0.0 if name in ("r1", "r2") else 1.0)
    np.testing.assert_array_equal(numpy(gradient), 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_safe_where_some_samples_have_zero_gradient(name):
    """A dead ReLU for some samples, and gradients too small to be squared."""
    w = keras.Variable(W)
    value, (gradient,) = backend.value_and_gradients(
        lambda: penalty(name, lambda x: ops.square(ops.relu(ops.matmul(x, w)))), [w]
    )
    assert np.isfinite(numpy(value)) and np.all(np.isfinite(numpy(gradient)))
    assert np.any(numpy(gradient) != 0)
    w.assign(W * 1e-21)
    value, (gradient,) = backend.value_and_gradients(
        lambda: penalty(name, lambda x: ops.matmul(x, w)), [w]
    )
    assert np.isfinite(numpy(value)) and np.all(np.isfinite(numpy(gradient)))


@pytest.mark.parametrize("name", NAMES)
def test_images_and_patches(name):
    """A patch critic counts with the mean of its patches."""
    rng = np.random.default_rng(1)
    x, y = tensor(rng.normal(size=(2, 3, 6, 6, 2)))
    alpha = tensor(rng.uniform(size=(3, 1, 1, 1)))
    kernel = keras.Variable(rng.normal(size=(3, 3, 2, 1)).astype("float32"))
    arguments = {"r1": (x,), "r2": (y,)}.get(name, (x, y, alpha))

    def patches(x):
        return ops.square(ops.conv(x, kernel, padding="valid"))  # (B, 4, 4, 1)

    def pooled(x):
        return ops.mean(patches(x), axis=(1, 2))  # (B, 1)

    def run(critic):
        return backend.value_and_gradients(
            lambda: penalties.get(name)(critic, *arguments), [kernel]
        )

    results = [backend.jit(lambda c=c: run(c), [kernel])() for c in (patches, pooled)]
    (value, slope), (other, other_slope) = results
    np.testing.assert_allclose(numpy(value), numpy(other), rtol=1e-5)
    np.testing.assert_allclose(numpy(slope[0]), numpy(other_slope[0]), rtol=1e-4)


def test_points_are_constants():
    """No gradient runs through a penalty into what made the samples."""
    w, alpha = tensor(W), tensor(ALPHA)

    def critic(x):
        return ops.square(ops.matmul(x, w))

    for fn in (
        lambda x: penalties.r1(critic, x),
        lambda x: penalties.r2(critic, x),
        lambda x: penalties.wgan_gp(critic, tensor(REAL), x, alpha),
        lambda x: penalties.dragan(critic, x, x, alpha),
    ):
        np.testing.assert_array_equal(numpy(backend.gradients(fn, tensor(FAKE))), 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision(name):
    """The norm is float32 even where its square overflows in float16."""

    def critic(x):
        return ops.matmul(ops.cast(x, "float16"), tensor(200.0 * W, "float16"))

    arguments = {
        "r1": (REAL,),
        "r2": (FAKE,),
        "wgan_gp": (REAL, FAKE, ALPHA),
        "dragan": (REAL, NOISE, ALPHA),
    }[name]
    norm = 200.0 * np.linalg.norm(W)
    closed = norm**2 / 2 if name in ("r1", "r2") else (norm - 1) ** 2
    for dtype in ("float32", "float16"):
        value = penalties.get(name)(critic, *[tensor(a, dtype) for a in arguments])
        assert keras.backend.standardize_dtype(value.dtype) == "float32"
        np.testing.assert_allclose(numpy(value), closed, rtol=1e-3)


def test_alpha_is_one_number_per_sample():
    for alpha in (ALPHA[:, 0], np.ones((6, 4), "float32")):
        with pytest.raises(ValueError, match=r"alpha must have shape \('B', 1\)"):
            penalties.wgan_gp(lambda x: x, tensor(REAL), tensor(FAKE), tensor(alpha))
        with pytest.raises(ValueError, match=r"alpha must have shape \('B', 1\)"):
            penalties.dragan(lambda x: x, tensor(REAL), tensor(FAKE), tensor(alpha))
