"""VQVAE: codes round trip, the prior draws them, and what a user can get wrong."""

import keras
import numpy as np
import pytest

import keras_genai as kg
from keras_genai import layers, losses
from keras_genai.losses import reconstruction
from keras_genai.vaes.codes import Perplexity
from tests.support.conformance import host, uniform

pytestmark = pytest.mark.in_turn

EAGER = keras.backend.backend() != "jax"


def vqvae(quantizer="vector", shape=(8, 8, 1), compile=True, **kwargs):
    sizes = {"codebook_size": 16, "latent_dim": 4, "filters": 6, **kwargs}
    model = kg.VQVAE(shape, quantizer, **sizes)
    if compile:
        model.compile(run_eagerly=EAGER)
    return model


def prior(shape=(2, 2), num_classes=None, values=16):
    return kg.PixelCNN(shape, values, num_classes, filters=4, blocks=1)


def images(n=8, shape=(8, 8, 1)):
    return uniform("vqvae", (n, *shape))


def labels(n=8):
    return np.arange(n) % 3


# Codes


@pytest.mark.parametrize("quantizer", ["vector", "residual", "finite_scalar", "gumbel"])
def test_codes_round_trip(quantizer):
    model = vqvae(quantizer, shape=(12, 8, 2))
    x = images(7, (12, 8, 2))
    model.train_on_batch(x)
    indices = model.encode_indices(x, batch_size=3)
    stages = (4,) if quantizer == "residual" else ()
    assert model.code_shape == (3, 2, *stages)
    assert indices.shape == (7, *model.code_shape) and indices.dtype == np.int32
    assert 0 <= indices.min() and indices.max() < model.codebook_size
    again = model.reconstruct(x)
    assert again.shape == x.shape and np.abs(again).max() <= 1.0
    for made in (
        model.decode_indices(indices, batch_size=4),
        model.decode(model.encode(x)),
        model.predict(x, verbose=0),
    ):
        np.testing.assert_allclose(made, again, atol=1e-5)
    if stages:
        coarse = model.decode_indices(indices[..., :2])
        assert coarse.shape == x.shape and np.abs(coarse - again).max() > 0


def test_sizes_and_own_networks(tmp_path):
    """Any sides, one halving, networks handed in; all come back from a file."""
    encoder = keras.Sequential(
        [keras.Input((9, 6, 3)), keras.layers.Conv2D(5, 3, strides=3)], name="mine"
    )
    decoder = keras.Sequential(
        [keras.Input((3, 2, 5)), keras.layers.Conv2DTranspose(3, 3, strides=3)]
    )
    model = kg.VQVAE(
        (9, 6, 3),
        layers.VectorQuantizer(7, 5, normalize=True),
        encoder=encoder,
        decoder=decoder,
        prior=prior((3, 2), values=7),
    )
    model.compile(run_eagerly=EAGER)
    model.train_on_batch(images(4, (9, 6, 3)))
    model.save(tmp_path / "own.keras")
    again = kg.load_model(tmp_path / "own.keras")
    assert again.encoder.name == "mine"
    np.testing.assert_array_equal(again.generate(3), model.generate(3))
    assert vqvae(shape=(6, 10, 4), num_downsamples=1).code_shape == (3, 5)
    assert vqvae(shape=(8, 16, 1), num_downsamples=3).code_shape == (1, 2)


def test_the_loss_is_equation_3_and_the_logs_say_its_parts():
    model = vqvae(layers.VectorQuantizer(16, 4, beta=0.5), compile=False)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=EAGER)
    x = images(6)
    model.train_on_batch(x)  # makes the codebook
    logs = model.evaluate(x, batch_size=4, verbose=0, return_dict=True)
    z, codes = host(model.encoder(x)), model.encode(x)
    made = host(model.decoder(codes))
    error, commitment = np.mean((x - made) ** 2), 0.5 * np.mean((z - codes) ** 2)
    counts = np.bincount(model.encode_indices(x).ravel(), minlength=16)
    p = counts[counts > 0] / counts.sum()
    wanted = {
        "reconstruction": error,
        "commitment": commitment,
        "loss": error + commitment,
        "perplexity": np.exp(-np.sum(p * np.log(p))),
    }
    assert set(logs) == set(wanted)
    for name, value in wanted.items():
        assert logs[name] == pytest.approx(value, rel=1e-4), name
    weight = np.array([1, 0, 2, 0, 0, 1], "float32")
    weighted = model.evaluate(
        x, sample_weight=weight, batch_size=6, verbose=0, return_dict=True
    )
    each = np.mean((x - made) ** 2, (1, 2, 3))
    assert weighted["reconstruction"] == pytest.approx(each @ weight / 4, rel=1e-4)


