"""The modified ResNet of CLIP (2103.00020, section 2.4)."""

import keras
from keras import ops

from keras_genai import backend
from keras_genai.clip.towers import levels_of
from keras_genai.layers import BatchNormalization
from keras_genai.layers.composite import CompositeLayer
from keras_genai.layers.initializers import normal_or_uniform
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_image_shape
from keras_genai.utils.serialization import PACKAGE
from keras_genai.utils.validation import integer, integers

EXPANSION = 4  # of the channels of a block behind its last convolution
REDUCTION = 32  # of the sides, by stem and stages


class _Convolutions(CompositeLayer):
    """The base of stem and block: convolutions without bias, each normalised."""

    def _normalized(self, name, inputs, filters, size, strides=1, gamma="ones"):
        """Makes `conv<name>` and `norm<name>`, built."""
        conv = self._convolution(
            f"conv{name}", filters, size, strides, padding=size // 2, use_bias=False
        )
        conv.build((None, None, None, inputs))
        norm = BatchNormalization(
            gamma_initializer=gamma, dtype=self.dtype_policy, name=f"norm{name}"
        )
        norm.build((None, None, None, filters))
        setattr(self, f"conv{name}", conv)
        setattr(self, f"norm{name}", norm)

    def _run(self, name, x, training):
        x = getattr(self, f"conv{name}")(x)
        return getattr(self, f"norm{name}")(x, training=training)


