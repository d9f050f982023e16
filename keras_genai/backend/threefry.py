"""Threefry-2x32: the block function behind `backend.random`, and its keys."""

import functools
import hashlib
import operator

import keras
from keras import ops

from keras_genai.backend import primitives
from keras_genai.backend.cipher import rounds, signed
from keras_genai.utils.validation import is_integer


def threefry2x32(key, counter):
    """The 20-round Threefry-2x32 block function.

    Args:
        key: pair of 32-bit words, Python integers or int32 scalar tensors.
        counter: pair of 32-bit words: Python integers, or int32 NumPy arrays or
            int32 tensors that broadcast against each other.

    Returns:
        Pair of words of the broadcast shape, of the counter's kind (as Python
        integers, only the low 32 bits have a meaning).
    """
    if ops.is_tensor(counter[0]):
        return primitives.threefry2x32(key, counter)
    return rounds(key, counter)


def check_seed(seed):
    """Returns `seed` as a Python integer.

    Raises:
        ValueError: unless it is an integer in [0, 2**63).
    """
    if is_integer(seed) and 0 <= seed < 2**63:
        return int(seed)
    raise ValueError(f"seed must be an integer in [0, 2**63); got {seed!r}.")


def key(seed, stream="", step=0):
    """The key of a stream of noise at a step.

    `key = threefry(key=(seed's low word, high word), counter=(hash(stream), step))`.

    Args:
        seed: integer in [0, 2**63), or an int32 scalar tensor.
        stream: name of what is drawn; other names give independent noise.
        step: integer, or an int32 scalar tensor or variable.

    Returns:
        Pair of words: Python integers if the arguments are, else int32 scalars.

    Raises:
        ValueError: for a seed that is negative, too large or not an integer.
    """
    if not isinstance(stream, str):
        raise ValueError(f"stream must be a string, a name; got {stream!r}.")
    seed, step = concrete(seed), concrete(step)
    if not is_tensor(seed):
        seed = check_seed(seed)
        if not is_tensor(step):
            return _host_key(seed, stream, operator.index(step))
    words = (to_int32(seed), 0) if is_tensor(seed) else (signed(seed), seed >> 32)
    return threefry2x32(words, (to_int32(_hash(stream)), to_int32(step)))


def subkey(key, stream="", step=0):
    """A key that follows from another: as `key`, with a key in the seed's place.

    Args:
        key: pair of words, Python integers or int32 scalar tensors.
        stream: name of what is drawn.
        step: integer, or an int32 scalar tensor or variable.

    Returns:
        Pair of words: Python integers if the arguments are, else int32 scalars.
    """
    key, step = tuple(map(concrete, key)), concrete(step)
    if all(map(is_integer, (*key, step))):
        words = threefry2x32(key, (_hash(stream), signed(operator.index(step))))
        return signed(words[0]), signed(words[1])
    return threefry2x32(key, (to_int32(_hash(stream)), to_int32(step)))


@functools.lru_cache(maxsize=1024)
def _host_key(seed, stream, step):
    words = threefry2x32((signed(seed), seed >> 32), (_hash(stream), signed(step)))
    return signed(words[0]), signed(words[1])


@functools.cache
def _hash(stream):
    digest = hashlib.sha256(stream.encode()).digest()
    return signed(int.from_bytes(digest[:4], "little"))


def is_tensor(x):
    return ops.is_tensor(x) or isinstance(x, keras.Variable)


def concrete(x):
    """A variable as its value; a value that costs nothing to read as an integer."""
    x = x.value if isinstance(x, keras.Variable) else x
    return primitives.concrete_int(x) if ops.is_tensor(x) else x


def to_int32(x):
    return ops.cast(x if is_tensor(x) else signed(operator.index(x)), "int32")
