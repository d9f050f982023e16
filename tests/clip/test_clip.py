"""CLIP learns pairs: its losses, parts, captions, locked towers, rates, refusals."""

import math

import keras
import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from keras_genai.clip import captions as captions_lib
from keras_genai.losses.contrastive import similarity
from keras_genai.training import captions as data_lib
from keras_genai.training.optimizer import inner, not_decayed
from tests.clip.test_clip_conformance import END, LENGTH, captions, tiny
from tests.support import conformance
from tests.support.conformance import BACKEND, THOROUGH, host

COUNT = 12
TOKENIZER_TEXTS = ["a red heart", "a dog", "a blue car", "the sun", "a red car"]


def data(count=COUNT, several=None, name="clip test"):
    images = conformance.uniform(name, (count, 8, 8, 3))
    return {"images": images, "tokens": captions(name, count, several)}


def plain(**arguments):
    """Without dropout."""
    towers = {"num_layers": 2, "hidden_dim": 12, "num_heads": 2, "seed": 2}
    return kg.CLIP(
        kg.clip.ImageTower((8, 8, 3), 4, **towers, projection_dim=8, stream="i"),
        kg.clip.TextTower(
            16, LENGTH, **towers, projection_dim=8, eos_token_id=END, stream="t"
        ),
        8,
        **arguments,
    )


# Losses


def test_losses_are_the_papers():
    """Against the sums as they stand in the papers, weights and exclusions too."""
    logits = np.random.default_rng(0).normal(size=(5, 5)) * 3
    weight = np.array([1.0, 2.0, 0.5, 0.0, 3.0])
    excluded = np.zeros((5, 5), bool)
    excluded[0, 1] = excluded[1, 0] = True
    z = np.where(excluded, -np.inf, logits)
    rows = np.log(np.exp(z).sum(1)) - np.diag(z)
    columns = np.log(np.exp(z).sum(0)) - np.diag(z)
    each = (rows + columns) / 2
    signs = 2 * np.eye(5) - 1
    pairs = np.log1p(np.exp(-signs * logits))
    pairs = np.where(excluded, 0.0, pairs).sum(1)
    for loss, wanted in ((kg.losses.clip_loss, each), (kg.losses.siglip_loss, pairs)):
        given = [ops.convert_to_tensor(logits.astype("float32")), excluded]
        np.testing.assert_allclose(host(loss(*given)), wanted.mean(), rtol=1e-5)
        got = loss(*given, ops.convert_to_tensor(weight.astype("float32")))
        np.testing.assert_allclose(
            host(got), (wanted * weight).sum() / weight.sum(), rtol=1e-5
        )
    assert float(host(kg.losses.clip_loss(ops.zeros((7, 7))))) == pytest.approx(
        math.log(7), rel=1e-6
    )


@pytest.mark.once
def test_similarity_is_computed_in_float32():
    x = np.random.default_rng(0).normal(size=(4, 64))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    half = ops.cast(ops.convert_to_tensor(x.astype("float32")), "float16")
    made = host(similarity(half, half, 100.0))
    assert made.dtype == "float32"
    wide = host(half).astype("float64")
    np.testing.assert_allclose(made, 100.0 * wide @ wide.T, atol=1e-4)


def test_equal_captions_are_no_negatives():
    tokens = captions("equal", 6)
    tokens[3] = tokens[1]
    names = captions_lib.digests(ops.convert_to_tensor(tokens))
    assert host(names).min() >= 0 and host(names).max() < 2**16
    found = host(captions_lib.equal_pairs(names))
    wanted = np.zeros((6, 6), bool)
    wanted[1, 3] = wanted[3, 1] = True
    np.testing.assert_array_equal(found, wanted)
    x = data(6)
    x["tokens"] = tokens
    model, other = plain(mask_equal_captions=True), plain()
    logits = model({k: ops.convert_to_tensor(v) for k, v in x.items()})
    loss = kg.losses.clip_loss(logits, ops.convert_to_tensor(wanted))
    given = [ops.convert_to_tensor(v) for v in x.values()]
    np.testing.assert_allclose(
        host(model.objective(*given)), host(loss), atol=1e-6, rtol=1e-6
    )
    assert float(host(other.objective(*given))) > float(host(loss)) + 1e-3


# Training


