"""A model's sampler as a SavedModel that TensorFlow runs alone.

The artefact is the same whoever trained: TensorFlow writes it in process; from JAX
and PyTorch the model is saved, loaded by TensorFlow in a child process, and written
there.
"""

import logging
import pathlib

import keras

from keras_genai.export.child import check_importable, check_installed, write_in_child
from keras_genai.utils.files import is_own, reading, written_folder


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
        OSError: the folder cannot be written; what stood there is whole.
    """
    path = pathlib.Path(path)
    _check_target(path, overwrite)
    check_installed(["tensorflow"], "Writing a SavedModel", "'keras-genai[tensorflow]'")
    here = keras.backend.backend() == "tensorflow"
    if not here:
        check_importable(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_folder(path, head="saved_model.pb") as target:
        if here:
            write(model, target)
        else:
            write_in_child(write, model, target)


def _check_target(path, overwrite):
    if path.is_file():
        raise ValueError(f"{path} is a file; export writes a folder.")
    if not path.exists():
        return
    with reading(path):  # what a killed export left half-moved is finished
        names = {p.name for p in path.iterdir() if not is_own(p.name)}
    if not names:
        return
    if not overwrite:
        raise ValueError(
            f"{path} exists and is not empty; nothing was written. Give another "
            "folder, or overwrite=True to replace the SavedModel there."
        )
    if "saved_model.pb" not in names:
        raise ValueError(
            f"{path} holds something other than a SavedModel, which overwrite=True "
            "does not replace. Give another folder."
        )


def write(model, target):
    """Writes the folder `target` in a process whose backend is TensorFlow."""
    import tensorflow as tf

    from keras_genai.export.refusals import refusing
    from keras_genai.export.text import text_signatures

    module = tf.Module()
    # Every variable that a signature reads must hang on the module.
    module.weights = [v.value for v in model.variables]
    signatures = {}
    of_texts, module.resources = text_signatures(model)
    for name, (fn, inputs) in {**model.export_signatures(), **of_texts}.items():
        specs = [tf.TensorSpec(shape, dtype, name=n) for n, shape, dtype in inputs]
        fn = refusing(fn, inputs, model.input_ranges())
        traced = tf.function(fn, input_signature=specs, autograph=False)
        setattr(module, name, traced)
        signatures[name] = traced  # with its defaults, which TensorFlow Serving reads
        signatures.setdefault("serving_default", signatures[name])
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.WARNING)  # it names the temporary folder
    try:
        tf.saved_model.save(module, str(target), signatures=signatures)
    finally:
        logger.setLevel(level)
    for name, content in model.export_assets().items():
        folder = pathlib.Path(target) / "assets"
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
