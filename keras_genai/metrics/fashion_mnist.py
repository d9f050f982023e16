"""A judge of generated clothes: a small Fashion-MNIST classifier in the package.

`tools/data/train_fashion_classifier.py` trained it on the package's 20,000 training
images alone. Batch normalization is folded into the convolutions and the weights are
kept in float16, so the file is small and every backend computes the same few
operations.
"""

import io
from pathlib import Path

import keras
import numpy as np

from keras_genai import layers
from keras_genai.backend.precision import dtype_policy
from keras_genai.datasets._files import checked_bytes

FILE = Path(__file__).resolve().parent / "fashion_mnist.npz"
SHA256 = "9b9a2d73831fcbd3b074b5674ecf86f62b3d5fce49229f2920ce632f9553912e"
FILTERS = (32, 64, 96)
FEATURES = 64
CLASSES = 10


def network(normalize: bool = False, dropout: float = 0.0) -> keras.Model:
    """The classifier's network with fresh weights.

    Four 3x3 convolutions, the last beside a shortcut, a dense layer of 64 features and
    one of 10 logits.

    Args:
        normalize: batch normalization after each convolution, which then has no bias:
            the form that is trained.
        dropout: share of the features that training drops.

    Returns:
        `keras.Model`, `(B, 28, 28, 1)` in [-1, 1] -> `(B, 10)`.
    """

    def convolve(x, filters, name):
        layer = layers.Conv2D(
            filters, 3, padding="same", use_bias=not normalize, name=name
        )
        x = layer(x)
        if normalize:
            x = layers.BatchNormalization(name=f"{name}_norm")(x)
        return keras.layers.ReLU()(x)

    first, second, third = FILTERS
    images = keras.Input((28, 28, 1), name="images")
    x = convolve(images, first, "conv_0")
    x = keras.layers.MaxPooling2D()(x)  # (B, 14, 14, 32)
    x = convolve(x, second, "conv_1")
    x = keras.layers.MaxPooling2D()(x)  # (B, 7, 7, 64)
    x = convolve(x, third, "conv_2")
    x = keras.layers.Add()([x, convolve(x, third, "conv_3")])
    x = keras.layers.MaxPooling2D()(x)  # (B, 3, 3, 96)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(FEATURES, activation="relu", name="features")(x)  # (B, 64)
    if dropout:
        x = keras.layers.Dropout(dropout)(x)
    logits = keras.layers.Dense(CLASSES, name="logits")(x)  # (B, 10)
    return keras.Model(images, logits, name="fashion_mnist_classifier")


def fashion_mnist_classifier() -> keras.Model:
    """A trained classifier of Fashion-MNIST images, from a file in the package.

    Returns:
        `keras.Model`, `(B, 28, 28, 1)` in [-1, 1] -> logits `(B, 10)` in the order of
        `kg.datasets.class_names("fashion_mnist")`. A new one at every call.

    Raises:
        FileNotFoundError: the weights are not in the installed package.
        ValueError: the file is damaged.

    Example:

    ```python
    import keras_genai as kg

    classifier = kg.metrics.fashion_mnist_classifier()
    _, (images, labels) = kg.datasets.load("fashion_mnist")
    found = classifier.predict(images).argmax(-1)
    print((found == labels).mean())
    ```
    """
    weights = _weights()
    # Whatever policy the user's model has, the judge computes in float32.
    with dtype_policy("float32"):
        model = network()
    for layer in model.layers:
        if layer.weights:
            kernel, bias = (weights[f"{layer.name}.{n}"] for n in ("kernel", "bias"))
            layer.set_weights([kernel.astype("float32"), bias.astype("float32")])
    model.trainable = False
    return model


def fashion_mnist_features() -> keras.Model:
    """The features that `fashion_mnist_classifier` decides by, for FID and its kin.

    A distance between sets of 28x28 clothes that needs no download. It is no
    Inception FID: compare it with values of this extractor alone.

    Returns:
        `keras.Model`, `(B, 28, 28, 1)` in [-1, 1] -> features `(B, 64)`, at least 0.
        A new one at every call: hand one to all the metrics that share it.

    Raises:
        As `fashion_mnist_classifier`.

    Example:

    ```python
    import keras_genai as kg

    (images, _), (test_images, _) = kg.datasets.load("fashion_mnist")
    features = kg.metrics.fashion_mnist_features()
    real, others = features.predict(images), features.predict(test_images)
    print(kg.metrics.fid(real, others))         # the floor: real against real
    ```
    """
    model = fashion_mnist_classifier()
    features = model.get_layer("features").output
    return keras.Model(model.input, features, name="fashion_mnist_features")


def _weights():
    packed = checked_bytes(FILE, SHA256)
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        return dict(arrays)
