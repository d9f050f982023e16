"""The default parts of `VQVAE`: quantizers, the paper's networks, DALL-E's networks.

The networks halve the sides of the images `num_downsamples` times and make them whole
again.
"""

import keras
from keras import layers

from keras_genai.backend.precision import wide
from keras_genai.layers import (
    Conv2D,
    Conv2DTranspose,
    FiniteScalarQuantizer,
    GumbelQuantizer,
    ResidualVectorQuantizer,
    VectorQuantizer,
)
from keras_genai.layers.initializers import Streams
from keras_genai.layers.quantizers import LEVELS, Quantizer
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import integer, integers


@checked()
def vqvae_encoder(
    image_shape,
    channels,
    filters=256,
    residual_filters=None,
    num_downsamples=2,
    blocks=2,
    seed=0,
):
    """The encoder of 1711.00937, section 4.1.

    Strided 4 x 4 convolutions, then residual blocks (ReLU, 3 x 3, ReLU, 1 x 1), then
    a 1 x 1 convolution to the size of a latent.

    Args:
        image_shape: `(H, W, C)`.
        channels: of the latents.
        filters: channels of every layer.
        residual_filters: channels between the two convolutions of a residual block;
            by default `filters`, as in the paper.
        num_downsamples: strided convolutions.
        blocks: residual blocks.
        seed: integer.

    Returns:
        `keras.Model`, `(B, H, W, C)` -> `(B, h, w, channels)`.
    """
    initial = Streams("encoder", seed)
    x = images = keras.Input(image_shape, name="images")
    for stage in range(num_downsamples):
        x = _strided(initial, f"down_{stage}", filters)(x)  # (B, H / 2, W / 2, filters)
        if stage + 1 < num_downsamples:
            x = layers.ReLU(name=f"down_{stage}_relu")(x)
    for block in range(blocks):
        x = _residual(initial, block, x, residual_filters or filters)
    x = layers.ReLU(name="features")(x)
    x = _convolution(initial, "to_latents", channels, 1)(x)
    latents = layers.Activation("linear", dtype=wide(), name="latents")(x)
    return keras.Model(images, latents, name="encoder")


@checked(code_shape=integers(), channels=integer(1))
def vqvae_decoder(
    code_shape,
    channels,
    filters=256,
    residual_filters=None,
    num_downsamples=2,
    blocks=2,
    seed=0,
):
    """The decoder of 1711.00937, section 4.1: the encoder's mirror image.

    Args:
        code_shape: `(h, w, latent_dim)`.
        channels: of its output.
        filters, residual_filters, num_downsamples, blocks, seed: see `vqvae_encoder`.

    Returns:
        `keras.Model`, `(B, h, w, latent_dim)` -> `(B, H, W, channels)`.
    """
    initial = Streams("decoder", seed)
    codes = keras.Input(code_shape, name="codes")
    x = _convolution(initial, "from_codes", filters, 3)(codes)
    for block in range(blocks):
        x = _residual(initial, block, x, residual_filters or filters)
    x = layers.ReLU(name="features")(x)
    for stage in range(num_downsamples):
        last = stage + 1 == num_downsamples
        width = channels if last else filters
        layer = _strided(initial, f"up_{stage}", width, transposed=True)
        x = layer(x)  # (B, 2h, 2w, width)
        if not last:
            x = layers.ReLU(name=f"up_{stage}_relu")(x)
    output = layers.Activation("linear", dtype=wide(), name="output")(x)
    return keras.Model(codes, output, name="decoder")


@checked(channels=integer(1))
def dvae_encoder(
    image_shape, channels, filters=256, num_downsamples=3, blocks=2, seed=0
):
    """The encoder of DALL-E's dVAE (2102.12092, appendix A.2 and its code).

    A 7 x 7 convolution; groups of bottleneck blocks, whose width doubles from group to
    group, with max-pooling between them; a 1 x 1 convolution to the logits.

    Args:
        image_shape: `(H, W, C)`.
        channels: number of codes.
        filters: width of the first group.
        num_downsamples: poolings, one fewer than groups (the paper: 3).
        blocks: blocks in a group.
        seed: integer.

    Returns:
        `keras.Model`, `(B, H, W, C)` -> logits `(B, h, w, channels)`.
    """
    initial = Streams("encoder", seed)
    images = keras.Input(image_shape, name="images")
    x = _convolution(initial, "from_images", filters, 7)(images)
    total = (num_downsamples + 1) * blocks
    for group in range(num_downsamples + 1):
        for block in range(blocks):
            x = _bottleneck(initial, f"{group}_{block}", x, filters * 2**group, total)
        if group < num_downsamples:
            x = layers.MaxPooling2D(2, name=f"pool_{group}")(x)
    x = layers.ReLU(name="features")(x)
    x = _convolution(initial, "to_latents", channels, 1)(x)
    latents = layers.Activation("linear", dtype=wide(), name="latents")(x)
    return keras.Model(images, latents, name="encoder")


