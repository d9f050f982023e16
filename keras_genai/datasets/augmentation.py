"""Batches whose images random layers change, anew in each epoch."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_genai.backend import random
from keras_genai.datasets._captions import Captions
from keras_genai.training.data import ArrayDataset, WrappedDataset
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import flag, integer, refuse

_SLACK = 1e-3  # outside the range, of an image behind the layers


@checked(batch_size=integer(1), shuffle=flag, seed=integer(0))
def augmented(
    data: Any,
    layers: keras.layers.Layer | Sequence[keras.layers.Layer],
    *,
    batch_size: int = 32,
    shuffle: bool = True,
    seed: int = 0,
) -> Augmented:
    """Changes images by Keras's or KerasCV's random layers, anew in each epoch.

    The noise of a batch is a function of (seed, epoch, number of the batch), so a run
    that `kg.callbacks.Resume` continues sees what the unbroken one would have. It is
    drawn by the layers: another backend of Keras draws another.

    Args:
        data: floats in [-1, 1] `(N, H, W, C)`; `(images, labels)`; a dict of
            `"images"` and `"captions"` (a list of strings, or of lists of strings, of
            which each epoch draws one) or `"tokens"`; or a `PyDataset` of such batches,
            as `folder(..., lazy=True)` gives.
        layers: a layer, or several, which are called in turn with `training=True`. For
            images in [-1, 1], say `fill_value=1.0` (white) where a layer moves pixels,
            and `value_range=(-1, 1)` where it changes colours.
        batch_size, shuffle, seed: of arrays; a `PyDataset` has its own batches. See
            `kg.Model.fit`.

    Returns:
        `keras.utils.PyDataset`, for `fit`.

    Raises:
        ValueError: for other data. When a batch is read: the layers change its shape,
            or lead outside of [-1, 1].

    Example:

    ```python
    data = kg.datasets.emoji(split="train")
    turned = keras.layers.RandomRotation(0.05, fill_mode="constant", fill_value=1.0)
    pairs = {"images": data["images"], "captions": data["captions"]}
    model.fit(kg.datasets.augmented(pairs, [turned], batch_size=128), epochs=20)
    ```
    """
    layers = list(layers) if isinstance(layers, (list, tuple)) else [layers]
    wrong = next((x for x in layers if not isinstance(x, keras.layers.Layer)), None)
    if not layers or wrong is not None:
        refuse("layers", "a Keras layer, or a list of them", wrong)
    if isinstance(data, keras.utils.PyDataset):
        return Augmented(data, layers, seed)
    return Augmented(_Arrays(data, batch_size, shuffle, seed), layers, seed)


class Augmented(WrappedDataset):
    """The batches of a dataset behind random layers; see `augmented`.

    Attributes:
        dataset: the `PyDataset` that is wrapped.
        layers: list of Keras layers.
    """

    def __init__(self, dataset, layers, seed):
        super().__init__(dataset)
        self.layers = layers
        self.seed = seed
        self._epoch = getattr(dataset, "epoch", 0)
        self._one_at_a_time = threading.Lock()  # the layers hold the state of the noise

    def set_epoch(self, epoch):
        """Says which epoch the batches are of; `fit` does."""
        self._epoch = epoch
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)

    def __getitem__(self, index):
        batch = self.dataset[index]
        parts = batch if isinstance(batch, (tuple, list)) else (batch,)
        x, *rest = parts
        if isinstance(x, dict):
            x = {**x, "images": self._changed(x["images"], index)}
        else:
            x = self._changed(x, index)
        return (x, *rest)

    def _changed(self, images, index):
        key = random.key(self.seed, f"augment/{self._epoch}", index)
        with self._one_at_a_time, keras.device("cpu"):
            _set_noise(self.layers, key)
            made = images
            for layer in self.layers:
                made = layer(made, training=True)
            made = keras.ops.convert_to_numpy(made).astype("float32")
        if made.shape != np.shape(images):
            raise ValueError(
                f"The layers made images of the shape {made.shape} of "
                f"{np.shape(images)}: the size must stay."
            )
        least, most = float(made.min()), float(made.max())
        if not (least >= -1.0 - _SLACK and most <= 1.0 + _SLACK):
            raise ValueError(
                f"Behind the layers the images lie in [{least:.4g}, {most:.4g}], and "
                "must in [-1, 1]: give value_range=(-1, 1) to layers that change "
                "colours."
            )
        return made

    def fingerprint(self):
        """What `kg.callbacks.Resume` knows a run's data by, as a dict."""
        settings = [
            {k: v for k, v in layer.get_config().items() if k not in ("name", "seed")}
            for layer in self.layers
        ]
        names = [type(layer).__name__ for layer in self.layers]
        found = {"kind of data": type(self.dataset).__name__}
        if hasattr(self.dataset, "fingerprint"):
            found = self.dataset.fingerprint()
        return {**found, "augmentation": repr([self.seed, names, settings])}


class _Arrays(ArrayDataset):
    """Arrays in memory, of which one of several captions is drawn in each epoch."""

    def __init__(self, data, batch_size, shuffle, seed):
        x, labels = data if isinstance(data, (tuple, list)) else (data, None)
        self.captions = self._draws = None
        if isinstance(x, dict):
            x = dict(x)
            if "images" not in x:
                raise ValueError(
                    f"data must have 'images'; got a dict of {sorted(map(str, x))}."
                )
            if "captions" in x:
                self.captions = list(x.pop("captions"))
                self._draws = Captions(self.captions, seed)
                x["rows"] = np.arange(len(self.captions), dtype="int32")
        x = {k: np.asarray(v) for k, v in x.items()} if isinstance(x, dict) else x
        images = np.asarray(x["images"] if isinstance(x, dict) else x)
        if images.ndim != 4 or not np.issubdtype(images.dtype, np.floating):
            raise ValueError(
                "Images must be floats (N, H, W, C) in [-1, 1]; got the shape "
                f"{images.shape}, {images.dtype}."
            )
        labels = None if labels is None else np.asarray(labels)
        super().__init__((x, labels, None), batch_size, shuffle, seed)

    def divide(self, devices):
        """Says how batches are divided over processes; `fit` does."""
        self.devices = devices
        self.steps = self.batches = self.devices.batches(self.size, self.batch_size)

    def fingerprint(self):
        found = super().fingerprint()
        if self.captions is not None:
            texts = repr([self._draws.texts, self.seed]).encode()
            found["captions"] = hashlib.sha256(texts).hexdigest()
        return found

    def __getitem__(self, index):
        x, *rest = super().__getitem__(index)
        if self.captions is not None:
            x = dict(x)
            x["captions"] = self._draws.of(x.pop("rows"), self.epoch)
        return (x, *rest)


def _set_noise(layers, key):
    """Sets the layers' generators to a key, each to one of its own."""
    words = np.array([int(word) & 0xFFFFFFFF for word in key], "uint64")
    number = 0
    for layer in layers:
        for variable in layer.variables:
            if "seed_generator_state" in variable.path:
                state = np.array([words[0] ^ number, words[1]], "uint64")
                variable.assign((state & 0x7FFFFFFF).astype(variable.dtype))
                number += 1
