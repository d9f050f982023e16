"""Dropout that drops the same units on every backend."""

import keras
from keras import ops

from keras_genai.backend import random
from keras_genai.utils.arguments import checked
from keras_genai.utils.serialization import PACKAGE
from keras_genai.utils.validation import number


@keras.saving.register_keras_serializable(PACKAGE)
class Dropout(keras.layers.Layer):
    """Dropout (1207.0580) drawn from the package's noise.

    Each call while training draws a fresh mask, keyed by (seed, call number, sample
    number); the call number is a weight, so that a resumed run draws on. What is
    kept is divided by `1 - rate`.

    Args:
        rate: share of the units set to zero, in [0, 1).
        seed: integer, the model's.
        stream: name of its noise: layers of one model take different names.

    Example:

    ```python
    y = Dropout(0.3, stream="head")(x, training=True)
    ```
    """

    @checked(rate=number("[0, 1)"))
    def __init__(self, rate, seed=0, stream="", **kwargs):
        super().__init__(**kwargs)
        if isinstance(rate, bool) or not 0.0 <= rate < 1.0:
            raise ValueError(f"rate must be in [0, 1); got {rate!r}.")
        self.rate = rate
        self.seed = random.check_seed(seed)
        self.stream = stream
        self.noise = random.Noise(self.seed, name="noise")
        self.built = True

    def call(self, inputs, training=False):
        if not training or self.rate == 0.0:
            return inputs
        keep = self.noise.bernoulli(
            f"dropout/{self.stream}", ops.shape(inputs), 1.0 - self.rate
        )
        self.noise.advance()
        scaled = inputs * ops.cast(1.0 / (1.0 - self.rate), inputs.dtype)
        return ops.where(keep, scaled, ops.zeros_like(scaled))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "rate": self.rate,
            "seed": self.seed,
            "stream": self.stream,
        }