@checked(code_shape=integers(), channels=integer(1))
def dvae_decoder(
    code_shape, channels, filters=256, num_downsamples=3, blocks=2, seed=0
):
    """The decoder of DALL-E's dVAE, with upsampling to the nearest pixel.

    Args:
        code_shape: `(h, w, latent_dim)`: the mean vector of the codes, which is the
            paper's first 1 x 1 convolution of them.
        channels: of its output.
        filters, num_downsamples, blocks, seed: see `dvae_encoder`.

    Returns:
        `keras.Model`, `(B, h, w, latent_dim)` -> `(B, H, W, channels)`.
    """
    initial = Streams("decoder", seed)
    x = codes = keras.Input(code_shape, name="codes")
    total = (num_downsamples + 1) * blocks
    for group in range(num_downsamples, -1, -1):
        for block in range(blocks):
            x = _bottleneck(initial, f"{group}_{block}", x, filters * 2**group, total)
        if group:
            x = layers.UpSampling2D(2, name=f"up_{group}")(x)
    x = layers.ReLU(name="features")(x)
    x = _convolution(initial, "to_output", channels, 1)(x)
    output = layers.Activation("linear", dtype=wide(), name="output")(x)
    return keras.Model(codes, output, name="decoder")


QUANTIZERS = ("vector", "residual", "finite_scalar", "gumbel")


def make_quantizer(quantizer, codebook_size, latent_dim, seed):
    if isinstance(quantizer, Quantizer):
        return quantizer
    if quantizer not in QUANTIZERS:
        raise ValueError(
            f"quantizer must be one of {', '.join(QUANTIZERS)}, or a layer of "
            "kg.layers such as kg.layers.VectorQuantizer(512, 64); got "
            f"{quantizer!r}."
        )
    if quantizer == "finite_scalar":
        if codebook_size not in LEVELS:
            raise ValueError(
                "quantizer='finite_scalar' has levels for a codebook_size of "
                f"{', '.join(map(str, LEVELS))}; got {codebook_size}. For others give "
                "kg.layers.FiniteScalarQuantizer(levels)."
            )
        return FiniteScalarQuantizer(LEVELS[codebook_size], name="quantizer")
    kind = {
        "vector": VectorQuantizer,
        "residual": ResidualVectorQuantizer,
        "gumbel": GumbelQuantizer,
    }[quantizer]
    return kind(codebook_size, latent_dim, seed=seed, name="quantizer")


def _convolution(initial, name, filters, size):
    return Conv2D(
        filters, size, padding="same", kernel_initializer=initial(name), name=name
    )


def _strided(initial, name, filters, transposed=False):
    kind = Conv2DTranspose if transposed else Conv2D
    return kind(
        filters,
        4,
        strides=2,
        padding="same",
        kernel_initializer=initial(name),
        name=name,
    )


def _residual(initial, block, x, filters):
    """ReLU, 3 x 3, ReLU, 1 x 1, and the input added."""
    name = f"block_{block}"
    y = layers.ReLU(name=f"{name}_relu_1")(x)
    y = _convolution(initial, f"{name}_1", filters, 3)(y)
    y = layers.ReLU(name=f"{name}_relu_2")(y)
    y = _convolution(initial, f"{name}_2", x.shape[-1], 1)(y)
    return layers.Add(name=name)([x, y])


def _bottleneck(initial, block, x, width, total):
    """Three 3 x 3 convolutions at a quarter of the width, and one back to it.

    What is added is scaled by 1 / total^2, `total` blocks being in the network.
    """
    name, y = f"block_{block}", x
    for number in range(3):
        y = layers.ReLU(name=f"{name}_relu_{number}")(y)
        y = _convolution(initial, f"{name}_{number}", max(1, width // 4), 3)(y)
    y = layers.ReLU(name=f"{name}_relu_3")(y)
    y = _convolution(initial, f"{name}_3", width, 1)(y)
    y = layers.Rescaling(1.0 / total**2, name=f"{name}_scale")(y)
    if x.shape[-1] != width:
        x = _convolution(initial, f"{name}_skip", width, 1)(x)
    return layers.Add(name=name)([x, y])
