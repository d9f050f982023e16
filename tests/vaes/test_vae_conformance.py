"""Every kind of VAE passes the battery, on networks of a few thousand weights."""

import keras_genai as kg
from tests.support import conformance

CLASSES = 3


def _grey(n):
    return conformance.uniform("vae", (n, 8, 8, 1), 0.0, 1.0), None


def _levels(n):
    """8-bit images in [-1, 1], with labels."""
    levels = conformance.integers("vae/levels", (n, 8, 8, 2), 256)
    labels = conformance.integers("vae/labels", (n,), CLASSES)
    return (levels / 127.5 - 1.0).astype("float32"), labels


TestBernoulli = conformance.battery(
    "vae",
    lambda: kg.VAE(
        image_shape=(8, 8, 1),
        latent_dim=5,
        hidden_units=(24,),
        binarize="dynamic",
        seed=1,
    ),
    _grey,
    value_range=(0.0, 1.0),
)

TestConvolutional = conformance.battery(
    "vae_convolutional",
    lambda: kg.VAE(
        image_shape=(8, 8, 3),
        latent_dim=4,
        architecture="convolutional",
        hidden_units=(24, 16),
        filters=6,
        likelihood="gaussian",
        beta=kg.vaes.KLWarmup(4, start=0.25, end=2.0),
        free_bits=0.02,
        seed=2,
    ),
    lambda n: (conformance.uniform("vae_convolutional", (n, 8, 8, 3)), None),
    variant=True,
)

TestConditional = conformance.battery(
    "vae_conditional",
    lambda: kg.VAE(
        image_shape=(8, 8, 2),
        latent_dim=3,
        hidden_units=(24, 16),
        likelihood="discretized_logistic",
        scale="per_pixel",
        num_classes=CLASSES,
        beta=10.0,
        capacity=kg.vaes.KLWarmup(10, end=2.0),
        seed=3,
    ),
    _levels,
    variant=True,
)

TestImportanceWeighted = conformance.battery(
    "iwae",
    lambda: kg.VAE(
        image_shape=(8, 8, 1),
        latent_dim=4,
        hidden_units=(24, 24),
        binarize="dynamic",
        importance_samples=4,
        seed=4,
    ),
    _grey,
    value_range=(0.0, 1.0),
    variant=True,
)

TestDReG = conformance.battery(
    "iwae_dreg",
    lambda: kg.VAE(
        image_shape=(8, 8, 1),
        latent_dim=4,
        hidden_units=(24, 24),
        importance_samples=4,
        estimator="dreg",
        seed=5,
    ),
    _grey,
    exceptions={
        "gradients": "The estimator is not the derivative of the bound at one draw "
        "but has its mean: tests/vaes/test_dreg.py compares it with float64."
    },
    value_range=(0.0, 1.0),
    variant=True,
)