@pytest.mark.once
def test_it_learns_pairs_from_captions():
    """Colours by their names, with a tokenizer of its own and two captions each."""
    names = ["red", "green", "blue", "grey"]
    colours = np.array([[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [0, 0, 0]], "float32")
    which = np.arange(48) % 4
    noise = conformance.uniform("colours", (48, 8, 8, 3), -0.2, 0.2)
    images = np.clip(0.7 * colours[which][:, None, None] + noise, -1, 1)
    texts = [[f"a {names[i]} picture", names[i]] for i in which]
    tokenizer = kg.Tokenizer.characters(
        [t for pair in texts for t in pair], special_tokens=["<pad>", "</s>"]
    )
    model = kg.CLIP(
        kg.clip.ImageTower((8, 8, 3), 4, 1, 16, 2, projection_dim=8),
        kg.clip.TextTower(
            tokenizer.vocabulary_size,
            20,
            1,
            16,
            2,
            eos_token_id=tokenizer.eos_token_id,
            projection_dim=8,
        ),
        8,
        tokenizer=tokenizer,
        mask_equal_captions=True,
    )
    model.compile(keras.optimizers.Adam(3e-3))
    x = {"images": images.astype("float32"), "captions": texts}
    model.fit(x, batch_size=16, epochs=40, verbose=0)
    logits = model.similarity(x["images"], names)
    assert (logits.argmax(1) == which).mean() > 0.95
    assert model.evaluate(x, batch_size=16, verbose=0) < 0.5
    assert model.encode_text("red").shape == (1, 8)
    tokens = model.tokenize(texts)
    assert tokens.shape == (48, 2, 20)
    single = {"images": x["images"], "captions": [pair[0] for pair in texts]}
    again = {"images": x["images"], "tokens": tokens[:, 0]}
    losses = [model.evaluate(y, batch_size=16, verbose=0) for y in (single, again)]
    assert losses[0] == losses[1]


@pytest.mark.once
def test_a_dataset_of_captions_is_tokenized_as_it_is_read():
    tokenizer = kg.Tokenizer.characters(TOKENIZER_TEXTS, special_tokens=["</s>"])

    class Pairs(keras.utils.PyDataset):
        epochs = 0

        @property
        def num_batches(self):
            return 2

        def __getitem__(self, index):
            texts = TOKENIZER_TEXTS[index : index + 4]
            images = conformance.uniform(f"pairs/{index}", (4, 8, 8, 3))
            return {"images": images, "captions": texts}, None, np.ones(4, "float32")

        def on_epoch_end(self):
            self.epochs += 1

    def make():
        return kg.CLIP(
            kg.clip.ImageTower((8, 8, 3), 4, 1, 12, 2, projection_dim=8),
            kg.clip.TextTower(
                tokenizer.vocabulary_size,
                16,
                1,
                12,
                2,
                eos_token_id=0,
                projection_dim=8,
            ),
            8,
            tokenizer=tokenizer,
        )

    dataset, histories = Pairs(), []
    arrays = [dataset[i][0] for i in range(2)]
    x = {
        "images": np.concatenate([a["images"] for a in arrays]),
        "captions": [t for a in arrays for t in a["captions"]],
    }
    for given, how in ((dataset, {}), (x, {"batch_size": 4, "shuffle": False})):
        model = make()
        model.compile(keras.optimizers.SGD(0.1))
        histories.append(model.fit(given, epochs=2, verbose=0, **how).history["loss"])
    np.testing.assert_allclose(*histories, rtol=1e-6)
    assert dataset.epochs >= 2


def test_one_caption_is_drawn_by_the_sample_and_the_step():
    """Each of an image's own, all of them in time; the same in parts of a batch."""
    model = plain()
    tokens = ops.convert_to_tensor(captions("drawn", 64, 3))
    first = host(data_lib.drawn(tokens, model.noise))
    np.testing.assert_array_equal(first, host(data_lib.drawn(tokens, model.noise)))
    model.noise.advance()
    second = host(data_lib.drawn(tokens, model.noise))
    model.noise.step.assign(0)
    rows = host(tokens)
    seen = set()
    for made in (first, second):
        assert made.min() >= 0
        for i, row in enumerate(made):
            places = [k for k in range(3) if np.array_equal(row, rows[i, k])]
            assert places
            seen.add(places[0])
    assert seen == {0, 1, 2} and not np.array_equal(first, second)
    np.testing.assert_array_equal(host(data_lib.drawn(tokens, None)), rows[:, 0])
    # The draw of a batch begins with that of a smaller one.
    np.testing.assert_array_equal(
        host(data_lib.drawn(tokens[:8], model.noise)), first[:8]
    )


@pytest.mark.in_turn
@pytest.mark.parametrize(
    "loss", ["softmax", pytest.param("sigmoid", marks=pytest.mark.once)]
)
def test_accumulated_is_unaccumulated(loss):
    """The contrast of the whole batch, dropout, weights and draws of captions too."""

    def trained(parts):
        # Of one model, so that what is drawn is the same.
        arguments = {"pooling": "attention"} if loss == "sigmoid" else {}
        model = tiny(**arguments, loss=loss, mask_equal_captions=True)
        model.compile(keras.optimizers.SGD(0.05), accumulate=parts)
        x = data(count, several=3)
        weight = conformance.uniform("weight", (count,), 0.2, 2.0)
        history = model.fit(
            x, sample_weight=weight, batch_size=count, epochs=2, verbose=0
        ).history
        return model, history

    # Each part is compiled anew: where that is dear, two, which do not divide five.
    few = BACKEND != "torch" and not THOROUGH
    count = 5 if few else COUNT
    whole, logs = trained(1)
    start = tiny(**({"pooling": "attention"} if loss == "sigmoid" else {}), loss=loss)
    moved = [
        np.abs(host(a.value) - host(b.value)).max()
        for a, b in zip(
            whole.trainable_variables, start.trainable_variables, strict=True
        )
    ]
    assert max(moved) > 1e-3
    for parts in (2,) if few else (3, 5):  # 5 does not divide
        model, history = trained(parts)
        np.testing.assert_allclose(history["loss"], logs["loss"], atol=1e-5)
        for a, b in zip(model.variables, whole.variables, strict=True):
            if a.path.endswith("step"):
                continue
            np.testing.assert_allclose(
                host(a.value), host(b.value), atol=1e-5, err_msg=a.path
            )


@pytest.mark.once
def test_parts_need_frozen_statistics():
    tower = kg.clip.ResNetTower((32, 32, 3), (1, 1, 1, 1), 2, projection_dim=8)
    text = plain().text_tower
    model = kg.CLIP(tower, text, 8)
    with pytest.raises(ValueError, match="batch normalization.*image_tower.trainable"):
        model.compile(accumulate=2)
    tower.trainable = False
    before = [host(v.value) for v in tower.variables]
    model.compile(keras.optimizers.SGD(0.1), accumulate=2)
    images = conformance.uniform("resnet", (4, 32, 32, 3))
    model.fit({"images": images, "tokens": captions("r", 4)}, verbose=0)
    for a, b in zip(before, tower.variables, strict=True):
        np.testing.assert_array_equal(a, host(b.value))


@pytest.mark.once
def test_a_resnet_trains_and_moves_its_statistics():
    tower = kg.clip.ResNetTower((32, 32, 3), (1, 1, 1, 1), 2, projection_dim=8)
    model = kg.CLIP(tower, plain().text_tower, 8, layer_decay=0.5)
    assert inner(model.default_optimizer("clip")).epsilon == 1e-8
    model.compile()
    norm = tower.stem.norm1
    before = host(norm.moving_mean.value)
    x = {
        "images": conformance.uniform("resnet", (4, 32, 32, 3)),
        "tokens": captions("r", 4),
    }
    losses = model.fit(x, batch_size=4, epochs=8, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert np.abs(host(norm.moving_mean.value) - before).max() > 0
    assert len(tower.levels()) == 6 and all(tower.levels())


@pytest.mark.once
def test_a_network_of_keras_is_a_tower():
    """Its features are averaged and mapped; its own classes do, too."""
    network = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(6, 3, activation="relu"),
            keras.layers.BatchNormalization(),
        ]
    )
    model = kg.CLIP(network, plain().text_tower, 8)
    assert model.image_shape == (8, 8, 3)
    assert model.image_projection.kernel.shape == (6, 8)
    assert model.text_projection is None
    model.compile()
    model.fit(data(), batch_size=6, epochs=2, verbose=0)
    assert model.encode_image(data()["images"]).shape == (COUNT, 8)
    cnn = kg.CNN((8, 8, 3), 5, filters=(4,), hidden_units=())
    model = kg.CLIP(cnn, plain().text_tower, 8, image_size=8)
    model.compile()
    model.fit(data(), batch_size=6, verbose=0)
    with pytest.raises(ValueError, match="layer_decay needs towers"):
        kg.CLIP(network, plain().text_tower, 8, layer_decay=0.5)


