"""The dream: what it raises, that it is one on all backends, whole or in parts."""

import functools

import keras
import numpy as np
import pytest

import keras_genai as kg
from keras_genai import dream
from tests.support import conformance
from tests.support.conformance import BACKEND, host

pytestmark = pytest.mark.in_turn


@functools.cache
def cnn():
    return kg.CNN.from_pretrained()


@functools.cache
def clothes(n=4):
    _, (images, _) = kg.datasets.load("fashion_mnist")
    return images[:n]


def dreamer(layers=None, objectives=None, model=None, **arguments):
    arguments = {"jitter": 0, "octaves": 1, "smoothing": 0, **arguments}
    return kg.DeepDream(model or cnn(), layers, objectives, **arguments)


def small(channels=3, size=(None, None), seed=0):
    """A network of two convolutions and a pooling, its window 8 pixels wide."""
    draw = np.random.default_rng(seed)
    network = keras.Sequential(
        [
            keras.Input((*size, channels)),
            kg.layers.Conv2D(6, 3, padding="same", activation="tanh", name="first"),
            keras.layers.AveragePooling2D(2, name="pool"),
            kg.layers.Conv2D(5, 3, padding="same", name="second"),
        ]
    )
    network.set_weights([draw.normal(0, 0.3, w.shape) for w in network.get_weights()])
    return network


def noise(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, shape).astype("float32")


# What it does


def test_the_chosen_layer_rises_tenfold_and_at_once():
    model = dreamer(
        {"conv_2": 1.0}, octaves=2, jitter=1, steps=30, step_size=0.1, seed=1
    )
    images = 0.2 * clothes(2)
    before, after = model.measure(images), model.measure(model.dream(images, verbose=0))
    assert np.all(after > 10 * before), (before, after)
    steady = dreamer({"conv_2": 1.0}, steps=8, step_size=0.002)
    steady.dream(images, verbose=0)
    assert np.all(np.diff(steady.history[0]) > 0), steady.history


def test_each_picture_dreams_alone_and_the_seed_is_the_jitter():
    model = dreamer({"conv_1": 1.0}, octaves=2, jitter=3, steps=3)
    images = noise(3, 28, 28, 1)  # clothes' black is a tie in every maximum
    together = model.dream(images, verbose=0)
    alone = model.dream(images[1], verbose=0)
    assert alone.shape == (28, 28, 1) and alone.dtype == np.float32
    np.testing.assert_allclose(together[1], alone, atol=1e-4)
    np.testing.assert_array_equal(model.dream(images, verbose=0), together)
    other = model.dream(images, seed=1, verbose=0)
    assert np.abs(other - together).max() > 0.01
    assert [len(values) for values in model.history] == [3, 3]


def test_detail_is_put_back():
    """A dream of nothing returns the picture, through all octaves."""
    model = dreamer(
        {"conv_1": 1.0}, octaves=3, octave_scale=1.3, steps=1, step_size=1e-9
    )
    np.testing.assert_allclose(
        model.dream(clothes(2), verbose=0), clothes(2), atol=1e-6
    )
    assert model.sizes(28, 28) == [(17, 17), (22, 22), (28, 28)]


def test_colours_are_kept():
    model = dreamer(
        {"second": 1.0}, model=small(), keep_colors=True, steps=4, step_size=0.1
    )
    image = 0.4 * noise(16, 20, 3)
    made = model.dream(image, verbose=0)
    change = made - image
    assert np.abs(change).max() > 0.02
    np.testing.assert_allclose(change, change[..., :1].repeat(3, -1), atol=1e-3)


def test_adam_climbs():
    model = dreamer({"conv_1": 1.0}, optimizer="adam", steps=1, step_size=0.01)
    image = 0.5 * clothes(1)
    step = model.dream(image, verbose=0) - image
    # The first step of Adam is the rate, in the gradient's sign.
    moved = np.abs(step) > 1e-6
    assert moved.mean() > 0.3
    assert np.quantile(np.abs(step[moved]), 0.2) == pytest.approx(0.01, rel=0.02)
    longer = dreamer({"conv_1": 1.0}, optimizer="adam", steps=6, step_size=0.01)
    longer.dream(image, verbose=0)
    assert np.all(np.diff(longer.history[0]) > 0)


def test_a_step_is_compiled_once_for_each_size():
    model = dreamer({"conv_1": 1.0}, octaves=2, jitter=1, steps=2)
    traces = []
    model.gradient = conformance.count_calls(model.gradient, traces)
    model.dream(clothes(1), verbose=0)
    first = len(traces)
    assert first == 4 if BACKEND == "torch" else first <= 2 * 2
    model.dream(clothes(1), seed=5, step_size=0.5, verbose=0)
    assert len(traces) == (8 if BACKEND == "torch" else first)


# In parts


