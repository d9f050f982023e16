"""The gradients of k batches in one update: the whole batch's, in all that counts."""

import keras
import numpy as np
import pytest

import keras_genai as kg
from keras_genai import backend
from keras_genai.layers.initializers import VarianceScaling
from tests import conformance

BACKEND = keras.backend.backend()
COUNT, EPOCHS = 24, 3
IMAGES = conformance.uniform("accumulation", (COUNT, 4, 4, 1))


def dense(units, name, **kwargs):
    initializer = VarianceScaling(1.0, "fan_in", seed=1, stream=name)
    return keras.layers.Dense(units, kernel_initializer=initializer, **kwargs)


def gpt():
    return kg.GPT(
        depth=1,
        hidden=16,
        heads=2,
        context=8,
        vocabulary_size=20,
        dropout=0.2,
        ema_decay=0.9,
    )


def ddpm():
    x, t, label = keras.Input((4, 4, 1)), keras.Input(()), keras.Input(())
    joined = keras.layers.Concatenate()(
        [
            keras.layers.Flatten()(x),
            *(keras.ops.reshape(y, (-1, 1)) for y in (t, label)),
        ]
    )
    y = dense(16, "out")(dense(8, "in", activation="tanh")(joined))
    network = keras.Model([x, t, label], keras.layers.Reshape((4, 4, 1))(y))
    return kg.DDPM(
        network, num_classes=3, condition_dropout=0.3, time_scale=1e-3, ema_decay=0.9
    )


def vae():
    """A weight that moves with the steps, and images drawn anew at each."""
    return kg.VAE(
        image_shape=(4, 4, 1),
        latent_dim=4,
        hidden_units=(8,),
        beta=kg.vaes.KLWarmup(6),
        binarize="dynamic",
    )


def dcgan():
    """No batch statistics, which are a batch's own; a lazy penalty; rare turns."""
    generator = [keras.Input((4,)), dense(16, "g"), keras.layers.Reshape((4, 4, 1))]
    discriminator = [
        keras.Input((4, 4, 1)),
        keras.layers.Flatten(),
        dense(8, "d", activation="tanh"),
        kg.layers.Dropout(0.3, seed=1, stream="dropout"),
        dense(1, "judge"),
    ]
    return kg.DCGAN(
        (4, 4, 1),
        4,
        generator=keras.Sequential(generator),
        discriminator=keras.Sequential(discriminator),
        augment=kg.gans.DiffAugment("color", seed=3),
        penalties={"r1": 1.0},
        penalty_interval=2,
        discriminator_steps=2,
        generator_steps=2,
        ema_decay=0.9,
    )


DATA = {
    gpt: (conformance.integers("accumulation", (COUNT, 9), 20),),
    ddpm: (IMAGES, np.arange(COUNT) % 3),
    vae: (0.5 + 0.5 * IMAGES,),
    dcgan: (IMAGES,),
}


def trained(make, batches, run_eagerly):
    """A model after some epochs of two updates, each of so many batches."""
    model = make()
    schedule = keras.optimizers.schedules.ExponentialDecay(1e-2, 2, 0.5)
    optimizers = {
        "optimizer" if len(model.players) == 1 else f"{name}_optimizer": (
            keras.optimizers.Adam(
                schedule,
                clipnorm=1.0,
                epsilon=1e-3,
                gradient_accumulation_steps=batches if batches > 1 else None,
            )
        )
        for name in model.players
    }
    model.compile(**optimizers, run_eagerly=run_eagerly)
    history = model.fit(
        *DATA[make],
        batch_size=COUNT // 2 // batches,
        epochs=EPOCHS,
        shuffle=False,
        verbose=0,
    ).history
    kept = [v for v in model.variables if v is not model.gathered]
    return model, [conformance.host(v.value) for v in kept], history


@pytest.fixture(scope="module")
def whole():
    made = {}

    def run(make):
        if make not in made:
            made[make] = trained(make, 1, BACKEND == "jax")
        return made[make]

    return run


# What is asked of a backend is in the last two.
@pytest.mark.parametrize("batches", [2, 3, 4] if BACKEND == "torch" else [3])
@pytest.mark.parametrize("make", list(DATA) if BACKEND == "torch" else [vae, dcgan])
def test_it_is_the_whole_batch(whole, make, batches):
    """Weights, averages, noise and logs."""
    reference, values, history = whole(make)
    model, parts, logs = trained(make, batches, BACKEND == "jax")
    assert int(conformance.host(model.noise.step.value)) == 2 * EPOCHS
    for part, value in zip(parts, values, strict=True):
        np.testing.assert_allclose(part, value, rtol=0, atol=1e-5)
    for name, value in history.items():
        np.testing.assert_allclose(logs[name], value, rtol=1e-5, atol=1e-5)
    if model.ema is not None:
        turns = EPOCHS * (2 if make is dcgan else 2)
        assert int(conformance.host(model.ema.updates.value)) == turns
    assert reference.gathered is None


def test_a_file_keeps_what_was_gathered(tmp_path):
    model, *_ = trained(vae, 2, False)
    model.train_on_batch(DATA[vae][0][:6])
    model.save(tmp_path / "model.keras")
    loaded = kg.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(backend.to_host(loaded.gathered.value), [1, 6])
    for each in (model, loaded):
        each.train_on_batch(DATA[vae][0][6:12])
    conformance.assert_same_state(
        loaded, [conformance.host(v.value) for v in conformance.state(model)]
    )


def test_the_average_follows_its_player_alone():
    """Not at the batches at which its player waits."""
    model = dcgan()
    model.compile()
    model.fit(IMAGES, batch_size=4, verbose=0)  # six steps: three turns of two updates
    assert int(backend.to_host(model.ema.updates.value)) == 6
