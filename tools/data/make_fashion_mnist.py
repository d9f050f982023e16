"""Make `keras_genai/datasets/fashion_mnist.npz`, the subset inside the package.

    python tools/data/make_fashion_mnist.py

Fetches Debian's package `dataset-fashion-mnist` (Zalando's 60,000 + 10,000 images,
Expat licence) with `apt-get download`, checks the hash of every file in it, and
keeps the first 2,000 training and 500 test images of each of the ten classes, in
the order in which the full set has them.

The file's bytes are the same on every run: dates inside are fixed, and the order
is the source's. (zlib is the one influence from outside: another implementation
of it may pack the same arrays into other bytes. The script says so when it
happens.) Needs a Debian or Ubuntu machine and NumPy; run `apt-get update` first
where the package is not found.
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import _sources as sources
import numpy as np
from _sources import pack

TARGET = sources.FOLDER / "fashion_mnist.npz"
PER_CLASS = {"train": 2000, "test": 500}
CLASSES = 10

# Each array's file in the Debian package, with the SHA-256 of the compressed file.
SOURCES = {
    "x_train": (
        "train-images-idx3-ubyte.gz",
        "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
    ),
    "y_train": (
        "train-labels-idx1-ubyte.gz",
        "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
    ),
    "x_test": (
        "t10k-images-idx3-ubyte.gz",
        "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
    ),
    "y_test": (
        "t10k-labels-idx1-ubyte.gz",
        "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
    ),
}


def full_set(folder: Path) -> dict[str, np.ndarray]:
    """Fetch all of Fashion-MNIST: images (N, 28, 28) and labels (N,), as bytes."""
    files = sources.unpack(
        sources.fetch("fashion_mnist", folder), lambda name: name.endswith("ubyte.gz")
    )
    found = {Path(name).name: packed for name, packed in files.items()}
    return {
        name: sources.read_idx(
            gzip.decompress(sources.check(found[file], sha256, file)), file
        )
        for name, (file, sha256) in SOURCES.items()
    }


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """The places of the first `count` labels of every class, in file order."""
    places = [np.flatnonzero(labels == label)[:count] for label in range(CLASSES)]
    if any(len(place) < count for place in places):
        raise SystemExit(f"A class has fewer than {count} images.")
    return np.sort(np.concatenate(places))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=TARGET, help="file to write")
    options = parser.parse_args()
    with sources.scratch() as folder:
        full = full_set(folder)
    arrays = {}
    for part, count in PER_CLASS.items():
        chosen = first_of_each_class(full[f"y_{part}"], count)
        arrays[f"x_{part}"] = full[f"x_{part}"][chosen]
        arrays[f"y_{part}"] = full[f"y_{part}"][chosen]
    for name, array in arrays.items():
        print(f"{name}: {array.shape} {array.dtype}")
    sources.write(options.output, pack(arrays))


if __name__ == "__main__":
    main()
