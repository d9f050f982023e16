"""Kernels of layers and losses on TensorFlow. Their contracts are written here once."""

import keras
import tensorflow as tf


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
    groups = query.shape[2] // key.shape[2]
    if groups > 1:
        key, value = (tf.repeat(x, groups, axis=2) for x in (key, value))
    return keras.ops.dot_product_attention(
        query, key, value, bias=bias, mask=mask, is_causal=causal
    )


def write(x, values, index):
    """A cache with values written into it; the cache itself is used no more.

    Args:
        x: `(B, K, S, d)`. On PyTorch it is changed, where nothing is differentiated.
        values: `(B, K, T, d)`, of the same type.
        index: integer or int32 scalar: the first place to write, at most S - T.

    Returns:
        Tensor like `x`, `values` at the places `index` to `index + T - 1`.
    """
    shape, count = tf.shape(x), tf.shape(values)[2]
    depth = x.shape[-1]
    rows = tf.range(shape[0] * shape[1]) * shape[2] + index  # where each row begins
    places = tf.reshape(rows[:, None] + tf.range(count), (-1, 1))
    flat = tf.reshape(x, (-1, depth))  # scattered into in place where nobody else has x
    flat = tf.tensor_scatter_nd_update(flat, places, tf.reshape(values, (-1, depth)))
    return tf.ensure_shape(tf.reshape(flat, shape), x.shape)


def cross_entropy(labels, logits):
    """`-log softmax(logits)[labels]`, of each place.

    Args:
        labels: int32 `(...)`, in [0, K).
        logits: float32 or float64 `(..., K)`.

    Returns:
        Tensor `(...)` of the type of `logits`.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def argmax(x):
    """See `keras_genai.engine.jax.argmax`."""
    return tf.argmax(x, axis=-1, output_type="int32")


def gelu(x):
    """`x Phi(x)`, Phi the normal distribution function (1606.08415), exactly.

    By erf: TensorFlow's own asks for erfc, which ONNX lacks.

    Args:
        x: float tensor.

    Returns:
        Tensor of its shape.
    """
    return 0.5 * x * (1.0 + tf.math.erf(x * (0.5**0.5)))


def leaky_relu(x, slope):
    """`x` where it is positive, else `slope x`; the derivative at 0 is the slope.

    Args:
        x: float tensor.
        slope: float.

    Returns:
        Tensor like `x`.
    """
    return tf.nn.leaky_relu(x, slope)
