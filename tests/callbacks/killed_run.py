"""A run that `test_resume.py` kills: trains, or goes on, and stores its variables.

Arguments: the file of Resume (or "-"), the result, the number of epochs.
"""

import sys

import keras
import numpy as np

import keras_genai as kg


class Report(keras.callbacks.Callback):
    """Says which batch begins, so that the parent can choose its moment."""

    def on_train_batch_begin(self, batch, logs=None):
        print("batch", batch, flush=True)


def build():
    model = kg.CGAN(
        image_shape=(8, 8, 1),
        num_classes=3,
        latent_dim=4,
        base_filters=4,
        generator_conditioning="conditional_batch_norm",
        discriminator_conditioning="projection",
        loss="hinge",
        penalties={"r1": 1.0},
        penalty_interval=3,
        ema_decay=0.9,
    )
    model.compile(
        generator_optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.ExponentialDecay(1e-3, 10, 0.9)
        ),
        discriminator_optimizer=keras.optimizers.Adam(
            1e-3, gradient_accumulation_steps=2
        ),
    )
    return model


def data(size=56):
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (size, 8, 8, 1)).astype("float32")
    return images, rng.integers(0, 3, size).astype("int32")


def state(model):
    every = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return [keras.ops.convert_to_numpy(v.value) for v in every]


def main(path, result, epochs):
    model = build()
    callbacks = [Report()]
    if path != "-":
        callbacks.append(kg.callbacks.Resume(path, every=2))
    model.fit(*data(), batch_size=8, epochs=epochs, verbose=0, callbacks=callbacks)
    np.savez(result, *state(model))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
