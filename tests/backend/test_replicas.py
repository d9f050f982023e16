"""What replicas compute from their parts is what one computes from the whole batch."""

import threading
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from keras import ops

from keras_genai.backend import primitives, replicas
from tests.support.conformance import host

SIZES = (3, 1, 4)
BATCH = np.random.default_rng(0).normal(size=(8, 2)).astype("float32")
WEIGHTS = np.random.default_rng(1).uniform(size=8).astype("float32")


@pytest.fixture
def together(monkeypatch):
    """Runs `fn(index, rows)` on every replica, each a thread, within its part."""
    here, barrier = threading.local(), threading.Barrier(len(SIZES), timeout=60)
    given = [None] * len(SIZES)

    def replica_sum(tensors):
        given[here.index] = [host(x) for x in tensors]
        barrier.wait()
        sums = [sum(parts) for parts in zip(*given, strict=True)]
        barrier.wait()  # all have read before anyone writes again
        return [ops.convert_to_tensor(x) for x in sums]

    def replica():
        index = getattr(here, "index", None)
        return None if index is None else (index, len(SIZES))

    monkeypatch.setattr(primitives, "replica", replica)
    monkeypatch.setattr(primitives, "replica_sum", replica_sum)
    ends = np.cumsum(SIZES)

    def run(fn):
        def one(index):
            here.index = index
            rows = slice(ends[index] - SIZES[index], ends[index])
            with replicas.part(SIZES[index]):
                made = fn(index, rows)
            assert replicas.share() is None and replicas.offset() == 0
            return keras.tree.map_structure(host, made)

        with ThreadPoolExecutor(len(SIZES)) as pool:
            return list(pool.map(one, range(len(SIZES))))

    return run


def test_share_and_offset(together):
    made = together(lambda index, rows: (replicas.share(), replicas.offset()))
    np.testing.assert_allclose([share for share, _ in made], np.array(SIZES) / 8)
    assert [int(offset) for _, offset in made] == [0, 3, 4]


def test_mean_and_total(together):
    def compute(index, rows):
        x = ops.convert_to_tensor(BATCH[rows])
        return replicas.mean(ops.mean(x, 0)), replicas.total([ops.sum(x, 0), x[0]])

    for mean, (total, firsts) in together(compute):
        np.testing.assert_allclose(mean, BATCH.mean(0), atol=1e-6)
        np.testing.assert_allclose(total, BATCH.sum(0), atol=1e-5)
        np.testing.assert_allclose(firsts, BATCH[[0, 3, 4]].sum(0), atol=1e-6)


def test_a_weighted_mean_whatever_the_weights_of_the_parts(together):
    def compute(index, rows):
        x, weight = map(ops.convert_to_tensor, (BATCH[rows, 0], WEIGHTS[rows]))
        return replicas.mean(ops.sum(weight * x) / replicas.normalizer(ops.sum(weight)))

    wanted = np.average(BATCH[:, 0], weights=WEIGHTS)
    np.testing.assert_allclose(together(compute), wanted, atol=1e-6)


def test_the_shares_of_gradients_add_up_to_that_of_the_whole(together):
    """The loss of a part counts by its share: `GenerativeModel.minimize`."""

    def compute(index, rows):
        x = ops.convert_to_tensor(BATCH[rows])
        gradient = 2 * replicas.share() * ops.mean(x, 0)  # of the mean of |x + a|^2
        return replicas.total([gradient])[0]

    np.testing.assert_allclose(together(compute), [2 * BATCH.mean(0)] * 3, atol=1e-6)


def test_after_an_error_there_is_no_part(together):
    def compute(index, rows):
        raise RuntimeError("in a step")

    with pytest.raises(RuntimeError, match="in a step"):
        together(compute)
    assert replicas.share() is None


def test_alone_nothing_changes():
    weight, parts = object(), [object()]
    with replicas.part(8):
        assert replicas.share() is None and replicas.offset() == 0
        assert replicas.mean(weight) is replicas.normalizer(weight) is weight
        assert replicas.total(parts) is parts
