"""Judges of a joint space of images and texts: retrieval, CLIPScore, directions.

All take embeddings as NumPy arrays, whatever their lengths: cosines are compared.
"""

from collections.abc import Sequence

import numpy as np

from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import (
    array,
    either,
    integer,
    integers,
    number,
    refuse,
)

_BLOCK_BYTES = 64 * 2**20  # of a block of similarities
_TIE = 1e-6  # cosines in float32 that differ by less are equal
_W = 2.5  # 2104.08718, section 3

_vectors = array(2, "fiu")
counts = either(integer(1), integers())  # one k, or several


@checked(image_embeddings=_vectors, text_embeddings=_vectors, captions=None, k=counts)
def recall_at_k(
    image_embeddings: np.ndarray,
    text_embeddings: np.ndarray,
    captions: Sequence | None = None,
    k: int | Sequence[int] = (1, 5, 10),
) -> dict[str, float]:
    """Recall at k from images to texts and from texts to images.

    The share of queries of which a right candidate is among the k nearest by the
    cosine. A text is right for an image where it is one of its captions, or is equal to
    one: of a caption that stands twice, neither is wrong.

    Ties count against the model: a wrong candidate as near as the right one, within
    1e-6, stands before it, so that a model that maps everything to one point scores 0.
    A few rows at a time are compared: 50,000 images and as many texts need no matrix of
    all pairs.

    Args:
        image_embeddings: floats `(N, E)`.
        text_embeddings: floats `(M, E)`.
        captions: what the texts say, to find equal ones: a list of N strings, of which
            text i belongs to image i; or a list of N lists of strings, of which the
            texts are all in order. None: M is N, and no two texts are equal.
        k: integer of at least 1, or several.

    Returns:
        Dict of `"image_to_text_recall@1"`, ..., `"text_to_image_recall@1"`, ..., each
        in [0, 1], and of the numbers of candidates, on which recall depends:
        `"texts"`, M, of an image, and `"images"`, N, of a text.

    Raises:
        ValueError: for arrays that do not fit one another or the captions, or numbers
            that are not finite.

    Example:

    >>> import numpy as np
    >>> x = np.eye(4)
    >>> recall_at_k(x, x[[1, 0, 2, 3]], k=1)["image_to_text_recall@1"]
    0.5
    """
    ks = k if isinstance(k, tuple) else (k,)
    _check_widths(image_embeddings, text_embeddings)
    images, texts = _unit(image_embeddings), _unit(text_embeddings)
    own, ids = _captions(captions, len(images), len(texts))
    ranks = {
        "image_to_text": _ranks(images, texts, own, ids[:, None]),
        "text_to_image": _ranks(texts, images, ids[:, None], own),
    }
    recalls = {
        f"{way}_recall@{one}": float(np.mean(found < one))
        for way, found in ranks.items()
        for one in ks
    }
    return {**recalls, "texts": len(texts), "images": len(images)}


def _captions(captions, images, texts):
    """Captions as numbers, equal ones alike.

    Returns:
        `(own, ids)`: integers `(N, K)`, those of each image, its first where it has
        fewer than K; and `(M,)`, that of each text.
    """
    if captions is None:
        if images != texts:
            raise ValueError(
                f"Without captions there is a text for each image; got {images} image "
                f"embeddings and {texts} text embeddings."
            )
        ids = np.arange(images)
        return ids[:, None], ids
    groups = caption_groups(captions)
    flat = [text for group in groups for text in group]
    if (len(groups), len(flat)) != (images, texts):
        raise ValueError(
            f"captions are {len(flat)} texts of {len(groups)} images; got {texts} text "
            f"embeddings and {images} image embeddings."
        )
    _, ids = np.unique(np.array(flat, object), return_inverse=True)
    most = max(map(len, groups))
    own, start = np.empty((images, most), ids.dtype), 0
    for row, group in zip(own, groups, strict=True):
        row[:] = ids[start]
        row[: len(group)] = ids[start : start + len(group)]
        start += len(group)
    return own, ids


def caption_groups(captions):
    """The captions of each image, a list of lists of strings.

    Args:
        captions: a list of strings, or of lists of strings.

    Raises:
        ValueError: for anything else, or an image without a caption.
    """
    says = "a list of strings, or of lists of at least one string each"
    listed = isinstance(captions, (list, tuple, np.ndarray)) and len(captions)
    if not listed:
        refuse("captions", says, captions)
    groups = []
    for one in captions:
        group = [one] if isinstance(one, str) else one
        several = isinstance(group, (list, tuple, np.ndarray)) and len(group)
        if not several or not all(isinstance(text, str) for text in group):
            refuse("captions", says, captions)
        groups.append([str(text) for text in group])
    return groups


