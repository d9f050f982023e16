"""Keras's JAX trainer, with the steps of this package."""

import contextlib
import math

import jax
import keras
from keras.src.distribution import distribution_lib

from keras_genai.backend import interface
from keras_genai.backend.devices import Devices
from keras_genai.backend.scope import Scope
from keras_genai.utils import interrupts

# The groups of variables that Keras hands through a step, in its order.
_GROUPS = [
    f"{kind}_variables"
    for kind in ("trainable", "non_trainable", "optimizer", "metrics")
]


@contextlib.contextmanager
def _divided(x):
    """Tells Keras that each process brings its own part of `x`, where it does."""
    distribution = distribution_lib.distribution()
    if distribution is None or not isinstance(x, keras.utils.PyDataset):
        yield
        return
    before = distribution.auto_shard_dataset
    distribution.auto_shard_dataset = False
    try:
        yield
    finally:
        distribution.auto_shard_dataset = before


def _whole(fn):
    """A function of which the state does not survive the middle."""
    return interrupts.whole(fn, forcible=False)


class Trainer(interface.Trainer):
    """Turns the stateful steps of a model into the stateless ones of JAX."""

    def devices(self):
        distribution = distribution_lib.distribution()
        if distribution is None:
            return Devices()
        mesh = distribution.device_mesh
        shards = mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)]
        index, count = jax.process_index(), jax.process_count()
        multiple = math.lcm(shards, count)
        return Devices("devices", shards, multiple, (index, count), whole=True)

    def fit(self, x=None, *args, **kwargs):
        with _divided(x):
            return super().fit(x, *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        with _divided(x):
            return super().evaluate(x, *args, **kwargs)

    # Between the first step and the end of an epoch the state is in `_jax_state` alone:
    # the variables hold nothing. Keras puts there what a step has returned; here it is
    # the state at every moment, so that whatever ends the loop, it can be put back.

    def settle(self):
        self.jax_state_sync()

    @_whole
    def jax_state_sync(self):
        super().jax_state_sync()

    @_whole
    def _get_jax_state(self, purge_model_variables=False, **groups):
        state = super()._get_jax_state(**groups)
        self._keep([name for name in _GROUPS if groups.get(name)], state)
        if purge_model_variables:
            self._purge_model_variables(**groups)
        return state

    def _keep(self, names, state):
        self._jax_state = dict(zip(names, state, strict=True))
        self._jax_state_synced = False

    def _stateless(self, step, with_optimizer):
        def variables():
            groups = [self.trainable_variables, self.non_trainable_variables]
            if with_optimizer:
                groups.append(self.optimizer.variables)
            return [*groups, self.metrics_variables]

        def call(state, data):
            groups = variables()
            pairs = [
                pair
                for group, values in zip(groups, state, strict=True)
                for pair in zip(group, values, strict=True)
            ]
            with Scope(pairs):
                logs = step(data)
                state = tuple([v.value for v in group] for group in groups)
            return logs, state

        return call

    def _compiled_step(self, step, with_optimizer):
        call = self._stateless(step, with_optimizer)
        if self.run_eagerly or not self.jit_compile:
            return call
        shardings = None
        if distribution_lib.distribution() is not None:
            spec = self._get_state_sharding_spec()
            shardings = (None, spec if with_optimizer else (*spec[:2], spec[3]))
        # What looks for NaN throws results away: then the state must outlive the step.
        keeps = jax.config.jax_debug_nans or jax.config.jax_debug_infs
        donated = () if keeps else 0
        return jax.jit(call, donate_argnums=donated, out_shardings=shardings)

    def _in_steps(self, names, step):
        """Keras's function of a state and an iterator, of `steps_per_execution` steps.

        The data is awaited outside of the steps.
        """

        @_whole
        def one(state, data):
            logs, state = step(state, data)
            self._keep(names, state)
            return logs, state

        def function(state, iterator):
            interrupts.check()
            logs, state = one(state, next(iterator))
            for _ in range(self.steps_per_execution - 1):
                interrupts.check()
                try:
                    data = next(iterator)
                except StopIteration:
                    break
                logs, state = one(state, data)
            interrupts.check()
            return logs, state

        return function

    def is_due(self, interval, phase):
        """Whether it is known while tracing that a schedule is due: a branch asks."""
        del interval, phase

    def make_train_function(self, force=False):
        if self.train_function is not None and not force:
            return
        step = self._compiled_step(self._run_train_step, True)
        run = self._in_steps(_GROUPS, step)

        def function(state, iterator):
            if self._take_skip():
                for _ in zip(range(self.steps_per_execution), iterator, strict=False):
                    pass
                return {}, state
            return run(state, iterator)

        self.train_function = function

    def make_test_function(self, force=False):
        if self.test_function is not None and not force:
            return
        step = self._compiled_step(self._run_test_step, False)
        self.test_function = self._in_steps([*_GROUPS[:2], _GROUPS[3]], step)

    def make_predict_function(self, force=False):
        if self.predict_function is not None and not force:
            return

        def step(state, data):
            outputs, updates = self.predict_step(state, data)
            return outputs, (state[0], updates)

        # Keras's own takes the memory of weights that it does not change.
        if self.jit_compile and not self.run_eagerly:
            shardings = None
            if distribution_lib.distribution() is not None:
                shardings = (None, self._get_state_sharding_spec()[:2])
            step = jax.jit(step, out_shardings=shardings)
        self.predict_function = self._make_function(step, concatenate_outputs=True)
