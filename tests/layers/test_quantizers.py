"""Quantizers against brute force, closed forms and their own definitions."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_genai import backend, layers
from keras_genai.layers.quantizers import LEVELS, straight_through
from tests.support.conformance import host


def latents(name, shape, scale=1.0):
    key = backend.random.key(0, f"quantizers/{name}")
    return backend.random.normal(key, shape, stddev=scale, host=True)


def tensor(x):
    return ops.convert_to_tensor(x)


def brute_force(z, codes):
    distances = np.square(z[..., None, :] - codes).sum(-1)
    return distances.argmin(-1)


def gradient(fn, x):
    return host(backend.gradients(fn, tensor(x)))


# Vectors


def test_the_nearest_code_is_that_of_brute_force():
    layer = layers.VectorQuantizer(50, 6, initialization="uniform", beta=0.3)
    layer.codebook.assign(latents("codes", (50, 6)))
    z = latents("z", (4, 3, 5, 6))
    code, indices, loss = layer(tensor(z))
    expected = brute_force(z, host(layer.codebook.value))
    assert indices.shape == (4, 3, 5) and host(indices).dtype == np.int32
    np.testing.assert_array_equal(host(indices), expected)
    codes = host(layer.codebook.value)[expected]
    np.testing.assert_array_equal(host(code), codes)
    np.testing.assert_array_equal(host(layer.lookup(indices)), codes)
    np.testing.assert_allclose(
        host(loss), 0.3 * np.square(z - codes).mean((1, 2, 3)), rtol=1e-5
    )


def test_normalized_codes_are_those_of_the_largest_cosine():
    layer = layers.VectorQuantizer(50, 6, normalize=True, initialization="uniform")
    z = latents("z", (4, 3, 6), scale=5.0)
    code, indices, _ = layer(tensor(z), training=True)
    codes = latents("codes", (50, 6))
    layer.codebook.assign(codes)
    code, indices, _ = layer(tensor(z))
    codes /= np.linalg.norm(codes, axis=-1, keepdims=True)
    unit = z / np.linalg.norm(z, axis=-1, keepdims=True)
    np.testing.assert_array_equal(host(indices), (unit @ codes.T).argmax(-1))
    np.testing.assert_allclose(np.linalg.norm(host(code), axis=-1), 1.0, rtol=1e-5)


def test_the_averages_are_those_of_appendix_a1():
    decay, epsilon, size = 0.9, 1e-2, 5
    layer = layers.VectorQuantizer(
        size, 3, decay=decay, epsilon=epsilon, restart=0.0, initialization="uniform"
    )
    usage, sums = np.ones(size), host(layer.codebook.value).astype("float64")
    for step in range(4):
        z = latents(f"step {step}", (6, 2, 3), scale=0.5)
        codes = host(layer.codebook.value)
        layer(tensor(z), training=True)
        layer(tensor(z + 1.0))  # not training: nothing moves
        chosen = np.eye(size)[brute_force(z, codes).ravel()]
        usage = decay * usage + (1 - decay) * chosen.sum(0)
        sums = decay * sums + (1 - decay) * chosen.T @ z.reshape(-1, 3)
        total = usage.sum()
        smooth = (usage + epsilon) / (total + size * epsilon) * total
        np.testing.assert_allclose(host(layer.usage.value), usage, rtol=1e-5)
        np.testing.assert_allclose(
            host(layer.codebook.value), sums / smooth[:, None], rtol=1e-4, atol=1e-6
        )


def test_the_first_batch_makes_the_codebook():
    """Every code is a latent of the batch, and no latent is taken twice."""
    layer = layers.VectorQuantizer(16, 3, seed=3)
    z = latents("first", (10, 2, 3))
    layer(tensor(z), training=True)
    distances = np.abs(host(layer.codebook.value)[:, None] - z.reshape(1, -1, 3))
    nearest = distances.max(-1).argmin(1)
    assert distances.max(-1).min(1).max() < 1e-2  # but for the smoothing
    assert len(set(nearest)) == 16
    more = layers.VectorQuantizer(64, 3, seed=3)  # more codes than latents
    more(tensor(z), training=True)
    assert np.all(np.isfinite(host(more.codebook.value)))


def test_dead_codes_restart_from_the_batch():
    layer = layers.VectorQuantizer(4, 2, decay=0.5, initialization="uniform")
    far = np.array([[0, 0], [1, 0], [50, 50], [-50, 50]], "float32")
    layer.codebook.assign(far)
    layer.sums.assign(far)
    z = np.concatenate([np.zeros((8, 1, 2)), np.ones((8, 1, 2))]).astype("float32")
    z = z + latents("dead", z.shape, 0.1)
    for step in range(5):
        layer(tensor(z), training=True)
        if step == 0:
            np.testing.assert_allclose(
                host(layer.codebook.value)[2:], far[2:], rtol=1e-3
            )
    codes = host(layer.codebook.value)
    assert np.abs(codes).max() < 2.0, codes
    still = layers.VectorQuantizer(
        4, 2, decay=0.5, restart=0.0, epsilon=1e-9, initialization="uniform"
    )
    still.codebook.assign(far)
    still.sums.assign(far)
    for _ in range(5):
        still(tensor(z), training=True)
    np.testing.assert_allclose(host(still.codebook.value)[2:], far[2:], rtol=1e-3)


def test_samples_of_weight_zero_do_not_move_the_codebook():
    z = latents("weights", (6, 4, 3))
    pair = [
        layers.VectorQuantizer(5, 3, initialization="uniform", restart=0.0)
        for _ in range(2)
    ]
    pair[0](tensor(z), training=True, weight=tensor(np.array([1, 1, 0, 1, 0, 0.0])))
    pair[1](tensor(z[[0, 1, 3]]), training=True)
    for a, b in zip(pair[0].variables, pair[1].variables, strict=True):
        np.testing.assert_allclose(host(a.value), host(b.value), rtol=1e-5, atol=1e-6)


def test_the_gradients_of_equation_3():
    layer = layers.VectorQuantizer(7, 3, update="gradient", beta=0.25)
    z = latents("gradients", (2, 4, 3))
    codes = host(layer.codebook.value)
    nearest = brute_force(z, codes)
    difference = z - codes[nearest]  # (2, 4, 3)
    found = gradient(lambda x: ops.sum(layer(x, training=True)[2]), z)
    np.testing.assert_allclose(found, 0.25 * 2 * difference / 12, rtol=1e-4, atol=1e-7)
    _, (found,) = backend.value_and_gradients(
        lambda: ops.sum(layer(tensor(z), training=True)[2]), [layer.codebook]
    )
    expected = np.zeros_like(codes)
    np.add.at(expected, nearest, -2 * difference / 12)
    found = ops.convert_to_tensor(found)
    np.testing.assert_allclose(host(found), expected, rtol=1e-4, atol=1e-7)


QUANTIZERS = {
    "vector": lambda: layers.VectorQuantizer(9, 4, beta=0.0),
    "residual": lambda: layers.ResidualVectorQuantizer(9, 4, stages=3, beta=0.0),
    "residual, dropout": lambda: layers.ResidualVectorQuantizer(
        9, 4, stages=3, dropout=True
    ),
    "scalar": lambda: layers.FiniteScalarQuantizer((4, 3, 5, 2)),
    "gumbel": lambda: layers.GumbelQuantizer(4, 6, 0.5),
}


@pytest.mark.parametrize("name", ["vector", "residual", "residual, dropout"])
def test_the_gradient_goes_straight_through(name):
    """Exactly: the derivative of every element is what came from above."""
    layer = QUANTIZERS[name]()
    z, weights = latents("through", (3, 2, 4)), latents("weights", (3, 2, 4))
    found = gradient(lambda x: ops.sum(layer(x, training=True)[0] * tensor(weights)), z)
    np.testing.assert_array_equal(found, weights)
    both = straight_through(tensor(z), tensor(weights))
    np.testing.assert_array_equal(host(both), weights)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_what_every_quantizer_keeps(name):
    layer = QUANTIZERS[name]()
    z = tensor(latents("kept", (3, 2, 4)))
    for _ in range(2):
        layer(z, training=True)
    code, indices, loss = layer(z)
    assert code.shape == (3, 2, layer.latent_dim) and loss.shape == (3,)
    stages = () if layer.stages is None else (layer.stages,)
    assert indices.shape == (3, 2, *stages)
    assert 0 <= host(indices).min() and host(indices).max() < layer.codebook_size
    np.testing.assert_allclose(host(layer.lookup(indices)), host(code), atol=1e-6)
    # The same again, and from its configuration.
    again = QUANTIZERS[name]()
    config = keras.saving.serialize_keras_object(layer)
    third = keras.saving.deserialize_keras_object(config)
    assert third.get_config() == layer.get_config()
    for _ in range(2):
        again(z, training=True)
        third(z, training=True)
    for a, b, c in zip(layer.variables, again.variables, third.variables, strict=True):
        np.testing.assert_array_equal(host(a.value), host(b.value))
        np.testing.assert_array_equal(host(a.value), host(c.value))
    with pytest.raises(ValueError, match="takes latents .*last layer must have 4"):
        layer(tensor(latents("wrong", (3, 2, 5))))


def test_half_precision_latents_are_quantized_in_float32():
    layer = layers.VectorQuantizer(64, 4, initialization="uniform")
    z = latents("half", (2, 8, 4)).astype("float16")
    code, indices, _ = layer(tensor(z))
    assert host(code).dtype == np.float32
    expected = brute_force(z.astype("float32"), host(layer.codebook.value))
    np.testing.assert_array_equal(host(indices), expected)


# Residuals


def test_each_stage_leaves_less_over():
    layer = layers.ResidualVectorQuantizer(32, 4, stages=4, decay=0.8)
    z = tensor(latents("residuals", (64, 8, 4)))
    for _ in range(30):
        layer(z, training=True)
    _, indices, _ = layer(z)
    errors = [
        float(host(ops.mean(ops.square(z - layer.lookup(indices[..., :s])))))
        for s in range(1, 5)
    ]
    assert all(b < 0.7 * a for a, b in zip(errors, errors[1:], strict=False)), errors
    first = layer.quantizers[0]
    np.testing.assert_array_equal(host(first(z)[1]), host(indices)[..., 0])


def test_quantizer_dropout_uses_the_first_stages():
    layer = layers.ResidualVectorQuantizer(
        8, 4, stages=3, dropout=True, initialization="uniform", restart=0.0
    )
    z = latents("dropout", (64, 2, 4))
    before = [host(stage.codebook.value) for stage in layer.quantizers]
    used = host(layer.noise.randint("quantizer/dropout", (64,), 1, 4))
    code, indices, _ = layer(tensor(z), training=True)
    assert set(used) == {1, 2, 3}
    parts = np.stack(
        [codes[host(indices)[..., s]] for s, codes in enumerate(before)], axis=1
    )  # (64, 3, 2, 4)
    kept = (np.arange(3) < used[:, None])[:, :, None, None]
    np.testing.assert_allclose(host(code), (parts * kept).sum(1), atol=1e-6)
    total = [float(host(ops.sum(s.usage.value))) for s in layer.quantizers]
    drawn = [2.0 * np.sum(used > s) for s in range(3)]
    np.testing.assert_allclose(total, 0.99 * 8 + 0.01 * np.array(drawn), rtol=1e-5)


# Scalars


@pytest.mark.parametrize("levels", [(2,), (3, 2), (8, 6, 5), (4, 3, 2, 5)])
def test_the_scalar_codebook_is_all_combinations(levels):
    layer = layers.FiniteScalarQuantizer(levels)
    count = int(np.prod(levels))
    assert layer.codebook_size == count
    codes = host(layer.lookup(tensor(np.arange(count, dtype="int32"))))
    assert len(np.unique(codes, axis=0)) == count
    for channel, n in enumerate(levels):
        values = (np.arange(n) - n // 2) / (n // 2)
        np.testing.assert_allclose(np.unique(codes[:, channel]), values, atol=1e-6)
    # Every code is reached, and named by its own index.
    line = np.linspace(-4.0, 4.0, 40)
    z = np.stack(np.meshgrid(*[line] * len(levels)), -1).reshape(-1, len(levels))
    code, indices, loss = layer(tensor(z.astype("float32")))
    assert set(host(indices)) == set(range(count))
    np.testing.assert_array_equal(host(code), codes[host(indices)])
    assert not np.any(host(loss))


def test_the_scalar_quantizer_is_the_papers_listing():
    levels = np.array((8, 5, 4))
    z = latents("listing", (50, 3), 1.5).astype("float64")
    half = (levels - 1) * (1 - 1e-3) / 2
    offset = np.where(levels % 2 == 1, 0.0, 0.5)
    bounded = np.tanh(z + np.tan(offset / half)) * half - offset
    layer = layers.FiniteScalarQuantizer(levels.tolist())
    code, indices, _ = layer(tensor(z.astype("float32")))
    np.testing.assert_allclose(host(code), np.round(bounded) / (levels // 2), atol=1e-6)
    digits = np.round(bounded) + levels // 2
    np.testing.assert_array_equal(host(indices), digits @ [1, 8, 40])
    # Straight through the rounding alone: the derivative of the bound is kept.
    found = gradient(lambda x: ops.sum(layer(x)[0]), z.astype("float32"))
    slope = (1 - np.tanh(z + np.tan(offset / half)) ** 2) * half / (levels // 2)
    np.testing.assert_allclose(found, slope, rtol=1e-3, atol=1e-6)


def test_the_papers_levels_are_near_their_sizes():
    for size, levels in LEVELS.items():
        assert 0.8 < np.prod(levels) / size < 1.1


# Gumbel


def test_cold_gumbel_draws_are_codes_by_their_probabilities():
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    layer = layers.GumbelQuantizer(4, 4, temperature=1e-3)
    layer.codebook.assign(np.eye(4))
    z = np.broadcast_to(np.log(probabilities), (4000, 4)).astype("float32")
    weights = host(layer(tensor(z), training=True)[0])
    assert np.mean(weights.max(-1) > 0.999) > 0.99  # one code
    np.testing.assert_allclose(weights.mean(0), probabilities, atol=0.02)
    hot = layers.GumbelQuantizer(4, 4, temperature=1e3)
    hot.codebook.assign(np.eye(4))
    np.testing.assert_allclose(host(hot(tensor(z), training=True)[0]), 0.25, atol=0.01)
    hard = layers.GumbelQuantizer(4, 4, temperature=1.0, hard=True)
    hard.codebook.assign(np.eye(4))
    drawn = host(hard(tensor(z), training=True)[0])
    assert set(np.unique(drawn)) == {0.0, 1.0}
    np.testing.assert_allclose(drawn.mean(0), probabilities, atol=0.03)


def test_the_gumbel_schedules_and_the_divergence():
    layer = layers.GumbelQuantizer(
        3, 2, (1.0, 0.0625), temperature_steps=10, kl_weight=2.0, kl_steps=4
    )
    z = latents("schedule", (2, 5, 3))
    q = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    kl = (q * np.log(q * 3)).sum(-1).mean(-1)  # (2,)
    for step in range(13):
        fall = 0.5 * (1 + np.cos(np.pi * min(step / 10, 1)))
        np.testing.assert_allclose(
            float(host(layer.tau())), 0.0625 + 0.9375 * fall, rtol=1e-5
        )
        rise = 0.5 * (1 - np.cos(np.pi * min(step / 4, 1)))
        loss = layer(tensor(z), training=True)[2]
        np.testing.assert_allclose(host(loss), 2 * rise * kl, rtol=1e-4, atol=1e-6)
    uniform = layer(ops.zeros((1, 5, 3)))[2]
    np.testing.assert_allclose(host(uniform), 0.0, atol=1e-6)


# What a user can get wrong


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.VectorQuantizer(0, 4), "codebook_size must be an integer of"),
        (lambda: layers.VectorQuantizer(4, 0), "latent_dim must be"),
        (lambda: layers.VectorQuantizer(4, 4, update="sgd"), "'ema' or 'gradient'"),
        (lambda: layers.VectorQuantizer(4, 4, initialization="pca"), "'data' or"),
        (lambda: layers.VectorQuantizer(4, 4, decay=1.0), "decay must be in"),
        (lambda: layers.VectorQuantizer(4, 4, beta=-1.0), "beta must be"),
        (lambda: layers.VectorQuantizer(4, 4, restart=1.5), "restart must be"),
        (
            lambda: layers.VectorQuantizer(4, 4, update="gradient", restart=0.1),
            "leave restart and initialization out",
        ),
        (lambda: layers.ResidualVectorQuantizer(4, 4, stages=0), "stages must be"),
        (lambda: layers.ResidualVectorQuantizer(0, 4), "codebook_size must be"),
        (lambda: layers.FiniteScalarQuantizer((8, 1)), "at least 2.*got .8, 1."),
        (lambda: layers.FiniteScalarQuantizer(()), "list of integers"),
        (lambda: layers.FiniteScalarQuantizer(8), "list of integers"),
        (lambda: layers.FiniteScalarQuantizer([64] * 6), "more than"),
        (lambda: layers.GumbelQuantizer(0, 4), "codebook_size must be"),
        (lambda: layers.GumbelQuantizer(4, 4, temperature=0.0), "over 0"),
        (lambda: layers.GumbelQuantizer(4, 4, temperature=(1.0, -1.0)), "over 0"),
        (lambda: layers.GumbelQuantizer(4, 4, kl_weight=-1.0), "kl_weight must be"),
    ],
)
def test_arguments_that_do_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()
