"""The primitives on JAX; see `keras_genai.backend.interface`.

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

from keras_genai.backend.scope import Scope

COMPILES, GRAPHS_ARE_CYCLES = True, False


def _publish(variables, values):
    """Hands updates on to the scope outside, or to the variables themselves."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def value_and_gradients(loss_fn, variables, scale=None):
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
    return _value_and_gradient(fn, x)[1]


def cond(pred, true_fn, false_fn):
    # A bare `lax.cond` would leak the tracers that a branch assigns to variables. Each
    # branch is therefore traced once to learn which variables it touches; both then
    # return the values of the union.
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
    # There is nothing to switch off.
    return contextlib.nullcontext()


def jit(fn, variables=(), compiled=True):
    variables = list(variables)

    def call(values, *args):
        with Scope(zip(variables, values, strict=True)):
            return fn(*args)

    run = jax.jit(call) if compiled else call
    return lambda *args: run([v.value for v in variables], *args)


def apply_gradients(optimizer, gradients_, variables):
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
    axes = tuple(range(x.ndim - 1))
    mean = jnp.mean(x, axes)
    variance = jnp.mean(jnp.square(x - mean), axes)
    factor = jax.lax.rsqrt(variance + epsilon) * scale
    return (x - mean) * factor + offset, mean, variance


def group_normalization(x, groups, scale, offset, epsilon):
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
    return jax.lax.dynamic_update_slice_in_dim(x, values, index, axis=2)


def materialized(x):
    if jax.default_backend() != "cpu":
        return x
    first = x[(0,) * x.ndim]
    return jax.lax.cond(first != first, lambda x: x + first, lambda x: x, x)


def remat(fn, *args):
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
    chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def argmax(x):
    # Keras's own looks at the sign of every zero, which costs three passes over `x` and
    # has no ONNX operation.
    return jnp.argmax(x, axis=-1).astype("int32")


def gelu(x):
    return jax.nn.gelu(x, approximate=False)


def leaky_relu(x, slope):
    # jax.nn.leaky_relu has derivative 1 at 0.
    return jnp.where(x > 0, x, slope * x)


def replica():
    """The compiler divides the batch."""


def list_devices():
    return [f"{d.platform}:{d.id} ({d.device_kind})" for d in jax.devices()]


def is_main_process():
    return jax.process_index() == 0


def check_distribution():
    if jax.process_count() > 1 and distribution_lib.distribution() is None:
        raise ValueError(
            "Several JAX processes train together through keras.distribution: call "
            "keras.distribution.set_distribution(keras.distribution.DataParallel()) "
            "before the model is made."
        )


def known(x):
    if isinstance(x, jax.core.Tracer) or not getattr(x, "is_fully_addressable", True):
        return None
    return np.asarray(x)


def from_host(x):
    # `jnp.asarray` compiles a program for each shape, and so does each operation that
    # is run by itself: 1.4 MB each, of which JAX keeps thousands.
    return jax.device_put(np.array(x))


def to_host(x):
    return np.asarray(x)


def threefry2x32(key, counter):
    # JAX's primitive, the same bits: written out, XLA computes the whole cipher again
    # in every fusion that reads a word.

    def unsigned(word):
        return jax.lax.bitcast_convert_type(jnp.asarray(word, "int32"), "uint32")

    x0, x1 = jnp.broadcast_arrays(*map(unsigned, counter))
    k0, k1 = (jnp.broadcast_to(unsigned(word), x0.shape) for word in key)
    words = threefry2x32_p.bind(k0, k1, x0, x1)
    return tuple(jax.lax.bitcast_convert_type(word, "int32") for word in words)
