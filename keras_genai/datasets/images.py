"""Labelled images, and emoji in two styles with their names, as NumPy arrays."""

from __future__ import annotations

import functools
import hashlib
import json
import lzma
import socket
from typing import Any

import numpy as np

from keras_genai.datasets import _files
from keras_genai.datasets.preparation import byte_values
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import flag, one_of, pair

_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# name -> class names in the order of the labels; None where the file holds them
_LABELLED = {
    "cifar10": (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    ),
    "fashion_mnist": _FASHION,
    "fashion_mnist_full": _FASHION,
    "mnist": tuple("0123456789"),
    "quickdraw": None,
}
# What `keras.datasets` calls the data that is not in the package.
_IN_KERAS = {
    "cifar10": "cifar10",
    "fashion_mnist_full": "fashion_mnist",
    "mnist": "mnist",
}
# The last drawings of each class of the sketches are the test set.
_QUICKDRAW_TEST = 20
_NETWORK_SECONDS = 30
_STYLES = ("fluent", "google")
# Names that are held out altogether: so many with a second drawing, so many without.
_HELD_OUT_NAMES = {True: 244, False: 56}
_HELD_OUT_DRAWINGS = 244  # of the other names, the second drawing alone
_SPLITS = ("train", "held_out_drawings", "held_out_names", "seen_names")
# Emoji whose picture is that of another to the pixel (families, flags of a state and of
# its islands): held out, they would be told by their twin. They are trained on.
_TWINS = """
    1f468-200d-1f466 1f468-200d-1f466-200d-1f466 1f468-200d-1f468-200d-1f466
    1f468-200d-1f468-200d-1f466-200d-1f466 1f46a 1f9d1-200d-1f9d1-200d-1f9d2
    1f9d1-200d-1f9d1-200d-1f9d2-200d-1f9d2 1f9d1-200d-1f9d2
    1f9d1-200d-1f9d2-200d-1f9d2 1f1e6-1f1fa 1f1ed-1f1f2 1f1e7-1f1fb 1f1f3-1f1f4
    1f1f8-1f1ef 1f1e8-1f1f5 1f1eb-1f1f7 1f1f2-1f1eb 1f1e8-1f1f6 1f1f8-1f1e6
    1f1e9-1f1ec 1f1ee-1f1f4 1f1ea-1f1e6 1f1ea-1f1f8 1f1fa-1f1f2 1f1fa-1f1f8
    1f63a 1f431
""".split()


def names() -> list[str]:
    """The names that `load` knows, in alphabetical order."""
    return sorted(_LABELLED)


def class_names(name: str) -> list[str]:
    """What the labels of a data set mean: entry `i` is the name of label `i`.

    Args:
        name: one of `names()`.

    Returns:
        A list of strings.

    Raises:
        ValueError: if the name is not known; the nearest known one is offered.

    Example:

    >>> class_names("fashion_mnist")[9]
    'Ankle boot'
    >>> class_names("quickdraw")[:3]
    ['aircraft carrier', 'airplane', 'alarm clock']
    """
    _check_name(name)
    if _LABELLED[name] is None:
        return _files.packaged_arrays(f"{name}.npz", "names")["names"].tolist()
    return list(_LABELLED[name])