def _ranks(queries, candidates, wanted, given):
    """How many wrong candidates stand before the nearest right one: integers `(Q,)`.

    Args:
        queries: `(Q, E)`, of length 1.
        candidates: `(C, E)`, likewise.
        wanted: integers `(Q, A)`, captions of each query.
        given: integers `(C, B)`, captions of each candidate; it is right where it has
            one of the query's.
    """
    ranks = np.empty(len(queries), "int64")
    size = max(1, _BLOCK_BYTES // (4 * len(candidates)))
    for start in range(0, len(queries), size):
        part = slice(start, start + size)
        scores = queries[part] @ candidates.T  # (q, C)
        right = np.zeros(scores.shape, bool)
        for a in wanted[part].T:
            for b in given.T:
                right |= a[:, None] == b
        best = scores.max(axis=1, keepdims=True, where=right, initial=-np.inf)
        ranks[part] = ((scores >= best - _TIE) & ~right).sum(axis=1)
    return ranks


@checked(image_embeddings=_vectors, text_embeddings=_vectors, w=number("> 0"))
def clip_score(
    image_embeddings: np.ndarray, text_embeddings: np.ndarray, w: float = _W
) -> np.ndarray:
    """CLIPScore of images and captions, `w max(cos, 0)` (2104.08718, section 3).

    The paper's w is 2.5, and the score of a set is the mean over its pairs. With
    `w=100`, the mean is what torchmetrics calls CLIP score, where no cosine is below 0.
    The paper puts "A photo depicts" before each caption.

    Args:
        image_embeddings: floats `(N, E)`.
        text_embeddings: floats `(N, E)`, of each image's caption; or `(1, E)`, of one
            for all, such as a prompt.
        w: the factor.

    Returns:
        Float64 `(N,)`, in [0, w].

    Raises:
        ValueError: the numbers of rows or channels differ.

    Example:

    ```python
    scores = kg.metrics.clip_score(model.encode_image(images),
                                   model.encode_text(captions))
    scores.mean()
    ```
    """
    _check_widths(image_embeddings, text_embeddings)
    _check_rows(len(image_embeddings), text_embeddings=text_embeddings)
    return w * np.maximum(_cosines(image_embeddings, text_embeddings), 0.0)


@checked(
    source_images=_vectors,
    target_images=_vectors,
    source_texts=_vectors,
    target_texts=_vectors,
)
def directional_similarity(
    source_images: np.ndarray,
    target_images: np.ndarray,
    source_texts: np.ndarray,
    target_texts: np.ndarray,
) -> np.ndarray:
    """Whether images changed as texts say: the cosine of both changes.

    One less it is the directional loss of 2108.00946, section 4.1. All embeddings have
    length 1 before their differences are taken, as in its authors' code.

    Args:
        source_images: floats `(N, E)`, embeddings of the images before.
        target_images: floats `(N, E)`, after the edit.
        source_texts: floats `(N, E)`, or `(1, E)` for all: what was to be seen before.
        target_texts: likewise, after the edit.

    Returns:
        Float64 `(N,)`, in [-1, 1]; 0 where image or text did not change.

    Raises:
        ValueError: the numbers of rows or channels differ.

    Example:

    ```python
    before, after = model.encode_text(["a photo", "a sketch"])
    kg.metrics.directional_similarity(
        model.encode_image(photos), model.encode_image(sketches),
        before[None], after[None])
    ```
    """
    given = source_images, target_images, source_texts, target_texts
    _check_widths(*given)
    if len(source_images) != len(target_images):
        raise ValueError(
            "There must be as many source_images as target_images; got "
            f"{len(source_images)} and {len(target_images)}."
        )
    texts = {"source_texts": source_texts, "target_texts": target_texts}
    _check_rows(len(source_images), **texts)
    before, after, said_before, said_after = (_unit(x, "float64") for x in given)
    return _cosines(after - before, said_after - said_before)


def _unit(x, dtype="float32"):
    """Rows over their lengths; rows of 0 stay."""
    x = np.asarray(x, "float64")
    length = np.sqrt(np.einsum("ij,ij->i", x, x))[:, None]
    return np.asarray(x / np.where(length > 0.0, length, 1.0), dtype)


def _cosines(a, b):
    """Of each pair of rows, float64; one row goes with all."""
    return np.sum(_unit(a, "float64") * _unit(b, "float64"), axis=1)


def _check_widths(*embeddings):
    widths = [x.shape[1] for x in embeddings]
    if len(set(widths)) > 1:
        raise ValueError(
            "Embeddings must have as many channels as one another; got "
            f"{', '.join(map(str, widths))}. Are they of one model?"
        )


def _check_rows(count, **embeddings):
    for name, x in embeddings.items():
        if len(x) not in (1, count):
            raise ValueError(
                f"{name} must have {count} rows, one for each image, or one row for "
                f"all; got {len(x)}."
            )
