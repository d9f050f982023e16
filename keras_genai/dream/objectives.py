"""What an ascent climbs: a number for each picture, of what a layer says of it.

An objective names a layer and turns its output into `(B,)`. `local` says whether it is
a mean over places, so that a large picture may be climbed in tiles.
"""

import keras
import numpy as np
from keras import ops

from keras_genai.backend.precision import wide, widen
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_integer
from keras_genai.utils.serialization import PACKAGE
from keras_genai.utils.validation import (
    array,
    integer,
    integers,
    number,
    optional,
    text,
    tuple_of,
)


class Objective(keras.layers.Layer):
    """Base: `objective(output)` is `(B,)`, to be made large.

    Args:
        layer: name of the layer of the network whose output it is given; None for the
            output of the network.
        weight: number that it counts in the sum; negative to make it small.
    """

    local = True
    spatial = True

    @checked(layer=optional(text), weight=number())
    def __init__(self, layer, weight=1.0, **kwargs):
        super().__init__(dtype=wide(), **kwargs)
        self.layer = layer
        self.weight = float(weight)

    def check(self, shape):
        """Raises a `ValueError` where the layer's output shape does not do.

        Args:
            shape: of the output, `(None, H, W, C)` or `(None, C)`.
        """

    def prepare(self, features):
        """Takes what it needs of the network, once.

        Args:
            features: function NumPy pictures `(B, H, W, C)` -> the layer's output.
        """

    def get_config(self):
        return {"layer": self.layer, "weight": self.weight, "name": self.name}


def _check_channel(objective, index, shape):
    if index >= shape[-1]:
        raise ValueError(
            f"The layer {objective.layer or 'output'!r} has {shape[-1]} channels, 0 "
            f"to {shape[-1] - 1}; got the channel {index}."
        )


@keras.saving.register_keras_serializable(PACKAGE)
class Layer(Objective):
    """All that a layer says: the mean of the squared activations (Mordvintsev, 2015).

    Args:
        layer, weight: see `Objective`.
    """

    def call(self, output):
        return ops.mean(ops.square(widen(output)), axis=(1, 2, 3))  # (B,)


@keras.saving.register_keras_serializable(PACKAGE)
class Channel(Objective):
    """One feature, everywhere: the mean of a channel.

    Args:
        layer, weight: see `Objective`.
        index: of the channel.
    """

    @checked(index=integer(0))
    def __init__(self, layer, index, weight=1.0, **kwargs):
        super().__init__(layer, weight, **kwargs)
        self.index = check_integer("index", index, 0)

    def check(self, shape):
        _check_channel(self, self.index, shape)

    def call(self, output):
        return ops.mean(widen(output[..., self.index]), axis=(1, 2))  # (B,)

    def get_config(self):
        return {**super().get_config(), "index": self.index}


