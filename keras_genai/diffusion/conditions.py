"""Conditioning: labels, vectors, sequences, and none of them.

Inside a model a condition is a dict of tensors, of which the network takes each as a
keyword: `labels` integers `(B,)`, `vector` `(B, E)`, `context` `(B, S, E)`.
"""

import keras
import numpy as np
from keras import ops

from keras_genai.utils.checks import check_labels, check_positive

NAMES = ("labels", "vector", "context")


class Conditions:
    """The conditions of one model.

    Args:
        num_classes: K of the labels, or None.
        vector_dim: E of the vectors, or None.
        context_shape: `(S, E)` of the sequences, S an integer or None; or None.
        dropout: rate at which one is left out in training, in [0, 1).

    Attributes:
        shapes: dict name -> (shape of one sample, dtype), in the order of `NAMES`.
    """

    def __init__(
        self, num_classes=None, vector_dim=None, context_shape=None, dropout=0
    ):
        if isinstance(dropout, bool) or not 0 <= dropout < 1:
            raise ValueError(f"condition_dropout must be in [0, 1); got {dropout!r}.")
        self.num_classes = num_classes
        self.vector_dim = vector_dim
        self.context_shape = context_shape and tuple(context_shape)
        self.shapes = {}
        if num_classes is not None:
            check_positive("num_classes", num_classes)
            self.shapes["labels"] = ((), "int32")
        if vector_dim is not None:
            check_positive("vector_dim", vector_dim)
            self.shapes["vector"] = ((vector_dim,), "float32")
        if context_shape is not None:
            shape = tuple(context_shape)
            if len(shape) != 2 or shape[1] is None:
                raise ValueError(
                    "context_shape must be (length, dimensions), the length an integer "
                    f"or None; got {context_shape!r}."
                )
            for size in shape:
                if size is not None:
                    check_positive("context_shape", size)
            self.shapes["context"] = (shape, "float32")

        self.dropout = float(dropout) if self.shapes else 0.0

    def __bool__(self):
        return bool(self.shapes)

    def named(self, y):
        """The `y` of `fit` as a dict; `{}` for None."""
        if y is None or isinstance(y, dict):
            return y or {}
        if len(self.shapes) != 1:
            wanted = ", ".join(map(repr, self.shapes)) or "none"
            raise ValueError(
                f"This model's conditions are {wanted}: give a dict of arrays with "
                "these keys as y."
                if self.shapes
                else "This model takes no labels or other conditions, but fit was "
                "given some. Leave them out, or make it with num_classes=, "
                "vector_dim= or context_shape=."
            )
        return {next(iter(self.shapes)): y}

    def check(self, given, count, null=False):
        """Refuses conditions that are missing, unknown or misshapen.

        Args:
            given: dict name -> NumPy array.
            count: of the samples.
            null: whether labels may be K, that of a sample without one.
        """
        missing = [name for name in self.shapes if given.get(name) is None]
        unknown = [name for name in given if name not in self.shapes]
        if missing == ["labels"]:
            check_labels(None, self.num_classes, count)
        if missing or unknown:
            raise ValueError(
                f"This model's conditions are {', '.join(self.shapes) or 'none'}; "
                f"missing: {', '.join(missing) or 'none'}, not known: "
                f"{', '.join(unknown) or 'none'}."
            )
        for name, array in given.items():
            self._check_one(name, np.asarray(array), count, null)

    def _check_one(self, name, array, count, null):
        if name == "labels":
            check_labels(array, self.num_classes + bool(null and self.dropout), count)
            return
        shape, _ = self.shapes[name]
        wanted = (count, *shape)
        fits = array.ndim == len(wanted) and all(
            n in (None, got) for n, got in zip(wanted, array.shape, strict=True)
        )
        if not fits or not np.issubdtype(array.dtype, np.floating):
            raise ValueError(
                f"The condition {name!r} must be floats of the shape {wanted}; got "
                f"{array.dtype} of the shape {array.shape}."
            )

    def tensors(self, given):
        """As tensors of the types that networks take, labels `(B,)`."""
        made = {}
        for name, (_, dtype) in self.shapes.items():
            value = ops.cast(ops.convert_to_tensor(given[name]), dtype)
            made[name] = ops.reshape(value, (-1,)) if name == "labels" else value
        return made

    def null(self, given):
        """The same for images without a condition: label K, and zeros."""
        return {
            name: ops.full_like(value, self.num_classes)
            if name == "labels"
            else ops.zeros_like(value)
            for name, value in given.items()
        }

    def dropped(self, given, keep, null=None):
        """Each condition where `keep` (bool `(B,)`), else the null one."""
        null = self.null(given) if null is None else null
        return {
            name: ops.where(
                ops.reshape(keep, (-1,) + (1,) * (len(value.shape) - 1)),
                value,
                null[name],
            )
            for name, value in given.items()
        }

    def network_arguments(self):
        """What a `kg.UNet` is made with to take them."""
        return {
            "num_classes": self.num_classes,
            "vector_dim": self.vector_dim,
            "context_dim": self.context_shape and self.context_shape[1],
        }

    def keras_tensors(self):
        """Symbolic ones, a dict."""
        return {
            name: keras.KerasTensor((None, *shape), dtype=dtype)
            for name, (shape, dtype) in self.shapes.items()
        }

    def signature(self):
        """Inputs of an exported function: list of (name, shape, dtype)."""
        return [
            (name, (None, *shape), dtype)
            for name, (shape, dtype) in self.shapes.items()
        ]
