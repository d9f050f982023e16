"""The VQ-VAE with its prior, divided, as SavedModel and ONNX."""

import keras

import keras_genai as kg
from tests.support import conformance, processes


def coloured(n):
    return conformance.uniform("vae processes", (n, 8, 8, 1)), None


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
