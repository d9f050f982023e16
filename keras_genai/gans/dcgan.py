"""DCGAN: deep convolutional GAN (Radford, Metz and Chintala, 1511.06434).

Section 3's rules: strided convolutions in place of pooling, batch normalization in
both networks but at the generator's output and the discriminator's input, no hidden
dense layers, ReLU in the generator with tanh at its end, LeakyReLU(0.2) in the
discriminator. Section 4's settings: weights from N(0, 0.02), Adam at 2e-4 with
beta_1 = 0.5, images in [-1, 1]. Kernels are 4 x 4, as in the authors' code.
"""

import functools

import keras

from keras_genai.backend.precision import dtype_policy, wide
from keras_genai.gans.gan import GAN
from keras_genai.layers import (
    BatchNormalization,
    ConditionalBatchNormalization,
    Conv2D,
    Conv2DTranspose,
    LeakyReLU,
    SpectralNormalization,
)
from keras_genai.layers.convolution import stages_of
from keras_genai.layers.embedding import Embedding
from keras_genai.layers.initializers import Normal, Streams, VarianceScaling
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_image_shape
from keras_genai.utils.serialization import PACKAGE
from keras_genai.utils.validation import optional, text

NORMALIZATIONS = ("batch_norm", "spectral_norm", None)
# The initializers of kernels and of the gains of normalizations: the paper's, and
# Keras's.
INITIALIZATIONS = {
    "normal": (
        functools.partial(Normal, 0.02),
        functools.partial(Normal, 0.02, 1.0),
    ),
    "glorot_uniform": (VarianceScaling, functools.partial(Normal, 0.0, 1.0)),
}


def streams(network, seed, initialization="normal"):
    """The initializers of one network, each weight's with its own stream.

    Args:
        network: `"generator"` or `"discriminator"`: part of every stream.
        seed: the model's.
        initialization: `"normal"`, the paper's N(0, 0.02) and N(1, 0.02) for gains,
            or `"glorot_uniform"`, Keras's, with gains of 1.

    Returns:
        Two `Streams`, of the kernels and of the gains.
    """
    if initialization not in INITIALIZATIONS:
        raise ValueError(
            f"initialization must be one of {tuple(INITIALIZATIONS)}; got "
            f"{initialization!r}."
        )
    kernels, gains = INITIALIZATIONS[initialization]
    return Streams(network, seed, kernels), Streams(network, seed, gains)


def batch_norm(gains, name, x, labels=None, num_classes=None):
    """Batch normalization, with labels a gain and an offset for each of them."""
    if labels is None:
        return BatchNormalization(gamma_initializer=gains(name), name=name)(x)
    return ConditionalBatchNormalization(
        num_classes, gamma_initializer=gains(name), name=name
    )(x, labels)


def embedding(kernels, name, count, size):
    """A table of labels."""
    return Embedding(
        count, size, embeddings_initializer=kernels(name), name=name, what="Labels"
    )


def convolution(kernels, name, filters, transposed=False, use_bias=True):
    """A 4 x 4 convolution that halves or, transposed, doubles the sides."""
    kind = Conv2DTranspose if transposed else Conv2D
    return kind(
        filters,
        4,
        strides=2,
        padding="same",
        use_bias=use_bias,
        kernel_initializer=kernels(name),
        name=name,
    )


def spectral(layer, seed):
    """The layer with its spectral norm held at 1."""
    return SpectralNormalization(layer, seed=seed, name=f"{layer.name}_spectral")


@checked(initialization=text)
def dcgan_generator(
    image_shape, latent_dim, base_filters=64, initialization="normal", seed=0
):
    """The generator of figure 1 for any image whose sides divide by 4.

    Args:
        image_shape: `(H, W, C)`.
        latent_dim: size of the latent vector.
        base_filters: channels before the last layer; they double with each stage
            towards the latents (64 for 64 x 64: 512, 256, 128, 64).
        initialization: `"normal"`, the paper's, or `"glorot_uniform"`.
        seed: integer.

    Returns:
        `keras.Model`, `(B, latent_dim)` -> `(B, H, W, C)` in [-1, 1].
    """
    latents = keras.Input((latent_dim,), name="latents")
    kernels, gains = streams("generator", seed, initialization)
    images = upsample(kernels, gains, latents, None, image_shape, base_filters)
    return keras.Model(latents, images, name="generator")