@pytest.mark.once
def test_the_temperature_is_clamped():
    for loss, most, wanted in (
        ("softmax", None, 100.0),
        ("softmax", 20.0, 20.0),
        ("sigmoid", None, None),
    ):
        model = plain(loss=loss, max_logit_scale=most)
        model.compile(keras.optimizers.SGD(1e-6))
        model.scale.logit_scale.assign(math.log(150.0))
        model.train_on_batch(data())
        scale = math.exp(float(host(model.scale.logit_scale.value)))
        assert scale == pytest.approx(wanted or 150.0, rel=1e-3)


# Which weights, how fast


def spared(model):
    """The paths of the variables without weight decay."""
    variables = model.players["clip"].variables
    return {variables[i].path for i in not_decayed(model)["clip"]}


@pytest.mark.once
def test_gains_biases_and_temperature_do_not_decay(tmp_path):
    """Nor after loading, nor with an optimizer that is given."""
    for given in (None, keras.optimizers.AdamW(1e-3, weight_decay=0.1)):
        model = plain()
        model.compile(given)
        found = spared(model)
        for variable in model.players["clip"].trainable_variables:
            flat = len(variable.shape) < 2 or variable.name == "token"
            assert (variable.path in found) == flat, variable.path
        assert any(path.endswith("logit_scale") for path in found)
        model.train_on_batch(data())
        model.save(tmp_path / "clip.keras")
        again = kg.load_model(tmp_path / "clip.keras")
        assert len(spared(again)) == len(found)
    own = keras.optimizers.AdamW(1e-3, weight_decay=0.1)
    own.exclude_from_weight_decay(var_names=["table"])
    model = plain()
    model.compile(own)
    assert all(path.endswith("table") for path in spared(model))


