"""Kernels of layers and losses on TensorFlow."""

import tensorflow as tf

from keras_genai.backend.precision import widen


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
    # By products of matrices that lie as they are read: `einsum` transposes more, and
    # its gradient took twice as long. Scores and probabilities are float32 or wider.
    groups = query.shape[2] // key.shape[2]
    if groups > 1:
        key, value = (tf.repeat(x, groups, axis=2) for x in (key, value))
    query, key, value = (tf.transpose(x, (0, 2, 1, 3)) for x in (query, key, value))
    scores = widen(tf.matmul(query, key, transpose_b=True))  # (B, N, T, S)
    scores = scores * tf.cast(query.shape[-1] ** -0.5, scores.dtype)
    if bias is not None:
        scores = scores + tf.cast(bias, scores.dtype)
    if causal:
        sizes = tf.shape(scores)[2:]
        seen = tf.linalg.band_part(tf.ones(sizes, "bool"), -1, 0)
        mask = seen if mask is None else tf.logical_and(mask, seen)
    if mask is not None:
        scores = tf.where(mask, scores, tf.cast(-0.7 * tf.float32.max, scores.dtype))
    weights = tf.cast(tf.nn.softmax(scores), value.dtype)
    return tf.transpose(tf.matmul(weights, value), (0, 2, 1, 3))


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
