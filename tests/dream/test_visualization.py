"""Pictures of features, and why a class is named: each against its definition."""

import functools

import keras
import numpy as np
import pytest

import keras_genai as kg
from keras_genai import backend, dream
from tests.support import conformance
from tests.support.conformance import host

pytestmark = pytest.mark.in_turn

RNG = np.random.default_rng(0)


@functools.cache
def cnn():
    return kg.CNN.from_pretrained()


@functools.cache
def clothes():
    _, (images, labels) = kg.datasets.load("fashion_mnist")
    return images[:6], labels[:6]


def linear(weights):
    """A classifier whose logits are sums of pixels times weights `(H, W, C, K)`."""
    height, width, channels, classes = weights.shape
    network = keras.Sequential(
        [
            keras.Input((height, width, channels)),
            keras.layers.Activation("linear", name="pixels"),
            keras.layers.Flatten(),
            keras.layers.Dense(classes, use_bias=False),
        ]
    )
    network.set_weights([weights.reshape(-1, classes)])
    return network


@pytest.mark.parametrize("parametrization", ["fourier", "pixels"])
def test_a_visualization_is_what_its_channel_looks_for(parametrization):
    objective = dream.Channel("conv_2", 5)
    settings = {"size": (28, 28), "n": 2, "move": 2, "verbose": 0}
    made = dream.visualize(
        cnn(), objective, steps=100, parametrization=parametrization, **settings
    )
    assert made.shape == (2, 28, 28, 1) and np.abs(made).max() <= 1
    dreamer = kg.DeepDream(cnn(), objectives=objective)
    # More than any real picture.
    assert dreamer.measure(made).min() > dreamer.measure(clothes()[0]).max()
    again = dream.visualize(
        cnn(), {"conv_2": 5}, steps=100, parametrization=parametrization, **settings
    )
    np.testing.assert_allclose(again, made, atol=1e-5)
    assert np.abs(made[0] - made[1]).max() > 0.1


def test_a_second_call_adds_nothing_to_the_layers():
    network = cnn().network
    images = np.zeros((1, 28, 28, 1), "float32")
    dream.feature_maps(network, "conv_1", images)
    before = [len(layer._inbound_nodes) for layer in network.layers]
    dream.feature_maps(network, "conv_1", images)
    dream.visualize(network, dream.Channel("conv_1", 0), (28, 28), steps=1, verbose=0)
    dream.visualize(network, dream.Channel("conv_1", 1), (28, 28), steps=1, verbose=0)
    assert [len(layer._inbound_nodes) for layer in network.layers] == before


def test_a_second_visualization_compiles_nothing(monkeypatch):
    """Another one is climbed wherever something that the program closes over is."""
    network, made = cnn().network, []
    jit = conformance.count_calls(backend.primitives.jit, made)
    monkeypatch.setattr(backend.primitives, "jit", jit)

    def visualize(objective, **settings):
        settings = {"n": 1, "steps": 2, "move": 2, "verbose": 0} | settings
        return dream.visualize(network, objective, (28, 28), **settings)

    channel = dream.Channel("conv_2", 7)
    first, count = visualize(channel), len(made)
    for again in (channel, dream.Channel("conv_2", 7), {"conv_2": 7}):
        np.testing.assert_array_equal(visualize(again), first)
    visualize(channel, seed=1, steps=3, turn=0.0, learning_rate=0.1)
    assert len(made) == count
    channel.index = 8
    other = visualize(channel)
    fresh = visualize(dream.Channel("conv_2", 8))
    np.testing.assert_array_equal(other, fresh)
    np.testing.assert_array_equal(visualize({"conv_2": 7}), first)
    assert np.abs(other - first).max() > 1e-3 and len(made) == count + 1
    for objective, settings in (
        (dream.Channel("conv_2", 7, weight=-1.0), {}),
        (dream.Neuron("conv_2", 7), {}),
        ({"conv_2": 7}, {"parametrization": "pixels"}),
        ({"conv_2": 7}, {"preprocess": lambda x: -x}),
    ):
        assert np.abs(visualize(objective, **settings) - first).max() > 1e-3


def test_feature_maps_and_their_ranking():
    images, _ = clothes()
    maps = dream.feature_maps(cnn(), "conv_1", images)
    assert maps.shape == (6, 14, 14, 64)
    network = cnn().network
    inner = keras.Model(network.input, network.get_layer("conv_1").output)
    np.testing.assert_allclose(maps, inner.predict(images, verbose=0), atol=1e-4)
    one = dream.feature_maps(cnn(), "conv_1", images[0])
    np.testing.assert_allclose(one, maps[0], atol=1e-5)
    order, means = dream.rank_channels(cnn(), "conv_1", images, top=5)
    expected = maps.mean((0, 1, 2), dtype="float64")
    np.testing.assert_allclose(means, np.sort(expected)[::-1][:5], rtol=1e-5)
    np.testing.assert_allclose(expected[order], means)
    grid = dream.feature_grid(one, order, columns=5)
    assert grid.dtype == np.uint8 and grid.ndim == 3
    with pytest.raises(ValueError, match="of one picture"):
        dream.feature_grid(maps)


