"""LatentDiffusion: prompts, numbers of pictures, caches, parts of other kinds."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from keras_genai.text_to_image import pretrained
from tests.support import conformance
from tests.support import tiny_text_to_image as tiny
from tests.support.conformance import THOROUGH, host

pytestmark = pytest.mark.in_turn


@pytest.fixture(scope="module")
def model():
    return tiny.model()


def plain(**arguments):
    """Compiled, trained for an epoch."""
    made = tiny.model(**arguments)
    made.compile(keras.optimizers.Adam(1e-2))
    return made


# Pictures


def test_picture_j_of_prompt_i_is_number_i_n_plus_j(model):
    prompts = ["red", "a red dog", "blue"]
    whole = model.generate(prompts, "cat", n=3, seed=4, batch_size=9)
    assert whole.shape == (9, 8, 8, 3)
    parts = model.generate(prompts, ["cat"] * 3, n=3, seed=4, batch_size=2)
    np.testing.assert_allclose(whole, parts, atol=1e-6)
    first = model.generate(prompts[0], "cat", n=3, seed=4)
    np.testing.assert_allclose(whole[:3], first, atol=1e-6)
    # The same numbers by DDPM's own means.
    context = np.repeat(model.encode_prompts(prompts), 3, axis=0)
    away = np.repeat(model.encode_prompts("cat"), 9, axis=0)
    latents = np.concatenate(
        list(
            kg.DDPM.generate_batches(
                model,
                seed=4,
                context=context,
                negative={"context": away},
                guidance_scale=7.5,
                decode=False,
            )
        )
    )
    np.testing.assert_allclose(whole, model.decode(latents), atol=1e-5)
    z = ops.convert_to_tensor(latents[:1] / 0.7)
    by_hand = host(model.autoencoder.decoder(z))
    np.testing.assert_allclose(whole[:1], np.clip(by_hand, -1, 1), atol=1e-5)


def test_prompts_of_every_kind(model):
    tokens = model.tokenize(["red", "dog"])
    wanted = model.generate(["red", "dog"], seed=1)
    states = model.encode_prompts(tokens)
    for prompts in (tokens, tokens.tolist(), states, np.array(["red", "dog"])):
        np.testing.assert_allclose(model.generate(prompts, seed=1), wanted, atol=1e-6)
    np.testing.assert_allclose(
        model.generate(2, seed=1), model.generate("", n=2, seed=1, guidance_scale=1.0)
    )
    np.testing.assert_allclose(
        model.generate("red", "", seed=1), model.generate("red", seed=1), atol=1e-6
    )
    assert not np.allclose(model.generate("red", "dog", seed=1), wanted[:1], atol=1e-4)


def calls():
    """Calls one after the other, each of which must not see the ones before."""
    noise = conformance.uniform("noise of a call", (2, 4, 4, 4))
    two = ["red", "dog"]
    return [
        ((two,), {}),
        ((two,), {"guidance_scale": [2.0, 3.0]}),
        ((two, "blue"), {"guidance_scale": 2.0}),
        ((two,), {"guidance_scale": 1.0}),
        ((two,), {"noise": noise}),
        ((two,), {"height": 16, "width": 8, "seed": 2}),
        (("red",), {"n": 2, "clip_skip": 1}),
        ((two,), {"num_steps": 2, "sampler": "euler"}),
        ((two,), {"verbose": 1}),
        ((2,), {}),
    ]


@pytest.mark.once
def test_the_second_call_is_that_of_a_fresh_model(model):
    fresh = []
    for args, options in calls():
        fresh.append(tiny.model().generate(*args, **options))
    for order in (range(len(fresh)), reversed(range(len(fresh)))):
        for i in order:
            args, options = calls()[i]
            np.testing.assert_allclose(
                model.generate(*args, **options), fresh[i], atol=2e-6, err_msg=str(i)
            )


@pytest.mark.once
def test_previews_are_of_the_pictures_that_come(model):
    seen = []

    def note(done, total, first, preview):
        seen.append((done, total, first, preview()))

    prompts = ["red", "dog", "blue"]
    images = model.generate(prompts, batch_size=2, num_steps=3, callback=note)
    np.testing.assert_allclose(images, model.generate(prompts, num_steps=3), atol=1e-6)
    assert [each[:3] for each in seen] == [
        *((i, 6, 0) for i in (1, 2, 3)),
        *((i, 6, 2) for i in (4, 5, 6)),
    ]
    assert [len(each[3]) for each in seen] == [2, 2, 2, 1, 1, 1]
    # DDIM's last step ends at what it foresees.
    np.testing.assert_allclose(seen[2][3], images[:2], atol=1e-5)
    assert np.abs(seen[0][3] - images[:2]).max() > 1e-3


@pytest.mark.once
def test_large_pictures_are_decoded_in_tiles(model):
    given = {"height": 32, "width": 24, "seed": 1}
    whole = model.generate("red", **given)
    tiled = model.generate("red", **given, tile=16, overlap=0.5)
    assert whole.shape == tiled.shape == (1, 32, 24, 3)
    assert 0 < np.abs(whole - tiled).max() < 0.5
    latents = np.zeros((1, 16, 12, 4), "float32")
    made = model.decode(latents, tile=16, overlap=0.5)
    z = model.unscaled(latents)
    wanted = model.autoencoder.decode(z, tile=16, overlap=0.5)
    np.testing.assert_allclose(made, np.clip(wanted, -1, 1), atol=1e-6)


# Editing


def test_editing(model):
    images = tiny.data(2)["images"]
    given = {"prompts": ["red", "dog"], "seed": 2, "guidance_scale": 2.0}
    made = model.img2img(images, 0.7, **given)
    np.testing.assert_allclose(
        made[:1],
        model.img2img(images[:1], 0.7, **{**given, "prompts": "red"}),
        atol=1e-6,
    )
    varied = model.vary(images, n=2, strength=0.7, **given)
    repeated = {**given, "prompts": ["red", "red", "dog", "dog"]}
    np.testing.assert_allclose(
        varied, model.img2img(np.repeat(images, 2, axis=0), 0.7, **repeated), atol=1e-6
    )
    # The strength never leaves no step at all.
    assert np.isfinite(model.img2img(images, 0.01, prompts="red")).all()
    mask = np.zeros((8, 8), bool)
    mask[2:6, 2:6] = True
    painted = model.inpaint(images, mask, **given)
    np.testing.assert_array_equal(painted[:, ~mask], images[:, ~mask])
    assert np.abs(painted - images)[:, mask].max() > 1e-2


def test_interpolation_between_prompts_and_seeds(model):
    made = model.interpolate("red", "dog", 4, seeds=(3, 5), guidance_scale=2.0)
    assert made.shape == (4, 8, 8, 3)
    ends = [
        model.generate(prompt, seed=seed, guidance_scale=2.0)[0]
        for prompt, seed in (("red", 3), ("dog", 5))
    ]
    np.testing.assert_allclose(made[[0, -1]], ends, atol=1e-5)
    same = model.interpolate("red", "red", 3, seeds=(3, 3), guidance_scale=2.0)
    np.testing.assert_allclose(same, [ends[0]] * 3, atol=1e-5)


# Training


def test_a_cache_trains_as_the_data_do(tmp_path):
    """But for what it draws: without noise of the posterior, to the last digit."""
    data = tiny.data(12)
    data["captions"] = [[text, text] for text in data["captions"][:8]] + [["dog"]] * 4
    losses = []
    for how in ("plain", "memory", "disk", "disk"):
        model = plain()
        x = data
        if how != "plain":
            path = tmp_path / "cache" if how == "disk" else None
            x = model.cache(data, path, batch_size=5, verbose=0)
            assert x["latents"].shape == (12, 4, 4, 8)
            assert x["context"].shape == (12, 2, tiny.LENGTH, 8)
            assert isinstance(x["latents"], np.memmap) == (how == "disk")
        history = model.fit(x, batch_size=4, epochs=2, verbose=0).history
        losses.append(history["loss"])
        x = model.evaluate(x, batch_size=4, verbose=0)
        losses[-1].append(x if np.ndim(x) == 0 else x[0])
    for other in losses[1:]:
        np.testing.assert_allclose(losses[0], other, rtol=2e-5)


@pytest.mark.once
def test_a_cache_of_other_weights_or_data_is_refused(tmp_path):
    model, data, path = plain(), tiny.data(4), tmp_path / "cache"
    model.cache(data, path, verbose=0)
    model.fit(data, cache=path, verbose=0, batch_size=2)
    other = {**data, "images": data["images"] + 1e-6}
    for match, x, change in (
        ("other data", other, None),
        ("other data", {**data, "captions": ["red"] * 4}, None),
        ("another autoencoder's weights", data, model.autoencoder.decoder),
        ("another text encoder's weights", data, model.text_encoder),
    ):
        if change is not None:
            variable = change.trainable_variables or change.weights
            value = host(variable[0].value)
            variable[0].assign(value + 1e-3)
        with pytest.raises(ValueError, match=f"holds a cache of .*{match}"):
            model.fit(x, cache=path, verbose=0)
        if change is not None:
            variable[0].assign(value)
    model.cache(data, path, verbose=0)
    (path / "cache.json").write_text("[]")
    with pytest.raises(ValueError, match="cache.json is damaged"):
        model.cache(data, path, verbose=0)


@pytest.mark.once
def test_a_lazy_folder_with_captions(tmp_path):
    from PIL import Image

    rows = ["file_name,text"]
    for i in range(6):
        pixels = np.full((8, 8, 3), 40 * i, "uint8")
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows += [f"{i}.png,{tiny.TEXTS[i] or 'sea'}", f"{i}.png,dog"]
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    lazy = kg.datasets.folder(tmp_path, 8, lazy=True, batch_size=4)
    model = plain()
    history = model.fit(lazy, epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    cached = model.cache(lazy, tmp_path / "cache", verbose=0)
    whole = kg.datasets.folder(tmp_path, 8)
    wanted = model.cache(whole, verbose=0)
    for name, array in wanted.items():
        np.testing.assert_allclose(cached[name], array, atol=1e-6, err_msg=name)
    assert np.isfinite(model.fit(cached, batch_size=3, verbose=0).history["loss"]).all()


def test_the_empty_prompt_is_the_models_own(tmp_path):
    model = plain()
    null = host(model.null_condition["context"].value)
    np.testing.assert_allclose(null, model.encode_prompts("")[0], atol=1e-6)
    model.save(tmp_path / "m.keras")
    again = kg.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again.null_condition["context"], null)
    # Weights that came later: `fit` encodes it anew.
    for variable in model.text_encoder.weights:
        variable.assign(host(variable.value) * 1.1)
    model.fit(tiny.data(4), batch_size=2, verbose=0)
    now = host(model.null_condition["context"].value)
    np.testing.assert_allclose(now, model.encode_prompts("")[0], atol=1e-6)
    assert np.abs(now - null).max() > 1e-3


def test_which_parts_train():
    for trains in (False, True):
        model = plain(train_text_encoder=trains)
        parts = {
            name: conformance.values(getattr(model, name).variables)
            for name in ("network", "text_encoder", "autoencoder")
        }
        model.fit(tiny.data(8), batch_size=4, verbose=0)
        moved = {
            name: bool(
                conformance.changed(
                    before, conformance.values(getattr(model, name).variables)
                )
            )
            for name, before in parts.items()
        }
        assert moved == {"network": True, "text_encoder": trains, "autoencoder": False}
    # The null of a text encoder that trains is as it is now.
    context = ops.convert_to_tensor(model.encode_prompts("red"))
    made = model.null_conditions({"context": context})
    np.testing.assert_allclose(
        host(made["context"]), model.encode_prompts(""), atol=1e-6
    )


@pytest.mark.once
def test_it_learns_what_words_mean():
    """Colours by their names, from nothing: pixels, a text encoder of its own."""
    names = ["red", "green", "blue"]
    colours = np.array([[1, -1, -1], [-1, 1, -1], [-1, -1, 1]], "float32")
    which = np.arange(48) % 3
    images = np.broadcast_to(0.8 * colours[which][:, None, None], (48, 4, 4, 3)).copy()
    tower = tiny.tower(num_layers=1, causal=False)
    model = kg.LatentDiffusion(
        None,
        kg.UNet(
            (4, 4, 3),
            block_channels=(16,),
            layers_per_block=1,
            groups=4,
            attention=True,
            context_dim=8,
            num_heads=2,
        ),
        tower,
        tiny.tokenizer(),
        "cosine",
        "v",
        train_text_encoder=True,
        ema_decay=0.9,
        num_steps=10,
    )
    model.compile(keras.optimizers.Adam(5e-3))
    data = {"images": images, "captions": [names[i] for i in which]}
    model.fit(data, batch_size=24, epochs=60, verbose=0)
    made = model.generate(names, n=4, guidance_scale=2.0)
    nearest = made.mean(axis=(1, 2)) @ colours.T
    assert (nearest.argmax(axis=1) == np.repeat(np.arange(3), 4)).mean() > 0.9


# Parts of other kinds


@pytest.mark.once
def test_other_text_encoders_and_networks():
    tokenizer = tiny.tokenizer()
    bert = kg.BERT(
        num_layers=1,
        hidden_dim=8,
        num_heads=2,
        tokenizer=tokenizer,
        max_sequence_length=tiny.LENGTH,
        masked_lm=False,
        mask_token_id=0,
    )
    network = tiny.network()
    model = plain(text_encoder=bert, network=network)
    assert model.pad_token_id == tokenizer.pad_token_id
    model.fit(tiny.data(4), batch_size=2, verbose=0)
    assert model.generate(["red", ""], num_steps=2).shape == (2, 8, 8, 3)
    tokens = model.tokenize(["red", "a dog"])
    np.testing.assert_allclose(
        model.encode_prompts(tokens), host(bert(tokens)), atol=1e-5
    )
    with pytest.raises(ValueError, match="clip_skip=1.*BERT has none"):
        model.generate("red", clip_skip=1)
    # Of labels, without a text encoder.
    dit = kg.DiT(
        (4, 4, 4),
        patch_size=2,
        num_layers=1,
        hidden_dim=16,
        num_heads=2,
        num_classes=3,
    )
    model = tiny.model(text_encoder=None, tokenizer=None, network=dit)
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(tiny.data(6)["images"], np.arange(6) % 3, batch_size=3, verbose=0)
    made = model.generate(labels=[0, 2], guidance_scale=2.0, num_steps=2)
    assert made.shape == (2, 8, 8, 3) and model.generate(3, num_steps=2).shape[0] == 3
    with pytest.raises(ValueError, match="no text encoder"):
        model.generate("red")


# What is refused


@pytest.mark.once
def test_prompts_that_are_too_long(model):
    long = "a very large red dog"
    with pytest.raises(ValueError, match="1 of 2 texts have more than 12 tokens"):
        model.generate(["red", long])
    with pytest.warns(UserWarning, match="they are cut, that one before 'e red dog'"):
        made = model.generate(["red", long], truncate=True)
    with pytest.warns(UserWarning):
        tokens = model.tokenize(["red", long], truncate=True)
    np.testing.assert_allclose(made, model.generate(tokens), atol=1e-6)


@pytest.mark.once
@pytest.mark.parametrize(
    "match, args, options",
    [
        ("prompts must be", (), {}),
        ("prompts must be", ([],), {}),
        ("prompts must be", (0,), {}),
        ("prompts must be", (1.5,), {}),
        ("one for each of the 2; got 3", (["a", "b"], ["a", "b", "c"]), {}),
        (
            "guidance_scale must be a number, 2 of",
            (["a", "b"],),
            {"guidance_scale": [1, 2, 3]},
        ),
        ("divisible by 2", ("a",), {"height": 9}),
        ("seed must be", ("a",), {"seed": -1}),
        ("seed must be", ("a",), {"seed": 2**70}),
        ("clip_skip must be below", ("a",), {"clip_skip": 2}),
        ("tile must be", ("a",), {"tile": 0}),
        ("Give prompts", ("a",), {"context": np.zeros((1, 12, 8))}),
        ("must have the shape", (np.zeros((1, 12, 5), "float32"),), {}),
        ("num_steps must be", ("a",), {"num_steps": 0}),
        ("unknown sampler", ("a",), {"sampler": "magic"}),
    ],
)
def test_calls_that_are_refused(model, match, args, options):
    with pytest.raises(ValueError, match=match):
        model.generate(*args, **options)


@pytest.mark.once
def test_guidance_that_has_no_effect(model):
    with pytest.warns(UserWarning, match="no effect at guidance_scale=1"):
        made = model.generate("red", "dog", guidance_scale=1.0)
    np.testing.assert_array_equal(made, model.generate("red", guidance_scale=1.0))
    never = tiny.model(condition_dropout=0.0)
    assert np.isfinite(never.generate("red")).all()
    with pytest.raises(ValueError, match="condition_dropout above 0"):
        never.generate("red", guidance_scale=2.0)


@pytest.mark.once
def test_masks(model):
    images = tiny.data(1)["images"]
    mask = np.ones((8, 8), bool)
    with pytest.warns(UserWarning, match="the wrong way round"):
        model.inpaint(images, mask, prompts="red", num_steps=2)
    with pytest.raises(ValueError, match="False everywhere"):
        model.inpaint(images, ~mask, prompts="red")
    for wrong in (mask[:4], np.full((8, 8), 0.5)):
        with pytest.raises(ValueError, match="mask must be booleans"):
            model.inpaint(images, wrong, prompts="red")
    with pytest.raises(ValueError, match=r"images must be floats of the shape"):
        model.img2img(images[:, :4], prompts="red")
    with pytest.raises(ValueError, match="one for each of the 1; got 2"):
        model.img2img(images, prompts=["a", "b"])
    with pytest.raises(ValueError, match="strength must be"):
        model.img2img(images, 0.0, prompts="red")


@pytest.mark.once
def test_parts_that_do_not_fit():
    with pytest.raises(ValueError, match="3 channels.*latents have 4"):
        tiny.model(network=tiny.network(out_channels=3))
    with pytest.raises(ValueError, match="for a text_encoder; there is none"):
        tiny.model(text_encoder=None)
    with pytest.raises(ValueError, match="text_encoder must be a kg.clip.TextTower"):
        tiny.model(text_encoder=tiny.network())
    with pytest.raises(ValueError, match="autoencoder must be a kg.AutoencoderKL"):
        tiny.model(autoencoder=tiny.network())
    with pytest.raises(ValueError, match="clip_skip must be below"):
        tiny.model(clip_skip=2)
    with pytest.raises(ValueError, match="divisible by 2"):
        tiny.model(image_shape=(9, 8, 3), network=None)
    with pytest.raises(ValueError, match="context_shape is the text encoder's"):
        tiny.model(context_shape=(12, 8))


@pytest.mark.once
@pytest.mark.parametrize(
    "match, change",
    [
        ("as many captions as images", {"captions": ["red"]}),
        ("captions or tokens, not both", {"tokens": np.zeros((4, 12), "int32")}),
        ("'captions' or 'tokens' alone", {"captions": None}),
        ("Images must have the shape", {"images": np.zeros((4, 8, 8, 1), "float32")}),
        ("more than 12 tokens", {"captions": ["a very long red dog"] * 4}),
        ("'captions' or 'tokens' alone", {"more": np.zeros(4)}),
    ],
)
def test_data_that_are_refused(model, match, change):
    data = {k: v for k, v in {**tiny.data(4), **change}.items() if v is not None}
    model.compile(keras.optimizers.Adam())
    with pytest.raises(ValueError, match=match):
        model.fit(data, verbose=0)


@pytest.mark.once
def test_numbers_that_are_not_finite(model):
    kernel = model.autoencoder.decoder.get_layer("conv_out").kernel
    value = host(kernel.value)
    kernel.assign(np.full_like(value, np.nan))
    try:
        with pytest.raises(FloatingPointError, match="decoder gave such"):
            model.generate("red")
    finally:
        kernel.assign(value)


# The package's own


@pytest.mark.once
def test_the_emoji_model_says_where_its_weights_come_from(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrained, "FILE", tmp_path / "emoji.npz")
    with pytest.raises(FileNotFoundError, match="tools/data/emoji_text_to_image.py"):
        kg.text_to_image.emoji()
    from keras_genai.__main__ import main

    with pytest.raises(SystemExit, match="tools/data/emoji_text_to_image.py"):
        main(["draw", "a red heart"])


@pytest.mark.once
def test_draw_writes_pictures(tmp_path, monkeypatch, capsys):
    made = tiny.model()
    monkeypatch.setattr(kg.text_to_image, "emoji", lambda: made)
    from keras_genai.__main__ import main

    folder = tmp_path / "out"
    main(["draw", "red", "a dog", "--n", "2", "--seed", "3", "--out", str(folder)])
    names = ["red-3-0.png", "red-3-1.png", "a-dog-3-2.png", "a-dog-3-3.png"]
    assert [
        line.rpartition("/")[2] for line in capsys.readouterr().out.split()
    ] == names
    assert sorted(p.name for p in folder.iterdir()) == sorted(names)
    settings = kg.callbacks.read_settings(folder / names[3])
    number = settings.pop("number")
    again = made.generate(**settings)[number]
    kg.callbacks.save_image(tmp_path / "again.png", again)
    from PIL import Image

    pair = [
        np.asarray(Image.open(p)) for p in (folder / names[3], tmp_path / "again.png")
    ]
    np.testing.assert_array_equal(*pair)
    main(["draw", "red", "--out", str(tmp_path / "one.png")])
    assert (tmp_path / "one.png").is_file()
    with pytest.raises(SystemExit, match="names one picture"):
        main(["draw", "red", "dog", "--out", str(tmp_path / "two.png")])
    main([])
    main(["info"])
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("keras_genai ") for line in lines) == 2


@pytest.mark.once
@pytest.mark.skipif(not THOROUGH, reason="A minute and a half; by --thorough.")
def test_a_client_of_the_savedmodel(tmp_path):
    """Ten lines with `tokenizers` and TensorFlow alone, in another process."""
    pytest.importorskip("tensorflow")
    tokenizer = kg.Tokenizer.train([t for t in tiny.TEXTS if t] * 4, 520, "clip")
    tower = tiny.tower(
        vocabulary_size=tokenizer.vocabulary_size, eos_token_id=tokenizer.eos_token_id
    )
    model = tiny.model(tokenizer=tokenizer, text_encoder=tower, num_steps=2)
    prompts = ["a red dog", "blue sea", "cat"]
    wanted = model.generate(prompts, seed=5, guidance_scale=3.0)
    model.export(tmp_path / "served")
    client = """
