"""A step of a loop that is run again from its recording: the same as the step."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_genai import backend
from keras_genai.backend import random

TORCH = keras.backend.backend() == "torch"


def host(x):
    return ops.convert_to_numpy(x)


def repeated(step, arrays, times=7):
    """The arrays after some steps, as they are and replayed; and the recording."""
    replayed, found = backend.replayed(step), []
    for fn in (step, replayed):
        state = tuple(ops.convert_to_tensor(x) for x in arrays)
        with backend.without_gradients():
            for _ in range(times):
                state = fn(*state)
        found.append([host(x) for x in state])
    for a, b in zip(*found, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    return getattr(replayed, "program", None)


@pytest.fixture
def weight():
    return keras.Variable(np.linspace(-1, 1, 16, dtype="float32").reshape(4, 4))


def test_a_step_with_a_weight_noise_and_a_cache(weight):
    key = random.key(3, "replayed")

    def step(i, x, cache):
        x = ops.tanh(ops.concatenate([x[:, :2], x[:, 2:]], axis=1) @ weight)
        x = x + random.normal(random.subkey(key, "step", i), ops.shape(x))
        x = x - 0.5 * ops.einsum("ab,cb->ac", x, ops.transpose(weight))
        low, high = ops.split(x, 2, axis=1)
        cache = backend.write(cache, ops.reshape(x, (2, 1, 1, 4)), i)
        return i + 1, ops.concatenate([high, low], axis=1), cache

    arrays = np.int32(0), np.ones((2, 4), "float32"), np.zeros((2, 1, 9, 4), "float32")
    program = repeated(step, arrays)
    assert bool(program) is TORCH


def test_a_new_value_of_a_weight_is_seen(weight):
    step = backend.replayed(lambda x: (x @ weight,))
    x = ops.ones((2, 4))
    with backend.without_gradients():
        for _ in range(6):
            step(x)
        weight.assign(np.eye(4))
        np.testing.assert_array_equal(host(step(x)[0]), host(x))


def test_what_no_step_wrote_is_not_changed(weight):
    """Results of one call are the caller's: the next call writes elsewhere."""
    step, kept = backend.replayed(lambda x: (x + 1, 2 * weight)), []
    x = ops.zeros((2,))
    with backend.without_gradients():
        for _ in range(8):
            x, _ = step(x)
            kept.append(x)
    np.testing.assert_array_equal([host(x)[0] for x in kept], range(1, 9))


@pytest.mark.skipif(not TORCH, reason="elsewhere steps are compiled")
def test_what_cannot_be_recorded_runs_as_it_is(weight):
    counter = keras.Variable(0.0, trainable=False)

    def looks(x):
        return (x + 1 if float(x[0]) < 3 else x - 5,)

    def counts(x):
        counter.assign(counter + 1.0)
        return (x + counter,)

    for step in (looks, counts):
        counter.assign(0.0)
        kept, x = [], ops.zeros((2,))
        replayed = backend.replayed(step)
        with backend.without_gradients():
            for _ in range(9):
                (x,) = replayed(x)
                kept.append(host(x)[0])
        assert replayed.program is None
        wanted = (
            [1, 2, 3, -2, -1, 0, 1, 2, 3] if step is looks else np.cumsum(range(10))[1:]
        )
        np.testing.assert_array_equal(kept, wanted)


@pytest.mark.skipif(not TORCH, reason="elsewhere steps are compiled")
def test_constants_that_a_step_writes_into_are_new_in_each_run():
    import torch

    def step(x):
        total = torch.tensor([1.0, 2.0])
        total += x
        return (total,)

    assert repeated(step, [np.zeros(2, "float32")]) is not None


@pytest.mark.skipif(not TORCH, reason="elsewhere steps are compiled")
def test_gradients_are_not_lost(weight):
    step = backend.replayed(lambda x: (x @ weight,))

    def loss():
        x = ops.ones((2, 4))
        for _ in range(6):
            (x,) = step(x)
        return ops.sum(x)

    _, (gradient,) = backend.value_and_gradients(loss, [weight])
    assert step.program is None
    assert np.abs(host(gradient)).max() > 0


@pytest.mark.skipif(not TORCH, reason="elsewhere steps are compiled")
def test_a_sparse_result_is_left_as_it_is():
    step = backend.replayed(lambda x: ((2 * x).to_sparse(),))
    x = ops.ones((2, 2))
    with backend.without_gradients():
        for _ in range(6):
            (made,) = step(x)
            np.testing.assert_array_equal(host(made.to_dense()), 2 * host(x))
    assert step.program is None
