"""Large pictures in parts: the gradient of a network for the memory of one part.

The parts overlap. Of each, what lies within half the overlap of an inner edge is not
taken: there the network saw its own border, and not the picture. So where the window
of the network is no larger than the overlap, the parts' gradients are those of the
whole picture.
"""

from keras_genai.utils.checks import check_integer


def check_tiles(tile, overlap):
    """Refuses parts that do not cover a picture."""
    if tile is None:
        return
    check_integer("tile", tile, 2)
    check_integer("tile_overlap", overlap, 0)
    if overlap >= tile:
        raise ValueError(
            f"tile_overlap must be less than tile; got {overlap} and {tile}."
        )


def starts(side, tile, overlap):
    """Where the parts of one side begin; the last ends with the side."""
    if tile >= side:
        return [0]
    return [*range(0, side - tile, tile - overlap), side - tile]


def parts(height, width, tile, overlap):
    """The parts of a picture, and what of each is taken.

    Args:
        height, width: of the picture.
        tile: side of a part.
        overlap: of two parts.

    Returns:
        List of `(whole, place, inner)`, each a pair of slices, rows and columns: the
        part in the picture, what is taken of it in the picture, and in the part.
    """
    rows = [
        _side(start, height, tile, overlap) for start in starts(height, tile, overlap)
    ]
    columns = [
        _side(start, width, tile, overlap) for start in starts(width, tile, overlap)
    ]
    return [tuple(zip(row, column, strict=True)) for row in rows for column in columns]


def _side(start, side, tile, overlap):
    stop = min(start + tile, side)
    first = start + (overlap // 2 if start > 0 else 0)
    last = stop - (overlap // 2 if stop < side else 0)
    return slice(start, stop), slice(first, last), slice(first - start, last - start)
