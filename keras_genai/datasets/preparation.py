"""Photos of any size as arrays of one size, as the published image models have them."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import (
    integer,
    one_of,
    optional,
    pair,
    refuse,
    shown,
    sides,
)

# What is read, by Pillow's names of the formats. EPS is not: Pillow would start another
# program for it.
FORMATS = "PNG JPEG MPO BMP GIF WEBP TIFF PPM AVIF JPEG2000".split()
SUFFIXES = frozenset(
    ".png .jpg .jpeg .jpe .jfif .bmp .gif .webp .tif .tiff .ppm .pgm .pbm .pnm .avif "
    ".jp2".split()
)
INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
WHITE = 255

LONGEST = 2**16  # side of an image
SIZE = sides(LONGEST)


@checked(
    images=None,
    size=SIZE,
    resize=one_of("shorter", "square"),
    shorter_side=optional(integer(1, LONGEST)),
    interpolation=one_of(*INTERPOLATIONS),
    channels=one_of(1, 3),
    value_range=pair(),
)
def prepare(
    images: Any,
    size: int | tuple[int, int],
    *,
    resize: str = "shorter",
    shorter_side: int | None = None,
    interpolation: str = "bicubic",
    channels: int = 3,
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> np.ndarray:
    """Photos of any size as an array of one size.

    With the defaults as CLIP's (2103.00020) preparation, `CLIPImageProcessor` of
    `transformers`: the shorter side becomes `size`, the middle is cut out. With
    `resize="square"` as SigLIP's (2303.15343), `SiglipImageProcessor`: the whole photo,
    its sides stretched. Both filter before they make smaller (antialiasing), by Pillow.
    Means and standard deviations are the model's own matter: the values are in
    `value_range`.

    A photo is turned as its EXIF orientation says, transparency is put on white, and of
    several frames the first is taken. Sixteen bits become eight.

    Args:
        images: one photo, or a list of them, or an array `(N, H, W, C)`. A photo is the
            path of a file, a `PIL.Image.Image`, or an array `(H, W)` or `(H, W, C)`
            with 1, 3 or 4 channels (the last is opacity): of uint8 or uint16, or of
            floats in [-1, 1].
        size: height and width of the result, an integer or `(height, width)`.
        resize: `"shorter"`: sides keep their ratio, and what is too much is cut off at
            both ends alike; `"square"`: both sides are brought to `size`.
        shorter_side: for `"shorter"`: the length of the shorter side before the middle
            of `size` is cut out. By default as small as holds it.
        interpolation: `"nearest"`, `"bilinear"`, `"bicubic"`, `"lanczos"`, `"box"` or
            `"hamming"`.
        channels: 3, or 1 for grey.
        value_range: `(low, high)`, the values of black and white.

    Returns:
        float32 array `(N, height, width, channels)`, or `(height, width, channels)` of
        one photo, in `value_range`.

    Raises:
        ValueError: a photo cannot be read, or has another form or other values.
        ImportError: Pillow is not installed.

    Example:

    >>> photo = np.zeros((300, 200, 3), "uint8")
    >>> prepare([photo, photo[:, :100]], 224).shape
    (2, 224, 224, 3)
    """
    many = isinstance(images, (list, tuple)) or getattr(images, "ndim", 0) == 4
    photos = list(images) if many else [images]
    if not photos:
        refuse("images", "at least one photo", images)
    how = Resizing(size, resize, shorter_side, interpolation)
    made = []
    for i, photo in enumerate(photos):
        which = f"images[{i}]" if many else "images"
        made.append(_prepared(which, photo, how, channels, value_range))
    return np.stack(made) if many else made[0]


class Resizing:
    """How images of any size become images of one.

    Args:
        size, resize, shorter_side, interpolation: of `prepare`.

    Attributes:
        size: `(height, width)`.
    """

    def __init__(self, size, resize, shorter_side, interpolation):
        self.size = size
        self.resize = resize
        self.shorter_side = shorter_side
        self.interpolation = interpolation
        if shorter_side is not None and resize != "shorter":
            raise ValueError("shorter_side is for resize='shorter'.")
        if shorter_side is not None and shorter_side < max(self.size):
            refuse("shorter_side", f"at least the size, {max(self.size)}", shorter_side)

    def sides(self, height, width):
        """The sides `(height, width)` of an image of these sides before it is cut."""
        if self.resize == "square":
            return self.size
        wanted = self.size
        if self.shorter_side is not None:
            wanted = (self.shorter_side, self.shorter_side)
        # The side that has less to spare gets its length, the other is rounded down.
        if wanted[0] * width >= wanted[1] * height:
            return wanted[0], max(wanted[1], int(wanted[0] * width / height))
        return max(wanted[0], int(wanted[1] * height / width)), wanted[1]

    def __call__(self, image):
        """An image of Pillow's, resized and cut.

        Args:
            image: of one of the modes `"RGB"`, `"L"` and `"F"`.
        """
        height, width = self.sides(image.height, image.width)
        if (width, height) != image.size:
            filters = pillow().Image.Resampling
            image = image.resize(
                (width, height), getattr(filters, self.interpolation.upper())
            )
        top, left = (height - self.size[0]) // 2, (width - self.size[1]) // 2
        return image.crop((left, top, left + self.size[1], top + self.size[0]))


def pillow():
    """The package `PIL`, with its modules `Image` and `ImageOps`."""
    if importlib.util.find_spec("PIL") is None:
        raise ImportError(
            "Reading and resizing images needs Pillow, which is not installed here. "
            "Run `pip install pillow`."
        )
    import PIL.Image
    import PIL.ImageOps

    return PIL


@contextlib.contextmanager
def opened(path: str | os.PathLike):
    """An image file, of which only the head has been read.

    Yields:
        `PIL.Image.Image`.

    Raises:
        ValueError: it cannot be read, or is of a format that is not; says why.
    """
    library = pillow().Image
    library.init()
    known = [name for name in FORMATS if name in library.OPEN]
    try:
        image = library.open(path, formats=known)
    except Exception as error:  # the readers of the formats raise errors of any class
        raise ValueError(_told(path, error)) from error
    with image:
        yield image


def _told(path, error):
    """What is wrong with a file, in a few words."""
    unknown = type(error).__name__ == "UnidentifiedImageError"
    if unknown and Path(path).is_file():
        size = Path(path).stat().st_size
        return "it is empty" if not size else f"it is no image of {', '.join(FORMATS)}"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def bytes_of(path: str | os.PathLike, resizing: Resizing, channels: int) -> np.ndarray:
    """An image file as bytes `(height, width, channels)` of one size.

    Raises:
        ValueError: it cannot be read; says why, without its name.
    """
    with opened(path) as image:
        try:
            return _bytes(image, resizing, channels)
        except Exception as error:
            raise ValueError(_told(path, error)) from error


def _bytes(image, resizing, channels):
    """An image of Pillow's as bytes `(height, width, channels)`."""
    made = np.asarray(resizing(_flat(image, channels)))
    return made.reshape(*made.shape[:2], channels)


