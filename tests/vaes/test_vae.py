"""The VAE: closed forms, what a trained one is asked, and what is refused."""

import json
import sys

import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats

import keras_genai as kg
from keras_genai import backend
from tests.support import conformance

pytestmark = pytest.mark.in_turn

SCALE = 0.2
# Orthogonal columns: the posterior is then diagonal, as the encoder's is.
W = np.array([[0.3, 0.2], [0.3, -0.2], [-0.3, 0.2], [-0.3, -0.2]])
B = np.array([0.1, 0.0, -0.1, 0.05])
PRECISION = 1 + (W**2).sum(0) / SCALE**2


def linear(shift=0.0, **kwargs):
    """p(x|z) = N(Wz + b, s^2) with its exact posterior, moved by `shift`."""
    encoder = keras.Sequential(
        [keras.Input((2, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(4)]
    )
    decoder = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(4), keras.layers.Reshape((2, 2, 1))]
    )
    kernel = (W / SCALE**2) / PRECISION  # (4, 2)
    kernel = np.concatenate([kernel, np.zeros((4, 2))], 1)
    bias = np.concatenate([shift - B @ kernel[:, :2], shift - np.log(PRECISION)])
    encoder.layers[-1].set_weights([kernel, bias])
    decoder.layers[0].set_weights([W.T, B])
    model = kg.VAE(
        encoder,
        decoder,
        image_shape=(2, 2, 1),
        latent_dim=2,
        likelihood="gaussian",
        scale=SCALE,
        **kwargs,
    )
    model.compile()
    return model


def linear_data(n):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 2)) @ W.T + B + SCALE * rng.normal(size=(n, 4))
    x = np.clip(x, -0.999, 0.999)
    exact = stats.multivariate_normal(B, W @ W.T + SCALE**2 * np.eye(4)).logpdf(x)
    return x.astype("float32").reshape(n, 2, 2, 1), exact


def evaluate(model, x):
    return model.evaluate(x, batch_size=64, verbose=0, return_dict=True)


def test_with_the_exact_posterior_every_bound_is_the_likelihood():
    x, exact = linear_data(256)
    got = linear().log_likelihood(x, importance_samples=3)
    np.testing.assert_allclose(got, exact, atol=2e-4)
    logs = evaluate(linear(importance_samples=64), x)
    assert logs["loss"] == pytest.approx(-exact.mean(), abs=1e-4)
    assert logs["elbo"] == pytest.approx(exact.mean(), abs=0.02)  # 16,384 draws


def test_with_another_posterior_the_bound_rises_to_the_likelihood():
    x, exact = linear_data(256)
    model = linear(shift=0.4)
    bounds = [
        model.log_likelihood(x, importance_samples=k, seed=1).mean()
        for k in (1, 5, 50, 3000)
    ]
    assert bounds == sorted(bounds) and bounds[0] < exact.mean() - 0.1
    got = model.log_likelihood(x, importance_samples=3000)
    assert np.sqrt(np.mean((got - exact) ** 2)) < 0.05
    assert got.mean() == pytest.approx(exact.mean(), abs=0.003)
    # The gap of the ELBO is the divergence from the posterior, in closed form.
    variance = np.exp(0.4)
    gap = 0.5 * (variance - 1 - 0.4 + 0.4**2 * PRECISION).sum()
    elbo = evaluate(linear(shift=0.4, importance_samples=256), x)["elbo"]
    assert elbo == pytest.approx(exact.mean() - gap, abs=0.02)


def test_the_likelihood_depends_on_neither_batch_nor_chunk():
    x = conformance.uniform("chunks", (7, 8, 8, 1), 0.0, 1.0)
    model = kg.VAE(
        image_shape=(8, 8, 1), latent_dim=3, hidden_units=(8,), binarize="dynamic"
    )
    one = model.log_likelihood(x, importance_samples=40, batch_size=7, chunk=40)
    for batch_size, chunk in ((3, 7), (7, 16), (2, 1)):
        got = model.log_likelihood(
            x, importance_samples=40, batch_size=batch_size, chunk=chunk
        )
        np.testing.assert_allclose(got, one, rtol=1e-5)
    few = [model.log_likelihood(x[:1], importance_samples=k) for k in (1, 2)]
    assert few[0] != few[1]


