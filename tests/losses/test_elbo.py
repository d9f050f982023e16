"""Bounds and likelihoods against SciPy, closed forms and Monte Carlo."""

import math

import keras
import numpy as np
import pytest
from keras import ops
from scipy import special, stats

from keras_genai import backend
from keras_genai.losses import elbo
from keras_genai.vaes import likelihoods

RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.normal(size=shape).astype("float32")


def host(x):
    return ops.convert_to_numpy(x)


def test_kl_of_gaussians_is_the_mean_of_the_log_ratio():
    mean, log_variance, prior_mean, prior = floats(4, 3)
    sd, prior_sd = np.exp(0.5 * log_variance), np.exp(0.5 * prior)
    z = mean + sd * RNG.normal(size=(400_000, 3))
    for got, p in (
        (elbo.gaussian_kl(mean, log_variance), stats.norm(0, 1)),
        (
            elbo.gaussian_kl(mean, log_variance, prior_mean, prior),
            stats.norm(prior_mean, prior_sd),
        ),
    ):
        ratio = stats.norm(mean, sd).logpdf(z) - p.logpdf(z)
        error = 5 * ratio.std(0) / math.sqrt(len(z))
        assert np.all(np.abs(host(got) - ratio.mean(0)) < error + 1e-5)
    assert np.all(host(elbo.gaussian_kl(mean, log_variance, mean, log_variance)) == 0)


def test_densities_equal_scipys():
    x, mean, scale = floats(5, 4, 3), floats(5, 4, 3), floats(3)
    got = elbo.gaussian_log_likelihood(x, mean, scale)
    wanted = stats.norm(mean, np.exp(scale)).logpdf(x).sum((1, 2))
    np.testing.assert_allclose(host(got), wanted, rtol=1e-5, atol=1e-5)
    got = elbo.gaussian_log_density(x, mean, 2 * scale)
    np.testing.assert_allclose(
        host(got), stats.norm(mean, np.exp(scale)).logpdf(x), rtol=1e-4, atol=1e-5
    )
    x = (x > 0).astype("float32")
    got = elbo.bernoulli_log_likelihood(x[:, None], mean[:, None], batch_axes=2)
    p = special.expit(mean.astype("float64"))
    wanted = stats.bernoulli(p).logpmf(x).sum((1, 2))
    np.testing.assert_allclose(host(got)[:, 0], wanted, rtol=1e-5)
    saturated = elbo.bernoulli_log_likelihood(np.ones((1, 1)), np.full((1, 1), -400.0))
    assert float(host(saturated)[0]) == -400.0


@pytest.mark.parametrize("levels", [4, 256])
def test_discretized_logistic_is_a_distribution(levels):
    x = np.linspace(-1, 1, levels).astype("float32")[:, None]
    mean = np.array([-1.3, -1.0, 0.013, 0.4, 2.0], "float32")
    for log_scale in (-7.0, -3.0, 0.0, 3.0):
        columns = [
            elbo.discretized_logistic_log_likelihood(
                x, np.full_like(x, m), log_scale, levels
            )
            for m in mean
        ]
        log_p = np.stack([host(c) for c in columns], 1).astype("float64")
        assert np.all(np.isfinite(log_p))
        np.testing.assert_allclose(np.exp(log_p).sum(0), 1.0, rtol=2e-4)
        h, s = 1 / (levels - 1), math.exp(log_scale)
        x64 = np.linspace(-1, 1, levels)[:, None]
        upper = stats.logistic.cdf((x64 + h - mean) / s)
        lower = stats.logistic.cdf((x64 - h - mean) / s)
        upper[-1], lower[0] = 1.0, 0.0
        seen = upper - lower > 1e-12
        np.testing.assert_allclose(np.exp(log_p)[seen], (upper - lower)[seen], 1e-2)


