"""Loading `.keras` files with a clear word about what is wrong with one; configs."""

import pathlib
import zipfile

import keras

from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import flag, path


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
        ValueError: the file is missing, cut short, damaged, or no `.keras` file.

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
            bad = archive.testzip()
            names = set(archive.namelist())
    except (zipfile.BadZipFile, OSError, EOFError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged or no .keras file ({error}). It must be a file that "
            "model.save() wrote, copied whole."
        ) from error
    missing = {"config.json", "metadata.json", "model.weights.h5"} - names
    if bad or missing:
        raise ValueError(
            f"{path} is damaged: "
            + (f"its part {bad} is broken." if bad else f"it lacks {sorted(missing)}.")
        )
    try:
        return keras.saving.load_model(path, compile=compile, safe_mode=True)
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(
            f"{path} could not be loaded ({type(error).__name__}: {error})."
        ) from error


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
