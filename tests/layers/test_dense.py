"""Dense layers through the backend's kernel: Keras's layer, with its numbers."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from keras_genai import backend

SMALL = {"rtol": 1e-6, "atol": 1e-6}
X = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")


def host(x):
    return ops.convert_to_numpy(x)


def pair(x, **arguments):
    layers = [kind(4, **arguments) for kind in (keras.layers.Dense, kg.layers.Dense)]
    for layer in layers:
        layer.build(x.shape)
    for a, b in zip(layers[0].weights, layers[1].weights, strict=True):
        a.assign(np.linspace(-1, 1, int(np.prod(a.shape))).reshape(a.shape))
        b.assign(a)
    return layers


@pytest.mark.parametrize(
    ("x", "arguments"),
    [
        (X, {}),
        (X, {"activation": "tanh"}),
        (X, {"use_bias": False}),
        (X, {"dtype": "bfloat16"}),
        (X.reshape(1, 5, 3), {"activation": "relu"}),
    ],
)
def test_it_is_keras_s_with_its_gradients(x, arguments):
    theirs, ours = pair(x, **arguments)
    # In bfloat16 Keras rounds before the bias and after it: of terms up to 4.
    tolerance = {"rtol": 2e-2, "atol": 4 * 2.0**-8} if "dtype" in arguments else SMALL
    np.testing.assert_allclose(
        host(ops.cast(ours(x), "float32")),
        host(ops.cast(theirs(x), "float32")),
        **tolerance,
    )
    found = []
    for layer in (theirs, ours):

        def loss(layer=layer):
            return ops.sum(ops.square(ops.cast(layer(x), "float32")))

        variables = layer.trainable_variables
        found.append(backend.value_and_gradients(loss, variables)[1])
    for a, b in zip(*found, strict=True):
        a, b = (host(ops.cast(t, "float32")) for t in (a, b))
        np.testing.assert_allclose(
            a, b, **{**tolerance, "atol": 30 * tolerance["atol"]}
        )


def test_low_rank_updates_and_its_file(tmp_path):
    theirs, ours = pair(X)
    for layer in (theirs, ours):
        layer.enable_lora(2)
        layer.lora_kernel_b.assign(np.ones(layer.lora_kernel_b.shape))
    ours.lora_kernel_a.assign(theirs.lora_kernel_a)
    np.testing.assert_allclose(host(ours(X)), host(theirs(X)), rtol=1e-6, atol=1e-6)
    model = keras.Sequential([keras.Input((3,)), kg.layers.Dense(2, name="end")])
    model.save(tmp_path / "dense.keras")
    again = keras.saving.load_model(tmp_path / "dense.keras")
    assert type(again.layers[-1]) is kg.layers.Dense
    np.testing.assert_array_equal(host(again(X)), host(model(X)))


@pytest.mark.parametrize(("inputs", "units"), [(64, 80), (80, 64), (3, 64)])
def test_many_rows_and_the_second_derivative(inputs, units):
    """Sizes at which a backend takes another kernel than for the few rows above."""
    draw = np.random.default_rng(1)
    x = draw.normal(size=(4, 75, inputs))
    kernel, bias = draw.normal(size=(inputs, units)), draw.normal(size=units)
    y = x @ kernel + bias
    values = [keras.Variable(v.astype("float32")) for v in (x, kernel, bias)]

    def made():
        return backend.linear(*(v.value for v in values))

    np.testing.assert_allclose(host(made()), y, rtol=1e-5, atol=1e-4)
    # Of sum(y^2) / 2 the gradient by y is y.
    _, found = backend.value_and_gradients(
        lambda: 0.5 * ops.sum(ops.square(made())), values
    )
    by_kernel = np.einsum("btn,btm->nm", x, y)
    for a, b in zip(found, (y @ kernel.T, by_kernel, y.sum((0, 1))), strict=True):
        np.testing.assert_allclose(host(a), b, rtol=1e-4, atol=1e-2)

    # The sum of the squares of the gradient by x, by the kernel: of y = x k.
    def penalty():
        by_x = backend.gradients(
            lambda x: 0.5 * ops.sum(ops.square(backend.linear(x, values[1].value))),
            values[0].value,
        )
        return 0.5 * ops.sum(ops.square(by_x))

    _, (found,) = backend.value_and_gradients(penalty, [values[1]])
    rows = x.reshape(-1, inputs)
    grams = rows.T @ rows, kernel @ kernel.T  # |x k k^T|^2 / 2
    wanted = (grams[0] @ grams[1] + grams[1] @ grams[0]) @ kernel
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(host(found) / scale, wanted / scale, atol=1e-5)
