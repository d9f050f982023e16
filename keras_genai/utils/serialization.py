"""Saving and loading `.keras` files, whole or with a clear word; configurations."""

import contextlib
import json
import pathlib
import warnings
import zipfile

import keras

from keras_genai.utils.archives import DAMAGED, check_sizes
from keras_genai.utils.arguments import checked, names_of_class
from keras_genai.utils.files import written_beside
from keras_genai.utils.hdf5 import WEIGHTS, check_weights
from keras_genai.utils.validation import flag, number, path

PACKAGE = "keras_genai"  # under which the classes are registered with Keras
_JSON = 2**28  # bytes that a configuration may have


class Saving:
    """The part of a model that saves: what stood there is replaced in one step."""

    @checked(filepath=path, overwrite=flag, zipped=flag)
    def save(self, filepath, overwrite=True, zipped=None, **kwargs):
        """Saves the model as a `.keras` file: see `keras.Model.save`.

        The file is written beside its place and then moved there, so that a kill or a
        full disk leaves the file before it.

        Raises:
            OSError: it cannot be written; names the file.
        """
        with _replaced(filepath, overwrite, zipped is not False) as path:
            super().save(path, overwrite, zipped, **kwargs)

    @checked(filepath=path, overwrite=flag, max_shard_size=number("> 0"))
    def save_weights(self, filepath, overwrite=True, max_shard_size=None):
        """Saves the weights alone: see `keras.Model.save_weights`, and `save`."""
        with _replaced(filepath, overwrite, max_shard_size is None) as path:
            super().save_weights(path, overwrite, max_shard_size)

    @checked(filepath=path, skip_mismatch=flag)
    def load_weights(self, filepath, skip_mismatch=False, **kwargs):
        """Loads the weights alone: see `keras.Model.load_weights`.

        Raises:
            ValueError: the file is missing, damaged or another model's; names it.
        """
        single = str(filepath).endswith((".keras", ".h5"))
        if not single or "://" in str(filepath):  # shards, or another machine's
            super().load_weights(filepath, skip_mismatch, **kwargs)
            return
        if not pathlib.Path(filepath).is_file():
            raise ValueError(f"There is no file {filepath}.")
        try:
            check_weights(filepath)
            super().load_weights(filepath, skip_mismatch, **kwargs)
        except DAMAGED as error:
            raise ValueError(
                f"{filepath} is damaged, or holds no weights of this model ({error})."
            ) from error


@contextlib.contextmanager
def _replaced(path, overwrite, single):
    """The path to write to in place of `path`, where that is one file of this disk."""
    is_file = isinstance(path, (str, pathlib.Path)) and "://" not in str(path)
    # Keras asks before it overwrites, and refuses other endings.
    known = str(path).endswith((".keras", ".h5", ".hdf5"))
    asks = not overwrite and pathlib.Path(path).exists() if is_file else False
    if not (is_file and known and single) or asks:
        yield path
    else:
        with written_beside(path) as beside:
            yield beside


