"""Two trainings divided over several devices; `test_devices.py` runs it.

Once in every process that takes part. Arguments: how the work is divided; where the
main process stores what came out; for several JAX processes their number, this one's
index and the port of the first.
"""

import contextlib
import json
import os
import sys

import numpy as np


def main(way, path, count=1, index=0, port=0):
    with divided(way, int(count), int(index), port):
        from keras_genai import engine
        from tests.gans.test_golden import twenty_steps

        results = {
            "twenty steps": twenty_steps(),
            "uneven": uneven(),
            "codes": codes(),
        }
    if engine.is_main_process():
        plain = {
            name: {
                key: np.asarray(x, "float64").ravel().tolist() for key, x in r.items()
            }
            for name, r in results.items()
        }
        with open(path, "w") as file:
            json.dump(plain, file)


def divided(way, count, index, port):
    """Sets the devices up as the README tells users to."""
    if os.environ["KERAS_BACKEND"] == "jax":
        import keras

        if way == "processes":
            import jax

            jax.config.update("jax_cpu_collectives_implementation", "gloo")
            keras.distribution.initialize(f"127.0.0.1:{port}", count, index)
        devices = keras.distribution.list_devices("cpu")
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(devices=devices)
        )
    if way == "mirrored":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2
        )
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope()
    if way == "workers":
        import tensorflow as tf

        return tf.distribute.MultiWorkerMirroredStrategy().scope()
    return contextlib.nullcontext()


def uneven():
    """Labels, weights, a penalty on noise; parts of other sizes where that can be."""
    import keras

    import keras_genai as kg
    from tests import conformance

    jax = keras.backend.backend() == "jax"
    batch, n = (8, 16) if jax else (5, 10)
    images = conformance.uniform("uneven", (n, 8, 8, 1))
    labels = conformance.integers("uneven/labels", (n,), 3)
    weights = conformance.uniform("uneven/weights", (n,), 0.0, 1.0)
    model = kg.CGAN(
        image_shape=(8, 8, 1),
        num_classes=3,
        latent_dim=4,
        base_filters=4,
        generator_conditioning="conditional_batch_norm",
        discriminator_conditioning="projection",
        augment=kg.gans.DiffAugment(seed=3),
        penalties={"dragan": 1.0},
        discriminator_steps=2,
        seed=3,
    )
    model.compile()
    history = model.fit(
        images,
        labels,
        sample_weight=weights,
        batch_size=batch,
        epochs=2,
        verbose=0,
        validation_data=(images, labels),
    )
    evaluated = model.evaluate(images, labels, batch_size=batch, verbose=0)
    weights = [conformance.host(v.value) for v in model.variables]
    return {
        **history.history,
        "evaluated": evaluated,
        "weights": np.concatenate([w.ravel() for w in weights]),
        "samples": model.generate(4, seed=1),
    }


def codes():
    """A codebook that follows, and restarts from, the latents of all parts."""
    import keras

    import keras_genai as kg
    from tests import conformance

    jax = keras.backend.backend() == "jax"
    batch, n = (8, 16) if jax else (5, 10)
    images = conformance.uniform("codes", (n, 8, 8, 1))
    weights = conformance.uniform("codes/weights", (n,), 0.0, 1.0)
    quantizer = kg.layers.ResidualVectorQuantizer(
        8, 4, stages=2, dropout=True, decay=0.8, seed=1
    )
    model = kg.VQVAE((8, 8, 1), quantizer, hidden=4, seed=1)
    model.compile(keras.optimizers.Adam(1e-2))
    history = model.fit(
        images, sample_weight=weights, batch_size=batch, epochs=3, verbose=0
    )
    values = [conformance.host(v.value) for v in model.variables]
    return {
        **history.history,
        "evaluated": model.evaluate(images, batch_size=batch, verbose=0),
        "variables": np.concatenate([v.ravel() for v in values]),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
