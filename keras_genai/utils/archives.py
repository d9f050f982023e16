"""Archives of others, whose sizes are looked at before anything is unpacked.

Needs NumPy and the standard library alone: `tools/fetch_data.py` reads this file by
itself.
"""

from __future__ import annotations

import contextlib
import lzma
import math
import os
import stat
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping

import numpy as np

_RATIO = 200  # that arrays and texts are at most compressed by
_SMALL = 2**20
# How the standard library and NumPy report a damaged file.
DAMAGED = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    TypeError,
    RuntimeError,
    AttributeError,
    SyntaxError,
    OverflowError,
    struct.error,
    tokenize.TokenError,
    lzma.LZMAError,
    zlib.error,
    zipfile.BadZipFile,
)


def check_plain(path: str | os.PathLike) -> None:
    """Refuses what would be waited for or read for ever: a pipe, a device, a folder.

    Raises:
        ValueError: it is no file that has an end.
        FileNotFoundError: it is not there.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("it is no plain file")


def check_sizes(
    archive: zipfile.ZipFile, limits: Mapping[str, int] | None = None
) -> None:
    """Refuses an archive that unpacks to more than such an archive can hold.

    Args:
        archive: opened; nothing but its directory is read.
        limits: name of a part -> the most bytes it may have.

    Raises:
        ValueError: names the part and its size.
    """
    parts = archive.infolist()
    names = {part.filename for part in parts}
    if len(names) != len(parts):
        raise ValueError("two of its parts have one name")
    held = os.fstat(archive.fp.fileno()).st_size
    if sum(part.compress_size for part in parts) > held:
        raise ValueError("its parts overlap")
    for part in parts:
        limit = (limits or {}).get(part.filename)
        what = f"its part {part.filename}"
        check_size(what, part.compress_size, part.file_size, limit)


def check_size(what: str, held: int, size: int, limit: int | None = None) -> None:
    """Refuses a part that unpacks to more than such a part holds.

    Args:
        what: names it, for the message.
        held: bytes in the file.
        size: bytes unpacked.
        limit: the most that there may be; None for any number.
    """
    most = max(_SMALL, _RATIO * held)
    if size > (most if limit is None else min(most, limit)):
        raise ValueError(
            f"{what} unpacks from {held} to {size} bytes, more than such a part has"
        )


@contextlib.contextmanager
def opened_arrays(path: str | os.PathLike) -> Iterator[Arrays]:
    """The arrays of an `.npz` file, of which none is larger than its part.

    Args:
        path: the file.

    Yields:
        Mapping name -> array, read when it is asked for.

    Raises:
        One of `DAMAGED`: it is no whole `.npz` file, or lacks an array.
    """
    check_plain(path)
    # Opened here: zipfile leaves a file open that it cannot read.
    with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        check_sizes(archive)
        yield Arrays(archive)


class Arrays(Mapping):
    """What `opened_arrays` yields.

    Args:
        archive: a `zipfile.ZipFile`, checked by `check_sizes`.
    """

    def __init__(self, archive: zipfile.ZipFile):
        self._archive = archive
        self._names = [name.removesuffix(".npy") for name in archive.namelist()]

    def __iter__(self):
        return iter(self._names)

    def __len__(self):
        return len(self._names)

    def __getitem__(self, name):
        part = self._archive.getinfo(f"{name}.npy")
        form = np.lib.format
        with self._archive.open(part) as member:
            version = form.read_magic(member)
            if version not in ((1, 0), (2, 0)):
                raise ValueError(f"the array {name} has the format {version}")
            read = {1: form.read_array_header_1_0, 2: form.read_array_header_2_0}
            shape, _, dtype = read[version[0]](member)
            size = math.prod(shape) * dtype.itemsize
            if dtype.hasobject or size > part.file_size:
                raise ValueError(
                    f"the array {name} is said to have the shape {shape} of {dtype}, "
                    f"but {part.file_size} bytes"
                )
        with self._archive.open(part) as member:
            return form.read_array(member, allow_pickle=False)
