"""Where data lies, how a file is checked before it is used, how one is written.

Needs nothing but the standard library and NumPy: `tools/fetch_data.py` reads this
file, and the two of `utils/` that it uses, by itself, so that the cache has one writer
and one list of checksums.
"""

from __future__ import annotations

import difflib
import hashlib
import io
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from keras_genai.utils.archives import DAMAGED, opened_arrays
from keras_genai.utils.files import written_beside

FOLDER = Path(__file__).resolve().parent

# The files inside the package, with the SHA-256 of each.
PACKAGED = {
    "emoji.json.xz": (
        "afd82ec2969bc9e695c212c0111ca6e6330f639bfa3e12e7be869cbc0dbce890"
    ),
    "emoji_fluent.npz": (
        "8bc0ba134e812bb8b880f71e12d1628e99422cb3edcb7d9d026d610a35960f0f"
    ),
    "emoji_google.npz": (
        "d69a8ed569f6c3eef9808425677b2872a6b244179994ada55ca1aee4052e2aa9"
    ),
    "fashion_mnist.npz": (
        "319203848407fa86210cd58ea0919b2585a9253390ffe05bac6aa153204ce5f0"
    ),
    "quickdraw.npz": (
        "55bf5d9dfc293578bbd5a83b949bccf98e793e54e948429adff203d91234b4f2"
    ),
    "shakespeare.json.xz": (
        "368a03bff98ec86595a2694e7dd681329c43f38e2e1632a83c8cffa72662b0b6"
    ),
    "verses.tsv.xz": (
        "67ab1d903e7f816ddee8691d8549fc3b4b996d2e1c645bd67c0b60e3e529480e"
    ),
}

# What is not in the package: name -> `content_hash` of its arrays. It is taken of
# the arrays and not of a file, so that it holds whichever source they came from and
# however they were compressed.
FETCHED = {
    "adult": "9b6d870696ea396188bb0b969c321a48d5f746e94ea67c8622ee9c978d83c526",
    "chorales": "9f33b99ed2b311a854f9963e75d7095415856293bcfef6c6964469940083a5b0",
    "cifar10": "80b3c18ee2939c77fc35655b1801749f57f7876bdbe810b3408c6860015b8931",
    "fashion_mnist_full": (
        "37e5852d33933792bfddacf387e185c9c3d87fa20c45417517512181f092a44a"
    ),
    "flights": "ef68bce9ebc94bebc8f03f10ce2c5651b988f52f6f19a831b441fa2fb40d704e",
    "minilm": "cbbb816714a7382437c41a4d1a47b0667bfb74f01366f4bfb55f5cee05b3b113",
    "mnist": "8fc8fc4f0343f34ece1fcfdfb65f0801fac48030ce7c70e62bbb62f64ee2e65b",
    "mobilenet_v2": "b7853b8e7d3c8c2fe5f73c55c2d79613df04d6201be30b900d1d025013d15207",
    "photographs": "20a8431ddfb20574807b04b1fcf2801ee4bf50c88ce57b94ba5907560e15bc1b",
    "resnet50": "a89c75aa3b91042a4e5b938d1ab2c019aaccdc696cd0f5db20b7d63684a34ea0",
    "stories15m": "693339b4c9a610cca6f8a3a136cbe0e809364ef2b02a2e05abb22297cc84db55",
    "vgg16": "5550ed9d08f6307138f4cd5793290ffb5bb5462c5ee713c61a9334900e02a50e",
}

# name -> the call that loads it, for data that is not labelled images: what `unknown`
# offers to a name that was given to another function.
ELSEWHERE = {
    "adult": "table('adult')",
    "chorales": "chorales()",
    "emoji": "emoji()",
    "flights": "table('flights')",
    "minilm": "keras_genai.transformers.minilm()",
    "stories15m": "keras_genai.transformers.stories15m()",
    "photographs": "photographs()",
    "shakespeare": "text('shakespeare')",
    "verses": "pairs('verses')",
    **{
        name: f"load({name!r})"
        for name in (
            "cifar10",
            "fashion_mnist",
            "fashion_mnist_full",
            "mnist",
            "quickdraw",
        )
    },
}

_REINSTALL = (
    "Install keras-genai again (pip install --force-reinstall --no-deps "
    "keras-genai), or, in a clone, restore the file with git checkout."
)


def packaged(file: str) -> bytes:
    """The bytes of a data file inside the package."""
    return checked_bytes(FOLDER / file, PACKAGED[file])


def checked_bytes(path: Path, sha256: str) -> bytes:
    """The bytes of a file inside the package, checked before anything parses them."""
    try:
        packed = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing. {_REINSTALL}") from None
    if hashlib.sha256(packed).hexdigest() != sha256:
        raise ValueError(
            f"{path} is damaged: it does not have the SHA-256 that this version of "
            f"keras-genai pins. {_REINSTALL}"
        )
    return packed


