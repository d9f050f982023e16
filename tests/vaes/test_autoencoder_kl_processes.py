"""AutoencoderKL, divided, as SavedModel and ONNX."""

import keras_genai as kg
from tests.support import processes
from tests.vaes.test_autoencoder_kl_conformance import SMALL, images

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
