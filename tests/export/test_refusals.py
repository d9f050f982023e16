"""Served models refuse what the Python model refuses, and name the input."""

import keras
import numpy as np
import pytest

import keras_genai as kg

if keras.backend.backend() != "tensorflow":
    pytest.skip("TensorFlow serves", allow_module_level=True)
import tensorflow as tf

from keras_genai.export.refusals import refusing
from tests.support import tiny_ddpm as tiny

INT, FLOAT = np.int32, np.float32


def gpt():
    return kg.GPT(
        num_layers=1,
        hidden_dim=8,
        num_heads=2,
        vocabulary_size=9,
        max_sequence_length=6,
    )


def ddpm():
    return kg.DDPM(
        tiny.network(num_classes=3), num_steps=1, ema_decay=None, num_classes=3
    )


# model, signature, inputs that it takes, and for each of them what it refuses
SERVED = [
    (
        gpt,
        "generate",
        {
            "tokens": INT([[3, 4]]),
            "lengths": INT([2]),
            "seed": INT(0),
            "temperature": FLOAT(1.0),
            "top_p": FLOAT(1.0),
        },
        {
            "tokens": [INT([[-1, 2]]), INT([[9, 2]])],
            "lengths": [INT([0]), INT([3]), INT([-1]), INT([1, 2])],
            "seed": [INT(-1)],
            "temperature": [FLOAT("nan"), FLOAT(-1), FLOAT("inf")],
            "top_p": [FLOAT(0), FLOAT(-1), FLOAT("nan"), FLOAT(1.5)],
        },
    ),
    (
        ddpm,
        "generate",
        {"labels": INT([3, 0]), "guidance_scale": FLOAT(2), "seed": INT(0)},
        {
            "labels": [INT([4, 0]), INT([0, -1])],
            "guidance_scale": [FLOAT("nan"), FLOAT("inf")],
        },
    ),
    (
        lambda: kg.CGAN((8, 8, 1), 3, 4, base_filters=4),
        "decode",
        {"latents": np.zeros((2, 4), FLOAT), "labels": INT([0, 2])},
        {"labels": [INT([0, 3]), INT([-1, 0]), INT([1])]},
    ),
    (
        lambda: kg.DCGAN((8, 8, 1), 4, base_filters=4),
        "generate",
        {"n": INT(1), "seed": INT(0)},
        {"n": [INT(0), INT(-1)], "seed": [INT(-1)]},
    ),
]


@pytest.mark.parametrize("make,name,good,bad", SERVED, ids=[s[1] for s in SERVED])
def test_bad_inputs_are_named(make, name, good, bad):
    model = make()
    fn, inputs = model.export_signatures()[name]
    specs = [tf.TensorSpec(shape, dtype, name=n) for n, shape, dtype in inputs]
    signature = tf.function(
        refusing(fn, inputs, model.input_ranges()),
        input_signature=specs,
        autograph=False,
    ).get_concrete_function()

    def call(**given):
        return signature(**{n: tf.constant(x) for n, x in {**good, **given}.items()})

    call()
    for argument, values in bad.items():
        for value in values:
            with pytest.raises(
                tf.errors.InvalidArgumentError, match=f"{argument} must"
            ):
                call(**{argument: value})


def test_guidance_has_a_default(tmp_path):
    from keras_genai.export import savedmodel

    savedmodel.write(ddpm(), tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served"))
    given = {"seed": tf.constant(3), "labels": tf.constant([0, 2])}
    wanted = served.signatures["generate"](**given, guidance_scale=tf.constant(1.0))
    np.testing.assert_array_equal(served.generate(**given)["images"], wanted["images"])
