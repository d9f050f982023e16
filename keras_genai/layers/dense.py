"""Dense layers through the backend's kernel."""

import keras
from keras import ops

from keras_genai import backend
from keras_genai.utils.serialization import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class Dense(keras.layers.Dense):
    """`keras.layers.Dense` whose bias is added by the kernel that multiplies.

    Of rows `(B, n)`; anything else is Keras's. A bias added afterwards is one more pass
    over the result: on PyTorch a twentieth of a VAE's `log_likelihood`.
    """

    def call(self, inputs, training=None):
        plain = (
            not self.lora_enabled and getattr(self, "quantization_mode", None) is None
        )
        if not (plain and self.use_bias and len(inputs.shape) == 2):
            return super().call(inputs, training=training)
        weights = map(ops.convert_to_tensor, (self.kernel, self.bias))
        y = backend.linear(inputs, *weights)
        return y if self.activation is None else self.activation(y)
