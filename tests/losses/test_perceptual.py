"""The perceptual distance against its formula, and its derivative at zero."""

import numpy as np
import pytest
from keras import ops

from keras_genai import backend, losses


def host(x):
    return ops.convert_to_numpy(x)


def test_the_formula():
    rng = np.random.default_rng(0)
    f = [rng.normal(size=(3, 4, 5, 6)), rng.normal(size=(3, 2, 2, 3))]
    g = [rng.normal(size=a.shape) for a in f]
    weights = [rng.uniform(size=a.shape[-1]) for a in f]
    wanted = 0.0
    for a, b, w in zip(f, g, weights, strict=True):
        a, b = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (a, b))
        wanted = wanted + (w * (a - b) ** 2).sum(-1).mean((1, 2))
    f, g = ([ops.cast(x, "float32") for x in part] for part in (f, g))
    got = host(losses.perceptual_distance(f, g, weights))
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
    np.testing.assert_allclose(host(losses.perceptual_distance(f, f)), 0.0, atol=1e-6)
    one = host(losses.perceptual_distance(f[0], 7.0 * g[0]))
    np.testing.assert_allclose(  # lengths do not count
        one, host(losses.perceptual_distance([f[0]], [g[0]])), rtol=1e-5
    )


def test_features_of_zero_have_a_finite_derivative():
    ones = ops.ones((1, 1, 1, 2))
    gradient = host(
        backend.gradients(
            lambda x: ops.sum(losses.perceptual_distance(x, ones)), 0.0 * ones
        )
    )
    assert np.all(np.isfinite(gradient))


def test_lists_of_other_lengths():
    x = ops.ones((1, 1, 1, 2))
    with pytest.raises(ValueError, match="got 2, 1 and 2"):
        losses.perceptual_distance([x, x], [x])
