"""One step of an optimizer on TensorFlow."""

import contextlib
import functools

import keras
import tensorflow as tf
from keras import ops
from keras.src.optimizers.base_optimizer import BaseOptimizer

from keras_genai.backend.tensorflow.core import replica


def apply_gradients(optimizer, gradients_, variables):
    """`backend.interface.apply_gradients`."""
    if replica() is None:
        with _shared_scalars(_inner(optimizer)):
            optimizer.apply(gradients_, variables)
        return
    tf.distribute.get_replica_context().merge_call(
        lambda strategy, *parts: _apply_once(strategy, optimizer, parts, variables),
        args=gradients_,
    )


def _scales(optimizer):
    return isinstance(optimizer, keras.optimizers.LossScaleOptimizer)


def _inner(optimizer):
    return optimizer.inner_optimizer if _scales(optimizer) else optimizer


def _shared_scalars(optimizer):
    """Adam's step with what all variables share computed once.

    Keras computes powers and casts anew for each variable: a fifth of all operations
    of a U-Net's training step. The operations on a variable are Keras's own, in its
    order, and so are the bits.

    The context is entered once for all replicas, each of which has a thread of its own.
    """
    kinds = keras.optimizers.Adam, keras.optimizers.AdamW
    if type(optimizer) not in kinds or optimizer.amsgrad:
        return contextlib.nullcontext()

    def scalars(rate, dtype):
        betas = optimizer.beta_1, optimizer.beta_2
        count = ops.cast(optimizer.iterations + 1, dtype)
        power_1, power_2 = (tf.pow(ops.cast(beta, dtype), count) for beta in betas)
        alpha = tf.cast(rate, dtype) * tf.sqrt(1 - power_2) / (1 - power_1)
        constants = (*(1 - beta for beta in betas), optimizer.epsilon)
        return alpha, *(tf.constant(constant, dtype) for constant in constants)

    def move(variable, gradient, alpha, one_less_beta_1, one_less_beta_2, epsilon):
        index = optimizer._get_variable_index(variable)
        m, v = optimizer._momentums[index].value, optimizer._velocities[index].value
        gradient = tf.cast(gradient, variable.dtype)
        momentum = m + (gradient - m) * one_less_beta_1
        velocity = v + (tf.square(gradient) - v) * one_less_beta_2
        m.assign(momentum)
        v.assign(velocity)
        variable.assign_sub(momentum * alpha / (tf.sqrt(velocity) + epsilon))

    def update(strategy, gradients_and_variables, rate):
        shared = {}
        for gradient, variable in gradients_and_variables:
            dtype = variable.dtype
            if dtype not in shared:
                shared[dtype] = scalars(rate, dtype)
            args = gradient, *shared[dtype]
            strategy.extended.update(variable, move, args, group=False)

    return _replaced(optimizer, _distributed_tf_update_step=update)


def _apply_once(strategy, optimizer, parts, variables):
    """One step on all replicas together, from gradients that are summed already.

    Keras would sum them again, after clipping each replica's own, and could not
    accumulate them: that is a branch around a point where replicas meet. So is the
    branch of a `LossScaleOptimizer` over gradients that are not finite.
    """

    def update(gradients_, variables, rate):
        pairs = zip(
            gradients_, [getattr(v, "value", v) for v in variables], strict=True
        )
        inner._distributed_tf_update_step(strategy, pairs, rate)

    plain, inner = BaseOptimizer, _inner(optimizer)
    whole = _replaced(
        inner,
        _backend_update_step=update,
        _apply_weight_decay=functools.partial(plain._apply_weight_decay, inner),
        _backend_increment_gradient_accumulators=functools.partial(
            plain._backend_increment_gradient_accumulators, inner
        ),
    )
    with _shared_scalars(inner), whole:
        first = [strategy.experimental_local_results(part)[0] for part in parts]
        apply = optimizer._common_apply if _scales(optimizer) else optimizer.apply
        apply(first, variables)


@contextlib.contextmanager
def _replaced(optimizer, **methods):
    """Other methods in an optimizer while a step is traced."""
    for name, method in methods.items():
        object.__setattr__(optimizer, name, method)
    try:
        yield
    finally:
        for name in methods:
            object.__delattr__(optimizer, name)