import sys
import numpy as np
import tensorflow as tf
from tokenizers import Tokenizer
folder, *prompts = sys.argv[1:]
tokenizer = Tokenizer.from_file(f"{folder}/assets/tokenizer.json")
tokens = [text.ids for text in tokenizer.encode_batch(prompts)]
draw = tf.saved_model.load(folder).signatures["serving_default"]
numbers = {"seed": tf.constant(5), "guidance_scale": tf.constant(3.0)}
np.save(f"{folder}/images", draw(tokens=tf.constant(tokens), **numbers)["images"])
"""
    command = [sys.executable, "-c", client, str(tmp_path / "served"), *prompts]
    subprocess.run(command, check=True, capture_output=True)
    images = np.load(tmp_path / "served" / "images.npy")
    np.testing.assert_allclose(images, wanted, atol=1e-4)


@pytest.mark.once
def test_the_emoji_model_is_what_was_written(tmp_path, monkeypatch):
    tokenizer = kg.Tokenizer.train(["a red heart, flat style"], 520, "clip")
    made = pretrained.emoji_model(tokenizer, scaling_factor=0.5)
    path = tmp_path / "emoji.npz"
    size = pretrained.write(made, path)
    assert size == path.stat().st_size < 8_000_000
    monkeypatch.setattr(pretrained, "FILE", path)
    again = kg.text_to_image.emoji()
    given = {"prompts": "a red heart", "num_steps": 2, "guidance_scale": 2.0}
    wanted, found = made.generate(**given), again.generate(**given)
    assert found.shape == (1, 32, 32, 3)
    np.testing.assert_allclose(found, wanted, atol=0.02)  # of float16
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="is damaged"):
        kg.text_to_image.emoji()
