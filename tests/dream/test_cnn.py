"""The convolution is the written-out sum; the classifier learns, and says no."""

import keras
import numpy as np
import pytest

import keras_genai as kg
from keras_genai import backend, layers
from tests.support import conformance
from tests.support.conformance import host

pytestmark = pytest.mark.in_turn

FLAT = keras.layers.Flatten()
RNG = np.random.default_rng(0)


def written_out(x, kernel, bias):
    """The equation of `keras_genai/dream/cnn.py`, in float64."""
    height, width, _, filters = kernel.shape
    _, rows, columns, _ = x.shape
    y = np.zeros((*x.shape[:3], filters)) + bias
    for i in range(rows):
        for j in range(columns):
            for u in range(height):
                for v in range(width):
                    row, column = i + u - height // 2, j + v - width // 2
                    if 0 <= row < rows and 0 <= column < columns:
                        y[:, i, j] += x[:, row, column] @ kernel[u, v]
    return y


@pytest.mark.parametrize("case", range(4))
def test_the_convolution_is_the_written_out_sum(case):
    draw = np.random.default_rng(case)
    rows, columns, channels, filters = draw.integers(1, 7, 4)
    x = draw.normal(size=(2, rows, columns, channels)).astype("float32")
    layer = layers.Conv2D(int(filters), 3, padding="same")
    layer.build(x.shape)
    kernel = draw.normal(size=layer.kernel.shape)
    bias = draw.normal(size=filters)
    layer.set_weights([kernel, bias])
    np.testing.assert_allclose(
        host(layer(x)), written_out(x, kernel, bias), rtol=1e-4, atol=1e-4
    )


def convolution_gradients():
    """The largest relative error of the gradients by image and kernel, in float64."""
    draw = np.random.default_rng(1)
    x = draw.normal(size=(2, 5, 4, 3))
    errors = []
    with conformance.float64():
        layer = layers.Conv2D(2, 3, padding="same")
        layer.build(x.shape)
        kernel, bias = draw.normal(size=(3, 3, 3, 2)), draw.normal(size=2)
        layer.set_weights([kernel, bias])
        look = draw.normal(size=(2, 5, 4, 2))

        def score(x):
            y = layer(x)
            seen = keras.ops.multiply(y, keras.ops.convert_to_tensor(look))
            return keras.ops.sum(seen) + keras.ops.sum(keras.ops.square(y))

        def exact(x, kernel):
            y = written_out(x, kernel, bias)
            return np.sum(y * look) + np.sum(y**2)

        by_image = host(backend.gradients(score, x))
        _, (by_kernel, _) = backend.value_and_gradients(
            lambda: score(keras.ops.convert_to_tensor(x)), layer.trainable_variables
        )
        h = 1e-5
        for found, which in ((by_image, 0), (host(by_kernel), 1)):
            assert found.dtype == "float64"
            way = draw.normal(size=found.shape)
            ends = []
            for sign in (1, -1):
                at = [x, kernel]
                at[which] = at[which] + sign * h * way
                ends.append(exact(*at))
            difference = (ends[0] - ends[1]) / (2 * h)
            errors.append(abs(np.sum(found * way) / difference - 1))
    return max(errors)


def test_the_gradient_of_the_convolution():
    assert convolution_gradients() < 1e-7


def test_it_learns_to_tell_and_draws_what_it_tells():
    """Bright tops against bright bottoms: told after a few steps, and drawn."""
    labels = np.arange(64) % 2
    images = RNG.uniform(-1, 0, (64, 8, 8, 1)).astype("float32")
    images[labels == 0, :4] += 1
    images[labels == 1, 4:] += 1
    model = kg.CNN((8, 8, 1), 2, filters=(8,), hidden_units=(), seed=0)
    model.compile(keras.optimizers.Adam(1e-2))
    history = model.fit(images, labels, batch_size=16, epochs=8, verbose=0).history
    assert history["accuracy"][-1] > 0.95
    logs = model.evaluate(images, labels, verbose=0, return_dict=True)
    assert logs["accuracy"] == 1.0
    assert np.array_equal(model.predict(images, verbose=0).argmax(-1), labels)
    drawn = model.generate(labels=[0, 1], seed=0)
    assert np.array_equal(model.predict(drawn, verbose=0).argmax(-1), [0, 1])
    margin = np.ptp(model.predict(drawn, verbose=0), axis=-1)
    assert np.all(margin > np.ptp(model.predict(images, verbose=0), axis=-1).max())


def test_sample_weights_and_class_weights_count():
    images = RNG.uniform(-1, 1, (8, 8, 8, 1)).astype("float32")
    labels = np.arange(8) % 2
    model = kg.CNN((8, 8, 1), 2, filters=(4,), hidden_units=())
    model.compile()
    first = model.evaluate(images[:4], labels[:4], verbose=0, return_dict=True)
    weight = np.array([1.0] * 4 + [0.0] * 4)
    both = model.evaluate(
        images, labels, sample_weight=weight, verbose=0, return_dict=True
    )
    assert both["loss"] == pytest.approx(first["loss"], rel=1e-5)
    assert both["accuracy"] == pytest.approx(first["accuracy"])


def test_the_packaged_classifier():
    model = kg.CNN.from_pretrained()
    _, (images, labels) = kg.datasets.load("fashion_mnist")
    images, labels = images[:500], labels[:500]
    found = model.predict(images, verbose=0).argmax(-1)
    assert (found == labels).mean() > 0.88
    assert model.network.trainable_variables
    drawn = model.generate(labels=range(10), seed=0)
    assert np.array_equal(model.predict(drawn, verbose=0).argmax(-1), range(10))
    with pytest.raises(ValueError, match="no packaged CNN 'imagenet'"):
        kg.CNN.from_pretrained("imagenet")


def test_it_is_saved_with_a_network_of_ones_own(tmp_path):
    model = kg.CNN.from_pretrained(steps=2)
    model.save(tmp_path / "cnn.keras")
    loaded = kg.load_model(tmp_path / "cnn.keras")
    x = RNG.uniform(-1, 1, (2, 28, 28, 1)).astype("float32")
    np.testing.assert_array_equal(host(loaded(x)), host(model(x)))
    assert loaded.steps == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"architecture": "deep"}, "architecture must be one of"),
        ({"filters": ()}, "at least one stage"),
        ({"filters": (4, 0)}, "filters must be a list of integers"),
        ({"num_classes": 1}, "num_classes must be an integer of at least 2"),
        ({"image_shape": (4, 4, 1)}, "sides of at least 8"),
        ({"dropout": 1.0}, "dropout must be in"),
        ({"steps": 0}, "steps must be an integer"),
        ({"step_size": 0.0}, "step_size must be a finite number over 0"),
        (
            {"network": keras.Sequential([keras.Input((28, 28, 1)), FLAT])},
            "must give logits",
        ),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        kg.CNN(**arguments)


def test_wrong_data_is_refused_before_any_step():
    model = kg.CNN((8, 8, 1), 3, filters=(4,), hidden_units=())
    model.compile()
    images = np.zeros((4, 8, 8, 1), "float32")
    for x, y, message in (
        (images, None, "Labels are missing"),
        (images, np.array([0, 1, 2, 3]), r"\[0, 3\)"),
        (images + 2, np.zeros(4, int), "must lie in"),
        (images[..., 0], np.zeros(4, int), "Add the channel"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(x, y, verbose=0)
