"""Twenty steps from one seed are the same on every backend, with all switched on.

Batch norm, dropout, R1 at every second step, an average of the generator, and
optimizers with accumulation, clipping and a schedule, driven by `fit` with its
shuffling and a partial batch.
"""

import functools

import keras
import numpy as np

import keras_genai as kg
from keras_genai import layers
from keras_genai.layers.initializers import Normal, VarianceScaling
from tests.support import conformance
from tests.support.conformance import Golden, assert_golden, host

EPOCHS = 4
BATCH = 8
IMAGES = 4 * BATCH + BATCH // 2  # five steps in an epoch, the last of four images


def _glorot(stream):
    return VarianceScaling(seed=7, stream=stream)


def generator():
    """Latents `(B, 8)` -> images `(B, 8, 8, 1)`."""
    return keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(
                128, use_bias=False, kernel_initializer=_glorot("g/1"), name="g_1"
            ),
            keras.layers.Reshape((4, 4, 8), name="g_2"),  # (B, 4, 4, 8)
            layers.BatchNormalization(
                gamma_initializer=Normal(0.02, 1.0, seed=7, stream="g/3"), name="g_3"
            ),
            keras.layers.ReLU(name="g_4"),
            layers.Dropout(0.2, seed=7, stream="g/5", name="g_5"),
            keras.layers.Conv2DTranspose(
                1,
                4,
                strides=2,
                padding="same",
                kernel_initializer=_glorot("g/6"),
                name="g_6",
            ),  # (B, 8, 8, 1)
            keras.layers.Activation("tanh", name="g_7"),
        ],
        name="generator",
    )


def discriminator():
    """Images `(B, 8, 8, 1)` -> logits `(B, 1)`."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(
                8,
                4,
                strides=2,
                padding="same",
                kernel_initializer=_glorot("d/1"),
                name="d_1",
            ),  # (B, 4, 4, 8)
            keras.layers.LeakyReLU(0.2, name="d_2"),
            layers.Dropout(0.3, seed=7, stream="d/3", name="d_3"),
            keras.layers.Conv2D(
                16,
                4,
                strides=2,
                padding="same",
                use_bias=False,
                kernel_initializer=_glorot("d/4"),
                name="d_4",
            ),  # (B, 2, 2, 16)
            layers.BatchNormalization(name="d_5"),
            keras.layers.LeakyReLU(0.2, name="d_6"),
            keras.layers.Flatten(name="d_7"),
            keras.layers.Dense(1, kernel_initializer=_glorot("d/8"), name="d_8"),
        ],
        name="discriminator",
    )


def optimizer(rate):
    return keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(rate, 12),
        beta_1=0.5,
        clipnorm=1.0,
        gradient_accumulation_steps=2,
    )


def make(wrap=lambda optimizer: optimizer):
    model = kg.DCGAN(
        image_shape=(8, 8, 1),
        latent_dim=8,
        generator=generator(),
        discriminator=discriminator(),
        penalties={"r1": 1.0},
        penalty_interval=2,
        label_smoothing=0.1,
        ema_decay=0.9,
        seed=7,
    )
    model.compile(
        discriminator_optimizer=wrap(optimizer(2e-3)),
        generator_optimizer=wrap(optimizer(1e-3)),
    )
    return model


def data():
    return conformance.uniform("twenty steps", (IMAGES, 8, 8, 1))


class _Losses(keras.callbacks.Callback):
    """Each step's losses, from the means that the logs show."""

    def __init__(self):
        super().__init__()
        self.steps = {}

    def on_epoch_begin(self, epoch, logs=None):
        self.sums = {}

    def on_train_batch_end(self, batch, logs=None):
        for name, mean in logs.items():
            total = (batch + 1) * float(mean)
            step = total - self.sums.get(name, 0.0)
            self.steps.setdefault(name, []).append(step)
            self.sums[name] = total


@functools.cache
def twenty_steps():
    """What is compared, by name."""
    return steps(make(), EPOCHS)


def steps(model, epochs):
    """What is compared after epochs of five steps."""
    losses = _Losses()
    model.fit(data(), batch_size=BATCH, epochs=epochs, callbacks=[losses], verbose=0)
    weights = [host(v.value).astype("float64") for v in model.variables]
    state = [host(v.value).astype("float64") for v in model.optimizer.variables]
    return {
        **losses.steps,
        "sums of weights": [w.sum() for w in weights],
        "sums of magnitudes": [np.abs(w).sum() for w in weights],
        "sums of optimizer state": [s.sum() for s in state],
        "samples of the average": model.generate(8, seed=1),
    }


GOLDEN = Golden(
    "twenty_steps", lambda: conformance.describe(make(), data()), twenty_steps
)


def test_twenty_steps_agree_with_the_golden_file():
    reference, got = GOLDEN.read(), twenty_steps()
    assert set(got) == set(reference)
    assert len(got["generator_loss"]) == 20
    for name, values in got.items():
        assert_golden(values, reference[name], name)
