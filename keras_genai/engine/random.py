"""Counter-based noise: the same numbers on every backend.

Threefry-2x32 with 20 rounds (Salmon et al., "Parallel Random Numbers: As Easy as 1,
2, 3", SC 2011) in wrapping int32 arithmetic. A number is a function of

    (seed, stream name, step)  ->  the key,    and
    (sample, element)          ->  the counter,

so that nothing depends on the order or the grouping of the draws: a draw of 16
samples begins with the draw of 8, and a resumed run draws on. Samples are numbered
along the leading axis; element `j` of sample `b` takes word `j % 2` of the block at
counter `(offset + b, j // 2)`.

`bits`, `uniform` over [0, 1), `randint`, `bernoulli` and `permutation` are equal to
the bit on every backend; where a logarithm or a cosine is taken the last digits may
differ. All is computed in float32 and cast at the end.
"""

import functools
import hashlib
import math
import operator

import keras
import numpy as np
from keras import ops

from keras_genai.engine import backend_ops
from keras_genai.engine.optimizer import PACKAGE

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_WORD = 0xFFFFFFFF


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
    fused = getattr(backend_ops, "threefry2x32", None)
    if fused and ops.is_tensor(counter[0]):
        return fused(key, counter)
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
    return left | _shift_right(x, 32 - distance)


def _shift_right(x, distance):
    """The logical shift of int32 words: zeros come in from the left."""
    shifted = (
        x >> distance if isinstance(x, np.ndarray) else ops.right_shift(x, distance)
    )
    return shifted & ((1 << 32 - distance) - 1)


def _add(word, number):
    return _signed(word + number) if isinstance(word, int) else word + number


def _signed(number):
    """The low 32 bits of a Python integer, as the int32 that holds them."""
    return (number + 0x80000000 & _WORD) - 0x80000000


