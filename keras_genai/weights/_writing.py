"""Writing safetensors by a table of names: whole, or in shards beside an index."""

import functools
import math
import pathlib
import re

import numpy as np

from keras_genai.backend import to_host
from keras_genai.export.child import check_installed
from keras_genai.utils.files import written_into
from keras_genai.weights._safetensors import write_json

DTYPES = ("float16", "bfloat16", "float32", "float64")


def save(table, path, dtype="float32", max_shard_size=None):
    """Writes our variables under the published names.

    Args:
        table: list of `Entry`.
        path: the `.safetensors` file; shards are beside it, of names such as
            `model-00001-of-00002.safetensors`. All are replaced, or none.
        dtype: `"float16"`, `"bfloat16"`, `"float32"` or `"float64"`.
        max_shard_size: see `bytes_of`; larger weights are written in several files
            and an index, the last file. None: in one.

    Raises:
        ValueError: for another dtype or size.
        ImportError: the package `safetensors` is not installed.
        OSError: it cannot be written; what stood there is whole.
    """
    check_dtype(dtype)
    limit = math.inf if max_shard_size is None else bytes_of(max_shard_size)
    check_installed(["safetensors"], "Writing weights", "'keras-genai[weights]'")
    from safetensors.numpy import save_file

    path, kind = pathlib.Path(path), _numpy_type(dtype)
    shards = _shards(table, limit, kind.itemsize)
    total = len(shards)
    index = f"{path.name}.index.json"
    # What an earlier model left would be read instead, or beside.
    stale = (path.name, index, f"{path.stem}-?????-of-?????.*")
    names = {}
    head = path.name if total == 1 else index
    with written_into(path.parent, head, stale) as folder:
        for number, entries in enumerate(shards, 1):
            part = path.name
            if total > 1:
                part = f"{path.stem}-{number:05}-of-{total:05}{path.suffix}"
            names |= dict.fromkeys((entry.name for entry in entries), part)
            arrays = {
                entry.name: np.asarray(
                    entry.theirs(to_host(entry.variable.value)), kind, order="C"
                )
                for entry in entries
            }
            save_file(arrays, folder / part, metadata={"format": "pt"})
        if total > 1:
            size = sum(_size(entry) for entry in table) * kind.itemsize
            content = {"metadata": {"total_size": size}, "weight_map": names}
            write_json(folder / index, content)


def save_folder(
    table, settings, folder, stem, dtype="float32", max_shard_size=None, stale=()
):
    """Writes a model's folder, its configuration and its weights: both or neither.

    Args:
        table: list of `Entry`.
        settings: what `config.json` holds, a dict.
        folder: it is made; `config.json` and the weights in it are replaced.
        stem: of the weights' file, `"model"` for `model.safetensors`.
        dtype, max_shard_size: see `save`.
        stale: patterns of other files that an earlier save may have left.

    Raises:
        ValueError: for another dtype or size, or the folder is a file.
        ImportError: the package `safetensors` is not installed.
        OSError: it cannot be written; what stood there is whole.
    """
    check_dtype(dtype)
    if max_shard_size is not None:
        bytes_of(max_shard_size)
    with written_into(check_folder(folder), "config.json", stale) as beside:
        save(table, beside / f"{stem}.safetensors", dtype, max_shard_size)
        write_json(beside / "config.json", settings)


def check_folder(folder):
    """The path of a folder to write; a `ValueError` for a file of that name."""
    path = pathlib.Path(folder)
    if not str(folder) or (path.exists() and not path.is_dir()):
        raise ValueError(
            f"{str(folder)!r} is no folder; save_pretrained writes a folder."
        )
    return path


def saved_whole(save):
    """Makes all that a function writes in a folder replace what stands there, or none.

    Args:
        save: function (model, folder, ...).
    """

    @functools.wraps(save)
    def saved(model, folder, *args, **kwargs):
        with written_into(check_folder(folder), "config.json") as beside:
            save(model, beside, *args, **kwargs)

    return saved


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
