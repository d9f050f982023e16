"""Search in images by texts, images or vectors: the nearest by the cosine."""

import json
import pathlib
from typing import NamedTuple

import numpy as np

from keras_genai.training.fingerprint import fingerprint
from keras_genai.utils.archives import DAMAGED, opened_arrays
from keras_genai.utils.arguments import checked
from keras_genai.utils.files import written_beside
from keras_genai.utils.validation import (
    array,
    having,
    optional,
    path,
    refuse,
    texts,
    tuple_of,
    word,
)

_BLOCK_BYTES = 64 * 2**20  # of a block of similarities
_FORMAT = 1

_model = having("encode_image encode_text image_variables", "a kg.CLIP")


class Match(NamedTuple):
    """What was found.

    Attributes:
        number: of the item, from 0, in the order in which the items were given.
        item: its name, a string; None where there are none.
        score: the cosine, in [-1, 1].
    """

    number: int
    item: str | None
    score: float


class Index:
    """Images as vectors of a CLIP, in which others are looked for.

    `model.index(images)` makes one. All vectors are compared with each query: a million
    of 512 channels take 2 GB.

    The vectors belong to the model's weights as they were. Where those have changed
    since, by training or loading, `search` and `add` refuse: they compare a fingerprint
    of all weights, which takes about as long as it takes to read them.

    Args:
        clip: `kg.CLIP`.

    Attributes:
        clip: the model.
        vectors: NumPy float32 `(N, E)`, of length 1.
        items: list of N strings, or None.

    Example:

    ```python
    index = model.index(images, items=[p.name for p in paths])
    for number, item, score in index.search("a red heart", k=5):
        print(f"{score:.3f}  {item}")
    index.save("emoji.npz")
    index = kg.clip.Index.load("emoji.npz", model)
    ```
    """

    @checked(clip=_model)
    def __init__(self, clip):
        self.clip = clip
        self.items = None
        self._parts = []
        self._fingerprint = _fingerprint_of(clip)

    @property
    def vectors(self):
        if len(self._parts) != 1:
            whole = [np.empty((0, self.clip.embed_dim), "float32"), *self._parts]
            self._parts = [np.concatenate(whole)]
        return self._parts[0]

    def __len__(self):
        return sum(map(len, self._parts))

    def __repr__(self):
        return f"<Index of {len(self)} vectors of {self.clip.embed_dim} channels>"

    @checked(items=optional(tuple_of(word, says="a list of strings")))
    def add(self, images, items=None, *, batch_size=64):
        """Adds images at the end.

        Args:
            images: floats `(N, H, W, C)` in [-1, 1], or vectors `(N, E)` of any length.
            items: list of N strings, their names; all images of an index have names, or
                none has.
            batch_size: images in one pass.

        Returns:
            The index.

        Raises:
            ValueError: for images of another shape or range, another number of names,
                or a model whose weights have changed.
        """
        named = self.items is not None
        if len(self) and named != (items is not None):
            raise ValueError(
                "items must be given, since the images before have names."
                if named
                else "items must be left out, since the images before have no names."
            )
        if items is not None and len(items) != len(images):
            raise ValueError(
                f"items must be one for each image; got {len(images)} images and "
                f"{len(items)} items."
            )
        self._check_current()
        self._parts.append(self._vectors("images", images, batch_size))
        if items is not None:
            self.items = [*(self.items or []), *items]
        return self

    @checked()
    def search(self, query, k=10, *, batch_size=64):
        """The k nearest of one query, or of several.

        Args:
            query: a string, an image `(H, W, C)` or a vector `(E,)`; or several: a list
                of strings, images `(Q, H, W, C)` or vectors `(Q, E)`.
            k: how many of each, at least 1; fewer where the index holds fewer.
            batch_size: queries in one pass of the model.

        Returns:
            List of `(number, item, score)`, the best first; for several queries a list
            of such lists. (Of equal images, the last bits of the scores may differ.)

        Raises:
            ValueError: for a query of another shape or range, a text that is too long,
                or a model whose weights have changed.
        """
        self._check_current()
        alone = isinstance(query, str)
        if alone or _are_texts(query):
            several = [query] if alone else list(query)
            vectors = self.clip.encode_text(several, batch_size=batch_size)
        else:
            query = array(says=_QUERY)("query", query)
            alone = query.ndim in (1, 3)
            several = query[None] if alone else query
            vectors = self._vectors("query", several, batch_size)
        found = nearest(vectors, self.vectors, k, self.items)
        return found[0] if alone else found

    def _vectors(self, name, given, batch_size):
        """Images, or vectors of any length, as vectors of length 1."""
        if np.ndim(given) != 2:
            return self.clip.encode_image(given, batch_size=batch_size)
        vectors = array(2, "f", says="images, or float vectors")(name, given)
        vectors = np.asarray(vectors, "float32")
        width = self.clip.embed_dim
        length = np.linalg.norm(vectors, axis=1, keepdims=True)
        if vectors.shape[1] != width or not length.all():
            refuse(name, f"images, or vectors of {width} channels, none all 0", given)
        return vectors / length

    def _check_current(self):
        if self._fingerprint != _fingerprint_of(self.clip):
            raise ValueError(
                "The model's weights have changed since the index was made: its "
                "vectors are another model's. Make it anew: model.index(images)."
            )

    @checked(path=path)
    def save(self, path):
        """Writes the vectors and names to a `.npz` file, in one step.

        Args:
            path: the file; its name ends in `.npz`. What stands there is replaced.

        Raises:
            ValueError: for another ending.
            OSError: it cannot be written; what stood there is whole.
        """
        path = _ending(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        about = {
            "format": _FORMAT,
            "fingerprint": self._fingerprint,
            "items": self.items,
        }
        about = np.frombuffer(json.dumps(about).encode(), "uint8")
        with written_beside(path) as beside, open(beside, "wb") as file:
            np.savez(file, vectors=self.vectors, about=about)

    @classmethod
    @checked(path=path, clip=_model)
    def load(cls, path, clip):
        """Reads what `save` wrote. Nothing in the file is run.

        Args:
            path: the file.
            clip: the `kg.CLIP` that it was made with, with the same weights; on any
                backend.

        Raises:
            ValueError: the file is missing or damaged, or was made with another model
                or other weights; names it.
        """
        path = _ending(path)
        if not path.is_file():
            raise ValueError(f"There is no file {path}.")
        try:
            with opened_arrays(path) as arrays:
                about = json.loads(bytes(arrays["about"]))
                vectors = array(2, "f", empty=True)("vectors", arrays["vectors"])
            made_with, items = about["fingerprint"], about["items"]
            if about["format"] != _FORMAT:
                raise ValueError(f"it has the format {about['format']!r}")
            items = optional(tuple_of(word, least=0))("items", items)
            whole = items is None or len(items) == len(vectors)
            if vectors.dtype != "float32" or not whole:
                raise ValueError("its vectors do not go with its items")
        except DAMAGED as error:
            raise ValueError(
                f"{path} is damaged, or no index that index.save() wrote ({error})."
            ) from error
        index = cls(clip)
        if vectors.shape[1] != clip.embed_dim or index._fingerprint != made_with:
            raise ValueError(
                f"{path} was made with another model, or with other weights of this "
                f"one ({vectors.shape[1]} channels, {clip.embed_dim} here): its "
                "vectors mean nothing to it. Make it anew: model.index(images)."
            )
        index._parts = [vectors]
        index.items = None if items is None else list(items)
        return index


_QUERY = (
    "a string, an image (H, W, C), a vector (E,), or several: a list of strings, "
    "(Q, H, W, C) or (Q, E)"
)


def _are_texts(query):
    """Whether it is a list or array of strings; refuses one with something else."""
    flat = query.tolist() if isinstance(query, np.ndarray) else query
    if isinstance(flat, (list, tuple)) and any(isinstance(x, str) for x in flat):
        texts("query", flat)
        return True
    return False


def _ending(path):
    path = pathlib.Path(path)
    if path.suffix != ".npz":
        raise ValueError(
            f"The name of an index's file ends in .npz; got {str(path)!r}."
        )
    return path


def _fingerprint_of(clip):
    """Of all that the embeddings depend on."""
    own = fingerprint([*clip.image_variables(), *clip.text_variables()])
    return f"{own} {clip.mean} {clip.std}"


def nearest(queries, vectors, k, items=None):
    """The k vectors of the largest cosine with each query.

    Args:
        queries: NumPy float32 `(Q, E)`, of length 1.
        vectors: likewise, `(N, E)`.
        k: at least 1.
        items: list of N names, or None.

    Returns:
        List of Q lists of at most k `Match`, the best first, of equal scores that of
        the least number.
    """
    found, k = [], min(k, len(vectors))
    size = max(1, _BLOCK_BYTES // (4 * max(1, len(vectors))))
    for start in range(0, len(queries), size):
        block = queries[start : start + size] @ vectors.T  # (q, N)
        for scores in block:
            if not k:
                found.append([])
                continue
            least = np.partition(scores, len(scores) - k)[len(scores) - k]
            best = np.flatnonzero(scores >= least)
            best = best[np.argsort(-scores[best], kind="stable")][:k]
            names = [None if items is None else items[i] for i in best]
            found.append(
                [
                    Match(int(i), name, float(scores[i]))
                    for i, name in zip(best, names, strict=True)
                ]
            )
    return found
