"""Threefry-2x32 (Salmon et al., 2011), written out: of integers, arrays and tensors."""

import numpy as np
from keras import ops

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_WORD = 0xFFFFFFFF


def rounds(key, counter):
    """`threefry2x32` written out, of anything that has Python's operators."""
    k0, k1 = key
    x0, x1 = counter
    schedule = (k0, k1, k0 ^ k1 ^ _PARITY)
    x0 = x0 + k0
    x1 = x1 + k1
    for group in range(1, 6):
        for distance in _ROTATIONS[(group - 1) % 2]:
            x0 = x0 + x1
            x1 = _rotate_left(x1, distance) ^ x0
        x0 = x0 + schedule[group % 3]
        x1 = x1 + _add(schedule[(group + 1) % 3], group)
    return x0, x1


def _rotate_left(x, distance):
    if isinstance(x, int):
        x &= _WORD
        return (x << distance | x >> 32 - distance) & _WORD
    left = x << distance if isinstance(x, np.ndarray) else ops.left_shift(x, distance)
    return left | shift_right(x, 32 - distance)


def shift_right(x, distance):
    """The logical shift of int32 words: zeros come in from the left."""
    host = isinstance(x, np.ndarray | np.integer)
    shifted = x >> distance if host else ops.right_shift(x, distance)
    return shifted & ((1 << 32 - distance) - 1)


def _add(word, number):
    return signed(word + number) if isinstance(word, int) else word + number


def signed(number):
    """The low 32 bits of a Python integer, as the int32 that holds them."""
    return (number + 0x80000000 & _WORD) - 0x80000000
