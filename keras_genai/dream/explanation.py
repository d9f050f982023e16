"""Why a network says a class: Grad-CAM, saliency, and what covering a part changes."""

import keras
import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.backend import programs
from keras_genai.backend.precision import widen
from keras_genai.dream.features import features_of, find, network_of, preprocessed
from keras_genai.dream.pictures import check_pictures, resize
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_integer, check_labels, check_positive
from keras_genai.utils.validation import array, integer, number, text


@checked(labels=array((0, 1, 2), finite=False))
def saliency(model, images, labels=None, preprocess=None):
    """How much each pixel moves the class's logit: 1312.6034, section 3.

    Args:
        model: a `kg.CNN`, or a functional or sequential Keras classifier.
        images: `(H, W, C)` or `(B, H, W, C)` in [-1, 1].
        labels: the class of each, an integer or `(B,)`; by default the one named.
        preprocess: see `DeepDream`.

    Returns:
        NumPy float32 `(B, H, W)`, or `(H, W)`: the largest absolute derivative over the
        channels.
    """
    judge = _Judge(model, preprocess)
    x, one = judge.pictures(images)
    labels = judge.labels(x, labels, one)

    def gradient(x, labels):
        def score(x):
            return ops.sum(_of_class(judge(x), labels))

        return ops.max(ops.abs(widen(backend.gradients(score, x))), axis=-1)

    found = backend.to_host(judge.compiled("saliency", gradient)(x, labels))
    return found[0] if one else found


@checked(layer=text, labels=array((0, 1, 2), finite=False))
def grad_cam(model, images, labels=None, layer=None, preprocess=None):
    """Where in a picture the class is seen: Grad-CAM, 1610.02391, equations 1 and 2.

    Args:
        model, images, labels, preprocess: see `saliency`.
        layer: name of a layer with places that all that follows passes through; by
            default the last with places.

    Returns:
        NumPy float32 `(B, H, W)`, or `(H, W)`, in [0, 1]: the map of each picture,
        resized to it, by its largest value.

    Raises:
        ValueError: another way leads around the layer.
    """
    judge = _Judge(model, preprocess)
    x, one = judge.pictures(images)
    labels = judge.labels(x, labels, one)
    lower, upper = judge.divided(layer)

    def cam(x, labels):
        maps = widen(lower(judge.prepared(x))[0])  # (B, h, w, K)

        def score(maps):
            logits = upper(ops.cast(maps, judge.network.compute_dtype), training=False)
            return ops.sum(_of_class(widen(logits), labels))

        gradient = backend.gradients(score, maps)
        alpha = ops.mean(gradient, axis=(1, 2), keepdims=True)  # (B, 1, 1, K)
        return ops.relu(ops.sum(alpha * maps, axis=-1, keepdims=True))

    run = judge.compiled(("grad_cam", layer), cam)
    found = backend.to_host(run(x, labels))
    found = resize(found, *x.shape[1:3])[..., 0]
    found = found / np.maximum(found.max(axis=(1, 2), keepdims=True), 1e-12)
    return found[0] if one else found


