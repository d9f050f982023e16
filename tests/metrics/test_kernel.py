"""KID against brute force, and without bias."""

import itertools

import numpy as np
import pytest

from keras_genai import metrics
from keras_genai.metrics.metric import Sample

pytestmark = pytest.mark.in_turn


def brute(x, y):
    """1801.01401, section 4, pair by pair."""

    def k(a, b):
        return (a @ b / len(a) + 1.0) ** 3

    n, m = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(n) for j in range(n) if i != j)
    yy = sum(k(y[i], y[j]) for i in range(m) for j in range(m) if i != j)
    xy = sum(k(a, b) for a, b in itertools.product(x, y))
    return xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2.0 * xy / (n * m)


def test_one_subset_of_all_samples_is_the_estimator():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(12, 5)), rng.normal(size=(12, 5)) * 1.4 + 0.3
    value, std = metrics.kid(x, y, subsets=3, subset_size=12)
    assert value == pytest.approx(brute(x, y), rel=1e-12)
    assert std < 1e-12


def test_without_bias():
    """The mean over every pair of subsets is the expectation over the population."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 3)) + 0.5
    subsets = [list(rows) for rows in itertools.combinations(range(5), 3)]
    values = [brute(x[a], y[b]) for a, b in itertools.product(subsets, subsets)]
    assert np.mean(values) == pytest.approx(brute(x, y), rel=1e-12)
    found, std = metrics.kid(x, y, subsets=4000, subset_size=3)
    assert abs(found - brute(x, y)) < 4 * std / np.sqrt(4000)
    # Sets of one distribution: 0 on average, below it as often as above.
    values = []
    for seed in range(60):
        a, b = np.random.default_rng(seed).normal(size=(2, 100, 4))
        values.append(metrics.kid(a, b, subsets=1, subset_size=100)[0])
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(60)
    assert min(values) < 0 < max(values)


def test_the_same_samples_are_kept_whatever_the_batches():
    rows = np.random.default_rng(0).normal(size=(2, 500, 4)).astype("float32")
    results = []
    for parts in (1, 7, 50):
        kid = metrics.KID(lambda x: x, subsets=5, subset_size=50, max_samples=120)
        for real, generated in zip(
            np.array_split(rows[0], parts), np.array_split(rows[1], parts), strict=True
        ):
            kid.add_real(real)
            kid.add_generated(generated)
        results.append(kid.result())
        assert kid._real.rows.shape == (120, 4)
    assert results[0] == results[1] == results[2]
    assert set(results[0]) == {"kid", "kid_std"}
    kid.reset_state()
    kid.add_real(rows[0])
    kid.add_generated(rows[1])
    assert kid.result() == results[0]


def test_each_row_is_equally_likely_to_stay():
    counts = np.zeros(40)
    for seed in range(2000):
        sample = Sample(10, seed)
        sample.add(np.arange(40.0)[:, None])
        counts[sample.rows[:, 0].astype(int)] += 1
    # 500 each, with a standard deviation of sqrt(2000 x 1/4 x 3/4) = 19.4.
    assert np.abs(counts - 500).max() < 4.5 * 19.4


def test_too_few_samples():
    x = np.random.default_rng(0).normal(size=(20, 3))
    with pytest.warns(UserWarning, match="KID of 20 samples with subset_size=1000"):
        metrics.kid(x, x + 1.0)
    with pytest.raises(ValueError, match="at least two samples"):
        metrics.kid(x[:1], x)
    with pytest.raises(ValueError, match="subset_size must be .* at least 2"):
        metrics.KID(lambda x: x, subset_size=1)
