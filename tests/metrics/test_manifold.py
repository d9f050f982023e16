"""Precision, recall, density and coverage against loops over a few points."""

import numpy as np
import pytest

from keras_genai import metrics
from keras_genai.metrics import manifold

pytestmark = pytest.mark.in_turn


def brute(real, generated, k):
    def distance(a, b):
        return np.sqrt(np.sum((a - b) ** 2))

    def radius(x, i):
        return sorted(distance(x[i], x[j]) for j in range(len(x)) if j != i)[k - 1]

    r, g = ([radius(x, i) for i in range(len(x))] for x in (real, generated))
    hits = np.array([[distance(a, b) for b in generated] for a in real])
    in_real = hits <= np.array(r)[:, None]
    in_generated = hits <= np.array(g)
    return (
        in_real.any(0).mean(),
        in_generated.any(1).mean(),
        in_real.sum() / (k * len(generated)),
        in_real.any(1).mean(),
    )


@pytest.mark.parametrize(
    "n, m, size, k", [(30, 30, 2, 3), (41, 23, 3, 5), (9, 7, 1, 1)]
)
@pytest.mark.parametrize("block_bytes", [None, 8 * 50])
def test_brute_force(monkeypatch, n, m, size, k, block_bytes):
    if block_bytes:  # a row or two at a time
        monkeypatch.setattr(manifold, "_BLOCK_BYTES", block_bytes)
    rng = np.random.default_rng(n)
    real, generated = rng.normal(size=(n, size)), 0.8 * rng.normal(size=(m, size)) + 0.3
    expected = brute(real, generated, k)
    assert metrics.precision_recall(real, generated, k) == pytest.approx(expected[:2])
    assert metrics.density_coverage(real, generated, k) == pytest.approx(expected[2:])


def test_known_cases():
    x = np.random.default_rng(0).normal(size=(200, 4))
    assert metrics.precision_recall(x, x) == (1.0, 1.0)
    # One mode of two: every sample is good, half of the data is found.
    both = np.concatenate([x, x + 50.0])
    one = np.random.default_rng(1).normal(size=(200, 4))
    precision, recall = metrics.precision_recall(both, one)
    density, coverage = metrics.density_coverage(both, one)
    assert precision > 0.8 and 0.3 < recall <= 0.5 and coverage <= 0.5
    assert 0.8 < density < 1.2
    # Far from 0 nothing cancels.
    near = metrics.precision_recall(x, one)
    assert metrics.precision_recall(x + 1e5, one + 1e5) == near


def test_metrics_hand_on_k_and_keep_a_sample():
    x, y = np.random.default_rng(0).normal(size=(2, 300, 3)).astype("float32")
    for kind, function in (
        (metrics.PrecisionRecall, metrics.precision_recall),
        (metrics.DensityCoverage, metrics.density_coverage),
    ):
        metric = kind(lambda x: x, k=4)
        for a, b in zip(np.array_split(x, 3), np.array_split(y, 3), strict=True):
            metric.add_real(a)
            metric.add_generated(b)
        assert tuple(metric.result().values()) == function(x, y, k=4)
        small = kind(lambda x: x, max_samples=50)
        small.add_real(x)
        small.add_generated(y)
        assert small._real.rows.shape == (50, 3)
        assert all(0.0 <= value <= 2.0 for value in small.result().values())


def test_too_few_samples():
    x = np.zeros((3, 2))
    with pytest.raises(ValueError, match="needs more than 3 samples"):
        metrics.precision_recall(x, x)
    with pytest.raises(ValueError, match="k must be an integer"):
        metrics.density_coverage(x, x, k=0)
