"""Many images as one picture, and as one animation."""

import io
import json
import math
from pathlib import Path

import numpy as np

from keras_genai.utils.arguments import checked
from keras_genai.utils.files import written_beside
from keras_genai.utils.validation import array, integer, pair, path

# suffix -> (Pillow's name, the largest side, how to save)
ANIMATIONS = {
    "webp": ("WEBP", 16383, {"quality": 90, "method": 4}),
    "gif": ("GIF", 65535, {"optimize": False}),
    "apng": ("PNG", 2**31 - 1, {}),
}
_SETTINGS = "keras_genai"  # the name of the PNG's chunk of text
LONGEST = 600_000  # milliseconds: a GIF counts hundredths of a second in 16 bits


@checked(
    images=array(finite=False, says="images (N, H, W, C)"),
    columns=integer(1),
    scale=integer(1, 1000),
    gap=integer(0, 1000),
    value_range=pair(),
)
def image_grid(
    images: np.ndarray,
    columns: int | None = None,
    scale: int | None = None,
    gap: int = 2,
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> np.ndarray:
    """Images side by side, row by row, on white.

    Args:
        images: `(N, H, W, C)`, N at least 1; C is 1 (grey), 2 (grey with alpha), 3
            (red, green, blue) or 4 (with alpha, which is shown on white).
        columns: images in a row; by default as many as there are rows, or one more.
        scale: how many pixels wide and high each pixel becomes; by default 1, and for
            images under 64 pixels as many as fit in 64.
        gap: white pixels between two images and around all.
        value_range: values of black and white; what is outside is cut off.

    Returns:
        uint8 array `(height, width, 3)`, for `PIL.Image.fromarray` or
        `matplotlib.pyplot.imshow`.

    Raises:
        ValueError: for another shape, or a number under 1 (`gap`: under 0).

    Example:

    ```python
    grid = kg.callbacks.image_grid(model.generate(16, seed=0))
    PIL.Image.fromarray(grid).save("samples.png")
    ```
    """
    images = np.asarray(images)
    if images.ndim != 4 or 0 in images.shape or images.shape[-1] > 4:
        raise ValueError(
            "image_grid draws images (N, H, W, C) with 1 to 4 channels; got the shape "
            f"{images.shape}."
        )
    count, height, width, _ = images.shape
    if columns is None:
        columns = math.ceil(math.sqrt(count))
    if scale is None:
        scale = max(1, 64 // max(height, width))
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    cells = np.full((rows * columns, height * scale + gap, width * scale + gap, 3), 255)
    pixels = _on_white(images, *value_range)  # (N, H, W, 3)
    enlarged = pixels.repeat(scale, axis=1).repeat(scale, axis=2)
    cells[:count, gap:, gap:] = enlarged
    grid = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    grid = grid.reshape(rows * cells.shape[1], columns * cells.shape[2], 3)
    return np.pad(grid, ((0, gap), (0, gap), (0, 0)), constant_values=255).astype(
        "uint8"
    )


@checked(
    path=path,
    frames=array((3, 4)),
    milliseconds=integer(1, LONGEST),
    last=integer(1, LONGEST),
    value_range=pair(),
)
def save_animation(
    path: str | Path,
    frames: np.ndarray,
    milliseconds: int = 80,
    last: int | None = None,
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> None:
    """Writes pictures one after the other into a file that repeats.

    Args:
        path: ends in `.gif`, `.webp` or `.apng`.
        frames: `(N, H, W, C)`, as `image_grid` takes them, or a list of uint8 arrays
            `(H, W, 3)` of one size.
        milliseconds: that each is shown.
        last: that the last is shown; by default as long as the others.
        value_range: values of black and white, for floats.

    Raises:
        ImportError: Pillow is not installed.
        ValueError: for another ending, no frames, or frames of another shape.

    Example:

    ```python
    kg.callbacks.save_animation("fall.gif", dreamer.zoom(image, frames=20))
    ```
    """
    path = Path(path)
    if path.suffix[1:].lower() not in ANIMATIONS:
        raise ValueError(
            f"path must end in {', '.join(f'.{name}' for name in ANIMATIONS)}; got "
            f"{path.name!r}."
        )
    frames = list(frames)
    if not frames or len({np.shape(frame) for frame in frames}) != 1:
        raise ValueError("frames must be at least one picture, all of one shape.")
    if frames[0].ndim != 3 or frames[0].shape[-1] > 4:
        raise ValueError(
            "frames must be pictures (H, W, C) with 1 to 4 channels; got the shape "
            f"{frames[0].shape}."
        )
    from PIL import Image

    if frames[0].dtype != np.uint8:
        frames = [_on_white(frame, *value_range) for frame in frames]
    elif frames[0].shape[-1] == 1:  # Pillow's greys have no axis of channels
        frames = [frame[..., 0] for frame in frames]
    pictures = [Image.fromarray(frame) for frame in frames]
    kind, _, options = ANIMATIONS[path.suffix[1:].lower()]
    last = milliseconds if last is None else last
    file = io.BytesIO()
    pictures[0].save(
        file,
        kind,
        save_all=True,
        append_images=pictures[1:],
        duration=[*[milliseconds] * (len(pictures) - 1), last],
        loop=0,
        **options,
    )
    with written_beside(path) as beside:
        beside.write_bytes(file.getvalue())


@checked(
    path=path,
    image=array((2, 3), finite=False, says="an image (H, W, C) or (H, W)"),
    value_range=pair(),
)
def save_image(
    path: str | Path,
    image: np.ndarray,
    *,
    value_range: tuple[float, float] = (-1.0, 1.0),
    **settings,
) -> None:
    """Writes one picture as a PNG, with what it was made by.

    Args:
        path: ends in `.png`.
        image: floats `(H, W, C)`, C as in `image_grid`, or uint8.
        value_range: values of black and white, for floats.
        **settings: what is written into the file beside the picture, such as
            `prompts="a red heart", seed=3, num_steps=20`: strings, numbers, lists and
            dicts of them, None. `read_settings` reads them.

    Raises:
        ImportError: Pillow is not installed.
        ValueError: for another ending or shape, or a setting that JSON does not hold.

    Example:

    ```python
    settings = {"prompts": "a red heart", "seed": 3}
    images = model.generate(**settings)
    kg.callbacks.save_image("heart.png", images[0], **settings)
    again = model.generate(**kg.callbacks.read_settings("heart.png"))
    ```
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"path must end in .png; got {path.name!r}.")
    image = image[..., None] if image.ndim == 2 else image
    if image.shape[-1] > 4:
        raise ValueError(
            f"image must have 1 to 4 channels, last; got the shape {image.shape}."
        )
    try:
        text = json.dumps(settings, default=_plain, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"settings must be strings, numbers, lists, dicts or None: {error}."
        ) from None
    from PIL import Image, PngImagePlugin

    if image.dtype != np.uint8:
        image = _on_white(image, *value_range)
    elif image.shape[-1] == 1:
        image = image[..., 0]
    about = PngImagePlugin.PngInfo()
    if settings:
        about.add_itxt(_SETTINGS, text)
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", pnginfo=about)
    with written_beside(path) as beside:
        beside.write_bytes(file.getvalue())


@checked(path=path)
def read_settings(path: str | Path) -> dict:
    """What `save_image` wrote into a picture: `{}` where there is nothing.

    Args:
        path: of a PNG.

    Returns:
        Dict of the settings.

    Raises:
        ImportError: Pillow is not installed.
        ValueError: there is no such file, it is no PNG, or its settings are damaged.
    """
    from PIL import Image

    path = Path(path)
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            picture.load()
            text = getattr(picture, "text", {}).get(_SETTINGS)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} is no PNG that can be read ({error}).") from error
    try:
        settings = {} if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"The settings in {path} are damaged ({error}).") from error
    if not isinstance(settings, dict):
        raise ValueError(f"The settings in {path} are no object of names and values.")
    return settings


def _plain(value):
    """A number of NumPy, or a small array, as JSON holds it."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray)):
        if value.size <= 10_000:
            return value.tolist()
    raise TypeError(f"{type(value).__name__} is none of these")


def _on_white(images, low, high):
    """`(..., H, W, C)` in [low, high] to uint8 `(..., H, W, 3)`."""
    unit = (np.nan_to_num(images.astype("float32")) - low) / (high - low)
    unit = np.clip(unit, 0.0, 1.0)
    if unit.shape[-1] in (2, 4):
        alpha = unit[..., -1:]
        unit = alpha * unit[..., :-1] + (1.0 - alpha)
    if unit.shape[-1] == 1:
        unit = unit.repeat(3, axis=-1)
    return (unit * 255.0 + 0.5).astype("uint8")