@pytest.mark.once
@pytest.mark.parametrize("optimizer", ["AdamW", "SGD"])
def test_rates_fall_with_depth(optimizer):
    """A step of every variable is a part of that of the same step without."""

    def stepped(decay):
        model = plain(layer_decay=decay)
        made = getattr(keras.optimizers, optimizer)(0.01, weight_decay=0.1)
        model.compile(made)
        before = [host(v.value) for v in model.trainable_variables]
        model.train_on_batch(data())
        pairs = zip(before, model.trainable_variables, strict=True)
        return model, [host(v.value) - old for old, v in pairs]

    _, whole = stepped(1.0)
    model, parts = stepped(0.5)
    factors = {id(v): f for v, f in model.rate_factors("clip")}
    seen = set()
    rows = zip(model.trainable_variables, whole, parts, strict=True)
    for variable, step, part in rows:
        factor = factors.get(id(variable), 1.0)
        seen.add(factor)
        np.testing.assert_allclose(
            part, factor * step, atol=2e-7, err_msg=variable.path
        )
    # Two blocks: the head, each block, the embeddings.
    assert seen == {1.0, 0.5, 0.25, 0.125}
    tower = model.image_tower.network
    assert factors[id(tower.table)] == 0.125
    assert factors[id(tower.blocks[0].norm1.gamma)] == 0.25
    assert factors[id(tower.projection.kernel)] == 1.0
    assert id(model.scale.logit_scale) not in factors


@pytest.mark.once
def test_a_locked_tower_stays_as_it_is():
    model = plain()
    model.image_tower.trainable = False
    model.compile(keras.optimizers.SGD(0.1))
    before = [host(v.value) for v in model.variables]
    model.fit(data(), batch_size=6, verbose=0)
    locked = {id(v) for v in model.image_tower.variables}
    for old, variable in zip(before, model.variables, strict=True):
        if id(variable) in locked:
            np.testing.assert_array_equal(host(variable.value), old)
    moved = model.text_tower.network.embedding.embeddings
    assert any(v is moved for v in model.trainable_variables)