@checked(
    image=array(3, finite=False),
    label=integer(0),
    size=integer(1),
    stride=integer(1),
    value=number(),
)
def occlusion(
    model,
    image,
    label=None,
    size=8,
    stride=4,
    value=0.0,
    batch_size=64,
    preprocess=None,
    verbose=0,
):
    """How much less sure of the class the network is with a part covered: 1311.2901.

    Args:
        model, preprocess: see `saliency`.
        image: `(H, W, C)` in [-1, 1].
        label: the class, an integer; by default the one named.
        size: side of the covered square.
        stride: pixels from one square to the next.
        value: what it is covered with.
        batch_size: pictures in one pass.
        verbose: 1 shows a progress bar.

    Returns:
        NumPy float32 `(H, W)`: the probability of the class less its mean over the
        squares that cover the pixel; large where it is needed.
    """
    judge = _Judge(model, preprocess)
    x, one = judge.pictures(image)
    if not one:
        raise ValueError(f"occlusion takes one picture (H, W, C); got {x.shape}.")
    check_positive("stride", stride)
    check_positive("batch_size", batch_size)
    height, width = x.shape[1:3]
    if not 1 <= check_integer("size", size) <= min(height, width):
        raise ValueError(f"size must fit into {height}x{width}; got {size}.")
    label = int(judge.labels(x, label, one)[0])
    places = [
        (row, column)
        for row in _steps(height, size, stride)
        for column in _steps(width, size, stride)
    ]

    def probability(x):
        return ops.softmax(judge(x))[:, label]

    run = judge.compiled(("occlusion", label), probability)
    whole = float(backend.to_host(run(x))[0])
    total, count = np.zeros((height, width)), np.zeros((height, width))
    bar = keras.utils.Progbar(len(places), verbose=verbose, unit_name="part")
    batch = min(batch_size, len(places))
    for start in range(0, len(places), batch):
        here = places[start : start + batch]
        covered = np.repeat(x, batch, axis=0)
        for i, (row, column) in enumerate(here):
            covered[i, row : row + size, column : column + size] = value
        found = backend.to_host(run(covered))
        for (row, column), p in zip(here, found, strict=False):
            total[row : row + size, column : column + size] += p
            count[row : row + size, column : column + size] += 1
        bar.add(len(here))
    covered = count > 0
    mean = np.where(covered, total / np.maximum(count, 1), whole)
    return (whole - mean).astype("float32")


def _steps(side, size, stride):
    """Where the squares begin; the last ends with the side."""
    return sorted({*range(0, side - size + 1, stride), side - size})


class _Judge:
    """A classifier of pictures: `judge(x)` gives its logits `(B, K)`."""

    def __init__(self, model, preprocess):
        self.network = network_of(model)
        self.features = features_of(self.network, [find(self.network, None, False)])
        self.classes = self.network.outputs[0].shape[-1]
        self.preprocess = preprocess
        self.variables = list(self.network.variables)

    def compiled(self, name, fn):
        """A function of this judge, compiled; kept by the network."""
        name = ("explanation", name, self.preprocess)
        return programs.compiled_once(self.network, name, fn, self.variables)

    def prepared(self, x):
        return preprocessed(x, self.preprocess, self.network.compute_dtype)

    def __call__(self, x):
        return widen(self.features(self.prepared(x))[0])

    def pictures(self, images):
        x, one = check_pictures(images, self.features.channels)
        self.features.check_size(*x.shape[1:3])
        return x, one

    def labels(self, x, labels, one):
        """The classes `(B,)`, given or named by the network."""
        if labels is None:
            logits = self.compiled("logits", self.__call__)(x)
            return backend.to_host(logits).argmax(-1).astype("int32")
        labels = np.asarray([labels] if one and np.ndim(labels) == 0 else labels)
        check_labels(labels, self.classes, len(x), "This network")
        return labels.reshape(-1).astype("int32")

    def divided(self, name):
        """The network up to a layer, and from there on."""
        if name is None:
            spatial = [
                layer.name
                for layer in self.network.layers[1:]
                if len(getattr(layer.output, "shape", ())) == 4
            ]
            if not spatial:
                raise ValueError(f"{self.network.name} has no layer with places.")
            name = spatial[-1]
        output = find(self.network, name)
        try:
            upper = keras.Model(output, self.network.outputs[0])
        except ValueError as error:
            raise ValueError(
                f"Grad-CAM needs a layer that all that follows passes through; around "
                f"{name!r} another way leads to the logits. Choose a layer after which "
                "the ways have met."
            ) from error
        return features_of(self.network, [output]), upper


def _of_class(logits, labels):
    """The logit of each picture's class, `(B,)`."""
    wanted = ops.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    return ops.sum(logits * wanted, axis=-1)
