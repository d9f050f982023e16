"""Batch normalization through the backend's fused kernel, plain and conditional."""

import keras
from keras import ops

from keras_genai import backend
from keras_genai.backend.precision import widen
from keras_genai.layers.embedding import check_ids
from keras_genai.utils.arguments import checked
from keras_genai.utils.serialization import PACKAGE
from keras_genai.utils.validation import flag, number


@keras.saving.register_keras_serializable(PACKAGE)
class BatchNormalization(keras.layers.Layer):
    """Batch normalization over the last axis (1502.03167).

    The mathematics of `keras.layers.BatchNormalization`, with the defaults of the
    GAN papers, the forward and backward pass each in one kernel of the backend, and
    float32 statistics under mixed precision. Where several replicas train, the
    statistics are those of the global batch. The moving statistics follow
    `moving <- m moving + (1 - m) batch`, with the biased variance.

    Args:
        momentum: m, in [0, 1).
        epsilon: added to the variance.
        center: whether to add a learned offset.
        scale: whether to multiply by a learned gain.
        gamma_initializer: initializer of the gain.

    Example:

    ```python
    y = BatchNormalization()(x, training=True)        # (B, ..., C) -> (B, ..., C)
    ```
    """

    @checked(momentum=number("[0, 1)"), epsilon=number("> 0"), center=flag, scale=flag)
    def __init__(
        self,
        momentum=0.9,
        epsilon=1e-5,
        center=True,
        scale=True,
        gamma_initializer="ones",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.momentum = momentum
        self.epsilon = epsilon
        self.center = center
        self.scale = scale
        self.gamma_initializer = keras.initializers.get(gamma_initializer)

    def _statistic(self, name, initializer, shape, trainable=False):
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer,
            trainable=trainable,
            autocast=False,
            aggregation="none" if trainable else "only_first_replica",
        )

    def build(self, input_shape, *_):
        shape = (input_shape[-1],)
        self.moving_mean = self._statistic("moving_mean", "zeros", shape)
        self.moving_variance = self._statistic("moving_variance", "ones", shape)
        self._build_affine(shape)
        self.built = True

    def _build_affine(self, shape):
        if self.scale:
            self.gamma = self._statistic("gamma", self.gamma_initializer, shape, True)
        if self.center:
            self.beta = self._statistic("beta", "zeros", shape, True)

    def call(self, inputs, training=False):
        gamma = self.gamma.value if self.scale else None
        beta = self.beta.value if self.center else None
        return self._normalize(inputs, gamma, beta, training)

    def _normalize(self, inputs, gamma, beta, training):
        x = widen(inputs)
        if gamma is None:
            gamma = ops.ones_like(self.moving_mean.value)
        if beta is None:
            beta = ops.zeros_like(self.moving_mean.value)
        if training and self.trainable:
            normalize = (
                backend.batch_normalization
                if backend.replicas.share() is None
                else _over_replicas
            )
            x, mean, variance = normalize(x, gamma, beta, self.epsilon)
            self._move(self.moving_mean, mean)
            self._move(self.moving_variance, variance)
        else:
            gain = gamma * ops.rsqrt(self.moving_variance.value + self.epsilon)
            x = x * gain + (beta - self.moving_mean.value * gain)
        return ops.cast(x, self.compute_dtype)

    def _move(self, moving, batch):
        old = moving.value
        new = old + (1.0 - self.momentum) * (ops.stop_gradient(batch) - old)
        moving.assign(new)

    def compute_output_shape(self, input_shape, *_):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "center": self.center,
            "scale": self.scale,
            "gamma_initializer": keras.initializers.serialize(self.gamma_initializer),
        }


def _over_replicas(x, gamma, beta, epsilon):
    """`backend.batch_normalization` by the statistics of the global batch."""
    axes = tuple(range(len(x.shape) - 1))
    ones = ops.ones(ops.shape(x)[:-1], x.dtype)
    sums, count = backend.replicas.total([ops.sum(x, axes), ops.sum(ones)])
    mean = sums / count  # (C,)
    centred = x - mean
    (squares,) = backend.replicas.total([ops.sum(ops.square(centred), axes)])
    variance = squares / count  # (C,)
    return centred * (ops.rsqrt(variance + epsilon) * gamma) + beta, mean, variance


@keras.saving.register_keras_serializable(PACKAGE)
class ConditionalBatchNormalization(BatchNormalization):
    """Batch normalization whose gain and offset belong to a class.

    1610.07629, equation 5; the generator of 1802.05637.

    Args:
        num_classes: K; labels are integers in [0, K).
        **kwargs: see `BatchNormalization`.

    Example:

    ```python
    y = ConditionalBatchNormalization(10)(x, labels)  # (B, H, W, C), (B,)
    ```
    """

    @checked()
    def __init__(self, num_classes, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes

    def _build_affine(self, shape):
        shape = (self.num_classes, *shape)
        self.gamma = self._statistic("gamma", self.gamma_initializer, shape, True)
        self.beta = self._statistic("beta", "zeros", shape, True)

    def call(self, inputs, labels, training=False):
        ones = ops.ones_like(self.moving_mean.value)
        x = self._normalize(inputs, ones, ops.zeros_like(ones), training)
        shape = (-1, *[1] * (len(inputs.shape) - 2), inputs.shape[-1])
        check_ids("Labels", labels, self.num_classes)
        gamma = ops.reshape(ops.take(self.gamma.value, labels, axis=0), shape)
        beta = ops.reshape(ops.take(self.beta.value, labels, axis=0), shape)
        x = widen(x) * gamma + beta
        return ops.cast(x, self.compute_dtype)

    def get_config(self):
        config = super().get_config()
        return {**config, "num_classes": self.num_classes}
