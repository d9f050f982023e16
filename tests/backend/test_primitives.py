"""The backend's primitives against closed forms, with variables that change inside."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_genai import backend


def host(x):
    return ops.convert_to_numpy(x)


@pytest.fixture
def weight():
    return keras.Variable(np.array([1.0, 2.0, 3.0], "float32"))


@pytest.fixture
def counter():
    return keras.Variable(np.array(0.0, "float32"), trainable=False)


def test_value_and_gradients_returns_the_loss_and_carries_updates(weight, counter):
    def loss():
        counter.assign(counter.value + 1.0)
        return ops.sum(weight.value**3)

    value, (gradient,) = backend.value_and_gradients(loss, [weight])
    np.testing.assert_allclose(host(value), 36.0, rtol=1e-6)
    np.testing.assert_allclose(host(gradient), [3.0, 12.0, 27.0], rtol=1e-6)
    assert host(counter) == 1.0


def test_value_and_gradients_scales_the_gradient_alone(weight):
    value, (gradient,) = backend.value_and_gradients(
        lambda: ops.sum(weight.value), [weight], lambda loss: 8.0 * loss
    )
    assert host(value) == 6.0
    np.testing.assert_array_equal(host(gradient), [8.0, 8.0, 8.0])


def test_a_variable_that_the_loss_ignores_has_gradient_zero(weight, counter):
    other = keras.Variable(np.ones((2, 2), "float32"))
    _, (_, gradient) = backend.value_and_gradients(
        lambda: ops.sum(weight.value), [weight, other]
    )
    np.testing.assert_array_equal(host(gradient), np.zeros((2, 2)))


def test_embedding_gradients_are_whole():
    table = keras.Variable(np.ones((4, 2), "float32"))
    rows = ops.convert_to_tensor(np.array([1, 1, 3], "int32"))
    _, (gradient,) = backend.value_and_gradients(
        lambda: ops.sum(ops.take(table.value, rows, axis=0)), [table]
    )
    np.testing.assert_array_equal(host(gradient)[:, 0], [0.0, 2.0, 0.0, 1.0])


def test_gradients_are_differentiable_again(weight, counter):
    x = ops.convert_to_tensor(np.array([1.0, 2.0, 0.5], "float32"))

    def penalty():
        def fn(x):
            counter.assign(counter.value + 1.0)
            return ops.sum(weight.value * x**2)

        return ops.sum(ops.square(backend.gradients(fn, x)))  # sum (2 w x)^2

    value, (gradient,) = backend.value_and_gradients(penalty, [weight])
    w, x = host(weight), host(x)
    np.testing.assert_allclose(host(value), np.sum((2 * w * x) ** 2), rtol=1e-6)
    np.testing.assert_allclose(host(gradient), 8 * w * x**2, rtol=1e-6)
    assert host(counter) == 1.0


@pytest.mark.parametrize("taken", [True, False])
def test_cond_carries_the_variables_of_the_branch_taken(weight, counter, taken):
    def step(pred):
        def yes():
            counter.assign(counter.value + 5.0)
            return ops.sum(weight.value)

        def no():
            weight.assign(weight.value * 0.0)
            return ops.zeros(())

        return backend.cond(pred, yes, no)

    out = step(ops.convert_to_tensor(taken))
    assert host(out) == (6.0 if taken else 0.0)
    assert host(counter) == (5.0 if taken else 0.0)
    assert host(weight).sum() == (6.0 if taken else 0.0)


def test_a_gradient_inside_a_branch_and_a_branch_inside_a_gradient(weight, counter):
    def inner():
        loss, (gradient,) = backend.value_and_gradients(
            lambda: ops.sum(weight.value**2), [weight]
        )
        weight.assign(weight.value - 0.5 * gradient)
        return loss

    out = backend.cond(ops.convert_to_tensor(True), inner, lambda: ops.zeros(()))
    np.testing.assert_allclose(host(out), 14.0)
    np.testing.assert_allclose(host(weight), 0.0)

    def loss():
        return backend.cond(
            ops.convert_to_tensor(True),
            lambda: ops.sum(3.0 * weight.value),
            lambda: ops.zeros(()),
        )

    _, (gradient,) = backend.value_and_gradients(loss, [weight])
    np.testing.assert_allclose(host(gradient), 3.0)


def test_with_values_reads_others_lets_gradients_through_and_drops_updates(
    weight, counter
):
    def loss():
        def fn():
            counter.assign(counter.value + 1.0)
            return ops.sum(weight.value)

        return backend.with_values([(weight, 2.0 * weight.value)], fn)

    value, (gradient,) = backend.value_and_gradients(loss, [weight])
    assert host(value) == 12.0
    np.testing.assert_array_equal(host(gradient), [2.0, 2.0, 2.0])
    assert host(counter) == 0.0
    np.testing.assert_array_equal(host(weight), [1.0, 2.0, 3.0])


@pytest.mark.parametrize("compiled", [True, False])
def test_jit_sees_the_present_values(weight, compiled):
    run = backend.jit(lambda x: ops.sum(weight.value) + x, [weight], compiled=compiled)
    one = ops.convert_to_tensor(np.float32(1.0))
    assert host(run(one)) == 7.0
    weight.assign(np.zeros(3, "float32"))
    assert host(run(one)) == 1.0


@pytest.mark.parametrize("shape", [(64, 5), (6, 4, 4, 3)])
def test_batch_normalization_is_the_formula(shape):
    rng = np.random.default_rng(0)
    x = rng.normal(1.0, 2.0, shape).astype("float32")
    scale, offset = rng.normal(size=(2, shape[-1])).astype("float32")
    axes = tuple(range(len(shape) - 1))
    y, mean, variance = backend.batch_normalization(
        *map(ops.convert_to_tensor, (x, scale, offset)), 1e-5
    )
    x = x.astype("float64")
    np.testing.assert_allclose(host(mean), x.mean(axes), atol=1e-5)
    np.testing.assert_allclose(host(variance), x.var(axes), rtol=1e-5)
    wanted = (x - x.mean(axes)) / np.sqrt(x.var(axes) + 1e-5) * scale + offset
    np.testing.assert_allclose(host(y), wanted, atol=1e-5)


def test_loss_scaling_steps_and_skips(weight):
    optimizer = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(1.0), initial_scale=4.0
    )
    optimizer.build([weight])
    four = ops.convert_to_tensor(np.full(3, 4.0, "float32"))
    backend.apply_gradients(optimizer, [four], [weight])
    np.testing.assert_array_equal(host(weight), [0.0, 1.0, 2.0])
    backend.apply_gradients(optimizer, [four * np.float32("inf")], [weight])
    np.testing.assert_array_equal(host(weight), [0.0, 1.0, 2.0])
    assert host(optimizer.dynamic_scale) == 2.0


def test_compiling_for_many_sizes_warns_of_nothing(caplog):
    def draw(size):
        return lambda x: ops.sum(x) * ops.ones((size,))

    for size in range(1, 9):
        run = backend.jit(draw(size))
        assert tuple(run(ops.ones((2,))).shape) == (size,)
    assert not [r for r in caplog.records if "retracing" in r.getMessage()]


def test_value_and_gradient_of_a_tensor():
    x = ops.convert_to_tensor([1.0, 2.0])
    counter = keras.Variable(0.0, trainable=False)

    def fn(x):
        counter.assign_add(1.0)
        return ops.sum(ops.square(x)) + counter

    value, gradient = backend.value_and_gradient(fn, x)
    assert float(value) == 6.0 and float(counter.value) == 1.0
    np.testing.assert_allclose(ops.convert_to_numpy(gradient), [2.0, 4.0])

    # Both are constants to a gradient outside.
    weight = keras.Variable(3.0)

    def loss():
        value, gradient = backend.value_and_gradient(fn, weight * x)
        return weight * (value + ops.sum(gradient))

    loss, (outside,) = backend.value_and_gradients(loss, [weight])
    assert float(loss) == 3.0 * float(outside)


def test_argmax_takes_the_first_of_the_largest():
    x = np.array([[0.0, -0.0, -1.0], [-0.0, 0.0, -1.0], [1.0, 3.0, 3.0]], "float32")
    places = backend.argmax(ops.convert_to_tensor(x))
    assert keras.backend.standardize_dtype(places.dtype) == "int32"
    np.testing.assert_array_equal(host(places), [0, 0, 1])


def test_the_cross_entropy_of_classes_with_its_gradient():
    rng = np.random.default_rng(0)
    logits = (5 * rng.normal(size=(2, 3, 7))).astype("float32")
    labels = rng.integers(0, 7, (2, 3)).astype("int32")
    x = keras.Variable(logits)
    factor = rng.normal(size=(2, 3)).astype("float32")

    def loss():
        losses = backend.cross_entropy(ops.convert_to_tensor(labels), x.value)
        assert tuple(losses.shape) == (2, 3)
        return ops.sum(losses * ops.convert_to_tensor(factor))

    value, (gradient,) = backend.value_and_gradients(loss, [x])
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    chosen = np.take_along_axis(p, labels[..., None], -1)[..., 0]
    np.testing.assert_allclose(host(value), np.sum(-np.log(chosen) * factor), 1e-5)
    wanted = factor[..., None] * (p - np.eye(7)[labels])
    np.testing.assert_allclose(host(gradient), wanted, atol=1e-5)


def test_writing_into_a_cache():
    x = np.arange(2 * 1 * 5 * 2, dtype="float32").reshape(2, 1, 5, 2)
    for place, count in ((0, 1), (3, 2), (1, 3), (4, 1), (0, 5)):
        values = -np.ones((2, 1, count, 2), "float32")
        wanted = x.copy()
        wanted[:, :, place : place + count] = -1.0
        for index in (place, ops.convert_to_tensor(place, "int32")):
            got = backend.write(*map(ops.convert_to_tensor, (x.copy(), values)), index)
            np.testing.assert_array_equal(host(got), wanted)
    # What is differentiated is not overwritten.
    v = keras.Variable(x)

    def loss():
        y = backend.write(v.value * 2.0, ops.convert_to_tensor(values), 0)
        return ops.sum(y) + ops.sum(v.value)

    _, (gradient,) = backend.value_and_gradients(loss, [v])
    np.testing.assert_array_equal(host(gradient), np.ones_like(x))


def test_quick_gelu_and_its_gradient():
    x = np.linspace(-6, 6, 49)
    s = 1.0 / (1.0 + np.exp(-1.702 * x))
    value = keras.Variable(x.astype("float32"))
    made = host(backend.quick_gelu(ops.copy(value.value)))
    np.testing.assert_allclose(made, x * s, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(host(value), x.astype("float32"))
    _, (gradient,) = backend.value_and_gradients(
        lambda: ops.sum(backend.quick_gelu(value.value)), [value]
    )
    wanted = s * (1.0 + 1.702 * x * (1.0 - s))
    np.testing.assert_allclose(host(gradient), wanted, rtol=1e-5, atol=1e-6)
