"""A dream with all switched on is the same on every backend."""

import hashlib

import keras_genai as kg
from keras_genai import dream
from tests.support.conformance import Golden, assert_golden


def clothes():
    _, (images, _) = kg.datasets.load("fashion_mnist")
    return images[:2]


def all_switched_on():
    return kg.DeepDream(
        kg.CNN.from_pretrained(),
        {"conv_1": 1.0},
        dream.Channel("conv_3", 7, weight=2.0),
        octaves=2,
        jitter=3,
        steps=5,
        smoothing=0.7,
        total_variation=0.1,
        seed=3,
    )


def configuration():
    config = all_switched_on().get_config()
    objectives = [item["config"] for item in config.pop("objectives")]
    for item in objectives:
        del item["name"]  # it counts the objectives of the process
    numbers = {k: v for k, v in config.items() if isinstance(v, (int, float))}
    data = hashlib.sha256(clothes().tobytes()).hexdigest()
    return {"objectives": objectives, "numbers": numbers, "data": data}


GOLDEN = Golden(
    "deepdream",
    configuration,
    lambda: {"dream": all_switched_on().dream(clothes(), verbose=0)},
)


def test_the_same_dream_on_every_backend():
    made = all_switched_on().dream(clothes(), verbose=0)
    assert_golden(made, GOLDEN.read()["dream"], "dream", 1e-3)
