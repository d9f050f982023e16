"""CGAN: conditional GAN (Mirza and Osindero, 1411.1784) and its two successors.

Both players see the label. Section 3.2 concatenates it with their inputs; 1802.05637
puts it into the generator's batch normalization (section 4: conditional batch norm)
and into the discriminator by an inner product with its features (equation 3).
"""

import keras
from keras import ops

from keras_genai.backend.precision import dtype_policy, wide
from keras_genai.gans.dcgan import (
    downsample,
    embedding,
    judge,
    spectral,
    streams,
    upsample,
)
from keras_genai.gans.gan import GAN
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_image_shape
from keras_genai.utils.serialization import PACKAGE
from keras_genai.utils.validation import either, optional, text, tuple_of

GENERATOR_CONDITIONINGS = ("concatenation", "conditional_batch_norm")
DISCRIMINATOR_CONDITIONINGS = ("concatenation", "projection")


@checked(conditioning=either(text, tuple_of(text)), initialization=text)
def cgan_generator(
    image_shape,
    num_classes,
    latent_dim,
    base_filters=64,
    conditioning="concatenation",
    initialization="normal",
    seed=0,
):
    """A DCGAN generator that sees the label.

    Args:
        image_shape: `(H, W, C)`.
        num_classes: K.
        latent_dim: size of the latent vector.
        base_filters: see `dcgan_generator`.
        conditioning: `"concatenation"`: a learned embedding of the label, as long as
            the latents, beside them; `"conditional_batch_norm"`: a gain and an
            offset for each class in every normalization; or both, in a tuple (as
            1809.11096 has both).
        initialization: `"normal"` or `"glorot_uniform"`.
        seed: integer.

    Returns:
        `keras.Model`, `[(B, latent_dim), (B,)]` -> `(B, H, W, C)` in [-1, 1].
    """
    ways = (conditioning,) if isinstance(conditioning, str) else tuple(conditioning)
    for way in ways or (None,):
        check_choice("generator_conditioning", way, GENERATOR_CONDITIONINGS)
    latents = keras.Input((latent_dim,), name="latents")
    labels = keras.Input((), dtype="int32", name="labels")
    kernels, gains = streams("generator", seed, initialization)
    x = latents
    if "concatenation" in ways:
        code = embedding(kernels, "label", num_classes, latent_dim)(labels)
        x = keras.layers.Concatenate()([latents, code])  # (B, 2 latent_dim)
    norm_labels = labels if "conditional_batch_norm" in ways else None
    images = upsample(
        kernels, gains, x, norm_labels, image_shape, base_filters, num_classes
    )
    return keras.Model([latents, labels], images, name="generator")


@checked(conditioning=text, normalization=optional(text), initialization=text)
def cgan_discriminator(
    image_shape,
    num_classes,
    base_filters=64,
    conditioning="concatenation",
    normalization="batch_norm",
    initialization="normal",
    seed=0,
):
    """A DCGAN discriminator that sees the label.

    Args:
        image_shape: `(H, W, C)`.
        num_classes: K.
        base_filters: see `dcgan_discriminator`.
        conditioning: `"concatenation"`: a learned map for each class as one more
            channel of the image; `"projection"`: the logit gains the inner product
            of an embedding of the label with the features (1802.05637, equation 3).
        normalization: `"batch_norm"`, `"spectral_norm"` or None.
        initialization: `"normal"` or `"glorot_uniform"`.
        seed: integer.

    Returns:
        `keras.Model`, `[(B, H, W, C), (B,)]` -> `(B, 1)`.
    """
    check_choice(
        "discriminator_conditioning", conditioning, DISCRIMINATOR_CONDITIONINGS
    )
    height, width, _ = image_shape
    images = keras.Input(image_shape, name="images")
    labels = keras.Input((), dtype="int32", name="labels")
    kernels, gains = streams("discriminator", seed, initialization)
    x = images
    if conditioning == "concatenation":
        plane = embedding(kernels, "label", num_classes, height * width)(labels)
        plane = keras.layers.Reshape((height, width, 1))(plane)
        x = keras.layers.Concatenate()([images, plane])  # (B, H, W, C + 1)
    features = downsample(kernels, gains, x, base_filters, normalization)  # (B, F)
    logits = judge(kernels, features, normalization)  # (B, 1)
    if conditioning == "projection":
        layer = embedding(kernels, "label", num_classes, features.shape[-1])
        if normalization == "spectral_norm":
            layer = spectral(layer, seed)
        logits = Projection(dtype=wide(), name="projection")(
            [logits, features, layer(labels)]
        )
    return keras.Model([images, labels], logits, name="discriminator")


