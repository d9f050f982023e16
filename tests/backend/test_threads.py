"""One model asked by several threads at once: the answers of one thread, to the bit."""

import threading
import time

import keras
import numpy as np
import pytest

import keras_genai as kg
from keras_genai import backend


def unet():
    """With a residual sum behind convolutions: see `backend.tensorflow.jit`."""
    return kg.UNet(
        (8, 8, 1),
        num_classes=3,
        block_channels=(4, 4),
        groups=2,
        layers_per_block=1,
        attention=(False, False),
    )


FAMILIES = {
    "gan": (
        lambda: kg.CGAN((8, 8, 1), 3, 4, base_filters=4, ema_decay=0.9),
        lambda model, seed: model.generate(labels=[seed, 1], seed=seed),
    ),
    "vae": (
        lambda: kg.VAE(image_shape=(8, 8, 1), latent_dim=2, hidden_units=(8,)),
        lambda model, seed: model.generate(2 + seed % 2, seed=seed),
    ),
    "diffusion": (
        lambda: kg.DDPM(unet(), num_steps=2, ema_decay=0.9),
        lambda model, seed: model.generate(labels=[seed, 1], seed=seed),
    ),
    "text": (
        lambda: kg.GPT(
            num_layers=1,
            hidden_dim=8,
            num_heads=2,
            vocabulary_size=9,
            max_sequence_length=8,
        ),
        lambda model, seed: model.generate([[seed]], max_new_tokens=4, seed=seed),
    ),
}


def together(count, work):
    """`work(i)` in threads that begin at once; what they raised."""
    gate, errors = threading.Barrier(count), []

    def run(i):
        gate.wait()
        try:
            work(i)
        except Exception as error:  # a thread's own would be lost
            errors.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


@pytest.mark.parametrize("family", FAMILIES)
def test_threads_get_what_one_thread_gets(family):
    make, ask = FAMILIES[family]
    alone = make()
    wanted = [ask(alone, seed) for seed in range(3)]
    model, answers = make(), []  # cold: the threads compile it
    end = time.monotonic() + 1.0

    def work(i):
        for turn in range(10_000):
            seed = (i + turn) % 3
            answers.append(np.array_equal(ask(model, seed), wanted[seed]))
            if time.monotonic() > end:
                break

    assert together(6, work) == []
    assert len(answers) >= 6 and all(answers)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="The fault is TensorFlow's."
)
def test_graphs_with_convolutions_take_turns():
    import tensorflow as tf

    from keras_genai.backend.tensorflow.core import _convolves

    running, most = [], []

    def seen(x):
        running.append(x)
        most.append(len(running))
        time.sleep(0.05)
        running.pop()
        return x

    def loop(x):
        def step(i, x):
            return i + 1, x + tf.nn.conv2d(x, kernel, 1, "SAME")

        return tf.while_loop(lambda i, x: i < 1, step, (0, x))[1]

    def fn(x):
        return loop(tf.ensure_shape(tf.numpy_function(seen, [x], tf.float32), x.shape))

    kernel, x = tf.ones((1, 1, 1, 1)), tf.ones((1, 2, 2, 1))
    run = backend.jit(fn)
    assert together(3, lambda i: run(x)) == []
    assert len(most) == 3 and max(most) == 1
    assert _convolves(tf.function(loop).get_concrete_function(x).graph)
    plain = tf.function(lambda x: tf.matmul(x, x, transpose_b=True))
    assert not _convolves(plain.get_concrete_function(x).graph)