@checked(name=None, value_range=pair())
def load(
    name: str, value_range: tuple[float, float] = (-1.0, 1.0)
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Load a data set of labelled images.

    Inside the package, with nothing to download:

    - `"fashion_mnist"`: the first 2,000 training and the first 500 test images of
      each of the ten classes of Fashion-MNIST (Xiao, Rasul and Vollgraf,
      arXiv:1708.07747), in the order of the full set: 20,000 and 5,000 grey images
      of clothes, 28 by 28.
    - `"quickdraw"`: sketches of 345 things from Google's Quick, Draw! (Ha and Eck,
      arXiv:1704.03477), 28 by 28, white ink on black: the first 80 of each class for
      training and the last 20 for testing (27,600 and 6,900). Each run of 345 images
      has every class once, in the order of the labels.

    Fetched, at the first use where there is a network, into the cache folder
    (`KERAS_GENAI_DATA`, by default `~/.keras/keras_genai`), and checked whenever they
    are read:

    - `"fashion_mnist_full"` and `"mnist"`: 60,000 and 10,000 grey images, 28 by 28.
    - `"cifar10"`: 50,000 and 10,000 colour photographs, 32 by 32 (Krizhevsky, 2009).

    Args:
        name: one of `names()`.
        value_range: `(low, high)`, the pixel values of black and white. The default
            suits a generator that ends in tanh; a Bernoulli VAE takes `(0.0, 1.0)`.

    Returns:
        `(x_train, y_train), (x_test, y_test)`. Images are float32 of shape
        `(N, height, width, channels)` inside `value_range`; labels are int32 of
        shape `(N,)`.

    Raises:
        ValueError: if the name is not known (the nearest known one is offered), if
            `value_range` is not two finite numbers of which the first is smaller,
            or if the file is damaged.
        FileNotFoundError: if the data is neither here nor to be had; the message
            says what to run.

    Example:

    >>> (images, labels), _ = load("fashion_mnist")
    >>> images.shape, str(images.dtype), float(images.min()), float(images.max())
    ((20000, 28, 28, 1), 'float32', -1.0, 1.0)
    """
    _check_name(name)
    values = byte_values(value_range)
    if name in _IN_KERAS:
        arrays = _fetched_images(name)
    else:
        arrays = _files.packaged_arrays(f"{name}.npz")
        if name == "quickdraw":
            arrays = _split_of_each_class(arrays["x"])

    def part(name):
        images = arrays[f"x_{name}"]
        if images.ndim == 3:
            images = images[..., np.newaxis]  # (N, H, W, 1)
        return values[images], arrays[f"y_{name}"].reshape(-1).astype("int32")

    return part("train"), part("test")


@checked(value_range=pair(), alpha=flag, split=one_of(*_SPLITS))
def emoji(
    style: str = "google",
    language: str = "en",
    value_range: tuple[float, float] = (-1.0, 1.0),
    alpha: bool = False,
    split: str | None = None,
) -> dict[str, Any]:
    """Load emoji: pictures, 64 by 64, and what they show in words.

    For text to image (`images` and `captions`), for classes (`groups`), for
    transparency (`alpha=True`), for two drawings of one thing (join two styles by
    `codes`), and for short phrases in many languages. They are in Unicode's order;
    emoji with a skin tone are left out.

    Args:
        style: `"google"` (Noto Emoji, 1,911 pictures) or `"fluent"` (Microsoft's
            Fluent Emoji in 3D, 1,544).
        language: of the captions, such as `"en"`, `"es"`, `"ja"`; an unknown one
            lists the known.
        value_range: `(low, high)`, the pixel values of black and white.
        alpha: keep transparency as a fourth channel, where `low` is transparent and
            `high` opaque (colours are not multiplied by it). By default the pictures
            are put on white.
        split: which of them, by code point, so that a name is on one side in both
            styles and in every language. None: all. The number of pictures:

            | split | google | fluent |
            |---|---|---|
            | `"train"` | 1,611 | 1,056 |
            | `"held_out_drawings"`: trained on in Google's style alone | - | 244 |
            | `"held_out_names"`: trained on in no style | 300 | 244 |
            | `"seen_names"`: all but the held-out names | 1,611 | 1,300 |

            A model trained on Google's pictures alone is judged on `"seen_names"` of
            the other style; one trained on both, on `"held_out_drawings"`.

    Returns:
        A dict of equally long columns: `images`, float32 of shape `(N, 64, 64, 3)`
        (4 with `alpha`) inside `value_range`, and the lists `captions` (the label in
        `language`), `tags` (a list of English words for each), `codes` (such as
        `"1f600"`), `characters`, `groups` and `subgroups` (Unicode's).

    Raises:
        ValueError: if the style, the language or the split is not known, if the split
            has no picture in that style, if `value_range` is not two finite numbers of
            which the first is smaller, or if a file is damaged.

    Example:

    >>> data = emoji(style="fluent", language="es")
    >>> data["images"].shape, data["captions"][0]
    ((1544, 64, 64, 3), 'cara sonriendo')
    >>> emoji(split="held_out_names")["images"].shape
    (300, 64, 64, 3)
    """
    if not _files.is_known(style, _STYLES):
        raise _files.unknown("style of emoji", style, _STYLES, {})
    values = byte_values(value_range)
    names = json.loads(lzma.decompress(_files.packaged("emoji.json.xz")))
    languages = names[0]["labels"]
    if not _files.is_known(language, languages):
        raise _files.unknown(
            "language of the emoji's captions", language, languages, {}
        )
    arrays = _files.packaged_arrays(f"emoji_{style}.npz")
    by_code = {entry["code"]: entry for entry in names}
    codes, images = arrays["codes"].tolist(), arrays["images"]  # (N, 64, 64, 4), bytes
    if split is not None:
        chosen = [i for i, code in enumerate(codes) if _is_in(code, style, split)]
        if not chosen:
            raise ValueError(
                f"split={split!r} has no pictures in the style {style!r}: they are of "
                "the style 'fluent'."
            )
        codes, images = [codes[i] for i in chosen], images[chosen]
    entries = [by_code[code] for code in codes]
    return {
        "images": values[images if alpha else on_white(images)],
        "captions": [entry["labels"][language] for entry in entries],
        "tags": [entry["tags"] for entry in entries],
        "codes": [entry["code"] for entry in entries],
        "characters": [entry["character"] for entry in entries],
        "groups": [entry["group"] for entry in entries],
        "subgroups": [entry["subgroup"] for entry in entries],
    }


def _is_in(code, style, split):
    """Whether the picture of a code point in a style is in a split of `emoji`."""
    names, drawings = _held_out()
    if code in names:
        return split == "held_out_names"
    if style == "fluent" and code in drawings:
        return split in ("held_out_drawings", "seen_names")
    return split in ("train", "seen_names")


@functools.cache
def _held_out():
    """The code points of the held-out names, and of the held-out drawings.

    The first of each kind by the SHA-256 of the code point.
    """
    google, fluent = (
        set(_files.packaged_arrays(f"emoji_{style}.npz", "codes")["codes"].tolist())
        for style in ("google", "fluent")
    )
    order = sorted(
        google - set(_TWINS), key=lambda code: hashlib.sha256(code.encode()).digest()
    )
    twice = [code for code in order if code in fluent]
    once = [code for code in order if code not in fluent]
    count = _HELD_OUT_NAMES[True]
    names = frozenset([*twice[:count], *once[: _HELD_OUT_NAMES[False]]])
    return names, frozenset(twice[count : count + _HELD_OUT_DRAWINGS])


@checked(value_range=pair())
def photographs(
    value_range: tuple[float, float] = (-1.0, 1.0),
) -> dict[str, np.ndarray]:
    """Load three photographs in colour, to dream into and to ask about.

    `"astronaut"` (NASA, public domain), `"chelsea"`, a cat (Stefan van der Walt, CC0),
    and `"coffee"` (Rachel Michetti, CC0), as scikit-image has them. Fetched once:
    `python tools/fetch_data.py photographs`.

    Args:
        value_range: `(low, high)`, the pixel values of black and white.

    Returns:
        Dict name -> float32 `(H, W, 3)`.

    Raises:
        ValueError: if `value_range` is not two finite numbers of which the first is
            smaller, or if the file is damaged.
        FileNotFoundError: the file is not there; says what to run.
    """
    values = byte_values(value_range)
    arrays = _files.read_cached("photographs")
    if arrays is None:
        raise _files.unavailable("photographs")
    return {name: values[pixels] for name, pixels in sorted(arrays.items())}


def on_white(images: np.ndarray) -> np.ndarray:
    """RGBA bytes `(..., 4)` put on white: RGB bytes `(..., 3)`, rounded."""
    colour = images[..., :3].astype("uint16")
    opaque = images[..., 3:].astype("uint16")
    # At most 255 * 255 + 127, which 16 bits hold.
    mixed = colour * opaque + 255 * (255 - opaque) + 127
    return (mixed // 255).astype("uint8")


def _check_name(name):
    if not _files.is_known(name, names()):
        raise _files.unknown("data set of images", name, names(), _files.ELSEWHERE)


def _split_of_each_class(x):
    """(classes, samples, 28, 28) as training and test arrays."""
    classes, samples = x.shape[:2]
    first = samples - _QUICKDRAW_TEST
    arrays = {}
    for part, chosen in {"train": x[:, :first], "test": x[:, first:]}.items():
        # One sample of every class after another, so that any beginning of the
        # arrays has all classes alike.
        arrays[f"x_{part}"] = chosen.swapaxes(0, 1).reshape(-1, *x.shape[2:])
        arrays[f"y_{part}"] = np.tile(np.arange(classes), chosen.shape[1])
    return arrays


def _fetched_images(name):
    """From the cache, else from `keras.datasets` (and then into the cache)."""
    arrays = _files.read_cached(name)
    if arrays is None:
        try:
            arrays = _from_keras(_IN_KERAS[name])
        # Keras raises a bare Exception where a download fails.
        except Exception as error:
            tried = f"keras.datasets could not download it ({error}). "
            raise _files.unavailable(name, tried) from error
        _files.write_cached(name, arrays)
    return arrays


def _from_keras(name):
    """What `keras.datasets` downloads, with Keras's progress bar, as our arrays."""
    import keras

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_NETWORK_SECONDS)
    try:
        train, test = getattr(keras.datasets, name).load_data()
    finally:
        socket.setdefaulttimeout(before)
    arrays = {"x_train": train[0], "y_train": train[1]}
    arrays |= {"x_test": test[0], "y_test": test[1]}
    return {
        key: np.asarray(array, "uint8").reshape(-1)
        if key.startswith("y_")
        else np.asarray(array, "uint8")
        for key, array in arrays.items()
    }
