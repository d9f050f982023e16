"""Killed, divided, served: the VAE in other processes."""

import keras_genai as kg
from tests.support import conformance, processes

CLASSES = 3


def grey(n):
    labels = conformance.integers("vae processes/labels", (n,), CLASSES)
    return conformance.uniform("vae processes", (n, 8, 8, 1), 0.0, 1.0), labels


TestVAEProcesses = processes.battery(
    lambda: kg.VAE(
        image_shape=(8, 8, 1),
        num_classes=CLASSES,
        latent_dim=4,
        hidden_units=(16,),
        binarize="dynamic",
        importance_samples=3,
        estimator="dreg",
        seed=1,
    ),
    grey,
    ranges={"labels": (0, CLASSES), "images": (0.0, 1.0)},
    methods={
        "decode": lambda model, latents, labels: model.decode(latents, labels),
        "generate": lambda model, seed, labels: model.generate(
            labels=labels, seed=int(seed)
        ),
        "reconstruct": lambda model, images, labels: model.reconstruct(images, labels),
    },
)
