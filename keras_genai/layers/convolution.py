"""Convolutions through the backend's kernels."""

import keras
from keras import ops

from keras_genai import backend
from keras_genai.utils.arguments import checked
from keras_genai.utils.serialization import PACKAGE
from keras_genai.utils.validation import either, integer, integers, text

_SIZES = either(integer(1), integers(length=2))
_PADDING = either(integer(0), text)


def _padded(x, zeros):
    """Images with so many zeros on every side."""
    return ops.pad(x, ((0, 0), (zeros, zeros), (zeros, zeros), (0, 0)))


class _Fused:
    """Calls the backend's kernel in the common case, Keras's operation otherwise."""

    kernel_name = None  # of a function of `backend`
    paddings = ("same",)
    zeros = None  # on every side, where they are given by number

    def call(self, inputs):
        if (
            self.data_format != "channels_last"
            or self.padding not in self.paddings
            or set(self.dilation_rate) != {1}
            or getattr(self, "groups", 1) != 1
            or getattr(self, "output_padding", None) is not None
        ):
            return super().call(
                inputs if self.zeros is None else _padded(inputs, self.zeros)
            )
        # In the type that the layer computes in, as Keras's own operations read them.
        weights = [ops.convert_to_tensor(self.kernel)]
        weights.append(ops.convert_to_tensor(self.bias) if self.use_bias else None)
        how = (self.padding if self.zeros is None else self.zeros,)
        how = how if len(self.paddings) > 1 else ()
        y = getattr(backend, self.kernel_name)(
            inputs, *weights, tuple(self.strides), *how
        )
        return y if self.activation is None else backend.activated(y, self.activation)


class _Padded(_Fused):
    """The same, and zeros on every side by their number, as PyTorch counts them.

    In one operation: a padded image is a copy, and PyTorch's gradient of a convolution
    of it was measured at up to eight times as long.
    """

    paddings = ("same", "valid")

    def _take(self, padding):
        """What Keras is told of a padding; ours is kept."""
        self.zeros = None
        if isinstance(padding, str):
            return padding
        if isinstance(padding, bool) or not isinstance(padding, int) or padding < 0:
            raise ValueError(
                '`padding` must be "same", "valid" or a number of zeros on every side, '
                f"at least 0; got {padding!r}."
            )
        self.zeros = padding
        return "valid"

    def compute_output_shape(self, input_shape):
        if self.zeros is not None:
            batch, *sides, channels = input_shape
            sides = [None if n is None else n + 2 * self.zeros for n in sides]
            input_shape = (batch, *sides, channels)
        return super().compute_output_shape(input_shape)

    def get_config(self):
        config = super().get_config()
        return config if self.zeros is None else {**config, "padding": self.zeros}


@keras.saving.register_keras_serializable(PACKAGE)
class Conv2D(_Padded, keras.layers.Conv2D):
    """`keras.layers.Conv2D` through the backend's kernel.

    `padding` may also be a number of zeros on every side.
    """

    kernel_name = "convolution"

    @checked(
        filters=integer(),
        kernel_size=_SIZES,
        strides=_SIZES,
        padding=_PADDING,
    )
    def __init__(self, filters, kernel_size, strides=1, padding="valid", **kwargs):
        padding = self._take(padding)
        super().__init__(filters, kernel_size, strides, padding, **kwargs)


@keras.saving.register_keras_serializable(PACKAGE)
class DepthwiseConv2D(_Padded, keras.layers.DepthwiseConv2D):
    """`keras.layers.DepthwiseConv2D` through the backend's kernel.

    `padding` may also be a number of zeros on every side.
    """

    kernel_name = "depthwise_convolution"

    @checked(kernel_size=_SIZES, strides=_SIZES, padding=_PADDING)
    def __init__(self, kernel_size, strides=1, padding="valid", **kwargs):
        padding = self._take(padding)
        super().__init__(kernel_size, strides, padding, **kwargs)


@keras.saving.register_keras_serializable(PACKAGE)
class Conv2DTranspose(_Fused, keras.layers.Conv2DTranspose):
    """`keras.layers.Conv2DTranspose` through the backend's kernel."""

    kernel_name = "transposed_convolution"


def stages_of(image_shape):
    """How often the sides are halved: down to a side of at least 4, 6 times at most.

    64 x 64 gives 1511.06434's 4 stages from 4 x 4; 28 x 28 gives 2 from 7 x 7.
    """
    height, width = image_shape[:2]
    stages = 2
    while (
        stages < 6
        and height % 2 ** (stages + 1) == 0
        and width % 2 ** (stages + 1) == 0
        and min(height, width) // 2 ** (stages + 1) >= 4
    ):
        stages += 1
    return stages
