"""The precision that layers compute in: half precision ends where sums begin."""

import contextlib

import keras
from keras import ops


def widen(x):
    """The tensor in float32 where it came in half precision, else as it is."""
    x = ops.convert_to_tensor(x)
    exact = keras.backend.standardize_dtype(x.dtype) in ("float32", "float64")
    return x if exact else ops.cast(x, "float32")


def wide():
    """The type of what leaves a network: never half precision."""
    return "float64" if keras.config.floatx() == "float64" else "float32"


@contextlib.contextmanager
def dtype_policy(policy):
    """Layers made inside have that policy; None leaves the global one."""
    before = keras.config.dtype_policy()
    if not isinstance(policy, (str, dict, keras.DTypePolicy, type(None))):
        raise ValueError(
            f"dtype must be the name of a type, or a keras.DTypePolicy; got {policy!r}."
        )
    keras.config.set_dtype_policy(policy or before)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
