"""Files of the package that hold a small model: weights in float16, and a tokenizer."""

import io
import json

import numpy as np

_TOKENIZER = "tokenizer"  # its configuration, as bytes of JSON


def packed(arrays, tokenizer, **numbers):
    """The bytes of such a file.

    Args:
        arrays: dict name -> NumPy floats, kept in float16.
        tokenizer: a configuration, of `get_config`.
        **numbers: kept in float64.
    """
    made = io.BytesIO()
    text = json.dumps(tokenizer).encode()
    np.savez_compressed(
        made,
        **{_TOKENIZER: np.frombuffer(text, "uint8")},
        **{name: np.float64(value) for name, value in numbers.items()},
        **{name: array.astype("float16") for name, array in arrays.items()},
    )
    return made.getvalue()


def unpacked(data):
    """`(arrays, tokenizer)` of `packed`; numbers are among the arrays, of shape ()."""
    with np.load(io.BytesIO(data), allow_pickle=False) as packed_arrays:
        arrays = dict(packed_arrays)
    return arrays, json.loads(arrays.pop(_TOKENIZER).tobytes())
