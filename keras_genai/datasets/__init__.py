"""Real data inside the package, as NumPy arrays, with nothing to download.

`load(name)` gives `(x_train, y_train), (x_test, y_test)`; `names()` lists what
there is; `class_names(name)` says what the labels mean. Sources and licences are
in `NOTICE.md` beside this file.
"""

import hashlib
import io
from pathlib import Path

import numpy as np

__all__ = ["class_names", "load", "names"]

_FOLDER = Path(__file__).resolve().parent

# name -> (file, SHA-256 of the file, class names in the order of the labels)
_DATASETS = {
    "fashion_mnist": (
        "fashion_mnist.npz",
        "319203848407fa86210cd58ea0919b2585a9253390ffe05bac6aa153204ce5f0",
        (
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
        ),
    ),
}


def names() -> list[str]:
    """The names that `load` knows, in alphabetical order."""
    return sorted(_DATASETS)


def class_names(name: str) -> list[str]:
    """What the labels of a data set mean: entry `i` is the name of label `i`.

    Args:
        name: one of `names()`.

    Returns:
        A list of strings.

    Raises:
        ValueError: if the name is not known.

    Example:

    >>> class_names("fashion_mnist")[9]
    'Ankle boot'
    """
    return list(_entry(name)[2])


def load(
    name: str, value_range: tuple[float, float] = (-1.0, 1.0)
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Load a data set of labelled images that is inside the package.

    `"fashion_mnist"`: the first 2,000 training and the first 500 test images of
    each of the ten classes of Fashion-MNIST (Xiao, Rasul and Vollgraf,
    arXiv:1708.07747), in the order of the full set: 20,000 and 5,000 grey images of
    clothes, 28 by 28.

    Args:
        name: one of `names()`.
        value_range: `(low, high)`, the pixel values of black and white. The default
            suits a generator that ends in tanh; a Bernoulli VAE takes `(0.0, 1.0)`.

    Returns:
        `(x_train, y_train), (x_test, y_test)`. Images are float32 of shape
        `(N, 28, 28, 1)` inside `value_range`; labels are int32 of shape `(N,)`.

    Raises:
        ValueError: if the name is not known, if `value_range` is not two finite
            numbers of which the first is smaller, or if the file is damaged.
        FileNotFoundError: if the file is not there.

    Example:

    >>> (images, labels), _ = load("fashion_mnist")
    >>> images.shape, str(images.dtype), float(images.min()), float(images.max())
    ((20000, 28, 28, 1), 'float32', -1.0, 1.0)
    """
    file, sha256, _ = _entry(name)
    low, high = _checked_range(value_range)
    packed = _checked_bytes(_FOLDER / file, sha256)
    # A table has exactly `low` and `high` at its ends; scaling in float32 may
    # overshoot them by one unit in the last place.
    values = np.linspace(low, high, 256).astype("float32")
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        return tuple(
            (
                values[arrays[f"x_{part}"]][..., np.newaxis],  # (N, 28, 28, 1)
                arrays[f"y_{part}"].astype("int32"),  # (N,)
            )
            for part in ("train", "test")
        )


def _entry(name):
    if name not in names():
        raise ValueError(
            f"There is no data set {name!r}. Known: {', '.join(map(repr, names()))}."
        )
    return _DATASETS[name]


def _checked_range(value_range):
    try:
        low, high = (float(value) for value in value_range)
    except (TypeError, ValueError):
        low = high = np.nan
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(
            "value_range must be two finite numbers (low, high) with low < high, such "
            f"as (-1.0, 1.0) or (0.0, 1.0); got {value_range!r}."
        )
    return low, high


def _checked_bytes(path, sha256):
    """The file's bytes, looked at before anything parses them."""
    remedy = (
        "Install keras-genai again (pip install --force-reinstall --no-deps "
        "keras-genai), or, in a clone, restore the file with git checkout."
    )
    try:
        packed = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing. {remedy}") from None
    if hashlib.sha256(packed).hexdigest() != sha256:
        raise ValueError(
            f"{path} is damaged: it does not have the SHA-256 that this version of "
            f"keras-genai pins. {remedy}"
        )
    return packed
