"""Reading and writing safetensors by a table of names, for every family.

A family's file makes the table, a list of `Entry`: the name that the published files
have, our variable, and how an array is turned around between the two. `load` checks
all of it before it changes anything. `_writing.save` writes by the same table.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Callable

import keras
import numpy as np

from keras_genai.export.child import check_installed
from keras_genai.utils.deferred import deferred, fill, finish

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".pickle")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One tensor of a published file.

    Args:
        name: its name in the file.
        variable: our `keras.Variable`.
        shape: its shape in the file.
        ours: function array of that shape -> array of the variable's shape.
        theirs: the inverse.
        aliases: other names that older files have for it.
        shapes: other shapes that older files have; each has as many elements.
        optional: whether the file may lack it: the variable then keeps its values.
    """

    name: str
    variable: keras.Variable
    shape: tuple
    ours: Callable
    theirs: Callable
    aliases: tuple = ()
    shapes: tuple = ()
    optional: bool = False


class Joined:
    """Several variables as the one that a file has, side by side on the last axis.

    Args:
        variables: list of Keras variables whose other axes are equal.
    """

    def __init__(self, variables):
        self.variables = list(variables)
        self.dtype = self.variables[0].dtype
        self.widths = [int(v.shape[-1]) for v in self.variables]
        self.shape = (*self.variables[0].shape[:-1], sum(self.widths))

    @property
    def value(self):
        parts = [keras.ops.convert_to_numpy(v.value) for v in self.variables]
        return np.concatenate(parts, axis=-1)

    def assign(self, array):
        parts = np.split(array, np.cumsum(self.widths)[:-1], axis=-1)
        for variable, part in zip(self.variables, parts, strict=True):
            fill(variable, np.ascontiguousarray(part))


def _same(array):
    return array


def vector(name, variable, aliases=()):
    """A bias, gain or offset."""
    return Entry(name, variable, tuple(variable.shape), _same, _same, aliases)


def convolution(name, variable, aliases=()):
    """A kernel `(h, w, in, out)`, in PyTorch's files `(out, in, h, w)`."""
    h, w, inputs, outputs = variable.shape
    return Entry(
        name,
        variable,
        (outputs, inputs, h, w),
        lambda a: a.transpose(2, 3, 1, 0),
        lambda a: a.transpose(3, 2, 0, 1),
        aliases,
    )


def reshaped(name, variable, aliases=(), shape=(), shapes=()):
    """A variable that the file holds in another shape of as many elements.

    Args:
        shape: in the file.
        shapes: others that files have.
    """
    own = tuple(variable.shape)
    return Entry(
        name,
        variable,
        shape,
        lambda a: a.reshape(own),
        lambda a: a.reshape(shape),
        aliases,
        shapes,
    )


def patches(name, variable, aliases=(), side=1, channels=1):
    """A map of patches `(side * side * C, D)`, in the file a convolution's kernel."""
    width = variable.shape[1]
    return Entry(
        name,
        variable,
        (width, channels, side, side),
        lambda a: a.transpose(2, 3, 1, 0).reshape(-1, width),
        lambda a: a.reshape(side, side, channels, width).transpose(3, 2, 0, 1),
        aliases,
    )


def dense(name, variable, aliases=()):
    """A matrix `(in, out)`, in PyTorch's files `(out, in)` or `(out, in, 1, 1)`."""
    inputs, outputs = variable.shape
    return Entry(
        name,
        variable,
        (outputs, inputs),
        np.transpose,
        np.transpose,
        aliases,
        ((outputs, inputs, 1, 1),),
    )


def pointwise(name, variable, aliases=()):
    """A matrix `(in, out)`, in the file a 1 x 1 convolution's `(out, in, 1, 1)`."""
    inputs, outputs = variable.shape
    return Entry(
        name,
        variable,
        (outputs, inputs, 1, 1),
        lambda a: a[:, :, 0, 0].T,
        lambda a: a.T[:, :, None, None],
        aliases,
        ((outputs, inputs),),
    )


# Reading


