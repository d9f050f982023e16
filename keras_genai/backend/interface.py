"""What each backend does for the package: signatures, contracts and defaults.

`keras_genai.backend` has each of these functions as the backend at hand defines it,
under the same name and with the docstring that stands here; what a backend does not
define is the default. A function whose body raises `NotImplementedError` must be
defined by all.
"""

import contextlib

from keras import ops

from keras_genai.backend import cipher

COMPILES: bool = True  # whether `jit` compiles for each shape, which takes seconds
# Whether what it compiled is freed by the collector of garbage alone.
GRAPHS_ARE_CYCLES: bool = False


# Gradients


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
    raise NotImplementedError


def value_and_gradient(fn, x):
    """A scalar and its gradient by a tensor, both constants to what is outside.

    What a loss does not need twice is computed once: `sum(gradient * x)` stands for
    `fn(x)` under a gradient by whatever made `x`.

    Args:
        fn: function tensor -> scalar. It may update variables.
        x: float tensor.

    Returns:
        `(value, gradient)`, the gradient of the shape of `x`.
    """
    raise NotImplementedError


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
    raise NotImplementedError


def cond(pred, true_fn, false_fn):
    """Runs one of two functions; either may update variables.

    Args:
        pred: boolean scalar tensor.
        true_fn: function of no arguments.
        false_fn: function of no arguments with the same output structure.

    Returns:
        The output of the branch taken.
    """
    raise NotImplementedError


def without_gradients():
    """A context in which nothing is recorded for a gradient."""
    return contextlib.nullcontext()


def apply_gradients(optimizer, gradients_, variables):
    """One step of a Keras optimizer.

    Args:
        optimizer: a built `keras.optimizers.Optimizer`.
        gradients_: one tensor for each variable.
        variables: the variables to update.
    """
    raise NotImplementedError


def remat(fn, *args):
    """`fn(*args)` that keeps nothing for its gradient and is computed again there.

    Gradient checkpointing (1604.06174).

    Args:
        fn: function of tensors to one tensor. It may read variables, trained ones
            too, and update counters such as dropout's: they count once.
        *args: float tensors.

    Returns:
        What `fn` returns.
    """
    raise NotImplementedError


# Compiled functions


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
    raise NotImplementedError


def replayed(fn):
    """A function that a loop calls again and again with tensors of the same shapes.

    Where functions are run eagerly, Python's part is left out after the first calls.

    Args:
        fn: function of tensors to a tuple of tensors.

    Returns:
        A function with the arguments of `fn`.
    """
    return fn


def outside(function, *args, **kwargs):
    """Calls a function of tensors that may look at values.

    Where operations are recorded, to be run again without Python's part, the call is
    one operation: it is made anew each time the recording is run.

    Args:
        function: of tensors, also in lists, and of other arguments that are the same
            each time; it returns a tensor, a tuple of them, or None.
    """
    return function(*args, **kwargs)


# Kernels


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
    raise NotImplementedError


def group_normalization(x, groups, scale, offset, epsilon):
    """Normalises each group of channels of each sample (1803.08494, equations 1 to 6).

    Args:
        x: float32 or float64 tensor `(B, ..., C)`, channels last.
        groups: number of groups; it divides C.
        scale: `(C,)`.
        offset: `(C,)`.
        epsilon: float added to the variance.

    Returns:
        Tensor like `x`.
    """
    raise NotImplementedError


def attention(query, key, value, mask=None, bias=None, causal=False):
    """`softmax(query key^T / sqrt(d)) value`: 1706.03762, equation 1.

    Args:
        query: `(B, T, N, d)`, of N heads.
        key: `(B, S, K, d)`; K divides N, and neighbouring heads share a key
            (2305.13245).
        value: `(B, S, K, d)`.
        mask: bool, of four axes that broadcast to `(B, N, T, S)`: which keys a query
            sees. One that sees none gets the mean of all values.
        bias: float, likewise, added to the scores.
        causal: query t sees the keys 0 to t alone.

    Returns:
        `(B, T, N, d)`, of the type of `value`.
    """
    raise NotImplementedError


def write(x, values, index):
    """A cache with values written into it; the cache itself is used no more.

    Args:
        x: `(B, K, S, d)`. On PyTorch it is changed, where nothing is differentiated.
        values: `(B, K, T, d)`, of the same type.
        index: integer or int32 scalar: the first position to write, at most S - T.

    Returns:
        Tensor like `x`, `values` at the positions `index` to `index + T - 1`.
    """
    raise NotImplementedError


def cross_entropy(labels, logits):
    """`-log softmax(logits)[labels]`, at each position.

    Args:
        labels: int32 `(...)`, in [0, K).
        logits: float32 or float64 `(..., K)`.

    Returns:
        Tensor `(...)` of the type of `logits`.
    """
    raise NotImplementedError


def argmax(x):
    """The index of the largest number on the last axis, the first of equals: int32.

    Keras's own looks at the sign of every zero, which costs three passes over `x` and
    has no ONNX operation.
    """
    raise NotImplementedError


def gelu(x):
    """`x Phi(x)`, Phi the normal distribution function (1606.08415), exactly.

    By erf: TensorFlow's own asks for erfc, which ONNX lacks.

    Args:
        x: float tensor.

    Returns:
        Tensor of its shape.
    """
    raise NotImplementedError


def leaky_relu(x, slope):
    """`x` where it is positive, else `slope x`; the derivative at 0 is the slope.

    Args:
        x: float tensor.
        slope: float.

    Returns:
        Tensor like `x`.
    """
    raise NotImplementedError


