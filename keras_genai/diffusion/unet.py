"""The U-Net of diffusion models: DDPM's (2006.11239) and Stable Diffusion's.

One network, whose arguments make that of 2006.11239 (appendix B) and those of latent
diffusion (2112.10752, appendix E.2.1), weight for weight with their published files.
"""

import keras
import numpy as np
from keras import ops

from keras_genai.backend import random
from keras_genai.backend.precision import wide
from keras_genai.layers import (
    Conv2D,
    CrossAttention2D,
    Downsample2D,
    Embedding,
    GroupNormalization,
    ResNetBlock,
    SelfAttention2D,
    TimeEmbedding,
    Upsample2D,
)
from keras_genai.layers.initializers import Normal, Streams, Zeros, torch_uniform
from keras_genai.utils.arguments import checked
from keras_genai.utils.serialization import PACKAGE, Saving, configuration, deserialized
from keras_genai.utils.validation import (
    either,
    flag,
    image_shape,
    integer,
    integers,
    number,
    one_of,
    tuple_of,
)
from keras_genai.weights.pretrained import Pretrained


@keras.saving.register_keras_serializable(PACKAGE)
class UNet(Pretrained, Saving, keras.Model):
    """The network of a diffusion model for images, `unet(x, t)`.

    Levels of residual blocks, the sides halved between two of them; a middle; the
    levels again in reverse, the sides doubled, each block given the output of its
    counterpart on the way down. The embedded time is added in every residual block,
    and the embedded label or vector to it. With `context_dim`, attention is a
    transformer block that attends to a context, such as a text's features.

    Called as `unet(x, t, labels=None, context=None, vector=None)`:

    - `x`: `(B, H, W, C)`, H and W divisible by `2 ** (len(block_channels) - 1)`; they
      need not be those of `image_shape`.
    - `t`: times, a number or `(B,)`, integers or floats.
    - `labels`: integers `(B,)`, if there are `num_classes`.
    - `context`: `(B, S, context_dim)`, if that is given.
    - `vector`: `(B, vector_dim)`, if that is given.
    - returns `(B, H, W, out_channels)`, never in half precision.

    The default arguments make DDPM's network for CIFAR-10 (`google/ddpm-cifar10-32`).
    The last kernel of every block begins at zero, as there, and so does the network.

    Published weights (`from_pretrained`, `save_pretrained`): diffusers' `UNet2DModel`,
    or `UNet2DConditionModel` where there is a context; `subfolder="unet"` of a Stable
    Diffusion pipeline. A table of N labels is read as `num_classes=N` without a null
    class, unless this package wrote it; give `num_classes=N - 1, null_class=True` where
    its last row stands for "no label".

    Args:
        image_shape: `(H, W, C)` of the images that it is made for; sides may be None.
        out_channels: channels of the output, by default C; 2C for a learned variance.
        block_channels: channels of each level.
        layers_per_block: residual blocks of a level on the way down; on the way up
            there is one more.
        attention: for each level, whether attention follows every residual block.
        mid_attention: whether it does between the two in the middle.
        num_heads: number of heads of the attention, or a tuple of one for each level,
            the last the middle's as well; by default 1. (In a `UNet2DConditionModel`'s
            `config.json` this number is called `attention_head_dim`: 8 means 8 heads.)
        head_dim: instead, the channels of a head, whose number then follows from
            each level's channels.
        groups: of the group normalizations; it must divide every number of channels.
        epsilon: of those of the residual blocks (and of attention without a context).
        dropout: rate in every residual block, in [0, 1).
        num_classes: K of the labels, or None.
        null_class: whether K stands for "no label": the table has K + 1 rows.
        context_dim: D of a context, or None.
        vector_dim: V of a continuous condition, or None.
        transformer_layers: with a context, transformer blocks that follow a residual
            block; an integer or one for each level.
        linear_projection: whether the projections around them are stored as matrices
            (Stable Diffusion 2) or as 1 x 1 convolutions (1); the numbers are the same.
        upcast_attention: whether their attention's scores are computed in float32 under
            mixed precision too (Stable Diffusion 2.1).
        time_scale_shift: whether the embedding scales the normalised features as well
            as shifting them (2102.09672, section 3.1).
        downsample_padding: `"after"` (DDPM) or `"before"` (Stable Diffusion), see
            `layers.Downsample2D`.
        flip_sin_to_cos, freq_shift: of the embedded time, see
            `layers.sinusoidal_embedding`; True and 0 in Stable Diffusion.
        seed: integer >= 0: initial weights and dropout follow from it.

    Raises:
        ValueError: for an argument out of range; when called, for sides that the
            halvings do not divide, and for a condition missing or not expected.

    Example:

    ```python
    unet = kg.UNet((28, 28, 1), block_channels=(32, 64, 64), groups=8,
                   attention=(False, False, True), num_classes=10)
    noise = unet(x, t, labels)                             # (B, 28, 28, 1)
    unet = kg.UNet.from_pretrained("sd-v1-5", subfolder="unet")
    noise = unet(latents, t, context=text)                 # (B, 64, 64, 4)
    ```
    """

    weights_module = "unet"

    @checked(
        image_shape=image_shape(free_sides=True),
        block_channels=integers(),
        attention=either(flag, tuple_of(flag, least=0)),
        num_heads=either(integer(1), integers()),
        transformer_layers=either(integer(1, 100), tuple_of(integer(1, 100))),
        downsample_padding=one_of("after", "before"),
        freq_shift=number(),
    )
    def __init__(
        self,
        image_shape=(32, 32, 3),
        *,
        out_channels=None,
        block_channels=(128, 256, 256, 256),
        layers_per_block=2,
        attention=(False, True, False, False),
        mid_attention=True,
        num_heads=None,
        head_dim=None,
        groups=32,
        epsilon=1e-6,
        dropout=0.0,
        num_classes=None,
        null_class=True,
        context_dim=None,
        vector_dim=None,
        transformer_layers=1,
        linear_projection=False,
        upcast_attention=False,
        time_scale_shift=False,
        downsample_padding="after",
        flip_sin_to_cos=False,
        freq_shift=1.0,
        seed=0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.autocast = False  # a time of 999 is 1000 in half precision
        self.seed = random.check_seed(seed)
        arguments = {
            "image_shape": tuple(image_shape),
            "out_channels": out_channels,
            "block_channels": tuple(block_channels),
            "layers_per_block": layers_per_block,
            "attention": _each(attention, len(block_channels)),
            "mid_attention": mid_attention,
            "num_heads": num_heads
            if num_heads is None or _whole(num_heads)
            else tuple(num_heads),
            "head_dim": head_dim,
            "groups": groups,
            "epsilon": epsilon,
            "dropout": dropout,
            "num_classes": num_classes,
            "null_class": null_class,
            "context_dim": context_dim,
            "vector_dim": vector_dim,
            "transformer_layers": transformer_layers
            if _whole(transformer_layers)
            else tuple(transformer_layers),
            "linear_projection": linear_projection,
            "upcast_attention": upcast_attention,
            "time_scale_shift": time_scale_shift,
            "downsample_padding": downsample_padding,
            "flip_sin_to_cos": flip_sin_to_cos,
            "freq_shift": freq_shift,
        }
        for argument, value in arguments.items():
            setattr(self, argument, value)
        self._arguments = tuple(arguments)
        self._check_arguments()
        self._make_layers()
        self.built = True

    def _check_arguments(self):
        shape = self.image_shape
        if self.out_channels is None:
            self.out_channels = shape[2]
        levels = len(self.block_channels)
        for name in ("attention", "num_heads", "transformer_layers"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != levels:
                raise ValueError(
                    f"{name} must have one entry for each of the {levels} levels of "
                    f"block_channels; got {value!r}."
                )
        for channels in self.block_channels:
            if channels % self.groups:
                raise ValueError(
                    f"groups must divide every number of block_channels; {self.groups} "
                    f"does not divide {channels}."
                )
        self._check_sides(shape[:2], "image_shape")
        if self.num_heads is not None and self.head_dim is not None:
            raise ValueError("Give num_heads or head_dim, not both.")
        attended = {level for level in range(levels) if self.attention[level]}
        for level in attended | ({levels - 1} if self.mid_attention else set()):
            channels = self.block_channels[level]
            if channels % (self.head_dim or self.heads_of(level)):
                raise ValueError(
                    "num_heads or head_dim must divide the channels of each level "
                    f"with attention; {self.head_dim or self.heads_of(level)} "
                    f"does not divide {channels}."
                )

    def heads_of(self, level):
        """The number of heads of a level's attention."""
        if self.head_dim is not None:
            return self.block_channels[level] // self.head_dim
        num_heads = 1 if self.num_heads is None else self.num_heads
        return num_heads[level] if isinstance(num_heads, tuple) else num_heads

    # Its layers, built before the first call

    def _make_layers(self):
        """Makes every layer, an attribute of its own name, and the stages of the call.

        Stages are tuples of layers that follow each other. `_down` is a list of those
        whose outputs are kept, `_middle` one stage, and `_up` a list of those that are
        given the last output kept beside that of the stage before.
        """
        width, levels = self.block_channels, len(self.block_channels)
        initial = Streams("unet", self.seed, torch_uniform)
        units = 4 * width[0]  # of the embedding
        self._make_embeddings(initial, units)
        self._make(
            Conv2D,
            [(None, None, None, self.image_shape[-1])],
            name="conv_in",
            filters=width[0],
            kernel_size=3,
            padding="same",
            kernel_initializer=initial("conv_in"),
        )

        def resnet(name, channels, filters):
            return self._make(
                ResNetBlock,
                [(None, None, None, channels), (None, units)],
                filters=filters,
                groups=self.groups,
                epsilon=self.epsilon,
                dropout=self.dropout,
                scale_shift=self.time_scale_shift,
                zero_out=True,
                **initial.arguments(name),
            )

        def stage(side, i, level, channels):
            """A residual block, and attention where the level has it."""
            layers = [resnet(f"{side}_resnet_{i}", channels, width[level])]
            if self.attention[level]:
                name = f"{side}_attention_{i}"
                layers.append(self._make_attention(initial, name, level))
            return tuple(layers)

        def resampling(kind, name, channels, **kwargs):
            shapes = [(None, None, None, channels)]
            return self._make(kind, shapes, **kwargs, **initial.arguments(name))

        down, kept, channels = [], [width[0]], width[0]
        for level, filters in enumerate(width):
            for i in range(self.layers_per_block):
                down.append(stage(f"down_{level}", i, level, channels))
                channels = filters
                kept.append(channels)
            if level + 1 < levels:
                name, padding = f"down_{level}_downsample", self.downsample_padding
                down.append(
                    (resampling(Downsample2D, name, channels, padding=padding),)
                )
                kept.append(channels)
        middle = [resnet("middle_resnet_0", channels, channels)]
        if self.mid_attention:
            name = "middle_attention"
            middle.append(self._make_attention(initial, name, levels - 1))
        middle.append(resnet("middle_resnet_1", channels, channels))
        up = []
        for n, level in enumerate(reversed(range(levels))):
            for i in range(self.layers_per_block + 1):
                layers = stage(f"up_{n}", i, level, channels + kept.pop())
                channels = width[level]
                if level and i == self.layers_per_block:
                    name = f"up_{n}_upsample"
                    layers = (*layers, resampling(Upsample2D, name, channels))
                up.append(layers)
        shapes = [(None, None, None, channels)]
        self._make(
            GroupNormalization,
            shapes,
            name="norm_out",
            groups=self.groups,
            epsilon=self.epsilon,
        )
        self._make(
            Conv2D,
            shapes,
            name="conv_out",
            filters=self.out_channels,
            kernel_size=3,
            padding="same",
            kernel_initializer=Zeros(),
        )
        # The stages are not tracked: each of their layers is an attribute by its name.
        self.__dict__.update(_down=down, _middle=tuple(middle), _up=up)

    def _make(self, kind, shapes, name, **kwargs):
        """A layer, built for inputs of those shapes, as the attribute of its name."""
        layer = kind(**kwargs, name=name, dtype=self.dtype_policy)
        layer.build(*shapes)
        setattr(self, name, layer)
        return layer

    def _make_embeddings(self, initial, units):
        """Of the time, and of the label and the vector where there are such."""
        self._make(
            TimeEmbedding,
            [(None,)],
            units=units,
            dim=self.block_channels[0],
            flip_sin_to_cos=self.flip_sin_to_cos,
            freq_shift=self.freq_shift,
            **initial.arguments("time_embedding"),
        )
        if self.num_classes is not None:
            normal = Normal(1.0, seed=self.seed, stream="unet/class_embedding")
            self._make(
                Embedding,
                [(None,)],
                name="class_embedding",
                input_dim=self.num_classes + self.null_class,
                output_dim=units,
                embeddings_initializer=normal,
                what="Labels",
            )
        if self.vector_dim is not None:
            inputs = {"vector_dense1": self.vector_dim, "vector_dense2": units}
            for name, channels in inputs.items():
                self._make(
                    keras.layers.Dense,
                    [(None, channels)],
                    name=name,
                    units=units,
                    kernel_initializer=initial(name),
                )

    def _make_attention(self, initial, name, level):
        """Of a level: to the positions, and to the context where there is one."""
        shapes = [(None, None, None, self.block_channels[level])]
        arguments = {
            "num_heads": self.heads_of(level),
            "groups": self.groups,
            "zero_out": True,
            **initial.arguments(name),
        }
        if self.context_dim is None:
            arguments["epsilon"] = self.epsilon
            return self._make(SelfAttention2D, shapes, **arguments)
        layers = self.transformer_layers
        return self._make(
            CrossAttention2D,
            [*shapes, (None, None, self.context_dim)],
            num_layers=layers[level] if isinstance(layers, tuple) else layers,
            upcast_attention=self.upcast_attention,
            **arguments,
        )

    # The call

    def __call__(self, x, t, *args, **kwargs):
        # Keras takes tensors alone for positional arguments; a time may be a number.
        if isinstance(t, (int, float)):
            t = np.asarray(t, "float32")
        return super().__call__(x, t, *args, **kwargs)

    def call(self, x, t, labels=None, context=None, vector=None, training=False):
        self._check_call(x, t, labels, context, vector)

        def run(stage, x):
            for layer in stage:
                if isinstance(layer, ResNetBlock):
                    x = layer(x, embedding, training=training)
                elif isinstance(layer, CrossAttention2D):
                    x = layer(x, context)
                else:
                    x = layer(x)
            return x

        embedding = self._embedding(t, labels, vector)  # (B, 4 c_0)
        x = self.conv_in(ops.cast(x, self.compute_dtype))  # (B, H, W, c_0)
        skips = [x]
        for stage in self._down:
            x = run(stage, x)  # (B, h, w, c), the sides halved at a level's end
            skips.append(x)
        x = run(self._middle, x)
        for stage in self._up:
            x = ops.concatenate([x, skips.pop()], axis=-1)
            x = run(stage, x)  # the sides doubled at a level's end
        y = self.conv_out(ops.silu(self.norm_out(x)))  # (B, H, W, out_channels)
        return ops.cast(y, wide())

    def _embedding(self, t, labels, vector):
        """Of the time, plus those of the label and of the vector: `(B, 4 c_0)`."""
        # One time for all is embedded once, (1, 4 c_0), and broadcast.
        embedding = self.time_embedding(ops.reshape(t, (-1,)))
        if labels is not None:
            embedding = embedding + self.class_embedding(ops.reshape(labels, (-1,)))
        if vector is not None:
            hidden = ops.silu(self.vector_dense1(vector))
            embedding = embedding + self.vector_dense2(hidden)
        return embedding

    def compute_output_spec(
        self, x, t, labels=None, context=None, vector=None, training=False
    ):
        self._check_call(x, t, labels, context, vector)
        return keras.KerasTensor((*x.shape[:-1], self.out_channels), wide())

    def _check_sides(self, sides, name):
        factor = 2 ** (len(self.block_channels) - 1)
        if any(isinstance(side, int) and side % factor for side in sides):
            raise ValueError(
                f"{name} must have sides divisible by {factor}, since the network "
                f"halves them {len(self.block_channels) - 1} times; got "
                f"{tuple(sides)}. Crop or pad the images."
            )

    def _check_batch(self, x, name, value):
        images, others = x.shape[0], (*value.shape, 1)[0]
        if isinstance(images, int) and isinstance(others, int) and images != others:
            raise ValueError(
                f"{name} must have one entry for each of the {images} images; got the "
                f"shape {tuple(value.shape)}."
            )

    def _check_call(self, x, t, labels, context, vector):
        """Refuses what the network does not fit, before it runs."""
        channels = self.image_shape[-1]
        if len(x.shape) != 4 or x.shape[-1] != channels:
            raise ValueError(
                f"x must have the shape (B, H, W, {channels}), channels last; got "
                f"{tuple(x.shape)}."
            )
        self._check_sides(tuple(x.shape)[1:3], "x")
        if len(t.shape) > 1:
            raise ValueError(
                f"t must be a number or have the shape (B,); got {tuple(t.shape)}."
            )
        if tuple(t.shape) not in ((), (1,)):
            self._check_batch(x, "t", t)
        for name, value, size, shape in (
            ("labels", labels, self.num_classes, "(B,), integers"),
            ("context", context, self.context_dim, f"(B, S, {self.context_dim})"),
            ("vector", vector, self.vector_dim, f"(B, {self.vector_dim})"),
        ):
            argument = {"labels": "num_classes"}.get(name, f"{name}_dim")
            if value is None and size is not None:
                none = self.null_class and name == "labels"
                raise ValueError(
                    f"This UNet has {argument}={size}: call unet(x, t, {name}={name}) "
                    f"with {name} {shape}"
                    + (f", {size} for no label." if none else ".")
                )
            if value is not None and size is None:
                raise ValueError(
                    f"This UNet takes no {name} ({argument} is None), but was given "
                    "some."
                )
            if value is None:
                continue
            if name == "labels":
                kind = keras.backend.standardize_dtype(value.dtype)
                if "int" not in kind or tuple(value.shape[1:]) not in ((), (1,)):
                    raise ValueError(
                        f"labels must be integers (B,); got {tuple(value.shape)} of "
                        f"the type {kind}."
                    )
            elif len(value.shape) != shape.count(",") + 1 or value.shape[-1] != size:
                raise ValueError(
                    f"{name} must have the shape {shape}; got {tuple(value.shape)}."
                )
            self._check_batch(x, name, value)

    # Configuration and weights

    def get_config(self):
        return configuration(self, self._arguments)

    @classmethod
    def from_config(cls, config):
        return cls(**deserialized(config))


def _whole(value):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _each(value, levels):
    return (value,) * levels if isinstance(value, bool) else tuple(value)
