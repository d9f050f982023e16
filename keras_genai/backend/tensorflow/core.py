"""The primitives on TensorFlow; see `keras_genai.backend.interface`."""

import contextlib
import os
import threading

import keras
import tensorflow as tf

from keras_genai.backend.scope import rematerialized

COMPILES, GRAPHS_ARE_CYCLES = True, True


def value_and_gradients(loss_fn, variables, scale=None):
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
    x = tf.stop_gradient(tf.convert_to_tensor(x))
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        value = fn(x)
    gradient = tape.gradient(
        value, x, unconnected_gradients=tf.UnconnectedGradients.ZERO
    )
    return tf.stop_gradient(value), tf.stop_gradient(gradient)


def gradients(fn, x):
    x = tf.convert_to_tensor(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = fn(x)
    return tape.gradient(value, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def cond(pred, true_fn, false_fn):
    return tf.cond(tf.convert_to_tensor(pred), true_fn, false_fn)


def without_gradients():
    # A tape that is not open records nothing.
    return contextlib.nullcontext()


def jit(fn, variables=(), compiled=True):
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


def remat(fn, *args):
    return rematerialized(fn, *args)


def replica():
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return None
    return context.replica_id_in_sync_group, context.num_replicas_in_sync


def replica_sum(tensors):
    context = tf.distribute.get_replica_context()
    return list(context.all_reduce(tf.distribute.ReduceOp.SUM, list(tensors)))


def list_devices():
    return [device.name for device in tf.config.list_logical_devices()]


def is_main_process():
    resolver = tf.distribute.get_strategy().cluster_resolver
    return resolver is None or (resolver.task_id or 0) == 0


def check_distribution():
    if keras.distribution.distribution() is not None:
        raise ValueError(
            "keras.distribution needs the JAX backend. On TensorFlow, make and "
            "compile the model under tf.distribute.MirroredStrategy().scope()."
        )


def known(x):
    # Tensors of a graph have no such attribute.
    return x.numpy() if hasattr(x, "numpy") and tf.executing_eagerly() else None


def to_host(x):
    # A variable that a strategy mirrors is an array only after it is a tensor.
    return keras.ops.convert_to_numpy(tf.convert_to_tensor(x))
