"""Keras's TensorFlow trainer, with the steps of this package."""

import functools

import tensorflow as tf
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

from keras_genai.backend import interface
from keras_genai.backend.devices import Devices
from keras_genai.backend.tensorflow.core import replica, to_host
from keras_genai.utils.interrupts import stepped


def feed(data):
    return _Batches(data)


class _Batches(PyDatasetAdapter):
    """Batches without tf.data's tuner, which they do not need.

    Its thread sleeps in turns of 10 ms, 20 ms and so on and may miss that an epoch is
    over (TensorFlow 2.21): `fit` then waits for the end of the turn, with both cores
    idle. Epochs of 12 s of a CGAN took 20 s, every third one.
    """

    def get_tf_dataset(self):
        options = tf.data.Options()
        options.autotune.enabled = False
        return super().get_tf_dataset().with_options(options)


def _after_its_data(step):
    """A step of which nothing runs where its data does not come.

    A graph runs what needs no data, such as counters, beside the call that finds the
    data at its end or that raises the error of a generator.
    """

    def run(data):
        given = [x for x in tf.nest.flatten(data) if tf.is_tensor(x)]
        with tf.control_dependencies(given):
            return step(data)

    return run


class Trainer(interface.Trainer):
    """Lets Keras's TensorFlow trainer run this package's steps."""

    def devices(self):
        """How the batches of arrays are divided: an `backend.devices.Devices`."""
        count = self.distribute_strategy.num_replicas_in_sync
        return Devices("replicas", count, even=False)

    def make_train_function(self, force=False):
        if self.train_function is not None and not force:
            return
        replicated = self.distribute_strategy.num_replicas_in_sync > 1
        self._due = {} if replicated else None
        if replicated:
            run = functools.partial(self._run_scheduled, {})
        else:
            run = self._make_step_function(self._run_train_step)

        def function(iterator):
            if self._take_skip():
                for _ in zip(range(self.steps_per_execution), iterator, strict=False):
                    pass
                return {}
            return run(iterator)

        self.train_function = stepped(function)

    def _make_step_function(self, step):
        step = _after_its_data(step)
        workers = tf.distribute.MultiWorkerMirroredStrategy
        if isinstance(self.distribute_strategy, workers):
            # Keras takes the mean of the logs of several workers over axis 0.
            return self._make_function(
                lambda data: {k: tf.reshape(v, (1,)) for k, v in step(data).items()}
            )
        return self._make_function(step)

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Keras builds models here; ours are, and several workers fail at it."""

    # Replicas meet in every sum, which TensorFlow forbids inside a `tf.cond`. So with
    # several replicas what a step does every n steps is decided when it is traced:
    # there is one function for each of the combinations that occur.

    def _run_scheduled(self, runs, iterator):
        self._traced_step = int(self.noise.step.numpy())
        self._traced_batch = 0
        if self.accumulation > 1:
            self._traced_batch = int(to_host(self.gathered.value)[0])
        for asked in self._due:
            self._due[asked] = self._is_due_now(*asked)
        known = len(self._due)
        key = tuple(self._due.values())
        if key not in runs:
            runs[key] = self._make_step_function(self._run_train_step)
        logs = runs[key](iterator)
        if len(self._due) > known:  # met for the first time while it was traced
            function = runs[key]
            runs.clear()
            runs[tuple(self._due.values())] = function
        return logs

    def is_due(self, interval, phase):
        """Whether it is known now, while tracing, that a schedule is due; or None."""
        if getattr(self, "_due", None) is None or replica() is None:
            return None
        due = self._is_due_now(interval, phase)
        return self._due.setdefault((interval, phase), due)

    def is_last(self):
        """Whether it is known while tracing that a batch ends its update; or None."""
        return self.is_due(self.accumulation, "batch")

    def _is_due_now(self, interval, phase):
        if phase == "batch":
            return self._traced_batch + 1 == interval
        return self._traced_step % interval == phase

    def make_test_function(self, force=False):
        if self.test_function is None or force:
            step = self._make_step_function(self._run_test_step)
            self.test_function = stepped(step)