def linear(x, kernel, bias=None):
    """`x kernel + bias`, in one kernel where there is one.

    Args:
        x: `(..., n)`, of at least two axes.
        kernel: `(n, m)`, of the same type.
        bias: `(m,)`, likewise, or None.

    Returns:
        `(..., m)`.
    """
    raise NotImplementedError


def quick_gelu(x):
    """`x sigmoid(1.702 x)` (1606.08415, section 2).

    Args:
        x: float tensor.

    Returns:
        Tensor of its shape.
    """
    return x * ops.sigmoid(1.702 * x)


def convolution(x, kernel, bias, strides, padding="same"):
    """Strided convolution of images, channels last.

    Args:
        x: `(B, H, W, C)`.
        kernel: `(h, w, C, F)`.
        bias: `(F,)`, or None.
        strides: pair of integers.
        padding: `"same"`, as TensorFlow pads, `"valid"`, or a number of zeros on
            every side.

    Returns:
        `(B, H', W', F)`.
    """
    x, padding = _padded(x, padding)
    y = ops.conv(x, kernel, strides, padding, data_format="channels_last")
    return y if bias is None else ops.add(y, bias)


def depthwise_convolution(x, kernel, bias, strides, padding="same"):
    """As `convolution`, each channel by itself.

    Args:
        x: `(B, H, W, C)`.
        kernel: `(h, w, C, M)`.
        bias: `(C M,)`, or None.
        strides, padding: see `convolution`.

    Returns:
        `(B, H', W', C M)`.
    """
    x, padding = _padded(x, padding)
    y = ops.depthwise_conv(x, kernel, strides, padding, data_format="channels_last")
    return y if bias is None else ops.add(y, bias)


def transposed_convolution(x, kernel, bias, strides):
    """The transpose of a `"same"` convolution, which makes images larger.

    Args:
        x: `(B, H, W, F)`.
        kernel: `(h, w, C, F)`.
        bias: `(C,)`, or None.
        strides: pair of integers.

    Returns:
        `(B, H strides[0], W strides[1], C)`.
    """
    y = ops.conv_transpose(x, kernel, strides, "same", data_format="channels_last")
    return y if bias is None else ops.add(y, bias)


def activated(y, activation):
    """`activation(y)` of a tensor that nothing else reads: in place where it can be.

    Args:
        y: tensor.
        activation: function of a tensor.
    """
    return activation(y)


def materialized(x):
    """A sum that is written to memory once, forwards and in the gradient.

    A compiler that fuses the sums of a residual stack into all that read them computes
    each of them again and again.

    Args:
        x: tensor, the sum.

    Returns:
        The same.
    """
    return x


def threefry2x32(key, counter):
    """The 20-round Threefry-2x32 block function, of tensors.

    See `keras_genai.backend.threefry.threefry2x32`.

    Args:
        key: pair of words, Python integers in int32 or int32 scalar tensors.
        counter: pair of int32 tensors that broadcast against each other. They are
            not changed.

    Returns:
        Pair of int32 tensors of the broadcast shape.
    """
    return cipher.rounds(key, counter)


# Values and devices


def known(x):
    """A tensor's values as a NumPy array, or None where they are not to be had.

    They are not while it is traced, and where other processes hold parts of it.
    """
    raise NotImplementedError


def concrete_int(x):
    """A scalar tensor as a Python integer, where that neither waits nor traces.

    Args:
        x: integer scalar tensor.

    Returns:
        The integer, or the tensor as it is.
    """
    return x


def from_host(x):
    """A NumPy array or a number as a tensor, of which nothing is compiled.

    Args:
        x: NumPy array or number, which is not written into while the tensor is used.
    """
    return ops.convert_to_tensor(x)


def to_host(x):
    """A tensor as a NumPy array."""
    raise NotImplementedError


def feed(data):
    """What Keras takes for a `PyDataset` that `fit` or `evaluate` reads.

    Args:
        data: a `keras.utils.PyDataset`.

    Returns:
        What stands for it.
    """
    return data


def list_devices():
    """The devices that the backend sees, as it names them."""
    raise NotImplementedError


def is_main_process():
    """Whether this process writes the files and shows the progress of a run."""
    raise NotImplementedError


def check_distribution():
    """Refuses the ways to use several devices that this backend does not know.

    Raises:
        ValueError: `keras.distribution` is set, which is JAX's.
    """
    return


def replica():
    """Which of several replicas this step runs on: `(index, count)`, or None for one.

    None as well where the compiler sees the whole batch and divides the work itself.
    """
    return


def replica_sum(tensors):
    """Sums tensors over the replicas, differentiably (and so are the derivatives).

    Args:
        tensors: list of tensors, of the same shapes on every replica.

    Returns:
        List of the sums, equal on every replica.
    """
    return list(tensors)


def _padded(x, padding):
    """Images and padding, where it is a number of zeros on every side."""
    if not isinstance(padding, int):
        return x, padding
    return ops.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0))), "valid"


class Trainer:
    """The part of `Model` that lets Keras's trainer of the backend run its steps.

    Keras's own `fit` stays the loop; `make_train_function` and `make_test_function`,
    which it calls, make functions of `_run_train_step` and `_run_test_step`.
    """

    def devices(self):
        """How the batches of arrays are divided: a `backend.devices.Devices`."""
        raise NotImplementedError

    def synchronize(self):
        """Gives every process the variables of the first, before training."""

    def settle(self):
        """Makes the model whole after an interrupt or an error in a step's loop."""

    def is_due(self, interval, phase):
        """Whether it is known now, while tracing, that a schedule is due; or None.

        Args:
            interval: steps from one time to the next.
            phase: the first of them.
        """

    def is_last(self):
        """Whether it is known while tracing that a batch ends its update; or None."""
