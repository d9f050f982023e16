"""The engine's primitives on JAX.

Keras keeps state in variables, JAX in values. A `Scope` stands between them: it
begins with the values of the scope around it, gathers the updates that the code
inside makes, and hands them on as plain values, so that they can leave a traced
function as outputs.
"""

import contextlib

import jax
import jax.numpy as jnp
import keras
import numpy as np
from keras.src.distribution import distribution_lib

from keras_genai.engine.scope import Scope


def _publish(variables, values):
    """Hands updates on to the scope outside, or to the variables themselves.

    In the order in which they were made: JAX sorts a dict by its keys, which are
    addresses here, and a step traced in that order would be another program each time.
    """
    for key, variable in variables.items():
        variable.assign(values[key])


def value_and_gradients(loss_fn, variables, scale=None):
    """See `keras_genai.engine.tensorflow.value_and_gradients`."""
    updated = {}

    def call(values):
        with Scope(zip(variables, values, strict=True)) as scope:
            loss = loss_fn()
            scaled = loss if scale is None else scale(loss)
        updated.update(scope.updated)
        return scaled, (loss, scope.updates())

    values = [v.value for v in variables]
    gradients_, (loss, updates) = jax.grad(call, has_aux=True)(values)
    _publish(updated, updates)
    return loss, gradients_


def gradients(fn, x):
    """See `keras_genai.engine.tensorflow.gradients`."""
    updated = {}

    def call(x):
        with Scope() as scope:
            value = fn(x)
        updated.update(scope.updated)
        return value, scope.updates()

    gradient, updates = jax.grad(call, has_aux=True)(jnp.asarray(x))
    _publish(updated, updates)
    return gradient


def cond(pred, true_fn, false_fn):
    """See `keras_genai.engine.tensorflow.cond`.

    A bare `lax.cond` would leak the tracers that a branch assigns to variables.
    Each branch is therefore traced once to learn which variables it touches; both
    then return the values of the union.
    """
    touched = {}

    def probe(fn):
        def call():
            with Scope() as scope:
                output = fn()
            touched.update(scope.updated)
            return output

        jax.eval_shape(call)

    probe(true_fn)
    probe(false_fn)

    def branch(fn):
        def call():
            with Scope():
                output = keras.tree.map_structure(jnp.asarray, fn())
                return output, [v.value for v in touched.values()]

        return call

    output, updates = jax.lax.cond(pred, branch(true_fn), branch(false_fn))
    _publish(touched, dict(zip(touched, updates, strict=True)))
    return output


def without_gradients():
    """A context that records nothing: on JAX there is nothing to switch off."""
    return contextlib.nullcontext()


def jit(fn, variables=(), compiled=True):
    """See `keras_genai.engine.tensorflow.jit`."""
    variables = list(variables)

    def call(values, *args):
        with Scope(zip(variables, values, strict=True)):
            return fn(*args)

    run = jax.jit(call) if compiled else call
    return lambda *args: run([v.value for v in variables], *args)


def apply_gradients(optimizer, gradients_, variables):
    """See `keras_genai.engine.tensorflow.apply_gradients`."""
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer.apply(gradients_, variables)
        return
    # Its stateful form assigns inside `lax.cond`; its stateless form does not.
    new_values, new_state = optimizer.stateless_apply(
        [v.value for v in optimizer.variables],
        gradients_,
        [v.value for v in variables],
    )
    for variable, value in zip(variables, new_values, strict=True):
        variable.assign(value)
    for variable, value in zip(optimizer.variables, new_state, strict=True):
        variable.assign(value)


def batch_normalization(x, scale, offset, epsilon):
    """See `keras_genai.engine.tensorflow.batch_normalization`."""
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    variance = jnp.mean(jnp.square(x - mean), axes)
    factor = jax.lax.rsqrt(variance + epsilon) * scale
    return (x - mean) * factor + offset, mean, variance


def leaky_relu(x, slope):
    """See `keras_genai.engine.tensorflow.leaky_relu`."""
    # jax.nn.leaky_relu has derivative 1 at 0.
    return jnp.where(x > 0, x, slope * x)


def to_host(x):
    """A tensor as a NumPy array."""
    return np.asarray(x)


class Trainer:
    """Turns the stateful steps of a model into the stateless ones of JAX."""

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
        return jax.jit(call, donate_argnums=0, out_shardings=shardings)

    def make_train_function(self, force=False):
        if self.train_function is not None and not force:
            return
        run = self._make_function(self._compiled_step(self._run_train_step, True))

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
        self.test_function = self._make_function(step)
