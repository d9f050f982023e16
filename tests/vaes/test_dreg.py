"""The doubly reparameterized estimator against float64, weight by weight.

The model has one latent and one pixel, x ~ N(w z + b, s^2), with a linear encoder
q(z|x) = N(a x + c, d^2). NumPy computes in float64 what 1810.04152's equation 8 says,
and what the plain estimator (1509.00519, equation 13) says, draw by draw.
"""

import keras
import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from keras_genai import backend
from keras_genai.losses import elbo

pytestmark = pytest.mark.in_turn

K, SCALE = 6, 0.4
W, B, A, C, LOG_D = 0.9, 0.2, 0.5, -0.1, -0.7  # decoder, encoder


def draws(n, seed=0):
    rng = np.random.default_rng(seed)
    return 0.5 * rng.normal(size=(n,)), rng.normal(size=(n, K))


def by_hand(x, noise):
    """Derivatives of -L_k: decoder (w, b), and encoder (a, c) by both estimators."""
    d = np.exp(LOG_D)
    z = (A * x + C)[:, None] + d * noise  # (N, k)
    error = x[:, None] - (W * z + B)
    log_w = -0.5 * (error / SCALE) ** 2 - 0.5 * z**2 + 0.5 * noise**2
    weight = np.exp(log_w - log_w.max(1, keepdims=True))
    weight /= weight.sum(1, keepdims=True)
    decoder = -np.stack([weight * error * z, weight * error], -1).sum(1) / SCALE**2
    # By z through p(x|z) p(z); q adds its own path, (z - m) / d^2 = noise / d.
    of_p = W * error / SCALE**2 - z
    of_path = of_p + noise / d
    inner = np.stack([x, np.ones_like(x)], -1)  # dz/da, dz/dc
    plain = -(weight * of_p).sum(1)[:, None] * inner  # m's own score cancels q's path
    dreg = -(weight**2 * of_path).sum(1)[:, None] * inner
    spread = -(weight**2 * of_path * d * noise).sum(1)  # by log d
    return decoder, plain, dreg, spread


def layers():
    """The same as variables: decoder (w, b), encoder (a, c, log d)."""
    return [keras.Variable(np.array(v, "float32")) for v in (W, B, A, C, LOG_D)]


def surrogate(variables, x, noise, weight=None, scale=1.0):
    """Minus the bound of this package, on the same draws."""
    w, b, a, c, log_d = (v * 1.0 for v in variables)
    x = ops.convert_to_tensor(x.astype("float32"))
    noise = ops.convert_to_tensor(noise.astype("float32"))
    mean = ops.reshape(a * x + c, (-1, 1, 1))
    log_variance = 2.0 * log_d + 0.0 * mean
    z = mean + ops.exp(0.5 * log_variance) * ops.expand_dims(noise, -1)
    z, token = elbo.dreg_path(z)
    log_p = elbo.gaussian_log_likelihood(
        ops.reshape(x, (-1, 1, 1)), w * z + b, float(np.log(SCALE)), batch_axes=2
    )
    stopped = ops.stop_gradient(mean), ops.stop_gradient(log_variance)
    log_w = elbo.log_weights(log_p, z, *stopped)
    bound = elbo.dreg_bound(log_w, token)
    weight = np.full(len(noise), 1 / len(noise)) if weight is None else weight
    return -scale * ops.sum(ops.cast(weight, "float32") * bound)


@pytest.mark.parametrize("scale", [1.0, 1024.0], ids=["plain", "scaled loss"])
def test_every_derivative_equals_float64(scale):
    x, noise = draws(40)
    weight = np.linspace(0.0, 0.05, 40)  # a sample of weight 0 as well
    variables = layers()
    _, gradients = backend.value_and_gradients(
        lambda: surrogate(variables, x, noise, weight, scale), variables
    )
    decoder, _, dreg, spread = by_hand(x, noise)
    wanted = np.concatenate([weight @ decoder, weight @ dreg, [weight @ spread]])
    got = [float(ops.convert_to_numpy(g)) / scale for g in gradients]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_the_value_is_that_of_the_bound():
    weights = np.random.default_rng(0).normal(size=(3, K)).astype("float32")
    z, token = elbo.dreg_path(np.ones((3, K, 1), "float32"))
    got, wanted = elbo.dreg_bound(weights, token), elbo.iwae_bound(weights)
    np.testing.assert_array_equal(*map(ops.convert_to_numpy, (got, wanted)))
    assert z.shape == (3, K, 1)


def test_the_mean_is_the_gradient_and_the_variance_is_lower():
    """In float64, over many draws: both estimators agree, and DReG is quieter."""
    x, noise = draws(400_000, seed=1)
    _, plain, dreg, _ = by_hand(x, noise)
    difference = plain - dreg
    error = difference.std(0) / np.sqrt(len(x))
    assert np.all(np.abs(difference.mean(0)) < 5 * error)
    # For given x, since what x contributes is the same in both.
    x, noise = np.full(20_000, 0.6), draws(20_000, seed=2)[1]
    _, plain, dreg, _ = by_hand(x, noise)
    assert np.all(dreg.var(0) < 0.5 * plain.var(0))


def test_the_model_uses_it():
    """A VAE of that one pixel has those gradients, with its own noise."""
    encoder = keras.Sequential([keras.Input((1, 1, 1)), keras.layers.Flatten()])
    encoder.add(keras.layers.Dense(2))
    decoder = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    decoder.add(keras.layers.Reshape((1, 1, 1)))
    encoder.layers[-1].set_weights(
        [np.array([[A, 0.0]], "float32"), np.array([C, 2 * LOG_D], "float32")]
    )
    decoder.layers[0].set_weights(
        [np.array([[W]], "float32"), np.array([B], "float32")]
    )
    model = kg.VAE(
        encoder,
        decoder,
        image_shape=(1, 1, 1),
        latent_dim=1,
        likelihood="gaussian",
        scale=SCALE,
        importance_samples=K,
        estimator="dreg",
    )
    model.compile()
    x = np.clip(draws(16)[0], -1, 1)
    # The noise of the first step, as the model draws it.
    noise = ops.convert_to_numpy(model.noise.normal("latents", (16, K, 1)))[..., 0]
    images = x.astype("float32").reshape(-1, 1, 1, 1)
    found = {}

    def look(player, loss_fn, *batch):
        variables = model.players[player].trainable_variables
        _, gradients = backend.value_and_gradients(lambda: loss_fn(*batch), variables)
        found.update(
            (v.path, ops.convert_to_numpy(g))
            for v, g in zip(variables, gradients, strict=True)
        )

    model.minimize = look
    model.train_step((images, None, None))
    got = np.concatenate([found[v.path].ravel() for v in encoder.trainable_variables])
    decoder_wanted, _, dreg, spread = by_hand(x, noise.astype("float64"))
    # d/d(log variance) is half of d/d(log d); its kernel multiplies x.
    wanted = [dreg[:, 0].mean(), 0.5 * (spread * x).mean()]
    wanted += [dreg[:, 1].mean(), 0.5 * spread.mean()]
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    got = np.concatenate([found[v.path].ravel() for v in decoder.trainable_variables])
    np.testing.assert_allclose(got, decoder_wanted.mean(0), rtol=1e-4, atol=1e-5)
