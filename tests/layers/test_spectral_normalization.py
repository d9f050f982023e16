"""Spectral normalization against PyTorch's, closed forms and the SVD."""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_genai import backend
from keras_genai.layers.spectral_normalization import SpectralNormalization

RNG = np.random.default_rng(3)
IMAGES = RNG.normal(size=(2, 6, 6, 3)).astype("float32")
VECTORS = RNG.normal(size=(4, 5)).astype("float32")

# name -> (layer, input, kernel -> the paper's W with a row for each output)
CASES = {
    "dense": (
        lambda: layers.Dense(7, kernel_initializer="zeros"),
        VECTORS,
        lambda k: k.T,
    ),
    "conv": (
        lambda: layers.Conv2D(4, 3, padding="same", kernel_initializer="zeros"),
        IMAGES,
        lambda k: k.reshape(-1, 4).T,
    ),
    "transpose": (
        lambda: layers.Conv2DTranspose(4, 3, 2, kernel_initializer="zeros"),
        IMAGES,
        lambda k: k.transpose(2, 0, 1, 3).reshape(4, -1),
    ),
    "depthwise": (
        lambda: layers.DepthwiseConv2D(
            3, depth_multiplier=2, depthwise_initializer="zeros"
        ),
        IMAGES,
        lambda k: k.reshape(9, 6).T,
    ),
    "embedding": (
        lambda: layers.Embedding(9, 4, "zeros"),
        np.array([[0, 8, 3], [3, 3, 1]], "int32"),
        lambda k: k.T,
    ),
}


FIRST_U = [1.2168045, 0.0032804, -0.1382117]  # of seed 5


def numpy(x):
    return np.asarray(ops.convert_to_numpy(x))


def unit(x):
    return x / np.linalg.norm(x)


def make(name, **kwargs):
    """A wrapped layer with a known kernel and u."""
    build, inputs, _ = CASES[name]
    layer = SpectralNormalization(build(), seed=5, **kwargs)
    layer.build(inputs.shape)
    kernel = layer.layer.trainable_variables[0]
    rng = np.random.default_rng(11)
    kernel.assign(rng.normal(size=kernel.shape).astype("float32"))
    layer.u.assign(unit(rng.normal(size=layer.u.shape)).astype("float32"))
    return layer, kernel, ops.convert_to_tensor(inputs)


@functools.cache
def case(name):
    """A wrapped layer, and its output and gradient by the kernel."""
    layer, _, inputs = make(name)
    return layer, *output_and_gradient(layer, inputs)


def output_and_gradient(layer, inputs):
    """The output, and its sum's gradient by the kernel, compiled."""

    def run():
        def loss():
            output = layer(inputs)
            return ops.sum(cotangent(output.shape) * output)

        kernel = layer.trainable_variables[0]
        return backend.value_and_gradients(loss, [kernel])[1][0]

    output = backend.jit(layer, layer.variables)(inputs)
    return numpy(output), numpy(backend.jit(run, layer.variables)())


def cotangent(shape):
    values = np.random.default_rng(2).normal(size=tuple(shape))
    return ops.convert_to_tensor(values.astype("float32"))


def vectors(name, layer, kernel):
    """(W, u, v, sigma) in float64 from the layer's u."""
    w = CASES[name][2](numpy(kernel.value).astype("float64"))
    u = numpy(layer.u.value).astype("float64")
    v = unit(w.T @ u)
    return w, u, v, u @ w @ v


@pytest.mark.parametrize("name", list(CASES))
def test_output_and_gradient(name):
    """The plain layer with W / sigma, and 1802.05957's gradient by W."""
    layer, output, gradient = case(name)
    kernel, inputs = layer.layer.trainable_variables[0], CASES[name][1]
    _, u, v, sigma = vectors(name, layer, kernel)

    plain = CASES[name][0]()
    plain.build(inputs.shape)
    plain_kernel = plain.trainable_variables[0]
    plain_kernel.assign(numpy(kernel.value) / sigma)
    expected, by_normalized = output_and_gradient(plain, ops.convert_to_tensor(inputs))
    np.testing.assert_allclose(output, expected, atol=1e-5)
    # dL/dW = (G - <G, W / sigma> d sigma / dW) / sigma, d sigma / dW = u v^T
    matrix = CASES[name][2]
    matrix = CASES[name][2]
    g = matrix(by_normalized.astype("float64"))
    along = (g * matrix(numpy(plain_kernel.value))).sum()
    np.testing.assert_allclose(
        matrix(gradient), (g - along * np.outer(u, v)) / sigma, atol=1e-4
    )


