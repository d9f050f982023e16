"""What a user can get wrong is said before any training; every option trains."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_genai as kg

pytestmark = pytest.mark.in_turn

# A few steps each: tracing costs more than it saves but on JAX, where every
# operation of an eager step is compiled by itself.
EAGER = keras.backend.backend() != "jax"


def images(n=8, shape=(8, 8, 1)):
    rng = np.random.default_rng(0)
    return rng.uniform(-1, 1, (n, *shape)).astype("float32")


def dcgan(**kwargs):
    model = kg.DCGAN((8, 8, 1), 4, **{"base_filters": 4, **kwargs})
    model.compile(run_eagerly=EAGER)
    return model


def cgan(**kwargs):
    model = kg.CGAN((8, 8, 1), 3, 4, **{"base_filters": 4, **kwargs})
    model.compile(run_eagerly=EAGER)
    return model


@pytest.fixture(scope="module")
def plain():
    return dcgan()


@pytest.fixture(scope="module")
def labelled():
    return cgan()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((30, 28, 1), r"divisible by 4; got \(30, 28, 1\)"),
        ((28, 28), "height, width, channels"),
        ((28, 28, 5), "1 to 4 channels"),
        ((1, 28, 28), "divisible by 4"),
        ((0, 28, 1), "divisible by 4"),
        ("28x28", "height, width, channels"),
    ],
)
def test_image_shapes_that_do_not_fit(shape, message):
    with pytest.raises(ValueError, match=message):
        kg.DCGAN(shape)


def penalty(critic, real):
    return 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latent_dim": 0}, "latent_dim must be an integer of at least 1; got 0"),
        ({"latent_dim": 2.5}, "latent_dim"),
        ({"base_filters": 0}, "base_filters"),
        ({"loss": "focal"}, "minimax.*non_saturating.*least_squares.*hinge.*wass"),
        ({"penalties": {"r3": 1.0}}, "r1.*r2.*wgan_gp.*dragan"),
        ({"penalties": {penalty: 1.0}}, "penalties"),
        ({"penalties": {"r1": 0.0}}, "weight of the penalty 'r1'"),
        ({"penalty_interval": 0}, "penalty_interval"),
        ({"discriminator_steps": 0}, "discriminator_steps"),
        ({"generator_steps": 0}, "generator_steps"),
        ({"label_smoothing": 1.0}, "label_smoothing"),
        ({"label_smoothing": 0.1, "loss": "hinge"}, "no meaning for the loss 'hinge'"),
        ({"augment": "flip"}, "differentiable"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"discriminator_normalization": "layer"}, "batch_norm"),
        ({"initialization": "zeros"}, "glorot_uniform"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        kg.DCGAN((8, 8, 1), **{"base_filters": 4, **arguments})


@pytest.mark.parametrize(
    ("name", "known"),
    [("generator_conditioning", "conditional"), ("discriminator_conditioning", "proj")],
)
def test_unknown_conditionings(name, known):
    with pytest.raises(ValueError, match=f"{name}.*{known}"):
        kg.CGAN((8, 8, 1), 3, base_filters=4, **{name: "film"})


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (images() * 127.5 + 127.5, r"in \[-1, 1\]; got values from .*127.5 - 1"),
        ((images() * 127 + 127).astype("uint8"), "floats.*uint8.*astype"),
        (images()[..., 0], r"images\[..., None\]"),
        (images(shape=(12, 8, 1)), r"\(N, 8, 8, 1\)"),
        (np.full((4, 8, 8, 1), np.nan, "float32"), "got values from nan"),
        (images(0), "no images"),
    ],
)
def test_images_that_do_not_fit(plain, x, message):
    for train in (plain.fit, plain.evaluate, plain.train_on_batch):
        with pytest.raises(ValueError, match=message):
            train(x)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, r"Labels are missing.*fit\(images, labels\)"),
        (np.full(8, 3), r"lie in \[0, 3\); got values from 3 to 3"),
        (np.full(8, -1), "got values from -1"),
        (np.zeros(8, "float32"), "integers; got the type float32"),
        (np.zeros((8, 3), "int32"), r"argmax\(-1\)"),
    ],
)
def test_labels_that_do_not_fit(labelled, y, message):
    with pytest.raises(ValueError, match=message):
        labelled.fit(images(), y)


def test_labels_of_another_number_and_where_none_belong(plain, labelled):
    with pytest.raises(ValueError, match="one for each image"):
        labelled.fit(images(), np.zeros(7, "int32"))
    with pytest.raises(ValueError, match="takes no labels"):
        plain.fit(images(), np.zeros(8, "int32"))
    with pytest.raises(ValueError, match="sample_weight"):
        plain.fit(images(), sample_weight=np.ones(3))


def test_generate_refuses_what_it_cannot_make(plain, labelled):
    for n in (0, -1, 2.5, None, True):
        with pytest.raises(ValueError, match="n must be an integer of at least 1"):
            plain.generate(n)
    with pytest.raises(ValueError, match="takes no labels"):
        plain.generate(labels=[0])
    with pytest.raises(ValueError, match=r"\[0, 3\)"):
        labelled.generate(labels=[0, 3])
    with pytest.raises(ValueError, match="seed"):
        plain.generate(2, seed=-1)
    with pytest.raises(ValueError, match="batch_size"):
        plain.generate(2, batch_size=0)


def test_generate_depends_on_seed_and_sample_alone(labelled):
    whole = labelled.generate(10, seed=5)
    assert whole.shape == (10, 8, 8, 1) and whole.dtype == np.float32
    np.testing.assert_allclose(labelled.generate(10, 5, batch_size=3), whole, atol=1e-6)
    np.testing.assert_allclose(labelled.generate(4, 5), whole[:4], atol=1e-6)
    assert np.abs(labelled.generate(10, seed=6) - whole).max() > 1e-4


def test_generate_shows_its_progress(plain, capsys):
    plain.generate(5, batch_size=2, verbose=1)
    assert "5/5" in capsys.readouterr().out


class Half(keras.layers.Layer):
    def call(self, x, training=False):
        return 0.5 * x


@pytest.mark.parametrize(
    "arguments",
    [
        {"loss": "minimax", "label_smoothing": 0.1},
        {"loss": "least_squares", "penalties": {"r2": 1.0}},
        {"loss": "hinge", "augment": [Half(), kg.gans.DiffAugment("color")]},
        {
            "loss": "wasserstein",
            "penalties": {"wgan_gp": 10.0},
            "discriminator_normalization": None,
            "discriminator_steps": 3,
        },
        {"penalties": {"dragan": 10.0, "r1": 1.0}, "penalty_interval": 2},
        {"generator_steps": 2, "discriminator_normalization": "spectral_norm"},
        {"ema_decay": 0.9, "initialization": "glorot_uniform"},
        {"loss": kg.losses.adversarial.get("hinge")},
    ],
    ids=lambda arguments: "-".join(map(str, arguments)),
)
def test_every_option_trains(arguments):
    model = dcgan(**arguments)
    history = model.fit(images(16), batch_size=4, epochs=1, verbose=0).history
    assert all(np.isfinite(values).all() for values in history.values())


def test_the_generator_waits_for_the_discriminator():
    model = dcgan(discriminator_steps=3)
    kernel = model.generator.layers[1].kernel
    before = ops.convert_to_numpy(kernel)
    changed = []
    for _ in range(6):
        model.train_on_batch(images())
        after = ops.convert_to_numpy(kernel)
        changed.append(not np.array_equal(before, after))
        before = after
    assert changed == [False, False, True, False, False, True]


def test_generator_steps_are_updates():
    model = dcgan(generator_steps=3)
    model.train_on_batch(images())
    counts = {
        name: int(ops.convert_to_numpy(optimizer.iterations))
        for name, optimizer in model.optimizers.items()
    }
    assert counts == {"discriminator": 1, "generator": 3}


def test_a_lazy_penalty_counts_its_interval():
    """At step 0 the penalty of interval n weighs n times that of interval 1."""
    x = images()
    losses = [
        dcgan(penalties={"r1": weight}, penalty_interval=interval).train_on_batch(
            x, return_dict=True
        )["discriminator_loss"]
        for weight, interval in ((4.0, 1), (1.0, 4))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_networks_handed_in_are_checked():
    wide = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(50), keras.layers.Reshape((5, 10, 1))]
    )
    with pytest.raises(ValueError, match=r"must make images .*\(5, 10, 1\)"):
        kg.DCGAN((8, 8, 1), 4, generator=wide)
    classes = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    with pytest.raises(ValueError, match="logits"):
        kg.DCGAN((8, 8, 1), 4, discriminator=classes)


def test_dtype_reaches_the_networks_and_the_file(tmp_path):
    model = cgan(dtype="mixed_float16")
    layer = model.generator.get_layer("up_1")
    assert (layer.compute_dtype, layer.kernel.dtype) == ("float16", "float32")
    assert keras.config.dtype_policy().name == "float32"
    model.save(tmp_path / "half.keras")
    again = kg.load_model(tmp_path / "half.keras")
    assert again.generator.get_layer("up_1").compute_dtype == "float16"
    np.testing.assert_array_equal(again.generate(2), model.generate(2))


def test_predict_takes_latents_and_labels(labelled):
    latents, labels = np.zeros((3, 4), "float32"), np.arange(3, dtype="int32")
    called = ops.convert_to_numpy(labelled(latents, labels))
    predicted = labelled.predict([latents, labels], verbose=0)
    np.testing.assert_allclose(predicted, called, atol=1e-6)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_frozen_player_stays_and_the_other_trains(when):
    model = dcgan()
    if when == "before":
        model.discriminator.trainable = False
    model.compile()
    model.discriminator.trainable = False
    kernels = [net.trainable_weights + net.weights for net in model.players.values()]
    before = [ops.convert_to_numpy(each[0]) for each in kernels]
    model.fit(images(8), batch_size=4, verbose=0)
    same = [
        np.array_equal(a, ops.convert_to_numpy(each[0]))
        for a, each in zip(before, kernels, strict=True)
    ]
    assert same == [True, False]


def test_networks_of_ones_own_are_saved_with_the_model(tmp_path):
    generator = kg.gans.cgan_generator((8, 8, 1), 3, 4, base_filters=2)
    discriminator = kg.gans.cgan_discriminator((8, 8, 1), 3, base_filters=2)
    sizes = {"image_shape": (8, 8, 1), "latent_dim": 4, "num_classes": 3}
    model = kg.gans.GAN(generator, discriminator, **sizes)
    model.save(tmp_path / "gan.keras")
    loaded = kg.load_model(tmp_path / "gan.keras")
    images = [m.generate(labels=[0, 2], seed=1) for m in (model, loaded)]
    np.testing.assert_array_equal(*images)
