"""A model that composes DDPM with an autoencoder does what is done by hand."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from tests.support.conformance import THOROUGH, host
from tests.support.tiny_ddpm import network

pytestmark = pytest.mark.in_turn

DRAW = np.random.default_rng(0)
IMAGES = DRAW.uniform(-1, 1, (6, 8, 8, 1)).astype("float32")
NAMES = np.array([0, 1, 2, 2, 1, 0])
# It ends at alpha = 0.28, so that rounding is not blown up; see the conformance tests.
SCHEDULE = kg.schedules.Discrete("linear", beta_end=0.005)
TABLE = DRAW.normal(size=(3, 5)).astype("float32")  # name -> vector


class Autoencoder(keras.layers.Layer):
    """Blocks of 2 x 2 pixels as four channels, turned: a fixed linear map."""

    def __init__(self):
        super().__init__(trainable=False)
        turn = np.linalg.qr(DRAW.normal(size=(4, 4)))[0].astype("float32")
        self.turn = self.add_weight(shape=(4, 4), trainable=False)
        self.turn.assign(turn)
        self.built = True

    def encode(self, x):  # (B, H, W, 1) -> (B, H/2, W/2, 4)
        _, height, width, _ = x.shape
        x = ops.reshape(x, (-1, height // 2, 2, width // 2, 2))
        x = ops.transpose(x, (0, 1, 3, 2, 4))
        x = ops.reshape(x, (-1, height // 2, width // 2, 4))
        return 2.0 * ops.matmul(x, self.turn)

    def decode(self, z):
        _, height, width, _ = z.shape
        z = ops.matmul(z, ops.transpose(self.turn)) / 2.0
        x = ops.reshape(z, (-1, height, width, 2, 2))
        x = ops.transpose(x, (0, 1, 3, 2, 4))
        return ops.reshape(x, (-1, 2 * height, 2 * width, 1))


class OfNames(kg.DDPM):
    """Conditions are names, of which the network is given vectors."""

    def conditions_of(self, y):
        if not isinstance(y, dict):
            table = ops.convert_to_tensor(TABLE)
            y = {"vector": ops.take(table, ops.cast(y, "int32"), axis=0)}
        return super().conditions_of(y)

    def check_conditions(self, y, count):
        assert len(y) == count

    def null_conditions(self, conditions):
        return {"vector": ops.ones_like(conditions["vector"])}


class Latent(OfNames):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.autoencoder = Autoencoder()

    def to_latents(self, x):
        return self.autoencoder.encode(ops.convert_to_tensor(x))

    def from_latents(self, z):
        return self.autoencoder.decode(z)

    def latent_shape(self, image_shape):
        height, width, channels = image_shape
        return height // 2, width // 2, 4 * channels


def trained(cls, x, image_shape, run_eagerly=False):
    model = cls(
        network((4, 4, 4), vector_dim=5),
        SCHEDULE,
        image_shape=image_shape,
        vector_dim=5,
        condition_dropout=0.3,
        clip=None,
        num_steps=3,
        ema_decay=0.5,
        seed=1,
    )
    model.compile(keras.optimizers.Adam(1e-2), run_eagerly=run_eagerly)
    history = model.fit(x, NAMES, batch_size=4, epochs=2, verbose=0).history
    return model, history


@pytest.fixture(scope="module")
def both():
    """The composing model, its history, and the model of latents made by hand."""
    # Eager on TensorFlow, which takes seconds to trace a step; JAX compiles it.
    eager = keras.backend.backend() == "tensorflow" and not THOROUGH
    model, history = trained(Latent, IMAGES, (8, 8, 1), eager)
    latents = host(model.to_latents(IMAGES))
    by_hand, other = trained(OfNames, latents, (4, 4, 4), eager)
    for name, values in history.items():
        np.testing.assert_allclose(values, other[name], rtol=1e-5)
    return model, by_hand, latents


def close(images, model, latents):
    made = host(model.from_latents(ops.convert_to_tensor(latents)))
    assert images.shape == made.shape
    np.testing.assert_allclose(images, made, atol=2e-5)


def test_fit_and_evaluate(both):
    model, by_hand, latents = both
    pairs = zip(model.network.weights, by_hand.network.weights, strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(host(one), host(other), atol=1e-5)
    logs = model.evaluate(IMAGES, NAMES, verbose=0, return_dict=True)
    others = by_hand.evaluate(latents, NAMES, verbose=0, return_dict=True)
    np.testing.assert_allclose([*logs.values()], [*others.values()], rtol=1e-5)


def test_bits_of_images_are_not_those_of_latents(both):
    with pytest.raises(ValueError, match=r"models latents \(4, 4, 4\)"):
        both[0].bits_per_dim(IMAGES, vector=TABLE[NAMES])


@pytest.mark.parametrize("verbose", [0, 1])
def test_generate(both, verbose):
    model, by_hand, _ = both
    given = {"vector": TABLE[NAMES], "guidance_scale": 2.0, "seed": 3}
    images = model.generate(**given, batch_size=4, verbose=verbose)
    close(images, model, by_hand.generate(**given))
    # Led away from nothing at all to a scale of 0: the model's own null.
    null = model.generate(vector=np.ones_like(TABLE[NAMES]), seed=3)
    given["guidance_scale"] = 0.0
    np.testing.assert_allclose(model.generate(**given), null, atol=2e-5)


def test_weights_of_the_autoencoder_are_no_constants(both):
    model, _, _ = both
    turn = host(model.autoencoder.turn)
    images = model.generate(vector=TABLE, seed=3)
    try:
        model.autoencoder.turn.assign(-turn)
        turned = model.generate(vector=TABLE, seed=3)
    finally:
        model.autoencoder.turn.assign(turn)
    np.testing.assert_allclose(turned, -images, atol=1e-6)


def test_editing(both):
    model, by_hand, latents = both
    given = {"vector": TABLE[NAMES], "guidance_scale": 2.0, "seed": 3}
    images = model.img2img(IMAGES, 0.7, **given, batch_size=4)
    close(images, model, by_hand.img2img(latents, 0.7, **given))
    mask = np.zeros((4, 4), bool)
    mask[1:3, :2] = True
    given |= {"num_steps": 4, "jump_length": 2, "resamplings": 2}
    pixels = mask.repeat(2, axis=0).repeat(2, axis=1)
    images = model.inpaint(IMAGES, pixels, **given, batch_size=4)
    np.testing.assert_array_equal(images[:, ~pixels], IMAGES[:, ~pixels])
    close(images, model, by_hand.inpaint(latents, mask, **given))
    # A pixel that is painted takes all of its latent with it; its neighbours stay.
    pixels[2:6:2, :4:2] = False
    fewer = model.inpaint(IMAGES, pixels, **given)
    np.testing.assert_array_equal(fewer[:, ~pixels], IMAGES[:, ~pixels])
    assert np.abs(fewer - IMAGES)[:, pixels].min(axis=0).max() > 1e-3
    noise = model.invert(IMAGES, vector=TABLE[NAMES])
    assert noise.shape == latents.shape
    wanted = by_hand.invert(latents, vector=TABLE[NAMES])
    np.testing.assert_allclose(noise, wanted, atol=1e-4)


def test_images_of_another_size():
    def unet(shape):
        model = kg.DDPM(
            kg.UNet(shape, block_channels=(8,), groups=4, attention=False),
            SCHEDULE,
            num_steps=2,
            ema_decay=None,
        )
        model.compile()
        return model

    small, large = unet((8, 8, 1)), unet((16, 8, 1))
    large.set_weights(small.get_weights())
    images = small.generate(3, seed=1, height=16, width=8, batch_size=2)
    np.testing.assert_allclose(images, large.generate(3, seed=1), atol=1e-5)
    assert small.generate(3, seed=1).shape == (3, 8, 8, 1)
    for name in ("height", "width"):
        for size in ((16,), 0, "16"):
            with pytest.raises(ValueError, match=f"{name} must be"):
                small.generate(1, **{name: size})
    with pytest.raises(ValueError, match=r"shape \(2, 16, 8, 1\)"):
        small.generate(noise=np.zeros((2, 8, 8, 1), "float32"), height=16, width=8)
