"""Arguments that a function does not take: the nearest that it does are named."""

import pytest

import keras_genai as kg

pytestmark = pytest.mark.once


def vae(**kwargs):
    return kg.VAE(image_shape=(8, 8, 1), latent_dim=2, hidden_units=(8,), **kwargs)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: vae(latent_dims=3), "VAE has no argument latent_dims; .* latent_dim"),
        (lambda: kg.DCGAN(image_size=8), "DCGAN has no argument image_size; .*_shape"),
        (
            lambda: vae().generate(2, temprature=1.0),
            "has no argument temprature; .*temp",
        ),
        (lambda: kg.DiT(image_size=8), "DiT has no argument image_size; .*image_shape"),
    ],
)
def test_the_nearest_are_named(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_keras_own_arguments_pass():
    assert vae(name="mine", dtype="mixed_bfloat16", trainable=True).name == "mine"
