"""Writing in a TensorFlow process, for a model that another backend trained.

The model is saved, loaded by TensorFlow in a child process and written there, so that
the artefact is the same whoever trained.
"""

import importlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import keras

# Of the process that writes.
VARIABLES = {
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "CUDA_VISIBLE_DEVICES": "-1",
}


def check_installed(packages, purpose, install):
    """Raises an `ImportError` that names the pip command for absent packages.

    Args:
        packages: names of modules.
        purpose: what they are for, the first words of the message.
        install: what to give to `pip install`.
    """
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        raise ImportError(
            f"{purpose} needs {' and '.join(absent)}, which "
            f"{'is' if len(absent) == 1 else 'are'} not installed here. Run "
            f"`pip install {install}` beside the backend that you use."
        )


def check_importable(model):
    """The modules of the user's own classes and functions in a model.

    Raises:
        ValueError: one is defined in `__main__`, a notebook or a script, where another
            process cannot import it.
    """
    found = {
        type(layer).__name__: type(layer).__module__
        for layer in model._flatten_layers()
    }
    found.update(_registered(keras.saving.serialize_keras_object(model)))
    for name, module in found.items():
        if module == "__main__":
            raise ValueError(
                f"{name} is defined in a notebook or a script (__main__), so that the "
                "TensorFlow process that writes the export cannot import it. Move it "
                "into a module (a .py file) and import it from there, or export under "
                "KERAS_BACKEND=tensorflow."
            )
    return sorted(
        module
        for module in set(found.values())
        if module.split(".")[0] not in ("keras", "keras_genai", "builtins")
    )


def _registered(config):
    """Name -> module of the registered objects that a configuration names.

    The configuration may come from a file. So a module is never taken from it, but from
    the class or function that is registered in this process under the name.
    """
    found = {}
    if isinstance(config, dict):
        is_function = config.get("class_name") == "function"
        name = config.get("config" if is_function else "registered_name")
        is_name = isinstance(name, str) and name
        named = keras.saving.get_registered_object(name) if is_name else None
        if named is not None:
            found[named.__name__] = named.__module__
        elif config.get("module") == "__main__":  # to be refused
            found[str(config.get("class_name"))] = "__main__"
        config = list(config.values())
    if isinstance(config, (list, tuple)):
        for part in config:
            found.update(_registered(part))
    return found


def write_in_child(writer, model, target, *arguments):
    """Calls `writer(model, target, *arguments)` in a TensorFlow process.

    Args:
        writer: function of a module of this package.
        model: the model, which is saved and loaded there.
        target: path that it writes.
        *arguments: anything that JSON holds.

    Raises:
        ValueError: a class of the model is defined in `__main__`.
        RuntimeError: with the end of what the process said, when it fails.
    """
    modules = check_importable(model)
    with tempfile.TemporaryDirectory() as folder:
        saved = pathlib.Path(folder) / "model.keras"
        model.save(saved)
        run(
            {
                "writer": [writer.__module__, writer.__name__],
                "model": str(saved),
                "target": str(pathlib.Path(target).resolve()),
                "arguments": arguments,
                "modules": modules,
                "path": [os.path.abspath(f) for f in sys.path if isinstance(f, str)],
                "places": _places(),
            }
        )


def run(job):
    """Does a job in a new TensorFlow process; see `write_in_child`."""
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-s",
            str(pathlib.Path(__file__).with_name("_start.py")),
        ],
        input=json.dumps(job),
        env={**_environment(), **VARIABLES},
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode:
        tail = "\n".join(done.stderr.strip().splitlines()[-12:])
        raise RuntimeError(
            f"TensorFlow could not write the export in its own process:\n{tail}"
        )


def _environment():
    """The environment without what tells Python to import or to run something."""
    kept = () if sys.flags.ignore_environment else ("PYTHONHOME",)
    return {
        name: value
        for name, value in os.environ.items()
        if name in kept or not name.startswith("PYTHON")
    }


def _places():
    """See `_start.Loaded`: where this process has its modules."""
    places = {}
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        if "." in name or spec is None or spec.name != name:
            continue
        folders = spec.submodule_search_locations
        folders = None if folders is None else [os.path.abspath(f) for f in folders]
        if spec.has_location and os.path.isfile(spec.origin):
            places[name] = [os.path.abspath(spec.origin), folders]
        elif spec.origin is None and folders:
            places[name] = [None, folders]
    return places


def work(job):
    """What the child does; see `write_in_child`."""
    for name in ("keras_genai", *job["modules"]):
        importlib.import_module(name)
    module, name = job["writer"]
    writer = getattr(importlib.import_module(module), name)
    model = keras.saving.load_model(job["model"], compile=False)
    writer(model, pathlib.Path(job["target"]), *job["arguments"])
