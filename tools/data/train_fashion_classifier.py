"""Train the Fashion-MNIST classifier that the package judges generated clothes with.

    KERAS_BACKEND=tensorflow python tools/data/train_fashion_classifier.py

Trains on the package's 20,000 training images alone (flipped, shifted, with erased
squares), folds batch normalization into the convolutions, rounds to float16, and writes

    keras_genai/metrics/fashion_mnist.npz    the weights
    tests/metrics/fashion_mnist.json         logits of a few test images

The SHA-256 that it prints belongs into `keras_genai/metrics/fashion_mnist.py`. The
5,000 test images choose nothing: the accuracy is measured once, at the end. Run it in
an environment that has the package, such as the `.venv` of `tools/quickstart.py`.
"""

import argparse
import hashlib
import io
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))  # this clone is what is trained for

import keras  # noqa: E402
import numpy as np  # noqa: E402

import keras_genai as kg  # noqa: E402
from keras_genai.metrics import fashion_mnist  # noqa: E402
from keras_genai.utils.files import written_beside  # noqa: E402

GOLDEN = ROOT / "tests" / "metrics" / "fashion_mnist.json"
GOLDEN_IMAGES = 20  # the first of the test images
RECIPE = {
    "batch_size": 100,
    "learning_rate": 3e-3,
    "weight_decay": 0.05,
    "label_smoothing": 0.05,
    "dropout": 0.3,
    "shift": 1,  # pixels, at most, each way
    "patch": 8,  # side of the erased square
}


class Batches(keras.utils.PyDataset):
    """Shuffled batches of changed images, drawn from the seed."""

    def __init__(self, images, labels, seed, **kwargs):
        super().__init__(**kwargs)
        self.images, self.targets = images, np.eye(10, dtype="float32")[labels]
        self.rng = np.random.default_rng(seed)
        self.order = self.rng.permutation(len(images))

    def __len__(self):
        return len(self.images) // RECIPE["batch_size"]

    def on_epoch_end(self):
        self.order = self.rng.permutation(len(self.images))

    def __getitem__(self, index):
        size = RECIPE["batch_size"]
        rows = self.order[index * size : (index + 1) * size]
        return augment(self.images[rows], self.rng), self.targets[rows]


def augment(images, rng):
    """Flips half of the images, shifts each and erases a square of half of them."""
    count, side = images.shape[:2]
    shift, patch = RECIPE["shift"], RECIPE["patch"]
    images = np.pad(
        images,
        ((0, 0), (shift, shift), (shift, shift), (0, 0)),
        constant_values=-1.0,
    )
    sample = np.arange(count)[:, None, None]
    row = np.arange(side)[:, None] + rng.integers(0, 2 * shift + 1, (count, 1, 1))
    column = np.arange(side) + rng.integers(0, 2 * shift + 1, (count, 1, 1))
    flipped = rng.random((count, 1, 1)) < 0.5
    column = np.where(flipped, column[..., ::-1], column)
    images = images[sample, row, column]  # (B, 28, 28, 1)
    top, left = rng.integers(1 - patch, side, (2, count, 1, 1))
    rows, columns = np.arange(side)[:, None] - top, np.arange(side) - left
    erased = (rows >= 0) & (rows < patch) & (columns >= 0) & (columns < patch)
    images[erased & (rng.random((count, 1, 1)) < 0.5)] = 0.0
    return images


def train(epochs, seed, backup=None):
    """A classifier with batch normalization, trained on the package's images."""
    keras.utils.set_random_seed(seed)
    (images, labels), _ = kg.datasets.load("fashion_mnist")
    model = fashion_mnist.network(normalize=True, dropout=RECIPE["dropout"])
    batches = Batches(images, labels, seed)
    steps = epochs * len(batches)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=RECIPE["learning_rate"], warmup_steps=steps // 20
    )
    model.compile(
        keras.optimizers.AdamW(rate, RECIPE["weight_decay"]),
        keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=RECIPE["label_smoothing"]
        ),
        metrics=["accuracy"],
        jit_compile=False,  # on a CPU, XLA's convolutions are the slower ones
    )
    callbacks = [keras.callbacks.BackupAndRestore(backup)] if backup else []
    model.fit(batches, epochs=epochs, callbacks=callbacks, verbose=2)
    return model


def folded(model):
    """The weights with each normalization folded into its convolution, in float16."""
    arrays = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            values = [np.asarray(value, "float64") for value in layer.get_weights()]
            if isinstance(layer, keras.layers.Conv2D):
                norm = model.get_layer(f"{layer.name}_norm")
                gain, offset, mean, variance = norm.get_weights()
                scale = gain / np.sqrt(variance.astype("float64") + norm.epsilon)
                values = [values[0] * scale, offset - mean * scale]
            arrays[f"{layer.name}.kernel"] = values[0].astype("float16")
            arrays[f"{layer.name}.bias"] = values[1].astype("float16")
    return arrays


def write(path, data):
    """Replaces a file in one step; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(path) as beside:
        beside.write_bytes(data)


def measure(golden):
    """States how good the file in the package is, and writes some of its logits."""
    judge = fashion_mnist.fashion_mnist_classifier()
    _, (images, labels) = kg.datasets.load("fashion_mnist")
    logits = judge.predict(images, batch_size=250, verbose=0)
    right = logits.argmax(-1) == labels
    rows = np.round(logits[:GOLDEN_IMAGES].astype("float64"), 6).tolist()
    content = {"accuracy": round(float(right.mean()), 4), "logits": rows}
    write(golden, (json.dumps(content) + "\n").encode())
    for label, name in enumerate(kg.datasets.class_names("fashion_mnist")):
        print(f"  {name:12} {right[labels == label].mean():.3f}")
    print(f"test accuracy {right.mean():.4f} on {len(labels):,} images")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--backup", help="folder: a run that is cut off goes on from its last epoch"
    )
    parser.add_argument(
        "--measure", action="store_true", help="train nothing: measure what is there"
    )
    options = parser.parse_args()
    if not options.measure:
        started = time.monotonic()
        model = train(options.epochs, options.seed, options.backup)
        print(f"trained in {time.monotonic() - started:.0f} s")
        packed = io.BytesIO()
        np.savez(packed, **folded(model))
        write(fashion_mnist.FILE, packed.getvalue())
        digest = hashlib.sha256(packed.getvalue()).hexdigest()
        print(f"{fashion_mnist.FILE}: {len(packed.getvalue()):,} bytes, {digest}")
        fashion_mnist.SHA256 = digest  # what is measured is what was written
    measure(GOLDEN)


if __name__ == "__main__":
    main()
