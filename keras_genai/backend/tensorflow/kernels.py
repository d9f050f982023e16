"""Kernels of layers and losses on TensorFlow."""

import keras
import tensorflow as tf


def batch_normalization(x, scale, offset, epsilon):
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


def group_normalization(x, groups, scale, offset, epsilon):
    channels, rank = x.shape[-1], x.shape.rank

    # By way of the channels' means: a reduction of the two inner axes of
    # (B, positions, groups, channels) took five times as long as these.
    def mean_of_groups(x):  # (B, ..., C) -> (B, 1, ..., C)
        means = tf.reduce_mean(x, list(range(1, rank - 1)))  # (B, C)
        means = tf.reduce_mean(
            tf.reshape(means, (-1, groups, channels // groups)), axis=-1
        )
        means = tf.repeat(means, channels // groups, axis=1)
        return tf.reshape(means, (-1, *[1] * (rank - 2), channels))

    centred = x - mean_of_groups(x)
    variance = mean_of_groups(tf.square(centred))
    return centred * (tf.math.rsqrt(variance + epsilon) * scale) + offset


def attention(query, key, value, mask=None, bias=None, causal=False):
    groups = query.shape[2] // key.shape[2]
    if groups > 1:
        key, value = (tf.repeat(x, groups, axis=2) for x in (key, value))
    # Products of transposed tensors are faster, the gradient twice; but tf2onnx makes
    # another network of them.
    return keras.ops.dot_product_attention(
        query, key, value, bias=bias, mask=mask, is_causal=causal
    )


def write(x, values, index):
    shape, count = tf.shape(x), tf.shape(values)[2]
    depth = x.shape[-1]
    rows = tf.range(shape[0] * shape[1]) * shape[2] + index  # where each row begins
    places = tf.reshape(rows[:, None] + tf.range(count), (-1, 1))
    flat = tf.reshape(x, (-1, depth))  # scattered into in place where nobody else has x
    flat = tf.tensor_scatter_nd_update(flat, places, tf.reshape(values, (-1, depth)))
    return tf.ensure_shape(tf.reshape(flat, shape), x.shape)


def cross_entropy(labels, logits):
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def argmax(x):
    return tf.argmax(x, axis=-1, output_type="int32")


def linear(x, kernel, bias=None):
    # Of matrices: then TensorFlow's optimizer makes one kernel of product and bias.
    shape = x.shape
    rows = x if shape.rank == 2 else tf.reshape(x, (-1, shape[-1]))
    y = tf.matmul(rows, kernel)
    if bias is not None:
        y = tf.nn.bias_add(y, bias)
    if shape.rank == 2:
        return y
    sizes = [-1 if n is None else n for n in shape[:-1]]
    if sizes.count(-1) > 1:
        sizes = tf.unstack(tf.shape(x)[:-1], num=shape.rank - 1)
    y = tf.reshape(y, [*sizes, kernel.shape[-1]])
    return tf.ensure_shape(y, [*shape[:-1], kernel.shape[-1]])


def gelu(x):
    return 0.5 * x * (1.0 + tf.math.erf(x * (0.5**0.5)))


def leaky_relu(x, slope):
    return tf.nn.leaky_relu(x, slope)
