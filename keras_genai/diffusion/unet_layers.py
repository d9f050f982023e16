"""The layers of a `UNet`, made and built before its first call."""

import keras

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
from keras_genai.layers.image_blocks import torch_uniform
from keras_genai.layers.initializers import Normal, Zeros


def make_layers(unet):
    """Gives a network its layers, each the attribute of its own name.

    Args:
        unet: a `UNet` whose arguments are attributes.

    Returns:
        Dict of the stages, tuples of layers that follow each other: `_down`, a list, of
        which every output is kept; `_middle`, one stage; `_up`, a list, each stage
        given the last output kept beside that of the one before.
    """
    make = _Maker(unet)
    width, levels = unet.block_channels, len(unet.block_channels)
    make.embeddings()
    make.convolution("conv_in", unet.image_shape[-1], width[0])
    down, kept, channels = [], [width[0]], width[0]
    for level, filters in enumerate(width):
        for i in range(unet.layers_per_block):
            down.append(make.stage(f"down_{level}", i, level, channels))
            channels = filters
            kept.append(channels)
        if level + 1 < levels:
            down.append((make.downsample(f"down_{level}_downsample", channels),))
            kept.append(channels)
    middle = [make.resnet("middle_resnet_0", channels, channels)]
    if unet.mid_attention:
        middle.append(make.attention("middle_attention", levels - 1))
    middle.append(make.resnet("middle_resnet_1", channels, channels))
    up = []
    for place, level in enumerate(reversed(range(levels))):
        for i in range(unet.layers_per_block + 1):
            stage = make.stage(f"up_{place}", i, level, channels + kept.pop())
            channels = width[level]
            if level and i == unet.layers_per_block:
                stage = (*stage, make.upsample(f"up_{place}_upsample", channels))
            up.append(stage)
    make.norm("norm_out", channels)
    make.convolution("conv_out", channels, unet.out_channels, zero=True)
    return {"_down": down, "_middle": tuple(middle), "_up": up}


class _Maker:
    """Makes the layers of one network: every one's name is its stream as well."""

    def __init__(self, unet):
        self.unet = unet
        self.units = 4 * unet.block_channels[0]  # of the embedding

    def _add(self, kind, name, shapes, **kwargs):
        """A layer of those arguments, built, as an attribute of the network."""
        layer = kind(**kwargs, name=name, dtype=self.unet.dtype_policy)
        layer.build(*shapes)
        setattr(self.unet, name, layer)
        return layer

    def _block(self, kind, name, shapes, **kwargs):
        place = {"seed": self.unet.seed, "stream": f"unet/{name}"}
        return self._add(kind, name, shapes, **kwargs, **place)

    def _initial(self, name):
        return torch_uniform(self.unet.seed, f"unet/{name}")

    def embeddings(self):
        """Of the time, and of the label and the vector where there are such."""
        unet, units = self.unet, self.units
        self._block(
            TimeEmbedding,
            "time_embedding",
            [(None,)],
            units=units,
            dim=unet.block_channels[0],
            cosine_first=unet.cosine_first,
            frequency_shift=unet.frequency_shift,
        )
        if unet.num_classes is not None:
            name = "class_embedding"
            initial = Normal(1.0, seed=unet.seed, stream=f"unet/{name}")
            self._add(
                Embedding,
                name,
                [(None,)],
                input_dim=unet.num_classes + unet.null_class,
                output_dim=units,
                embeddings_initializer=initial,
                what="Labels",
            )
        if unet.vector_dim is not None:
            self._dense("vector_dense1", unet.vector_dim)
            self._dense("vector_dense2", units)

    def _dense(self, name, inputs):
        kernel = {"kernel_initializer": self._initial(name)}
        self._add(
            keras.layers.Dense, name, [(None, inputs)], units=self.units, **kernel
        )

    def convolution(self, name, channels, filters, zero=False):
        self._add(
            Conv2D,
            name,
            [(None, None, None, channels)],
            filters=filters,
            kernel_size=3,
            padding="same",
            kernel_initializer=Zeros() if zero else self._initial(name),
        )

    def norm(self, name, channels):
        how = {"groups": self.unet.groups, "epsilon": self.unet.epsilon}
        self._add(GroupNormalization, name, [(None, None, None, channels)], **how)

    def resnet(self, name, channels, filters):
        unet = self.unet
        return self._block(
            ResNetBlock,
            name,
            [(None, None, None, channels), (None, self.units)],
            filters=filters,
            groups=unet.groups,
            epsilon=unet.epsilon,
            dropout=unet.dropout,
            scale_shift=unet.time_scale_shift,
            zero_out=True,
        )

    def attention(self, name, level):
        unet = self.unet
        shapes = [(None, None, None, unet.block_channels[level])]
        how = {
            "heads": unet.heads_of(level),
            "groups": unet.groups,
            "zero_out": True,
        }
        if unet.context_dim is None:
            how["epsilon"] = unet.epsilon
            return self._block(SelfAttention2D, name, shapes, **how)
        depth = unet.transformer_layers
        how["depth"] = depth[level] if isinstance(depth, tuple) else depth
        how["wide_scores"] = unet.wide_scores
        shapes.append((None, None, unet.context_dim))
        return self._block(CrossAttention2D, name, shapes, **how)

    def stage(self, place, i, level, channels):
        """A residual block, and attention where the level has it."""
        filters = self.unet.block_channels[level]
        stage = [self.resnet(f"{place}_resnet_{i}", channels, filters)]
        if self.unet.attention[level]:
            stage.append(self.attention(f"{place}_attention_{i}", level))
        return tuple(stage)

    def downsample(self, name, channels):
        padding = self.unet.downsample_padding
        shapes = [(None, None, None, channels)]
        return self._block(Downsample2D, name, shapes, padding=padding)

    def upsample(self, name, channels):
        return self._block(Upsample2D, name, [(None, None, None, channels)])
