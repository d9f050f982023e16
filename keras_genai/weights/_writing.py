"""Writing safetensors by a table of names: whole, or in shards beside an index."""

import math
import pathlib
import re

import numpy as np

from keras_genai.datasets._files import written_beside
from keras_genai.engine import to_host
from keras_genai.export.child import check_installed
from keras_genai.weights._safetensors import write_json

DTYPES = ("float16", "bfloat16", "float32", "float64")


def save(table, path, dtype="float32", max_shard_size=None):
    """Writes our variables under the published names.

    Args:
        table: list of `Entry`.
        path: the `.safetensors` file, which is replaced in one step; shards are beside
            it, of names such as `model-00001-of-00002.safetensors`.
        dtype: `"float16"`, `"bfloat16"`, `"float32"` or `"float64"`.
        max_shard_size: see `bytes_of`; larger weights are written in several files
            and an index, the last file. None: in one.

    Raises:
        ValueError: for another dtype or size.
        ImportError: the package `safetensors` is not installed.
    """
    check_dtype(dtype)
    limit = math.inf if max_shard_size is None else bytes_of(max_shard_size)
    check_installed(["safetensors"], "Writing weights", "'keras-genai[weights]'")
    from safetensors.numpy import save_file

    path, kind = pathlib.Path(path), _numpy_type(dtype)
    shards = _shards(table, limit, kind.itemsize)
    total = len(shards)
    names = {}
    for number, entries in enumerate(shards, 1):
        part = path
        if total > 1:
            part = path.with_stem(f"{path.stem}-{number:05}-of-{total:05}")
        names |= dict.fromkeys((entry.name for entry in entries), part.name)
        arrays = {
            entry.name: np.ascontiguousarray(
                entry.theirs(to_host(entry.variable.value)).astype(kind)
            )
            for entry in entries
        }
        with written_beside(part) as beside:
            save_file(arrays, beside, metadata={"format": "pt"})
    index = path.with_name(f"{path.name}.index.json")
    if total > 1:
        size = sum(_size(entry) for entry in table) * kind.itemsize
        write_json(index, {"metadata": {"total_size": size}, "weight_map": names})
    # What an earlier model left would be read instead, or beside.
    written = {*names.values(), index.name if total > 1 else path.name}
    for old in (path, index, *path.parent.glob(f"{path.stem}-?????-of-?????.*")):
        if old.name not in written and old.exists():
            old.unlink()


def save_folder(table, settings, folder, stem, dtype="float32", max_shard_size=None):
    """Writes a model's folder: its configuration and its weights.

    Args:
        table: list of `Entry`.
        settings: what `config.json` holds, a dict.
        folder: it is made; `config.json` and the weights in it are replaced.
        stem: of the weights' file, `"model"` for `model.safetensors`.
        dtype, max_shard_size: see `save`.

    Raises:
        ValueError: for another dtype or size, or the folder is a file.
        ImportError: the package `safetensors` is not installed.
    """
    check_dtype(dtype)
    if max_shard_size is not None:
        bytes_of(max_shard_size)
    folder = pathlib.Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; save_pretrained writes a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    save(table, folder / f"{stem}.safetensors", dtype, max_shard_size)
    write_json(folder / "config.json", settings)


def _size(entry):
    return math.prod(entry.variable.shape)


def _shards(table, limit, itemsize):
    """The table in parts of at most `limit` bytes, or of a single entry."""
    shards, room = [[]], limit
    for entry in table:
        size = _size(entry) * itemsize
        if size > room and shards[-1]:
            shards.append([])
            room = limit
        shards[-1].append(entry)
        room -= size
    return shards


def bytes_of(size):
    """A number of bytes of `"5GB"`, `"200MB"`, `"10KB"` or an integer.

    Raises:
        ValueError: for anything else, or nothing.
    """
    found = re.fullmatch(r"(\d+) ?(GB|MB|KB|B)?", str(size))
    units = {"GB": 10**9, "MB": 10**6, "KB": 10**3, "B": 1, None: 1}
    count = int(found[1]) * units[found[2]] if found else 0
    if not count:
        raise ValueError(
            f"A size must be such as '5GB', '200MB' or a number of bytes; got {size!r}."
        )
    return count


def check_dtype(dtype):
    """Refuses what safetensors of weights do not hold."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}.")


def _numpy_type(dtype):
    if dtype != "bfloat16":
        return np.dtype(dtype)
    import ml_dtypes  # comes with Keras

    return np.dtype(ml_dtypes.bfloat16)
