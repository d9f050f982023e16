"""How the size of a VQVAE's codebook tells in its reconstructions and its use.

    python tools/benchmark.py vqvae --quality
    KERAS_BACKEND=jax python tools/benchmarks/vqvae.py --sizes 16 64 --epochs 1

Trains the paper's autoencoder (1711.00937) with `filters` 64 on the package's 20,000
Fashion-MNIST training images for each size of the codebook, and judges it on the 5,000
test images (about ten minutes on two cores):

    error        mean squared error of a pixel in [-1, 1], beside that of no code at all
                 (the mean training image)
    perplexity   of the codes of all test images, and its share of the codebook
    bits         of an image's codes: 49 log2 of the codebook's size

Wanted: an error that falls with the size of the codebook, and a perplexity of at least
half of the codebook. The other quantizers stand below, in the same training.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

TITLE = "A VQVAE's codebook"
SIZES = (16, 64, 256, 512)
EPOCHS = 3
BATCH = 64


def quantizers(sizes, seed: int) -> dict:
    """What is compared: label -> the quantizer's arguments."""
    from keras_genai import layers

    rows = {
        f"vector, {size}": {"quantizer": "vector", "codebook_size": size}
        for size in sizes
    }
    size = max(sizes)
    return rows | {
        f"finite scalar, {size}": {"quantizer": "finite_scalar", "codebook_size": size},
        "residual, 2 x 64": {
            "quantizer": layers.ResidualVectorQuantizer(64, 64, stages=2, seed=seed)
        },
        f"gradient, {size}": {
            "quantizer": layers.VectorQuantizer(size, 64, update="gradient", seed=seed)
        },
    }


def train(arguments: dict, images, epochs: int, seed: int):
    """A model trained on the images, and the seconds that took."""
    import keras

    import keras_genai as kg

    model = kg.VQVAE(images.shape[1:], filters=64, seed=seed, **arguments)
    steps = epochs * math.ceil(len(images) / BATCH)
    rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
    model.compile(keras.optimizers.Adam(rate))
    started = time.monotonic()
    model.fit(images, batch_size=BATCH, epochs=epochs, verbose=2)
    return model, time.monotonic() - started


def table(results: dict[str, dict]) -> str:
    """The figures as Markdown, a row for each quantizer."""
    lines = [["quantizer", "bits", "error", "perplexity", "of the codebook"]]
    lines.append(["---"] + ["---:"] * 4)
    for name, row in results.items():
        share = row["perplexity"] / row["codebook_size"]
        used = [f"{row['perplexity']:.0f}", f"{share:.0%}"]
        if name.startswith("no code"):
            used = ["", ""]
        lines.append([name, f"{row['bits']:.0f}", f"{row['error']:.4f}", *used])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def quality(sizes, epochs: int, seed: int, output: Path | None):
    """Trains, judges and prints."""
    import keras
    import numpy as np

    import keras_genai as kg

    (images, _), (test_images, _) = kg.datasets.load("fashion_mnist")
    mean = float(np.mean((test_images - images.mean(0)) ** 2))
    results = {
        "no code": {"error": mean, "bits": 0, "perplexity": 1.0, "codebook_size": 1}
    }
    total = 0.0
    for name, arguments in quantizers(sizes, seed).items():
        print(name, flush=True)
        model, seconds = train(arguments, images, epochs, seed)
        total += seconds
        logs = model.evaluate(test_images, batch_size=250, verbose=0, return_dict=True)
        results[name] = {
            "error": logs["reconstruction"],
            "perplexity": logs["perplexity"],
            "codebook_size": model.codebook_size,
            "bits": math.prod(model.code_shape) * math.log2(model.codebook_size),
            "seconds": seconds,
        }
    rows = [results[f"vector, {size}"] for size in sorted(sizes)]
    falls = all(b["error"] < a["error"] for a, b in zip(rows, rows[1:], strict=False))
    used = all(row["perplexity"] >= row["codebook_size"] / 2 for row in rows)
    print(
        f"\n{table(results)}\n\nThe error falls with the codebook: "
        f"{'yes' if falls else 'NO'}. At least half of each is used: "
        f"{'yes' if used else 'NO'}.\n{keras.backend.backend()}, seed {seed}: {epochs} "
        f"epochs of {len(images):,} images each, {total:.0f} s in all"
    )
    if output:
        output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    options = parser.parse_args()
    quality(options.sizes, options.epochs, options.seed, options.output)


if __name__ == "__main__":
    main()
