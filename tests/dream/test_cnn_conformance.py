"""The plain and the residual CNN pass the battery, and leave as SavedModels."""

import keras

import keras_genai as kg
from tests.support import conformance, processes

CLASSES = 3


def images(name, shape=(8, 8, 2)):
    """A batch function of images and labels."""

    def batch(n):
        labels = conformance.integers(f"{name}/labels", (n,), CLASSES)
        return conformance.uniform(name, (n, *shape)), labels

    return batch


TestPlain = conformance.battery(
    "cnn",
    lambda: kg.CNN(
        (8, 8, 2),
        CLASSES,
        filters=(4, 6),
        hidden_units=(16,),
        dropout=0.2,
        steps=3,
        seed=1,
    ),
    images("cnn"),
)

TestResidual = conformance.battery(
    "cnn_residual",
    lambda: kg.CNN(
        (8, 8, 2),
        CLASSES,
        architecture="residual",
        filters=(4, 6),
        hidden_units=(),
        steps=3,
        seed=2,
    ),
    images("cnn_residual"),
    compile=lambda: {"optimizer": keras.optimizers.SGD(0.05)},
    variant=True,
)

TestCNNProcesses = processes.battery(
    lambda: kg.CNN(
        (8, 8, 1), CLASSES, architecture="residual", filters=(4, 6), steps=3, seed=3
    ),
    images("cnn processes", (8, 8, 1)),
    methods={
        "logits": lambda model, images: model.predict(images, verbose=0),
        "generate": lambda model, seed, labels: model.generate(
            labels=labels, seed=int(seed)
        ),
    },
    ranges={"labels": (0, CLASSES)},
    onnx=("logits",),  # the ascent's gradient: a SavedModel alone
)
