"""Logits by the table that also gives the tokens their vectors (1608.05859)."""

from keras import ops

from keras_genai.backend.precision import widen


def tied_logits(x, table):
    """`x . table` for each row of the table.

    As one product of matrices, however many axes `x` has: TensorFlow's gradient of a
    broadcast product holds one table for each of its tokens.

    Args:
        x: `(..., C)`.
        table: `(V, C)`, of the same type.

    Returns:
        `(..., V)`, float32 or wider.
    """
    rows = ops.einsum("nc,vc->nv", ops.reshape(x, (-1, x.shape[-1])), table)
    return widen(ops.reshape(rows, (*ops.shape(x)[:-1], table.shape[0])))