@pytest.mark.parametrize("objective", ["first", "second"])
def test_parts_are_the_whole(objective):
    picture = noise(1, 96, 80, 3)
    settings = {
        "objectives": dream.Channel(objective, 2),
        "model": small(),
        "steps": 2,
        "step_size": 0.1,
    }
    whole = dreamer(**settings, tile=None).dream(picture, verbose=0)
    parts = dreamer(**settings, tile=40, tile_overlap=16).dream(picture, verbose=0)
    seam = dreamer(**settings, tile=40, tile_overlap=0).dream(picture, verbose=0)
    # The two part at the border of the picture only where the whole has its border.
    np.testing.assert_allclose(parts, whole, atol=2e-4)
    assert np.abs(seam - whole).max() > 1e-3
    inner = np.s_[:, 10:30, 10:30]
    scale = np.abs(seam - picture)[inner].max() / np.abs(whole - picture)[inner].max()
    assert 0.8 < scale < 1.25


def test_parts_cover_every_pixel():
    from keras_genai.dream.tiles import parts

    for height, width, tile, overlap in (
        (96, 80, 40, 16),
        (33, 512, 64, 3),
        (9, 9, 9, 1),
    ):
        seen = np.zeros((height, width), int)
        for whole, place, inner in parts(height, width, tile, overlap):
            assert all(
                s.stop - s.start == min(tile, n)
                for s, n in zip(whole, (height, width), strict=True)
            )
            number = np.arange(height * width).reshape(height, width)
            np.testing.assert_array_equal(number[whole][inner], number[place])
            seen[place] += 1
        assert seen.min() >= 1


def test_what_looks_at_the_whole_is_not_cut():
    model = dreamer(
        objectives=dream.Neuron("second", 1), model=small(), tile=32, tile_overlap=8
    )
    with pytest.raises(ValueError, match="Neuron looks at the whole: give tile=None"):
        model.dream(noise(40, 40, 3))


# Gradients


def gradient_error():
    """The gradient of all objectives against central differences, in float64."""
    draw = np.random.default_rng(0)
    with conformance.float64():
        network = small()
        guide = noise(12, 12, 3, seed=1)
        model = dreamer(
            {"first": 0.7},
            [
                dream.Channel("second", 2, 1.3),
                dream.Neuron("second", 1, (3, 2), 0.4),
                dream.Direction("second", [1.0, -2.0, 0.5, 0.0, 1.0]),
                dream.Guided("second", guide),
                dream.Content("second", noise(16, 16, 3, seed=2)),
                dream.Style("first", guide),
            ],
            model=network,
        )
        x = draw.uniform(-0.5, 0.5, (2, 16, 16, 3))
        way = draw.normal(size=x.shape)
        _, gradient = model.gradient(keras.ops.convert_to_tensor(x))
        gradient = host(gradient)
        assert gradient.dtype == "float64"
        h = 1e-6
        ends = [
            host(model(keras.ops.convert_to_tensor(x + s * h * way))).sum()
            for s in (1, -1)
        ]
        difference = (ends[0] - ends[1]) / (2 * h)
    return abs(np.sum(gradient * way) / difference - 1)


def test_gradients_against_float64():
    assert gradient_error() < 1e-6


# Any CNN, saved and served


