"""HDF5 files of weights, whose arrays are looked at before one is read."""

import contextlib
import io
import math
import zipfile

from keras_genai.utils.archives import check_size

WEIGHTS = "model.weights.h5"  # within a .keras file


def check_hdf5(file):
    """Refuses a file with arrays larger than their bytes, or that lie elsewhere.

    Args:
        file: path, or an open binary file.

    Raises:
        ValueError: names the array.
        OSError: it is no whole HDF5 file.
    """
    import h5py

    with h5py.File(file, "r") as opened:
        groups, seen = [("", opened)], set()
        while groups:
            place, group = groups.pop()
            address = h5py.h5o.get_info(group.id).addr
            if address in seen:  # groups may hold one another
                continue
            seen.add(address)
            for name in group:
                inner = f"{place}/{name}"
                if group.get(name, getclass=True, getlink=True) is not h5py.HardLink:
                    raise ValueError(f"its {inner} is a link to another place")
                found = group[name]
                if isinstance(found, h5py.Group):
                    groups.append((inner, found))
                elif isinstance(found, h5py.Dataset):
                    _check_array(inner, found)


def _check_array(name, array):
    if array.external or array.is_virtual:
        raise ValueError(f"its array {name} lies in another file")
    if array.dtype.kind not in "biufV":  # "V" are types of other libraries
        raise ValueError(f"its array {name} holds {array.dtype}, no real numbers")
    # None of an array without a shape.
    size = math.prod(array.shape or ()) * array.dtype.itemsize
    what = f"its array {name} of the shape {array.shape}"
    check_size(what, array.id.get_storage_size(), size)


def check_weights(path):
    """`check_hdf5` of a `.h5` file, or of the weights in a `.keras` file."""
    if not str(path).endswith(".keras"):
        check_hdf5(path)
        return
    with contextlib.ExitStack() as stack:
        archive = stack.enter_context(zipfile.ZipFile(path))
        part = archive.getinfo(WEIGHTS)
        # What is not compressed is read in place.
        stored = part.compress_type == zipfile.ZIP_STORED
        check_hdf5(
            stack.enter_context(archive.open(part))
            if stored
            else io.BytesIO(archive.read(part))
        )
