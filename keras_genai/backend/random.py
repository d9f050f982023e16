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
differ. All is computed in float32 and cast at the end. The draws share arguments:

- `key`: the pair of words that `key(seed, stream, step)` returns.
- `shape`: shape of the result. The leading axis numbers the samples, `()` is one
  sample, `(n,)` is n samples of one element. Dimensions may be scalar tensors.
- `dtype`: dtype of the result; Keras's `floatx` by default.
- `offset`: number of the first sample, an integer or an int32 scalar tensor.
- `host`: True draws a NumPy array, equal to the bit in every process whatever its
  backend (float32 by default); the key and the arguments must be Python numbers.

Example:

```python
k = key(seed=0, stream="latent", step=3)
z = normal(k, (16, 64))
z[8:] == normal(k, (8, 64), offset=8)  # all True
```
"""

import functools
import math
import operator

import keras
import numpy as np
from keras import ops

from keras_genai.backend import primitives, replicas
from keras_genai.backend.cipher import shift_right
from keras_genai.backend.threefry import (
    check_seed,
    key,
    signed,
    threefry2x32,
    to_int32,
)
from keras_genai.backend.threefry import (
    subkey as subkey,
)
from keras_genai.utils.serialization import PACKAGE
from keras_genai.utils.validation import is_integer, is_number

# Up to here NumPy is the fastest: op by op a backend spends its time in dispatch.
_HOST_BLOCKS = 2**15


# Words for samples


def _words(key, shape, offset, host, skip=0):
    """The two words of every block of a draw, each `(samples, blocks)`."""
    samples, size = _sizes(shape)
    blocks = (size + 1) // 2
    numbers = all(map(is_integer, (*key, samples, blocks, offset, skip)))
    if host and not numbers:
        raise ValueError(
            "host=True draws in NumPy, from a key, shape and offset of Python "
            "integers: call key() with an integer seed and step; got tensors."
        )
    if host or (numbers and samples * blocks <= _HOST_BLOCKS):
        first = (np.arange(samples) + signed(int(offset))).astype("int32")
        second = (np.arange(blocks) + skip // 2).astype("int32")
        words = threefry2x32(key, (first[:, None], second[None]))
        return words if host else tuple(map(ops.convert_to_tensor, words))
    first = ops.arange(samples, dtype="int32") + to_int32(offset)
    second = ops.arange(blocks, dtype="int32") + to_int32(skip) // 2
    return threefry2x32(key, (ops.expand_dims(first, 1), ops.expand_dims(second, 0)))


def _sizes(shape):
    """The number of samples and of the elements in each (tensors if dynamic)."""
    shape = [int(n) if is_integer(n) else n for n in shape]
    if any(n is None or isinstance(n, int) and n < 0 for n in shape):
        raise ValueError(
            "shape must hold numbers >= 0 (for a dimension that is only known later, "
            f"the tensor `ops.shape(x)[axis]`); got {tuple(shape)}."
        )
    size = functools.reduce(operator.mul, shape[1:], 1)
    return (shape[0] if shape else 1), size


def _interleave(even, odd, shape):
    """Puts elements `(samples, blocks)` of even and odd number into `shape`."""
    xp = np if isinstance(even, np.ndarray) else ops
    return _flatten(xp.stack([even, odd], axis=-1), shape)


def _flatten(pairs, shape):
    """`(samples, blocks, 2)` to `shape`; the last number may be one too many."""
    xp = np if isinstance(pairs, np.ndarray) else ops
    samples, size = _sizes(shape)
    x = xp.reshape(pairs, (samples, (size + 1) // 2 * 2))
    if not isinstance(size, int) or size % 2:
        x = x[:, :size]
    return xp.reshape(x, shape)


def _floats(x):
    """Integers of at most 24 bits as floats: float64 in NumPy, else float32."""
    if isinstance(x, np.ndarray | np.integer):
        return x.astype("float64")
    return ops.cast(x, "float32")


def _fine_unit(x):
    """A number in (0, 1] from 32 bits, finest near 0, where tails are made.

    Products are by powers of two, hence exact: a fused multiply-add changes nothing.
    """
    high = _floats(shift_right(x, 8)) + (_floats(x & 255) + 0.5) * 2.0**-8
    if isinstance(high, np.ndarray):  # rounded where the tensors are rounded
        high = high.astype("float32").astype("float64")
    return high * 2.0**-24


def _finish(x, scale, shift, dtype):
    """`shift + scale * x` without the trivial parts, cast once at the end."""
    host = isinstance(x, np.ndarray | np.floating)
    if not (is_number(scale) and scale == 1):
        x = x * (float(scale) if is_number(scale) else ops.cast(scale, "float32"))
    if not (is_number(shift) and shift == 0):
        x = x + (float(shift) if is_number(shift) else ops.cast(shift, "float32"))
    if host:
        return np.asarray(x, dtype or "float32")
    return ops.cast(x, dtype or keras.config.floatx())


# Draws


def bits(key, shape, offset=0, host=False):
    """Uniform 32-bit words.

    Returns:
        int32 tensor, or NumPy array, of that shape.
    """
    return _interleave(*_words(key, shape, offset, host), shape)


def uniform(key, shape, minval=0.0, maxval=1.0, dtype=None, offset=0, host=False):
    """Uniform numbers in [minval, maxval), of 24 bits.

    Args:
        key, shape, dtype, offset, host: see the module.
        minval: float, or tensor that broadcasts to `shape`.
        maxval: likewise, over `minval`. It is never returned, in any dtype.

    Returns:
        Tensor, or NumPy array, of that shape.

    Raises:
        ValueError: if the numbers `minval >= maxval`.
    """
    # The product is exact: 24 bits times a power of two.
    x = _floats(shift_right(bits(key, shape, offset, host), 8)) * 2.0**-24
    dtype = "float32" if host and dtype is None else dtype
    dtype = keras.backend.standardize_dtype(dtype)
    if not (is_number(minval) and is_number(maxval)):
        minval, maxval = ops.cast(minval, "float32"), ops.cast(maxval, "float32")
        x = _finish(x, maxval - minval, minval, dtype)
        return ops.where(x < ops.cast(maxval, dtype), x, ops.cast(minval, dtype))
    if not minval < maxval:
        raise ValueError(f"minval must be under maxval; got {minval!r}, {maxval!r}.")
    x = _finish(x, maxval - minval, minval, "float64" if host else "float32")
    if dtype != "float32" or (minval, maxval) != (0, 1):
        # Rounding must not reach maxval.
        x = (np if host else ops).minimum(x, _below(maxval, dtype))
    return np.asarray(x, dtype) if host else ops.cast(x, dtype)


@functools.cache
def _below(value, dtype):
    """The largest number of the dtype that is under `value`."""
    kind = np.dtype(dtype).type
    nearest = kind(value)
    if float(nearest) >= value:
        nearest = np.nextafter(nearest, kind(-math.inf))
    return float(nearest)


def normal(key, shape, mean=0.0, stddev=1.0, dtype=None, offset=0, host=False, skip=0):
    """Normal numbers by the transform of Box and Muller (1958).

    The two words of a block make a radius (of 32 bits, so that |z| reaches 6.7) and
    an angle (of 24), and these the two numbers `r cos(a)` and `r sin(a)`.

    Args:
        key, shape, dtype, offset, host: see the module.
        mean: float, or tensor that broadcasts to `shape`.
        stddev: standard deviation, likewise.
        skip: how many elements of each sample to pass over, an even integer or int32
            scalar tensor: a draw of many elements can be made in parts.

    Returns:
        Tensor, or NumPy array, of that shape.
    """
    xp = np if host else ops
    x0, x1 = _words(key, shape, offset, host, skip)
    radius = xp.sqrt(-2.0 * xp.log(_fine_unit(x0)))
    # sin(a) = cos(a - pi / 2), and a quarter turn is 2**30, so one cosine over a pair
    # axis makes both: XLA runs that ten times as fast as a stack of the two. The
    # arithmetic shift keeps the sign: the angle is in [-pi, pi).
    quarters = np.array([0, 2**30], "int32")
    turns = xp.expand_dims(x1, -1) - (
        quarters if host else ops.convert_to_tensor(quarters)
    )
    angle = _floats(xp.right_shift(turns, 8)) * (2 * math.pi * 2.0**-24)
    z = _flatten(xp.expand_dims(radius, -1) * xp.cos(angle), shape)
    return _finish(z, stddev, mean, dtype)


def truncated_normal(
    key, shape, mean=0.0, stddev=1.0, dtype=None, offset=0, host=False
):
    """Normal numbers within two standard deviations, by the inverse distribution.

    As in Keras, `stddev` is that of the normal before it is cut.

    Args:
        key, shape, dtype, offset, host: see the module.
        mean: float, or tensor that broadcasts to `shape`.
        stddev: standard deviation before the cut, likewise.

    Returns:
        Tensor, or NumPy array, of that shape.
    """
    xp = np if host else ops
    x = xp.right_shift(bits(key, shape, offset, host), 8)
    # In (-1, 1), symmetric: a signed number of 24 bits and a half is exact.
    x = (_floats(x) + 0.5) * 2.0**-23 * math.erf(math.sqrt(2.0))
    z = math.sqrt(2.0) * (_erfinv(x) if host else ops.erfinv(x))
    return _finish(xp.clip(z, -2.0, 2.0), stddev, mean, dtype)


def _erfinv(x):
    """The inverse error function for |x| < 0.9966 (Giles 2010, table 5)."""
    w = -np.log1p(-x * x) - 2.5
    y = 2.81022636e-08
    for coefficient in (
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


def randint(key, shape, minval, maxval, dtype="int32", offset=0, host=False):
    """Integers in [minval, maxval), equal to the bit on every backend.

    The high word of the product of 32 bits and the range (Lemire 2019,
    arXiv:1805.10941, without the rejection): no value's probability is off by more
    than 2**-32.

    Args:
        key, shape, offset, host: see the module.
        minval: integer, or int32 tensor that broadcasts to `shape`.
        maxval: likewise, over `minval`.
        dtype: integer dtype of the result.

    Returns:
        Integer tensor of that shape (NumPy array on the host).

    Raises:
        ValueError: if the numbers `minval >= maxval` or leave int32.
    """
    if is_integer(minval) and is_integer(maxval):
        if not -(2**31) <= minval < maxval <= 2**31:
            raise ValueError(
                "minval must be under maxval, both within int32; got "
                f"{minval!r} and {maxval!r}."
            )
        high, low = divmod(int(maxval) - int(minval), 2**16)
    else:
        span = to_int32(maxval) - to_int32(minval)
        high, low = shift_right(span, 16), span & 0xFFFF
    x = bits(key, shape, offset, host)
    upper, lower = shift_right(x, 16), x & 0xFFFF
    # 32 bits times 32 bits by halves of 16; products wrap, as unsigned ones do.
    cross, other = upper * low, lower * high
    carry = shift_right(lower * low, 16) + (cross & 0xFFFF) + (other & 0xFFFF)
    x = upper * high + shift_right(cross, 16) + shift_right(other, 16)
    x = x + shift_right(carry, 16)
    if host:
        return (x + np.int32(minval)).astype(dtype)
    return ops.cast(x + to_int32(minval), dtype)


def bernoulli(key, shape, p=0.5, dtype="bool", offset=0):
    """True with probability `p`.

    Args:
        key, shape, offset: see the module.
        p: probability, or a float tensor that broadcasts to `shape`.
        dtype: dtype of the result.

    Returns:
        Tensor of that shape.

    Raises:
        ValueError: if the number `p` is not in [0, 1].
    """
    if is_number(p) and not 0 <= p <= 1:
        raise ValueError(f"p must be a probability, in [0, 1]; got {p!r}.")
    draw = uniform(key, shape, dtype="float32", offset=offset)
    p = float(p) if is_number(p) else ops.cast(p, "float32")
    return ops.cast(draw < p, dtype)


def gumbel(key, shape, dtype=None, offset=0):
    """Standard Gumbel numbers, `-log(-log(u))`, in [-2.9, 23].

    Args:
        key, shape, dtype, offset: see the module.

    Returns:
        Tensor of that shape.
    """
    # 1 - u is fine near 0, where the long upper tail is made; it must not be 1.
    v = ops.minimum(_fine_unit(bits(key, shape, offset)), 1.0 - 2.0**-24)
    return _finish(-ops.log(-ops.log1p(-v)), 1.0, 0.0, dtype)


def categorical(key, logits, offset=0):
    """Draws a class from the softmax of the logits, by the Gumbel maximum.

    Args:
        key, offset: see the module.
        logits: `(B, ..., K)`; `-inf` excludes a class.

    Returns:
        int32 tensor `(B, ...)` of classes in [0, K).
    """
    noise = gumbel(key, ops.shape(logits), "float32", offset)
    return primitives.argmax(ops.cast(logits, "float32") + noise)


def permutation(key, n):
    """A random order of `range(n)`: the one that sorts the first n blocks.

    Args:
        key: see the module. Of integers, the order is computed in NumPy (the same).
        n: number of items, a Python integer.

    Returns:
        int32 tensor `(n,)`, or NumPy array if the key is of Python integers.
    """
    if not is_integer(n) or n < 0:
        raise ValueError(f"n must be an integer >= 0; got {n!r}.")
    x0, x1 = _words(key, (n,), 0, host=all(map(is_integer, key)))  # (n, 1)
    return _lexicographic_order(x0[:, 0], x1[:, 0])


def _lexicographic_order(x0, x1):
    """The order that sorts pairs of words; equal pairs (there are none) by index."""
    if isinstance(x0, np.ndarray):
        return np.lexsort((x1, x0)).astype("int32")
    order = ops.argsort(x1)
    order = ops.take(order, ops.argsort(ops.take(x0, order)))  # stable on each backend
    return ops.cast(order, "int32")


def _keyed(function):
    """The method of `Noise` that draws by `function` from a stream."""

    @functools.wraps(function)
    def draw(self, stream, *args, offset=0, **kwargs):
        offset = replicas.number() + offset
        # Where steps are recorded, a draw is one operation that is not taken apart.
        return primitives.outside(keyed, self, stream, *args, offset=offset, **kwargs)

    def keyed(self, stream, *args, **kwargs):
        return function(self.key(stream), *args, **kwargs)

    return draw


@keras.saving.register_keras_serializable(PACKAGE)
class Noise(keras.layers.Layer):
    """Noise keyed by (seed, stream name, step, sample number), with a saved step.

    Its draws are the functions of this module with a stream's name for the key. The
    same stream at the same step draws the same numbers: call `advance` after each
    step, or give other names. In a step on a part of a batch (`backend.replicas`),
    samples are numbered as in the whole batch. It works under `tf.function`,
    `jax.jit` (in a `StatelessScope`) and on PyTorch, and computes in float32 whatever
    the policy.

    Args:
        seed: integer in [0, 2**63).

    Attributes:
        step: non-trainable int32 scalar weight; starts at 0, saved with the model.

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

    normal = _keyed(normal)
    uniform = _keyed(uniform)
    truncated_normal = _keyed(truncated_normal)
    randint = _keyed(randint)
    bernoulli = _keyed(bernoulli)
    gumbel = _keyed(gumbel)
    categorical = _keyed(categorical)

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}
