"""Images as sequences of patches (2010.11929, section 3.1), and back."""

from keras import ops


def patchify(images, side):
    """Images cut into patches: `(B, H, W, C)` -> `(B, T, side * side * C)`."""
    _, height, width, channels = images.shape
    rows, columns = height // side, width // side
    x = ops.reshape(images, (-1, rows, side, columns, side, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))  # (B, h, w, p, p, C)
    return ops.reshape(x, (-1, rows * columns, side * side * channels))


def unpatchify(patches, side, grid, channels):
    """The inverse of `patchify`: `(B, T, side * side * C)` -> `(B, H, W, C)`.

    Args:
        patches: tensor.
        side: of a patch.
        grid: `(rows, columns)` of the patches.
        channels: C.
    """
    rows, columns = grid
    x = ops.reshape(patches, (-1, rows, columns, side, side, channels))
    x = ops.transpose(x, (0, 1, 3, 2, 4, 5))  # (B, h, p, w, p, C)
    return ops.reshape(x, (-1, rows * side, columns * side, channels))
