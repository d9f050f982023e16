"""A user's own folder of images: with labels, captions or neither."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_genai.backend import random
from keras_genai.backend.devices import Devices
from keras_genai.datasets._captions import Captions
from keras_genai.datasets._columns import refuse_faults, two_columns
from keras_genai.datasets.preparation import (
    INTERPOLATIONS,
    SIZE,
    SUFFIXES,
    Resizing,
    byte_values,
    bytes_of,
    opened,
    pillow,
)
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import (
    flag,
    function,
    integer,
    one_of,
    optional,
    pair,
    refuse,
)
from keras_genai.utils.validation import path as path_check

# What a file of captions may be called, and its two columns.
CAPTION_FILES = tuple(
    f"{name}.{suffix}"
    for name in ("metadata", "captions")
    for suffix in ("csv", "tsv", "txt", "jsonl")
)
CAPTION_COLUMNS = (
    ("file_name", "filename", "filepath", "file", "path", "image"),
    ("text", "caption", "captions", "title"),
)
_SHOWN = 20  # names in a message, of files that cannot be read
_LONG = 1000  # files that take long enough to read for a progress bar
_LEFT_OUT = "__MACOSX"  # what macOS puts into archives beside the images


@checked(
    path=path_check,
    size=SIZE,
    labels=one_of("inferred", None),
    captions=optional(path_check),
    resize=one_of("shorter", "square"),
    interpolation=one_of(*INTERPOLATIONS),
    channels=one_of(1, 3),
    value_range=pair(),
    skip_broken=flag,
    follow_links=flag,
    lazy=flag,
    shuffle=flag,
    tokenize=optional(function),
    workers=integer(1, 1024),
)
def folder(
    path: str | os.PathLike,
    size: int | tuple[int, int],
    *,
    labels: str | None = "inferred",
    captions: str | os.PathLike | None = None,
    resize: str = "shorter",
    interpolation: str = "bicubic",
    channels: int = 3,
    value_range: tuple[float, float] = (-1.0, 1.0),
    skip_broken: bool = False,
    follow_links: bool = False,
    lazy: bool = False,
    batch_size: int = 32,
    shuffle: bool = True,
    seed: int = 0,
    tokenize: Callable | None = None,
    workers: int = 1,
    verbose: int | str = "auto",
) -> dict[str, Any] | ImageFolder:
    """Load one's own images, of any size and kind.

    - With a file of captions in the folder, the images that it names, in its order:
      `metadata.csv` (as in Hugging Face's imagefolder) or `captions.csv`, `.tsv`,
      `.txt` or `.jsonl`. Its columns are `file_name` (also `image`, `path`, `file`) and
      `text` (also `caption`, `title`), or there are two without names. An image that it
      names several times has several captions.
    - Else with folders of images in it, a class for each, in the order of their names.
    - Else the images alone, those of all folders in it.

    Images are files that end in .png, .jpg, .jpeg, .bmp, .gif, .webp, .tif, .tiff,
    .ppm, .avif, .jp2 and the like; other files, and names that begin with a dot, are
    passed over. They are prepared as by `prepare`: turned as EXIF says, on white,
    resized and cut to one size.

    Args:
        path: the folder.
        size: height and width of the images, an integer or `(height, width)`.
        labels: `"inferred"`: captions or classes, as above; None: the images alone.
        captions: the file of captions, where it has another name: in the folder, or
            anywhere. Its names of images are those within the folder.
        resize, interpolation, channels, value_range: see `prepare`.
        skip_broken: leave out images that cannot be read, with a warning that names
            them, instead of refusing the folder. The `lazy` way then reads each file
            once before training.
        follow_links: read what symbolic links name outside of the folder too. By
            default that is left out, with a warning.
        lazy: give a `keras.utils.PyDataset`, which reads the images of a batch when it
            is needed, instead of arrays. By default a file that is no image is found
            at once, and one that is damaged further on when its batch is read.
        batch_size: images in a batch; the last of an epoch may have fewer. Of `lazy`,
            as what follows.
        shuffle: whether each epoch has an order of its own: that of (seed, epoch), the
            same on every backend.
        seed: integer of the orders, and of which caption is drawn of several.
        tokenize: function from a list of N captions to their ids, integers `(N, T)`,
            such as `lambda texts: tokenizer.batch(texts, length=77)["tokens"]`.
        workers: threads that read images.
        verbose: 1 shows a progress bar, 0 none; `"auto"` from a thousand images on.

    Returns:
        A dict of `images`, float32 `(N, height, width, channels)` in `value_range`,
        and of `captions`, a list of N strings (of N lists of strings, where one has
        several), or of `labels`, int32 `(N,)`, and `class_names`, a list of strings,
        label i's at i. With `lazy` an `ImageFolder`.

    Raises:
        ValueError: there are no images; some cannot be read (all of them are found, and
            named); a file of captions is damaged, or names images that are not there.
        FileNotFoundError: there is no such folder.
        ImportError: Pillow is not installed.

    Example:

    ```python
    data = kg.datasets.folder("flowers", 64)  # flowers/rose/1.jpg, flowers/tulip/1.jpg
    model.fit(data["images"], data["labels"])
    photos = kg.datasets.folder("photos", 64, labels=None, lazy=True, workers=4)
    model.fit(photos, epochs=10, callbacks=[kg.callbacks.Resume("logs/run.npz")])
    ```
    """
    if tokenize is not None and not lazy:
        raise ValueError("tokenize is for lazy=True: the dict's captions are texts.")
    pillow()
    resizing = Resizing(size, resize, None, interpolation)
    told = []
    found = _found(Path(path), labels, captions, follow_links, told)
    shown = verbose == 1 or (verbose == "auto" and len(found.files) >= _LONG)
    if lazy:
        reasons = _reasons(found, resizing, channels, skip_broken, workers, shown)
        images = None
    else:
        images, reasons = _read(found, resizing, channels, value_range, workers, shown)
    found = _kept(found, reasons, skip_broken, told)
    for text in told:
        warnings.warn(text, stacklevel=3)  # 2 is `checked`
    if lazy:
        return ImageFolder(
            found,
            resizing,
            channels,
            value_range,
            batch_size,
            shuffle,
            seed,
            tokenize,
            workers,
        )
    if len(found.files) < len(images):
        images = images[[why is None for why in reasons]]
    made = {"images": images}
    if found.captions is not None:
        made["captions"] = found.plain_captions()
    if found.labels is not None:
        made["labels"] = np.array(found.labels, "int32")
        made["class_names"] = list(found.class_names)
    return made


class ImageFolder(keras.utils.PyDataset):
    """Batches of a folder's images, read when they are needed; `folder(lazy=True)`.

    Its batches are a function of (seed, epoch): `fit` says the epoch, so that a run
    that `kg.callbacks.Resume` continues sees what the unbroken one would have.

    A batch is `(images, labels)` with classes, `(images,)` alone, and with captions
    `({"images": images, "captions": array of N strings},)`; with `tokenize` they are
    `"tokens"`, int32 `(N, T)`.

    Attributes:
        files: list of the images' names within the folder.
        labels: int32 `(N,)`, or None.
        class_names: list of strings, or None.
        captions: list of strings, or of lists of strings, or None.
        image_shape: `(height, width, channels)`.
        tokenize: function from captions to ids, or None; it may be set.
        epoch: index of the epoch of which `dataset[i]` is batch i.
    """

    def __init__(
        self,
        source,
        resizing,
        channels,
        value_range,
        batch_size,
        shuffle,
        seed,
        tokenize,
        workers,
    ):
        super().__init__(workers=workers, max_queue_size=max(10, 2 * workers))
        self._source = source
        self._resizing = resizing
        self._values = byte_values(value_range)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.tokenize = tokenize
        self.files = list(source.files)
        self.class_names = source.class_names and list(source.class_names)
        self.labels = None
        if source.labels is not None:
            self.labels = np.array(source.labels, "int32")
        self.captions = source.captions and source.plain_captions()
        self.image_shape = (*resizing.size, channels)
        self.epoch = 0
        self._order = (None, None)
        self._draws = source.captions and Captions(source.captions, seed)
        self.divide(Devices())

    def set_epoch(self, epoch):
        """Says which epoch the batches are of; `fit` does."""
        self.epoch = epoch

    def divide(self, devices):
        """Says how batches are divided over processes, each of which reads its part.

        `fit` and `evaluate` do.

        Args:
            devices: a `backend.devices.Devices`.
        """
        self._devices = devices
        self._batches = devices.batches(len(self.files), self.batch_size)

    @property
    def num_batches(self):
        return self._batches

    def order(self, epoch):
        """The order of the images in an epoch: int32 `(N,)`."""
        if not self.shuffle:
            return np.arange(len(self.files))
        known = self._order  # one read: other threads may put another in its place
        if known[0] != epoch:
            key = random.key(self.seed, "shuffle", epoch)
            known = self._order = (epoch, random.permutation(key, len(self.files)))
        return known[1]

    def __getitem__(self, index):
        if not 0 <= index < self.num_batches:
            raise IndexError(f"There are {self.num_batches} batches; got {index}.")
        epoch = self.epoch
        first = index * self.batch_size
        rows = self.order(epoch)[first : first + self.batch_size]
        rows = self._devices.own(rows)
        images = np.stack([self._image(i) for i in rows])
        if self._source.captions is not None:
            texts = self._draws.of(rows, epoch)
            if self.tokenize is None:
                return ({"images": images, "captions": texts},)
            tokens = np.asarray(self.tokenize(texts.tolist()), "int32")
            return ({"images": images, "tokens": tokens},)
        return (images,) if self.labels is None else (images, self.labels[rows])

    def _image(self, row):
        path = self._source.folder / self.files[row]
        try:
            made = bytes_of(path, self._resizing, self.image_shape[-1])
        except ValueError as error:
            raise ValueError(
                f"{path} cannot be read: {error}. With skip_broken=True "
                "kg.datasets.folder leaves such images out."
            ) from error
        return self._values[made]

    def fingerprint(self):
        """What `kg.callbacks.Resume` knows a run's data by, as a dict.

        The names and the sizes of the files, not what is in them.
        """
        source = self._source
        sizes = [os.stat(source.folder / name).st_size for name in self.files]
        made_of = [self.files, sizes, source.labels, source.captions, self.seed]
        made_of += [self.image_shape, vars(self._resizing), self._values.tolist()]
        return {
            "number of samples": len(self.files),
            "batch size": self.batch_size,
            "shuffling": self.shuffle,
            "data": hashlib.sha256(repr(made_of).encode()).hexdigest(),
        }


# What there is


@dataclasses.dataclass(frozen=True)
class _Source:
    """The images of a folder.

    Attributes:
        folder: path.
        files: names within it.
        labels: the class of each, or None.
        class_names: their names, or None.
        captions: list of the captions of each, or None.
    """

    folder: Path
    files: list
    labels: list | None = None
    class_names: list | None = None
    captions: list | None = None

    def plain_captions(self):
        """The captions as strings, where no image has several."""
        if all(len(texts) == 1 for texts in self.captions):
            return [texts[0] for texts in self.captions]
        return [list(texts) for texts in self.captions]

    def kept(self, chosen):
        """The images of which `chosen` is true."""

        def some(values):
            if values is None:
                return None
            return [v for v, keep in zip(values, chosen, strict=True) if keep]

        return dataclasses.replace(
            self,
            files=some(self.files),
            labels=some(self.labels),
            captions=some(self.captions),
        )


def _found(path, labels, captions, follow_links, told):
    """The images of a folder, with captions or classes: a `_Source`.

    Args:
        path, labels, captions, follow_links: of `folder`.
        told: list that gets what the user is to be warned of.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no folder {path}.")
    if not path.is_dir():
        refuse("path", "a folder of images", str(path))
    if labels is None and captions is not None:
        raise ValueError("labels=None reads images alone: captions would do nothing.")
    outside = []
    by_part = _images_in(path, follow_links, outside)
    if outside:
        told.append(
            f"{_names(outside)} in {path} are links out of the folder, and left out. "
            "Give follow_links=True to read them."
        )
    files = sorted(name for part in by_part.values() for name in part)
    table = _caption_file(path, captions) if labels is not None else None
    if table is not None:
        return _captioned(path, table, files, follow_links, told)
    if not files:
        kinds = ", ".join(sorted(SUFFIXES))
        raise ValueError(
            f"There are no images in {path}: no files that end in {kinds}."
        )
    classes = sorted(part for part, names in by_part.items() if part and names)
    if labels is None or not classes:
        return _Source(path, files)
    empty = sorted(part for part, names in by_part.items() if part and not names)
    if empty:
        told.append(f"{_names(empty)} in {path} hold no images, and are no classes.")
    beside = by_part.get("", [])
    if beside:
        told.append(
            f"{_names(beside)} in {path} are in no class's folder, and left out. Give "
            "labels=None to read all images without classes."
        )
    pairs = [(name, i) for i, part in enumerate(classes) for name in by_part[part]]
    files, numbers = map(list, zip(*pairs, strict=True))
    return _Source(path, files, numbers, classes)


def _images_in(root, follow_links, outside):
    """Dict first folder -> sorted names of the images in it; "" for the root's own.

    Args:
        root: path.
        follow_links: whether links out of it are followed.
        outside: list that gets the names of the links that are not.
    """
    found, inside, seen = {}, _real(root), set()

    def walk(folder, part):
        real = _real(folder)
        if real in seen:  # a circle of links
            return
        seen.add(real)
        with os.scandir(folder) as listed:
            entries = sorted(listed, key=lambda entry: entry.name)
        for entry in entries:
            if entry.name.startswith(".") or entry.name == _LEFT_OUT:
                continue
            path, name = folder / entry.name, os.path.relpath(entry.path, root)
            link, image = entry.is_symlink(), path.suffix.lower() in SUFFIXES
            try:
                directory, image = entry.is_dir(), image and (entry.is_file() or link)
            except OSError:  # a link to itself
                directory = False
            if link and (directory or image):
                leads_out = not _real(path).is_relative_to(inside)
                if leads_out and not follow_links:
                    outside.append(Path(name).as_posix())
                    continue
                if directory and not leads_out:
                    continue  # read where it is
            if directory:
                first = part or entry.name
                found.setdefault(first, [])
                walk(path, first)
            elif image:
                found.setdefault(part, []).append(Path(name).as_posix())

    walk(root, "")
    return found


def _real(path):
    """A path without links; that of a link to itself is its own."""
    return Path(os.path.realpath(path))


def _caption_file(path, captions):
    """The path of the file of captions, or None where there is none."""
    if captions is not None:
        places = [path / captions, Path(captions)]
        there = [place for place in places if place.is_file()]
        if not there:
            raise FileNotFoundError(
                f"captions must be a file, in {path} or elsewhere; there is no "
                f"{captions}."
            )
        return there[0]
    there = [name for name in CAPTION_FILES if (path / name).is_file()]
    if len(there) > 1:
        raise ValueError(
            f"{path} holds several files of captions: {', '.join(there)}. Say which by "
            "captions=."
        )
    return path / there[0] if there else None


def _captioned(path, table, files, follow_links, told):
    """The images that a file of captions names: a `_Source`; see `_found`."""
    rows = two_columns(table, None, CAPTION_COLUMNS, named=True)
    texts, faults, known, inside = {}, [], set(files), _real(path)
    for line, name, text in rows:
        plain = os.path.relpath(path / name, path)
        if plain == "." or Path(plain).parts[0] == "..":
            faults.append(f"line {line} names {name!r}, outside of the folder")
            continue
        name = Path(plain).as_posix()
        if name not in known:  # hidden, of another ending, or not there
            real = _real(path / name)
            if not real.is_file():
                faults.append(f"line {line} names {name!r}, which is not there")
                continue
            if not real.is_relative_to(inside) and not follow_links:
                faults.append(f"line {line} names {name!r}, a link out of the folder")
                continue
        texts.setdefault(name, []).extend([text] if isinstance(text, str) else text)
    refuse_faults(table, faults)
    others = sorted(known - set(texts))
    if others:
        told.append(
            f"{_names(others)} in {path} have no caption in {table.name}, and are left "
            "out."
        )
    return _Source(path, list(texts), captions=list(texts.values()))


def _names(names):
    """A few names for a message, and how many more there are."""
    told = ", ".join(names[:3])
    return f"{told} and {len(names) - 3} more" if len(names) > 3 else told


# Reading


def _each(read, source, workers, shown):
    """For each file in turn `(number, array or None, why it cannot be read or None)`.

    Args:
        read: function of a path; its `ValueError` says why a file cannot be read.
        source: a `_Source`.
        workers: threads.
        shown: whether a progress bar is.
    """

    def attempt(name):
        try:
            return read(source.folder / name), None
        except ValueError as error:
            return None, str(error)

    bar = keras.utils.Progbar(len(source.files), unit_name="image") if shown else None
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        # A few at a time: what is read ahead stays in memory.
        for first in range(0, len(source.files), 16 * workers):
            names = source.files[first : first + 16 * workers]
            run = pool.map if workers > 1 else map
            for i, (made, why) in enumerate(run(attempt, names), first):
                yield i, made, why
                if bar is not None:
                    bar.add(1)


def _read(source, resizing, channels, value_range, workers, shown):
    """The images, float32, and for each why it cannot be read, or None."""
    values = byte_values(value_range)
    images = np.empty((len(source.files), *resizing.size, channels), "float32")
    reasons = []

    def read(path):
        return bytes_of(path, resizing, channels)

    for i, made, why in _each(read, source, workers, shown):
        reasons.append(why)
        if why is None:
            images[i] = values[made]
    return images, reasons


def _reasons(source, resizing, channels, skip_broken, workers, shown):
    """For each image why it cannot be read, or None.

    They are read whole only where the damaged are to be left out: that takes as long as
    an epoch.
    """

    def read(path):
        if skip_broken:
            bytes_of(path, resizing, channels)
        else:
            with opened(path):
                pass

    return [why for _, _, why in _each(read, source, workers, shown)]


def _kept(source, reasons, skip_broken, told):
    """The images that can be read; the others are refused, or warned of."""
    broken = [
        f"{name}: {why}"
        for name, why in zip(source.files, reasons, strict=True)
        if why is not None
    ]
    if not broken:
        return source
    named = "; ".join(broken[:_SHOWN])
    more = len(broken) - _SHOWN
    named += f"; and {more} more" if more > 0 else ""
    many = f"{len(broken)} of {len(source.files)} images in {source.folder}"
    if not skip_broken:
        raise ValueError(
            f"{many} cannot be read: {named}. Mend or remove them, or give "
            "skip_broken=True."
        )
    if len(broken) == len(source.files):
        raise ValueError(f"None of the images in {source.folder} can be read: {named}.")
    told.append(f"{many} cannot be read, and are left out: {named}.")
    return source.kept([why is None for why in reasons])
