"""The engine's primitives on JAX.

Keras keeps state in variables, JAX in values. A `Scope` stands between them: it
begins with the values of the scope around it, gathers the updates that the code
inside makes, and hands them on as plain values, so that they can leave a traced
function as outputs.
"""

import contextlib
import math

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.extend.random import threefry2x32_p
from keras.src.distribution import distribution_lib

from keras_genai.engine import interrupts
from keras_genai.engine._jax_convolution import convolution, transposed_convolution
from keras_genai.engine.devices import Devices
from keras_genai.engine.scope import Scope

__all__ = ["convolution", "transposed_convolution"]  # looked for here

# Whether `jit` compiles for each shape, which takes seconds.
COMPILES = True
# Whether what it compiled is freed by the collector of garbage alone.
GRAPHS_ARE_CYCLES = False


def _publish(variables, values):
    """Hands updates on to the scope outside, or to the variables themselves."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def value_and_gradients(loss_fn, variables, scale=None):
    """See `keras_genai.engine.tensorflow.value_and_gradients`."""
    updated = []

    def call(values):
        with Scope(zip(variables, values, strict=True)) as scope:
            loss = loss_fn()
            scaled = loss if scale is None else scale(loss)
        updated[:] = scope.updated.values()
        return scaled, (loss, scope.updates())

    values = [v.value for v in variables]
    gradients_, (loss, updates) = jax.grad(call, has_aux=True)(values)
    _publish(updated, updates)
    return loss, gradients_


def value_and_gradient(fn, x):
    """See `keras_genai.engine.tensorflow.value_and_gradient`."""
    return jax.lax.stop_gradient(_value_and_gradient(fn, jax.lax.stop_gradient(x)))


def _value_and_gradient(fn, x):
    updated = []

    def call(x):
        with Scope() as scope:
            value = fn(x)
        updated[:] = scope.updated.values()
        return value, scope.updates()

    (value, updates), gradient = jax.value_and_grad(call, has_aux=True)(jnp.asarray(x))
    _publish(updated, updates)
    return value, gradient


def gradients(fn, x):
    """See `keras_genai.engine.tensorflow.gradients`."""
    return _value_and_gradient(fn, x)[1]


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
    _publish(touched.values(), updates)
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


def group_normalization(x, groups, scale, offset, epsilon):
    """See `keras_genai.engine.tensorflow.group_normalization`."""
    channels = x.shape[-1]

    def mean_of_groups(x):  # (B, ..., C) -> (B, 1, ..., C)
        shape = (x.shape[0], *[1] * (x.ndim - 2), channels)
        means = jnp.mean(x, tuple(range(1, x.ndim - 1)))  # (B, C)
        means = jnp.mean(means.reshape(-1, groups, channels // groups), -1)
        return jnp.repeat(means, channels // groups, axis=1).reshape(shape)

    centred = x - mean_of_groups(x)
    variance = mean_of_groups(jnp.square(centred))
    return centred * (jax.lax.rsqrt(variance + epsilon) * scale) + offset


def attention(query, key, value, mask=None, bias=None, causal=False):
    """See `keras_genai.engine.tensorflow.attention`."""
    half = query.dtype == jnp.float16 and jax.default_backend() == "cpu"
    if not half and query.dtype != jnp.float64:
        return keras.ops.dot_product_attention(
            query, key, value, bias=bias, mask=mask, is_causal=causal
        )
    # JAX's own sums scores in float32 whatever the type, and refuses float16 on a CPU.
    dtype = jnp.promote_types(query.dtype, jnp.float32)
    groups = query.shape[2] // key.shape[2]
    query, key, inner = (x.astype(dtype) for x in (query, key, value))
    key, inner = (jnp.repeat(x, groups, axis=2) for x in (key, inner))
    scores = jnp.einsum("btnd,bsnd->bnts", query, key) / math.sqrt(query.shape[-1])
    if bias is not None:
        scores = scores + bias.astype(dtype)
    if causal:
        seen = jnp.tril(jnp.ones(scores.shape[2:], bool))
        mask = seen if mask is None else mask & seen
    if mask is not None:
        scores = jnp.where(mask, scores, -0.7 * jnp.finfo(dtype).max)
    mixed = jnp.einsum("bnts,bsnd->btnd", jax.nn.softmax(scores), inner)
    return mixed.astype(value.dtype)


def write(x, values, index):
    """See `keras_genai.engine.tensorflow.write`."""
    return jax.lax.dynamic_update_slice_in_dim(x, values, index, axis=2)


def materialized(x):
    """A sum that is written to memory once, forwards and in the gradient.

    XLA on a CPU fuses the chain of a residual stack's sums into each of their users,
    so that block i's gradient computes all sums after it again: of a ViT-B's step 2.1
    of 5.4 s. It honours no barrier there; a branch by a value it keeps.

    Args:
        x: float tensor, of one axis or more. All becomes NaN where the first is.

    Returns:
        `x`.
    """
    if jax.default_backend() != "cpu":
        return x
    first = x[(0,) * x.ndim]
    return jax.lax.cond(first != first, lambda x: x + first, lambda x: x, x)


def remat(fn, *args):
    """See `keras_genai.engine.tensorflow.remat`."""
    updated = []

    def call(*args):
        with Scope() as scope:
            y = fn(*args)
        updated[:] = scope.updated.values()
        return y, scope.updates()

    y, updates = jax.checkpoint(call)(*args)
    _publish(updated, updates)
    return y


def cross_entropy(labels, logits):
    """See `keras_genai.engine.tensorflow.cross_entropy`."""
    chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def argmax(x):
    """The place of the largest number on the last axis, the first of equals: int32.

    Keras's own looks at the sign of every zero, which costs three passes over `x` and
    has no ONNX operation.
    """
    return jnp.argmax(x, axis=-1).astype("int32")


def gelu(x):
    """See `keras_genai.engine.tensorflow.gelu`."""
    return jax.nn.gelu(x, approximate=False)


def leaky_relu(x, slope):
    """See `keras_genai.engine.tensorflow.leaky_relu`."""
    # jax.nn.leaky_relu has derivative 1 at 0.
    return jnp.where(x > 0, x, slope * x)


def replica():
    """See `keras_genai.engine.tensorflow.replica`: the compiler divides the batch."""


def list_devices():
    """See `keras_genai.engine.tensorflow.list_devices`."""
    return [f"{d.platform}:{d.id} ({d.device_kind})" for d in jax.devices()]


def is_main_process():
    """See `keras_genai.engine.tensorflow.is_main_process`."""
    return jax.process_index() == 0


def check_distribution():
    """See `keras_genai.engine.tensorflow.check_distribution`."""
    if jax.process_count() > 1 and distribution_lib.distribution() is None:
        raise ValueError(
            "Several JAX processes train together through keras.distribution: call "
            "keras.distribution.set_distribution(keras.distribution.DataParallel()) "
            "before the model is made."
        )


def known(x):
    """A tensor's values as a NumPy array, or None where they are not to be had.

    They are not while it is traced, and where other processes hold parts of it.
    """
    if isinstance(x, jax.core.Tracer) or not getattr(x, "is_fully_addressable", True):
        return None
    return np.asarray(x)


def to_host(x):
    """A tensor as a NumPy array."""
    return np.asarray(x)


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


# The groups of variables that Keras hands through a step, in its order.
_GROUPS = [
    f"{kind}_variables"
    for kind in ("trainable", "non_trainable", "optimizer", "metrics")
]


def _whole(fn):
    """A function of which the state does not survive the middle."""
    return interrupts.whole(fn, forcible=False)


class Trainer:
    """Turns the stateful steps of a model into the stateless ones of JAX."""

    def devices(self):
        """See `keras_genai.engine.tensorflow.Trainer.devices`."""
        distribution = distribution_lib.distribution()
        if distribution is None:
            return Devices()
        mesh = distribution.device_mesh
        shards = mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)]
        index, count = jax.process_index(), jax.process_count()
        return Devices("devices", shards, math.lcm(shards, count), (index, count))

    def fit(self, x=None, *args, **kwargs):
        with _divided(x):
            return super().fit(x, *args, **kwargs)

    def evaluate(self, x=None, *args, **kwargs):
        with _divided(x):
            return super().evaluate(x, *args, **kwargs)

    def synchronize(self):
        """See `keras_genai.engine.tensorflow.Trainer.synchronize`."""

    # Between the first step and the end of an epoch the state is in `_jax_state` alone:
    # the variables hold nothing. Keras puts there what a step has returned; here it is
    # the state at every moment, so that whatever ends the loop, it can be put back.

    def settle(self):
        """See `keras_genai.engine.tensorflow.Trainer.settle`."""
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

    def is_last(self):
        """See `keras_genai.engine.tensorflow.Trainer.is_last`: a branch asks."""

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


def threefry2x32(key, counter):
    """See `keras_genai.engine.threefry.threefry2x32`: JAX's primitive, the same bits.

    Written out, XLA computes the whole cipher again in every fusion that reads a word.
    """

    def unsigned(word):
        return jax.lax.bitcast_convert_type(jnp.asarray(word, "int32"), "uint32")

    x0, x1 = jnp.broadcast_arrays(*map(unsigned, counter))
    k0, k1 = (jnp.broadcast_to(unsigned(word), x0.shape) for word in key)
    words = threefry2x32_p.bind(k0, k1, x0, x1)
    return tuple(jax.lax.bitcast_convert_type(word, "int32") for word in words)
