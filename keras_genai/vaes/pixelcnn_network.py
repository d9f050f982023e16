"""The network of `PixelCNN`: gated causal convolutions."""

import keras
from keras import layers, ops

from keras_genai.backend.precision import wide
from keras_genai.layers import Dropout, Embedding
from keras_genai.layers.initializers import Streams
from keras_genai.utils.arguments import checked
from keras_genai.utils.serialization import PACKAGE
from keras_genai.utils.validation import integer, integers


@keras.saving.register_keras_serializable(PACKAGE)
class Gate(layers.Layer):
    """`tanh(a) sigmoid(b)` of the two halves of the channels (1606.05328, eq. 2)."""

    def call(self, x):
        a, b = ops.split(x, 2, axis=-1)
        return ops.tanh(a) * ops.sigmoid(b)

    def compute_output_shape(self, shape):
        return (*shape[:-1], shape[-1] // 2)


@keras.saving.register_keras_serializable(PACKAGE)
class Places(layers.Layer):
    """Adds a learned vector for each position of a grid `(B, h, w, p)`."""

    def __init__(self, initializer="zeros", **kwargs):
        super().__init__(**kwargs)
        self.initializer = keras.initializers.get(initializer)

    def build(self, shape):
        self.table = self.add_weight(
            name="table", shape=shape[1:], initializer=self.initializer
        )
        self.built = True

    def call(self, x):
        return x + ops.cast(self.table, x.dtype)

    def get_config(self):
        initializer = keras.initializers.serialize(self.initializer)
        return {**super().get_config(), "initializer": initializer}


@checked(shape=integers(), filters=integer(1), kernel_size=integer(3))
def pixelcnn_network(
    shape,
    vocabulary_size,
    num_classes=None,
    filters=64,
    blocks=6,
    kernel_size=5,
    dropout=0.0,
    seed=0,
):
    """The gated network of 1606.05328, figure 2, for codes of a finite alphabet.

    The vertical stack sees all rows above, the horizontal one the codes to the left
    and, through the vertical one, the rows above; together there is no blind spot.
    Where the paper masks kernels, these are cut: a kernel holds what the mask would
    leave, and padding puts it above and to the left. Labels add to both gates
    (equation 4), and each position has a learned vector. Of several codes at one
    position each is given those before it as well.

    Args:
        shape: `(h, w)`, or `(h, w, stages)`.
        vocabulary_size: V: codes are integers in [0, V).
        num_classes: K of the labels, or None.
        filters: p, channels of each stack.
        blocks: number of gated layers.
        kernel_size: odd; a kernel is half of that neighbourhood.
        dropout: rate, before the last layers, in [0, 1).
        seed: integer.

    Returns:
        `keras.Model`, codes `(B, h, w[, stages])` (with labels: `[codes, labels]`) ->
        logits `(B, h, w[, stages], V)`.
    """
    kernel = Streams("pixelcnn", seed)
    reach = kernel_size // 2

    def embedding(name, count, size):
        return Embedding(count, size, embeddings_initializer=kernel(name), name=name)

    def convolution(name, size, x, channels=2 * filters):
        """A convolution whose kernel ends, below and at the right, at the position."""
        rows, columns = size
        if rows > 1 or columns > 1:
            side = columns // 2 if name.startswith("v") else 0
            left = side or columns - 1
            pads = ((rows - 1, 0), (left, side))
            x = layers.ZeroPadding2D(pads, name=f"{name}_pad")(x)
        return layers.Conv2D(
            channels, size, kernel_initializer=kernel(name), name=name
        )(x)

    def before(name, x, rows, columns):
        """Each position's features moved by one row down, or one column right."""
        x = layers.ZeroPadding2D(((rows, 0), (columns, 0)), name=f"{name}_move")(x)
        return layers.Cropping2D(((0, rows), (0, columns)), name=f"{name}_cut")(x)

    def label_bias(name):
        """Of the label, to be added at every position: `(B, 1, 1, 2 p)`."""
        bias = embedding(name, num_classes, 2 * filters)(label)
        return layers.Reshape((1, 1, 2 * filters), name=f"{name}_map")(bias)

    def gate(name, parts):
        """The gate of the sum of the parts: `(B, h, w, p)`."""
        return Gate(name=f"gate_{name}")(_sum(parts, f"sum_{name}"))

    def block(number, v, h):
        """One gated layer, figure 2: `(B, h, w, p)` of both stacks."""
        first = number == 0
        # The first sees the rows above and the codes to the left, not the position.
        v = before(f"v_{number}", v, 1, 0) if first else v
        h_in = before(f"h_{number}", h, 0, 1) if first else h
        rows = max(1, reach) if first else reach + 1
        v = convolution(f"v_{number}", (rows, kernel_size), v)
        h = convolution(f"h_{number}", (1, rows), h_in)
        link = convolution(f"link_{number}", (1, 1), v)
        v_parts, h_parts = [v], [h, link]
        if label is not None:
            v_parts.append(label_bias(f"label_v_{number}"))
            h_parts.append(label_bias(f"label_h_{number}"))
        v = gate(f"v_{number}", v_parts)
        h = gate(f"h_{number}", h_parts)
        h = convolution(f"out_{number}", (1, 1), h, filters)
        if not first:
            h = layers.Add(name=f"residual_{number}")([h_in, h])
        return v, h

    codes = keras.Input(shape, dtype="int32", name="codes")
    label = None
    if num_classes is not None:
        label = keras.Input((), dtype="int32", name="labels")
    stages = shape[2] if len(shape) == 3 else 1
    # (B, h, w) for each stage.
    split = ops.unstack(codes, stages, axis=-1) if len(shape) == 3 else [codes]
    x = _sum(
        [
            embedding(f"codes_{s}", vocabulary_size, filters)(c)
            for s, c in enumerate(split)
        ]
    )
    x = Places(kernel("places"), name="places")(x)  # (B, h, w, p)
    v, h = x, x
    for number in range(blocks):
        v, h = block(number, v, h)
    logits = []
    for s in range(stages):
        given = [
            embedding(f"given_{s}_{t}", vocabulary_size, filters)(split[t])
            for t in range(s)
        ]
        y = layers.ReLU(name=f"head_{s}")(_sum([h, *given]))
        y = Dropout(dropout, seed=seed, stream=f"head_{s}", name=f"drop_{s}")(y)
        y = convolution(f"hidden_{s}", (1, 1), y)
        y = layers.ReLU(name=f"hidden_{s}_relu")(y)
        logits.append(convolution(f"logits_{s}", (1, 1), y, vocabulary_size))
    y = logits[0] if len(shape) == 2 else ops.stack(logits, axis=3)
    y = layers.Activation("linear", dtype=wide(), name="logits")(y)
    return keras.Model(codes if label is None else [codes, label], y, name="pixelcnn")


def _sum(parts, name=None):
    return parts[0] if len(parts) == 1 else layers.Add(name=name)(parts)
