"""Differentiable augmentation (Zhao et al. 2020, 2006.10738)."""

import keras
from keras import ops

from keras_genai import backend
from keras_genai.backend.precision import widen
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import word


def _brightness(images, u):
    """Adds to each image one number from [-0.5, 0.5)."""
    return images + _like(u[:, 0] - 0.5, images)


def _saturation(images, u):
    """Scales each pixel's distance from its grey by a factor from [0, 2)."""
    if images.shape[-1] == 1:
        return images
    grey = _mean(images, axis=-1)  # (B, H, W, 1)
    return grey + (images - grey) * _like(2.0 * u[:, 0], images)


def _contrast(images, u):
    """Scales each image's distance from its mean by a factor from [0.5, 1.5)."""
    mean = _mean(images, axis=(1, 2, 3))  # (B, 1, 1, 1)
    return mean + (images - mean) * _like(u[:, 0] + 0.5, images)


def _translation(images, u):
    """Shifts each image by up to an eighth of its sides; zeros come in."""
    _, height, width, _ = images.shape
    dy = _integer(u[:, 0], -_eighth(height), _eighth(height) + 1)  # (B,)
    dx = _integer(u[:, 1], -_eighth(width), _eighth(width) + 1)  # (B,)
    images = ops.transpose(_shift_rows(images, dy), (0, 2, 1, 3))  # (B, W, H, C)
    return ops.transpose(_shift_rows(images, dx), (0, 2, 1, 3))  # (B, H, W, C)


def _cutout(images, u):
    """Sets to zero a square of half the sides; its part beyond the border is lost."""
    _, height, width, _ = images.shape
    rows = _cut(u[:, 0], height)  # (B, H)
    columns = _cut(u[:, 1], width)  # (B, W)
    cut = ops.logical_and(rows[:, :, None], columns[:, None, :])[..., None]
    return ops.where(cut, ops.zeros_like(images), images)


# What a policy is made of, and how many uniform numbers each part takes.
_POLICIES = {
    "color": ((_brightness, 1), (_saturation, 1), (_contrast, 1)),
    "translation": ((_translation, 2),),
    "cutout": ((_cutout, 2),),
}


@keras.saving.register_keras_serializable("keras_genai")
class DiffAugment(keras.layers.Layer):
    """Random changes of images that gradients flow through.

    2006.10738, section 3.2: real and generated images are both augmented before the
    discriminator, in its step and in the generator's, whose gradient passes through
    the augmentation. The discriminator then cannot learn few real images by heart,
    and the generator does not learn to draw augmented ones.

    Every image gets its own numbers, fresh in every call:

    - `"color"`: brightness, an offset from [-0.5, 0.5); saturation, a factor from
      [0, 2) on a pixel's distance from its mean over the channels (identity for one
      channel); contrast, a factor from [0.5, 1.5) on the distance from the image's
      mean. Values may leave [-1, 1].
    - `"translation"`: by up to 1/8 of each side, whole pixels; zeros come in.
    - `"cutout"`: a rectangle of half of each side becomes zero; its centre lies
      anywhere in the image, so that part of it may fall outside.

    The numbers come from a noise state of its own: the same seed gives the same
    augmentations on every backend, and a saved model goes on where it stopped.

    Args:
        policy: One or more of these names, joined by commas, in the order of their
            use. The paper takes all three for little data.
        seed: Seed of the noise.
        **kwargs: Of `keras.layers.Layer`: `name`, `dtype`.

    Call arguments:
        images: `(B, H, W, C)` in [-1, 1], with `H`, `W` and `C` known. Zero, that
            comes in at the border and in the cut, is the middle of that range.
        training: Default True. False returns the images as they are.

    Returns:
        Images of the same shape.

    Raises:
        ValueError: An unknown policy, or images of another rank.

    Example:

    >>> augment = DiffAugment("translation,cutout", seed=1)
    >>> augment(keras.ops.ones((8, 28, 28, 1))).shape
    (8, 28, 28, 1)
    """

    @checked(policy=word)
    def __init__(
        self, policy: str = "color,translation,cutout", seed: int = 0, **kwargs
    ):
        super().__init__(**kwargs)
        names = [name.strip() for name in policy.split(",")]
        unknown = [name for name in names if name not in _POLICIES]
        if unknown:
            raise ValueError(
                f"unknown augmentation {unknown[0]!r} in policy {policy!r}; expected "
                f"one or more of {', '.join(_POLICIES)}, joined by commas."
            )
        self.policy = policy
        self.seed = seed
        self.noise = backend.random.Noise(seed)
        self._parts = [part for name in names for part in _POLICIES[name]]

    def build(self, input_shape):
        if len(input_shape) != 4 or None in input_shape[1:]:
            raise ValueError(
                "images must have shape (batch, height, width, channels) with only "
                f"the batch unknown; got {tuple(input_shape)}."
            )

    def call(self, images, training=True):
        if not training:
            return images
        # One draw for all parts: a draw costs far more than what is done with it.
        count = sum(n for _, n in self._parts)
        u = self.noise.uniform("augment", (ops.shape(images)[0], count), 0.0, 1.0)
        self.noise.advance()
        start = 0
        for apply, n in self._parts:
            images = apply(images, u[:, start : start + n])
            start += n
        return images

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "policy": self.policy, "seed": self.seed}


def _like(values, images):
    """`(B,)` as `(B, 1, 1, 1)` in the type of the images."""
    return ops.cast(ops.reshape(values, (-1, 1, 1, 1)), images.dtype)


def _mean(images, axis):
    # Half precision cannot add up a whole image.
    mean = ops.mean(widen(images), axis=axis, keepdims=True)
    return ops.cast(mean, images.dtype)


def _integer(u, low, high):
    """Uniform numbers in [0, 1) to integers in [low, high)."""
    return low + ops.cast(ops.floor(u * float(high - low)), "int32")


def _eighth(side):
    return int(side / 8 + 0.5)


def _shift_rows(images, shift):
    """Moves image `b` up by `shift[b]` rows, at most an eighth; zeros come in.

    Rows are taken whole, by one index each: measured (batch 64, 28 to 64 pixels,
    gradient included) as quick as the product with a one-hot matrix for small images
    and up to 7 times quicker for large ones, and exact where matrix products are
    rounded (TF32).
    """
    _, height, width, channels = images.shape
    margin = _eighth(height)
    padded = ops.pad(images, ((0, 0), (margin, margin), (0, 0), (0, 0)))
    rows = ops.reshape(padded, (-1, width * channels))  # (B (H + 2 margin), W C)
    first = ops.arange(ops.shape(images)[0], dtype="int32") * (height + 2 * margin)
    index = (first + margin + shift)[:, None] + ops.arange(height, dtype="int32")
    return ops.reshape(
        ops.take(rows, index, axis=0), (-1, height, width, channels)
    )  # (B, H, W, C)


def _cut(u, side):
    """Which of the places on a side lie in the cut: `(B, side)` of booleans."""
    size = int(side / 2 + 0.5)
    # An even cut has its centre between two places, so that there is one more.
    centre = _integer(u, 0, side + 1 - size % 2)
    offset = ops.arange(side, dtype="int32") - (centre - size // 2)[:, None]
    return ops.logical_and(offset >= 0, offset < size)