@keras.saving.register_keras_serializable(PACKAGE)
class Projection(keras.layers.Layer):
    """`logit + <embedding(y), features(x)>` (1802.05637, equation 3).

    Call it on `[(B, 1), (B, F), (B, F)]`; it returns `(B, 1)`.
    """

    def call(self, inputs):
        logits, features, embedding = inputs
        return logits + ops.sum(features * embedding, axis=-1, keepdims=True)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape[0])


def check_choice(name, value, known):
    """Refuses what is not one of the known."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}.")


@keras.saving.register_keras_serializable(PACKAGE)
class CGAN(GAN):
    """Conditional GAN (1411.1784): images of a class that is asked for.

    Args:
        image_shape: `(H, W, C)`: H and W divisible by 4, C from 1 to 4.
        num_classes: K, at least 2; labels are integers in [0, K).
        latent_dim: size of the latent vector.
        base_filters: width of the networks.
        generator_conditioning: `"concatenation"` (1411.1784),
            `"conditional_batch_norm"` (1802.05637), or a tuple of both.
        discriminator_conditioning: `"concatenation"` or `"projection"`.
        discriminator_filters: width of the discriminator, if it is another.
        discriminator_normalization: `"batch_norm"`, `"spectral_norm"` or None.
        initialization: `"normal"`, the paper's, or `"glorot_uniform"`.
        generator: a network of your own: `[latents, labels]` -> images in [-1, 1].
        discriminator: a network of your own: `[images, labels]` -> logits `(B, 1)`.
        seed: integer >= 0: initial weights, noise and shuffling follow from it.
        **kwargs: see `GAN`: `loss`, `penalties`, `penalty_interval`,
            `discriminator_steps`, `generator_steps`, `label_smoothing`, `augment`,
            `ema_decay`.

    Raises:
        ValueError: for an argument out of range, before any work.

    Example:

    ```python
    import keras_genai as kg

    (images, labels), _ = kg.datasets.load("fashion_mnist")
    model = kg.CGAN(image_shape=(28, 28, 1), num_classes=10, latent_dim=64,
                    base_filters=32, loss="hinge",
                    discriminator_conditioning="projection", ema_decay=0.999)
    model.compile()
    model.fit(images, labels, batch_size=64, epochs=10)
    shoes = model.generate(labels=[7] * 8, seed=0)     # (8, 28, 28, 1)
    ```
    """

    @checked(
        generator_conditioning=either(text, tuple_of(text)),
        discriminator_conditioning=text,
        initialization=text,
        discriminator_normalization=optional(text),
    )
    def __init__(
        self,
        image_shape=(64, 64, 3),
        num_classes=10,
        latent_dim=100,
        *,
        base_filters=64,
        discriminator_filters=None,
        generator_conditioning="concatenation",
        discriminator_conditioning="concatenation",
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
            generator = generator or cgan_generator(
                image_shape,
                num_classes,
                latent_dim,
                base_filters,
                generator_conditioning,
                initialization,
                seed=seed,
            )
            discriminator = discriminator or cgan_discriminator(
                image_shape,
                num_classes,
                discriminator_filters or base_filters,
                discriminator_conditioning,
                discriminator_normalization,
                initialization,
                seed=seed,
            )
        super().__init__(
            generator,
            discriminator,
            image_shape=image_shape,
            latent_dim=latent_dim,
            num_classes=num_classes,
            seed=seed,
            **kwargs,
        )
        self._own = [name for name, network in own.items() if network]
        self.base_filters = base_filters
        self.discriminator_filters = discriminator_filters
        self.generator_conditioning = (
            generator_conditioning
            if isinstance(generator_conditioning, str)
            else list(generator_conditioning)
        )
        self.discriminator_conditioning = discriminator_conditioning
        self.discriminator_normalization = discriminator_normalization
        self.initialization = initialization

    def get_config(self):
        return {
            **super().get_config(),
            "base_filters": self.base_filters,
            "discriminator_filters": self.discriminator_filters,
            "generator_conditioning": self.generator_conditioning,
            "discriminator_conditioning": self.discriminator_conditioning,
            "discriminator_normalization": self.discriminator_normalization,
            "initialization": self.initialization,
        }