def upsample(kernels, gains, x, labels, image_shape, base_filters, num_classes=None):
    """From a vector to images: projection, then strided transposed convolutions."""
    stages = stages_of(image_shape)
    height, width = (side // 2**stages for side in image_shape[:2])
    filters = base_filters * 2 ** (stages - 1)

    def activate(name, x):
        x = batch_norm(gains, name, x, labels, num_classes)
        return keras.layers.ReLU()(x)

    x = keras.layers.Dense(
        height * width * filters,
        use_bias=False,
        kernel_initializer=kernels("project"),
        name="project",
    )(x)
    x = keras.layers.Reshape((height, width, filters))(x)  # (B, h, w, filters)
    x = activate("project_norm", x)
    for stage in range(1, stages):
        filters //= 2
        x = convolution(kernels, f"up_{stage}", filters, True, use_bias=False)(x)
        x = activate(f"up_{stage}_norm", x)  # (B, 2h, 2w, filters)
    x = convolution(kernels, "to_image", image_shape[-1], True)(x)  # (B, H, W, C)
    return keras.layers.Activation("tanh", dtype=wide(), name="images")(x)


@checked(normalization=optional(text), initialization=text)
def dcgan_discriminator(
    image_shape,
    base_filters=64,
    normalization="batch_norm",
    initialization="normal",
    seed=0,
):
    """The discriminator: strided convolutions to one logit.

    Args:
        image_shape: `(H, W, C)`.
        base_filters: channels of the first layer; they double with each stage.
        normalization: `"batch_norm"` (the paper), `"spectral_norm"` (1802.05957) or
            None.
        initialization: `"normal"`, the paper's, or `"glorot_uniform"`.
        seed: integer.

    Returns:
        `keras.Model`, `(B, H, W, C)` -> `(B, 1)`.
    """
    images = keras.Input(image_shape, name="images")
    kernels, gains = streams("discriminator", seed, initialization)
    features = downsample(kernels, gains, images, base_filters, normalization)
    logits = judge(kernels, features, normalization)
    return keras.Model(images, logits, name="discriminator")


def downsample(kernels, gains, x, base_filters, normalization):
    """From images to a vector of features."""
    if normalization not in NORMALIZATIONS:
        raise ValueError(
            f"discriminator_normalization must be one of {NORMALIZATIONS}; got "
            f"{normalization!r}."
        )
    for stage in range(stages_of(x.shape[1:])):
        normalized = normalization == "batch_norm" and stage > 0
        filters = base_filters * 2**stage
        name = f"down_{stage}"
        layer = convolution(kernels, name, filters, use_bias=not normalized)
        if normalization == "spectral_norm":
            layer = spectral(layer, kernels.seed)
        x = layer(x)
        if normalized:
            x = batch_norm(gains, f"{name}_norm", x)
        x = LeakyReLU(0.2)(x)  # (B, h / 2, w / 2, filters)
    return keras.layers.Flatten()(x)


def judge(kernels, features, normalization):
    """One logit from the features."""
    layer = keras.layers.Dense(1, kernel_initializer=kernels("judge"), name="judge")
    if normalization == "spectral_norm":
        layer = spectral(layer, kernels.seed)
    logits = layer(features)
    return keras.layers.Activation("linear", dtype=wide(), name="logits")(logits)


@keras.saving.register_keras_serializable(PACKAGE)
class DCGAN(GAN):
    """Deep convolutional GAN (1511.06434).

    The default networks are the paper's at any size whose sides divide by 4. Every
    other argument of `GAN` is open: another loss, penalties, steps per player,
    label smoothing, augmentation, an average of the generator.

    Args:
        image_shape: `(H, W, C)`: H and W divisible by 4, C from 1 to 4.
        latent_dim: size of the latent vector (the paper: 100).
        base_filters: width of the networks (the paper's 64 x 64 model: 64 to 128).
        discriminator_filters: width of the discriminator, if it is another.
        discriminator_normalization: `"batch_norm"`, `"spectral_norm"` or None.
        initialization: `"normal"`, the paper's, or `"glorot_uniform"`.
        generator: a network of your own: latents -> images in [-1, 1].
        discriminator: a network of your own: images -> logits `(B, 1)`.
        seed: integer >= 0: initial weights, noise and shuffling follow from it.
        **kwargs: see `GAN`: `loss`, `penalties`, `penalty_interval`,
            `discriminator_steps`, `generator_steps`, `label_smoothing`, `augment`,
            `ema_decay`.

    Raises:
        ValueError: for an argument out of range, before any work.

    Example:

    ```python
    import numpy as np
    import keras_genai as kg

    (images, _), _ = kg.datasets.load("fashion_mnist")
    model = kg.DCGAN(image_shape=(28, 28, 1), latent_dim=64, base_filters=32)
    model.compile()                       # Adam(2e-4, beta_1=0.5) for both
    model.fit(images, batch_size=64, epochs=10)
    samples = model.generate(16, seed=0)  # (16, 28, 28, 1) in [-1, 1]
    ```
    """

    @checked(initialization=text, discriminator_normalization=optional(text))
    def __init__(
        self,
        image_shape=(64, 64, 3),
        latent_dim=100,
        *,
        base_filters=64,
        discriminator_filters=None,
        discriminator_normalization="batch_norm",
        initialization="normal",
        generator=None,
        discriminator=None,
        seed=0,
        **kwargs,
    ):
        image_shape = check_image_shape(image_shape, 4, 4)
        own = {"generator": generator, "discriminator": discriminator}
        with dtype_policy(kwargs.get("dtype")):
            generator = generator or dcgan_generator(
                image_shape, latent_dim, base_filters, initialization, seed=seed
            )
            discriminator = discriminator or dcgan_discriminator(
                image_shape,
                discriminator_filters or base_filters,
                discriminator_normalization,
                initialization,
                seed=seed,
            )
        super().__init__(
            generator,
            discriminator,
            image_shape=image_shape,
            latent_dim=latent_dim,
            seed=seed,
            **kwargs,
        )
        self._own = [name for name, network in own.items() if network]
        self.base_filters = base_filters
        self.discriminator_filters = discriminator_filters
        self.discriminator_normalization = discriminator_normalization
        self.initialization = initialization

    def get_config(self):
        return {
            **super().get_config(),
            "base_filters": self.base_filters,
            "discriminator_filters": self.discriminator_filters,
            "discriminator_normalization": self.discriminator_normalization,
            "initialization": self.initialization,
        }