def test_a_network_of_keras_applications_at_another_size():
    network = keras.applications.MobileNetV2((96, 96, 3), alpha=0.35, weights=None)
    model = dreamer({"block_2_expand": 1.0}, model=network, steps=3, step_size=0.1)
    image = noise(80, 64, 3)
    assert model.measure(model.dream(image, verbose=0)) > model.measure(image)
    unchanged = [w.copy() for w in network.get_weights()]
    for before, after in zip(unchanged, network.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_class_and_a_preprocessing():
    model = dreamer(
        objectives=dream.Logit(3), steps=20, step_size=0.05, preprocess=keras.ops.tanh
    )
    made = model.dream(0.1 * clothes(2), verbose=0)
    assert np.array_equal(cnn().predict(np.tanh(made), verbose=0).argmax(-1), [3, 3])


@pytest.mark.processes
@pytest.mark.usefixtures("kept_child")
def test_it_is_saved_and_served(tmp_path, tensorflow_alone):
    model = kg.DeepDream(
        small(),
        {"second": 1.0},
        [dream.Guided("first", noise(12, 12, 3)), dream.Channel("second", 1)],
        octaves=1,
        jitter=3,
        steps=4,
        optimizer="adam",
        preprocess=dream.ColourScale("torch"),
        seed=7,
    )
    images = noise(2, 20, 24, 3)
    made = model.dream(images, verbose=0)
    model.save(tmp_path / "dream.keras")
    loaded = kg.load_model(tmp_path / "dream.keras")
    np.testing.assert_allclose(loaded.dream(images, verbose=0), made, atol=1e-5)
    model.export(tmp_path / "served")
    calls = [("octave", {"images": images, "seed": np.int32(7)})]
    names, (outputs,) = tensorflow_alone.serve(tmp_path / "served", calls)
    assert names == ["octave", "serving_default"]
    np.testing.assert_allclose(outputs["images"], made, atol=1e-3)


def test_out_of_noise_and_into_it(tmp_path):
    model = dreamer({"second": 1.0}, model=small(), steps=2)
    made = model.generate(2, seed=1, size=(16, 16))
    assert made.shape == (2, 16, 16, 3)
    np.testing.assert_array_equal(model.generate(2, seed=1, size=(16, 16)), made)
    frames = model.zoom(made[0], 3, 1.2, verbose=0)
    assert frames.shape == (3, 16, 16, 3)
    np.testing.assert_allclose(frames[0], model.dream(made[0], verbose=0), atol=1e-6)
    pytest.importorskip("PIL")
    from PIL import Image

    kg.callbacks.save_animation(tmp_path / "fall.gif", frames)
    with Image.open(tmp_path / "fall.gif") as opened:
        assert opened.n_frames == 3 and opened.size == (16, 16)
    with pytest.raises(ValueError, match="must end in"):
        kg.callbacks.save_animation(tmp_path / "fall.mp4", frames)


# Bad input


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"layers": {"conv2": 1.0}}, "Did you mean 'conv_2'"),
        ({"layers": {"features": 1.0}}, "features at places.*are needed.*'conv_3'"),
        ({"objectives": dream.Channel("conv_0", 32)}, "32 channels, 0 to 31"),
        ({"objectives": dream.Logit(10)}, "10 channels, 0 to 9; got the channel 10"),
        ({"objectives": dream.Direction("conv_0", [1.0])}, "32 channels; vector has 1"),
        ({"objectives": "conv_0"}, "objectives must be of kg.dream"),
        ({"layers": "conv_0"}, "layers must be a dict"),
        ({}, "Say what is to be climbed"),
        ({"layers": {"conv_0": "much"}}, "weight must be a finite number"),
        (
            {"layers": {"conv_0": 1.0}, "octave_scale": 1.0},
            "octave_scale must be a finite number over 1",
        ),
        ({"layers": {"conv_0": 1.0}, "octaves": 0}, "octaves must be an integer"),
        (
            {"layers": {"conv_0": 1.0}, "step_size": -1.0},
            "step_size must be a finite number over 0",
        ),
        ({"layers": {"conv_0": 1.0}, "optimizer": "sgd"}, "optimizer must be one of"),
        ({"layers": {"conv_0": 1.0}, "tile": 8, "tile_overlap": 8}, "less than tile"),
        ({"layers": {"conv_0": 1.0}, "keep_colors": True}, "3 channels"),
        (
            {"layers": {"conv_0": 1.0}, "smoothing": -1},
            "smoothing must be a finite number >= 0",
        ),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        dreamer(**arguments)


def test_models_without_places_are_refused():
    dense = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(name="f")])
    with pytest.raises(ValueError, match="no layer with places"):
        dreamer({"f": 1.0}, model=dense)
    flat = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="of images"):
        dreamer({"f": 1.0}, model=flat)


@pytest.mark.parametrize(
    "image, message",
    [
        (noise(28, 28), "must be a picture"),
        (noise(1, 1, 28, 28, 3), "must have the rank 3"),
        (noise(28, 28, 1), "is grey: give np.repeat"),
        (noise(28, 28, 3) * 255, r"lie in \[-1, 1\]"),
        ((noise(28, 28, 3) > 0).astype("uint8"), "must be floats"),
        (noise(1, 1, 3), "1x1, which leaves.*sides must be at least 2"),
    ],
)
def test_wrong_pictures_are_refused(image, message):
    with pytest.raises(ValueError, match=message):
        dreamer({"second": 1.0}, model=small()).dream(image)


def test_octaves_that_become_too_small_are_refused():
    model = dreamer({"second": 1.0}, model=small(), octaves=9, octave_scale=2.0)
    with pytest.raises(ValueError, match="smallest of 9 octaves.*fewer octaves"):
        model.dream(noise(28, 28, 3))
    with pytest.raises(ValueError, match="takes 28x28 alone"):
        dreamer(objectives=dream.Logit(3), octaves=2).dream(clothes(1))


def test_layers_do_not_remember_the_sizes_that_were_asked_for():
    model = dreamer({"second": 1.0}, model=small())
    counts = [len(layer._inbound_nodes) for layer in model.network.layers]
    assert model.features.fits(8, 9) and not model.features.fits(1, 9)
    assert [len(layer._inbound_nodes) for layer in model.network.layers] == counts


def test_keras_applies_no_gradient_to_the_network():
    before = [host(v.value) for v in cnn().variables]
    dreamer({"conv_3": 1.0}).dream(clothes(1), verbose=0)
    for variable, value in zip(cnn().variables, before, strict=True):
        np.testing.assert_array_equal(host(variable.value), value)