@keras.saving.register_keras_serializable(PACKAGE)
class ResNetStem(_Convolutions):
    """Three convolutions in place of one, and average in place of maximum pooling.

    `(B, H, W, C)` -> `(B, H / 4, W / 4, filters)`.

    Args:
        channels: C.
        filters: channels of the last convolution; the others have half as many.
        seed: integer, the model's.
        stream: name of its weights.
    """

    def __init__(self, channels, filters, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.filters = filters
        half = filters // 2
        self._normalized("1", channels, half, 3, 2)
        self._normalized("2", half, half, 3)
        self._normalized("3", half, filters, 3)
        self.built = True

    def call(self, x, training=False):
        for name in "123":
            x = ops.relu(self._run(name, x, training))
        return ops.average_pool(x, 2, 2, "valid")


@keras.saving.register_keras_serializable(PACKAGE)
class ResNetBottleneck(_Convolutions):
    """A block of 1512.03385 whose stride is an average pooling (1904.11486).

    `(B, H, W, C)` -> `(B, H / stride, W / stride, 4 filters)`: all convolutions have
    stride 1, and pooling behind the second, and before the shortcut's, halves.

    Args:
        channels: C.
        filters: channels inside.
        stride: 1 or 2.
        seed: integer, the model's.
        stream: name of its weights.
    """

    def __init__(self, channels, filters, stride=1, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.filters = filters
        self.stride = stride
        wide = EXPANSION * filters
        self._normalized("1", channels, filters, 1)
        self._normalized("2", filters, filters, 3)
        # The block begins as its shortcut.
        self._normalized("3", filters, wide, 1, gamma="zeros")
        self.shortcut = stride > 1 or channels != wide
        if self.shortcut:
            self._normalized("_shortcut", channels, wide, 1)
        self.built = True

    def call(self, x, training=False):
        y = ops.relu(self._run("1", x, training))
        y = ops.relu(self._run("2", y, training))
        y = self._run("3", self._pooled(y), training)
        if self.shortcut:
            x = self._run("_shortcut", self._pooled(x), training)
        return ops.relu(x + y)

    def _pooled(self, x):
        return x if self.stride == 1 else ops.average_pool(x, self.stride, self.stride)


@keras.saving.register_keras_serializable(PACKAGE)
class ResNetPooling(CompositeLayer):
    """Attention of the mean to all positions: `(B, H, W, C)` -> `(B, units)`.

    Args:
        grid: `(H, W)`.
        channels: C.
        units: channels of the vector.
        num_heads: of the attention.
        seed: integer, the model's.
        stream: name of its weights.
    """

    def __init__(self, grid, channels, units, num_heads, **kwargs):
        super().__init__(initializer=normal_or_uniform(channels**-0.5), **kwargs)
        self.grid = tuple(grid)
        self.channels = channels
        self.units = units
        self.num_heads = num_heads
        self.table = self.add_weight(
            name="table",
            shape=(1 + self.grid[0] * self.grid[1], channels),
            initializer=self._initial("table"),
        )
        self.query = self._built_dense("query", channels, channels)
        self.key = self._built_dense("key", channels, channels)
        self.value = self._built_dense("value", channels, channels)
        self.out = self._built_dense("out", channels, units)
        self.built = True

    def call(self, x):
        x = ops.reshape(x, (-1, self.grid[0] * self.grid[1], self.channels))
        x = ops.concatenate([ops.mean(x, axis=1, keepdims=True), x], axis=1)
        x = x + ops.cast(self.table, x.dtype)  # (B, 1 + H W, C)
        query, key, value = (
            ops.reshape(
                y, (-1, y.shape[1], self.num_heads, y.shape[2] // self.num_heads)
            )
            for y in (self.query(x[:, :1]), self.key(x), self.value(x))
        )
        y = backend.attention(query, key, value)  # (B, 1, N, d)
        return self.out(ops.reshape(y, (-1, self.channels)))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.units)


@keras.saving.register_keras_serializable(PACKAGE)
class ResNetTower(CompositeLayer):
    """The modified ResNet of CLIP (2103.00020, section 2.4), from images to vectors.

    A ResNet-D (1812.01187) whose strides are blurred by average pooling (1904.11486),
    and whose mean over the image is an attention to it. `clip.image_tower.trainable =
    False`, before `compile`, keeps its batch statistics as they are, too.

    Args:
        image_shape: `(H, W, C)`, sides divisible by 32.
        num_layers: blocks in each of the four stages: `(3, 4, 6, 3)` for RN50.
        filters: channels behind the stem; the last stage has 32 times as many. An even
            number.
        num_heads: of the attention, which divides `32 * filters`; by default heads of
            64 channels, as published.
        projection_dim: channels of the vector.
        seed: integer, the model's.
        stream: name of its weights.

    Raises:
        ValueError: for an argument out of range.

    Example:

    ```python
    tower = kg.clip.ResNetTower((64, 64, 3), (1, 1, 1, 1), filters=8, num_heads=4,
                                projection_dim=64)
    tower(images)                                           # (B, 64)
    ```
    """

    @checked(
        num_layers=integers(length=4),
        filters=integer(2),
        projection_dim=integer(1),
    )
    def __init__(
        self,
        image_shape=(224, 224, 3),
        num_layers=(3, 4, 6, 3),
        filters=64,
        num_heads=None,
        projection_dim=1024,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.image_shape = check_image_shape(image_shape, REDUCTION)
        self.num_layers = num_layers
        self.filters = filters
        width = REDUCTION * filters
        self.num_heads = num_heads or max(1, width // 64)
        self.projection_dim = projection_dim
        if filters % 2 or width % self.num_heads:
            raise ValueError(
                "filters must be even, and num_heads must divide 32 * filters; got "
                f"{filters} and {self.num_heads}."
            )
        self.stem = ResNetStem(self.image_shape[2], filters, **self._place("stem"))
        self.blocks = []
        channels = filters
        for stage, count in enumerate(num_layers):
            inner = filters * 2**stage
            for i in range(count):
                block = ResNetBottleneck(
                    channels,
                    inner,
                    2 if stage and not i else 1,
                    **self._place(f"stage_{stage}_block_{i}"),
                )
                self.blocks.append(block)
                channels = EXPANSION * inner
        grid = (self.image_shape[0] // REDUCTION, self.image_shape[1] // REDUCTION)
        self.pooling = ResNetPooling(
            grid, width, projection_dim, self.num_heads, **self._place("pooling")
        )
        self.built = True

    @property
    def output_dim(self):
        """Channels of the vectors."""
        return self.projection_dim

    def stages(self):
        """The blocks of each of the four stages, a list of lists."""
        ends = [sum(self.num_layers[: i + 1]) for i in range(len(self.num_layers))]
        starts = [0, *ends[:-1]]
        return [self.blocks[a:b] for a, b in zip(starts, ends, strict=True)]

    def call(self, images, training=False):
        """`(B, H, W, C)` -> `(B, projection_dim)`."""
        x = self.stem(ops.cast(images, self.compute_dtype), training=training)
        for block in self.blocks:
            x = block(x, training=training)
        return self.pooling(x)

    def levels(self):
        """The weights from the bottom up: stem, each stage, the pooling."""
        return levels_of(self, self.stages(), (self.pooling,))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.projection_dim)
