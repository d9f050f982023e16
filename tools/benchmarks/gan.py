"""How good a CGAN's clothes are after a longer training than the quickstart's.

    python tools/benchmark.py gan --quality
    KERAS_BACKEND=torch python tools/benchmarks/gan.py --quickstart cgan.keras

Trains the quickstart's networks, made wider and with a weaker penalty (`LONGER`), for
more epochs (`--epochs`, one backend, at most half an hour on two cores) with a rate
that falls to 0 linearly, on the package's Fashion-MNIST training images, and judges
them on the 5,000 test images by the package's classifier and its features:

    class agreement   share of samples that the classifier gives the class asked for,
                      beside its accuracy on the real images, which bounds it
    recall            of each class (1904.06991), 500 real against 500 generated
    FID               of the features of 5,000 against 5,000, beside the floor: 5,000
                      real training images against the test images

The quickstart's figures stand beside them: of the `.keras` file that it wrote, or of a
training with its own number of epochs. Run it in an environment that has the package.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

TITLE = "A CGAN's samples"
EPOCHS = 100
# With the quickstart's penalty (5 times this) and the square root's decay a long
# training spends its time with a discriminator that knows nothing (its loss 2 log 2),
# until the rate is low: FID 0.40 after 90 epochs, 0.94 after 130.
LONGER = {
    "base_filters": 48,
    "discriminator_filters": 64,
    "penalties": {"r1": 0.1},
}
TOOLS = Path(__file__).resolve().parent.parent


def train(recipe: dict, epochs: int, seed: int, power: float = 0.5):
    """A CGAN of the quickstart's recipe, and the seconds that its training took.

    The learning rate falls to 0 as a power of the steps that are left.
    """
    import keras

    import keras_genai as kg

    (images, labels), _ = kg.datasets.load("fashion_mnist")
    model = kg.CGAN(**recipe["model"], seed=seed)
    steps = epochs * math.ceil(len(images) / recipe["batch_size"])
    rate = keras.optimizers.schedules.PolynomialDecay(
        recipe["learning_rate"], steps, end_learning_rate=0.0, power=power
    )
    model.compile(
        generator_optimizer=keras.optimizers.Adam(rate, **recipe["adam"]),
        discriminator_optimizer=keras.optimizers.Adam(rate, **recipe["adam"]),
    )
    started = time.monotonic()
    model.fit(images, labels, batch_size=recipe["batch_size"], epochs=epochs, verbose=2)
    return model, time.monotonic() - started


def judge(sample, reference, labels) -> dict:
    """The figures of samples, one for each label, beside real images of those labels.

    Args:
        sample: `(N, 28, 28, 1)`, of the class of its label.
        reference: `(N, 28, 28, 1)`, real images.
        labels: `(N,)`.
    """
    import numpy as np

    from keras_genai import metrics

    features = metrics.fashion_mnist_features()
    agreement = metrics.ClassAgreement(metrics.fashion_mnist_classifier())
    extract = metrics.FID(features).extract

    def batches(images):
        return (images[i : i + 250] for i in range(0, len(images), 250))

    for part, asked in zip(batches(sample), batches(labels), strict=True):
        agreement.update_generated(part, asked)
    ours, real = (
        np.concatenate([extract(part) for part in batches(images)])
        for images in (sample, reference)
    )
    recall = [
        metrics.precision_recall(real[labels == k], ours[labels == k])[1]
        for k in np.unique(labels)
    ]
    return {
        "agreement": agreement.result()["class_agreement"],
        "by_class": agreement.by_class().tolist(),
        "recall": recall,
        "fid": metrics.fid(real, ours),
    }


def floor(train_set, labels):
    """Real training images of those labels, in their order."""
    import numpy as np

    images, classes = train_set
    chosen = np.empty(len(labels), int)
    for k in np.unique(labels):
        places = np.flatnonzero(labels == k)
        chosen[places] = np.flatnonzero(classes == k)[: len(places)]
    return images[chosen]


def table(results: dict[str, dict], names: list[str]) -> str:
    """The figures as Markdown, a column for each judged set."""
    columns = list(results)
    lines = [["", *columns], ["---"] + ["---:"] * len(columns)]

    def add(label, values):
        lines.append([label, *[f"{value:.3f}" for value in values]])

    add("class agreement", [results[c]["agreement"] for c in columns])
    add("FID", [results[c]["fid"] for c in columns])
    add("lowest recall", [min(results[c]["recall"]) for c in columns])
    for k, name in enumerate(names):
        add(f"{name}: agreement", [results[c]["by_class"][k] for c in columns])
        add(f"{name}: recall", [results[c]["recall"][k] for c in columns])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def quality(epochs, seed, quickstart=None, output=None, path=None):
    """Trains, judges and prints."""
    sys.path[:0] = [str(TOOLS), str(TOOLS.parent)]
    import keras
    from quickstart import RECIPE

    import keras_genai as kg

    names = kg.datasets.class_names("fashion_mnist")
    train_set, (images, labels) = kg.datasets.load("fashion_mnist")
    results = {"real": judge(floor(train_set, labels), images, labels)}
    # The classifier was trained on those: what bounds it is how it does on the others.
    unseen = judge(images, images, labels)
    results["real"] |= {name: unseen[name] for name in ("agreement", "by_class")}
    short = RECIPE["epochs"]
    if quickstart:
        model = kg.load_model(quickstart, compile=False)
    else:
        model, seconds = train(RECIPE, short, seed)
        print(f"quickstart's training: {short} epochs, {seconds:.0f} s", flush=True)
    sampled = model.generate(labels=labels, seed=seed, batch_size=250)
    results["quickstart"] = judge(sampled, images, labels)
    longer = {**RECIPE, "model": {**RECIPE["model"], **LONGER}}
    model, seconds = train(longer, epochs, seed, power=1.0)
    if path:
        model.save(path)
    sampled = model.generate(labels=labels, seed=seed, batch_size=250)
    results[f"{epochs} epochs"] = judge(sampled, images, labels)
    print(
        f"\n{table(results, names)}\n\n{keras.backend.backend()}, seed {seed}: {epochs}"
        f" epochs of {len(train_set[0]):,} images in {seconds:.0f} s"
    )
    if output:
        output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quickstart", type=Path, help="the quickstart's cgan.keras")
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    parser.add_argument("--model", type=Path, help="write the model as .keras")
    options = parser.parse_args()
    quality(
        options.epochs,
        options.seed,
        options.quickstart,
        options.output,
        options.model,
    )


if __name__ == "__main__":
    main()