@pytest.mark.parametrize("scale", ["learned", "per_pixel", 0.05])
def test_bits_per_dim(scale):
    """Uniform levels need 8 bits; a wide likelihood's bits are counted by hand."""
    levels = conformance.integers("bits", (64, 4, 4, 1), 256)
    x = (levels / 127.5 - 1).astype("float32")
    kwargs = {"image_shape": (4, 4, 1), "latent_dim": 2, "hidden_units": (4,)}
    for likelihood in ("gaussian", "discretized_logistic"):
        model = kg.VAE(likelihood=likelihood, scale=scale, **kwargs)
        bits = model.bits_per_dim(x, importance_samples=4)
        nats = model.log_likelihood(x, importance_samples=4)
        assert bits.shape == (64,) and bits.mean() > 8.0
        if likelihood == "gaussian":
            width = np.log2(2 / 255)
            wanted = -nats / np.log(2) / 16 - width
            np.testing.assert_allclose(bits.mean(), wanted.mean(), rtol=5e-3)
        else:
            np.testing.assert_allclose(bits, -nats / np.log(2) / 16)
    noisy = (2 * (levels + 0.3) / 256 - 1).astype("float32")
    model = kg.VAE(likelihood="gaussian", scale=scale, **kwargs)
    got = model.bits_per_dim(noisy, importance_samples=4, dequantize=False)
    nats = model.log_likelihood(noisy, importance_samples=4)
    np.testing.assert_allclose(got, -nats / np.log(2) / 16 + 7.0)
    with pytest.raises(ValueError, match="between the levels"):
        model.bits_per_dim(noisy)
    with pytest.raises(ValueError, match="no meaning for likelihood='bernoulli'"):
        kg.VAE(**kwargs).bits_per_dim(x)


def small(**kwargs):
    arguments = {"image_shape": (8, 8, 1), "latent_dim": 4, "hidden_units": (12,)}
    model = kg.VAE(**{**arguments, **kwargs})
    model.compile()
    return model


def grey(n, *shape):
    return conformance.uniform("vae", (n, *(shape or (8, 8, 1))), 0.0, 1.0)


def test_evaluate_does_not_depend_on_the_batch_size():
    model, x = small(binarize="dynamic"), grey(48)
    model.fit(x, batch_size=16, verbose=0)
    one = model.evaluate(x, batch_size=48, verbose=0, return_dict=True)
    other = model.evaluate(x, batch_size=7, verbose=0, return_dict=True)
    for name, value in one.items():
        assert other[name] == pytest.approx(value, rel=1e-5), name
    assert one["loss"] == pytest.approx(one["reconstruction"] + one["kl"], rel=1e-5)
    assert one["elbo"] == pytest.approx(-one["loss"], rel=1e-6)


def test_active_units():
    metric = kg.vaes.ActiveUnits(3)
    rng = np.random.default_rng(0)
    means = rng.normal(size=(100, 3)) * [1.0, 0.09, 0.11] + [0.0, 5.0, -1.0]
    for part in np.array_split(means.astype("float32"), 7):
        metric.update_state(part)
    np.testing.assert_allclose(
        ops.convert_to_numpy(metric.variance()), means.var(0), rtol=1e-2
    )
    assert float(ops.convert_to_numpy(metric.result())) == 2.0


