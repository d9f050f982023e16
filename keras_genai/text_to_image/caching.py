"""Latents and text states of data, found once: in memory, or in a folder.

A folder holds `latents.npy`, `tokens.npy`, `context.npy` and `cache.json` with the key
that they belong to: a digest of the weights, and one of the data.
"""

import hashlib
import json
import pathlib

import keras
import numpy as np

from keras_genai.backend.precision import widen
from keras_genai.training import captions as captions_lib
from keras_genai.training.fingerprint import fingerprint
from keras_genai.utils.files import reading, written_folder

_NAMES = ("latents", "images", "tokens", "context")
_ABOUT = "cache.json"
_SAYS = {
    "data": "other data (images or captions)",
    "autoencoder": "another autoencoder's weights",
    "text": "another text encoder's weights or clip_skip",
}


def cached(model, x, path=None, batch_size=16, verbose=1):
    """See `LatentDiffusion.cache`; `x` has tokens in the place of captions."""
    rows, tokens, digest = _parts(model, x)
    key = {"data": digest, **_weights(model)}
    if path is None:
        return _filled(model, rows, tokens, batch_size, verbose, _in_memory)
    path = pathlib.Path(path)
    if not (path / _ABOUT).is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_folder(path, head=_ABOUT) as folder:
            folder.mkdir(exist_ok=True)
            _write(model, rows, tokens, batch_size, verbose, folder)
            (folder / _ABOUT).write_text(json.dumps(key, indent=2) + "\n", "utf-8")
    return _read(path, key)


def _write(model, rows, tokens, batch_size, verbose, folder):
    def on_disk(name, shape, dtype):
        return np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)

    made = _filled(model, rows, tokens, batch_size, verbose, on_disk)
    for array in made.values():
        array.flush()


def _in_memory(name, shape, dtype):
    return np.empty(shape, dtype)


def _read(path, key):
    """The arrays of a folder, which stay on the disk."""
    with reading(path):
        try:
            about = json.loads((path / _ABOUT).read_text("utf-8"))
            wrong = [says for k, says in _SAYS.items() if about.get(k) != key[k]]
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path / _ABOUT} is damaged ({error}).") from error
        if wrong:
            raise ValueError(
                f"{path} holds a cache of {' and of '.join(wrong)}; nothing was "
                "changed. Give another folder, or remove this one to make it anew."
            )
        return {
            name: np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in _NAMES
            if (path / f"{name}.npy").is_file()
        }


class _Rows:
    """Images by their number, of an array or of a lazy folder."""

    def __init__(self, source):
        self.source = source
        self.is_array = isinstance(source, np.ndarray)
        self.count = len(source) if self.is_array else len(source.files)

    def batches(self, size):
        """Iterator of `(rows, images)`; every image once."""
        if self.is_array:
            for first in range(0, self.count, size):
                images = self.source[first : first + size]
                yield np.arange(first, first + len(images)), images
            return
        order, size = self.source.order(self.source.epoch), self.source.batch_size
        for i in range(self.source.num_batches):
            yield order[i * size : (i + 1) * size], self.source[i][0]["images"]


def _parts(model, x):
    """`(rows, tokens, digest)` of data."""
    if isinstance(x, dict):
        if "images" not in x:
            raise ValueError(
                "cache makes latents of 'images'; the data have "
                f"{', '.join(sorted(map(str, x)))}."
            )
        model.check_data(x, None, None)
        images, tokens = np.asarray(x["images"]), x.get("tokens")
        digest = hashlib.sha256()
        for array in (images, tokens):
            if array is not None:
                array = np.ascontiguousarray(array)
                digest.update(f"{array.dtype} {array.shape}".encode())
                digest.update(array)
        return _Rows(images), tokens, digest.hexdigest()
    folder = getattr(x, "dataset", x)  # its captions are texts, and all are there
    captions = getattr(folder, "captions", None)
    if not captions or not hasattr(folder, "fingerprint"):
        raise ValueError(
            "cache takes a dict of arrays, or a folder with captions "
            f"(kg.datasets.folder(..., lazy=True)); got {type(x).__name__}."
        )
    tokens = model.tokenize(captions)
    about = [folder.fingerprint()["data"], tokens.tolist()]
    return _Rows(folder), tokens, hashlib.sha256(repr(about).encode()).hexdigest()


def _weights(model):
    """The digests of what the arrays are made by."""
    made = {"autoencoder": None, "text": None}
    if model.autoencoder is not None:
        made["autoencoder"] = fingerprint(model.autoencoder.variables)
    if model.text_encoder is not None and not model.train_text_encoder:
        text = fingerprint(model.text_encoder.variables)
        made["text"] = f"{text} {model.clip_skip} {model.text_norm}"
    return made


def _filled(model, rows, tokens, batch_size, verbose, empty):
    """The arrays by name; `empty(name, shape, dtype)` makes each.

    Only their filling takes long.
    """
    made, texts = {}, None
    if tokens is not None and not model.train_text_encoder:
        texts = captions_lib.rows_of(np.asarray(tokens), rows.count)
    total = rows.count + (0 if texts is None else len(texts))
    bar = keras.utils.Progbar(total, verbose=verbose, unit_name="row")
    name = "images" if model.autoencoder is None else "latents"
    for places, images in rows.batches(batch_size):
        if name == "latents":
            images = model.run_in_batches(
                "cache/latents",
                lambda x: widen(model.autoencoder.encoder(x, training=False)),
                model.autoencoder.encoder.variables,
                [images],
                batch_size,
                size=batch_size,
            )
        if name not in made:
            made[name] = empty(name, (rows.count, *images.shape[1:]), "float32")
        made[name][places] = images
        bar.add(len(places))
    if tokens is not None:
        made["tokens"] = empty("tokens", np.shape(tokens), "int32")
        made["tokens"][:] = tokens
    if texts is not None:
        width = model.conditions.context_shape[1]
        shape = (*np.shape(tokens), width)
        states = made["context"] = empty("context", shape, "float32")
        there = np.flatnonzero((np.asarray(tokens) != captions_lib.ABSENT)[..., 0])
        flat = states.reshape(-1, *states.shape[-2:])  # a view
        for first in range(0, len(texts), batch_size):
            part = texts[first : first + batch_size]
            flat[there[first : first + len(part)]] = model.run_in_batches(
                "cache/context",
                lambda tokens: model.encoded({"tokens": tokens})["context"],
                model.text_variables(),
                [part],
                batch_size,
                size=batch_size,
            )
            bar.add(len(part))
    return made
