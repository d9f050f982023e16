"""CGAN's conditioning against its formulas."""

import numpy as np
import pytest
from keras import ops

import keras_genai as kg

pytestmark = pytest.mark.in_turn


def host(x):
    return ops.convert_to_numpy(x)


def test_the_projection_is_the_inner_product_with_the_embedding():
    """1802.05637, equation 3: the logit with a label less the one with another."""
    discriminator = kg.gans.cgan_discriminator(
        (8, 8, 1), 3, 4, conditioning="projection", normalization=None
    )
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (5, 8, 8, 1)).astype("float32")
    table = rng.normal(size=discriminator.get_layer("label").embeddings.shape)
    discriminator.get_layer("label").embeddings.assign(table)
    logits = [host(discriminator([x, np.full(5, k, "int32")]))[:, 0] for k in range(3)]
    kernel = host(discriminator.get_layer("judge").kernel)
    # With the embedding of class 0 as the dense layer's weights, class 0 adds it twice.
    discriminator.get_layer("judge").kernel.assign(table[:1].T)
    twice = host(discriminator([x, np.zeros(5, "int32")]))[:, 0]
    discriminator.get_layer("judge").kernel.assign(np.zeros_like(kernel))
    alone = [host(discriminator([x, np.full(5, k, "int32")]))[:, 0] for k in range(3)]
    np.testing.assert_allclose(twice, 2 * alone[0], rtol=1e-4)
    np.testing.assert_allclose(
        logits[1] - logits[0], alone[1] - alone[0], rtol=1e-3, atol=1e-5
    )


@pytest.mark.parametrize("generator", ["concatenation", "conditional_batch_norm"])
@pytest.mark.parametrize("discriminator", ["concatenation", "projection"])
def test_both_networks_see_the_label(generator, discriminator):
    model = kg.CGAN(
        (8, 8, 1),
        3,
        4,
        base_filters=4,
        generator_conditioning=generator,
        discriminator_conditioning=discriminator,
        initialization="glorot_uniform",
    )
    z = np.ones((3, 4), "float32")
    for layer in model.generator.layers:
        if generator == "conditional_batch_norm" and hasattr(layer, "num_classes"):
            layer.beta.assign(np.random.default_rng(0).normal(size=layer.beta.shape))
    images = host(model(z, np.arange(3, dtype="int32")))
    assert np.abs(images[0] - images[1]).max() > 1e-4
    same = np.repeat(images[:1], 3, 0)
    logits = host(model.discriminator([same, np.arange(3, dtype="int32")]))
    assert len(np.unique(logits.round(7))) == 3


def test_generate_draws_labels_evenly_and_takes_lists():
    model = kg.CGAN((8, 8, 1), 3, 4, base_filters=4)
    images = model.generate(labels=[2, 0], seed=1)
    assert images.shape == (2, 8, 8, 1)
    assert model.generate(5).shape == (5, 8, 8, 1)
