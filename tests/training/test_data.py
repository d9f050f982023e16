"""The order of the samples, and what a batch is turned into."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_genai import backend
from keras_genai.training import GenerativeModel, data

pytestmark = pytest.mark.in_turn


def dataset(size=10, batch=4, **kwargs):
    arrays = (np.arange(size), np.arange(size) * 10, None)
    return data.ArrayDataset(arrays, batch, **{"shuffle": True, "seed": 0, **kwargs})


def epoch(d, number):
    d.epoch = number
    return np.concatenate([d[i][0] for i in range(d.num_batches)])


def test_every_epoch_is_a_permutation_of_its_own_and_comes_again():
    d = dataset(1000, 64)
    first, second = epoch(d, 0), epoch(d, 1)
    assert sorted(first) == sorted(second) == list(range(1000))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(epoch(dataset(1000, 64), 1), second)
    assert not np.array_equal(epoch(dataset(1000, 64, seed=1), 0), first)


def test_conditions_stay_with_their_samples_and_order_can_be_kept():
    x, y = dataset()[1]
    np.testing.assert_array_equal(y, 10 * x)
    np.testing.assert_array_equal(epoch(dataset(shuffle=False), 3), np.arange(10))


def test_steps_per_epoch_runs_on_through_the_data():
    d = dataset(steps_per_epoch=5)
    seen = np.concatenate([epoch(d, 0), epoch(d, 1), epoch(d, 2)])
    passes = seen.reshape(5, 10)
    assert all(sorted(p) == list(range(10)) for p in passes)


def test_the_order_is_the_same_on_every_backend():
    np.testing.assert_array_equal(epoch(dataset(), 0), [6, 4, 2, 1, 5, 3, 0, 8, 9, 7])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="its own queue")
def test_tensorflow_reads_without_the_tuner_that_may_miss_an_epochs_end():
    d = dataset(1000, 64)
    batches = backend.feed(d).get_tf_dataset()
    assert batches.options().autotune.enabled is False
    for number in (0, 1):
        d.epoch = number
        read = np.concatenate([x.numpy() for x, _ in batches])
        np.testing.assert_array_equal(read, epoch(d, number))


def test_fit_hands_keras_what_the_backend_reads(monkeypatch):
    class Model(GenerativeModel):
        def __init__(self):
            super().__init__(seed=0)
            self.layer = keras.layers.Dense(1)
            self.layer.build((None, 2))
            self.set_players("layer")

        def train_step(self, data):
            x, y, _ = data
            self.minimize("layer", lambda: ops.mean((self.layer(x)[:, 0] - y) ** 2))

        def test_step(self, data):
            x, y, _ = data
            self.track("layer", ops.mean((self.layer(x)[:, 0] - y) ** 2))

    class Batches(keras.utils.PyDataset):
        epochs = 0

        def __len__(self):
            return 3

        def __getitem__(self, index):
            x = np.full((4, 2), index, "float32")
            return x, x[:, 0]

        def on_epoch_end(self):
            self.epochs += 1

    fed = []
    feed = getattr(backend, "feed", lambda x: x)

    def note(x):
        fed.append(x)
        return feed(x)

    monkeypatch.setattr(backend, "feed", note)
    model = Model()
    model.compile(keras.optimizers.SGD(0.01))
    theirs = Batches()
    model.fit(theirs, epochs=2, validation_data=theirs, verbose=0)
    assert fed[:2] == [theirs, theirs] and theirs.epochs >= 2
    fed.clear()
    x = np.ones((8, 2), "float32")
    model.fit(x, x[:, 0], validation_data=(x, x[:, 0]), verbose=0)
    model.evaluate(x, x[:, 0], verbose=0)
    assert len(fed) >= 3 and all(isinstance(d, data.ArrayDataset) for d in fed)


def test_unpack_gives_three_parts():
    assert data.unpack("x") == ("x", None, None)
    assert data.unpack(["x", "y"]) == ("x", "y", None)
    for nothing in (None, (), []):
        assert data.unpack(("x", nothing, "w")) == ("x", None, "w")
    with pytest.raises(ValueError, match="tuple of 4"):
        data.unpack((1, 2, 3, 4))


def test_peek_loses_nothing():
    batch, rest = data.peek(i for i in range(3))
    assert batch == 0 and list(rest) == [0, 1, 2]
    batch, rest = data.peek([5, 6])
    assert batch == 5 and list(rest) == [5, 6]
    with pytest.raises(ValueError, match="no batches"):
        data.peek([])


def test_unequal_or_empty_data_is_refused():
    with pytest.raises(ValueError, match="same number"):
        data.ArrayDataset((np.zeros(3), np.zeros(4), None), 2, True, 0)
    with pytest.raises(ValueError, match="no samples"):
        data.ArrayDataset((np.zeros((0, 2)), None, None), 2, True, 0)