def test_likelihood_samples_follow_the_likelihood():
    """Means, deviations and frequencies of draws, also of a pixel at the edge."""
    n, output = 20_000, np.zeros((20_000, 1, 1, 4), "float32")
    key = backend.random.key(0, "draws")
    output[..., 0], output[..., 1] = 0.3, -1.1
    output[..., 2], output[..., 3] = math.log(0.2), math.log(0.05)
    gaussian = likelihoods.make("gaussian", (1, 1, 2), "per_pixel")
    draws = host(gaussian.sample(key, ops.convert_to_tensor(output), None, 0))
    np.testing.assert_allclose(draws.mean((0, 1, 2)), [0.3, -1.1], atol=0.006)
    np.testing.assert_allclose(draws.std((0, 1, 2)), [0.2, 0.05], rtol=0.03)
    logistic = likelihoods.make("discretized_logistic", (1, 1, 2), "per_pixel")
    draws = host(logistic.sample(key, ops.convert_to_tensor(output), None, 0))
    levels = np.linspace(-1, 1, 256)
    for c in range(2):
        p = np.exp(
            [
                float(
                    host(
                        elbo.discretized_logistic_log_likelihood(
                            np.full((1, 1), x),
                            np.full((1, 1), output[0, 0, 0, c]),
                            output[0, 0, 0, 2 + c],
                        )
                    )[0]
                )
                for x in levels.astype("float32")
            ]
        )
        drawn = np.round((draws[:, 0, 0, c] + 1) * 127.5).astype(int)
        got = np.bincount(drawn, minlength=256) / n
        assert np.abs(got - p).max() < 5 * math.sqrt(p.max() / n)
    bernoulli = likelihoods.make("bernoulli", (1, 1, 4), "learned")
    draws = host(bernoulli.sample(key, ops.convert_to_tensor(output), None, 0))
    assert set(np.unique(draws)) == {0.0, 1.0}
    np.testing.assert_allclose(
        draws.mean((0, 1, 2)), special.expit(output[0, 0, 0]), atol=0.02
    )


def test_bounds():
    weights = floats(6, 5) * 300
    wanted = special.logsumexp(weights.astype("float64"), axis=1) - math.log(5)
    np.testing.assert_allclose(host(elbo.iwae_bound(weights)), wanted, rtol=1e-6)
    kl = np.array([0.01, 0.5, 3.0], "float32")
    assert float(host(elbo.free_bits(kl, 0.25))) == pytest.approx(3.75)
    assert float(host(elbo.capacity(3.0, 5.0))) == 2.0
    np.testing.assert_allclose(
        host(elbo.elbo(np.array([-3.0]), np.array([2.0]), 0.5)), -4.0
    )
    z, mean, log_variance = floats(2, 3, 4), floats(2, 1, 4), floats(2, 1, 4)
    got = elbo.log_weights(np.zeros((2, 3), "float32"), z, mean, log_variance)
    q = stats.norm(mean, np.exp(0.5 * log_variance))
    wanted = (stats.norm.logpdf(z) - q.logpdf(z)).sum(-1)
    np.testing.assert_allclose(host(got), wanted, rtol=1e-4, atol=1e-4)


def test_half_precision_is_widened():
    x = ops.cast(np.full((1, 784), 0.5), "bfloat16")
    values = [
        elbo.bernoulli_log_likelihood(x, x),
        elbo.gaussian_log_likelihood(x, x, 0.0),
        elbo.discretized_logistic_log_likelihood(x, x, -2.0),
        elbo.gaussian_kl(x, x),
        elbo.iwae_bound(x),
    ]
    for value in values:
        assert keras.backend.standardize_dtype(value.dtype) == "float32"


def test_free_bits_stop_a_gradient_that_is_below():
    variables = [keras.Variable(np.array([0.01, 3.0], "float32"))]
    _, (gradient,) = backend.value_and_gradients(
        lambda: elbo.free_bits(variables[0] * 1.0, 0.25), variables
    )
    np.testing.assert_array_equal(host(gradient), [0.0, 1.0])
