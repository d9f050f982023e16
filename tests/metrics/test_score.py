"""The inception score in its closed forms."""

import numpy as np
import pytest

from keras_genai import metrics

pytestmark = pytest.mark.in_turn


def test_closed_forms():
    # One class each, all classes: the number of classes.
    assert metrics.inception_score(np.eye(7), splits=1)[0] == pytest.approx(7.0)
    # The same answer for every sample says nothing.
    same = np.tile([0.5, 0.3, 0.2], (9, 1))
    assert metrics.inception_score(same, splits=1)[0] == pytest.approx(1.0)
    # Two answers, half each: exp of their Jensen-Shannon divergence.
    p, q = np.array([0.9, 0.1]), np.array([0.2, 0.8])
    m = (p + q) / 2
    divergence = (np.sum(p * np.log(p / m)) + np.sum(q * np.log(q / m))) / 2
    found = metrics.inception_score(np.array([p, q] * 30), splits=1)[0]
    assert found == pytest.approx(np.exp(divergence), rel=1e-12)


def test_splits_are_each_scored():
    p = np.random.default_rng(0).dirichlet(np.ones(4), 103)
    scores = []
    for i in range(10):
        part = p[i::10]
        inside = part * (np.log(part) - np.log(part.mean(0)))
        scores.append(np.exp(inside.sum(1).mean()))
    expected = pytest.approx((np.mean(scores), np.std(scores)), rel=1e-10)
    assert metrics.inception_score(p) == expected
    # Streamed, from logits that are off by a constant a row.
    metric = metrics.InceptionScore(lambda x: x)
    for part in np.array_split(np.log(p) + np.arange(103)[:, None], 6):
        metric.add_generated(part)
    assert tuple(metric.result().values()) == expected


def test_what_is_no_probability():
    with pytest.raises(ValueError, match="from_logits=True"):
        metrics.inception_score(np.ones((3, 2)))
    with pytest.raises(ValueError, match="at least one generated sample"):
        metrics.InceptionScore(lambda x: x).result()
