"""Killed, divided, served: the autoencoders in other processes."""

import keras

import keras_genai as kg
from tests.support import conformance, processes
from tests.vaes.test_autoencoder_kl_conformance import SMALL, images

CLASSES = 3


def grey(n):
    labels = conformance.integers("vae processes/labels", (n,), CLASSES)
    return conformance.uniform("vae processes", (n, 8, 8, 1), 0.0, 1.0), labels


def coloured(n):
    return conformance.uniform("vae processes", (n, 8, 8, 1)), None


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


def vqvae():
    """A codebook that follows, and restarts from, the latents of all parts."""
    quantizer = kg.layers.ResidualVectorQuantizer(
        8, 4, stages=2, dropout=True, decay=0.8, seed=1
    )
    prior = kg.PixelCNN((2, 2, 2), 8, filters=4, blocks=1, kernel_size=3, seed=1)
    return kg.VQVAE((8, 8, 1), quantizer, filters=4, prior=prior, seed=1)


TestVQVAEProcesses = processes.battery(
    vqvae,
    coloured,
    compile=lambda: {"optimizer": keras.optimizers.Adam(1e-2)},
    ranges={"indices": (0, 8)},
    methods={
        "generate": lambda model, seed, n: model.generate(int(n), seed=int(seed)),
        "reconstruct": lambda model, images: model.reconstruct(images),
        "encode": lambda model, images: model.encode_indices(images),
        "decode": lambda model, indices: model.decode_indices(indices),
    },
    onnx=("encode", "decode", "reconstruct"),  # the prior's loop: a SavedModel alone
    exceptions={"killed": "The VAE is killed for all autoencoders."},
)

TestAutoencoderKLProcesses = processes.battery(
    lambda: kg.AutoencoderKL(**SMALL, seed=3),
    images("autoencoder_kl processes"),
    sizes=(2, 4),
    methods={
        "decode": lambda model, latents: model.decode(latents),
        "generate": lambda model, seed, n: model.generate(int(n), seed=int(seed)),
    },
    # PyTorch's exporter does not follow free sides through the halvings.
    onnx=("generate",),
    exceptions={"killed": "The VAE is killed for all autoencoders."},
)
