"""Layers of a network by name, for pictures of any size."""

import threading
import weakref

import keras
from keras import ops

from keras_genai.datasets._files import unknown


def network_of(model):
    """The network itself: of a `kg.CNN` its own, else the model.

    Raises:
        ValueError: it is no functional or sequential `keras.Model` of one image.
    """
    network = getattr(model, "network", model)
    try:
        shape = network.input_shape
        layers = network.layers
    except AttributeError:
        shape, layers = None, ()
    if not (isinstance(shape, tuple) and len(shape) == 4 and layers):
        raise ValueError(
            "model must be a kg.CNN or a functional or sequential keras.Model of "
            f"images (B, H, W, C); {type(model).__name__} takes {shape}."
        )
    if shape[-1] is None:
        raise ValueError("model must say how many channels its images have.")
    return network


def preprocessed(x, preprocess, dtype):
    """Pictures as the network takes them.

    Args:
        x: `(B, H, W, C)` in [-1, 1].
        preprocess: function of the user's, or None.
        dtype: of the network.
    """
    x = x if preprocess is None else preprocess(x)
    if not hasattr(x, "shape"):
        raise ValueError(
            f"preprocess must return pictures (B, H, W, C); it returned {x!r}."
        )
    return ops.cast(x, dtype)


def spatial_layers(network):
    """The names of the layers whose output is `(B, H, W, C)`, in their order."""
    return [
        layer.name
        for layer in network.layers
        if isinstance(shape := _shape(layer), tuple) and len(shape) == 4
    ]


def _shape(layer):
    try:
        return tuple(layer.output.shape)
    except (AttributeError, ValueError):
        return None


def find(network, name, spatial=True):
    """The layer of that name.

    Args:
        network: `keras.Model`.
        name: of the layer; None for the last.
        spatial: whether its output must be `(B, H, W, C)`, else `(B, C)`.

    Raises:
        ValueError: there is none (the nearest names are offered), or its output has
            another rank.
    """
    known = {layer.name: layer for layer in network.layers}
    if name is None:
        (output,) = network.outputs
        name = "output"
    elif name in known:
        output = known[name].output
    else:
        raise unknown(f"layer of {network.name} named", name, known, {})
    rank = len(output.shape)
    if rank != (4 if spatial else 2):
        there = spatial_layers(network)[1:]
        hint = (
            f" Layers with places are {', '.join(map(repr, there[-8:]))}."
            if there
            else " This model has no layer with places."
        )
        raise ValueError(
            f"The {name!r} of {network.name} gives {tuple(output.shape)}; "
            + (
                f"features at places, (B, H, W, C), are needed.{hint}"
                if spatial
                else "logits (B, K) are needed."
            )
        )
    return output


_MADE = weakref.WeakKeyDictionary()  # network -> {ids of outputs: (Features, outputs)}
_LOCK = threading.Lock()


def features_of(network, outputs):
    """`Features` of a network, made once: each making adds to its layers' history.

    Args:
        network: `keras.Model` of images.
        outputs: list of what `find` gave.
    """
    with _LOCK:
        made = _MADE.setdefault(network, {})
        key = tuple(map(id, outputs))
        if key not in made:
            made[key] = Features(network, outputs), outputs
        return made[key][0]


class Features:
    """A network up to some of its layers; `features_of` gives one.

    Args:
        network: `keras.Model` of images.
        outputs: list of what `find` gave.

    Attributes:
        model: `keras.Model`, images -> list of the outputs.
        channels: of the images.
        free: whether it takes pictures of any size; else only `size`.
        size: `(H, W)` that the network was made for, None where it is free.
    """

    def __init__(self, network, outputs):
        self.channels = network.input_shape[-1]
        self.size = tuple(network.input_shape[1:3])
        self.model = keras.Model(network.inputs[0], list(outputs), name="features")
        self.free = None in self.size
        self._fits = {}
        if not self.free:
            self._set_free()
        if self.free:
            self.size = (None, None)

    def _set_free(self):
        """The same layers on an input of any size, where they allow it."""
        images = keras.Input((None, None, self.channels), name="images")
        try:
            free = keras.models.clone_model(
                self.model, input_tensors=images, clone_function=lambda layer: layer
            )
            # A dense layer after flattening takes no other number of places.
            other = keras.KerasTensor((1, *(2 * n for n in self.size), self.channels))
            free.call(other)
        except (ValueError, TypeError):
            return
        self.model, self.free = free, True

    def __call__(self, images):
        """The outputs, a list of tensors, for a tensor of images."""
        outputs = self.model(images, training=False)
        return outputs if isinstance(outputs, (list, tuple)) else [outputs]

    def fits(self, height, width):
        """Whether every layer has places left in a picture of that size."""
        if not self.free:
            return (height, width) == self.size
        size = (height, width)
        if size not in self._fits:
            self._fits[size] = self._has_places(size)
        return self._fits[size]

    def _has_places(self, size):
        """Whether the network can be called, and no output is empty."""
        images = keras.KerasTensor((1, *size, self.channels))
        try:  # not called: each layer would remember the call for ever
            outputs = self.model.compute_output_spec(images)
        except Exception:  # each backend has its own for a window beyond the picture
            return False
        outputs = keras.tree.flatten(outputs)
        return all(n is not None and n > 0 for x in outputs for n in x.shape)

    def check_size(self, height, width, what="The picture"):
        """Refuses a size that the network cannot take.

        Raises:
            ValueError: says which it can.
        """
        if self.fits(height, width):
            return
        if not self.free:
            raise ValueError(
                f"{what} is {height}x{width}; the layers asked for end in a dense "
                f"layer, which takes {self.size[0]}x{self.size[1]} alone: give such a "
                "picture and octaves=1, or ask for layers with places."
            )
        side = next((n for n in (2**k for k in range(11)) if self.fits(n, n)), None)
        while side and side > 1 and self.fits(side - 1, side - 1):
            side -= 1
        raise ValueError(
            f"{what} is {height}x{width}, which leaves the layers asked for no place: "
            f"its sides must be at least {side}. Give a larger picture, fewer octaves "
            "or earlier layers."
        )

    @property
    def variables(self):
        return list(self.model.variables)
