"""A run of a small model, cut off where a test wants it."""

import keras
import numpy as np

import keras_genai as kg


class StopAt(keras.callbacks.Callback):
    """Interrupts before a batch of an epoch, as a kill would."""

    def __init__(self, epoch, batch):
        super().__init__()
        self.at = (epoch, batch)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            raise KeyboardInterrupt


def build():
    """A model with labels and an average, of few operations: it compiles fast."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    latents = keras.Input((4,))
    labels = keras.Input((), dtype="int32")
    embedded = layers.Embedding(3, 4)(labels)
    x = layers.Concatenate()([latents, embedded])
    images = layers.Reshape((8, 8, 1))(layers.Dense(64, "tanh")(x))
    generator = keras.Model([latents, labels], images)
    images = keras.Input((8, 8, 1))
    x = layers.Concatenate()([layers.Flatten()(images), layers.Embedding(3, 4)(labels)])
    discriminator = keras.Model([images, labels], layers.Dense(1)(x))
    model = kg.CGAN(
        (8, 8, 1),
        num_classes=3,
        latent_dim=4,
        ema_decay=0.5,
        generator=generator,
        discriminator=discriminator,
    )
    model.compile(
        generator_optimizer=keras.optimizers.SGD(
            keras.optimizers.schedules.PolynomialDecay(0.5, 40, 0.0)
        ),
        discriminator_optimizer=keras.optimizers.SGD(0.25),
    )
    return model


def data():
    """Four batches of 8."""
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (32, 8, 8, 1)).astype("float32")
    return images, rng.integers(0, 3, 32)


def fit(callbacks, model=None, epochs=2, stop=None, **options):
    model = model or build()
    images, labels = data()
    callbacks = [*callbacks, *([StopAt(*stop)] if stop else [])]
    try:
        model.fit(
            images,
            labels,
            batch_size=8,
            epochs=epochs,
            verbose=0,
            callbacks=callbacks,
            **options,
        )
    except KeyboardInterrupt:
        assert stop
    return model
