"""BERT hides whole words, learns them, classifies, embeds and is saved."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from keras_genai.backend import random
from keras_genai.transformers import mlm
from tests.support.conformance import host

pytestmark = pytest.mark.in_turn

SMALL = {
    "num_layers": 2,
    "hidden_dim": 16,
    "num_heads": 2,
    "vocabulary_size": 30,
    "max_sequence_length": 12,
    "mask_token_id": 3,
    "special_tokens": [0, 1, 2, 3],
    "seed": 0,
}


def small(**arguments):
    return kg.BERT(**{**SMALL, **arguments})


def sentences(count=64, length=10):
    """Each counts on from a first token: what is hidden follows from its neighbours."""
    draw = np.random.default_rng(0)
    first = draw.integers(0, 26, (count, 1))
    return (4 + (first + np.arange(length)) % 26).astype("int32")


@pytest.fixture(scope="module")
def tokenizer():
    pytest.importorskip("tokenizers")
    text = kg.datasets.text("shakespeare")["Hamlet"][:20_000]
    return kg.Tokenizer.train(text.split("\n"), 300, "wordpiece", lowercase=True)


# Hidden words


def test_words_are_hidden_whole_and_at_the_papers_rates():
    count, length, size = 4000, 12, 1000
    draw = np.random.default_rng(0)
    tokens = draw.integers(4, size, (count, length)).astype("int32")
    words = np.repeat(np.arange(length // 2), 2)[None].repeat(count, axis=0)
    words[:, :2], words[:, -1] = -1, -1  # special, and padding
    key = random.key(0, "test")
    masked, chosen = (
        host(x)
        for x in mlm.mask_tokens(
            ops.convert_to_tensor(tokens),
            ops.convert_to_tensor(words.astype("int32")),
            key,
            3,
            size,
            rate=0.2,
        )
    )
    assert not chosen[words < 0].any()
    pairs = chosen[:, 2:-2].reshape(count, -1, 2)
    assert (pairs[..., 0] == pairs[..., 1]).all()  # whole
    assert abs(pairs.mean() - 0.2) < 0.01
    assert (masked[~chosen] == tokens[~chosen]).all()
    hidden_dim, before = masked[chosen], tokens[chosen]
    shares = [(hidden_dim == 3).mean(), (hidden_dim == before).mean()]
    np.testing.assert_allclose(shares, [0.8, 0.1], atol=0.015)
    other = hidden_dim[(hidden_dim != 3) & (hidden_dim != before)]
    assert abs(other.mean() - size / 2) < 50 and other.max() > 0.98 * size
    later = host(
        mlm.mask_tokens(
            ops.convert_to_tensor(tokens[8:16]),
            ops.convert_to_tensor(words[8:16].astype("int32")),
            key,
            3,
            size,
            rate=0.2,
            offset=8,
        )[0]
    )
    np.testing.assert_array_equal(later, masked[8:16])


def test_words_follow_from_the_vocabulary(tokenizer):
    batch = tokenizer.batch(["unkindness, my lord!", "ay"], ["questionable", "no"])
    table = mlm.word_table(300, tokenizer.special_ids(), tokenizer)
    found = host(
        mlm.word_numbers(
            *(ops.convert_to_tensor(batch[n]) for n in ("tokens", "mask")), table
        )
    )
    np.testing.assert_array_equal(found, batch["words"])


def test_pairs_of_sentences():
    documents = [[f"{d}:{i}" for i in range(40)] for d in range(30)] + [["alone"]]
    first, second, labels = kg.transformers.sentence_pairs(documents, seed=1)
    assert len(first) == len(second) == len(labels) == 30 * 39
    assert abs(labels.mean() - 0.5) < 0.05
    for a, b, label in zip(first, second, labels, strict=True):
        (d, i), (e, j) = (map(int, s.split(":")) for s in (a, b))
        assert (d != e) if label else (d == e and j == i + 1)
    with pytest.raises(ValueError, match="two documents of at least two"):
        kg.transformers.sentence_pairs([["a", "b"], ["c"]])


# The model


def test_padding_changes_nothing():
    model = small()
    tokens = sentences(4)
    padded = np.concatenate([tokens, np.zeros((4, 2), "int32")], axis=1)
    wanted = host(model(tokens))
    np.testing.assert_allclose(host(model(padded))[:, :10], wanted, atol=1e-5)
    np.testing.assert_allclose(model.embed(padded), model.embed(tokens), atol=1e-5)
    moved = host(model({"tokens": tokens, "token_types": np.ones_like(tokens)}))
    assert np.abs(moved - wanted).max() > 1e-2


@pytest.mark.once
def test_it_learns_hidden_tokens():
    model = small(dropout=0.0, hidden_dim=32)
    model.compile(keras.optimizers.Adam(5e-3))
    # One token to a text: what is hidden is what is around it.
    tokens = sentences(256)[:, :1].repeat(8, axis=1)
    before = model.evaluate(tokens, verbose=0, return_dict=True)
    history = model.fit(tokens, batch_size=32, epochs=10, verbose=0).history
    after = model.evaluate(tokens, verbose=0, return_dict=True)
    assert set(after) == {"loss", "mlm_accuracy"}
    assert before["mlm_accuracy"] < 0.2 and after["mlm_accuracy"] > 0.9, after
    assert abs(before["loss"] - np.log(30)) < 0.3
    assert history["mlm_accuracy"][-1] > 0.8


@pytest.mark.once
def test_next_sentence_and_classes():
    tokens = sentences(128, 12)
    labels = np.random.default_rng(1).integers(0, 2, 128)
    tokens[labels == 1, 6:] = np.roll(tokens[labels == 1, 6:], 1, axis=0)
    x = {"tokens": tokens, "token_types": (np.arange(12) > 5) + 0 * tokens}
    model = small(next_sentence=True, dropout=0.0)
    model.compile(keras.optimizers.Adam(3e-3))
    logs = model.fit(x, labels, batch_size=32, epochs=2, verbose=0).history
    assert set(logs) == {"loss", "mlm_accuracy", "nsp_accuracy"}
    model = small(num_classes=2, dropout=0.0)
    assert model.mlm is None and model.nsp is None
    model.compile(keras.optimizers.Adam(3e-3))
    odd = (tokens[:, 0] > 16).astype("int32")
    model.fit(x, odd, batch_size=32, epochs=8, verbose=0)
    assert model.evaluate(x, odd, verbose=0, return_dict=True)["accuracy"] > 0.9
    found = model.classify(x, batch_size=50)
    np.testing.assert_allclose(found.sum(-1), 1.0, atol=1e-5)
    assert (found.argmax(-1) == odd).mean() > 0.9


def test_weights_of_samples_count():
    tokens = sentences(8)
    model = small(dropout=0.0)
    model.compile(run_eagerly=True)
    first = model.evaluate(tokens[:4], verbose=0)
    weighted = model.evaluate(
        tokens, sample_weight=np.array([1.0] * 4 + [0.0] * 4), verbose=0
    )
    np.testing.assert_allclose(weighted, first, rtol=1e-5)


@pytest.mark.once
def test_texts_and_a_saved_tokenizer(tokenizer, tmp_path):
    model = kg.BERT(
        num_layers=1,
        hidden_dim=16,
        num_heads=2,
        tokenizer=tokenizer,
        max_sequence_length=20,
    )
    assert (model.vocabulary_size, model.mask_token_id) == (
        300,
        tokenizer.mask_token_id,
    )
    texts = ["my lord", "to be or not to be, that is the question"]
    vectors = model.embed(texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1.0, atol=1e-5)
    np.testing.assert_allclose(model.embed(texts[:1]), vectors[:1], atol=1e-5)
    model.compile()
    model.fit(tokenizer.batch(texts * 4, length=20), epochs=1, verbose=0)
    model.save(tmp_path / "bert.keras")
    again = kg.load_model(tmp_path / "bert.keras")
    np.testing.assert_array_equal(again.embed(texts), model.embed(texts))
    pytest.importorskip("safetensors")
    model.save_pretrained(tmp_path / "folder")
    again = kg.BERT.from_pretrained(tmp_path / "folder")
    np.testing.assert_array_equal(again.embed(texts), model.embed(texts))


def test_what_does_not_fit_is_named(tokenizer):
    model = small()
    model.compile()
    good = sentences(4)
    for tokens, match in (
        (good + 10, r"must lie in the vocabulary, \[0, 30\); got values from"),
        (np.tile(good, 2), "at most 12 for each text, the model's context; got 20"),
        (good[:, :0], "neither of them 0"),
        (good[0], "Add the axis"),
        (good.astype("float32"), "must be integers; got the type float32"),
        ({"tokens": good, "word": good}, "may hold token_types, mask, words; got"),
        ({"tokens": good, "mask": good}, "mask must have the shape of the tokens"),
    ):
        with pytest.raises(ValueError, match=match):
            model.fit(tokens, verbose=0)
    with pytest.raises(ValueError, match="takes no labels"):
        model.fit(good, np.zeros(4, int), verbose=0)
    with pytest.raises(
        ValueError, match="num_heads must divide hidden_dim: 3 does not"
    ):
        small(num_heads=3)
    with pytest.raises(ValueError, match="size must be one of tiny, .*; got 'huge'"):
        kg.BERT("huge")
    with pytest.raises(ValueError, match=r"mask_token_id must be an id in \[0, 30\)"):
        small(mask_token_id=30)
    with pytest.raises(ValueError, match="must have a mask"):
        unmasked = small(mask_token_id=None)
        unmasked.compile()
        unmasked.fit(good)
    with pytest.raises(ValueError, match="ids reach 299, and this BERT has a voc"):
        small(tokenizer=tokenizer)
    with pytest.raises(ValueError, match="Texts need a tokenizer"):
        model.embed(["a"])
    with pytest.raises(ValueError, match="no classifier"):
        model.classify(good)
    with pytest.raises(ValueError, match="need the pooler"):
        small(num_classes=2, pooler=False)
    assert not hasattr(model, "generate")
