"""FID against closed forms, against SciPy's matrix root, and in flat memory."""

import tracemalloc

import numpy as np
import pytest
import scipy.linalg

from keras_genai import metrics
from keras_genai.metrics.frechet import Moments

pytestmark = pytest.mark.in_turn


def features(n, size, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).normal(size=(size, size)) / np.sqrt(size)
    return scale * rng.normal(size=(n, size)) @ mixing + 0.1 * seed


def by_scipy(real, generated):
    """The published implementations' formula."""
    (m1, c1), (m2, c2) = (
        (x.mean(0), np.cov(x, rowvar=False)) for x in (real, generated)
    )
    root = scipy.linalg.sqrtm(c1 @ c2)
    return float(np.sum((m1 - m2) ** 2) + np.trace(c1 + c2 - 2.0 * root.real))


@pytest.mark.parametrize("size, n, m", [(2, 50, 70), (16, 300, 200), (64, 400, 400)])
def test_fid_is_scipys(size, n, m):
    real, generated = features(n, size), features(m, size, 1, 1.3)
    expected = by_scipy(real, generated)
    assert metrics.fid(real, generated) == pytest.approx(expected, rel=1e-7)


def test_gaussians_in_closed_form():
    # Covariances that commute: the sum of (sigma1 - sigma2)^2 along their axes.
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    s1, s2 = rng.uniform(0.1, 3.0, (2, 6))
    m1, m2 = rng.normal(size=(2, 6))
    covs = [axes * s**2 @ axes.T for s in (s1, s2)]
    expected = np.sum((m1 - m2) ** 2) + np.sum((s1 - s2) ** 2)
    found = metrics.frechet_distance(m1, covs[0], m2, covs[1])
    assert found == pytest.approx(expected, rel=1e-12)
    # In one dimension, and of a point: W2^2 = (m1 - m2)^2 + (s1 - s2)^2.
    assert metrics.frechet_distance([0.0], [[4.0]], [1.0], [[0.0]]) == 5.0


@pytest.mark.parametrize("n", [100, 40])
def test_equal_sets_are_0_apart_also_where_the_rank_is_low(n):
    x = 10.0 * features(n, 64)
    if n < 64:
        with pytest.warns(UserWarning, match="40 samples with 64 features"):
            assert metrics.fid(x, x) < 1e-6
    else:
        assert metrics.fid(x, x.copy()) < 1e-6


def test_equal_sets_in_other_batches():
    x = features(200, 256).astype("float32")
    fid = metrics.FID(lambda images: images.reshape(len(images), -1))
    fid._real.add(x)
    for part in np.array_split(x, 7):
        fid._generated.add(part)
    with pytest.warns(UserWarning, match="too high"):
        assert fid.result()["fid"] < 1e-6


def test_moments_are_sound_far_from_0():
    x = np.random.default_rng(0).normal(size=(5000, 3)) * [1e-3, 1.0, 2.0] + 1e6
    moments = Moments()
    for start in range(0, len(x), 77):
        moments.add(x[start : start + 77])
    centred = x - x.mean(0)
    expected = centred.T @ centred / (len(x) - 1)
    np.testing.assert_allclose(moments.covariance(), expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-14)
    assert len(moments) == 5000
    # A covariance that was looked at goes on.
    moments.add(x[:10])
    both = np.cov(np.concatenate([x, x[:10]]), rowvar=False)
    np.testing.assert_allclose(moments.covariance(), both, rtol=1e-5, atol=1e-9)


def test_memory_is_flat():
    rng = np.random.default_rng(0)
    moments = Moments()

    def stream(batches):
        tracemalloc.reset_peak()
        for _ in range(batches):
            moments.add(rng.normal(size=(250, 512)))
        return tracemalloc.get_traced_memory()[1]

    tracemalloc.start()
    try:
        first, later = stream(4), stream(40)  # 1,000 rows, then 10,000 more
    finally:
        tracemalloc.stop()
    assert later <= first * 1.02
    assert later < 16e6  # 2 x 512 x 512 and 1024 x 512 of float64, and a batch


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((np.zeros(2), np.eye(3), np.zeros(2), np.eye(2)), r"\(2,\), \(3, 3\)"),
        ((np.zeros(2), -np.eye(2), np.zeros(2), np.eye(2)), "eigenvalues"),
        ((np.zeros(2), [[1, 1], [0, 1]], np.zeros(2), np.eye(2)), "symmetric"),
        ((np.zeros(2), np.eye(2), [0, np.nan], np.eye(2)), "mean2 .* finite"),
    ],
)
def test_what_is_no_gaussian(arguments, message):
    with pytest.raises(ValueError, match=message):
        metrics.frechet_distance(*arguments)


def test_bad_features():
    x = features(10, 3)
    with pytest.raises(ValueError, match="3 real and 2 generated"):
        metrics.fid(x, x[:, :2])
    with pytest.raises(ValueError, match="generated_features holds values"):
        metrics.fid(x, np.where(x > 0, np.nan, x))
    with pytest.raises(ValueError, match="at least two real samples; got 1"):
        metrics.fid(x[:1], x)
    with pytest.raises(ValueError, match=r"shape \(samples, features\); got \(10,\)"):
        metrics.fid(x[:, 0], x)
