"""AutoencoderKL against diffusers' on the same random weights, and its losses."""

import pathlib

import keras
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL as Reference
from keras import ops

import keras_genai as kg
from keras_genai import backend
from keras_genai.losses import adversarial
from keras_genai.vaes.kl_networks import patch_discriminator
from keras_genai.weights import autoencoder_kl as weights

pytestmark = pytest.mark.in_turn

SERVER = pathlib.Path(__file__).parents[1] / "export" / "tensorflow_alone.py"
torch.set_num_threads(1)  # beside TensorFlow's or JAX's own

SIZES = {
    "three levels": {
        "block_channels": (16, 32, 32),
        "layers_per_block": 2,
        "groups": 8,
    },
    "one level": {"block_channels": (8,), "layers_per_block": 1, "groups": 2},
    "no attention, no 1 x 1 convolutions": {
        "block_channels": (8, 24),
        "layers_per_block": 3,
        "groups": 4,
        "attention": False,
        "quant_conv": False,
        "latent_channels": 16,
        "shift_factor": 0.0609,
    },
    "gray": {
        "image_shape": (16, 8, 1),
        "block_channels": (8, 8, 8, 8),
        "layers_per_block": 1,
        "groups": 8,
    },
}


def host(x):
    return backend.to_host(x)


def from_torch(x):
    return x.detach().permute(0, 2, 3, 1).numpy()


def to_torch(x):
    return torch.from_numpy(x).permute(0, 3, 1, 2)


def pair(folder, name):
    """diffusers' network with random weights, and ours of its folder."""
    arguments = {"image_shape": (16, 24, 3), "latent_channels": 4, **SIZES[name]}
    config = weights.to_config(kg.AutoencoderKL(**arguments, discriminator_weight=0.0))
    torch.manual_seed(0)
    reference = Reference(**{k: v for k, v in config.items() if k[0] != "_"})
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    reference.save_pretrained(folder)
    return reference.eval(), kg.AutoencoderKL.from_pretrained(
        folder, discriminator_weight=0.0
    )


@pytest.mark.parametrize("name", SIZES)
def test_equals_diffusers(tmp_path, name):
    reference, model = pair(tmp_path, name)
    height, width, channels = model.image_shape
    x = np.random.default_rng(0).uniform(-1, 1, (3, height, width, channels))
    x = x.astype("float32")
    with torch.no_grad():
        posterior = reference.encode(to_torch(x)).latent_dist
        images = reference.decode(posterior.mode()).sample
    got = model.encode(x, batch_size=2)
    latents = from_torch(posterior.mode())
    np.testing.assert_allclose(got.mean, latents, atol=1e-4)
    np.testing.assert_allclose(
        got.log_variance, from_torch(posterior.logvar), atol=1e-4
    )
    np.testing.assert_allclose(got.kl(), posterior.kl().numpy(), rtol=1e-4)
    np.testing.assert_allclose(model.decode(latents), from_torch(images), atol=1e-4)
    np.testing.assert_allclose(model.reconstruct(x), from_torch(images), atol=1e-4)
    assert model.scaling_factor == reference.config.scaling_factor
    assert model.shift_factor == reference.config.shift_factor


def test_gradients_equal_diffusers(tmp_path):
    reference, model = pair(tmp_path, "three levels")
    rng = np.random.default_rng(1)
    x = rng.uniform(-1, 1, (2, 16, 16, 3)).astype("float32")
    noise = rng.normal(size=(2, 4, 4, 4)).astype("float32")

    posterior = reference.encode(to_torch(x)).latent_dist
    images = reference.decode(posterior.mean + posterior.std * to_torch(noise)).sample
    loss = torch.sum((images - to_torch(x)) ** 2) + torch.sum(posterior.kl())
    loss.backward()
    wanted = {n: p.grad.numpy() for n, p in reference.named_parameters()}

    def ours():
        real = ops.convert_to_tensor(x)
        posterior = model.posterior(real)
        images = model.decoder(posterior.sample(noise=ops.convert_to_tensor(noise)))
        return ops.sum(ops.square(images - real)) + ops.sum(posterior.kl())

    entries = weights.table(model)
    got, gradients = backend.value_and_gradients(ours, [e.variable for e in entries])
    np.testing.assert_allclose(float(host(got)), loss.item(), rtol=1e-4)
    assert {entry.name for entry in entries} == set(wanted)
    # A shift of the keys changes no softmax: that gradient is 0 but for rounding.
    largest = max(np.abs(g).max() for g in wanted.values())
    for entry, gradient in zip(entries, gradients, strict=True):
        reference_gradient = wanted[entry.name]
        difference = np.linalg.norm(entry.theirs(host(gradient)) - reference_gradient)
        scale = max(np.linalg.norm(reference_gradient), 1e-4 * largest)
        assert difference <= 1e-3 * scale, entry.name


