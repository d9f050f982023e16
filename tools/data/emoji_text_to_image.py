"""Train the text-to-image model of the emoji that is inside the package.

    python tools/data/emoji_text_to_image.py                 # goes on where it stopped
    python tools/data/emoji_text_to_image.py --minutes 100   # of two cores, in all

in an environment with one backend. It trains on the training part of
`kg.datasets.emoji` in both styles, at 32 x 32, with the style as a word of the prompt
("a red heart, flat style"; "..., 3d style"); the held-out names and drawings are never
seen. First the autoencoder, then the diffusion of its latents with a text encoder from
nothing. All follows from SEED; `kg.callbacks.Resume` continues a run that was stopped.

It writes `keras_genai/text_to_image/emoji.npz`, float16, at most 8 MB.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import keras
import numpy as np

import keras_genai as kg
from keras_genai.text_to_image import pretrained

SEED = 21
MOST = 8 * 10**6  # bytes of the file
WORDS = 1200  # of the tokenizer
AUTOENCODER = 0.15  # share of the time


def main() -> None:
    """Train, or go on, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=100.0, help="of training")
    parser.add_argument("--folder", type=Path, default=Path("build/emoji"))
    parser.add_argument("--out", type=Path, default=pretrained.FILE)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    data = training_data()
    texts = sum(map(len, data["captions"]))
    print(f"{len(data['images'])} pictures with {texts} texts")
    autoencoder = trained_autoencoder(data["images"], options)
    scale = scaling_factor(autoencoder, data["images"])
    model = pretrained.emoji_model(tokenizer_of(data), autoencoder, scale, SEED)
    train(model, data, options)
    size = pretrained.write(model, options.out)
    print(f"{options.out}: {size / 1e6:.2f} MB, scaling_factor {scale:.4f}")
    if size > MOST:
        raise SystemExit(f"The file has more than {MOST / 1e6:.0f} MB.")


def training_data() -> dict:
    """Pictures at 32 x 32 of both styles, each with its texts."""
    images, captions = [], []
    for style, word in pretrained.STYLES.items():
        found = kg.datasets.emoji(style, split="train")
        images.append(halved(found["images"]))
        for label, tags in zip(found["captions"], found["tags"], strict=True):
            texts = [label, *tags[:2]]
            captions.append([f"{text.lower()}, {word}" for text in texts])
    return {"images": np.concatenate(images), "captions": captions}


def halved(images: np.ndarray) -> np.ndarray:
    """Means over 2 x 2 pixels."""
    n, height, width, channels = images.shape
    parts = images.reshape(n, height // 2, 2, width // 2, 2, channels)
    return parts.mean(axis=(2, 4)).astype("float32")


def tokenizer_of(data: dict) -> kg.Tokenizer:
    """Byte pairs of the captions, between a start and an end token."""
    texts = [text for texts in data["captions"] for text in texts]
    return kg.Tokenizer.train(texts, WORDS, "clip")


def scaling_factor(autoencoder: kg.AutoencoderKL, images: np.ndarray) -> float:
    """What makes the deviation of the latents 1 (2112.10752, appendix G)."""
    return float(1.0 / autoencoder.encode(images[::8], batch_size=64).mean.std())


def trained_autoencoder(images: np.ndarray, options) -> kg.AutoencoderKL:
    """The autoencoder, from its file where it was trained before."""
    path = options.folder / "autoencoder.keras"
    if path.is_file():
        return kg.load_model(path)
    model = pretrained.emoji_autoencoder(SEED)
    model.compile(autoencoder_optimizer=keras.optimizers.Adam(1e-3))
    fitted(model, images, 32, AUTOENCODER * options.minutes, options.folder / "a.npz")
    model.save(path)
    return model


def train(model: kg.LatentDiffusion, data: dict, options) -> None:
    """Trains the network and the text encoder on cached latents."""
    cached = model.cache(
        {**data, "captions": [clipped(model, texts) for texts in data["captions"]]},
        options.folder / "cache",
    )
    model.compile(keras.optimizers.AdamW(1e-3, weight_decay=0.01, global_clipnorm=1.0))
    minutes = (1.0 - AUTOENCODER) * options.minutes
    fitted(model, cached, 64, minutes, options.folder / "d.npz")


def clipped(model: kg.LatentDiffusion, texts: list[str]) -> list[str]:
    """The texts that are short enough for the model, at least one."""
    most = model.max_sequence_length
    short = [text for text in texts if len(model.tokenizer.encode(text)) <= most]
    return short or [", ".join(texts[0].split(", ")[-1:])]


def fitted(model, data, batch_size: int, minutes: float, path: Path) -> None:
    """Trains for so many minutes, over all runs; a run that was stopped goes on."""
    clock = Clock(minutes, path.with_suffix(".seconds"))
    model.fit(
        data,
        batch_size=batch_size,
        epochs=10_000,
        verbose=2,
        callbacks=[kg.callbacks.Resume(path), clock],
    )


class Clock(keras.callbacks.Callback):
    """Stops a training after so many minutes, counted over all of its runs.

    Args:
        minutes: of training.
        path: of the file that holds the seconds of the runs before.
    """

    def __init__(self, minutes: float, path: Path):
        super().__init__()
        self.limit, self.path = 60.0 * minutes, path
        self.seconds = float(path.read_text()) if path.is_file() else 0.0

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.monotonic()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds += time.monotonic() - self.began
        self.path.write_text(f"{self.seconds}")
        if self.seconds >= self.limit:
            self.model.stop_training = True


if __name__ == "__main__":
    main()