@pytest.mark.parametrize("name", ["dense", "conv", "transpose", "embedding"])
def test_equals_torch(name):
    """`torch.nn.utils.parametrizations.spectral_norm` with the same W, u and v."""
    torch = pytest.importorskip("torch")
    layer, output, gradient = case(name)
    k, u = numpy(layer.layer.trainable_variables[0].value), numpy(layer.u.value)
    # kernel -> PyTorch's weight, and the reference layer
    to_torch, reference = {
        "dense": (lambda k: k.T, lambda: torch.nn.Linear(5, 7)),
        "conv": (
            lambda k: k.transpose(3, 2, 0, 1),
            lambda: torch.nn.Conv2d(3, 4, 3, padding=1),
        ),
        "transpose": (
            lambda k: k.transpose(3, 2, 0, 1),
            lambda: torch.nn.ConvTranspose2d(3, 4, 3, stride=2),
        ),
        "embedding": (lambda k: k, lambda: torch.nn.Embedding(9, 4)),
    }[name]
    with torch.device("cpu"):
        module = torch.nn.utils.parametrizations.spectral_norm(reference())
        parametrization = module.parametrizations.weight
        weight = torch.tensor(np.ascontiguousarray(to_torch(k)))
        rows = weight.transpose(0, 1 if name == "transpose" else 0).flatten(1).numpy()
        if name == "embedding":  # rows are words: the same sigma, u and v change places
            pair = unit(rows @ u), u
        else:
            pair = u, unit(rows.T @ u)
        with torch.no_grad():
            parametrization.original.copy_(weight)
            parametrization[0]._u.copy_(torch.tensor(pair[0]))
            parametrization[0]._v.copy_(torch.tensor(pair[1]))
            if getattr(module, "bias", None) is not None:
                module.bias.zero_()
        module.eval()  # no further power iteration
        x = torch.tensor(CASES[name][1])
        y = module(x.permute(0, 3, 1, 2) if x.ndim == 4 else x)
        y = y.permute(0, 2, 3, 1) if y.ndim == 4 else y
        weights = torch.tensor(numpy(cotangent(y.shape)))
        with torch.enable_grad():
            (torch_gradient,) = torch.autograd.grad(
                (y * weights).sum(), parametrization.original
            )
    np.testing.assert_allclose(output, y.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(to_torch(gradient), torch_gradient.numpy(), atol=1e-4)


@pytest.mark.parametrize("power_iterations", [1, 3])
def test_power_iteration(power_iterations):
    """Algorithm 1, step by step; inference leaves u where it is."""
    layer, kernel, inputs = make("conv", power_iterations=power_iterations)
    w, u, _, _ = vectors("conv", layer, kernel)
    for _ in range(2):
        layer(inputs, training=True)
        for _ in range(power_iterations):
            v = unit(w.T @ u)
            u = unit(w @ v)
        np.testing.assert_allclose(numpy(layer.u.value), u, atol=1e-5)
        normalized = CASES["conv"][2](numpy(layer.normalized_kernel()))
        np.testing.assert_allclose(normalized, w / (u @ w @ unit(w.T @ u)), atol=1e-5)
        layer(inputs, training=False)
        layer(inputs)
        np.testing.assert_allclose(numpy(layer.u.value), u, atol=1e-5)


@pytest.mark.parametrize("name", ["conv", "transpose"])
def test_largest_singular_value_becomes_one(name):
    layer, _, inputs = make(name, power_iterations=100)
    layer(inputs, training=True)
    matrix = CASES[name][2](numpy(layer.normalized_kernel()))
    np.testing.assert_allclose(np.linalg.svd(matrix)[1].max(), 1.0, rtol=1e-4)


def test_kernel_is_not_changed():
    layer, kernel, inputs = make("dense")
    before = numpy(kernel.value).copy()
    layer(inputs, training=True)
    np.testing.assert_array_equal(numpy(kernel.value), before)
    assert [v.name for v in layer.trainable_variables] == ["kernel", "bias"]
    assert [v.name for v in layer.non_trainable_variables] == ["u"]


def test_first_u_is_the_same_on_every_backend():
    first = {}
    for seed in (5, 6):
        layer = SpectralNormalization(
            layers.Dense(3, kernel_initializer="zeros"), seed=seed
        )
        layer.build((None, 5))
        first[seed] = numpy(layer.u.value)
    np.testing.assert_allclose(first[5], FIRST_U, atol=1e-6)
    assert not np.allclose(first[6], FIRST_U)


def test_gradient_after_u_has_moved_on():
    """Two calls in one loss, the second of which stores another u."""
    layer, kernel, inputs = make("dense")
    _, (gradient,) = backend.value_and_gradients(
        lambda: (
            ops.sum(layer(inputs, training=False))
            + 0.0 * ops.sum(layer(inputs, training=True))
        ),
        [kernel],
    )
    layer, kernel, inputs = make("dense")
    _, (alone,) = backend.value_and_gradients(
        lambda: ops.sum(layer(inputs, training=False)), [kernel]
    )
    np.testing.assert_allclose(numpy(gradient), numpy(alone), atol=1e-5)


def test_gradient_penalty_through_it():
    """R1 by the kernel: D(x) = x w / |w|, so that the penalty is 1/2 whatever w is."""
    layer = SpectralNormalization(layers.Dense(1, use_bias=False))
    layer.build((None, 5))
    inputs = ops.convert_to_tensor(VECTORS)

    def loss():
        def critic(x):
            return ops.sum(layer(x, training=True))

        gradient = backend.gradients(critic, inputs)  # (4, 5)
        return 0.5 * ops.mean(ops.sum(ops.square(gradient), axis=1))

    value, (slope,) = backend.value_and_gradients(loss, layer.trainable_variables)
    np.testing.assert_allclose(numpy(value), 0.5, rtol=1e-5)
    np.testing.assert_allclose(numpy(slope), 0.0, atol=1e-5)


def test_values_set_outside_hold_inside():
    """Another network's weights, as an average reads them: kernel and bias."""
    layer, kernel, inputs = make("dense")
    bias = layer.layer.bias
    expected = numpy(layer(inputs)) + 2.0
    values = [(kernel, 3.0 * kernel.value), (bias, ops.ones(7) * 2.0)]
    got = backend.with_values(values, lambda: layer(inputs, training=False))
    np.testing.assert_allclose(numpy(got), expected, atol=1e-5)


def test_zero_kernel():
    layer, kernel, inputs = make("dense")
    kernel.assign(np.zeros(kernel.shape, "float32"))
    _, (gradient,) = backend.value_and_gradients(
        lambda: ops.sum(layer(inputs, training=True)), [kernel]
    )
    assert np.all(np.isfinite(numpy(gradient)))
    np.testing.assert_array_equal(numpy(layer(inputs)), 0.0)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy):
    layer = SpectralNormalization(layers.Conv2D(4, 3, padding="same", dtype=policy))
    plain = SpectralNormalization(layers.Conv2D(4, 3, padding="same"))
    network = keras.Sequential([keras.Input((6, 6, 3)), layer])
    plain.build(IMAGES.shape)
    plain.layer.kernel.assign(layer.layer.kernel)
    output = network(IMAGES, training=True)
    assert keras.backend.standardize_dtype(output.dtype) == policy[6:]
    assert (
        network.compute_output_spec(keras.KerasTensor((2, 6, 6, 3))).dtype
        == (policy[6:])
    )
    reference = plain(ops.convert_to_tensor(IMAGES), training=True)
    np.testing.assert_allclose(
        numpy(ops.cast(output, "float32")), numpy(reference), atol=0.05
    )
    # sigma comes from the float32 kernel, inside a half precision network too
    np.testing.assert_allclose(numpy(layer.u.value), numpy(plain.u.value), atol=1e-6)