@pytest.mark.once
@pytest.mark.parametrize("towers", [("image",), ("text",), ("image", "text")])
def test_low_rank_changes_of_either_tower(towers, tmp_path):
    model = plain()
    x = data()
    before = model.similarity(x["images"], x["tokens"])
    model.enable_lora(2, towers=towers)
    np.testing.assert_array_equal(model.similarity(x["images"], x["tokens"]), before)
    moving = [v.path for v in model.players["clip"].trainable_variables]
    assert any(path.endswith("logit_scale") for path in moving)
    moving = [path for path in moving if not path.endswith("logit_scale")]
    assert all("lora" in path for path in moving)
    assert len(moving) == 8 * len(towers)  # two blocks, two kernels, two factors
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(x, batch_size=6, epochs=2, verbose=0)
    tuned = model.similarity(x["images"], x["tokens"])
    assert np.abs(tuned - before).max() > 1e-3
    with pytest.raises(ValueError, match="enabled already"):
        model.enable_lora(2, towers=("text",))
    with pytest.raises(ValueError, match="merge_lora"):
        model.save(tmp_path / "clip.keras")
    with pytest.raises(ValueError, match="merge_lora"):
        model.save_pretrained(tmp_path / "clip")
    model.merge_lora()
    np.testing.assert_allclose(
        model.similarity(x["images"], x["tokens"]), tuned, atol=1e-5
    )
    assert len(model.trainable_variables) == len(plain().trainable_variables)


@pytest.mark.in_turn
def test_float16_begins_where_its_scale_holds():
    """As in full precision, from a scale at which the first gradients are finite."""

    def losses(name):
        with conformance.policy(name):
            model = plain()
            made = keras.optimizers.Adam(1e-3)
            if "float16" in name:
                made = keras.optimizers.LossScaleOptimizer(made, initial_scale=2.0**8)
            model.compile(made)
            history = model.fit(data(), batch_size=6, epochs=3, verbose=0).history
            assert model.encode_image(data()["images"]).dtype == "float32"
            return history["loss"]

    np.testing.assert_allclose(losses("mixed_float16"), losses("float32"), rtol=0.02)


@pytest.mark.once
def test_a_loss_that_stays_at_chance_is_told():
    model = plain()
    model.compile(keras.optimizers.SGD(0.0))
    model.scale.logit_scale.assign(-5.0)  # texts differ, and should not count
    images = np.zeros((40, 8, 8, 3), "float32")  # nothing to see
    x = {"images": images, "tokens": captions("stuck", 40)}
    with pytest.warns(UserWarning, match=r"chance, log\(batch\) = 1.386"):
        model.fit(x, batch_size=4, epochs=6, verbose=0)


# Bad input