@checked(path=path, compile=flag)
def load_model(path, compile=True):
    """Loads a model that `model.save("x.keras")` wrote.

    `keras.saving.load_model` in Keras's safe mode, after every byte of the file was
    checked. Nothing in the file is run.

    Args:
        path: the `.keras` file.
        compile: False leaves the optimizers out.

    Returns:
        The model, with its optimizers, averages, metrics and noise.

    Raises:
        ValueError: the file is missing, cut short, damaged, or no `.keras` file, or
            its configuration holds what no model has; names the file.

    Example:

    ```python
    model = kg.load_model("cgan.keras")
    ```
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        with zipfile.ZipFile(path) as archive:
            check_sizes(archive, {"config.json": _JSON, "metadata.json": _JSON})
            bad = archive.testzip()
            names = set(archive.namelist())
            config = archive.read("config.json") if "config.json" in names else b"{}"
        if WEIGHTS in names and not bad:
            check_weights(path)
    except DAMAGED as error:
        raise ValueError(
            f"{path} is damaged or no .keras file ({error}). It must be a file that "
            "model.save() wrote, copied whole."
        ) from error
    missing = {"config.json", "metadata.json", WEIGHTS} - names
    if bad or missing:
        raise ValueError(
            f"{path} is damaged: "
            + (f"its part {bad} is broken." if bad else f"it lacks {sorted(missing)}.")
        )
    try:
        config = json.loads(config)
        _check_objects(config, "config.json")
        if not isinstance(config, dict) or not isinstance(config.get("config"), dict):
            raise ValueError("config.json is no model's configuration")
        with warnings.catch_warnings():
            # Keras warns, and leaves an optimizer as it was made.
            warnings.filterwarnings("error", "Skipping variable loading")
            return keras.saving.load_model(path, compile=compile, safe_mode=True)
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(
            f"{path} could not be loaded{_other_version(config)} ({kind}{error})."
        ) from error


def _other_version(config):
    """The words that say that a file is of another version of the package, or none.

    Every byte of it was checked: what this version has not, another had.

    Args:
        config: the content of config.json; bytes where it could not be read.
    """
    if not isinstance(config, dict) or f"{PACKAGE}>" not in json.dumps(config):
        return ""
    unknown = sorted(_unknown(config))
    return (
        f": another version of {PACKAGE} wrote it, which had {', '.join(unknown)}"
        f", or it was changed by hand. Load it with that version"
        if unknown
        else f". Another version of {PACKAGE} may have written it"
    )


def _unknown(value):
    """The classes and arguments of a configuration that the package has not: a set."""
    if isinstance(value, list):
        return set().union(*map(_unknown, value))
    if not isinstance(value, dict):
        return set()
    found = set().union(*map(_unknown, value.values()))
    package, _, name = str(value.get("registered_name")).partition(">")
    config = value.get("config")
    if package != PACKAGE or not isinstance(config, dict):
        return found
    known = keras.saving.get_registered_object(f"{PACKAGE}>{name}")
    if known is None:
        return found | {f"the class {name}"}
    extra = set(config) - {*names_of_class(known)}
    return found | {f"the argument {argument} of {name}" for argument in extra}


def _check_objects(value, place):
    """Refuses what looks like a serialized object and is none.

    Such a dict would stay one where a number belongs, and what later reads the
    configuration would take it for the name of a class and of a module to import.
    """
    if isinstance(value, dict):
        name, module = value.get("class_name"), value.get("module")
        named = {"class_name", "registered_name"} & set(value)
        if (named and not isinstance(name, str)) or (name and "config" not in value):
            raise ValueError(
                f"{place} holds a dict with the key {min(named)!r} that is no "
                "serialized object"
            )
        if isinstance(module, str) and not _is_known(module, value):
            raise ValueError(
                f"{place} names the module {module!r}, of which nothing is registered "
                "here: import the model's own classes before it is loaded"
            )
        for key, part in value.items():
            _check_objects(part, f"{place}: {key}")
    elif isinstance(value, list):
        for part in value:
            _check_objects(part, place)


def _is_known(module, value):
    """Whether a serialized object is of Keras, of this package or registered."""
    if module.split(".")[0] in ("keras", "keras_genai", "builtins"):
        return True
    names = (value.get("registered_name"), value.get("config"))
    return any(
        isinstance(name, str) and keras.saving.get_registered_object(name) is not None
        for name in names
    )


def deserialized(config):
    """A configuration in which what Keras serialized are objects again.

    Args:
        config: dict of arguments, of which some, or items of lists, are what
            `keras.saving.serialize_keras_object` made.

    Returns:
        Dict of arguments.
    """

    def made(value):
        if isinstance(value, list):
            return [made(item) for item in value]
        if isinstance(value, dict) and {"class_name", "config"} <= set(value):
            return keras.saving.deserialize_keras_object(value)
        _check_objects(value, "A configuration")
        return value

    return {name: made(value) for name, value in config.items()}


def configuration(model, names, objects=()):
    """A model's arguments, as `get_config` returns them and `deserialized` reads them.

    Args:
        model: it has a seed, a name and a dtype policy, which are taken too.
        names: attributes of plain values.
        objects: attributes that hold what Keras serializes, such as networks; what is
            None is left out.

    Returns:
        Dict of arguments.
    """
    serialize = keras.saving.serialize_keras_object
    held = {name: getattr(model, name) for name in objects}
    return {
        **{name: getattr(model, name) for name in (*names, "seed", "name")},
        "dtype": serialize(model.dtype_policy),
        **{name: serialize(x) for name, x in held.items() if x is not None},
    }
