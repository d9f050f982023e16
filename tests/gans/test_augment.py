"""DiffAugment: the ranges of 2006.10738, and gradients through it."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

from keras_genai import backend
from keras_genai.gans import augment
from keras_genai.gans.augment import DiffAugment

pytestmark = pytest.mark.in_turn

ALL = "color,translation,cutout"


def numpy(x):
    return np.asarray(ops.convert_to_numpy(x))


def tensor(x, dtype="float32"):
    return ops.convert_to_tensor(np.asarray(x), dtype=dtype)


def ones(*shape):
    return ops.ones(shape, "float32")


def images(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype("float32")


@functools.cache
def compiled(layer):
    return backend.jit(lambda x: layer(x, training=True), layer.variables)


def at_step(layer, step, x):
    """What the layer draws at a step."""
    layer.noise.step.assign(step)
    return numpy(compiled(layer)(tensor(x)))


# What each part does with given numbers, against NumPy written from the paper.


def test_color_of_given_numbers():
    x = images(3, 4, 5, 3)
    u = np.array([[0.0], [0.25], [0.999]], "float32")
    scale = u[:, :, None, None]
    grey, mean = x.mean(3, keepdims=True), x.mean((1, 2, 3), keepdims=True)
    for part, expected in (
        (augment._brightness, x + (scale - 0.5)),
        (augment._saturation, grey + (x - grey) * 2 * scale),
        (augment._contrast, mean + (x - mean) * (scale + 0.5)),
    ):
        got = backend.jit(part)(tensor(x), tensor(u))
        np.testing.assert_allclose(numpy(got), expected, atol=1e-6)
    one_channel = tensor(x[..., :1])
    np.testing.assert_array_equal(
        numpy(augment._saturation(one_channel, tensor(u))), x[..., :1]
    )


@pytest.mark.parametrize("sides", [(16, 24), (28, 28), (5, 3)])
def test_translation_of_every_shift(sides):
    height, width = sides
    limit_y, limit_x = int(height / 8 + 0.5), int(width / 8 + 0.5)
    moves = [
        (dy, dx)
        for dy in range(-limit_y, limit_y + 1)
        for dx in range(-limit_x, limit_x + 1)
    ]
    x = images(len(moves), height, width, 2)
    steps = np.array([2 * limit_y + 1, 2 * limit_x + 1])
    u = (np.array(moves) + [limit_y, limit_x] + 0.5) / steps
    got = numpy(backend.jit(augment._translation)(tensor(x), tensor(u)))
    for image, moved, (dy, dx) in zip(x, got, moves, strict=True):
        expected = np.zeros_like(image)
        ys, xs = np.arange(height) + dy, np.arange(width) + dx
        inside = np.ix_((0 <= ys) & (ys < height), (0 <= xs) & (xs < width))
        expected[inside] = image[
            np.ix_(
                ys[(0 <= ys) & (ys < height)],
                xs[(0 <= xs) & (xs < width)],
            )
        ]
        np.testing.assert_array_equal(moved, expected)


@pytest.mark.parametrize("side", [9, 28])
def test_cutout_of_every_centre(side):
    size = int(side / 2 + 0.5)
    centres = np.arange(side + 1 - size % 2)
    u = np.repeat((centres + 0.5)[:, None] / len(centres), 2, axis=1)
    x = ones(len(centres), side, side, 3)
    got = numpy(backend.jit(augment._cutout)(x, tensor(u)))
    for image, centre in zip(got, centres, strict=True):
        expected = np.ones((side, side, 3))
        first, last = max(0, centre - size // 2), min(side, centre - size // 2 + size)
        expected[first:last, first:last] = 0
        np.testing.assert_array_equal(image, expected)


# The layer: its draws.


def test_brightness_range_and_independence():
    layer = DiffAugment("color", seed=3)
    shifts = at_step(layer, 0, ones(1024, 2, 2, 1))
    # A constant image is its own mean: brightness alone is left.
    offsets = shifts[:, 0, 0, 0] - 1.0
    np.testing.assert_allclose(
        shifts - 1.0 - offsets[:, None, None, None], 0, atol=1e-6
    )
    assert -0.5 <= offsets.min() < -0.48 and 0.48 < offsets.max() <= 0.5
    assert abs(offsets.mean()) < 0.03
    np.testing.assert_allclose(offsets.var(), 1 / 12, rtol=0.1)


def test_saturation_and_contrast_ranges():
    x = np.zeros((512, 1, 2, 2), "float32")
    x[:, 0, 0] = [0.5, -0.5]  # grey 0, so that only saturation scales the first pixel
    x[:, 0, 1] = [0.25, 0.25]
    y = at_step(DiffAugment("color", seed=1), 0, x)
    grey = y.mean(3)
    contrast = (grey[:, 0, 1] - grey[:, 0, 0]) / 0.25
    saturation = (y[:, 0, 0, 0] - y[:, 0, 0, 1]) / contrast
    assert 0.5 <= contrast.min() < 0.52 and 1.48 < contrast.max() <= 1.5
    assert -1e-6 <= saturation.min() < 0.02 and 1.98 < saturation.max() <= 2.0001
    assert abs(np.corrcoef(contrast, saturation)[0, 1]) < 0.15


def test_translation_is_uniform():
    layer = DiffAugment("translation", seed=2)
    x = np.zeros((1024, 16, 16, 1), "float32")
    x[:, 8, 8] = 1.0
    y = at_step(layer, 0, x)
    _, rows, columns, _ = np.nonzero(y)
    assert len(rows) == 1024
    for places in (rows, columns):
        values, counts = np.unique(places, return_counts=True)
        np.testing.assert_array_equal(values, [6, 7, 8, 9, 10])
        assert ((counts - 1024 / 5) ** 2 / (1024 / 5)).sum() < 18.5  # chi2, p = 0.001
    assert abs(np.corrcoef(rows, columns)[0, 1]) < 0.1


def test_cutout_area():
    y = at_step(DiffAugment("cutout", seed=4), 0, ones(512, 16, 16, 2))
    assert set(np.unique(y)) == {0.0, 1.0}
    np.testing.assert_array_equal(y[..., 0], y[..., 1])
    height, width = (y == 0).any((2, 3)).sum(1), (y == 0).any((1, 3)).sum(1)
    area = (y[..., 0] == 0).sum((1, 2))
    np.testing.assert_array_equal(area, height * width)
    # The centre is on any of 17 lines: 4 rows are cut at the rim, 8 within.
    assert height.min() == width.min() == 4 and height.max() == width.max() == 8
    mean_side = np.mean([min(16, c + 4) - max(0, c - 4) for c in range(17)])
    np.testing.assert_allclose(area.mean(), mean_side**2, rtol=0.05)


def test_fresh_numbers_in_every_call():
    layer, x = DiffAugment("cutout", seed=0), images(4, 8, 8, 3)
    first, second = numpy(layer(tensor(x))), numpy(layer(tensor(x)))
    assert int(numpy(layer.noise.step.value)) == 2
    assert not np.allclose(first, second)
    np.testing.assert_array_equal(at_step(layer, 0, x), first)
    np.testing.assert_array_equal(at_step(layer, 1, x), second)


def test_every_image_and_seed_gets_its_own_numbers():
    layer, x = DiffAugment(seed=0), np.repeat(images(1, 8, 8, 3), 4, axis=0)
    y = at_step(layer, 0, x)
    assert all(not np.allclose(y[0], y[i]) for i in (1, 2, 3))
    assert not np.allclose(at_step(DiffAugment(seed=1), 0, x), y)
    # They go by the number of the image: half a batch is augmented as the whole is.
    np.testing.assert_allclose(at_step(layer, 0, x[:2]), y[:2], atol=1e-6)


def test_identity_in_inference():
    layer, x = DiffAugment(seed=0), images(2, 8, 8, 3)
    np.testing.assert_array_equal(numpy(layer(x, training=False)), x)
    assert int(numpy(layer.noise.step.value)) == 0


@pytest.mark.parametrize("channels", [1, 4])
def test_shapes(channels):
    y = at_step(DiffAugment(seed=0), 0, images(3, 10, 14, channels))
    assert y.shape == (3, 10, 14, channels)
    symbolic = DiffAugment(seed=0)(keras.Input((10, 14, channels)))
    assert symbolic.shape == (None, 10, 14, channels)


# Gradients. With given numbers the augmentation is affine, T(x) = A x + b.


@pytest.fixture(scope="module")
def affine():
    """(T, A, b, x) for an image of 8 pixels a side."""
    layer, shape = DiffAugment(ALL, seed=9), (1, 8, 8, 3)
    x = images(*shape)
    n = x.size
    u = np.random.default_rng(1).uniform(size=(1, 7)).astype("float32")

    def transform(x):
        start, numbers = 0, ops.repeat(tensor(u), x.shape[0], axis=0)
        for part, count in layer._parts:
            x = part(x, numbers[:, start : start + count])
            start += count
        return x

    # The images of a batch do not depend on each other: all columns at once.
    basis = np.concatenate([np.zeros(shape), np.eye(n).reshape(n, *shape[1:])])
    rows = (
        numpy(backend.jit(transform)(tensor(basis))).astype("float64").reshape(n + 1, n)
    )
    return transform, (rows[1:] - rows[0]).T, rows[0], x


def test_gradient(affine):
    """Once, and again as R1 through the augmentation takes it."""
    transform, a, b, x = affine
    t = a @ x.ravel() + b

    def gradient(x):
        return backend.gradients(lambda x: ops.sum(transform(x) ** 3) / 3.0, x)

    def gradient_of_squared_norm(x):
        return backend.gradients(lambda x: 0.5 * ops.sum(ops.square(gradient(x))), x)

    once = a.T @ t**2
    twice = a.T @ (2 * t * (a @ once))
    for function, expected in (
        (transform, t),
        (gradient, once),
        (gradient_of_squared_norm, twice),
    ):
        got = numpy(backend.jit(function)(tensor(x))).ravel()
        scale = np.abs(expected).max()
        assert scale > 0.1
        np.testing.assert_allclose(got, expected, atol=1e-4 * scale)


def test_mixed_precision():
    x = images(4, 8, 8, 3)
    reference = at_step(DiffAugment(seed=0), 0, x)
    for dtype in ("mixed_float16", "mixed_bfloat16"):
        layer = DiffAugment(seed=0, dtype=dtype)
        y = backend.jit(layer, layer.variables)(tensor(x))
        assert keras.backend.standardize_dtype(y.dtype) == dtype[6:]
        np.testing.assert_allclose(numpy(ops.cast(y, "float32")), reference, atol=0.03)


CHECKSUMS = {
    ALL: [-0.6434820, -0.5193469],
    "color": [-0.5836157, 0.1896753],
    "translation": [0.0347356, 0.0794062],
    "cutout": [-0.7123000, 0.4373879],
}


@pytest.mark.parametrize("policy", [ALL, "color", "translation", "cutout"])
def test_equal_on_every_backend(policy):
    layer, x = DiffAugment(policy, seed=7), images(6, 12, 12, 3)
    weights = np.random.default_rng(5).normal(size=(2, *x.shape))
    y = at_step(layer, 3, x)
    got = [(w * y).sum() / y.size**0.5 for w in weights]
    np.testing.assert_allclose(got, CHECKSUMS[policy], atol=1e-5)


def test_config_and_save(tmp_path):
    model = keras.Sequential([keras.Input((8, 8, 3)), DiffAugment("cutout", seed=2)])
    x = images(4, 8, 8, 3)
    model.layers[0].noise.step.assign(5)
    model.save(tmp_path / "model.keras")
    layer = keras.saving.load_model(tmp_path / "model.keras").layers[0]
    assert (layer.policy, layer.seed) == ("cutout", 2)
    assert int(numpy(layer.noise.step.value)) == 5
    expected = at_step(model.layers[0], 5, x)
    np.testing.assert_array_equal(numpy(compiled(layer)(tensor(x))), expected)


def test_errors():
    for policy in ("colour", "color,cutouts", "", "color,,cutout"):
        with pytest.raises(ValueError, match="one or more of color, translation, cut"):
            DiffAugment(policy)
    for shape in ((8, 8, 3), (2, 8, None, 3)):
        with pytest.raises(ValueError, match="images must have shape"):
            DiffAugment().build(shape)
    with pytest.raises(ValueError, match="seed must be an integer"):
        DiffAugment(seed=-1)
