"""Large images piece by piece, through a network that is too large for them whole."""

import math

import numpy as np


def starts(side, tile, overlap):
    """Where the tiles of one side begin: evenly, the first at 0, the last at the end.

    All have the same size, so that one compiled shape serves, and no narrow last one
    is normalised by the statistics of a few pixels.

    Args:
        side: length of the side.
        tile: length of a tile, at most `side`.
        overlap: least number of positions that neighbours share, under `tile`.

    Returns:
        List of integers.
    """
    count = 1 + math.ceil((side - tile) / (tile - overlap))
    return [round(i * (side - tile) / max(1, count - 1)) for i in range(count)]


def ramp(begins, i, tile):
    """The weight of each position of tile i: rising and falling over the overlaps."""
    position = np.arange(tile) + 0.5
    weight = np.ones(tile)
    if i > 0:
        shared = begins[i - 1] + tile - begins[i]
        weight = np.minimum(weight, position / max(1, shared))
    if i + 1 < len(begins):
        shared = begins[i] + tile - begins[i + 1]
        weight = np.minimum(weight, (tile - position) / max(1, shared))
    return weight.astype("float32")


def tiled(fn, x, out_channels, tile, overlap, shrink=1, grow=1):
    """Applies a function to overlapping tiles and blends what comes out linearly.

    Device memory is that of one tile, whatever the size of the images; the result is
    gathered in the host's. A position's blend is the mean of the tiles that hold it,
    each weighted by how far the position lies inside of it.

    Args:
        fn: function `(B, t, u, C)` -> NumPy `(B, t * grow / shrink, ..., D)`.
        x: NumPy `(B, H, W, C)`.
        out_channels: D.
        tile: side of a tile in positions of the small side: latents.
        overlap: least number of such positions that neighbours share.
        shrink: pixels of `x` to one such position.
        grow: positions of the result to one.

    Returns:
        NumPy float32 `(B, H * grow / shrink, W * grow / shrink, D)`.
    """
    sides = [side // shrink for side in x.shape[1:3]]
    tiles = [min(tile, side) for side in sides]
    rows, columns = (
        starts(side, size, min(overlap, size - 1))
        for side, size in zip(sides, tiles, strict=True)
    )
    shape = (len(x), *(side * grow for side in sides), out_channels)
    total = np.zeros(shape, "float32")
    weights = np.zeros((*shape[1:3], 1), "float32")
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            places = [
                (slice(a * scale, (a + t) * scale), slice(b * scale, (b + u) * scale))
                for scale in (shrink, grow)
                for (a, t), (b, u) in [((row, tiles[0]), (column, tiles[1]))]
            ]
            weight = np.outer(
                ramp([a * grow for a in rows], i, tiles[0] * grow),
                ramp([b * grow for b in columns], j, tiles[1] * grow),
            )[..., None]
            total[:, *places[1]] += weight * fn(x[:, *places[0]])
            weights[places[1]] += weight
    return total / weights