def test_perplexity_counts_every_stage():
    metric = Perplexity(4, stages=2)
    metric.update_state(np.array([[0, 0], [1, 0], [2, 0], [3, 0]], "int32"))
    assert float(metric.result()) == pytest.approx((4.0 + 1.0) / 2)


def test_the_logit_laplace_density_integrates_to_one():
    output = np.array([0.7, np.log(0.4)], "float32").reshape(1, 1, 1, 2)
    u = np.linspace(1e-5, 1 - 1e-5, 400_001)
    x = (u - 0.1) / 0.8 * 2 - 1  # where the density's own variable is u
    image = x.reshape(-1, 1, 1, 1).astype("float32")
    density = np.exp(-host(reconstruction.logit_laplace(image, output)).ravel())
    assert np.trapezoid(density, u) == pytest.approx(1.0, rel=1e-3)
    sigmoid = 1 / (1 + np.exp(-0.7))
    median = host(reconstruction.get("logit_laplace").images(output)).item()
    assert median == pytest.approx((sigmoid - 0.1) / 0.8 * 2 - 1, rel=1e-5)
    assert losses.reconstruction.get("squared").parameters == 1


# The prior


@pytest.mark.parametrize(
    "quantizer",
    [
        "residual",  # its codes have an axis more
        *(
            pytest.param(name, marks=pytest.mark.once)
            for name in ("vector", "finite_scalar")
        ),
    ],
)
def test_a_prior_that_fit_prior_makes(quantizer, tmp_path):
    model = vqvae(quantizer)
    model.train_on_batch(images())
    small = prior(model.code_shape, 3, model.codebook_size)
    history = model.fit_prior(images(), labels(), prior=small, epochs=2, verbose=0)
    assert len(history.history["loss"]) == 2
    wanted = [2, 0, 1, 1]
    samples = model.generate(labels=wanted, seed=3)
    codes = model.prior.generate(labels=wanted, seed=3)
    np.testing.assert_allclose(samples, model.decode_indices(codes), atol=1e-5)
    assert not np.array_equal(samples, model.generate(labels=wanted, temperature=0.1))
    model.save(tmp_path / "with_prior.keras")
    again = kg.load_model(tmp_path / "with_prior.keras")
    np.testing.assert_array_equal(again.generate(labels=wanted, seed=3), samples)
    more = again.fit_prior(images(), labels(), verbose=0).history["loss"]
    expected = model.fit_prior(images(), labels(), verbose=0).history["loss"]
    np.testing.assert_array_equal(more, expected)  # its optimizer was in the file


def test_a_prior_is_made_and_may_be_replaced():
    model = vqvae(shape=(4, 4, 1), compile=False)
    model.compile()
    x = images(8, (4, 4, 1))
    # What is made by default is large to compile.
    given = None if keras.backend.backend() == "torch" else prior((1, 1))
    model.fit_prior(x, prior=given, epochs=1, verbose=0)
    assert model.num_classes is None and model.prior.shape == (1, 1)
    model.generate(8, seed=1)
    model.prior = prior((1, 1), 2)
    assert model.num_classes == 2
    # The new one is asked, and not what was compiled with the old.
    model.prior.network.get_layer("logits_0").bias.assign(100.0 * (np.arange(16) == 3))
    three = model.decode_indices(np.full((8, 1, 1), 3))
    np.testing.assert_allclose(model.generate(8, seed=1), three, atol=1e-6)
    assert model.generate(labels=[1, 1]).shape == (2, 4, 4, 1)
    with pytest.raises(ValueError, match="takes no labels|images alone"):
        model.fit(x, labels(), verbose=0)


@pytest.mark.processes
@pytest.mark.usefixtures("kept_child")
def test_served_by_tensorflow_alone(tensorflow_alone, tmp_path):
    model = vqvae("residual", prior=prior((2, 2, 4), 3))
    model.train_on_batch(images())
    folder = tmp_path / "served"
    model.export(folder)
    x, wanted = images(3), np.array([2, 0, 1], "int32")
    indices = model.encode_indices(x)
    drawn = {"seed": np.array(5, "int32"), "labels": wanted}
    calls = [
        ("encode", {"images": x}),
        ("decode", {"indices": indices}),
        ("reconstruct", {"images": x}),
        ("generate", drawn),
        ("serving_default", drawn),
    ]
    _, answers = tensorflow_alone.serve(folder, calls)
    np.testing.assert_array_equal(answers[0]["indices"], indices)
    expected = [
        model.decode_indices(indices),
        model.reconstruct(x),
        model.generate(labels=wanted, seed=5),
    ]
    for answer, images_ in zip(answers[1:4], expected, strict=True):
        (made,) = answer.values()
        np.testing.assert_allclose(made, images_, atol=1e-4)
    np.testing.assert_array_equal(answers[3]["images"], answers[4]["images"])


