"""A model's sampler as a SavedModel that TensorFlow runs alone.

The artefact is the same whoever trained: TensorFlow writes it in process; from JAX
and PyTorch the model is saved, loaded by TensorFlow in a child process, and written
there.
"""

import importlib
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import keras


def export_savedmodel(model, path, overwrite=False):
    """Writes `model.export_signatures()` as a SavedModel.

    Args:
        model: a model whose `export_signatures()` gives name -> (function, inputs).
            The first is also `serving_default`.
        path: folder to make.
        overwrite: whether a SavedModel that stands there may be replaced.

    Raises:
        ValueError: the folder exists and is not empty, or the model has a class that
            another process cannot import.
        ImportError: TensorFlow is not installed.
    """
    path = pathlib.Path(path)
    _check_target(path, overwrite)
    if importlib.util.find_spec("tensorflow") is None:
        raise ImportError(
            "A SavedModel is written by TensorFlow, which is not installed here. Run "
            "`pip install 'keras-genai[tensorflow]'` beside the backend that you use."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as made:
        target = pathlib.Path(made) / "savedmodel"
        if keras.backend.backend() == "tensorflow":
            _write(model, target)
        else:
            _write_in_child(model, target)
        if path.exists():
            shutil.move(path, pathlib.Path(made) / "replaced")
        shutil.move(target, path)


def _check_target(path, overwrite):
    if path.is_file():
        raise ValueError(f"{path} is a file; export writes a folder.")
    if not path.exists() or not any(path.iterdir()):
        return
    if not overwrite:
        raise ValueError(
            f"{path} exists and is not empty; nothing was written. Give another "
            "folder, or overwrite=True to replace the SavedModel there."
        )
    if not (path / "saved_model.pb").exists():
        raise ValueError(
            f"{path} holds something other than a SavedModel, which overwrite=True "
            "does not replace. Give another folder."
        )


def _write(model, target):
    import tensorflow as tf

    module = tf.Module()
    # Every variable that a signature reads must hang on the module.
    module.weights = [v.value for v in model.variables]
    signatures = {}
    for name, (fn, inputs) in model.export_signatures().items():
        specs = [tf.TensorSpec(shape, dtype, name=n) for n, shape, dtype in inputs]
        traced = tf.function(fn, input_signature=specs, autograph=False)
        setattr(module, name, traced)
        signatures[name] = traced.get_concrete_function()
        signatures.setdefault("serving_default", signatures[name])
    tf.saved_model.save(module, str(target), signatures=signatures)


def _write_in_child(model, target):
    modules = _modules(model)
    with tempfile.TemporaryDirectory() as folder:
        saved = pathlib.Path(folder) / "model.keras"
        model.save(saved)
        environment = {
            **os.environ,
            "KERAS_BACKEND": "tensorflow",
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "CUDA_VISIBLE_DEVICES": "-1",
        }
        job = json.dumps([str(saved), str(target.resolve()), modules])
        done = subprocess.run(
            [sys.executable, "-m", "keras_genai.export.savedmodel", job],
            env=environment,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        tail = "\n".join(done.stderr.strip().splitlines()[-12:])
        raise RuntimeError(
            f"TensorFlow could not write the SavedModel in its own process:\n{tail}"
        )


def _modules(model):
    """The modules to import before loading, for the user's own layers."""
    names = set()
    for layer in model._flatten_layers():
        name = type(layer).__module__
        if name == "__main__":
            raise ValueError(
                f"{type(layer).__name__} is defined in a notebook or a script "
                "(__main__), so that the TensorFlow process that writes the "
                "SavedModel cannot import it. Move the class into a module (a .py "
                "file) and import it from there, or export under "
                "KERAS_BACKEND=tensorflow."
            )
        if name.split(".")[0] not in ("keras", "keras_genai"):
            names.add(name)
    return sorted(names)


def _child(job):
    saved, target, modules = json.loads(job)
    for name in modules:
        importlib.import_module(name)
    importlib.import_module("keras_genai")
    _write(keras.saving.load_model(saved, compile=False), pathlib.Path(target))


if __name__ == "__main__":
    _child(sys.argv[1])
