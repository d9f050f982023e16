"""The translator learns to translate, with texts or ids, and says what does not fit."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from tests.support.conformance import host

pytestmark = pytest.mark.in_turn

SMALL = {
    "num_layers": 1,
    "hidden_dim": 16,
    "num_heads": 2,
    "intermediate_dim": 32,
    "vocabulary_size": 14,
    "max_sequence_length": 10,
    "dropout": 0.0,
    "pad_token_id": 0,
    "decoder_start_token_id": 1,
    "eos_token_id": 2,
    "seed": 0,
}


def small(**arguments):
    return kg.Translator(**{**SMALL, **arguments})


def reversals(count=256):
    """The target is the source turned around; of three to six tokens."""
    draw = np.random.default_rng(0)
    source = np.zeros((count, 7), "int32")
    target = np.zeros((count, 7), "int32")
    for a, b in zip(source, target, strict=True):
        n = int(draw.integers(3, 7))
        a[:n] = draw.integers(3, 14, n)
        b[:n] = a[:n][::-1]
        a[n] = b[n] = 2
    return {"source": source, "target": target}


def test_the_warm_up_is_the_papers():
    rate = kg.transformers.WarmupSchedule(512, 4000)
    steps = np.array([0, 99, 3999, 15999])
    found = [float(host(ops.convert_to_tensor(rate(s)))) for s in steps]
    t = steps + 1.0
    wanted = 512**-0.5 * np.minimum(t**-0.5, t * 4000**-1.5)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(rate)
    )
    assert again.get_config() == rate.get_config()


def test_the_loss_is_that_of_smoothed_targets():
    model = small(label_smoothing=0.2)
    data = {name: x[:4] for name, x in reversals().items()}
    loss, parts = model.objective((data, None, None), training=False)
    before = np.concatenate([np.ones((4, 1), "int32"), data["target"][:, :-1]], axis=1)
    logits = host(model(data["source"], before)).astype("float64")
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    smooth = 0.8 * np.eye(14)[data["target"]] + 0.2 / 14
    real = data["target"] != 0
    wanted = -(smooth * log_p).sum(-1)[real].mean()
    np.testing.assert_allclose(float(host(loss)), wanted, rtol=1e-5)
    entropy = -np.take_along_axis(log_p, data["target"][..., None], -1)[..., 0][real]
    np.testing.assert_allclose(
        float(host(parts["entropy"][0])), entropy.mean(), rtol=1e-5
    )


def test_padding_and_what_comes_later_change_nothing():
    model = small()
    source, target = (x[:4] for x in reversals().values())
    wanted = host(model(source, target))
    wide = np.pad(source, ((0, 0), (0, 2)))
    np.testing.assert_allclose(host(model(wide, target)), wanted, atol=1e-5)
    later = target.copy()
    later[:, 3:] = 5
    found = host(model(source, later))
    np.testing.assert_allclose(found[:, :3], wanted[:, :3], atol=1e-5)


@pytest.mark.once
@pytest.mark.parametrize("norm_first", [False, True])
def test_it_learns_to_copy_and_beams_find_no_less(norm_first):
    model = small(norm_first=norm_first, hidden_dim=32)
    model.compile(keras.optimizers.Adam(5e-3))
    data = reversals()
    data["target"] = data["source"]
    logs = model.fit(data, batch_size=32, epochs=25, verbose=0).history
    assert set(logs) == {"loss", "entropy", "accuracy"}
    after = model.evaluate(data, verbose=0, return_dict=True)
    assert after["accuracy"] > 0.9, after
    few = data["source"][:16]
    right = [
        np.array_equal(row, want[want != 0])
        for row, want in zip(model.translate(few), few, strict=True)
    ]
    assert np.mean(right) > 0.7
    # One sentence at a time, and greedily, as in a batch.
    one = [model.translate(row[None][:, : np.sum(row != 0)])[0] for row in few[:4]]
    for a, b in zip(one, model.translate(few[:4], batch_size=3), strict=True):
        np.testing.assert_array_equal(a, b)


def test_beams_are_no_less_probable_and_the_maps_sum_to_one():
    model = small()
    rng = np.random.default_rng(0)
    for variable in model.network.trainable_variables:
        variable.assign(variable + 0.3 * rng.normal(size=variable.shape))
    source = reversals()["source"][:6]

    def scores(rows):
        width = max(map(len, rows))
        target = np.zeros((len(rows), width), "int32")
        for line, row in zip(target, rows, strict=True):
            line[: len(row)] = row
        return model.score(source, target)

    greedy = scores(model.translate(source, 1, max_length=4))
    beams = scores(model.translate(source, 8, 0.0, max_length=4))
    assert np.all(beams >= greedy - 1e-5)
    maps = model.attention_maps(source, source)
    assert maps.shape == (6, 1, 2, 7, 7)
    np.testing.assert_allclose(maps.sum(-1), 1.0, atol=1e-5)
    padded = np.broadcast_to((source == 0)[:, None, None, None], maps.shape)
    assert maps[padded].max() < 1e-6


@pytest.mark.once
def test_texts(tmp_path):
    pytest.importorskip("tokenizers")
    verses = kg.datasets.pairs("verses")
    a, b = verses["source"][:60], verses["target"][:60]
    tokenizer = kg.Tokenizer.train(a + b, 400, special_tokens=["<pad>", "<s>", "</s>"])
    model = kg.Translator(
        num_layers=1,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=16,
        max_sequence_length=80,
        tokenizer=tokenizer,
    )
    assert (model.pad_token_id, model.decoder_start_token_id, model.eos_token_id) == (
        0,
        1,
        2,
    )
    data = model.pairs(a, b)
    assert set(data) == {"source", "target"}
    model.compile()
    model.fit(data, batch_size=16, epochs=1, verbose=0)
    found = model.translate(a[:2], max_length=8)
    assert len(found) == 2 and all(isinstance(text, str) for text in found)
    assert model.translate(a[0], max_length=8) == found[0]
    model.save(tmp_path / "translator.keras")
    again = kg.load_model(tmp_path / "translator.keras")
    assert again.translate(a[:2], max_length=8) == found
    with pytest.raises(ValueError, match="special_tokens="):
        kg.Translator(tokenizer=kg.Tokenizer.train(a, 300))


def test_what_does_not_fit_is_named():
    model = small()
    model.compile()
    data = {name: x[:4] for name, x in reversals().items()}
    for x, match in (
        (data["source"], "a dict of two arrays of token ids"),
        ({"source": data["source"]}, r"got \['source'\]"),
        ({**data, "target": data["target"] + 12}, "The target's tokens must lie in"),
        ({**data, "target": data["target"] * 0 + 3}, "end with eos_token_id, 2; row 0"),
        ({**data, "source": np.tile(data["source"], 2)}, "at most 10 for each text"),
    ):
        with pytest.raises(ValueError, match=match):
            model.fit(x, verbose=0)
    source = data["source"]
    for arguments, match in (
        ({"num_beams": 0}, "num_beams must be an integer of at least 1"),
        ({"max_length": 10}, "at most 9, one less than the context; got 10"),
        ({"early_stopping": 3}, "True, False or 'never'"),
    ):
        with pytest.raises(ValueError, match=match):
            model.translate(source, **arguments)
    with pytest.raises(ValueError, match="none of them empty"):
        model.translate([[3, 4], []])
    with pytest.raises(ValueError, match="Texts need a tokenizer"):
        model.translate("hello")
    for arguments, match in (
        ({"num_heads": 3}, "divisible by num_heads; got hidden_dim=16, num_heads=3"),
        ({"eos_token_id": 0}, "differ from pad_token_id and decoder_start_token_id"),
        ({"eos_token_id": 14}, r"eos_token_id must be an id in \[0, 14\); got 14"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\)"),
        ({"size": "small"}, "size must be one of base, big; got 'small'"),
    ):
        with pytest.raises(ValueError, match=match):
            small(**arguments)
