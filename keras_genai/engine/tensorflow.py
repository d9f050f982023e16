"""The engine's primitives on TensorFlow. The contracts are written here once."""

import contextlib

import keras
import tensorflow as tf


def value_and_gradients(loss_fn, variables, scale=None):
    """The loss and its gradients by the variables.

    Args:
        loss_fn: function of no arguments that returns a scalar. It may read and
            update any Keras variable (batch statistics, counters).
        variables: list of trainable `keras.Variable`s.
        scale: optional function loss -> loss; the gradients are those of the
            scaled loss (a `LossScaleOptimizer` divides them again), the loss that
            is returned is the plain one.

    Returns:
        `(loss, gradients)`; the gradient of a variable that the loss does not
        depend on is zero.
    """
    with tf.GradientTape() as tape:
        loss = loss_fn()
        scaled = loss if scale is None else scale(loss)
    values = [v.value for v in variables]
    gradients_ = tape.gradient(
        scaled, values, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    # An embedding's gradient comes in slices, which Keras's optimizers on TensorFlow
    # treat otherwise than the whole gradient that the other backends give.
    return loss, [tf.convert_to_tensor(gradient) for gradient in gradients_]


def gradients(fn, x):
    """The gradient of the scalar `fn(x)` by the tensor `x`.

    The result can be differentiated again, by `x` or by the variables that `fn`
    reads: a gradient penalty is a loss made of it.

    Args:
        fn: function tensor -> scalar. It may update variables.
        x: float tensor.

    Returns:
        Tensor of the shape of `x`.
    """
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = fn(x)
    return tape.gradient(value, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def cond(pred, true_fn, false_fn):
    """Runs one of two functions; either may update variables.

    Args:
        pred: boolean scalar tensor.
        true_fn: function of no arguments.
        false_fn: function of no arguments with the same output structure.

    Returns:
        The output of the branch taken.
    """
    return tf.cond(tf.convert_to_tensor(pred), true_fn, false_fn)


def without_gradients():
    """A context that records nothing: a tape that is not open records nothing."""
    return contextlib.nullcontext()


def jit(fn, variables=(), compiled=True):
    """Compiles a function of tensors, once for each shape.

    Args:
        fn: function of tensors to tensors. Updates that it makes to variables are
            dropped on some backends: it should make none.
        variables: the Keras variables that `fn` reads.
        compiled: False runs it eagerly.

    Returns:
        A function with the arguments of `fn`.
    """
    del variables
    return tf.function(fn, reduce_retracing=True) if compiled else fn


def apply_gradients(optimizer, gradients_, variables):
    """One step of a Keras optimizer.

    Args:
        optimizer: a built `keras.optimizers.Optimizer`.
        gradients_: one tensor for each variable.
        variables: the variables to update.
    """
    optimizer.apply(gradients_, variables)


def batch_normalization(x, scale, offset, epsilon):
    """Normalises by the mean and variance of the batch (1502.03167, Algorithm 1).

    Args:
        x: float32 tensor `(B, ..., C)`, channels last.
        scale: `(C,)`.
        offset: `(C,)`.
        epsilon: float added to the variance.

    Returns:
        `(y, mean, variance)`: `y` like `x`, the biased moments `(C,)`.
    """
    axes = list(range(x.shape.rank - 1))
    if x.shape.rank != 4 or x.dtype == tf.float64:  # the kernel has no float64
        mean, variance = tf.nn.moments(x, axes)
        y = tf.nn.batch_normalization(x, mean, variance, offset, scale, epsilon)
        return y, mean, variance
    y, mean, variance = tf.compat.v1.nn.fused_batch_norm(
        x, scale, offset, epsilon=epsilon, is_training=True
    )
    # The kernel reports the unbiased variance n / (n - 1); undo that.
    count = tf.cast(tf.reduce_prod(tf.shape(x)[:-1]), x.dtype)
    return y, mean, variance * ((tf.maximum(count, 2.0) - 1.0) / count)


def leaky_relu(x, slope):
    """`x` where it is positive, else `slope x`; the derivative at 0 is the slope.

    Args:
        x: float tensor.
        slope: float.

    Returns:
        Tensor like `x`.
    """
    return tf.nn.leaky_relu(x, slope)


def to_host(x):
    """A tensor as a NumPy array."""
    return keras.ops.convert_to_numpy(x)


class Trainer:
    """Lets Keras's TensorFlow trainer run the engine's steps."""

    def make_train_function(self, force=False):
        if self.train_function is not None and not force:
            return
        run = self._make_function(self._run_train_step)

        def function(iterator):
            if self._take_skip():
                for _ in zip(range(self.steps_per_execution), iterator, strict=False):
                    pass
                return {}
            return run(iterator)

        self.train_function = function

    def make_test_function(self, force=False):
        if self.test_function is None or force:
            self.test_function = self._make_function(self._run_test_step)
