"""Pictures in and out: checks, sizes, colours. All on the host, in NumPy."""

import numpy as np

from keras_genai.utils.checks import check_images

# Brightness and two differences of colours (the television's YIQ, FCC 1953).
YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def check_pictures(images, channels, name="images"):
    """The pictures as float32 `(B, H, W, C)`, and whether it was one `(H, W, C)`.

    Args:
        images: array `(H, W, C)` or `(B, H, W, C)` in [-1, 1].
        channels: C.
        name: of the argument, for the messages.

    Raises:
        ValueError: for another rank, another number of channels (a grey picture for a
            colour network is named), another type or range.
    """
    images = np.asarray(images)
    if images.ndim == 2 or (images.ndim == 3 and images.shape[-1] not in (channels, 1)):
        raise ValueError(
            f"{name} must be a picture (H, W, {channels}), or pictures (B, H, W, "
            f"{channels}), channels last; got the shape {images.shape}."
        )
    if images.ndim not in (3, 4):
        raise ValueError(
            f"{name} must have the rank 3, (H, W, {channels}), or 4; got the shape "
            f"{images.shape}."
        )
    one = images.ndim == 3
    images = images[None] if one else images
    if images.shape[-1] == 1 and channels == 3:
        raise ValueError(
            f"The network sees colours (3 channels) and {name} is grey: give "
            "np.repeat(images, 3, axis=-1)."
        )
    check_images(images, (*images.shape[1:3], channels))
    return images.astype("float32"), one


def resize(images, height, width, box=None):
    """Pictures of another size, by a triangle as wide as what becomes one pixel.

    The bilinear filter that smooths where it makes smaller (Pillow's), so that no
    detail comes back as a pattern. The same numbers on every backend.

    Args:
        images: `(B, H, W, C)`.
        height, width: of the result.
        box: `(top, left, bottom, right)` in pixels, floats: the part that is shown;
            by default all.

    Returns:
        float32 `(B, height, width, C)`.
    """
    top, left, bottom, right = box or (0.0, 0.0, *images.shape[1:3])
    rows = _filter(images.shape[1], height, top, bottom)
    columns = _filter(images.shape[2], width, left, right)
    images = np.einsum("oh,bhwc->bowc", rows, images, optimize=True)
    return np.einsum("ow,bhwc->bhoc", columns, images, optimize=True)


def _filter(old, new, start, stop):
    """The matrix `(new, old)` of one side."""
    step = (stop - start) / new
    at = start + (np.arange(new) + 0.5) * step - 0.5  # centres, in old pixels
    distance = np.abs(at[:, None] - np.arange(old)) / max(step, 1.0)
    weights = np.maximum(1.0 - distance, 0.0)
    # Beyond the last pixel there is only that.
    weights[at < 0, 0] += 1e-9
    weights[at > old - 1, -1] += 1e-9
    return (weights / weights.sum(1, keepdims=True)).astype("float32")


def with_colours_of(images, originals):
    """The brightness of `images` with the colours of `originals`: `(B, H, W, 3)`."""
    yiq = (originals @ YIQ.T).astype("float64")
    yiq[..., 0] = images @ YIQ[0]
    return np.clip(yiq @ np.linalg.inv(YIQ).T, -1.0, 1.0).astype("float32")
