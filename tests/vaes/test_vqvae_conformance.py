"""Every kind of VQ-VAE, and its prior, pass the battery."""

import functools

import keras
import numpy as np
from keras import ops

import keras_genai as kg
from keras_genai import layers
from keras_genai.layers import quantizers, vector_quantizers
from tests.support import conformance
from tests.support.conformance import host

CLASSES = 3
SIZE = 8
TINY = {"filters": 8, "latent_dim": 4, "codebook_size": SIZE}


def images(name):
    """A batch function of images, smooth enough for latents that differ."""

    def batch(n):
        coarse = conformance.uniform(name, (n, 4, 4, 2))
        return np.repeat(np.repeat(coarse, 2, 1), 2, 2), None

    return batch


def codes(name, shape, labelled=True):
    def batch(n):
        labels = conformance.integers(f"{name}/labels", (n,), CLASSES)
        found = conformance.integers(name, (n, *shape), SIZE)
        return found, labels if labelled else None

    return batch


def prior(seed, stages=(), num_classes=None):
    return kg.PixelCNN(
        (2, 2, *stages),
        SIZE,
        num_classes,
        filters=4,
        blocks=2,
        kernel_size=3,
        seed=seed,
    )


def frozen_codes(batch):
    """Makes the codes what they are at this point, wherever they are asked for.

    A code does not change with its latent, and the gradient passes straight through:
    it is the derivative of the latent plus a constant, which this puts in their place.
    """

    def prepare(model):
        module = quantizers
        if model.quantizer.loss_name == "commitment":
            module = vector_quantizers
        original, calls, found = module.straight_through, [], []

        def recording(z, code):
            found.append((host(z), host(code)))
            return original(z, code)

        def replaying(z, code):
            before, code = found[len(calls)]
            calls.append(code)
            if len(calls) < len(found):  # an inner stage: its gradient is stopped
                return ops.convert_to_tensor(code, z.dtype)
            return z + ops.convert_to_tensor(code - before, z.dtype)

        call = model.quantizer.call

        def patched(function, *args, **kwargs):
            calls.clear()
            module.straight_through = function
            try:
                return call(*args, **kwargs)
            finally:
                module.straight_through = original

        x, _ = batch(conformance.BATCH)
        before = conformance.values(model.variables)
        latents = model.encoder(ops.convert_to_tensor(x, "float64"), training=True)
        patched(recording, latents, training=True)
        conformance.restore(model.variables, before)
        model.quantizer.call = functools.partial(patched, replaying)

    return prepare


TestVector = conformance.battery(
    "vqvae",
    lambda: kg.VQVAE((8, 8, 2), "vector", **TINY, prior=prior(1), seed=1),
    images("vqvae"),
    choices=("perplexity",),  # of 64 codes
    prepare_gradients=frozen_codes(images("vqvae")),
)

TestResidual = conformance.battery(
    "vqvae_residual",
    lambda: kg.VQVAE(
        (8, 8, 2),
        layers.ResidualVectorQuantizer(SIZE, 4, stages=2, decay=0.9, seed=2),
        filters=8,
        residual_filters=4,
        reconstruction="absolute",
        prior=prior(2, (2,), CLASSES),
        seed=2,
    ),
    images("vqvae_residual"),
    choices=("perplexity",),  # of 64 codes
    compile=lambda: {"optimizer": keras.optimizers.Adam(1e-3)},
    prepare_gradients=frozen_codes(images("vqvae_residual")),
    variant=True,
)

TestFiniteScalar = conformance.battery(
    "vqvae_finite_scalar",
    lambda: kg.VQVAE(
        (8, 8, 2),
        layers.FiniteScalarQuantizer((3, 3)),
        filters=8,
        prior=kg.PixelCNN((2, 2), 9, filters=4, blocks=2, kernel_size=3, seed=3),
        seed=3,
    ),
    images("vqvae_finite_scalar"),
    prepare_gradients=frozen_codes(images("vqvae_finite_scalar")),
    variant=True,
)

TestGumbel = conformance.battery(
    "dvae",
    lambda: kg.VQVAE(
        (8, 8, 2),
        layers.GumbelQuantizer(SIZE, 4, temperature_steps=4, kl_steps=2, seed=4),
        filters=4,
        reconstruction="logit_laplace",
        prior=prior(4),
        seed=4,
    ),
    images("dvae"),
    variant=True,
)

TestPixelCNN = conformance.battery(
    "pixelcnn",
    lambda: kg.PixelCNN(
        (3, 2, 2),
        SIZE,
        CLASSES,
        filters=6,
        blocks=2,
        kernel_size=3,
        dropout=0.2,
        ema_decay=0.9,
        seed=5,
    ),
    codes("pixelcnn", (3, 2, 2)),
    value_range=(0, SIZE - 1),
    sample_dtype="int32",
)
