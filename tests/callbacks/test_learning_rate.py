"""One player's learning rate by epoch, and everyone's by Keras's own callback."""

import keras
import numpy as np
import pytest

import keras_genai as kg

pytestmark = pytest.mark.in_turn


def fit(callback):
    model = kg.DCGAN((8, 8, 1), 4, base_filters=4)
    model.compile(
        generator_optimizer=keras.optimizers.SGD(0.5),
        discriminator_optimizer=keras.optimizers.SGD(0.25),
    )
    images = np.zeros((8, 8, 8, 1), "float32")
    history = model.fit(
        images, batch_size=8, epochs=3, verbose=0, callbacks=[callback]
    ).history
    rates = {
        name: float(keras.ops.convert_to_numpy(optimizer.learning_rate))
        for name, optimizer in model.optimizers.items()
    }
    return rates, history


def halve(epoch, rate):
    return rate * 0.5


def test_one_player():
    rates, history = fit(kg.callbacks.LearningRateScheduler(halve, player="generator"))
    assert rates == {"generator": 0.0625, "discriminator": 0.25}
    assert history["generator_learning_rate"] == [0.25, 0.125, 0.0625]


@pytest.mark.parametrize(
    "make",
    [keras.callbacks.LearningRateScheduler, kg.callbacks.LearningRateScheduler],
)
def test_all_players(make):
    rates, _ = fit(make(halve))
    assert rates == {"generator": 0.0625, "discriminator": 0.03125}


def test_an_unknown_player_is_refused():
    with pytest.raises(ValueError, match="discriminator, generator"):
        fit(kg.callbacks.LearningRateScheduler(halve, player="critic"))