def test_saliency_is_the_gradient():
    weights = RNG.normal(size=(4, 5, 2, 3)).astype("float32")
    images = RNG.uniform(-1, 1, (2, 4, 5, 2)).astype("float32")
    found = dream.saliency(linear(weights), images, [0, 2])
    expected = np.abs(weights).max(2)[..., [0, 2]].transpose(2, 0, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    named = int(np.einsum("hwc,hwck->k", images[0], weights).argmax())
    found = dream.saliency(linear(weights), images[0])
    np.testing.assert_allclose(found, np.abs(weights).max(2)[..., named], rtol=1e-5)


def test_grad_cam_is_its_formula():
    weights = RNG.normal(size=(4, 5, 2, 3)).astype("float32")
    images = RNG.uniform(-1, 1, (2, 4, 5, 2)).astype("float32")
    found = dream.grad_cam(linear(weights), images, [1, 0], layer="pixels")
    alpha = weights.mean((0, 1))[:, [1, 0]]  # (C, B)
    expected = np.maximum(np.einsum("cb,bhwc->bhw", alpha, images), 0)
    expected /= expected.max((1, 2), keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    images, labels = clothes()
    found = dream.grad_cam(cnn(), images, labels)
    assert found.shape == (6, 28, 28)
    assert found.min() >= 0 and found.max() == pytest.approx(1.0)
    with pytest.raises(ValueError, match="another way leads"):
        dream.grad_cam(cnn(), images, labels, layer="conv_3")


def test_occlusion_finds_the_pixels_that_count():
    """A class that two pixels alone decide: where they are covered, it falls."""
    weights = np.zeros((12, 12, 1, 2), "float32")
    weights[2:4, 8:10, 0, 1] = 3.0
    image = np.ones((12, 12, 1), "float32")
    found = dream.occlusion(linear(weights), image, size=2, stride=2, batch_size=7)
    assert np.argmax(found) // 12 in (2, 3) and np.argmax(found) % 12 in (8, 9)
    whole = 1 / (1 + np.exp(-12.0))
    np.testing.assert_allclose(found[2:4, 8:10], whole - 0.5, atol=1e-5)
    found[2:4, 8:10] = 0
    np.testing.assert_allclose(found, 0, atol=1e-6)
    with pytest.raises(ValueError, match="size must fit"):
        dream.occlusion(linear(weights), image, size=13)


def test_style_without_content_takes_the_gram_matrices():
    images, _ = clothes()
    content, style = images[0], images[1]
    painted = dream.style_transfer(
        cnn(),
        content,
        style,
        "conv_1",
        ["conv_0", "conv_1"],
        style_weight=100.0,
        steps=40,
        step_size=0.03,
        verbose=0,
    )
    assert painted.shape == content.shape and np.abs(painted).max() <= 1
    for layer in ("conv_0", "conv_1"):
        near = kg.DeepDream(cnn(), objectives=dream.Style(layer, style))
        assert near.measure(painted) > 0.3 * near.measure(content)
    kept = dream.style_transfer(
        cnn(), content, style, "conv_1", "conv_0", style_weight=1e-3, steps=5, verbose=0
    )
    distances = [np.square(x - content).mean() for x in (kept, painted)]
    assert distances[0] < 0.3 * distances[1]
    with pytest.raises(ValueError, match="style_layers must be the name"):
        dream.style_transfer(cnn(), content, style, "conv_1", [])


def test_wrong_arguments_are_refused():
    images, _ = clothes()
    for call, message in (
        (lambda: dream.visualize(cnn(), dream.Logit(0), (20, 20)), "28x28 alone"),
        (lambda: dream.visualize(cnn(), dream.Logit(0), parametrization="x"), "one of"),
        (lambda: dream.visualize(cnn(), {"conv_9": 0}), "Did you mean"),
        (lambda: dream.visualize(cnn(), {"conv_0": 0}, zoom=1.0), "zoom must be in"),
        (lambda: dream.saliency(cnn(), images, [0] * 5), "integers of the shape"),
        (lambda: dream.saliency(cnn(), images[0], 10), r"lie in \[0, 10\)"),
        (lambda: dream.feature_maps(cnn(), "logits", images), "features at places"),
        (lambda: dream.saliency(cnn(), images + 2), "lie in"),
        (lambda: dream.load("vgg"), "There is no trained network 'vgg'"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert host(dream.load()(images)).shape == (6, 10)
