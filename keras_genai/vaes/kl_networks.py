"""The networks of latent diffusion's first stage (2112.10752, appendix E and G).

Encoder and decoder are those of Stable Diffusion 1.x, layer for layer; the patch
discriminator is that of 1611.07004 as 2012.09841 uses it. They work at any size whose
sides the halvings divide.
"""

import keras
from keras import ops

from keras_genai.layers import (
    BatchNormalization,
    Conv2D,
    Downsample2D,
    GroupNormalization,
    LeakyReLU,
    ResNetBlock,
    SelfAttention2D,
    Upsample2D,
)
from keras_genai.layers.initializers import Normal, Streams, torch_uniform
from keras_genai.utils.serialization import PACKAGE

EPSILON = 1e-6


def _convolution(initial, name, filters, size=3):
    return Conv2D(
        filters, size, padding="same", kernel_initializer=initial(name), name=name
    )


def _resnet(initial, name, filters, groups):
    return ResNetBlock(filters, groups, EPSILON, **initial.arguments(name))


def _middle(initial, x, groups, attention):
    """Residual block, attention over all positions, residual block."""
    channels = x.shape[-1]
    x = _resnet(initial, "mid_resnet_0", channels, groups)(x)
    if attention:
        place = initial.arguments("mid_attention")
        x = SelfAttention2D(groups=groups, epsilon=EPSILON, **place)(x)
    return _resnet(initial, "mid_resnet_1", channels, groups)(x)


def _output(initial, x, filters, groups):
    x = GroupNormalization(groups, EPSILON, name="norm_out")(x)
    return _convolution(initial, "conv_out", filters)(ops.silu(x))


def kl_encoder(
    channels=3,
    latent_channels=4,
    block_channels=(128, 256, 512, 512),
    layers_per_block=2,
    groups=32,
    attention=True,
    quant_conv=True,
    seed=0,
):
    """Images to the moments of the posterior.

    Args:
        channels: of the images.
        latent_channels: L.
        block_channels: channels of each level; between two the sides are halved.
        layers_per_block: residual blocks of a level.
        groups: of the normalizations.
        attention: whether the positions attend to each other in the middle.
        quant_conv: whether a 1 x 1 convolution ends the network.
        seed: integer.

    Returns:
        `keras.Model`, `(B, H, W, C)` -> `(B, h, w, 2L)`: means, then logarithms of
        the variances, which `DiagonalGaussian` clips.
    """
    initial = Streams("encoder", seed, torch_uniform)
    images = keras.Input((None, None, channels), name="images")
    x = _convolution(initial, "conv_in", block_channels[0])(images)
    for level, filters in enumerate(block_channels):
        for i in range(layers_per_block):
            x = _resnet(initial, f"down_{level}_resnet_{i}", filters, groups)(x)
        if level + 1 < len(block_channels):
            place = initial.arguments(f"down_{level}_downsample")
            x = Downsample2D(**place)(x)  # (B, h/2, w/2, f)
    x = _middle(initial, x, groups, attention)
    moments = _output(initial, x, 2 * latent_channels, groups)  # (B, h, w, 2L)
    if quant_conv:
        moments = _convolution(initial, "quant_conv", 2 * latent_channels, 1)(moments)
    return keras.Model(images, moments, name="encoder")


def kl_decoder(
    channels=3,
    latent_channels=4,
    block_channels=(128, 256, 512, 512),
    layers_per_block=2,
    groups=32,
    attention=True,
    quant_conv=True,
    seed=0,
):
    """Latents to images: the encoder's levels from the last to the first.

    Args:
        channels, latent_channels, block_channels, groups, attention, seed: see
            `kl_encoder`.
        layers_per_block: those of the encoder; the decoder has one more a level.
        quant_conv: whether a 1 x 1 convolution begins the network.

    Returns:
        `keras.Model`, `(B, h, w, L)` -> `(B, H, W, C)`.
    """
    initial = Streams("decoder", seed, torch_uniform)
    latents = x = keras.Input((None, None, latent_channels), name="latents")
    if quant_conv:
        x = _convolution(initial, "post_quant_conv", latent_channels, 1)(x)
    x = _convolution(initial, "conv_in", block_channels[-1])(x)
    x = _middle(initial, x, groups, attention)
    for level, filters in enumerate(reversed(block_channels)):
        for i in range(layers_per_block + 1):
            x = _resnet(initial, f"up_{level}_resnet_{i}", filters, groups)(x)
        if level + 1 < len(block_channels):
            place = initial.arguments(f"up_{level}_upsample")
            x = Upsample2D(**place)(x)  # (B, 2h, 2w, f)
    images = _output(initial, x, channels, groups)
    return keras.Model(latents, images, name="decoder")


def patch_discriminator(channels=3, base_filters=64, layers=3, seed=0):
    """A logit for every patch of an image (1611.07004, section 6.1.2).

    4 x 4 convolutions, `layers` of stride 2 and two of stride 1, batch normalization
    but in the first and the last, LeakyReLU(0.2), weights from N(0, 0.02), gains from
    N(1, 0.02). Three strided layers see patches of 70 x 70.

    Args:
        channels: of the images.
        base_filters: of the first layer; they double with each, up to eightfold.
        layers: number of strided layers.
        seed: integer.

    Returns:
        `keras.Model`, `(B, H, W, C)` -> `(B, h, w, 1)`.
    """

    def convolution(name, x, filters, strides, use_bias):
        return Conv2D(
            filters,
            4,
            strides=strides,
            padding=1,
            use_bias=use_bias,
            kernel_initializer=Normal(0.02, seed=seed, stream=f"discriminator/{name}"),
            name=name,
        )(x)

    images = x = keras.Input((None, None, channels), name="images")
    for i in range(layers + 1):
        filters = base_filters * min(2**i, 8)
        x = convolution(f"conv_{i}", x, filters, 2 if i < layers else 1, i == 0)
        if i:
            stream = f"discriminator/norm_{i}"
            gamma = Normal(0.02, mean=1.0, seed=seed, stream=stream)
            x = BatchNormalization(gamma_initializer=gamma, name=f"norm_{i}")(x)
        x = LeakyReLU(0.2)(x)
    logits = convolution("judge", x, 1, 1, True)
    return keras.Model(images, logits, name="discriminator")


@keras.saving.register_keras_serializable(PACKAGE)
class LogVariance(keras.layers.Layer):
    """The logarithm of the variance of the reconstruction's noise, a scalar weight.

    Args:
        initial: its first value.
        learned: whether it trains.
    """

    def __init__(self, initial=0.0, learned=False, **kwargs):
        super().__init__(**kwargs)
        self.value = self.add_weight(
            name="value",
            shape=(),
            initializer=keras.initializers.Constant(initial),
            trainable=learned,
            autocast=False,
        )
        self.built = True
