"""Interrupts and errors in `fit`: a whole model, and no interrupt is lost."""

import contextlib
import hashlib
import itertools
import os
import signal
import threading

import keras
import numpy as np
import pytest

import keras_genai as kg

pytestmark = pytest.mark.in_turn

X = np.random.default_rng(0).uniform(-1, 1, (20, 4, 4, 1)).astype("float32")
STEPS, EPOCHS = 5, 2


class InStep(kg.DCGAN):
    """A DCGAN that interrupts itself in the middle of a step that Python runs."""

    armed = False

    def train_step(self, data):
        super().train_step(data)
        if self.armed:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)


def made():
    model = InStep((4, 4, 1), 2, base_filters=2, ema_decay=0.9)
    model.compile()
    return model


def variables(model):
    metrics = {id(v) for tracker in model._trackers for v in tracker.variables}
    owned = [*model.variables, *model.optimizer.variables]
    return [v for v in owned if id(v) not in metrics]


def state(model):
    arrays = [keras.ops.convert_to_numpy(v.value) for v in variables(model)]
    content = b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)
    return hashlib.sha256(content).hexdigest()


def batches(at=None, fn=None):
    """What `fit(X, shuffle=False)` sees; `fn()` before the batch number `at`."""
    for i in itertools.count():
        if i == at:
            fn()
        yield (X[4 * (i % STEPS) :][:4],)


class At(keras.callbacks.Callback):
    """Calls `fn` in a hook: the time number `at`, counted from 0."""

    def __init__(self, hook, at, fn):
        super().__init__()
        calls = itertools.count()
        setattr(self, hook, lambda *args, **kw: fn() if next(calls) == at else None)


def interrupt():
    signal.raise_signal(signal.SIGINT)


def swallowed():
    with contextlib.suppress(BaseException):
        interrupt()


def fail():
    raise RuntimeError("the user's own")


# TensorFlow calls the data in a thread of its own, where no signal comes.
DATA = [fail] if keras.backend.backend() == "tensorflow" else [interrupt, fail]


@pytest.fixture(scope="module")
def run():
    """A compiled model, its first state, and the states after each step."""
    model = made()
    first = [keras.ops.convert_to_numpy(v.value).copy() for v in variables(model)]
    states = [state(model)]
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: states.append(state(note.model))
    )
    model.fit(
        batches(), steps_per_epoch=STEPS, epochs=EPOCHS, callbacks=note, verbose=0
    )
    assert len(set(states)) == STEPS * EPOCHS + 1
    return model, first, states


@pytest.fixture
def start(run, monkeypatch):
    """The run from its start: a function that fits, and how many steps are done."""
    model, first, states = run
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    for variable, value in zip(variables(model), first, strict=True):
        variable.assign(value)

    def fit(data=None, **kwargs):
        model.fit(
            batches() if data is None else data,
            **{"steps_per_epoch": STEPS, "epochs": EPOCHS, "verbose": 0, **kwargs},
        )

    yield model, fit, lambda: states.index(state(model))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)
    assert np.isfinite(model.generate(1, seed=0)).all()


@pytest.mark.parametrize("at", [2, STEPS, STEPS + 3])
@pytest.mark.parametrize("fn", DATA)
def test_what_the_data_raises_comes_at_once(start, at, fn):
    _, fit, done = start
    # TensorFlow makes an error of its own of the generator's.
    error = KeyboardInterrupt if fn is interrupt else Exception
    with pytest.raises(error, match=None if fn is interrupt else "own"):
        fit(batches(at, fn))
    assert done() == at


def test_the_end_of_the_data_is_no_step(start):
    _, fit, done = start
    fit(itertools.islice(batches(), STEPS), steps_per_epoch=None, epochs=1)
    assert done() == STEPS


@pytest.mark.parametrize(
    "hook, at, steps",
    [
        ("on_epoch_begin", 1, STEPS),
        ("on_train_batch_end", 2, 3),
        ("on_test_batch_end", 0, STEPS),
        ("on_train_end", 0, STEPS * EPOCHS),
    ],
)
@pytest.mark.parametrize("fn", [interrupt, swallowed, fail])
def test_what_a_callback_raises(start, hook, at, steps, fn):
    model, fit, done = start
    error = RuntimeError if fn is fail else KeyboardInterrupt
    with pytest.raises(error):
        fit(callbacks=At(hook, at, fn), validation_data=batches(), validation_steps=1)
    # One that was swallowed is raised at the next step, of a validation too.
    assert done() == steps


def test_a_step_is_ended_before_it_is_interrupted(start):
    model, fit, done = start
    fresh = made()
    fresh.armed = True
    with pytest.raises(KeyboardInterrupt):
        fresh.fit(batches(), steps_per_epoch=STEPS, verbose=0)
    fresh.armed = False
    model.fit(batches(), steps_per_epoch=1, verbose=0)
    assert done() == 1
    assert state(fresh) == state(model)


def test_signals_at_any_time(start):
    model, fit, done = start
    for delay in (0.002, 0.01, 0.03):
        timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            fit(epochs=1000)
        assert int(model.noise.step.value) >= 0
        timer.join()


def test_steps_outside_of_fit(start):
    model, fit, done = start
    with pytest.raises(Exception, match="own"):
        model.evaluate(
            batches(), steps=3, verbose=0, callbacks=At("on_test_batch_end", 1, fail)
        )
    with pytest.raises(KeyboardInterrupt):
        model.evaluate(
            batches(),
            steps=3,
            verbose=0,
            callbacks=At("on_test_batch_end", 2, swallowed),
        )
    assert done() == 0
