"""Several devices or processes train as one does on the same global batch."""

import functools
import types

import keras
import numpy as np
import pytest

import keras_genai as kg
from keras_genai.backend.devices import Devices
from keras_genai.training import fitting
from keras_genai.training.data import ArrayDataset
from tests.gans.test_golden import BATCH, GOLDEN, data, make, steps, twenty_steps
from tests.support.conformance import host, policy
from tests.support.processes import OnDevices

BACKEND = keras.backend.backend()


class TestTwentySteps(OnDevices):
    """The golden steps: batch norm, dropout, lazy R1, an average, accumulation."""

    every_way = True
    on_devices = staticmethod(twenty_steps)
    reference = staticmethod(GOLDEN.read)


class TestMixedFloat16(OnDevices):
    """The first ten of them under float16, then five whose gradients overflow."""

    tolerance = 0.01

    @staticmethod
    def on_devices():
        # Small enough that no gradient of the whole batch overflows: the sums of a
        # part are smaller, and a step that one device skips would not be skipped.
        scale = functools.partial(
            keras.optimizers.LossScaleOptimizer, initial_scale=64.0
        )
        with policy("mixed_float16"):
            model = make(scale)
            made = steps(model, 2)
            # Sums of gradients that nearly cancel, each rounded to float16.
            del made["sums of optimizer state"]
            scales = [x.dynamic_scale for x in model.optimizers.values()]
            made["scales"] = [host(x.value) for x in scales]
            before = [host(v.value) for v in model.trainable_variables]
            for variable in scales:
                variable.assign(2.0**127)
            model.fit(data(), batch_size=BATCH, verbose=0)
        made["scales, skipped"] = [np.log2(host(x.value)) for x in scales]
        after = [host(v.value) for v in model.trainable_variables]
        made["moved"] = [
            np.abs(a - b).max() for a, b in zip(after, before, strict=True)
        ]
        return made

    def reference(self):
        made = self.on_devices()
        np.testing.assert_array_equal(made["scales"], 64.0)
        # The generator learns at the two updates alone, from two batches at each.
        np.testing.assert_array_equal(made["scales, skipped"], [122.0, 123.0])
        np.testing.assert_array_equal(made["moved"], 0.0)
        return made


def test_parts_of_a_batch_cover_it_once():
    for count in (1, 2, 3):
        parts = [Devices(process=(i, count)).own(np.arange(8)) for i in range(count)]
        np.testing.assert_array_equal(np.concatenate(parts), np.arange(8))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def dataset(size, batch_size, **devices):
    arrays = (np.zeros((size, 2)), None, None)
    return ArrayDataset(arrays, batch_size, False, 0, devices=Devices(**devices))


def test_a_batch_that_devices_cannot_share_is_refused_or_told_of():
    with pytest.raises(ValueError, match="batch of 6 samples.*divisible by 4"):
        dataset(12, 6, count=4, multiple=4)
    with pytest.raises(ValueError, match="batch_size that is at least 4"):
        dataset(12, 3, kind="processes", count=4)
    with pytest.warns(UserWarning, match="last batch of a pass has 6.*2 of 14"):
        trimmed = dataset(14, 8, count=4, multiple=4)
    assert [len(trimmed[i][0]) for i in range(trimmed.num_batches)] == [8, 4]
    with pytest.warns(UserWarning, match="1 of 9 samples"):
        dropped = dataset(9, 8, count=2)
    assert [len(dropped[i][0]) for i in range(dropped.num_batches)] == [8]


def test_no_replica_of_tensorflow_is_left_without_a_sample():
    """It gives each as many as the first: 3, 3, 3 and none of 9."""
    replicas = Devices("replicas", 4, even=False)
    assert [replicas.least(n) for n in (3, 5, 7, 8, 9, 16)] == [0, 0, 1, 2, 0, 4]
    assert [replicas.usable(n) for n in (3, 5, 7, 8, 9, 10)] == [0, 4, 7, 8, 8, 10]
    with pytest.raises(ValueError, match="9 samples cannot.*divisible by 4"):
        dataset(18, 9, kind="replicas", count=4, even=False)
    model = types.SimpleNamespace(accumulate=1, devices=lambda: replicas)
    with pytest.raises(ValueError, match="The first batch has 9 samples.*multiple of"):
        fitting.check_parts(model, 9, "the first batch", replicas.least_of_own(9))


@pytest.mark.skipif(BACKEND == "jax", reason="keras.distribution is JAX's")
def test_keras_distribution_is_refused_where_it_does_nothing(monkeypatch):
    monkeypatch.setattr(keras.distribution, "distribution", lambda: object())
    expected = "torchrun" if BACKEND == "torch" else "MirroredStrategy"
    with pytest.raises(ValueError, match=expected):
        kg.DCGAN((8, 8, 1), latent_dim=4, base_filters=4)