def check_seed(seed):
    """Returns `seed` as a Python integer.

    Raises:
        ValueError: unless it is an integer in [0, 2**63).
    """
    if not isinstance(seed, bool | np.bool_) and hasattr(seed, "__index__"):
        number = operator.index(seed)
        if 0 <= number < 2**63:
            return number
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

    Example:

    ```python
    z = normal(key(0, "latent", step=3), (16, 64))
    ```
    """
    if not isinstance(stream, str):
        raise ValueError(f"stream must be a string, a name; got {stream!r}.")
    seed, step = _concrete(seed), _concrete(step)
    if not _is_tensor(seed):
        seed = check_seed(seed)
        if not _is_tensor(step):
            return _host_key(seed, stream, operator.index(step))
    words = (
        (ops.cast(seed, "int32"), 0)
        if _is_tensor(seed)
        else (_signed(seed), seed >> 32)
    )
    return threefry2x32(words, (_int32(_hash(stream)), _int32(step)))


@functools.lru_cache(maxsize=1024)
def _host_key(seed, stream, step):
    words = threefry2x32((_signed(seed), seed >> 32), (_hash(stream), _signed(step)))
    return _signed(words[0]), _signed(words[1])


@functools.cache
def _hash(stream):
    digest = hashlib.sha256(stream.encode()).digest()
    return _signed(int.from_bytes(digest[:4], "little"))


def _is_tensor(x):
    return ops.is_tensor(x) or isinstance(x, keras.Variable | keras.KerasTensor)


def _concrete(x):
    """A variable as its value; a value that costs nothing to read as an integer."""
    x = x.value if isinstance(x, keras.Variable) else x
    read = getattr(backend_ops, "concrete_int", None)
    return read(x) if read and ops.is_tensor(x) else x


def _int32(x):
    x = x if _is_tensor(x) else _signed(operator.index(x))
    return ops.cast(ops.convert_to_tensor(x), "int32")


# Words for samples


def _words(key, shape, offset, host):
    """The two words of every block of a draw, each `(samples, blocks)`."""
    samples, size = _sizes(shape)
    blocks = (size + 1) // 2
    if host:
        if not all(isinstance(word, int) for word in key):
            raise ValueError(
                "host=True draws in NumPy and needs a key of Python integers: call "
                "key() with an integer seed and step; got tensors."
            )
        counter = (
            (np.arange(samples) + operator.index(offset)).astype(np.int32)[:, None],
            np.arange(blocks, dtype=np.int32)[None],
        )
    else:
        first = ops.arange(samples, dtype="int32")
        if _is_tensor(offset) or offset:
            first = first + _int32(offset)
        second = ops.arange(blocks, dtype="int32")
        counter = (ops.expand_dims(first, 1), ops.expand_dims(second, 0))
    return threefry2x32(key, counter)


def _sizes(shape):
    """The number of samples and of the elements in each (tensors if dynamic)."""
    if None in tuple(shape):
        raise ValueError(
            f"shape must hold numbers, from `ops.shape(x)` if a dimension is only "
            f"known later; got {tuple(shape)}."
        )
    size = functools.reduce(operator.mul, shape[1:], 1)
    return (shape[0] if len(shape) else 1), size


def _interleave(even, odd, shape):
    """Puts the elements `(samples, blocks)` of even and odd number into `shape`."""
    xp = np if isinstance(even, np.ndarray) else ops
    samples, size = _sizes(shape)
    if isinstance(size, int) and size == 1:
        return xp.reshape(even, shape)
    x = xp.stack([even, odd], axis=-1)  # (samples, blocks, 2)
    x = xp.reshape(x, (samples, (size + 1) // 2 * 2))
    if not isinstance(size, int) or size % 2:
        x = x[:, :size]
    return xp.reshape(x, shape)


def _cast(x, dtype):
    return x.astype(dtype) if isinstance(x, np.ndarray) else ops.cast(x, dtype)


def _fine_unit(x):
    """A float32 in (0, 1] from 32 bits, finest near 0, where tails are made.

    Products are by powers of two, hence exact: a fused multiply-add changes nothing.
    """
    high = _cast(_shift_right(x, 8), "float32")
    low = _cast(x & 255, "float32")
    return (high + (low + 0.5) * 2.0**-8) * 2.0**-24


def _affine(x, scale, shift, dtype, host):
    """`shift + scale * x` in the accuracy of `x`, without the trivial parts."""
    if _is_tensor(scale) or not np.array_equal(scale, 1.0):
        x = x * (scale if host else ops.cast(scale, "float32"))
    if _is_tensor(shift) or not np.array_equal(shift, 0.0):
        x = x + (shift if host else ops.cast(shift, "float32"))
    return np.asarray(x, dtype or "float32") if host else _to(x, dtype)


def _to(x, dtype):
    return ops.cast(x, dtype or keras.config.floatx())


# Draws


def bits(key, shape, offset=0, host=False):
    """Uniform 32-bit words.

    Args:
        key: what `key` returned.
        shape: shape of the result; the leading axis numbers the samples. Dimensions
            may be scalar tensors (`ops.shape(x)[0]`).
        offset: number of the first sample, an integer or an int32 scalar tensor.
        host: draw in NumPy; the key must be of Python integers.

    Returns:
        int32 tensor (NumPy array if `host`) of that shape.

    Example:

    ```python
    bits(key(0), (16, 3))[8:] == bits(key(0), (8, 3), offset=8)
    ```
    """
    return _interleave(*_words(key, shape, offset, host), shape)


def uniform(key, shape, minval=0.0, maxval=1.0, dtype=None, offset=0, host=False):
    """Uniform numbers in [minval, maxval), of 24 bits.

    Args:
        key: what `key` returned.
        shape: shape of the result; the leading axis numbers the samples.
        minval: float, or tensor that broadcasts to `shape`.
        maxval: likewise, over `minval`. It is never returned, in any dtype.
        dtype: dtype of the result; Keras's `floatx` by default.
        offset: number of the first sample.
        host: draw in NumPy (float32 by default); the key must be of integers.

    Returns:
        Tensor, or NumPy array, of that shape.
    """
    x = _shift_right(bits(key, shape, offset, host), 8)
    # The product is exact: 24 bits times a power of two.
    x = (x.astype("float64") if host else ops.cast(x, "float32")) * 2.0**-24
    dtype = dtype or ("float32" if host else keras.config.floatx())
    if _is_tensor(minval) or _is_tensor(maxval):
        minval, maxval = ops.cast(minval, "float32"), ops.cast(maxval, "float32")
        x = ops.cast(_affine(x, maxval - minval, minval, "float32", host), dtype)
        return ops.where(x < ops.cast(maxval, dtype), x, ops.cast(minval, dtype))
    if np.any(np.asarray(minval) >= np.asarray(maxval)):
        raise ValueError(f"minval must be under maxval; got {minval!r}, {maxval!r}.")
    scale = np.subtract(maxval, minval)
    x = _affine(x, scale, minval, "float64" if host else "float32", host)
    if dtype != "float32" or scale != 1.0 or minval != 0.0:
        # Rounding must not reach maxval.
        x = (np if host else ops).minimum(x, _below(maxval, dtype))
    return np.asarray(x, dtype) if host else ops.cast(x, dtype)


def _below(value, dtype):
    """The largest number of the dtype that is under `value`."""
    kind = np.dtype(dtype).type
    nearest = kind(value)
    if float(nearest) >= value:
        nearest = np.nextafter(nearest, kind(-math.inf))
    return float(nearest)


def normal(key, shape, mean=0.0, stddev=1.0, dtype=None, offset=0, host=False):
    """Normal numbers by the transform of Box and Muller (1958).

    Both words of a block make a radius (32 bits, so that |z| reaches 6.7) and an
    angle (24 bits), and these two numbers: `r cos(a)`, `r sin(a)`.

    Args:
        key: what `key` returned.
        shape: shape of the result; the leading axis numbers the samples.
        mean: float, or tensor that broadcasts to `shape`.
        stddev: standard deviation, likewise.
        dtype: dtype of the result; Keras's `floatx` by default.
        offset: number of the first sample.
        host: draw in NumPy (float32 by default); the key must be of integers.

    Returns:
        Tensor, or NumPy array, of that shape.

    Example:

    ```python
    z = normal(key(seed=0, stream="latent"), (16, 64))
    ```
    """
    xp = np if host else ops
    x0, x1 = _words(key, shape, offset, host)
    u = _fine_unit(x0)
    # The arithmetic shift keeps the sign: the angle is in [-pi, pi).
    turn = x1 >> 8 if host else ops.right_shift(x1, 8)
    if host:
        u, turn = u.astype("float64"), turn.astype("float64")
    angle = (turn if host else ops.cast(turn, "float32")) * (2 * math.pi * 2.0**-24)
    radius = xp.sqrt(-2.0 * xp.log(u))
    z = _interleave(radius * xp.cos(angle), radius * xp.sin(angle), shape)
    return _affine(z, stddev, mean, dtype, host)


def truncated_normal(
    key, shape, mean=0.0, stddev=1.0, dtype=None, offset=0, host=False
):
    """Normal numbers within two standard deviations, by the inverse distribution.

    As in Keras, `stddev` is that of the normal before it is cut.

    Args:
        key: what `key` returned.
        shape: shape of the result; the leading axis numbers the samples.
        mean: float, or tensor that broadcasts to `shape`.
        stddev: standard deviation before the cut, likewise.
        dtype: dtype of the result; Keras's `floatx` by default.
        offset: number of the first sample.
        host: draw in NumPy (float32 by default); the key must be of integers.

    Returns:
        Tensor, or NumPy array, of that shape.
    """
    x = bits(key, shape, offset, host)
    # (-1, 1) symmetric around 0: a signed number of 24 bits and a half is exact.
    if host:
        x = ((x >> 8).astype("float64") + 0.5) * 2.0**-23
        z = math.sqrt(2.0) * _erfinv(x * math.erf(math.sqrt(2.0)))
    else:
        x = (ops.cast(ops.right_shift(x, 8), "float32") + 0.5) * 2.0**-23
        z = math.sqrt(2.0) * ops.erfinv(x * math.erf(math.sqrt(2.0)))
        z = ops.clip(z, -2.0, 2.0)
    return _affine(z, stddev, mean, dtype, host)


def _erfinv(x):
    """The inverse error function for |x| < 0.9966 (Giles 2010, table 1)."""
    w = -np.log1p(-x * x) - 2.5
    y = np.zeros_like(w)
    for coefficient in (
        2.81022636e-08,
        3.43273939e-07,
        -3.5233877e-06,
        -4.39150654e-06,
        0.00021858087,
        -0.00125372503,
        -0.00417768164,
        0.246640727,
        1.50140941,
    ):
        y = y * w + coefficient
    return y * x


def randint(key, shape, minval, maxval, dtype="int32", offset=0):
    """Integers in [minval, maxval), equal to the bit on every backend.

    The high word of the product of 32 bits and the range (Lemire 2019,
    arXiv:1805.10941, without the rejection): no value's probability is off by more
    than 2**-32.

    Args:
        key: what `key` returned.
        shape: shape of the result; the leading axis numbers the samples.
        minval: integer, or int32 tensor that broadcasts to `shape`.
        maxval: likewise, over `minval`.
        dtype: integer dtype of the result.
        offset: number of the first sample.

    Returns:
        Integer tensor of that shape.

    Raises:
        ValueError: if `minval >= maxval` or either is outside of int32.
    """
    if _is_tensor(minval) or _is_tensor(maxval):
        span = _int32(maxval) - _int32(minval)
        high, low = _shift_right(span, 16), span & 0xFFFF
    else:
        minval, maxval = operator.index(minval), operator.index(maxval)
        if not -(2**31) <= minval < maxval <= 2**31:
            raise ValueError(
                "minval must be under maxval, both within int32; got "
                f"{minval!r} and {maxval!r}."
            )
        high, low = divmod(maxval - minval, 2**16)
    x = bits(key, shape, offset)
    upper, lower = _shift_right(x, 16), x & 0xFFFF
    # 32 bits times 32 bits by halves of 16; products wrap, as unsigned ones do.
    cross, other = upper * low, lower * high
    carry = _shift_right(lower * low, 16) + (cross & 0xFFFF) + (other & 0xFFFF)
    x = upper * high + _shift_right(cross, 16) + _shift_right(other, 16)
    x = x + _shift_right(carry, 16)
    if _is_tensor(minval) or minval:
        x = x + _int32(minval)
    return ops.cast(x, dtype)


def bernoulli(key, shape, p=0.5, dtype="bool", offset=0):
    """True with probability `p`.

    Args:
        key: what `key` returned.
        shape: shape of the result; the leading axis numbers the samples.
        p: probability, or a float tensor that broadcasts to `shape`.
        dtype: dtype of the result.
        offset: number of the first sample.

    Returns:
        Tensor of that shape.

    Raises:
        ValueError: if `p` is a number outside of [0, 1].
    """
    if not _is_tensor(p) and not np.all((np.asarray(p) >= 0) & (np.asarray(p) <= 1)):
        raise ValueError(f"p must be a probability, in [0, 1]; got {p!r}.")
    draw = uniform(key, shape, dtype="float32", offset=offset)
    return ops.cast(draw < ops.cast(p, "float32"), dtype)


def gumbel(key, shape, dtype=None, offset=0):
    """Standard Gumbel numbers, `-log(-log(u))`.

    Args:
        key: what `key` returned.
        shape: shape of the result; the leading axis numbers the samples.
        dtype: dtype of the result; Keras's `floatx` by default.
        offset: number of the first sample.

    Returns:
        Tensor of that shape, values in [-2.9, 23].
    """
    # 1 - u is fine near 0, where the long upper tail is made; it must not be 1.
    v = ops.minimum(_fine_unit(bits(key, shape, offset)), 1.0 - 2.0**-24)
    return _to(-ops.log(-ops.log1p(-v)), dtype)


def categorical(key, logits, offset=0):
    """Draws a class from the softmax of the logits, by the Gumbel maximum.

    Args:
        key: what `key` returned.
        logits: `(B, ..., K)`; `-inf` excludes a class.
        offset: number of the first sample.

    Returns:
        int32 tensor `(B, ...)` of classes in [0, K).

    Example:

    ```python
    token = categorical(key(seed, "token", step), logits / temperature)
    ```
    """
    noise = gumbel(key, ops.shape(logits), "float32", offset)
    return ops.cast(ops.argmax(ops.cast(logits, "float32") + noise, axis=-1), "int32")


def permutation(key, n):
    """A random order of the numbers under `n`: those of the sorted blocks.

    Args:
        key: what `key` returned. Integers: the order is computed in NumPy (the same).
        n: number of items, an integer.

    Returns:
        int32 tensor `(n,)`, or NumPy array if the key is of Python integers.
    """
    if isinstance(n, bool | np.bool_) or not hasattr(n, "__index__") or n < 0:
        raise ValueError(f"n must be an integer >= 0; got {n!r}.")
    host = all(isinstance(word, int) for word in key)
    x0, x1 = _words(key, (operator.index(n),), 0, host)  # (n, 1)
    return _lexicographic_order(x0[:, 0], x1[:, 0])


def _lexicographic_order(x0, x1):
    """The order that sorts pairs of words; equal pairs (there are none) by index."""
    if isinstance(x0, np.ndarray):
        return np.lexsort((x1, x0)).astype(np.int32)
    order = ops.argsort(x1)
    order = ops.take(order, ops.argsort(ops.take(x0, order)))  # stable on each backend
    return ops.cast(order, "int32")


@keras.saving.register_keras_serializable(PACKAGE)
class Noise(keras.layers.Layer):
    """Noise keyed by (seed, stream name, step, sample number), with a saved step.

    Its draws are the functions of this module with the stream's name for the key.
    The same stream at the same step draws the same numbers: call `advance` once for
    each step, or give other names. It works under `tf.function`, `jax.jit` (in a
    `StatelessScope`) and on PyTorch, in float32 whatever the dtype policy.

    Args:
        seed: integer in [0, 2**63).

    Attributes:
        step: non-trainable int32 scalar weight, starts at 0, saved with the model.
        sample_offset: number of the first sample of each draw, for a process that
            holds a part of the batch.

    Example:

    ```python
    noise = Noise(seed=0)
    z = noise.normal("latent", (16, 64))
    noise.advance()
    ```
    """

    def __init__(self, seed, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.seed = check_seed(seed)
        self.sample_offset = 0
        self.step = self.add_weight(
            name="step",
            shape=(),
            dtype="int32",
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
        )
        self.built = True

    def key(self, stream):
        """The key of a stream at the present step."""
        return key(self.seed, stream, self.step)

    def advance(self, amount=1):
        """Adds to the step."""
        self.step.assign_add(amount)

    def _draw(self, function, stream, args, kwargs):
        offset = self.sample_offset + kwargs.pop("offset", 0)
        return function(self.key(stream), *args, offset=offset, **kwargs)

    def normal(self, stream, *args, **kwargs):
        return self._draw(normal, stream, args, kwargs)

    def uniform(self, stream, *args, **kwargs):
        return self._draw(uniform, stream, args, kwargs)

    def truncated_normal(self, stream, *args, **kwargs):
        return self._draw(truncated_normal, stream, args, kwargs)

    def randint(self, stream, *args, **kwargs):
        return self._draw(randint, stream, args, kwargs)

    def bernoulli(self, stream, *args, **kwargs):
        return self._draw(bernoulli, stream, args, kwargs)

    def categorical(self, stream, *args, **kwargs):
        return self._draw(categorical, stream, args, kwargs)

    def gumbel(self, stream, *args, **kwargs):
        return self._draw(gumbel, stream, args, kwargs)

    def get_config(self):
        config = super().get_config()
        config.pop("dtype", None)
        return {**config, "seed": self.seed}
