"""A model's sampler as an ONNX file, for ONNX Runtime and what reads its format.

TensorFlow writes through tf2onnx and PyTorch through its own exporter, in process.
From JAX the model is loaded by TensorFlow in a child process and written there:
jax2onnx 0.17 knows no transposed convolution with its kernel's axes exchanged, and
takes no size that is known only when the file runs from `ops.shape`.
"""

import contextlib
import logging
import math
import pathlib
import warnings

import keras

from keras_genai.export.child import check_importable, check_installed, write_in_child
from keras_genai.utils.files import written_beside

OPSET = 18
_LIMIT = 2**31 - 2**20  # a message of Protocol Buffers, less room for the graph
_PACKAGES = {
    "tensorflow": ("onnx", "tf2onnx"),
    "torch": ("onnx", "onnxscript"),
    "jax": ("onnx", "tf2onnx", "tensorflow"),
}


def export_onnx(model, path, overwrite=False, signature=None):
    """Writes one of `model.export_signatures()` as an ONNX file.

    A file holds one function. `"decode"`, the default of a GAN, takes
    `latents (batch, latent_dim)`, and `labels (batch,)` int32 of a model with labels,
    and gives `images (batch, H, W, C)` in [-1, 1], by the averaged weights where an
    average is kept. `"generate"` is the sampler with its noise: `seed` and `n`
    (or `labels`) in, the images of `model.generate(n, seed=seed)` out. The sizes
    marked None in the signature are free.

    Args:
        model: a model whose `export_signatures()` gives name -> (function, inputs).
        path: the file to write; its name ends in `.onnx`.
        overwrite: whether a file that stands there may be replaced.
        signature: name of the signature; by default the first.

    Raises:
        ValueError: the file exists, its name does not end in `.onnx`, the signature
            is not known, the weights pass the 2 GiB of one ONNX file, or, on JAX, the
            model has a class of a notebook that another process cannot import.
        ImportError: a package is not installed; says which and how to get it.

    Example:

    ```python
    export_onnx(model, "served/dcgan.onnx")       # or model.export(..., format="onnx")
    session = onnxruntime.InferenceSession("served/dcgan.onnx")
    images, = session.run(None, {"latents": latents})
    ```
    """
    path = pathlib.Path(path)
    _check_target(path, overwrite)
    signatures = model.export_signatures()
    if signature is None:
        signature = next(iter(signatures))
    if signature not in signatures:
        raise ValueError(
            f"{type(model).__name__} has no signature {signature!r}; it has "
            f"{', '.join(map(repr, signatures))}."
        )
    _check_size(model)
    backend = keras.backend.backend()
    packages = _PACKAGES[backend]
    check_installed(packages, "Writing ONNX", " ".join(packages))
    if backend == "jax":
        check_importable(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(path) as target:
        if backend == "torch":
            write_by_torch(model, target, signature)
        elif backend == "tensorflow":
            write_by_tensorflow(model, target, signature)
        else:
            write_in_child(write_by_tensorflow, model, target, signature)
        _check_result(target)


def _check_target(path, overwrite):
    if path.suffix != ".onnx":
        raise ValueError(
            f"The name of an ONNX file ends in .onnx; got {str(path)!r}. For a folder "
            "with a SavedModel leave format out."
        )
    if path.is_dir():
        raise ValueError(f"{path} is a folder; ONNX is written to a file.")
    if path.exists() and not overwrite:
        raise ValueError(
            f"{path} exists; nothing was written. Give another name, or "
            "overwrite=True to replace it."
        )


def _check_size(model):
    size = sum(4 * math.prod(variable.shape) for variable in model.variables)
    if size > _LIMIT:
        raise ValueError(
            f"The weights take {size / 2**30:.1f} GiB; one ONNX file holds 2 GiB. "
            "Export a SavedModel instead."
        )


def write_by_tensorflow(model, target, signature):
    """Writes the file `target` in a process whose backend is TensorFlow."""
    import tensorflow as tf
    import tf2onnx

    fn, inputs = model.export_signatures()[signature]
    specs = [tf.TensorSpec(shape, dtype, name=name) for name, shape, dtype in inputs]
    traced = tf.function(fn, input_signature=specs, autograph=False)
    made, _ = tf2onnx.convert.from_function(traced, specs, opset=OPSET)
    _name_sizes(made.graph, inputs)
    target.write_bytes(made.SerializeToString())


def _name_sizes(graph, inputs):
    """Names the free sizes, which tf2onnx numbers."""
    shapes = {name: shape for name, shape, _ in inputs}
    for value in [*graph.input, *graph.output]:
        sizes = value.type.tensor_type.shape.dim
        for axis, size in enumerate(sizes):
            shape = shapes.get(value.name)
            if not size.HasField("dim_value") or (shape and shape[axis] is None):
                size.dim_param = _size_name(value.name, axis)


def _size_name(name, axis):
    return "batch" if axis == 0 else f"{name}_{axis}"


def write_by_torch(model, target, signature):
    """Writes the file `target` in a process whose backend is PyTorch."""
    import torch

    fn, inputs = model.export_signatures()[signature]
    names = []

    class Sampler(torch.nn.Module):
        def forward(self, *tensors):
            outputs = fn(*tensors)
            names[:] = outputs
            return tuple(outputs.values())

    # Sizes of 0 and 1 would be taken for fixed ones; sides may have to be halved, and
    # a text is no longer than its model's context.
    side = min(16, getattr(model, "max_sequence_length", 16))
    example = tuple(
        torch.full(
            [n or (side if axis else 3) for axis, n in enumerate(shape)],
            1 if shape else 2,  # a label that every model has, and a number of samples
            dtype=getattr(torch, dtype),
        )
        for _, shape, dtype in inputs
    )
    free = tuple(
        {
            axis: torch.export.Dim(_size_name(name, axis))
            for axis, size in enumerate(shape)
            if size is None
        }
        for name, shape, _ in inputs
    )
    with torch.no_grad(), _quiet():
        sampler = Sampler().eval()
        sampler(*example)
        torch.onnx.export(
            sampler,
            example,
            str(target),
            input_names=[name for name, _, _ in inputs],
            output_names=names,
            dynamic_shapes=(free,),
            opset_version=OPSET,
            external_data=False,
            dynamo=True,
            verbose=False,
        )


@contextlib.contextmanager
def _quiet():
    """Without the exporter's remarks on its own insides."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _check_result(target):
    """What is wrong with a file is found before it stands in its place."""
    import onnx

    onnx.checker.check_model(str(target), full_check=True)
