"""Dense layers through the backend's kernel."""

import keras
from keras import ops

from keras_genai import backend
from keras_genai.utils.serialization import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class Dense(keras.layers.Dense):
    """`keras.layers.Dense` as one product of matrices, forwards and in the gradient.

    The rows of all axes but the last are one axis, and the kernel that multiplies adds
    the bias. A bias added afterwards is one more pass over the result: on PyTorch a
    twentieth of a VAE's `log_likelihood`.
    """

    def call(self, inputs, training=None):
        plain = getattr(self, "quantization_mode", None) is None
        kernel, bias = self.kernel, self.bias
        if not plain or keras.backend.standardize_dtype(inputs.dtype) != str(
            self.compute_dtype
        ):
            return super().call(inputs, training=training)
        kernel = ops.convert_to_tensor(kernel)
        bias = None if bias is None else ops.convert_to_tensor(bias)
        y = backend.linear(inputs, kernel, bias)
        return y if self.activation is None else self.activation(y)
