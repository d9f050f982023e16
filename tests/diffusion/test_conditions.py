"""A null condition of the model's own, a condition image, other sizes, bad numbers."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from tests.support.conformance import host
from tests.support.tiny_ddpm import network

pytestmark = pytest.mark.in_turn

DRAW = np.random.default_rng(0)
SCHEDULE = kg.schedules.Discrete("linear", beta_end=0.005)
IMAGES = DRAW.uniform(-1, 1, (4, 4, 4, 1)).astype("float32")
CONTEXT = DRAW.normal(size=(4, 2, 3)).astype("float32")
NULL = DRAW.normal(size=(2, 3)).astype("float32")
VECTOR = DRAW.normal(size=(4, 6)).astype("float32")
JOINED = DRAW.normal(size=(4, 4, 4, 2)).astype("float32")


def made(concat_channels=None, **kwargs):
    channels = 1 + (concat_channels or 0)
    unet = kg.UNet(
        (4, 4, channels),
        out_channels=1,
        block_channels=(4,),
        layers_per_block=1,
        groups=2,
        attention=True,
        context_dim=3,
        seed=1,
    )
    draw = np.random.default_rng(1)  # its last kernel begins at zero
    unet.set_weights(
        [w + draw.normal(0, 0.1, w.shape).astype("float32") for w in unet.get_weights()]
    )
    arguments = {"context_shape": (2, 3), "num_steps": 2, "ema_decay": None, **kwargs}
    if concat_channels:
        arguments["concat_channels"] = concat_channels
    model = kg.DDPM(unet, SCHEDULE, **arguments)
    model.compile(keras.optimizers.Adam(1e-2))
    return model


def joined(**kwargs):
    """One that takes images of any sides beside x, and a vector; soon compiled."""
    model = kg.DDPM(
        network((None, None, 3), vector_dim=6, out_channels=1, seed=1),
        SCHEDULE,
        **{
            "image_shape": (4, 4, 1),
            "vector_dim": 6,
            "concat_channels": 2,
            "image_dropout": 0.1,
            "num_steps": 2,
            "ema_decay": None,
            **kwargs,
        },
    )
    model.compile(keras.optimizers.SGD(1e-2))
    return model


def losses(model, y):
    return model.fit(IMAGES, y, batch_size=2, verbose=0).history["loss"]


def of_null(null=NULL):
    return np.broadcast_to(null, CONTEXT.shape).copy()


# The null condition


def test_training_puts_the_null_in_the_place_of_what_is_left_out():
    null, rates = VECTOR[1], {"condition_dropout": 1 - 1e-9, "image_dropout": 0.0}
    always = joined(null_condition={"vector": null}, **rates)
    found = losses(always, {"vector": VECTOR, "image": JOINED})
    never = joined(condition_dropout=0.0, image_dropout=0.0)
    given = {"vector": np.stack([null] * 4), "image": JOINED}
    np.testing.assert_allclose(found, losses(never, given), rtol=1e-5)


def test_guidance_leads_away_from_the_null_that_the_model_has(tmp_path):
    null = VECTOR[1]
    model = joined(null_condition={"vector": null})
    given = {"vector": VECTOR, "image": JOINED, "guidance_scale": 0.0, "seed": 3}

    def of(null, model):
        vector = np.stack([null] * 4)
        return model.generate(vector=vector, image=JOINED, seed=3)

    np.testing.assert_allclose(model.generate(**given), of(null, model), atol=1e-5)
    # What is compiled follows a change.
    model.null_condition["vector"].assign(2.0 * null)
    changed = model.generate(**given)
    np.testing.assert_allclose(changed, of(2.0 * null, model), atol=1e-5)
    assert np.abs(changed - of(null, model)).max() > 1e-3
    model.save(tmp_path / "model.keras")
    again = kg.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(host(again.null_condition["vector"]), 2.0 * null)
    np.testing.assert_allclose(again.generate(**given), changed, atol=1e-6)


@pytest.mark.once
def test_the_null_is_zeros_by_default():
    model, free = made(), made(context_shape=(None, 3))
    np.testing.assert_array_equal(host(model.null_condition["context"]), 0.0 * NULL)
    assert not free.null_condition  # of no known length
    given = {"context": CONTEXT, "guidance_scale": 0.0, "seed": 3}
    zeros = free.generate(context=0.0 * CONTEXT, seed=3)
    np.testing.assert_allclose(free.generate(**given), zeros, atol=1e-5)
    np.testing.assert_allclose(model.generate(**given), zeros, atol=1e-5)
    model = made(null_condition={"context": NULL})
    null = model.generate(context=np.stack([NULL] * 4), seed=3)
    np.testing.assert_allclose(model.generate(**given), null, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"context": NULL.T}, r"must be floats of the shape \(2, 3\)"),
        ({"context": NULL * np.nan}, "must be finite"),
        ({"labels": 3}, "null_condition has 'labels'"),
    ],
)
@pytest.mark.once
def test_another_null_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        made(null_condition=given)


@pytest.mark.once
def test_what_a_network_takes_must_be_said():
    network = made().network
    with pytest.raises(ValueError, match=r"give context_shape=\(77, 3\)"):
        kg.DDPM(network, SCHEDULE)
    with pytest.raises(ValueError, match="context_shape says 5"):
        kg.DDPM(network, SCHEDULE, context_shape=(2, 5))


# The condition image


def test_the_image_is_joined_to_x():
    model = joined()
    t = np.array([3.0, 50.0, 7.0, 9.0], "float32")
    given = {"vector": VECTOR, "image": JOINED}
    x = np.concatenate([IMAGES, JOINED], axis=-1)
    wanted = host(model.network([x, t, VECTOR]))
    np.testing.assert_allclose(host(model(IMAGES, t, **given)), wanted, atol=1e-5)
    images = model.generate(**given, guidance_scale=2.0)
    other = model.generate(**{**given, "image": -JOINED}, guidance_scale=2.0)
    assert np.abs(images - other).max() > 1e-3
    alone = model.generate(**given, guidance_scale=2.0, batch_size=1)
    np.testing.assert_allclose(alone, images, atol=1e-5)
    # Guidance keeps the image on both sides.
    null = model.generate(vector=0.0 * VECTOR, image=JOINED, seed=1)
    given |= {"guidance_scale": 0.0, "seed": 1}
    np.testing.assert_allclose(model.generate(**given), null, atol=1e-5)
    away = model.generate(**given, negative={"vector": 0.0 * VECTOR})
    np.testing.assert_allclose(away, null, atol=1e-5)


@pytest.mark.once
def test_the_default_network_takes_the_image():
    model = kg.DDPM(image_shape=(4, 4, 1), concat_channels=2, num_steps=1)
    assert model.network.image_shape == (4, 4, 3) and model.network.out_channels == 1
    assert made(2).image_shape == (4, 4, 1)


def test_an_image_left_out_is_zeros():
    rates = {"condition_dropout": 0.0, "image_dropout": 1 - 1e-9}
    always = losses(joined(**rates), {"vector": VECTOR, "image": JOINED})
    zeros = {"vector": VECTOR, "image": 0.0 * JOINED}
    never = joined(condition_dropout=0.0, image_dropout=0.0)
    np.testing.assert_allclose(always, losses(never, zeros), rtol=1e-5)


def test_how_often_each_is_left_out():
    """5% of the text alone, 5% of the image alone, 5% of both (2211.09800, 3.2.1)."""
    conditions = kg.diffusion.conditions.Conditions(None, 1, None, 0.1, 1, 0.1)
    n, rng = 200_000, np.random.default_rng(0)
    given = {"vector": ops.ones((n, 1)), "image": ops.ones((n, 1, 1, 1))}
    keep = ops.convert_to_tensor(rng.uniform(size=n) >= 0.1)
    u = ops.convert_to_tensor(rng.uniform(size=n).astype("float32"))
    kept = conditions.dropped(given, keep, None, u)
    text, image = (host(kept[name]).ravel() == 0 for name in ("vector", "image"))
    rates = [np.mean(a) for a in (text & ~image, image & ~text, text & image)]
    np.testing.assert_allclose(rates, 0.05, atol=2e-3)


def test_an_image_scale_of_one_is_none():
    model = joined()
    given = {"vector": VECTOR, "image": JOINED, "seed": 2}
    plain = model.generate(**given, guidance_scale=2.0)
    same = model.generate(**given, guidance_scale=2.0, image_guidance_scale=1.0)
    np.testing.assert_allclose(same, plain, atol=1e-5)
    # Both scales of 0: neither vector nor image.
    bare = model.generate(vector=0 * VECTOR, image=0 * JOINED, seed=2)
    scales = np.array([0.0, 1.0, 1.0, 1.0], "float32")
    several = model.generate(
        **given, guidance_scale=scales, image_guidance_scale=list(scales)
    )
    np.testing.assert_allclose(several[0], bare[0], atol=1e-5)
    np.testing.assert_allclose(several[1:], model.generate(**given)[1:], atol=1e-5)


@pytest.mark.once
def test_what_does_not_fit_the_image_is_refused():
    model = made(2)
    given = {"context": CONTEXT, "image": JOINED}
    with pytest.raises(ValueError, match=r"must have the sides .*\(4, 4\)"):
        model.generate(context=CONTEXT, image=JOINED[:, :2])
    with pytest.raises(ValueError, match="missing: image"):
        model.generate(context=CONTEXT)
    with pytest.raises(ValueError, match="needs a model with concat_channels= and"):
        model.generate(**given, image_guidance_scale=1.5)
    with pytest.raises(ValueError, match="needs concat_channels="):
        made(image_dropout=0.1)
    with pytest.raises(ValueError, match="this model has concat_channels=None"):
        made().inpaint(IMAGES, np.eye(4) > 0, context=CONTEXT, method="concat")
    with pytest.raises(ValueError, match="makes the condition 'image' itself"):
        model.inpaint(IMAGES, np.eye(4) > 0, **given)


# Sizes, steps and second calls


def test_any_two_calls_equal_those_of_fresh_models():
    tall = np.concatenate([JOINED, JOINED], axis=1)
    given = {"vector": VECTOR, "image": JOINED, "seed": 1}
    leading = {"spacing": "leading", "offset": 1, "end": "least"}

    def generate(**more):
        return lambda model: model.generate(**{**given, **more})

    def changed(name, value, call):
        def run(model):
            before = getattr(model, name)
            setattr(model, name, value)
            try:
                return call(model)
            finally:
                setattr(model, name, before)

        return run

    def paint(mask, **more):
        return lambda model: model.inpaint(
            IMAGES, mask, vector=VECTOR, num_steps=2, method="concat", **more
        )

    mask = np.eye(4) > 0
    calls = [
        generate(),
        generate(guidance_scale=2.0),
        generate(guidance_scale=[2.0, 1.0, 3.0, 0.0]),
        generate(guidance_scale=2.0, negative={"vector": 1.0 - VECTOR}),
        generate(guidance_scale=2.0, image_guidance_scale=1.5),
        generate(guidance_scale=2.0, image_guidance_scale=[1.5, 1.0, 2.0, 0.5]),
        generate(height=8, image=tall),
        generate(noise=IMAGES),
        generate(spacing={**leading, "prior": "sigma"}),
        changed("spacing", leading, generate()),
        changed("sampler_options", {"eta": 1.0}, generate()),
        changed("round_times", True, generate(spacing="linspace")),
        paint(mask),
        paint(~mask, guidance_scale=2.0),
        paint(mask, strength=0.6),
        lambda model: model.img2img(
            tall[..., :1], 0.5, height=8, image=tall, vector=VECTOR
        ),
    ]
    one = joined()
    fresh = [call(joined()) for call in calls]
    for i in (*range(len(calls)), *reversed(range(len(calls)))):
        found = calls[i](one)
        np.testing.assert_allclose(found, fresh[i], atol=1e-5, err_msg=f"{i}")


def test_blended_inpainting_holds_what_is_known():
    model = made()
    mask = np.eye(4) > 0
    given = {"context": CONTEXT, "num_steps": 3, "seed": 2}
    names = ("dpmpp_2m",) if kg.backend.COMPILES else ("pndm", "heun", "dpmpp_2m")
    for sampler in (*names, "ddpm"):
        images = model.inpaint(IMAGES, mask, method="blended", sampler=sampler, **given)
        np.testing.assert_array_equal(images[:, ~mask], IMAGES[:, ~mask])
        assert np.abs(images - IMAGES)[:, mask].max() > 1e-2
    with pytest.raises(ValueError, match="are of method='repaint'"):
        model.inpaint(IMAGES, mask, method="blended", resamplings=2, **given)
    with pytest.warns(UserWarning, match="True in 100% of its places"):
        model.inpaint(IMAGES, np.ones((4, 4), bool), method="blended", **given)
    with pytest.raises(ValueError, match="mask must be booleans"):
        model.inpaint(IMAGES, np.full((4, 4), 0.5), method="blended", **given)


@pytest.mark.once
def test_spacings():
    model = made(spacing={"spacing": "leading", "offset": 1}, sampler="pndm")
    again = kg.DDPM.from_config(model.get_config())
    assert again.spacing == {"spacing": "leading", "offset": 1}
    given = {"context": CONTEXT, "seed": 1}
    again.set_weights(model.get_weights())
    wanted = made(sampler="pndm").generate(**given, spacing=model.spacing)
    np.testing.assert_allclose(again.generate(**given), wanted, atol=1e-6)
    # Another sampler walks the model's own times, but for that of a consistency model.
    ddim = made().generate(**given, sampler="ddim", spacing=model.spacing)
    np.testing.assert_allclose(model.generate(**given, sampler="ddim"), ddim, atol=1e-6)
    with pytest.raises(ValueError, match="spacing has no steps; as a dict it holds"):
        model.generate(**given, spacing={"spacing": "leading", "steps": 3})
    with pytest.raises(ValueError, match="unknown prior 'one'"):
        made(spacing={"prior": "one"})
    with pytest.raises(ValueError, match="unknown between 'karras'"):
        made(spacing={"spacing": "karras", "between": "karras"})


# Numbers that are not finite


class Parts(kg.DDPM):
    """A model whose encoder and decoder may fail."""

    broken = None

    def conditions_of(self, y):
        made = super().conditions_of(y)
        factor = np.inf if self.broken == "conditions" else 1.0
        return {**made, "vector": factor * made["vector"]}

    def from_latents(self, z):
        return z / 0.0 if self.broken == "decoder" else z


@pytest.mark.parametrize("verbose", [0, 1])
def test_the_part_that_is_not_finite_is_named(verbose):
    shapes = {"image_shape": (4, 4, 1), "vector_dim": 6}
    model = Parts(network(vector_dim=6), SCHEDULE, **shapes, num_steps=2)
    given = {"vector": VECTOR, "verbose": verbose}
    assert np.isfinite(model.generate(**given)).all()
    for broken, part in (
        ("conditions", "the encoder of the condition 'vector'"),
        ("decoder", "the decoder of the latents"),
    ):
        model.broken = broken
        with pytest.raises(FloatingPointError, match=part):
            model.generate(**given)
    model.broken = None
    for variable in model.ema.variables:
        if "float" in variable.dtype:
            variable.assign(np.nan * host(variable))
    with pytest.raises(FloatingPointError, match="the network, or a step .* in 4 of 4"):
        model.generate(**given)
