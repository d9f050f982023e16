"""Which images a tower takes and what it gives: found out, or asked for by name."""

import keras

from keras_genai.clip.sizes import HALF
from keras_genai.utils.validation import image_shape


def channels_of(name, value, channels):
    """A number for each channel, as a tuple."""
    values = value if isinstance(value, tuple) else (value,)
    if len(values) == 1 or (value == HALF and channels != len(HALF)):
        values = values[:1] * channels
    if len(values) != channels:
        raise ValueError(
            f"{name} must be a number, or one for each of the {channels} channels; got "
            f"{value!r}."
        )
    return tuple(float(x) for x in values)


def image_shape_of(tower, size):
    """`(height, width, channels)` of the images of a tower, and of a given size."""
    shape = getattr(tower, "image_shape", None)
    if shape is None:
        shape = (getattr(tower, "input_shape", None) or (None,))[1:]
    shape = (*shape,) if len(shape) == 3 else (None, None, 3)
    if size is not None:
        known = [n for n in zip(shape, size, strict=False) if n[0] not in (None, n[1])]
        if known:
            raise ValueError(
                f"image_size must be the image tower's, {shape[:2]}; got {size}."
            )
        shape = (*size, shape[2])
    if None in shape:
        raise ValueError(
            "image_size must be given: the image tower does not say which it takes."
        )
    return image_shape()("image_size", shape)


def output_dim_of(name, tower, image_shape, length):
    """Channels of what a tower gives."""
    known = getattr(tower, "output_dim", None)
    if known is not None:
        return known
    images = name == "image_tower"
    given = keras.KerasTensor(
        (2, *image_shape) if images else (2, length),
        keras.config.floatx() if images else "int32",
    )
    shape = getattr(tower.compute_output_spec(given), "shape", None)
    if shape is None or len(shape) < 2 or shape[-1] is None:
        raise ValueError(
            f"{name} must give vectors (B, D), or features (B, ..., D); its output has "
            f"the shape {shape}."
        )
    return int(shape[-1])