def _flat(image, channels):
    """An image of Pillow's upright, in eight bits, on white, in grey or in colour."""
    library = pillow()
    # Of frames, the first; a damaged orientation is none.
    with contextlib.suppress(Exception):
        image = library.ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = library.Image.fromarray(_eight_bits(np.asarray(image)))
    if image.mode == "F":
        raise ValueError(
            "its values are floats, of which the range is not known: save it with 8 or "
            "16 bits"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = library.Image.new("RGBA", image.size, (WHITE,) * 4)
        image = library.Image.alpha_composite(white, image)
    mode = "RGB" if channels == 3 else "L"
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(values):
    """Integers of up to 16 bits in eight."""
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"its values reach from {values.min()} to {values.max()}, more than 16 bits"
        )
    return ((values.astype("uint32") + 128) // 257).astype("uint8")


# Photos of any kind


def _prepared(which, photo, resizing, channels, value_range):
    """A photo as float32 `(height, width, channels)` in a range."""
    if isinstance(photo, (str, os.PathLike)):
        try:
            return byte_values(value_range)[bytes_of(photo, resizing, channels)]
        except ValueError as error:
            raise ValueError(f"{which}, {photo}, cannot be read: {error}.") from error
    library = pillow().Image
    if isinstance(photo, library.Image):
        try:
            return byte_values(value_range)[_bytes(photo, resizing, channels)]
        except (OSError, ValueError) as error:
            raise ValueError(f"{which} cannot be read: {error}.") from error
    array = _photo_array(which, photo)  # (H, W, C)
    if array.dtype.kind != "f":
        array = array if array.dtype == np.uint8 else _eight_bits(array)
        plain = array[..., 0] if array.shape[-1] == 1 else array
        made = _bytes(library.fromarray(plain), resizing, channels)
        return byte_values(value_range)[made]
    if array.shape[-1] == 4:
        opacity = (array[..., 3:] + 1) / 2
        array = array[..., :3] * opacity + 1 - opacity
    if array.shape[-1] == 3 and channels == 1:  # ITU-R 601, as Pillow's
        array = array @ np.array([[0.299], [0.587], [0.114]], "float32")
    planes = [
        np.asarray(resizing(library.fromarray(np.ascontiguousarray(plane))))
        for plane in np.moveaxis(array, -1, 0)
    ]
    made = np.stack(planes * (channels // len(planes)), axis=-1)
    low, high = value_range
    # Bicubic filters swing beyond what they are given.
    made = (np.clip(made, -1.0, 1.0) + 1) / 2 * (high - low) + low
    return np.clip(made, low, high).astype("float32")


def _photo_array(which, photo):
    """An array of a photo, of uint8, uint16 or float32: `(H, W, C)`."""
    says = (
        "the path of a file, an image of Pillow's, or an array (H, W) or (H, W, C) "
        "with 1, 3 or 4 channels"
    )
    if not hasattr(photo, "shape") or not hasattr(photo, "dtype"):
        refuse(which, says, photo)
    if not isinstance(photo, np.ndarray):
        import keras

        photo = keras.ops.convert_to_numpy(photo)
    array = photo[..., np.newaxis] if photo.ndim == 2 else photo
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or 0 in array.shape:
        refuse(which, says, photo)
    if array.dtype in (np.uint8, np.uint16):
        return array
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        refuse(which, "of uint8, uint16 or floats", photo)
    array = array.astype("float32")
    low, high = array.min(), array.max()
    if not (low >= -1.0 and high <= 1.0):  # also false for NaN
        raise ValueError(
            f"{which} must hold floats in [-1, 1]; got values from {low:g} to {high:g}."
            " Give bytes as uint8, or divide by 127.5 and subtract 1."
        )
    if 0 <= low < 0.1 and high > 0.5:
        warnings.warn(
            f"{which} holds floats from {low:g} to {high:g}, which are taken for the "
            "brighter half of [-1, 1]. If they are in [0, 1], give 2 * images - 1.",
            stacklevel=5,
        )
    return array


def byte_values(value_range: tuple[float, float]) -> np.ndarray:
    """The float32 value of each of the 256 bytes.

    A table has exactly `low` and `high` at its ends; scaling in float32 may overshoot
    them by one unit in the last place.
    """
    return np.linspace(*value_range, 256).astype("float32")


# Published configurations

# How Pillow numbers its filters.
_FILTERS = dict(enumerate(INTERPOLATIONS))
_READ = (
    "size crop_size resample do_resize do_center_crop do_rescale rescale_factor "
    "do_normalize do_convert_rgb default_to_square image_mean image_std"
).split()


def of_processor(config: dict, path: str = "preprocessor_config.json") -> dict:
    """What a published image processor's configuration means for `prepare`.

    Args:
        config: the content of the file, a dict of JSON's values.
        path: of the file, for messages.

    Returns:
        Dict of the arguments `size`, `resize`, `shorter_side` and `interpolation` of
        `prepare`, and of `mean` and `std`, tuples of three floats, of values in [0, 1].

    Raises:
        ValueError: it asks for what `prepare` does not do; names the key.
    """

    def wrong(key, says):
        raise ValueError(f"{path}: {key} must be {says}; it is {shown(config[key])}.")

    def number(value):
        return type(value) is int and 0 < value <= 2**16

    config = {**dict.fromkeys(_READ), **config}
    for key in ("do_resize", "do_rescale", "do_normalize"):
        if config[key] not in (None, True):
            wrong(key, "true")
    scale = config["rescale_factor"]
    if scale is not None and not (
        isinstance(scale, float) and abs(scale * 255 - 1) < 1e-6
    ):
        wrong("rescale_factor", "1 / 255")
    filters = config["resample"]
    filters = 3 if filters is None else filters
    if filters not in _FILTERS:
        wrong("resample", f"one of {', '.join(map(str, _FILTERS))}")
    found = {"interpolation": _FILTERS[filters], "shorter_side": None}
    for name in ("mean", "std"):
        values = config[f"image_{name}"]
        numbers = isinstance(values, list) and len(values) == 3
        if not numbers or not all(type(v) in (int, float) for v in values):
            wrong(f"image_{name}", "a list of three numbers")
        found[name] = tuple(map(float, values))
    if min(found["std"]) <= 0:
        wrong("image_std", "above 0")
    size, crop = config["size"], config["crop_size"]
    cut = config["do_center_crop"] not in (None, False)
    if number(size):  # as older files have it: the crop tells CLIP's from SigLIP's
        size = {"shortest_edge": size} if cut else {"height": size, "width": size}
    crop = {"height": crop, "width": crop} if number(crop) else crop
    size = size if isinstance(size, dict) else {}
    sides = [size.get(key) for key in ("height", "width")]
    if all(map(number, sides)):
        if cut and crop != size:
            wrong("crop_size", "the size")
        return {**found, "size": tuple(sides), "resize": "square"}
    short = size.get("shortest_edge")
    if not number(short) or set(size) != {"shortest_edge"}:
        wrong("size", "a height and a width, or a shortest edge")
    sides = [crop.get(k) for k in ("height", "width")] if isinstance(crop, dict) else []
    if not cut or len(sides) != 2 or not all(map(number, sides)):
        wrong("crop_size", "a height and a width, with do_center_crop")
    if max(sides) > short:
        wrong("crop_size", f"at most the shortest edge, {short}")
    found["shorter_side"] = None if sides == [short, short] else short
    return {**found, "size": tuple(sides), "resize": "shorter"}
