"""Train the small CLIP that judges emoji, `kg.clip.emoji()`.

    KERAS_BACKEND=tensorflow python tools/data/train_emoji_clip.py

Trains on all pictures of `kg.datasets.emoji` in both styles with their English names
and tags: a judge must know what it judges. Writes

    keras_genai/clip/emoji.npz      the weights in float16, and the tokenizer
    tests/clip/emoji.json           embeddings of a few pictures and texts

The SHA-256 that it prints belongs into `keras_genai/clip/packaged.py`. A run that is
cut off goes on where it was (`--folder`). Run it in an environment that has the package
and its extra `[text]`, such as the `.venv` of `tools/test.py`.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))  # this clone is what is trained for

import keras  # noqa: E402
import numpy as np  # noqa: E402

import keras_genai as kg  # noqa: E402
from keras_genai.clip import packaged  # noqa: E402
from keras_genai.utils.files import written_beside  # noqa: E402

GOLDEN = ROOT / "tests" / "clip" / "emoji.json"
STYLES = {"google": "flat", "fluent": "3D"}
VOCABULARY = 2000
RECIPE = {
    "batch_size": 128,
    "learning_rate": 1.5e-3,
    "weight_decay": 0.1,
    "dropout": 0.05,
}


def pairs():
    """`(images (N, 32, 32, 3), captions)`: both styles, six captions a picture."""
    draw = np.random.default_rng(0)

    def some(tags, count):
        return [str(tag) for tag in draw.permutation(np.array(tags, object))[:count]]

    images, captions = [], []
    for style, word in STYLES.items():
        data = kg.datasets.emoji(style=style)
        images.append(data["images"].reshape(-1, 32, 2, 32, 2, 3).mean((2, 4)))
        for name, tags in zip(data["captions"], data["tags"], strict=True):
            captions.append(
                [
                    name,
                    f"a {name}",
                    f"{name} emoji",
                    f"{name}, {word} style",
                    ", ".join([name, *some(tags, 2)]),
                    ", ".join(some(tags, 3) or [name]),
                ]
            )
    return np.concatenate(images), captions


def batches(images, captions, seed):
    """The pairs with pictures changed by chance."""
    white = {"fill_mode": "constant", "fill_value": 1.0}
    layers = [
        keras.layers.RandomRotation(0.04, **white),
        keras.layers.RandomZoom((-0.1, 0.25), (-0.1, 0.25), **white),
        keras.layers.RandomTranslation(0.06, 0.06, **white),
        keras.layers.RandomColorJitter(
            value_range=(-1, 1),
            brightness_factor=0.1,
            contrast_factor=0.2,
            saturation_factor=(0.3, 0.7),
        ),
    ]
    return kg.datasets.augmented(
        {"images": images, "captions": captions},
        layers,
        batch_size=RECIPE["batch_size"],
        seed=seed,
    )


def train(steps, seed, folder):
    """The trained model."""
    images, captions = pairs()
    texts = [text for group in captions for text in group]
    tokenizer = kg.Tokenizer.train(texts, VOCABULARY, kind="clip")
    keras.utils.set_random_seed(seed)
    model = packaged.network(tokenizer, seed, RECIPE["dropout"], side=32)
    data = batches(images, captions, seed)
    epochs = round(steps / data.num_batches)
    steps = epochs * data.num_batches
    rise = steps // 12
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - rise, warmup_target=RECIPE["learning_rate"], warmup_steps=rise
    )
    model.compile(
        keras.optimizers.AdamW(
            rate,
            weight_decay=RECIPE["weight_decay"],
            beta_2=0.98,
            epsilon=1e-6,
            global_clipnorm=1.0,
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    resume = kg.callbacks.Resume(folder / "run.npz", every=data.num_batches)
    model.fit(data, epochs=epochs, verbose=2, callbacks=[resume])
    return model


def write(path, data):
    """Replaces a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(path) as beside:
        beside.write_bytes(data)


def measure():
    """States how good the file in the package is, and writes some of its numbers."""
    model = kg.clip.emoji()
    told = {}
    for style in STYLES:
        data = kg.datasets.emoji(style=style)
        x, y = model.encode_image(data["images"]), model.encode_text(data["captions"])
        found = kg.metrics.recall_at_k(x, y, data["captions"], k=(1, 5))
        told[style] = {name: round(float(value), 4) for name, value in found.items()}
        print(style, told[style])
        if style == "google":
            content = {
                "images": np.round(x[::400].astype("float64"), 6).tolist(),
                "texts": np.round(y[::400].astype("float64"), 6).tolist(),
            }
    write(GOLDEN, (json.dumps({**content, "recall": told}) + "\n").encode())


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=ROOT / "logs" / "emoji_clip")
    parser.add_argument("--measure", action="store_true", help="train nothing")
    options = parser.parse_args()
    if not options.measure:
        data = packaged.packed(train(options.steps, options.seed, options.folder))
        write(packaged.FILE, data)
        digest = hashlib.sha256(data).hexdigest()
        print(f"{packaged.FILE}: {len(data):,} bytes, {digest}")
        packaged.SHA256 = digest  # what is measured is what was written
    measure()


if __name__ == "__main__":
    main()
