"""`GenerativeModel`: compiling, the inputs of `fit`, and what is refused."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from keras_genai.training import GenerativeModel
from keras_genai.training.optimizer import PlayersOptimizer

pytestmark = pytest.mark.in_turn


def data(n=24):
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (n, 8, 8, 1)).astype("float32")
    return images, rng.integers(0, 3, n).astype("int32")


def build(**kwargs):
    model = kg.CGAN((8, 8, 1), 3, 4, base_filters=4, **kwargs)
    model.compile()
    return model


def weights(model):
    return [ops.convert_to_numpy(v.value) for v in model.variables]


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return tuple(a[8 * index : 8 * index + 8] for a in data())


def as_tf_data():
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(data()).batch(8)


def as_loader():
    import torch

    tensors = [torch.from_numpy(a) for a in data()]
    dataset = torch.utils.data.TensorDataset(*tensors)
    return torch.utils.data.DataLoader(dataset, batch_size=8)


def as_generator():
    while True:
        yield from (Batches()[i] for i in range(3))


@pytest.fixture(scope="module")
def ordered():
    model = build()
    model.fit(*data(), batch_size=8, epochs=2, verbose=0, shuffle=False)
    return weights(model)


@pytest.mark.parametrize(
    "make", [Batches, as_tf_data, as_loader, as_generator], ids=lambda f: f.__name__
)
def test_every_input_keeps_its_order(ordered, make):
    model = build()
    steps = {"steps_per_epoch": 3} if make is as_generator else {}
    model.fit(make(), epochs=2, verbose=0, **steps)
    for ours, wanted in zip(weights(model), ordered, strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)


def test_tensors_validation_and_weights():
    images, labels = data()
    model = build()
    history = model.fit(
        ops.convert_to_tensor(images),
        ops.convert_to_tensor(labels),
        sample_weight=np.ones(24, "float32"),
        batch_size=8,
        validation_split=0.25,
        verbose=0,
    ).history
    assert set(history) == {
        f"{prefix}{name}"
        for prefix in ("", "val_")
        for name in ("discriminator_loss", "generator_loss", "loss")
    }
    before = weights(model)
    logs = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(
        logs["discriminator_loss"] + logs["generator_loss"], rel=1e-5
    )
    assert model.evaluate(images, labels, verbose=0, return_dict=True) == logs
    for ours, wanted in zip(weights(model), before, strict=True):
        np.testing.assert_array_equal(ours, wanted)


def test_sample_weights_count():
    images, labels = data(8)
    one = build()
    weight = np.zeros(8, "float32")
    weight[:4] = 2.0
    logs = one.train_on_batch(images, labels, weight, return_dict=True)
    other = build().train_on_batch(images, labels, return_dict=True)
    assert logs["discriminator_loss"] != other["discriminator_loss"]


def test_weights_need_no_labels():
    images, _ = data(8)
    models = [kg.DCGAN((8, 8, 1), 4, base_filters=4) for _ in range(3)]
    for model in models:
        model.compile()
    ones = np.ones(8, "float32")
    models[0].fit(images, batch_size=8, verbose=0)
    models[1].fit(images, sample_weight=ones, batch_size=8, verbose=0)
    models[1].evaluate(images, sample_weight=ones, verbose=0)
    models[2].train_on_batch(images, sample_weight=ones)
    for other in models[1:]:
        for ours, wanted in zip(weights(models[0]), weights(other), strict=True):
            np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)


def test_class_weights_are_sample_weights():
    images, labels = data(8)
    one, other = build(), build()
    one.fit(
        images, labels, class_weight={0: 1.0, 1: 3.0, 2: 0.5}, batch_size=8, verbose=0
    )
    weight = np.array([1.0, 3.0, 0.5], "float32")[labels]
    other.fit(images, labels, sample_weight=weight, batch_size=8, verbose=0)
    for ours, wanted in zip(weights(one), weights(other), strict=True):
        np.testing.assert_array_equal(ours, wanted)


def test_one_optimizer_twice_is_refused():
    model = kg.DCGAN((8, 8, 1), 4, base_filters=4)
    adam = keras.optimizers.Adam()
    with pytest.raises(ValueError, match="same optimizer instance"):
        model.compile(generator_optimizer=adam, discriminator_optimizer=adam)
    with pytest.raises(ValueError, match="use_ema=True"):
        model.compile(generator_optimizer=keras.optimizers.Adam(use_ema=True))
    with pytest.raises(ValueError, match="does not take optimizer"):
        model.compile("adam")
    with pytest.raises(ValueError, match="critic_optimizer"):
        model.compile(critic_optimizer="adam")
    build_other = kg.DCGAN((8, 8, 1), 4, base_filters=4)
    build_other.compile(generator_optimizer=adam)
    with pytest.raises(ValueError, match="already used for other"):
        model.compile(generator_optimizer=adam)


def test_fit_before_compile_is_refused():
    with pytest.raises(ValueError, match="compile"):
        kg.DCGAN((8, 8, 1), 4, base_filters=4).fit(data()[0])


def test_players_optimizer_is_saved_and_guarded():
    model = build()
    optimizer = model.optimizer
    assert isinstance(optimizer, PlayersOptimizer)
    assert list(optimizer.players) == ["discriminator", "generator"]
    count = sum(len(o.variables) for o in optimizer.optimizers)
    assert len(optimizer.variables) == count
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert copy.get_config() == optimizer.get_config()
    with pytest.raises(ValueError, match="one player"):
        optimizer.apply([])
    with pytest.raises(AttributeError, match="no one learning rate"):
        _ = optimizer.learning_rate


@keras.saving.register_keras_serializable("tests")
class Line(GenerativeModel):
    """A model of one player: a line through points."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.line = keras.Sequential(
            [keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="zeros")]
        )
        self.set_players("line")

    def train_step(self, data):
        x, y, _ = data
        self.minimize("line", lambda: ops.mean(ops.square(self.line(x) - y)))

    def test_step(self, data):
        x, y, _ = data
        self.track("line", ops.mean(ops.square(self.line(x) - y)))

    def call(self, x):
        return self.line(x)


