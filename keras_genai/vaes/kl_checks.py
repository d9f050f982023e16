"""What an AutoencoderKL says before any work when an argument or data does not fit."""

import keras
import numpy as np
from keras import ops

from keras_genai.utils.checks import (
    check_image_shape,
    check_images,
    check_labels,
    check_sample_weight,
)

RECONSTRUCTIONS = {"l1": ops.absolute, "l2": ops.square}


def most_layers(image_shape, layers=3):
    """How many strided layers of so many a `patch_discriminator` of images may have.

    0 where even one leaves no patch: see its convolutions of 4 x 4, padded by 1.
    """
    for count in range(layers, 0, -1):
        side = min(image_shape[:2])
        for _ in range(count):
            side = (side - 2) // 2 + 1
        if side > 2:
            return count
    return 0


class KLChecks:
    """The part of `AutoencoderKL` that refuses."""

    def _check_arguments(self, perceptual):
        if not self.block_channels:
            raise ValueError("block_channels must name at least one level; got ().")
        for channels in self.block_channels:
            if channels % self.groups:
                raise ValueError(
                    f"groups must divide every number of block_channels; {self.groups} "
                    f"does not divide {channels}."
                )
        self.check_sides(check_image_shape(self.image_shape)[:2], "image_shape")
        if self.discriminator_weight:
            self._check_discriminated()
        if perceptual is not None:
            made = isinstance(perceptual, keras.layers.Layer)
            if not made or not perceptual.built:
                raise ValueError(
                    "perceptual must be a built Keras network, such as keras.Model("
                    "inputs, features), or None; got "
                    f"{'one that is not built' if made else repr(perceptual)}."
                )
        if self.reconstruction not in RECONSTRUCTIONS:
            raise ValueError(
                f"reconstruction must be one of {', '.join(RECONSTRUCTIONS)}; got "
                f"{self.reconstruction!r}."
            )
        if self.perceptual_channels is not None and perceptual is None:
            raise ValueError("perceptual_channels needs perceptual, a network.")

    @staticmethod
    def discriminator_for(image_shape):
        """The arguments of the largest default discriminator that fits images."""
        layers = most_layers(image_shape)
        if layers:
            return {"discriminator_layers": layers}
        return {"discriminator_weight": 0.0}

    def _check_discriminated(self):
        """Refuses images of which the patch discriminator leaves nothing."""
        layers = most_layers(self.image_shape, self.discriminator_layers)
        if layers < self.discriminator_layers:
            raise ValueError(
                f"discriminator_layers={self.discriminator_layers} leaves no patch of "
                f"images of image_shape {self.image_shape}: "
                + (
                    f"give at most {layers}, "
                    if layers
                    else "their sides must be at least 6; give larger ones, "
                )
                + "or discriminator_weight=0.0 for no discriminator."
            )

    def _check_perceptual(self, perceptual):
        made = perceptual(keras.KerasTensor((None, *self.image_shape)))
        made = made if isinstance(made, (list, tuple)) else [made]
        if any(len(f.shape) != 4 for f in made):
            raise ValueError(
                "perceptual must return feature maps (B, h, w, K); it returns "
                f"{', '.join(str(tuple(f.shape)) for f in made)}. Take outputs before "
                "pooling and flattening."
            )
        weights = self.perceptual_channels
        if weights is not None and [np.shape(w) for w in weights] != [
            (f.shape[-1],) for f in made
        ]:
            raise ValueError(
                "perceptual_channels must hold one weight for each channel of each "
                f"feature map, {[f.shape[-1] for f in made]}; got "
                f"{[np.shape(w) for w in weights]}."
            )

    def check_data(self, x, condition, weight):
        check_images(x, self.image_shape)
        check_labels(condition, None, len(x), type(self).__name__)
        check_sample_weight(weight, len(x))