class Tensors:
    """The tensors of one file, or of the shards that an index names, read singly.

    Args:
        path: a `.safetensors` file or a `.safetensors.index.json`.

    Raises:
        ValueError: the file is missing, a pickle, or damaged.
        ImportError: the package `safetensors` is not installed.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)
        refuse_pickle(self.path)
        check_installed(["safetensors"], "Reading weights", "'keras-genai[weights]'")
        if self.path.name.endswith(".index.json"):
            self._files = self._shards()
        else:
            self._files = {}
            self._add(self.path, None)

    def _shards(self):
        weight_map = read_json(self.path).get("weight_map")
        whole = isinstance(weight_map, dict) and len(weight_map) > 0
        if not whole or not all(isinstance(v, str) for v in weight_map.values()):
            raise ValueError(
                f"{self.path} must hold a weight_map, an object of the file's name for "
                "each tensor."
            )
        self._files = {}
        for shard in sorted(set(weight_map.values())):
            if pathlib.PurePath(shard).name != shard:
                raise ValueError(
                    f"{self.path} names the shard {shard!r}, which is not a file "
                    "beside it."
                )
            refuse_pickle(pathlib.Path(shard))
            named = {name for name, file in weight_map.items() if file == shard}
            self._add(self.path.parent / shard, named)
        return self._files

    def _add(self, file, named):
        """Notes the tensors of a file: `named`, those that an index says are there.

        Others that lie in it are read from the file that the index names for them.
        """
        try:
            there = file.is_file()
        except OSError:  # no name of a file can be so long
            there = False
        if not there:
            raise ValueError(f"There is no file {file}.")
        with _opened(file) as tensors:
            names = set(tensors.keys())
        absent = sorted((named or set()) - names)
        if absent:
            raise ValueError(
                f"{file} lacks tensors that {self.path.name} names: "
                f"{', '.join(absent)}."
            )
        self._files.update(dict.fromkeys(names if named is None else named, file))

    def names(self):
        return set(self._files)

    def kinds(self):
        """Dict name -> (shape, dtype), from the files' headers alone."""
        kinds = {}
        for file in sorted(set(self._files.values())):
            with _opened(file) as tensors:
                for name, own in self._files.items():
                    if own != file:
                        continue
                    part = tensors.get_slice(name)
                    kinds[name] = tuple(part.get_shape()), part.get_dtype()
        return kinds

    def arrays(self, names):
        """Iterator of (name, NumPy array in the file's dtype), one at a time."""
        for file in sorted({self._files[name] for name in names}):
            with _opened(file) as tensors:
                for name in names:
                    if self._files[name] == file:
                        yield name, tensors.get_tensor(name)


@contextlib.contextmanager
def _opened(file):
    """A safetensors file, with a clear word about a damaged one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as tensors:
            yield tensors
    except SafetensorError as error:
        raise ValueError(
            f"{file} is damaged or no safetensors file ({error}). Copy it again, whole."
        ) from error


def refuse_pickle(path, instead="diffusion_pytorch_model.safetensors"):
    """Raises a `ValueError` for a file that is a Python pickle.

    Args:
        path: of the file.
        instead: what to call the converted file, for the message.
    """
    if path.suffix in PICKLES:
        raise ValueError(
            f"{path} is a pickle: to read it is to run what is in it, so it is not "
            "read here. Convert it once where PyTorch is installed and the file is "
            "trusted: state = torch.load(path, weights_only=True); "
            f"safetensors.torch.save_file(state, {instead!r})"
        )


_FLOATS = {"F16", "BF16", "F32", "F64"}


def load_model(make, table, path, ignored=None, config=None):
    """A model with the weights of a file, made without weights of its own.

    Nothing is allocated before the shapes in the file's header are those of the model.

    Args:
        make: function (dict name -> (shape, dtype) of the tensors) -> model.
        table: function (model, those) -> list of `Entry`.
        path: a `.safetensors` file or a `.safetensors.index.json`.
        ignored: see `load`.
        config: path of the configuration that `make` reads, for messages.

    Raises:
        ValueError: no such model can be made; see `load`.
    """
    kinds = Tensors(path).kinds()
    with deferred() as variables:
        try:
            model = make(kinds)
        except (ValueError, TypeError, ArithmeticError) as error:
            if config is None or str(config.parent) in str(error):
                raise
            raise ValueError(f"No model can be made of {config}: {error}") from error
    load(table(model, kinds), path, ignored)
    finish(variables)
    return model


def load(table, path, ignored=None):
    """Assigns the tensors of a file to our variables; all or none.

    Args:
        table: list of `Entry`.
        path: a `.safetensors` file or a `.safetensors.index.json`.
        ignored: function of a name: whether that tensor may be there beside the
            table's; by default none may.

    Raises:
        ValueError: tensors are missing, extra, misshapen or not floats: lists them.
    """
    tensors = Tensors(path)
    kinds = tensors.kinds()
    found, missing, wrong = {}, [], []
    for entry in table:
        names = [n for n in (entry.name, *entry.aliases) if n in kinds]
        if not names:
            if not entry.optional:
                missing.append(f"{entry.name} {entry.shape}")
            continue
        (shape, dtype), found[names[0]] = kinds[names[0]], entry
        if shape != entry.shape and shape not in entry.shapes:
            wrong.append(f"{names[0]} is {shape}, expected {entry.shape}")
        elif dtype not in _FLOATS:
            wrong.append(f"{names[0]} is {dtype}, expected one of {sorted(_FLOATS)}")
    beside = sorted(set(kinds) - set(found))
    extra = [f"{n} {kinds[n][0]}" for n in beside if not (ignored and ignored(n))]
    parts = {"missing": missing, "extra": extra, "misshapen": wrong}
    if any(parts.values()):
        raise ValueError(
            f"{tensors.path} does not hold the weights of this model; nothing was "
            "loaded. "
            + " ".join(
                f"{len(items)} {kind}: {'; '.join(items)}."
                for kind, items in parts.items()
                if items
            )
            + " Is its config.json the one that belongs to these weights?"
        )
    for name, array in tensors.arrays(list(found)):
        entry = found[name]
        variable = entry.variable
        array = np.asarray(array.reshape(entry.shape), variable.dtype)
        array = np.asarray(entry.ours(array), order="C")  # a scalar stays one
        if isinstance(variable, keras.Variable):
            fill(variable, array)
        else:
            variable.assign(array)


# Configurations


def read_text(path):
    """The content of a file of text in UTF-8.

    Raises:
        ValueError: there is none, or it is no such text.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 ({error}).") from error