def packaged_arrays(file: str, *names: str) -> dict[str, np.ndarray]:
    """The arrays of an npz file inside the package; of those named, if any are."""
    with np.load(io.BytesIO(packaged(file)), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in names or arrays.files}


def cache_folder() -> Path:
    """Where fetched data lies: `KERAS_GENAI_DATA`, else `~/.keras/keras_genai`."""
    given = os.environ.get("KERAS_GENAI_DATA")
    path = Path(given) if given else Path("~") / ".keras" / "keras_genai"
    return path.expanduser()


def cached_path(name: str) -> Path:
    """The file of fetched data `name`, which need not exist."""
    return cache_folder() / f"{name}.npz"


def content_hash(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the names, types, shapes and values of arrays."""
    digest = hashlib.sha256()
    for key in sorted(arrays):
        array = np.ascontiguousarray(arrays[key])
        digest.update(f"{key} {array.dtype.str} {array.shape}\n".encode())
        # As bytes: dates have no buffer of their own. This copies nothing.
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def read_cached(name: str) -> dict[str, np.ndarray] | None:
    """Fetched data from the cache, checked; None if it is not there.

    Raises:
        ValueError: if the file is damaged or not what this version expects.
    """
    path = cached_path(name)
    try:
        with opened_arrays(path) as opened:
            arrays = dict(opened)
    except FileNotFoundError:
        return None
    except DAMAGED as error:
        raise _damaged(path, name, f"it cannot be read ({error})") from error
    if content_hash(arrays) != FETCHED[name]:
        raise _damaged(path, name, "its content does not have the pinned SHA-256")
    return arrays


def write_cached(name: str, arrays: Mapping[str, np.ndarray]) -> Path:
    """Check fetched data and put it into the cache, wholly or not at all.

    Raises:
        ValueError: if the arrays are not the ones this version pins.
        OSError: if they cannot be written (a full disk, no permission); nothing is
            left behind.
    """
    found = content_hash(arrays)
    if found != FETCHED[name]:
        raise ValueError(
            f"What came as {name!r} is not what this version of keras-genai expects: "
            f"its content has SHA-256 {found}, not {FETCHED[name]}. Nothing was kept."
        )
    path = cached_path(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_beside(path) as beside:
            np.savez(beside, **arrays)
    except OSError as error:
        raise OSError(
            error.errno,
            f"{name!r} could not be written to {path.parent}: {error.strerror}. Make "
            "room there, or set KERAS_GENAI_DATA to another folder",
        ) from error
    return path


def unavailable(name: str, tried: str = "") -> FileNotFoundError:
    """The error for data that is nowhere to be had: it says what to run."""
    path = cached_path(name)
    return FileNotFoundError(
        f"{name!r} is not inside the package, and {path} is not there. {tried}"
        f"In a clone of keras_genai, run `python tools/fetch_data.py {name}`; on a "
        f"machine without a network, run it where there is one and copy {path.name} "
        f"to {path.parent}; or set KERAS_GENAI_DATA to the folder that holds it."
    )


def is_known(name: object, known: Iterable[str]) -> bool:
    """Whether it is one of the known names, whatever was given."""
    return isinstance(name, str) and name in known


def unknown(
    what: str, name: object, known: Iterable[str], elsewhere: Mapping[str, str]
) -> ValueError:
    """The error for a name that is not known, with the nearest that is.

    Args:
        what: what was looked for, such as "data set".
        name: the name that was given.
        known: the names that would have done.
        elsewhere: name -> the call that knows it, for data of another kind.
    """
    known = sorted(known)
    if isinstance(name, str) and name in elsewhere and name not in known:
        hint = f" {name!r} is loaded by `{elsewhere[name]}`."
    else:
        folded = {each.casefold(): each for each in [*elsewhere, *known]}
        asked = str(name).casefold().replace("-", "_").replace(" ", "_")
        near = difflib.get_close_matches(asked, folded, n=3, cutoff=0.6)
        calls = [
            repr(folded[each])
            if folded[each] in known
            else f"{folded[each]!r} (by `{elsewhere[folded[each]]}`)"
            for each in near
        ]
        hint = f" Did you mean {' or '.join(calls)}?" if calls else ""
    return ValueError(
        f"There is no {what} {name!r}.{hint} Known: {', '.join(map(repr, known))}."
    )


def _damaged(path: Path, name: str, why: str) -> ValueError:
    return ValueError(
        f"{path} is damaged: {why}. It was not used. Delete it, and then run `python "
        f"tools/fetch_data.py {name}` in a clone of keras_genai, or copy the file "
        "again."
    )
