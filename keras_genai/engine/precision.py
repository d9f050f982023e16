"""Half precision ends where sums begin."""

import keras
from keras import ops


def widen(x):
    """The tensor in float32 where it came in half precision, else as it is."""
    x = ops.convert_to_tensor(x)
    exact = keras.backend.standardize_dtype(x.dtype) in ("float32", "float64")
    return x if exact else ops.cast(x, "float32")