# The loss


def small(**kwargs):
    arguments = {
        "block_channels": (8, 8),
        "layers_per_block": 1,
        "groups": 4,
        "discriminator_filters": 4,
        "discriminator_layers": 1,
        "discriminator_start": 0,
    }
    return kg.AutoencoderKL((8, 8, 3), **{**arguments, **kwargs})


def uniform(*shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")


def test_the_loss_and_its_gradients_written_out():
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(5, 3, activation="tanh")(image)
    features = keras.Model(image, maps)
    model = small(perceptual=features, log_variance=0.3, learn_log_variance=True)
    model.compile()
    x = ops.convert_to_tensor(uniform(4, 8, 8, 3))
    weight = ops.convert_to_tensor([1.0, 2.0, 0.0, 1.0])
    variables = model.players["autoencoder"].trainable_variables
    assert any(v is model.noise_scale.value for v in variables)
    loss, gradients = backend.value_and_gradients(
        lambda: model.autoencoder_loss(x, weight), variables
    )

    def parts():
        posterior = model.posterior(x)
        noise = model.noise.normal("posterior", (4, 4, 4, 4))
        fake = model.decoder(posterior.sample(noise=noise))
        f, g = (
            a / ops.sqrt(ops.sum(a * a, -1, keepdims=True))
            for a in (features(x), features(fake))
        )
        distance = ops.mean(ops.sum(ops.square(f - g), -1), (1, 2))  # (B,)
        error = ops.sum(ops.absolute(x - fake), (1, 2, 3)) + 192 * distance
        s = model.noise_scale.value
        nll = error / ops.exp(s) + 192 * s
        logits = backend.with_values(
            (), lambda: model.discriminator(fake, training=True)
        )
        judged = -ops.mean(logits, (1, 2, 3))
        return [ops.sum(weight * part) / 4.0 for part in (nll, posterior.kl(), judged)]

    last = [model.decoder.get_layer("conv_out").kernel]
    norms = [
        np.linalg.norm(
            host(backend.value_and_gradients(lambda k=k: parts()[k], last)[1][0])
        )
        for k in (0, 2)
    ]
    balance = 0.5 * min(norms[0] / (norms[1] + 1e-4), 1e4)  # 2012.09841, equation 7

    def written_out():
        nll, kl, judged = parts()
        return (nll + 1e-6 * kl + balance * judged) / 192

    wanted, wanted_gradients = backend.value_and_gradients(written_out, variables)
    np.testing.assert_allclose(float(loss), float(wanted), rtol=1e-4)
    np.testing.assert_allclose(model.logs()["adaptive_weight"], balance, rtol=1e-3)
    for variable, a, b in zip(variables, gradients, wanted_gradients, strict=True):
        scale = max(np.abs(host(b)).max(), 1e-4)
        difference = np.abs(host(a) - host(b)).max()
        assert difference <= 1e-3 * scale, variable.path


@pytest.mark.parametrize("start", [0, 2])
def test_when_the_discriminator_starts(start):
    model = small(discriminator_start=start)
    model.compile()
    x, first = uniform(4, 8, 8, 3), model.discriminator.get_weights()
    for step in range(3):
        logs = model.train_on_batch(x, return_dict=True)
        active = step >= start
        assert (logs["adaptive_weight"] > 0) == active
        pairs = zip(model.discriminator.get_weights(), first, strict=True)
        assert any(not np.array_equal(a, b) for a, b in pairs) == active
    assert "discriminator" not in small(discriminator_weight=0.0).players


def test_the_discriminator_sees_patches():
    # 70 x 70 with three strided layers: 30 x 30 logits of 256 x 256 pixels.
    judge = patch_discriminator(3, base_filters=4, layers=3)
    assert host(judge(np.zeros((1, 64, 64, 3), "float32"))).shape == (1, 6, 6, 1)
    real, fake = ops.array([[[[2.0]]]]), ops.array([[[[-0.5]]]])
    assert float(adversarial.hinge_discriminator(real, fake)) == 0.5


# Use


def test_tiles():
    model = small()
    x = uniform(3, 24, 16, 3)
    whole = model.encode(x).mean
    np.testing.assert_allclose(model.encode(x, tile=32).mean, whole, atol=1e-6)
    tiled = model.encode(x, tile=16, batch_size=2)
    assert tiled.mean.shape == whole.shape == (3, 12, 8, 4)
    # What lies in one tile alone is what that tile gives.
    np.testing.assert_allclose(
        tiled.mean[:, :4], model.encode(x[:, :16]).mean[:, :4], atol=1e-5
    )
    images = model.decode(whole, tile=8, overlap=0.5)
    assert images.shape == x.shape and np.all(np.isfinite(images))
    assert not np.array_equal(images, model.decode(whole))


def test_samples_of_the_posterior():
    model = small()
    x = uniform(4, 8, 8, 3)
    posterior = model.encode(x)
    np.testing.assert_allclose(
        posterior.sample(seed=1)[:2], model.encode(x[:2]).sample(seed=1), atol=1e-5
    )
    np.testing.assert_allclose(model.reconstruct(x), host(model(x)), atol=1e-5)
    sampled = model.reconstruct(x, seed=1)
    np.testing.assert_allclose(sampled, model.decode(posterior.sample(1)), atol=1e-5)


@pytest.mark.processes
@pytest.mark.usefixtures("kept_child")
def test_served_by_tensorflow_alone(tensorflow_alone, tmp_path):
    model = small(seed=2)
    model.export(tmp_path / "served")
    x = uniform(3, 12, 8, 3)  # other sides than image_shape
    latents = model.encode(x).mean[:2]
    seeded = {"seed": np.array(5, "int32"), "n": np.array(3, "int32")}
    calls = [
        ("serving_default", {"images": x}),
        ("decode", {"latents": latents}),
        ("generate", seeded),
    ]
    names, answers = tensorflow_alone.serve(tmp_path / "served", calls)
    wanted = model.reconstruct(x)
    expected = [wanted, wanted[:2], model.generate(3, seed=5)]
    for answer, images in zip(answers, expected, strict=True):
        (made,) = answer.values()
        np.testing.assert_allclose(made, images, atol=1e-4)
    assert names == ["decode", "encode", "generate", "reconstruct", "serving_default"]


BAD_ARGUMENTS = [
    ({"groups": 3}, "3 does not divide 8"),
    ({"block_channels": ()}, "at least one level"),
    ({"block_channels": (8, 8, 8, 8, 8)}, "divisible by 16"),
    ({"latent_channels": 0}, "latent_channels must be"),
    ({"reconstruction": "l3"}, "l1, l2"),
    ({"kl_weight": -1.0}, "kl_weight must be"),
    ({"scaling_factor": 0.0}, "scaling_factor must be"),
    ({"discriminator_start": -1}, "discriminator_start must be"),
    ({"perceptual_channels": [[1.0]], "perceptual": None}, "needs perceptual"),
    ({"discriminator_layers": 2}, "discriminator_layers=2 leaves no patch.*most 1"),
    ({"perceptual": keras.Model}, "perceptual must be a"),
    ({"perceptual": keras.Sequential()}, "not built"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)
    assert keras.Model.trainable is not False  # nothing is touched before it is known


def test_bad_input():
    model = small()
    flat = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match="feature maps"):
        small(perceptual=flat)
    assert flat.trainable
    conv = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)])
    with pytest.raises(ValueError, match="one weight for each channel"):
        small(perceptual=conv, perceptual_channels=[[1.0, 1.0, 1.0]])
    x = uniform(2, 8, 8, 3)
    for call, message in [
        (lambda: model.encode(uniform(2, 7, 8, 3)), "divisible by 2"),
        (lambda: model.encode(x[0]), "must have the shape"),
        (lambda: model.encode(x[..., :1]), "must have the shape"),
        (lambda: model.encode((255 * x).astype("uint8")), "127.5"),
        (lambda: model.encode(x[:0]), "must have the shape"),
        (lambda: model.encode(x, batch_size=0), "batch_size must be"),
        (lambda: model.encode(x, tile=5), "divisible by 2"),
        (lambda: model.encode(x, tile=4, overlap=1.0), "overlap must be"),
        (lambda: model.decode(x), r"\(N, height, width, 4\)"),
        (lambda: model.generate(2, labels=[0, 1]), "takes no labels"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
    model.compile()
    for arguments, message in [
        ((2 * x,), "lie in"),
        ((x[:, :6],), "shape"),
        ((x, np.zeros(2, "int32")), "takes no labels"),
        ((x, None, np.ones(3)), "sample_weight"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.train_on_batch(*arguments)


@pytest.mark.in_turn
@pytest.mark.parametrize("dtype", ["float16", "mixed_float16"])
def test_what_overflows_in_half_precision_is_computed_in_float32(dtype):
    def decoded(dtype, force_upcast):
        model = kg.AutoencoderKL(
            (8, 8, 3),
            block_channels=(8, 8),
            layers_per_block=1,
            groups=4,
            discriminator_weight=0.0,
            dtype=dtype,
            force_upcast=force_upcast,
        )
        kernel = model.decoder.get_layer("conv_in").kernel
        kernel.assign(1e6 * kernel)
        latents = np.random.default_rng(0).normal(size=(1, 4, 4, 4)).astype("float32")
        return model.decode(latents)

    wanted = decoded("float32", False)
    np.testing.assert_array_equal(decoded(dtype, True), wanted)
    assert not np.isfinite(decoded(dtype, False)).all()
