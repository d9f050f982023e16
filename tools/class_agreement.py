"""How often a classifier finds the class that a generated image was asked to have.

    KERAS_BACKEND=tensorflow python tools/class_agreement.py cgan.keras

Trains a small convolutional classifier on the package's Fashion-MNIST training images
(about two minutes on two cores), states its accuracy on the real test images, which
bounds what can be asked of generated ones, and judges samples of each class. Run it in
an environment that has the package, such as the `.venv` of `tools/quickstart.py`.
"""

import argparse
import json

import keras
import numpy as np
from keras import layers

import keras_genai as kg


def classifier(epochs):
    """A classifier trained on the package's images.

    Args:
        epochs: passes over the 20,000 images.

    Returns:
        `keras.Model`, `(B, 28, 28, 1)` in [-1, 1] -> `(B, 10)` logits, and its
        accuracy on the 5,000 real test images.
    """
    keras.utils.set_random_seed(0)
    (images, labels), (test_images, test_labels) = kg.datasets.load("fashion_mnist")
    network = [keras.Input(images.shape[1:]), layers.RandomFlip("horizontal")]
    for filters in (32, 64, 128):
        network += [
            layers.Conv2D(filters, 3, padding="same", use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
        ]
    network += [layers.Flatten(), layers.Dropout(0.4), layers.Dense(128, "relu")]
    model = keras.Sequential([*network, layers.Dropout(0.3), layers.Dense(10)])
    steps = epochs * (len(images) // 128 + 1)
    model.compile(
        keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(2e-3, steps)),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(images, labels, batch_size=128, epochs=epochs, verbose=2)
    _, accuracy = model.evaluate(test_images, test_labels, batch_size=250, verbose=0)
    return model, accuracy


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a .keras file of a CGAN on Fashion-MNIST")
    parser.add_argument("--samples", type=int, default=500, help="of each class")
    parser.add_argument("--epochs", type=int, default=12, help="of the classifier")
    parser.add_argument("--seed", type=int, default=1, help="of the samples")
    options = parser.parse_args()
    generator = kg.load_model(options.model, compile=False)
    judge, accuracy = classifier(options.epochs)
    names = kg.datasets.class_names("fashion_mnist")
    wanted = np.repeat(np.arange(len(names)), options.samples)
    images = generator.generate(labels=wanted, seed=options.seed, batch_size=250)
    found = judge.predict(images, batch_size=250, verbose=0).argmax(-1)
    by_class = {
        name: round(float(np.mean(found[wanted == k] == k)), 3)
        for k, name in enumerate(names)
    }
    print(json.dumps(by_class, indent=1))
    print(f"real test images {accuracy:.3f}")
    print(f"generated images {np.mean(found == wanted):.3f}")


if __name__ == "__main__":
    main()
