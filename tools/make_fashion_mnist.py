"""Make `keras_genai/datasets/fashion_mnist.npz`, the subset inside the package.

    python tools/make_fashion_mnist.py

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
import hashlib
import io
import os
import subprocess
import tempfile
import zipfile
from pathlib import Path

import numpy as np

PACKAGE = "dataset-fashion-mnist"
FOLDER = "usr/share/datasets/fashion-mnist"
TARGET = (
    Path(__file__).resolve().parent.parent / "keras_genai/datasets/fashion_mnist.npz"
)
PER_CLASS = {"train": 2000, "test": 500}
CLASSES = 10

# Each part's images and labels, with the SHA-256 of the compressed file.
SOURCES = {
    "train": (
        (
            "train-images-idx3-ubyte.gz",
            "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
        ),
        (
            "train-labels-idx1-ubyte.gz",
            "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
        ),
    ),
    "test": (
        (
            "t10k-images-idx3-ubyte.gz",
            "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
        ),
        (
            "t10k-labels-idx1-ubyte.gz",
            "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
        ),
    ),
}


def read_idx(path: Path, sha256: str) -> np.ndarray:
    """One idx file of unsigned bytes as an array, after a check of its hash."""
    packed = path.read_bytes()
    found = hashlib.sha256(packed).hexdigest()
    if found != sha256:
        raise SystemExit(f"{path.name} has SHA-256 {found}; expected {sha256}.")
    raw = gzip.decompress(packed)
    # Two zero bytes, the type (8 = unsigned byte), the rank, then each size.
    if raw[:3] != b"\x00\x00\x08":
        raise SystemExit(f"{path.name} is not an idx file of unsigned bytes.")
    rank = raw[3]
    shape = np.frombuffer(raw, ">i4", rank, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """The places of the first `count` labels of every class, in file order."""
    places = [np.flatnonzero(labels == label)[:count] for label in range(CLASSES)]
    if any(len(place) < count for place in places):
        raise SystemExit(f"A class has fewer than {count} images.")
    return np.sort(np.concatenate(places))


def pack(arrays: dict[str, np.ndarray]) -> bytes:
    """An npz as bytes that depend on the arrays alone (no clock, no machine)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, (1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.external_attr = 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, member.getvalue(), compresslevel=9)
    return file.getvalue()


def fetch(folder: Path) -> Path:
    """Download and unpack the Debian package below `folder`; where its data is."""
    print(f"apt-get download {PACKAGE} (31 MB)", flush=True)
    subprocess.run(["apt-get", "download", "-q", PACKAGE], cwd=folder, check=True)
    (package,) = folder.glob(f"{PACKAGE}_*.deb")
    subprocess.run(["dpkg", "-x", str(package), str(folder / "unpacked")], check=True)
    return folder / "unpacked" / FOLDER


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=TARGET, help="file to write")
    options = parser.parse_args()
    arrays = {}
    with tempfile.TemporaryDirectory() as folder:
        data = fetch(Path(folder))
        for part, (images, labels) in SOURCES.items():
            x = read_idx(data / images[0], images[1])  # (N, 28, 28)
            y = read_idx(data / labels[0], labels[1])  # (N,)
            chosen = first_of_each_class(y, PER_CLASS[part])
            arrays[f"x_{part}"] = x[chosen]
            arrays[f"y_{part}"] = y[chosen]
    packed = pack(arrays)
    unfinished = options.output.with_suffix(".part")
    unfinished.write_bytes(packed)
    os.replace(unfinished, options.output)
    for name, array in arrays.items():
        print(f"{name}: {array.shape} {array.dtype}")
    print(f"{options.output}: {len(packed):,} bytes")
    found = hashlib.sha256(packed).hexdigest()
    print(f"SHA-256 {found}")
    if found not in (TARGET.parent / "__init__.py").read_text(encoding="utf-8"):
        print(
            "This is not the SHA-256 pinned in keras_genai/datasets/__init__.py. If "
            "only zlib's packing differs, keep the committed file."
        )


if __name__ == "__main__":
    main()
