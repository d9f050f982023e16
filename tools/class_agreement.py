"""How often a classifier finds the class that a generated image was asked to have.

    KERAS_BACKEND=tensorflow python tools/class_agreement.py cgan.keras

Judges samples of each class by the Fashion-MNIST classifier in the package, and states
its accuracy on the real test images, which bounds what can be asked of generated ones.
Run it in an environment that has the package, such as the `.venv` of
`tools/quickstart.py`.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras_genai as kg
from keras_genai import metrics


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a .keras file of a CGAN on Fashion-MNIST")
    parser.add_argument("--samples", type=int, default=500, help="of each class")
    parser.add_argument("--seed", type=int, default=1, help="of the samples")
    options = parser.parse_args()
    model = kg.load_model(options.model, compile=False)
    names = kg.datasets.class_names("fashion_mnist")
    agreement = metrics.ClassAgreement(metrics.fashion_mnist_classifier())
    _, (images, labels) = kg.datasets.load("fashion_mnist")
    agreement.update_generated(images, labels)
    real = agreement.result()["class_agreement"]
    agreement.reset_state()
    wanted = np.repeat(np.arange(len(names)), options.samples)
    samples = model.generate(labels=wanted, seed=options.seed, batch_size=250)
    agreement.update_generated(samples, wanted)
    shares = zip(names, agreement.by_class(), strict=True)
    print(
        json.dumps({name: round(float(share), 3) for name, share in shares}, indent=1)
    )
    print(f"real test images {real:.3f}")
    print(f"generated images {agreement.result()['class_agreement']:.3f}")


if __name__ == "__main__":
    main()
