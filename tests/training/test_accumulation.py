"""The gradients of k batches in one update: the whole batch's, in all that counts."""

import types

import keras
import numpy as np
import pytest

import keras_genai as kg
from keras_genai import backend
from keras_genai.backend.devices import Devices
from keras_genai.layers.initializers import VarianceScaling
from keras_genai.training import fitting
from tests.support import conformance
from tests.support.processes import OnDevices

pytestmark = pytest.mark.in_turn

BACKEND = keras.backend.backend()
COUNT, EPOCHS = 24, 3
IMAGES = conformance.uniform("accumulation", (COUNT, 4, 4, 1))


def dense(units, name, **kwargs):
    initializer = VarianceScaling(1.0, "fan_in", seed=1, stream=name)
    return keras.layers.Dense(units, kernel_initializer=initializer, **kwargs)


def gpt():
    return kg.GPT(
        num_layers=1,
        hidden_dim=16,
        num_heads=2,
        max_sequence_length=8,
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


ALL = BACKEND == "torch" or conformance.THOROUGH


@pytest.mark.parametrize("batches", [2, 3, 4] if ALL else [3])
@pytest.mark.parametrize("make", list(DATA) if ALL else [vae])
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


# `compile(accumulate=k)`: the parts of one batch in one step.


def bert():
    """Two heads, of which one counts by hidden words and the other by pairs."""
    sizes = {
        "num_layers": 1,
        "hidden_dim": 8,
        "num_heads": 2,
        "max_sequence_length": 8,
        "vocabulary_size": 20,
    }
    return kg.BERT(**sizes, mask_token_id=3, next_sentence=True, dropout=0.2)


def cgan():
    """Labels and weights go with their images into the parts."""
    model = dcgan()
    inputs = [keras.Input((4,)), keras.Input((), dtype="int32")]
    joined = keras.layers.Concatenate()(
        [inputs[0], dense(2, "l")(keras.ops.one_hot(inputs[1], 3))]
    )
    generator = keras.Model(inputs, model.generator(dense(4, "j")(joined)))
    inputs = [keras.Input((4, 4, 1)), keras.Input((), dtype="int32")]
    score = model.discriminator(inputs[0])
    score += dense(1, "s")(keras.ops.one_hot(inputs[1], 3))
    discriminator = keras.Model(inputs, score)
    return kg.CGAN(
        (4, 4, 1),
        3,
        4,
        generator=generator,
        discriminator=discriminator,
        penalties={"r1": 1.0},
        penalty_interval=2,
        generator_steps=2,
        ema_decay=0.9,
    )


TEXTS = conformance.integers("accumulation/texts", (COUNT, 8), 16) + 4
PARTS = {
    gpt: DATA[gpt],
    ddpm: DATA[ddpm],
    vae: DATA[vae],
    dcgan: DATA[dcgan],
    bert: (
        {"tokens": TEXTS, "token_types": np.arange(8)[None].repeat(COUNT, 0) // 4},
        np.arange(COUNT) % 2,
    ),
    cgan: (IMAGES, np.arange(COUNT) % 3),
}


def in_parts(make, parts, weighted):
    """A model after steps on batches of 10, 10 and 4, each cut into so many parts."""
    model = make()
    names = list(model.players)
    one = len(names) == 1
    model.compile(
        **{
            "optimizer" if one else f"{name}_optimizer": keras.optimizers.Adam(
                1e-2, clipnorm=1.0, epsilon=1e-3
            )
            for name in names
        },
        accumulate=parts,
    )
    weight = conformance.uniform("accumulation/weights", (COUNT,), 0.1, 3.0)
    weight[3:6] = 0.0
    data = PARTS[make]
    history = model.fit(
        *data,
        sample_weight=weight if weighted else None,
        batch_size=10,
        epochs=2,
        verbose=0,
    ).history
    values = [conformance.host(v.value) for v in conformance.state(model)]
    return model, values, history


CASES = [(make, weighted) for make in PARTS for weighted in (False, True)]
if not ALL:
    CASES = [(vae, True)]


@pytest.mark.parametrize("make,weighted", CASES)
def test_the_parts_of_a_step_are_the_whole_batch(make, weighted):
    """Weights, averages, optimizers, noise and logs, whatever the samples' weights."""
    _, values, history = in_parts(make, 1, weighted)
    for parts in (2, 3) if ALL else (3,):
        model, others, logs = in_parts(make, parts, weighted)
        for one, other in zip(values, others, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)
        for name, value in history.items():
            np.testing.assert_allclose(logs[name], value, rtol=1e-5, atol=1e-5)
        assert model.get_compile_config()["accumulate"] == parts


def test_parts_that_cannot_be_cut_are_refused():
    model = vae()
    model.compile(accumulate=5)
    with pytest.raises(ValueError, match="accumulate=5.*the last batch has 4 samples"):
        model.fit(*DATA[vae], batch_size=10)
    with pytest.raises(ValueError, match="accumulate=5.*the first batch has 4 samples"):
        model.fit(iter([DATA[vae][0][:4]]))
    with pytest.raises(ValueError, match="accumulate=5.*the batch has 4 samples"):
        model.train_on_batch(DATA[vae][0][:4])
    if BACKEND != "tensorflow":  # whose batches of an iterable have any size
        with pytest.raises(ValueError, match="accumulate=5.*this one has 4 samples"):
            model.fit(iter([(DATA[vae][0][:n],) for n in (6, 4)]), verbose=0)
    with pytest.raises(ValueError, match="give one of them"):
        model.compile(
            keras.optimizers.Adam(gradient_accumulation_steps=2), accumulate=2
        )
    with pytest.raises(ValueError, match="accumulate must be"):
        model.compile(accumulate=0)

    class Whole(type(model)):
        def train_step(self, data):
            self.minimize("vae", lambda: keras.ops.sum(self.decoder.weights[0] ** 2))

    model = Whole(image_shape=(4, 4, 1), latent_dim=4, hidden_units=(8,))
    model.compile(accumulate=2)
    with pytest.raises(ValueError, match=r"must give minimize\('vae'"):
        model.fit(*DATA[vae], verbose=0)


def divided(size, batch_size, devices, accumulate):
    """What `fit` checks before any step of batches that several devices share."""
    model = types.SimpleNamespace(
        accumulate=accumulate, devices=lambda: devices, seed=0, check_data=None
    )
    return fitting.from_arrays(
        model,
        (np.zeros((size, 2)), None, None),
        batch_size=batch_size,
        shuffle=False,
        steps_per_epoch=None,
        validation_split=0.0,
        validation_data=None,
        validation_batch_size=None,
    )


REPLICAS = Devices("replicas", 4, even=False)
WHOLE = Devices("devices", 4, 4, whole=True)


def test_each_replica_cuts_its_own_part():
    with pytest.raises(ValueError, match="each of the 4 replicas.*8 samples.*gets 2"):
        divided(8, 8, REPLICAS, 4)
    with pytest.raises(ValueError, match="the last batch has 7 samples.*gets 1"):
        divided(23, 16, REPLICAS, 2)
    divided(16, 16, REPLICAS, 4)
    divided(24, 16, REPLICAS, 2)
    with pytest.warns(UserWarning, match="left out"):  # the last one, of 3 samples
        divided(19, 16, REPLICAS, 4)
    divided(8, 8, WHOLE, 8)  # the compiler divides each part
    with pytest.raises(ValueError, match="accumulate=8 .*into as many parts; .*has 4"):
        divided(12, 8, WHOLE, 8)


def test_a_batch_of_an_iterable_is_one_process_s():
    assert Devices("processes", 4, 1, (1, 4)).least_of_own(8) == 8
    assert REPLICAS.least_of_own(8) == 2
    assert WHOLE.least_of_own(8) == 8


class TestAccumulation(OnDevices):
    """Parts of the parts that devices have; too few samples for them are refused."""

    @staticmethod
    def on_devices():
        model = vae()
        model.compile(keras.optimizers.Adam(1e-2, epsilon=1e-3), accumulate=4)
        model.fit(*DATA[vae], batch_size=8, epochs=2, verbose=0)
        weights = [conformance.host(v.value).ravel() for v in model.variables]
        made = {"weights": np.concatenate(weights), "refused": 0.0}
        try:
            model.fit(DATA[vae][0][:4], batch_size=4, verbose=0)
        except ValueError as error:
            assert "accumulate=4 cuts each batch" in str(error)
            made["refused"] = 1.0
            after = [conformance.host(v.value).ravel() for v in model.variables]
            assert all(map(np.array_equal, weights, after))
        return made

    def reference(self):
        return {**self.on_devices(), "refused": float(BACKEND != "jax")}


def test_a_file_keeps_the_parts(tmp_path):
    model = vae()
    model.compile(accumulate=2)
    model.save(tmp_path / "model.keras")
    assert kg.load_model(tmp_path / "model.keras").accumulate == 2


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
