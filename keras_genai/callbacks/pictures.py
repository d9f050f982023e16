"""Many images as one picture."""

import math

import numpy as np

from keras_genai.engine.checks import check_integer


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
    for name, value, least in (
        ("columns", columns, 1),
        ("scale", scale, 1),
        ("gap", gap, 0),
    ):
        check_integer(name, value, least)
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


def _on_white(images, low, high):
    """`(N, H, W, C)` in [low, high] to uint8 `(N, H, W, 3)`."""
    unit = (np.nan_to_num(images.astype("float32")) - low) / (high - low)
    unit = np.clip(unit, 0.0, 1.0)
    if unit.shape[-1] in (2, 4):
        alpha = unit[..., -1:]
        unit = alpha * unit[..., :-1] + (1.0 - alpha)
    if unit.shape[-1] == 1:
        unit = unit.repeat(3, axis=-1)
    return (unit * 255.0 + 0.5).astype("uint8")
