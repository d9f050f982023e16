"""Layers made of layers: streams of initial weights, configuration, the fused gate."""

import functools

import keras
import numpy as np

from keras_genai import layers
from keras_genai.layers.composite import CompositeLayer
from keras_genai.layers.initializers import Normal, Streams, torch_uniform


def host(x):
    return keras.ops.convert_to_numpy(x)


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


class Pair(CompositeLayer):
    def __init__(self, units, *, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.scale = scale

    def build(self, shape):
        self.first = self._dense("first", self.units)
        self.second = self._dense(
            "second", self.units, initializer=self._normal("a", 1)
        )
        self.first.build(shape)
        self.second.build((None, self.units))
        self.built = True

    def call(self, x):
        return self.scale * self.second(self.first(x))


def test_every_layer_inside_has_its_own_stream():
    layer = Pair(4, seed=3, stream="net/pair")
    layer(noise(2, 4))
    wanted = torch_uniform(3, "net/pair/first")((4, 4))
    np.testing.assert_array_equal(host(layer.first.kernel.value), host(wanted))
    wanted = Normal(1.0, seed=3, stream="net/pair/a")((4, 4))
    np.testing.assert_array_equal(host(layer.second.kernel.value), host(wanted))


def test_the_initializer_is_an_argument():
    normal = functools.partial(Normal, 0.5)
    layer = Pair(4, seed=3, stream="pair", initializer=normal)
    layer(noise(2, 4))
    wanted = Streams("pair", 3, normal)("first")((4, 4))
    np.testing.assert_array_equal(host(layer.first.kernel.value), host(wanted))


def test_the_configuration_is_the_constructors_arguments():
    assert Pair.arguments() == ["units", "scale"]
    layer = Pair(4, scale=2.0, seed=3, stream="pair", name="layer")
    config = layer.get_config()
    assert {k: config[k] for k in ("units", "scale", "seed", "stream", "name")} == {
        "units": 4,
        "scale": 2.0,
        "seed": 3,
        "stream": "pair",
        "name": "layer",
    }
    again = Pair.from_config(config)
    np.testing.assert_array_equal(host(again(noise(2, 4))), host(layer(noise(2, 4))))


def test_a_fused_gate_is_two_kernels_side_by_side():
    x = noise(2, 5, 4)
    for activation in ("geglu", "swiglu"):
        fused = layers.FeedForward(6, activation, fused_gate=True, stream="here")
        apart = layers.FeedForward(6, activation, stream="here")
        y = host(fused(x))
        apart.build(x.shape)
        kernel = host(fused.dense1.kernel.value)
        apart.dense1.kernel.assign(kernel[:, :6])
        apart.gate.kernel.assign(kernel[:, 6:])
        np.testing.assert_array_equal(
            host(apart.dense2.kernel), host(fused.dense2.kernel)
        )
        np.testing.assert_allclose(host(apart(x)), y, atol=1e-6)
