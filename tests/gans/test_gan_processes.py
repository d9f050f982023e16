"""Killed, divided, served: the GANs in other processes."""

import keras

import keras_genai as kg
from tests.gans.test_gan_conformance import CLASSES, images, labelled_images
from tests.support import processes


def cgan():
    """Labels, an average, augmentation and a penalty that draws noise."""
    return kg.CGAN(
        image_shape=(8, 8, 2),
        num_classes=CLASSES,
        latent_dim=4,
        base_filters=4,
        generator_conditioning="conditional_batch_norm",
        discriminator_conditioning="projection",
        loss="hinge",
        augment=kg.gans.DiffAugment(seed=3),
        penalties={"dragan": 1.0},
        discriminator_steps=2,
        ema_decay=0.9,
        seed=3,
    )


def optimizers():
    rate = keras.optimizers.schedules.ExponentialDecay(1e-3, 10, 0.9)
    return {
        "generator_optimizer": keras.optimizers.Adam(rate),
        "discriminator_optimizer": keras.optimizers.Adam(
            1e-3, gradient_accumulation_steps=2
        ),
    }


TestCGANProcesses = processes.battery(
    cgan,
    labelled_images("processes", 8, 8, 2),
    compile=optimizers,
    ranges={"labels": (0, CLASSES)},
    methods={
        "decode": lambda model, latents, labels: model(latents, labels),
        "generate": lambda model, seed, labels: model.generate(
            labels=labels, seed=int(seed)
        ),
    },
)

TestDCGANProcesses = processes.battery(
    lambda: kg.DCGAN((8, 8, 2), latent_dim=5, base_filters=4, seed=4),
    images("processes", 8, 8, 2),
    methods={
        "decode": lambda model, latents: model(latents),
        "generate": lambda model, seed, n: model.generate(int(n), seed=int(seed)),
    },
    exceptions={
        "killed": "The CGAN is killed for all GANs.",
        "devices": "The CGAN is divided for all GANs.",
    },
)
