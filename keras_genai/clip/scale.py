"""The joint space: unit vectors, their similarities, the temperature of these."""

import math

import keras
import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.backend.precision import widen
from keras_genai.losses.contrastive import similarity
from keras_genai.utils.serialization import PACKAGE


def unit_vectors(x):
    """Vectors `(B, E)` over their lengths, float32 or wider."""
    x = widen(x)
    square = ops.sum(ops.square(x), axis=-1, keepdims=True)
    return x * ops.rsqrt(ops.maximum(square, 1e-24))


@keras.saving.register_keras_serializable(PACKAGE)
class LogitScale(keras.layers.Layer):
    """The temperature of the similarities, and their bias where there is one.

    Both are learned, in float32 whatever the policy.

    Args:
        scale: that the logits begin with.
        bias: likewise, or None for none.

    Attributes:
        logit_scale: the logarithm of the scale, a scalar weight.
        logit_bias: a scalar weight, or None.
    """

    def __init__(self, scale, bias=None, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale
        self.bias = bias
        self.logit_scale = self._scalar("logit_scale", math.log(scale))
        self.logit_bias = None if bias is None else self._scalar("logit_bias", bias)
        self.built = True

    def _scalar(self, name, value):
        return self.add_weight(
            name=name,
            shape=(),
            initializer=keras.initializers.Constant(value),
            autocast=False,
        )

    def logits(self, images, texts):
        """`(N, M)` of embeddings `(N, E)` and `(M, E)` of length 1."""
        bias = 0.0 if self.logit_bias is None else self.logit_bias.value
        return similarity(images, texts, ops.exp(self.logit_scale.value), bias)

    def numbers(self):
        """The scale and the bias as they are now, two floats."""
        scale = np.exp(backend.to_host(self.logit_scale.value))
        if self.logit_bias is None:
            return float(scale), 0.0
        return float(scale), float(backend.to_host(self.logit_bias.value))

    def get_config(self):
        return {**super().get_config(), "scale": self.scale, "bias": self.bias}