def test_the_terms_of_the_loss():
    x = grey(16)
    parts = {}

    def loss(**kwargs):
        model = small(**kwargs)
        logs = model.evaluate(x, batch_size=16, verbose=0, return_dict=True)
        parts.update(logs)
        return logs["loss"] - logs["reconstruction"]

    kl = loss()
    assert kl == pytest.approx(parts["kl"], rel=1e-4)
    assert loss(beta=4.0) == pytest.approx(4 * kl, rel=1e-4)
    assert loss(beta=2.0, capacity=10.0) == pytest.approx(2 * (10 - kl), rel=1e-4)
    assert loss(free_bits=5.0) == pytest.approx(20.0, rel=1e-4)
    warm = small(beta=kg.vaes.KLWarmup(4, start=1.0, end=3.0))
    assert [float(warm.beta(step)) for step in (0, 2, 4, 9)] == [1, 2, 3, 3]
    warm.fit(x, batch_size=8, verbose=0)  # two steps
    logs = warm.evaluate(x, batch_size=16, verbose=0, return_dict=True)
    assert logs["loss"] - logs["reconstruction"] == pytest.approx(
        2 * logs["kl"], rel=1e-4
    )


def test_sample_weights_count():
    x = grey(8)
    weight = np.array([0, 0, 0, 0, 2, 2, 2, 2], "float32")
    logs = small().test_on_batch(x, sample_weight=weight, return_dict=True)
    half = small()
    # The same noise for the last four: those before count nothing.
    key = backend.random.key(half.seed, "evaluate/latents")
    noise = backend.random.normal(key, (4, 1, 4), offset=4)
    loss, _ = half.objective(ops.convert_to_tensor(x[4:]), None, None, noise, False)
    assert logs["loss"] == pytest.approx(
        float(ops.convert_to_numpy(ops.stop_gradient(loss))), rel=1e-5
    )


def test_codes_and_paths():
    model, x = small(), grey(6)
    q = model.encode(x, batch_size=4)
    mean = q.mean
    assert mean.shape == q.log_variance.shape == (6, 4)
    assert isinstance(q, kg.vaes.DiagonalGaussian)
    np.testing.assert_allclose(
        q.sample(seed=1)[:2], model.encode(x[:2]).sample(seed=1), atol=1e-5
    )
    images = model.decode(mean)
    np.testing.assert_allclose(model.reconstruct(x), images, atol=1e-6)
    np.testing.assert_allclose(model.predict(x, verbose=0), images, atol=1e-5)
    for kind in ("spherical", "linear"):
        path = model.interpolate(x[0], x[1], n=5, kind=kind)
        assert path.shape == (5, 8, 8, 1)
        np.testing.assert_allclose(path[[0, -1]], images[:2], atol=1e-5)
        both = model.interpolate(mean[[0, 2]], mean[[1, 3]], n=5, kind=kind)
        np.testing.assert_allclose(both[0], path, atol=1e-5)
    a, b = np.array([2.0, 0, 0, 0]), np.array([0, 2.0, 0, 0])
    middle = model.interpolate(a, b, n=3)[1]
    wanted = model.decode(np.sqrt([[2.0, 2.0, 0, 0]]))[0]  # as long as its ends
    np.testing.assert_allclose(middle, wanted, atol=1e-5)
    swept = model.traverse(x[:2], 3, values=[0.0, mean[1, 3]])
    assert swept.shape == (2, 2, 8, 8, 1)
    np.testing.assert_allclose(swept[1, 1], images[1], atol=1e-5)


def test_options_of_generate():
    model = small(likelihood="discretized_logistic")
    still = model.generate(3, temperature=0.0)
    np.testing.assert_allclose(still, model.decode(np.zeros((3, 4))), atol=1e-6)
    drawn = model.generate(6, sample=True)
    levels = (drawn + 1) * 127.5
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-3)
    np.testing.assert_array_equal(drawn[:4], model.generate(4, sample=True))
    for options, match in (
        ({"temperature": -1.0}, "temperature must be"),
        ({"prior": "gmm"}, "normal, mixture"),
        ({"prior": "mixture"}, "call fit_prior"),
        ({"labels": [1]}, "takes no labels"),
    ):
        with pytest.raises(ValueError, match=match):
            model.generate(1, **options)


