"""Masked language modelling: masked words and pairs of sentences.

Pure functions (1810.04805, section 3.1): tensors, or lists of sentences, in and out.
"""

import numpy as np
from keras import ops

from keras_genai.backend import random
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import tuple_of, word

MASKED, REPLACED = 0.8, 0.1  # shares of the chosen tokens; the others stay


def mask_tokens(
    tokens, words, key, mask_token_id, vocabulary_size, rate=0.15, offset=0
):
    """Chooses words and hides their tokens (1810.04805, section 3.1 and appendix A.1).

    Each word is chosen with the probability `rate`, whole. Of its tokens 80% become
    the mask, 10% any token, and 10% stay, each drawn by itself.

    Args:
        tokens: int32 `(B, T)`.
        words: int32 `(B, T)`: number in [0, T) of the word that a token belongs to;
            negative for those that are never chosen.
        key: of the noise.
        mask_token_id: id of the mask.
        vocabulary_size: V.
        rate: of the words, in (0, 1).
        offset: number of the first sample.

    Returns:
        `(masked, chosen)`: int32 and bool `(B, T)`.
    """
    shape = ops.shape(tokens)
    keys = [random.subkey(key, name) for name in ("words", "kinds", "tokens")]
    draw = random.uniform(keys[0], shape, dtype="float32", offset=offset)
    # The number of a word is the place of its draw.
    draw = ops.take_along_axis(draw, ops.maximum(words, 0), axis=1)
    chosen = ops.logical_and(draw < rate, words >= 0)  # (B, T)
    kind = random.uniform(keys[1], shape, dtype="float32", offset=offset)
    other = random.randint(keys[2], shape, 0, vocabulary_size, offset=offset)
    masked = ops.where(kind < MASKED, ops.full_like(tokens, mask_token_id), tokens)
    replaced = ops.logical_and(kind >= MASKED, kind < MASKED + REPLACED)
    masked = ops.where(replaced, ops.cast(other, tokens.dtype), masked)
    return ops.where(chosen, masked, tokens), chosen


def word_numbers(tokens, seen, table):
    """The number of each token's word, by what the vocabulary says of the tokens.

    Args:
        tokens: int32 `(B, T)`.
        seen: bool `(B, T)`, False where there is padding.
        table: int32 `(V,)`: 1 where the token begins a word, 0 where it goes on with
            one, -1 where it is special.

    Returns:
        int32 `(B, T)`, -1 for special tokens and padding.
    """
    kind = ops.take(ops.convert_to_tensor(table), tokens, axis=0)  # (B, T)
    numbers = ops.cumsum(ops.maximum(kind, 0), axis=1) - 1
    plain = ops.logical_and(kind >= 0, ops.cast(seen, "bool"))
    # A row that begins in the middle of a word begins a word.
    return ops.where(plain, ops.maximum(numbers, 0), -1)


def word_table(vocabulary_size, special_ids, tokenizer=None):
    """The `table` of `word_numbers`, int32 `(V,)`.

    Without a tokenizer each token is a word.
    """
    table = np.ones(vocabulary_size, "int32")
    for token, i in () if tokenizer is None else tokenizer.vocabulary.items():
        table[i] = not token.startswith("##")
    special = [i for i in special_ids if i < vocabulary_size]
    table[special] = -1
    return table


@checked(documents=tuple_of(tuple_of(word, least=0), least=0))
def sentence_pairs(documents, seed=0):
    """Pairs of sentences, of which half follow one another (1810.04805, section 3.1).

    Args:
        documents: list of documents, each a list of sentences, at least two documents
            of at least two sentences.
        seed: integer >= 0.

    Returns:
        `(first, second, labels)`: two lists of sentences, and int32 labels: 0 where
        the second follows in the same document, 1 where it is of another.

    Example:

    ```python
    first, second, labels = sentence_pairs(documents)
    model.fit(tokenizer.batch(first, second, length=128), labels)
    ```
    """
    documents = [list(part) for part in documents if len(part) > 1]
    if len(documents) < 2:
        raise ValueError(
            "documents must be at least two documents of at least two "
            f"sentences; got {len(documents)}."
        )
    first = [s for part in documents for s in part[:-1]]
    follows = [s for part in documents for s in part[1:]]
    owner = np.repeat(np.arange(len(documents)), [len(p) - 1 for p in documents])
    key = random.key(seed, "sentence pairs")
    shape = (len(first), 3)
    draw = random.uniform(key, shape, host=True, dtype="float64")
    labels = (draw[:, 0] < 0.5).astype("int32")
    # Another document: a step of 1 to n - 1 around the ring of them.
    other = (owner + 1 + (draw[:, 1] * (len(documents) - 1)).astype(int)) % len(
        documents
    )
    second = [
        documents[o][int(u * len(documents[o]))] if label else s
        for s, label, o, u in zip(follows, labels, other, draw[:, 2], strict=True)
    ]
    return first, second, labels
