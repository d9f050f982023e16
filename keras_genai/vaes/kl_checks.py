"""What an AutoencoderKL says before any work when an argument or data does not fit."""

import keras
import numpy as np
from keras import ops

from keras_genai.engine.checks import (
    check_image_shape,
    check_images,
    check_labels,
    check_sample_weight,
)

RECONSTRUCTIONS = {"l1": ops.absolute, "l2": ops.square}


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
        if self.reconstruction not in RECONSTRUCTIONS:
            raise ValueError(
                f"reconstruction must be one of {', '.join(RECONSTRUCTIONS)}; got "
                f"{self.reconstruction!r}."
            )
        if self.perceptual_channels is not None and perceptual is None:
            raise ValueError("perceptual_channels needs perceptual, a network.")

    def _check_perceptual(self):
        made = self.perceptual(keras.KerasTensor((None, *self.image_shape)))
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