def test_a_fitted_prior_is_used_and_saved(tmp_path):
    model, x = small(num_classes=2, seed=3), grey(60)
    labels = np.arange(60) % 2
    before = model.generate(6)
    model.fit_prior(x, labels, components=2, seed=1)
    mixed = model.generate(200, labels=[0] * 200)
    np.testing.assert_allclose(model.generate(6, prior="normal"), before, atol=1e-6)
    assert np.abs(model.generate(6) - before).max() > 1e-3
    # The latents that it draws have the moments of the codes.
    q = model.encode(x, labels)
    mean = q.mean
    key = backend.random.key(0, "moments")
    z = ops.convert_to_numpy(model.prior.sample(key, 20_000, 0))
    spread = np.sqrt(mean.var(0) + q.variance.mean(0))
    np.testing.assert_allclose(z.mean(0), mean.mean(0), atol=0.5)
    np.testing.assert_allclose(z.std(0), spread, rtol=0.4)
    again = ops.convert_to_numpy(model.prior.sample(key, 5, 3))
    np.testing.assert_allclose(again, z[3:8], atol=1e-6)
    model.save(tmp_path / "vae.keras")
    loaded = kg.load_model(tmp_path / "vae.keras")
    np.testing.assert_array_equal(loaded.generate(200, labels=[0] * 200), mixed)
    # Other components, other variables: what was compiled before is not used.
    model.fit_prior(x, labels, components=3, covariance_type="diag")
    assert np.abs(model.generate(6) - loaded.generate(6)).max() > 1e-4
    model.fit(x, labels, batch_size=30, verbose=0)
    with pytest.raises(ValueError, match="at least as many images"):
        model.fit_prior(x[:3], labels[:3], components=4)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.mixture", None)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        small().fit_prior(grey(12), components=2)


@pytest.mark.processes
@pytest.mark.usefixtures("kept_child")
def test_served_by_tensorflow_alone(tensorflow_alone, tmp_path):
    model, x = small(num_classes=2, likelihood="gaussian"), grey(40)
    labels = np.arange(40) % 2
    model.fit(x, labels, batch_size=20, verbose=0)
    model.fit_prior(x, labels, components=2)
    model.export(tmp_path / "served")
    images = {"images": x[:3], "labels": np.array([0, 1, 0], "int32")}
    z = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")
    latents = {"latents": z, "labels": np.array([1, 0], "int32")}
    seed, wanted = np.array(5, "int32"), np.array([0, 1, 1], "int32")
    calls = [
        ("reconstruct", images),
        ("decode", latents),
        ("serving_default", latents),
        ("generate", {"seed": seed, "labels": wanted}),
    ]
    names, answers = tensorflow_alone.serve(tmp_path / "served", calls)
    expected = [
        model.reconstruct(x[:3], labels[:3]),
        model.decode(z, [1, 0]),
        model.decode(z, [1, 0]),
        model.generate(labels=wanted, seed=5),  # from the mixture
    ]
    for answer, images in zip(answers, expected, strict=True):
        (made,) = answer.values()
        np.testing.assert_allclose(made, images, atol=1e-4)
    assert set(names) == {
        "serving_default",
        "generate",
        "encode",
        "decode",
        "reconstruct",
    }


def test_the_default_networks():
    mlp = kg.VAE(hidden_units=(200, 200), latent_dim=50)  # 1509.00519's
    assert mlp.encoder.count_params() == 784 * 200 + 200 * 200 + 200 * 100 + 500
    assert mlp.decoder.count_params() == 50 * 200 + 200 * 200 + 200 * 784 + 1184
    wide = kg.VAE(
        image_shape=(64, 64, 1),
        latent_dim=10,
        architecture="convolutional",
        hidden_units=(256, 256),
    )  # 1804.03599's
    assert [x.name for x in wide.encoder.layers if "down" in x.name] == [
        f"down_{i}" for i in range(4)
    ]
    assert wide.decoder.output_shape == (None, 64, 64, 1)
    assert json.dumps(wide.get_config())
    odd = kg.VAE(image_shape=(7, 5, 3), latent_dim=2, hidden_units=())
    assert odd.generate(2).shape == (2, 7, 5, 3)