def check(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.once
def test_data_that_do_not_fit_are_refused():
    model = plain()
    model.compile()
    x = data()
    images, tokens = x["images"], x["tokens"]

    def fit(**changes):
        how = {k: changes.pop(k) for k in ("batch_size", "y") if k in changes}
        given = {k: v for k, v in {**x, **changes}.items() if v is not None}
        return lambda: model.fit(given, verbose=0, **how)

    check(fit(images=images[:5]), "tokens for each image: got 5 images and tokens of")
    check(lambda: model.fit(images), "a dict of 'images' and of 'captions' or 'tokens'")
    check(fit(images=None), "a dict of 'images' and of 'captions' or 'tokens'")
    check(fit(captions=["a"] * COUNT), "captions or tokens, not both")
    check(
        fit(tokens=None, captions=["a"] * COUNT),
        "need a tokenizer, which this model has not",
    )
    check(fit(y=np.zeros(COUNT)), "CLIP takes no labels")
    check(
        fit(images=np.zeros((COUNT, 16, 16, 3), "float32")),
        r"must have the shape \(N, 8, 8, 3\).*image.resize\(images, \(8, 8\)",
    )
    check(fit(images=images[..., :1]), "3 channels, last")
    check(fit(images=images * 100), r"must lie in \[-1, 1\].*127.5 - 1")
    check(fit(images=(images * 100).astype("uint8")), "must be floats")
    check(fit(images=np.full_like(images, np.nan)), r"must lie in \[-1, 1\]")
    check(fit(tokens=tokens + 9), "must lie in the vocabulary")
    check(fit(tokens=np.tile(tokens, 2)), f"at most {LENGTH} for each text")
    check(fit(tokens=np.where(tokens == END, 2, tokens)), "no end token, 1")
    check(fit(tokens=np.zeros_like(tokens)), "0 all over: nothing but padding")
    check(fit(tokens=np.tile(tokens[:1], (COUNT, 1))), "All 12 captions are equal")
    check(fit(batch_size=1), "two pairs or more; got one: batch_size=1 of 12")
    check(fit(batch_size=11), "batch_size=11 of 12")
    check(
        lambda: model.train_on_batch({k: v[:1] for k, v in x.items()}),
        "two pairs or more",
    )
    ragged = captions("clip test", COUNT, 3)
    ragged[0, 0] = -1
    check(fit(tokens=ragged), "rows of -1 must come last")
    sigmoid = plain(loss="sigmoid")
    sigmoid.compile()
    sigmoid.fit({k: v[:1] for k, v in x.items()}, verbose=0)  # a pair is a question


@pytest.mark.once
def test_texts_that_do_not_fit_are_refused():
    tokenizer = kg.Tokenizer.characters(TOKENIZER_TEXTS, special_tokens=["</s>"])
    size = tokenizer.vocabulary_size
    text = kg.clip.TextTower(size, 8, 1, 12, 2, eos_token_id=0, projection_dim=8)
    model = kg.CLIP(plain().image_tower, text, 8, tokenizer=tokenizer)
    check(
        lambda: model.encode_text(["a dog", "a red heart"]),
        "1 of 2 texts have more than 8 tokens, the first of number 1, 'a red heart'",
    )
    with pytest.warns(UserWarning, match="1 of 2 texts.*they are cut"):
        tokens = model.tokenize(["a dog", "a red heart"], truncate=True)
    assert tokens.shape == (2, 8) and tokens[1, -1] == 0 and tokens[0, 5] == 0
    with pytest.warns(UserWarning, match="they are cut"):
        assert model.encode_text(["a red heart"], truncate=True).shape == (1, 8)
    check(lambda: model.tokenize([["a"], "a"]), "number 1 is 'a'")
    check(lambda: model.tokenize([["a"], []]), "number 1 is \\[\\]")
    check(lambda: model.encode_text(["a", 3]), "must be strings")
    check(lambda: model.encode_text([[2, 3], [4]]), "of other lengths|of one length")
    check(lambda: model.encode_text([[2, 3, 4]]), "no end token, 0")
    small = kg.clip.TextTower(5, 8, 1, 12, 2, eos_token_id=0)
    check(
        lambda: kg.CLIP(plain().image_tower, small, 8, tokenizer=tokenizer),
        "vocabulary",
    )


@pytest.mark.once
@pytest.mark.parametrize(
    "arguments, match",
    [
        ({"loss": "hinge"}, "loss must be one of softmax, sigmoid"),
        ({"layer_decay": 0.0}, r"layer_decay must be in \(0, 1\]"),
        ({"mean": (0.1, 0.2)}, "mean must be a number, or one for each of the 3"),
        ({"std": 0.0}, "std must be numbers over 0"),
        ({"image_size": 9}, "image_size must be the image tower's"),
        ({"pad_token_id": 16}, r"pad_token_id must be an id in \[0, 16\)"),
        ({"max_logit_scale": -1.0}, "max_logit_scale must be"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments, match):
    check(lambda: plain(**arguments), match)


@pytest.mark.once
def test_towers_that_do_not_fit_are_refused():
    check(
        lambda: kg.clip.TextTower(9, 4, 1, 8, 2, pooling="first_end"),
        "needs eos_token_id",
    )
    check(lambda: kg.clip.ImageTower(pooling="first"), "pooling must be one of token")
    check(lambda: kg.clip.ImageTower(activation="celu"), "activation must be one of")
    check(
        lambda: kg.clip.ImageTower((8, 8, 3), 16),
        "patch_size must be at most the sides",
    )
    check(lambda: kg.clip.ResNetTower((40, 40, 3)), "divisible by 32")
    check(
        lambda: kg.CLIP(plain().image_tower, keras.layers.Dense(3)), "text_tower must"
    )
    check(lambda: kg.CLIP("a", plain().text_tower), "image_tower must be")
