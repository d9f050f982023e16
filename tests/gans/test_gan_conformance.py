"""Every kind of GAN passes the battery, on networks of a few thousand weights."""

import keras
import numpy as np

import keras_genai as kg
from keras_genai import layers
from keras_genai.layers.initializers import VarianceScaling
from tests.support import conformance

CLASSES = 3


def images(name, *shape):
    """A batch function of images alone."""
    return lambda n: (conformance.uniform(name, (n, *shape)), None)


def labelled_images(name, *shape):
    """A batch function of images with labels."""

    def batch(n):
        labels = conformance.integers(f"{name}/labels", (n,), CLASSES)
        return conformance.uniform(name, (n, *shape)), labels

    return batch


def exact_singular_vectors(model):
    """Puts every power iteration where it ends.

    The gradient takes its vectors as constants. That is the derivative of what is
    computed where they are singular vectors, and near it elsewhere.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, layers.SpectralNormalization):
            inner = layer.layer
            kernel = inner.kernel if hasattr(inner, "kernel") else inner.embeddings
            kernel = conformance.host(kernel.value)
            # Every kernel in these networks has its outputs last.
            _, _, v = np.linalg.svd(kernel.reshape(-1, kernel.shape[-1]))
            layer.u.assign(v[0])


TestDCGAN = conformance.battery(
    "dcgan",
    lambda: kg.DCGAN(image_shape=(8, 8, 3), latent_dim=8, base_filters=4, seed=1),
    images("dcgan", 8, 8, 3),
    variant=True,
)

TestCGAN = conformance.battery(
    "cgan",
    lambda: kg.CGAN(
        image_shape=(8, 8, 3),
        num_classes=CLASSES,
        latent_dim=8,
        base_filters=4,
        loss="least_squares",
        label_smoothing=0.1,
        seed=2,
    ),
    labelled_images("cgan", 8, 8, 3),
)

TestCGANProjection = conformance.battery(
    "cgan_projection",
    lambda: kg.CGAN(
        image_shape=(8, 8, 3),
        num_classes=CLASSES,
        latent_dim=8,
        base_filters=4,
        generator_conditioning="conditional_batch_norm",
        discriminator_conditioning="projection",
        discriminator_normalization="spectral_norm",
        loss="hinge",
        augment=kg.gans.DiffAugment(seed=3),
        ema_decay=0.99,
        penalties={"r1": 0.1},
        penalty_interval=2,
        seed=3,
    ),
    labelled_images("cgan_projection", 8, 8, 3),
    prepare_gradients=exact_singular_vectors,
    variant=True,
)

TestWassersteinGAN = conformance.battery(
    "wasserstein",
    lambda: kg.DCGAN(
        image_shape=(8, 8, 3),
        latent_dim=8,
        base_filters=4,
        loss="wasserstein",
        penalties={"wgan_gp": 10.0},
        discriminator_steps=2,
        discriminator_normalization=None,
        seed=4,
    ),
    images("wasserstein", 8, 8, 3),
    compile=lambda: {
        "discriminator_optimizer": keras.optimizers.Adam(1e-3, beta_1=0.0),
        "generator_optimizer": keras.optimizers.RMSprop(1e-3),
    },
    variant=True,
)


def _initial(stream):
    return VarianceScaling(2.0, "fan_in", "truncated_normal", seed=5, stream=stream)


def own_networks():
    """A DCGAN of networks that a user might hand in."""
    generator = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(64, kernel_initializer=_initial("g/dense"), name="g_1"),
            keras.layers.Reshape((4, 4, 4), name="g_2"),  # (B, 4, 4, 4)
            layers.BatchNormalization(name="g_3"),
            keras.layers.Activation("silu", name="g_4"),
            keras.layers.UpSampling2D(name="g_5"),  # (B, 8, 8, 4)
            keras.layers.Conv2D(
                3,
                3,
                padding="same",
                kernel_initializer=_initial("g/conv"),
                name="g_6",
            ),  # (B, 8, 8, 3)
            keras.layers.Activation("tanh", dtype=_wide(), name="g_7"),
        ],
        name="sprite_maker",
    )
    discriminator = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(
                8,
                3,
                strides=2,
                padding="same",
                kernel_initializer=_initial("d/conv"),
                name="d_1",
            ),  # (B, 4, 4, 8)
            keras.layers.Activation("gelu", name="d_2"),
            layers.Dropout(0.3, seed=5, stream="d", name="d_3"),
            keras.layers.Flatten(name="d_4"),
            keras.layers.Dense(1, kernel_initializer=_initial("d/dense"), name="d_5"),
        ],
        name="sprite_judge",
    )
    return kg.DCGAN(
        image_shape=(8, 8, 3),
        latent_dim=8,
        generator=generator,
        discriminator=discriminator,
        penalties={"dragan": 1.0, "r2": 0.5},
        generator_steps=2,
        seed=5,
    )


def _wide():
    return "float64" if keras.config.floatx() == "float64" else "float32"


TestOwnNetworks = conformance.battery(
    "own_networks", own_networks, images("own_networks", 8, 8, 3), variant=True
)
