"""A fingerprint of weights: whether vectors that were kept are still a model's."""

import hashlib

import numpy as np

from keras_genai import backend

_COLUMNS = 509  # a prime: what is moved within a weight is seen


def fingerprint(variables):
    """A digest of the values of weights, the same on every backend.

    All bytes are read, as fast as memory is: sums of 64-bit words, which are then
    digested. Integers, such as the counters of dropout, are passed over. It finds
    changes; it is no defence against somebody who looks for another model of the same
    fingerprint.

    Args:
        variables: list of Keras variables.

    Returns:
        String of 32 hexadecimal digits.
    """
    digest = hashlib.sha256()
    for variable in variables:
        kind = str(variable.dtype)
        if "float" not in kind:
            continue
        digest.update(f"{kind} {tuple(variable.shape)}".encode())
        values = np.ascontiguousarray(backend.to_host(variable.value)).reshape(-1)
        data = values.view("uint8")
        words = data[: data.size // 8 * 8].view("uint64")
        rows = words[: words.size // _COLUMNS * _COLUMNS].reshape(-1, _COLUMNS)
        digest.update(rows.sum(axis=0))
        digest.update(words[rows.size :])
        digest.update(data[8 * words.size :])
    return digest.hexdigest()[:32]
