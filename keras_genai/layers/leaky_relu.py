"""LeakyReLU with the same derivative on every backend."""

import keras

from keras_genai import backend
from keras_genai.utils.serialization import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class LeakyReLU(keras.layers.LeakyReLU):
    """`keras.layers.LeakyReLU` whose derivative at 0 is the slope.

    Keras's has the derivative 1 there on JAX and the slope on the other backends. An
    input of exactly 0 is common: a convolution without bias, or with its initial
    one, of a part that an augmentation cut out.

    Args:
        negative_slope: the slope below 0.

    Example:

    ```python
    y = LeakyReLU(0.2)(x)
    ```
    """

    def call(self, inputs):
        return backend.leaky_relu(inputs, self.negative_slope)
