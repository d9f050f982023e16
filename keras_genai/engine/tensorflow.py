"""The engine's primitives on TensorFlow. The contracts are written here once."""

import contextlib
import functools
import os
import threading

import keras
import tensorflow as tf
from keras.src.optimizers.base_optimizer import BaseOptimizer
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

from keras_genai.engine._tensorflow_kernels import (
    argmax,
    attention,
    batch_normalization,
    cross_entropy,
    gelu,
    group_normalization,
    leaky_relu,
    write,
)
from keras_genai.engine.devices import Devices
from keras_genai.engine.interrupts import stepped
from keras_genai.engine.scope import rematerialized

__all__ = [  # looked for here
    "argmax",
    "attention",
    "batch_normalization",
    "cross_entropy",
    "gelu",
    "group_normalization",
    "leaky_relu",
    "write",
]

COMPILES, GRAPHS_ARE_CYCLES = True, True  # see keras_genai.engine.jax


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
    x = tf.stop_gradient(tf.convert_to_tensor(x))
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        value = fn(x)
    gradient = tape.gradient(
        value, x, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return tf.stop_gradient(value), tf.stop_gradient(gradient)


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
    if not compiled:
        return fn
    convolves = []  # of each graph, whether it has convolutions

    def noted(*args):
        made = fn(*args)
        convolves.append(_convolves(tf.compat.v1.get_default_graph()))
        return made

    traced = tf.function(noted, reduce_retracing=True, autograph=False)
    # A model compiles the same code once for each size that is asked for: TensorFlow
    # would take the fifth for a function that is traced at every call, and warn.
    traced._omit_frequent_tracing_warning = True
    lock = threading.RLock()

    def run(*args):
        if convolves and not any(convolves):
            return traced(*args)
        with lock:
            return traced(*args)

    return traced if os.environ.get("TF_ENABLE_ONEDNN_OPTS") == "0" else run


def _convolves(graph):
    """Whether two threads may not run a graph at once: oneDNN's fault (2.21).

    TensorFlow makes one kernel of a convolution, its bias and a residual sum. That
    kernel copies the other addend by way of two fields of its own (`fuse_add_src_` in
    `mkl_conv_ops.cc`), which all runs of a graph share: two at once mixed their images
    up or ended the process.
    """
    definition = graph.as_graph_def()
    inner = (node for f in definition.library.function for node in f.node_def)
    kinds = {node.op for node in (*definition.node, *inner)}
    return not kinds.isdisjoint(("Conv2D", "Conv3D", "DepthwiseConv2dNative"))


def apply_gradients(optimizer, gradients_, variables):
    """One step of a Keras optimizer.

    Args:
        optimizer: a built `keras.optimizers.Optimizer`.
        gradients_: one tensor for each variable.
        variables: the variables to update.
    """
    if replica() is None:
        optimizer.apply(gradients_, variables)
        return
    tf.distribute.get_replica_context().merge_call(
        lambda strategy, *parts: _apply_once(strategy, optimizer, parts, variables),
        args=gradients_,
    )


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

    plain = BaseOptimizer
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    inner = optimizer.inner_optimizer if scaled else optimizer
    with _replaced(
        inner,
        _backend_update_step=update,
        _apply_weight_decay=functools.partial(plain._apply_weight_decay, inner),
        _backend_increment_gradient_accumulators=functools.partial(
            plain._backend_increment_gradient_accumulators, inner
        ),
    ):
        first = [strategy.experimental_local_results(part)[0] for part in parts]
        apply = optimizer._common_apply if scaled else optimizer.apply
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
    return rematerialized(fn, *args)


def replica():
    """Which of several replicas this step runs on: `(index, count)`, or None for one.

    None as well where the compiler sees the whole batch and divides the work itself.
    """
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return None
    return context.replica_id_in_sync_group, context.num_replicas_in_sync


def replica_sum(tensors):
    """Sums tensors over the replicas, differentiably (and so are the derivatives).

    Args:
        tensors: list of tensors, of the same shapes on every replica.

    Returns:
        List of the sums, equal on every replica.
    """
    context = tf.distribute.get_replica_context()
    return list(context.all_reduce(tf.distribute.ReduceOp.SUM, list(tensors)))


def list_devices():
    """The devices that the backend sees, as it names them."""
    return [device.name for device in tf.config.list_logical_devices()]


def is_main_process():
    """Whether this process writes the files and shows the progress of a run."""
    resolver = tf.distribute.get_strategy().cluster_resolver
    return resolver is None or (resolver.task_id or 0) == 0


def check_distribution():
    """Refuses the ways to use several devices that this backend does not know.

    Raises:
        ValueError: `keras.distribution` is set, which is JAX's.
    """
    if keras.distribution.distribution() is not None:
        raise ValueError(
            "keras.distribution needs the JAX backend. On TensorFlow, make and "
            "compile the model under tf.distribute.MirroredStrategy().scope()."
        )


def feed(data):
    """What Keras takes for a `PyDataset` that `fit` or `evaluate` reads.

    Args:
        data: a `keras.utils.PyDataset`.

    Returns:
        What stands for it.
    """
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


def known(x):
    """See `keras_genai.engine.jax.known`."""
    # Tensors of a graph have no such attribute.
    return x.numpy() if hasattr(x, "numpy") and tf.executing_eagerly() else None


def to_host(x):
    """A tensor as a NumPy array."""
    # A variable that a strategy mirrors is an array only after it is a tensor.
    return keras.ops.convert_to_numpy(tf.convert_to_tensor(x))


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


class Trainer:
    """Lets Keras's TensorFlow trainer run the engine's steps."""

    def devices(self):
        """How the batches of arrays are divided: an `engine.devices.Devices`."""
        return Devices("replicas", self.distribute_strategy.num_replicas_in_sync)

    def synchronize(self):
        """Gives every process the variables of the first, before training."""

    def settle(self):
        """Makes the model whole after an interrupt or an error in a step's loop."""

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
