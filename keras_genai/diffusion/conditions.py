"""Conditioning: labels, vectors, sequences, images, and none of them.

Inside a model a condition is a dict of tensors, of which the network takes each as a
keyword: `labels` integers `(B,)`, `vector` `(B, E)`, `context` `(B, S, E)`; but for
`image`, `(B, h, w, C)`, whose channels are joined to those of x.
"""

import keras
import numpy as np
from keras import ops

from keras_genai.utils.checks import check_labels, check_positive

NAMES = ("labels", "vector", "context", "image")


class Conditions:
    """The conditions of one model.

    Args:
        num_classes: K of the labels, or None.
        vector_dim: E of the vectors, or None.
        context_shape: `(S, E)` of the sequences, S an integer or None; or None.
        dropout: rate at which those are left out in training, in [0, 1).
        concat_channels: C of the images, or None.
        image_dropout: rate at which the image is left out, in [0, 1).

    Attributes:
        shapes: dict name -> (shape of one sample, dtype), in the order of `NAMES`.
    """

    def __init__(
        self,
        num_classes=None,
        vector_dim=None,
        context_shape=None,
        dropout=0,
        concat_channels=None,
        image_dropout=0,
    ):
        for name, rate in (
            ("condition_dropout", dropout),
            ("image_dropout", image_dropout),
        ):
            if isinstance(rate, bool) or not 0 <= rate < 1:
                raise ValueError(f"{name} must be in [0, 1); got {rate!r}.")
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
        self.concat_channels = concat_channels
        if concat_channels is not None:
            check_positive("concat_channels", concat_channels)
            self.shapes["image"] = ((None, None, concat_channels), "float32")
        elif image_dropout:
            raise ValueError(
                f"image_dropout={image_dropout!r} leaves out the image that is joined "
                "to x: it needs concat_channels=."
            )
        self.image_dropout = float(image_dropout)

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
                "vector_dim=, context_shape= or concat_channels=."
            )
        return {next(iter(self.shapes)): y}

    def check(self, given, count, null=False, own=()):
        """Refuses conditions that are missing, unknown or misshapen.

        Args:
            given: dict name -> NumPy array.
            count: of the samples.
            null: whether labels may be K, that of a sample without one.
            own: names of those that need not be given.
        """
        shapes = [name for name in self.shapes if name not in own]
        missing = [name for name in shapes if given.get(name) is None]
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
            self.check_one(name, np.asarray(array), count, null)

    def check_one(self, name, array, count, null=False):
        """Refuses one condition, NumPy, that does not fit: see `check`."""
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

    @property
    def fixed_shapes(self):
        """Dict name -> shape, of the vector and of a sequence of known length."""
        names = [name for name in ("vector", "context") if name in self.shapes]
        shapes = {name: self.shapes[name][0] for name in names}
        return {name: shape for name, shape in shapes.items() if None not in shape}

    def check_null(self, given):
        """A null condition as NumPy floats, dict name -> array of `fixed_shapes`.

        Raises:
            ValueError: it is of no condition of fixed shape, or misshapen.
        """
        made, known = {}, self.fixed_shapes
        for name, value in (given or {}).items():
            if name not in known:
                raise ValueError(
                    f"null_condition has {name!r}; a null of its own have the vector "
                    f"and the context of a known length, here: "
                    f"{', '.join(known) or 'none'}. That of labels is num_classes."
                )
            value = np.asarray(value)
            if value.shape != known[name] or not np.issubdtype(value.dtype, np.number):
                raise ValueError(
                    f"null_condition[{name!r}] must be floats of the shape "
                    f"{known[name]}; got {value.dtype} of the shape {value.shape}."
                )
            if not np.isfinite(value).all():
                raise ValueError(f"null_condition[{name!r}] must be finite.")
            made[name] = value.astype("float32")
        return made

    def null(self, given, held=None):
        """The same for images without a condition: label K, the null held, or zeros.

        The image stays: it is left out by `without_image`.

        Args:
            given: dict name -> tensor.
            held: dict name -> tensor of `fixed_shapes`.
        """
        held = held or {}

        def null(name, value):
            if name == "image":
                return value
            if name == "labels":
                return ops.full_like(value, self.num_classes)
            zeros = ops.zeros_like(value)
            return zeros + ops.cast(held[name], zeros.dtype) if name in held else zeros

        return {name: null(name, value) for name, value in given.items()}

    def without_image(self, given):
        """The same with an image of zeros (2211.09800, section 3.2)."""
        return {
            name: ops.zeros_like(value) if name == "image" else value
            for name, value in given.items()
        }

    def dropped(self, given, keep, null=None, u=None):
        """Conditions as training has them, each left out at times.

        Args:
            given: dict name -> tensor.
            keep: bool `(B,)`: where the label, vector and context are kept.
            null: in whose place, like `given`; by default `null(given)`.
            u: uniform `(B,)`, for the image: it is left out at the rate
                `image_dropout`, half of the times that the others are, as in
                2211.09800, section 3.2.1, where that rate allows.
        """
        keep_image = None if u is None else u >= self._rate_of_image(keep)
        masks = {**dict.fromkeys(given, keep), "image": keep_image}
        instead = self.without_image(self.null(given) if null is None else null)
        return {
            name: value
            if masks[name] is None
            else ops.where(
                ops.reshape(masks[name], (-1,) + (1,) * (len(value.shape) - 1)),
                value,
                instead[name],
            )
            for name, value in given.items()
        }

    def _rate_of_image(self, keep):
        """`(B,)`: how often the image is left out, where the others are and are not."""
        both = min(self.dropout / 2, self.image_dropout)
        alone = (self.image_dropout - both) / (1 - self.dropout)
        together = both / self.dropout if self.dropout else 0.0
        return ops.where(keep, alone, together)

    def network_arguments(self):
        """What a `kg.UNet` is made with to take them."""
        return {
            "num_classes": self.num_classes,
            "vector_dim": self.vector_dim,
            "context_dim": self.context_shape and self.context_shape[1],
        }

    def keras_tensors(self, sides):
        """Symbolic ones, a dict; `sides` `(h, w)` are the image's."""
        return {
            name: keras.KerasTensor(shape, dtype=dtype)
            for name, shape, dtype in self.signature(sides)
        }

    def signature(self, sides):
        """Inputs of an exported function: list of (name, shape, dtype)."""
        return [
            (
                name,
                (None, *(sides if name == "image" else shape[:-1]), *shape[-1:]),
                dtype,
            )
            for name, (shape, dtype) in self.shapes.items()
        ]