REFUSED = [
    ({"likelihood": "poisson"}, "bernoulli, gaussian, discretized_logistic"),
    ({"beta": -0.1}, "beta must be a finite number >= 0"),
    ({"beta": float("nan")}, "beta must be"),
    ({"capacity": -1}, "capacity must be"),
    ({"free_bits": -1}, "free_bits must be"),
    ({"free_bits": 0.1, "capacity": 2.0}, "give one"),
    ({"importance_samples": 0}, "importance_samples must be an integer of at least 1"),
    ({"importance_samples": 2, "beta": 2.0}, "has no KL of its own"),
    ({"estimator": "dreg", "free_bits": 0.1}, "has no KL of its own"),
    ({"estimator": "score"}, "reparameterized, dreg"),
    ({"binarize": "static"}, "binarize must be 'dynamic'"),
    ({"binarize": "dynamic", "likelihood": "gaussian"}, "likelihood='bernoulli'"),
    ({"scale": 0.0, "likelihood": "gaussian"}, "scale must be"),
    ({"latent_dim": 0}, "latent_dim must be"),
    ({"hidden_units": (0,)}, "hidden_units must be"),
    ({"architecture": "transformer"}, "mlp, convolutional"),
    ({"architecture": "convolutional", "image_shape": (30, 28, 1)}, "divisible by 4"),
    ({"image_shape": (28, 28)}, "image_shape must be"),
    ({"prior_components": 0}, "components must be"),
]


@pytest.mark.parametrize(("arguments", "match"), REFUSED)
def test_refused_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        small(**arguments)


def test_refused_networks():
    def network(inputs, *outputs):
        size = int(np.prod(outputs))
        return keras.Sequential(
            [
                keras.Input(inputs),
                keras.layers.Flatten(),
                keras.layers.Dense(size),
                keras.layers.Reshape(outputs),
            ]
        )

    with pytest.raises(ValueError, match=r"must return \(B, 8\).*latent_dim=4"):
        small(encoder=network((8, 8, 1), 4))
    with pytest.raises(ValueError, match=r"\('B', 8, 8, 2\), the parameters"):
        small(decoder=network((4,), 8, 8, 1), likelihood="gaussian", scale="per_pixel")


def test_refused_data():
    x = grey(8)
    labels = np.zeros(8, "int32")
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\].*/ 255"):
        small().fit(2 * x - 1)
    logistic = small(likelihood="discretized_logistic")
    with pytest.raises(ValueError, match=r"floats in \[-1, 1\].*/ 127.5 - 1"):
        logistic.fit((255 * x).astype("uint8"))
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\]"):
        logistic.log_likelihood(255 * x)
    with pytest.raises(ValueError, match="Labels are missing"):
        small(num_classes=2).fit(x)
    with pytest.raises(ValueError, match="Labels are missing"):
        small(num_classes=2).encode(x)
    with pytest.raises(ValueError, match="takes no labels"):
        small().fit(x, labels)
    with pytest.raises(ValueError, match="sample_weight must have"):
        small().fit(x, sample_weight=labels[:3])
    with pytest.raises(ValueError, match=r"\(N, 8, 8, 1\)"):
        small().fit(x[..., 0])
    with pytest.raises(ValueError, match=r"shape \(N, 4\)"):
        small().decode(np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"dimension must lie in \[0, 4\)"):
        small().traverse(x[0], 4)
    with pytest.raises(ValueError, match="one or a batch"):
        small().interpolate(x[0, :4], x[1])
    with pytest.raises(ValueError, match="n must be"):
        small().interpolate(x[0], x[1], n=1)
    with pytest.raises(ValueError, match="'spherical' or 'linear'"):
        small().interpolate(x[0], x[1], kind="cubic")
    with pytest.raises(ValueError, match="importance_samples must be"):
        small().log_likelihood(x, importance_samples=0)
