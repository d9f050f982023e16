"""Contrastive losses of pairs: CLIP's softmax and SigLIP's sigmoid."""

from keras import ops

from keras_genai.backend.precision import widen
from keras_genai.losses.reduction import weighted_mean

_EXCLUDED = -1e9  # a logit that adds nothing to a softmax, and no NaN to its gradient


def similarity(images, texts, scale=1.0, bias=0.0):
    """The logits of all pairs: `scale <x_i, y_j> + bias`.

    In float32 whatever the embeddings come in: at a scale of 100 half precision has
    a step of 0.06 where the best pairs are.

    Args:
        images: x, `(N, E)`, of length 1.
        texts: y, `(M, E)`, likewise.
        scale, bias: scalars.

    Returns:
        `(N, M)`.
    """
    return scale * ops.matmul(widen(images), ops.transpose(widen(texts))) + bias


def clip_loss(logits, excluded=None, weight=None):
    """The symmetric cross-entropy of a batch of pairs (2103.00020, figure 3).

    Each image picks its text among those of the batch by a softmax, each text its
    image; the loss is the mean of both cross-entropies.

    Args:
        logits: `(B, B)`, of image i and text j, see `similarity`; pair i is on the
            diagonal.
        excluded: bool `(B, B)`, or None: pairs that count as no negatives, such as
            those of equal captions. The diagonal must be False.
        weight: `(B,)` of the pairs, or None.

    Returns:
        Scalar. `log(B)` where nothing is told apart, 0 for a batch of one pair.

    Example:

    ```python
    logits = kg.losses.contrastive.similarity(images, texts, scale=100.0)
    loss = kg.losses.clip_loss(logits)
    ```
    """
    logits = widen(logits)
    right = ops.diagonal(logits)  # (B,)
    if excluded is not None:
        logits = ops.where(excluded, ops.cast(_EXCLUDED, logits.dtype), logits)
    of_images = ops.logsumexp(logits, axis=1) - right
    of_texts = ops.logsumexp(logits, axis=0) - right
    return _mean(0.5 * (of_images + of_texts), weight)


def siglip_loss(logits, excluded=None, weight=None):
    """The sigmoid loss of a batch of pairs (2303.15343, equation 1).

    Every pair of the batch is a question of its own, whether they belong together.

    Args:
        logits: `(B, B)`, with the bias: see `similarity`.
        excluded: bool `(B, B)`, or None: pairs that are no question; see `clip_loss`.
        weight: `(B,)` of the images, or None.

    Returns:
        Scalar: the sum over the pairs over B.
    """
    logits = widen(logits)
    count = ops.shape(logits)[0]
    signs = 2.0 * ops.eye(count, dtype=logits.dtype) - 1.0
    losses = -ops.log_sigmoid(signs * logits)
    if excluded is not None:
        losses = ops.where(excluded, ops.zeros_like(losses), losses)
    return _mean(ops.sum(losses, axis=1), weight)


def _mean(losses, weight):
    """The mean `(B,)` -> scalar, of all pairs at once: no part of a batch is here."""
    if weight is None:
        return ops.mean(losses)
    return weighted_mean(losses, ops.cast(weight, losses.dtype))