@keras.saving.register_keras_serializable(PACKAGE)
class Neuron(Channel):
    """One feature at one place.

    Args:
        layer, index, weight: see `Channel`.
        position: `(row, column)` in the layer's output; None is its middle.
    """

    local = False

    @checked(
        index=integer(0),
        position=tuple_of(
            integer(0), length=2, says="(row, column), two integers of at least 0"
        ),
    )
    def __init__(self, layer, index, position=None, weight=1.0, **kwargs):
        super().__init__(layer, index, weight, **kwargs)
        self.position = position

    def call(self, output):
        row, column = self.position or (n // 2 for n in ops.shape(output)[1:3])
        return widen(output[:, row, column, self.index])  # (B,)

    def get_config(self):
        return {**super().get_config(), "position": self.position}


@keras.saving.register_keras_serializable(PACKAGE)
class Direction(Objective):
    """A mixture of features: the mean product of activations with a unit vector.

    Args:
        layer, weight: see `Objective`.
        vector: `(C,)`, not all zero; its length does not count.
    """

    @checked(vector=array(1))
    def __init__(self, layer, vector, weight=1.0, **kwargs):
        super().__init__(layer, weight, **kwargs)
        vector = np.asarray(vector, "float32")
        if vector.ndim != 1 or not np.any(vector) or not np.all(np.isfinite(vector)):
            raise ValueError(
                "vector must be finite numbers (C,), not all zero; got "
                f"{vector.shape} of the size {np.linalg.norm(vector):.3g}."
            )
        self.vector = vector / np.linalg.norm(vector)

    def check(self, shape):
        if shape[-1] != len(self.vector):
            raise ValueError(
                f"The layer {self.layer!r} has {shape[-1]} channels; vector has "
                f"{len(self.vector)}."
            )

    def call(self, output):
        output = widen(output)
        vector = ops.cast(self.vector, output.dtype)
        return ops.mean(ops.sum(output * vector, axis=-1), axis=(1, 2))  # (B,)

    def get_config(self):
        return {**super().get_config(), "vector": self.vector.tolist()}


@keras.saving.register_keras_serializable(PACKAGE)
class Logit(Objective):
    """One class: its logit, of the network's output or of a layer `(B, K)`.

    Args:
        index: of the class.
        layer, weight: see `Objective`.
    """

    local = False
    spatial = False

    @checked(index=integer(0))
    def __init__(self, index, layer=None, weight=1.0, **kwargs):
        super().__init__(layer, weight, **kwargs)
        self.index = check_integer("index", index, 0)

    def check(self, shape):
        _check_channel(self, self.index, shape)

    def call(self, output):
        return widen(output[:, self.index])  # (B,)

    def get_config(self):
        return {**super().get_config(), "index": self.index}


class _Target(Objective):
    """Base of the objectives that hold what a layer says of another picture."""

    @checked(image=array((3, 4), finite=False), shape=integers())
    def __init__(self, layer, image=None, weight=1.0, shape=None, **kwargs):
        super().__init__(layer, weight, **kwargs)
        if (image is None) == (shape is None):
            raise ValueError(f"{type(self).__name__} needs an image, (H, W, C).")
        self._image = image
        self.target = None
        if shape is not None:
            self._make(shape)

    def _make(self, shape):
        self.target = self.add_weight(
            shape=tuple(shape), initializer="zeros", trainable=False, name="target"
        )
        self.built = True

    def prepare(self, features):
        if self.target is None:
            value = self.of(ops.convert_to_tensor(features(self._image)))
            self._make(value.shape)
            self.target.assign(value)

    def of(self, output):
        """What is kept of the layer's output `(1, h, w, C)` for the picture."""
        raise NotImplementedError

    def build(self, input_shape=None):
        self.built = True

    def get_config(self):
        return {**super().get_config(), "shape": tuple(self.target.shape)}


@keras.saving.register_keras_serializable(PACKAGE)
class Guided(_Target):
    """Features that another picture has: each place climbs to the guide's nearest.

    The mean over places of `max_j <a_i, g_j>`, with `a_i` the activations at a place
    and `g_j` those of the guide (Mordvintsev, 2015, "guided").

    Args:
        layer: name of the layer.
        image: the guide, `(H, W, C)` in [-1, 1].
        weight: see `Objective`.
    """

    def of(self, output):
        return ops.reshape(widen(output), (-1, output.shape[-1]))  # (J, C)

    def call(self, output):
        output = widen(output)
        guide = ops.cast(ops.convert_to_tensor(self.target), output.dtype)
        likeness = ops.matmul(output, ops.transpose(guide))  # (B, h, w, J)
        return ops.mean(ops.max(likeness, axis=-1), axis=(1, 2))  # (B,)


@keras.saving.register_keras_serializable(PACKAGE)
class Content(_Target):
    """Nearness to what a layer says of a picture (1508.06576, equation 1).

    Minus the mean squared difference, so that it is made large.

    Args:
        layer, image, weight: see `Guided`.
    """

    local = False

    def of(self, output):
        return widen(output)

    def call(self, output):
        output = widen(output)
        target = ops.cast(ops.convert_to_tensor(self.target), output.dtype)
        return -ops.mean(ops.square(output - target), axis=(1, 2, 3))  # (B,)


def gram(output):
    """The means over places of the products of channels: 1508.06576, equation 3.

    Args:
        output: `(B, h, w, C)`.

    Returns:
        `(B, C, C)`.
    """
    _, height, width, channels = ops.shape(output)
    flat = ops.reshape(output, (-1, height * width, channels))  # (B, h w, C)
    products = ops.matmul(ops.transpose(flat, (0, 2, 1)), flat)
    return products / ops.cast(height * width, output.dtype)


@keras.saving.register_keras_serializable(PACKAGE)
class Style(_Target):
    """Nearness to the products of features of a picture (1508.06576, equation 4).

    Minus the mean squared difference of the Gram matrices, which know no places.

    Args:
        layer, image, weight: see `Guided`.
    """

    def of(self, output):
        return gram(widen(output))

    def call(self, output):
        output = widen(output)
        target = ops.cast(ops.convert_to_tensor(self.target), output.dtype)
        return -ops.mean(ops.square(gram(output) - target), axis=(1, 2))  # (B,)
