"""What is compiled is kept by all that it depends on, and not for ever."""

import gc
import threading
import weakref

import keras
import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from keras_genai import backend
from keras_genai.backend.programs import EXACT, KEPT, Programs, Traits
from keras_genai.training import GenerativeModel
from tests.support import tiny_ddpm as tiny
from tests.support.conformance import BACKEND, host

ONE = np.ones((2, 1), "float32")


class Line(GenerativeModel):
    """`y = factor w x`, fitted to 0."""

    def __init__(self):
        super().__init__(seed=0)
        dense = keras.layers.Dense(1, kernel_initializer="ones", use_bias=False)
        self.net = keras.Sequential([keras.Input((1,)), dense])
        self.set_players("net")
        self.factor, self.traced = 2.0, 0

    def train_step(self, data):
        self.traced += 1  # its own change is none
        x = ops.convert_to_tensor(data[0])
        self.minimize("net", lambda: ops.mean(self.factor * self.net(x)))

    def call(self, x):
        return self.factor * self.net(x)

    def times(self, x, by=1.0):
        return self.run_compiled(("times", by), lambda x: by * self(x), [], x)


def test_the_last_used_are_kept_and_the_others_are_freed():
    model, functions = Line(), []
    for number in range(KEPT + 4):

        def fn(x, number=number):
            return number * x

        functions.append(weakref.ref(fn))
        made = model.run_compiled(("a", number), fn, [], ops.convert_to_tensor(ONE))
        np.testing.assert_array_equal(made, number * ONE)
        model.run_compiled(("a", 0), fn, [], ops.convert_to_tensor(ONE))
        del fn
    assert len(model.programs) == KEPT
    gc.collect()
    alive = [number for number, ref in enumerate(functions) if ref() is not None]
    assert alive == [0, *range(5, KEPT + 4)]
    model.forget_compiled()
    gc.collect()
    assert not any(ref() for ref in functions)


def test_another_model_in_the_name_counts_by_its_attributes():
    model, other, x = Line(), Line(), ops.convert_to_tensor(ONE)

    def call():
        name = ("both", ("other", other))
        return model.run_compiled(name, lambda x: model(x) + other(x), [], x)

    np.testing.assert_array_equal(call(), 4 * ONE)
    other.factor = 3.0
    np.testing.assert_array_equal(call(), 5 * ONE)


def executables():
    """How many programs JAX has compiled and holds, those of single operations too."""
    gc.collect()
    if BACKEND != "jax":
        return 0
    import jax

    return len(jax.local_devices()[0].client.live_executables())


def test_other_counts_and_steps_compile_nothing_and_the_dropped_are_freed():
    network = tiny.network(num_classes=2)
    model = kg.DDPM(network, image_shape=(4, 4, 1), num_classes=2, ema_decay=0.5)
    images = np.zeros((8, 4, 4, 1), "float32")

    def ask(count, steps):
        if count == 2:
            model.generate(count, num_steps=steps)
        else:
            model.img2img(images[:count], 0.5, num_steps=2 * steps)

    for count in (2, 8):
        ask(count, 3)
    held, programs = executables(), len(model.programs)
    for count, steps in ((5, 3), (6, 32), (7, 9), (2, 64), (2, 9)):
        ask(count, steps)
    assert executables() == held
    if backend.COMPILES:
        assert len(model.programs) == programs == 2
        model.generate(2, num_steps=65)
        assert len(model.programs) == 3
    model.forget_compiled()
    assert executables() <= max(held - programs, 0)


def test_an_attribute_a_shape_and_a_dtype_are_part_of_the_name():
    model = Line()
    for _ in range(2):
        for factor in (2.0, 3.0):
            model.factor = factor
            np.testing.assert_array_equal(model.times(ONE), factor * ONE)
            np.testing.assert_array_equal(model.times(ONE[:1]), factor * ONE[:1])
    assert len(model.programs) == 4
    model.net.layers[-1].activation = keras.activations.relu
    np.testing.assert_array_equal(model.times(-ONE), 0 * ONE)
    model.net = keras.Sequential([keras.Input((1,)), keras.layers.ReLU()])
    np.testing.assert_array_equal(model.times(ONE, by=2.0), 6 * ONE)


def test_several_threads_get_what_they_ask_for():
    model, wrong = Line(), []

    def ask(shift):
        for step in range(30):
            by = float(1 + (step + shift) % 20)
            if not np.array_equal(model.times(ONE, by), by * 2 * ONE):
                wrong.append(by)

    threads = [threading.Thread(target=ask, args=(7 * k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(model.programs) <= KEPT


@pytest.mark.once
def test_traits():
    model = kg.VAE(image_shape=(4, 4, 1), latent_dim=2, hidden_units=(4,))
    first = Traits(model)
    assert first == Traits(model)
    model.generate(2)
    model.compile()
    model.fit(np.zeros((2, 4, 4, 1), "float32"), verbose=0)
    assert first == Traits(model), "a fit is no change of what is computed"

    def dense(layer):
        return next(x for x in layer._flatten_layers() if hasattr(x, "units"))

    for holder, name, value in (
        (model, "beta", 2.0),
        (model, "beta", np.float32(3.0)),
        (model, "beta", lambda step: 1.0),
        (model, "capacity", (1, 2.0)),
        (model, "seed", True),
        (model, "encoder", model.decoder),
        (dense(model.decoder), "activation", keras.activations.selu),
        (dense(model.decoder), "trainable", False),
        (dense(model.decoder), "dtype_policy", keras.DTypePolicy("mixed_bfloat16")),
    ):
        before, old = Traits(model), getattr(holder, name)
        setattr(holder, name, value)
        assert before != Traits(model), f"{name} = {value!r}"
        setattr(holder, name, old)
        if name != "encoder":
            assert before == Traits(model), f"{name} as it was"


def test_counts_go_into_powers_of_two():
    programs = Programs()
    counts = [programs.rows(count, 64) for count in range(1, 101)]
    if not backend.COMPILES:
        assert counts == [min(count, 64) for count in range(1, 101)]
        return
    assert counts[:EXACT] == [1, 2]
    assert set(counts) == {1, 2, 4, 8, 16, 32, 64}
    assert all(made >= min(n, 64) for n, made in enumerate(counts, 1))
    assert programs.rows(5, 6) == 6


class Change(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.model.factor = 2.0 + epoch // 2


def test_an_attribute_between_two_fits_and_epochs_is_heeded():
    weights, traced = [], []
    for eager in (True, False):
        model = Line()
        model.compile(keras.optimizers.SGD(0.01), run_eagerly=eager)
        model.fit(ONE, batch_size=1, epochs=4, callbacks=[Change()], verbose=0)
        weights.append(host(model.net.weights[0]))
        model.fit(ONE, batch_size=1, verbose=0)
        traced.append(model.traced)
        model.fit(ONE, batch_size=1, verbose=0)
        traced.append(model.traced)
        model.factor = 7.0
        model.fit(ONE, batch_size=1, verbose=0)
        model.train_on_batch(ONE[:1])
        weights.append(host(model.net.weights[0]))
        model.optimizer.clipnorm = 0.1
        model.train_on_batch(ONE[:1])
        weights.append(host(model.net.weights[0]))
        model.factor = 5.0
        weights.append(model.predict(ONE, verbose=0))
        model.factor = 6.0
        weights.append(model.predict(ONE, verbose=0))
    for made, right in zip(weights[5:], weights[:5], strict=True):
        np.testing.assert_allclose(made, right, rtol=1e-6)
    if BACKEND != "torch":
        assert traced[2] == traced[3], "the step's own attribute had it traced again"
