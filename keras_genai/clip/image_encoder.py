"""Images to vectors, for `CLIP` and for what keeps its image tower alone."""

import keras
import numpy as np
from keras import ops

from keras_genai.clip.captions import check_images_of
from keras_genai.clip.scale import unit_vectors
from keras_genai.utils.arguments import checked


class ImageEncoder:
    """The part of a model that encodes images.

    The model has `image_tower`, `image_projection` (or None), `image_shape`, `mean` and
    `std`, and `run_in_batches`.
    """

    def image_embeddings(self, images, training=False):
        """Images `(B, H, W, C)` in [-1, 1] -> `(B, E)` of length 1, float32."""
        mean, std = (np.array(x, "float32") for x in (self.mean, self.std))
        # ((x + 1) / 2 - mean) / std, which 0.5 and 0.5 leave as it is.
        images = ops.cast(images, keras.config.floatx())
        if set(self.mean + self.std) != {0.5}:
            gain, offset = (
                ops.cast(ops.convert_to_tensor(x), images.dtype)
                for x in (0.5 / std, (0.5 - mean) / std)
            )
            images = images * gain + offset
        x = self.image_tower(images, training=training)
        if len(x.shape) > 2:
            x = ops.mean(x, axis=tuple(range(1, len(x.shape) - 1)))
        return unit_vectors(
            x if self.image_projection is None else self.image_projection(x)
        )

    def image_variables(self):
        """List of the variables that `image_embeddings` reads."""
        return variables_of(self.image_tower, self.image_projection)

    @checked()
    def encode_image(self, images, *, batch_size=64):
        """The embeddings of images.

        Args:
            images: floats `(N, H, W, C)` in [-1, 1], of the model's size.
            batch_size: images in one pass.

        Returns:
            NumPy float32 `(N, E)`, each of length 1.

        Raises:
            ValueError: for images of another shape, type or range.

        Example:

        ```python
        vectors = model.encode_image(images)
        vectors @ vectors.T                                 # their cosines
        ```
        """
        images = np.asarray(images)
        check_images_of(self, images)
        return self.run_in_batches(
            "encode_image",
            self.image_embeddings,
            self.image_variables(),
            [images.astype("float32")],
            batch_size,
        )


def variables_of(*layers):
    """List of the variables of layers; None has none."""
    return [v for layer in layers if layer is not None for v in layer.variables]