def read_json(path):
    """A JSON file that holds an object.

    Raises:
        ValueError: there is none, or it is no such file.
    """
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON ({error}).") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object.")
    return content


def write_json(path, content):
    """Writes a JSON file."""
    text = json.dumps(content, indent=2, sort_keys=True)
    pathlib.Path(path).write_text(text + "\n", "utf-8")


# Folders


def find_weights(folder, stem, variant=None):
    """The weights' file in a folder: whole, or the index of its shards.

    Args:
        folder: path.
        stem: name without its ending, such as `"diffusion_pytorch_model"`.
        variant: part of the name before the ending, such as `"fp16"`.

    Raises:
        ValueError: there is none; where there is a pickle in its place, says so.
    """
    folder = pathlib.Path(folder)
    middle = f".{variant}" if variant else ""
    whole = folder / f"{stem}{middle}.safetensors"
    indices = [
        folder / f"{stem}.safetensors.index{middle}.json",
        folder / f"{stem}{middle}.safetensors.index.json",
    ]
    for path in (whole, *indices):
        if path.is_file():
            return path
    for suffix in PICKLES:
        path = folder / f"{stem}{middle}{suffix}"
        if path.is_file():
            refuse_pickle(path)
    there = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    raise ValueError(
        f"There is no {whole.name} in {folder}; there is: "
        f"{', '.join(there) or 'nothing'}."
    )


def fetch(source, subfolder=None, patterns=("*.json", "*.safetensors")):
    """The folder of a published model: a local one, or a snapshot of the hub's.

    Args:
        source: path of a folder, or an id `"owner/name"` of the Hugging Face hub.
        subfolder: folder within it, such as `"vae"` of a pipeline.
        patterns: which files are fetched from the hub.

    Returns:
        `pathlib.Path`.

    Raises:
        ValueError: there is no such folder, and it is no id, or the hub has none.
        ImportError: `huggingface_hub` is needed and not installed.
        OSError: the hub cannot be reached.
    """
    folder = pathlib.Path(source)
    if not folder.is_dir():
        refuse_pickle(folder)
        if folder.exists():
            raise ValueError(f"{source} must be a folder; it is a file.")
        name = str(source)
        if name.count("/") != 1 or name[0] in "./~" or name.endswith("/"):
            raise ValueError(
                f"There is no folder {source}, and it is no id 'owner/name' of the "
                "Hugging Face hub."
            )
        folder = _snapshot(name, subfolder, patterns)
    folder = folder / (subfolder or "")
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}, subfolder={subfolder!r}.")
    return folder


def _snapshot(name, subfolder, patterns):
    check_installed(
        ["huggingface_hub"],
        f"There is no folder {name}; fetching it from the Hugging Face hub",
        "'keras-genai[weights]'",
    )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    prefix = f"{subfolder}/" if subfolder else ""
    try:
        return pathlib.Path(
            snapshot_download(name, allow_patterns=[prefix + p for p in patterns])
        )
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"There is no folder {name}, and the Hugging Face hub has no model of "
            "that id (or it asks for a login)."
        ) from error
    except (OSError, HfHubHTTPError, ValueError) as error:
        raise OSError(
            f"There is no folder {name}, and the Hugging Face hub could not be reached "
            f"for it ({type(error).__name__}: {error}). Download the model's folder "
            "elsewhere and give its path."
        ) from error