# What a user can get wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"codebook_size": 0}, "codebook_size must be an integer of at least 1; got 0"),
        ({"latent_dim": 0}, "latent_dim must be"),
        ({"shape": (30, 28, 1)}, r"sides divisible by 4; got \(30, 28, 1\)"),
        ({"shape": (12, 12, 1), "num_downsamples": 3}, "divisible by 8"),
        ({"shape": (8, 8)}, "height, width, channels"),
        ({"shape": (8, 8, 5)}, "1 to 4 channels"),
        ({"quantizer": "vq"}, "one of vector, residual, finite_scalar, gumbel.*'vq'"),
        ({"quantizer": 3}, "quantizer must be"),
        ({"quantizer": "finite_scalar", "codebook_size": 100}, "16, 64, 256, 512"),
        ({"reconstruction": "l2"}, "one of squared, absolute, logit_laplace; got 'l2'"),
        ({"prior": "pixelcnn"}, r"kg.PixelCNN\(\(2, 2\), 16\)"),
        (
            {
                "encoder": keras.Sequential(
                    [keras.Input((8, 8, 1)), keras.layers.Conv2D(5, 4, 4)]
                )
            },
            r"latents \(B, h, w, 4\).*it makes \(None, 2, 2, 5\)",
        ),
        (
            {
                "decoder": keras.Sequential(
                    [keras.Input((2, 2, 4)), keras.layers.Conv2DTranspose(2, 4, 4)]
                )
            },
            r"decoder must make \(8, 8, 1\).*it makes \(8, 8, 2\)",
        ),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        vqvae(compile=False, **arguments)


def test_data_that_does_not_fit():
    model = vqvae()
    x = images()
    for data, message in (
        ((x * 127,), r"must lie in \[-1, 1\]"),
        ((x[:, :4],), "must have the shape"),
        ((x, labels()), "images alone.*fit_prior"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(*data, verbose=0)
    for call in (model.encode, model.encode_indices, model.reconstruct):
        with pytest.raises(ValueError, match=r"must lie in \[-1, 1\]"):
            call(x * 2)
    indices = model.encode_indices(x)
    for wrong, message in (
        (indices + 16, r"Indices must lie in \[0, 16\)"),
        (indices - 20, r"Indices must lie in \[0, 16\)"),
        (indices[:, 0], r"Indices must have the shape \(N, 2, 2\)"),
        (indices[0], r"Indices must have the shape"),
        (indices.astype("float32"), "Indices must be integers"),
        (indices[:0], "no codes"),
    ):
        with pytest.raises(ValueError, match=message):
            model.decode_indices(wrong)
    with pytest.raises(ValueError, match=r"shape \(N, 2, 2, 4\).*decode_indices"):
        model.decode(indices)
    staged = vqvae("residual", compile=False)
    for wrong in (indices, np.zeros((1, 2, 2, 0), int), np.zeros((1, 2, 2, 5), int)):
        with pytest.raises(ValueError, match="Indices must have the shape"):
            staged.decode_indices(wrong)


def test_generating_without_a_prior_and_wrong_requests():
    model = vqvae()
    with pytest.raises(ValueError, match=r"no prior.*call fit_prior\(images\)"):
        model.generate(4)
    model.prior = prior()
    with pytest.raises(ValueError, match="takes no labels"):
        model.generate(labels=[0, 1])
    with pytest.raises(
        ValueError, match="temperature must be a finite number over 0; got 0"
    ):
        model.generate(4, temperature=0)
    with pytest.raises(ValueError, match="takes no labels"):
        model.fit_prior(images(), labels(), verbose=0)
    with pytest.raises(ValueError, match=r"prior must be.*shape \(3, 3\) with 16"):
        model.fit_prior(images(), prior=prior((3, 3)), verbose=0)
    assert model.prior.shape == (2, 2)  # as it was
    model.prior = prior((3, 3))
    for use, given in (
        (model.generate, [4]),
        (model.export_signatures, []),
        (model.fit_prior, [images()]),
    ):
        with pytest.raises(ValueError, match=r"prior must be.*shape \(3, 3\) with 16"):
            use(*given)
    model.prior = prior(num_classes=3)
    with pytest.raises(ValueError, match="Labels are missing"):
        model.fit_prior(images(), verbose=0)
    with pytest.raises(ValueError, match="compiled already"):
        model.fit_prior(images(), labels(), optimizer="adam", verbose=0)