def test_saves_and_loads(tmp_path):
    network = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            SpectralNormalization(
                layers.Conv2D(4, 3), power_iterations=2, epsilon=1e-9, seed=3
            ),
            layers.Flatten(),
            SpectralNormalization(layers.Dense(2), name="last"),
        ]
    )
    for _ in range(2):
        network(IMAGES, training=True)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_allclose(numpy(loaded(IMAGES)), numpy(network(IMAGES)), atol=1e-6)
    for ours, theirs in zip(network.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(numpy(ours.value), numpy(theirs.value))
    config = loaded.layers[0].get_config()
    assert config["power_iterations"] == 2
    assert config["epsilon"] == 1e-9
    assert config["seed"] == 3
    assert loaded.layers[0].compute_output_shape((None, 6, 6, 3)) == (None, 4, 4, 4)


def test_errors():
    with pytest.raises(ValueError, match="power_iterations must be an integer"):
        SpectralNormalization(layers.Dense(2), power_iterations=0)
    with pytest.raises(ValueError, match="no dtype of its own"):
        SpectralNormalization(layers.Dense(2), dtype="mixed_float16")
    for inner in (
        layers.Activation("relu"),
        layers.EinsumDense("abc,cde->abde", (None, 2, 3), kernel_initializer="zeros"),
    ):
        with pytest.raises(ValueError, match="takes Dense, Embedding, a plain"):
            SpectralNormalization(inner).build((2, 6, 5))