def test_one_player_takes_optimizer_and_logs_loss(tmp_path):
    model = Line()
    model.compile(keras.optimizers.SGD(0.1))
    x = np.linspace(-1, 1, 32, dtype="float32")[:, None]
    history = model.fit(x, 3 * x + 1, batch_size=8, epochs=60, verbose=0).history
    assert list(history) == ["loss"]
    layer = model.line.layers[0]
    assert float(ops.convert_to_numpy(layer.kernel)[0, 0]) == pytest.approx(3, abs=1e-2)
    assert model.evaluate(x, 3 * x + 1, verbose=0) < 1e-3
    model.save(tmp_path / "line.keras")
    again = kg.load_model(tmp_path / "line.keras")
    rate = ops.convert_to_numpy(again.optimizer.learning_rate)
    assert float(rate) == pytest.approx(0.1)


def test_steps_per_execution():
    images, labels = data()
    one = build()
    one.fit(images, labels, batch_size=8, epochs=2, verbose=0)
    model = kg.CGAN((8, 8, 1), 3, 4, base_filters=4)
    model.compile(steps_per_execution=2)
    if keras.backend.backend() == "torch":
        with pytest.raises(ValueError, match="steps_per_execution"):
            model.fit(images, labels, batch_size=8, verbose=0)
        return
    model.fit(images, labels, batch_size=8, epochs=2, verbose=0)
    for ours, wanted in zip(weights(model), weights(one), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", [-1, 1.5, True, "0"])
def test_bad_seeds_are_refused(seed):
    with pytest.raises(ValueError, match="seed"):
        kg.DCGAN((8, 8, 1), 4, base_filters=4, seed=seed)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX compiles by program")
def test_the_same_model_traces_to_the_same_program():
    """Nothing in the step may hang on addresses: the compile cache goes by its text."""

    def program():
        model = build(
            discriminator_conditioning="projection",
            discriminator_normalization="spectral_norm",
            generator_conditioning="conditional_batch_norm",
            augment=kg.gans.DiffAugment(),
            penalties={"r1": 1.0},
            penalty_interval=2,
            ema_decay=0.9,
        )
        step = model._compiled_step(model._run_train_step, True)
        names = ("trainable", "non_trainable", "optimizer", "metrics")
        state = model._get_jax_state(**{f"{name}_variables": True for name in names})
        return step.lower(state, tuple(a[:8] for a in data())).as_text(), model

    # Memory freed out of order, so that each model's variables lie in another one.
    scattered = [keras.Variable(0.0) for _ in range(600)]
    made = []
    for seed in range(3):
        for i in np.random.default_rng(seed).permutation(600)[:200]:
            scattered[i] = None
        made.append(program())
    assert len({text for text, _ in made}) == 1


class Small(GenerativeModel):
    """Two players that each want to be zero."""

    def __init__(self, seed=0):
        super().__init__(seed=seed)
        for name in ("one", "two"):
            layer = keras.layers.Dense(2, name=name)
            layer.build((None, 2))
            setattr(self, name, layer)
        self.set_players("one", "two")

    def train_step(self, data):
        for name, net in self.players.items():
            self.minimize(name, lambda net=net: ops.mean(ops.square(net(data[0]))))

    def get_config(self):
        return {"seed": self.seed}


def test_what_does_not_decay_is_kept_in_the_configuration():
    """By names and by variables, also inside a loss scale."""
    model = Small()
    one = keras.optimizers.AdamW(1e-2, weight_decay=0.5)
    one.exclude_from_weight_decay(var_names=["bias"])
    two = keras.optimizers.AdamW(1e-2, weight_decay=0.5)
    two.exclude_from_weight_decay(var_list=[model.two.kernel])
    model.compile(
        one_optimizer=one, two_optimizer=keras.optimizers.LossScaleOptimizer(two)
    )
    config = model.get_compile_config()
    assert config["not_decayed"] == {"one": [1], "two": [0]}
    again = Small()
    again.compile_from_config(config)
    again.set_weights(model.get_weights())
    x = np.ones((4, 2), "float32")
    for each in (model, again):
        each.fit(x, batch_size=2, epochs=2, verbose=0)
    for a, b in zip(weights(model), weights(again), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-7)
    assert "not_decayed" in model.get_compile_config()
    plain = Small()
    plain.compile(one_optimizer="adam", two_optimizer="adam")
    assert plain.get_compile_config()["not_decayed"] is None


BAD_NUMBERS = [
    *[("batch_size", value) for value in (0, "", (), True, float("inf"), -1, "32")],
    *[("epochs", value) for value in (0, -1, 1.5, True)],
    ("initial_epoch", -1),
    ("initial_epoch", 2),
    *[("steps_per_epoch", value) for value in (0, -1, float("inf"))],
    *[("validation_split", value) for value in (1.0, -0.1, "", float("nan"))],
    ("validation_batch_size", 0),
]


@pytest.mark.parametrize(("name", "value"), BAD_NUMBERS, ids=str)
def test_numbers_of_fit_are_checked(name, value):
    model = Small()
    model.compile(one_optimizer="sgd", two_optimizer="sgd")
    with pytest.raises(ValueError, match=name):
        model.fit(np.ones((4, 2), "float32"), verbose=0, **{name: value})
    if name == "batch_size":
        with pytest.raises(ValueError, match=name):
            model.evaluate(np.ones((4, 2), "float32"), verbose=0, batch_size=value)


def test_numpy_integers_are_integers():
    model = Small()
    model.compile(one_optimizer="sgd", two_optimizer="sgd")
    x, two = np.ones((4, 2), "float32"), np.int64(2)
    history = model.fit(x, batch_size=two, epochs=two, steps_per_epoch=two, verbose=0)
    assert len(history.epoch) == 2
