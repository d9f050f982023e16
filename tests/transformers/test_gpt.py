"""GPT: what it learns, what counts, few weights, and bad data."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_genai as kg

pytestmark = pytest.mark.in_turn

TINY = {
    "num_layers": 2,
    "hidden_dim": 32,
    "num_heads": 4,
    "vocabulary_size": 11,
    "max_sequence_length": 8,
}


def host(x):
    return ops.convert_to_numpy(x)


def counting(n=64, length=9):
    """Rows that count up, modulo 10: each token but the first is certain."""
    first = np.random.default_rng(0).integers(0, 10, (n, 1))
    return ((first + np.arange(length)) % 10 + 1).astype("int32")


@pytest.mark.once
@pytest.mark.parametrize("positions", ["learned", "rotary", "alibi", "sinusoidal"])
def test_it_learns_to_count_and_writes_on(positions):
    model = kg.GPT(**TINY, positions=positions, norm="rms", ema_decay=0.5)
    model.compile(keras.optimizers.Adam(1e-2))
    rows = counting()
    history = model.fit(rows, batch_size=32, epochs=30, verbose=0).history
    assert history["loss"][0] > 1.0 and history["loss"][-1] < 0.05
    np.testing.assert_allclose(
        history["perplexity"], np.exp(history["loss"]), rtol=1e-4
    )
    np.testing.assert_allclose(
        history["bits_per_token"], np.array(history["loss"]) / np.log(2), rtol=1e-4
    )
    made = model.generate(rows[:5, :3], temperature=0)
    np.testing.assert_array_equal(made, rows[:5, :8])
    scores = model.score(rows)
    loss = model.evaluate(rows, batch_size=48, verbose=0, return_dict=True)["loss"]
    assert scores.shape == (64, 8)
    assert -scores.mean() == pytest.approx(loss, rel=1e-3, abs=1e-6)


def test_the_first_loss_is_that_of_a_uniform_draw():
    model = kg.GPT(
        num_layers=2,
        hidden_dim=64,
        num_heads=4,
        vocabulary_size=500,
        max_sequence_length=16,
    )
    model.compile()
    x = np.random.default_rng(0).integers(0, 500, (16, 17))
    loss = model.evaluate(x, verbose=0, return_dict=True)["loss"]
    assert loss == pytest.approx(np.log(500), rel=0.01)


def losses(model, rows):
    """Of each token after the first, by scipy's own formula."""
    logits = host(model(rows[:, :-1])).astype("float64")
    logits -= logits.max(-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    return -np.take_along_axis(logits, rows[:, 1:, None], -1)[..., 0]


@pytest.mark.once
def test_padding_and_weights_say_what_counts():
    model = kg.GPT(**TINY, pad_token_id=0)
    model.compile()
    rows = counting(6)
    rows[0, 4:] = rows[1, 7:] = 0
    each, counts = losses(model, rows), (rows[:, 1:] != 0).astype("float64")

    def evaluated(**kwargs):
        logs = model.evaluate(rows, batch_size=4, verbose=0, return_dict=True, **kwargs)
        return logs["loss"]

    wanted = (each * counts).sum() / counts.sum()
    assert evaluated() == pytest.approx(wanted, rel=1e-5)
    by_row = np.arange(6) / 2.0
    by_token = np.random.default_rng(1).uniform(size=rows.shape)
    for weight, w in ((by_row, by_row[:, None]), (by_token, by_token[:, 1:])):
        w = w * counts
        wanted = (each * w).sum() / w.sum()
        got = evaluated(sample_weight=weight.astype("float32"))
        assert got == pytest.approx(wanted, rel=1e-5)
    log = model.train_on_batch(rows, return_dict=True)
    wanted = (each * counts).sum() / counts.sum()
    assert log["loss"] == pytest.approx(wanted, rel=1e-5)
    longer = np.concatenate([rows, np.zeros((6, 0), "int32")], 1)
    scores = model.score([row[row != 0].tolist() for row in longer])
    assert np.all(scores[0, 3:] == 0) and np.all(scores[2] < 0)


def test_no_token_sees_a_later_one():
    model = kg.GPT(**TINY, **{**kg.GPT.LLAMA, "activation": "geglu"}, sliding_window=3)
    x = counting(1, 8)
    before = host(model(x))
    for place in range(8):
        changed = x.copy()
        changed[:, place] = changed[:, place] % 10 + 1
        moved = np.abs(host(model(changed)) - before).max((0, 2))
        assert np.all(moved[:place] == 0.0) and moved[place] > 0.0


def test_few_weights_are_tuned_and_merged(tmp_path):
    model, rows = kg.GPT(**TINY), counting()
    before = host(model(rows[:, :8]))
    model.compile()
    count = len(model.trainable_variables)
    model.enable_lora(2, targets=("query", "value", "dense1"))
    assert len(model.trainable_variables) == 2 * 3 * 2  # A and B of three in each block
    np.testing.assert_allclose(host(model(rows[:, :8])), before, atol=1e-6)
    layers = [block.feed_forward.dense1 for block in model.network.blocks]
    first = [host(layer.lora_kernel_a) for layer in layers]
    frozen = {id(v): host(v.value) for v in model.variables if not v.trainable}
    with pytest.raises(ValueError, match="compile"):
        model.fit(rows, verbose=0)
    model.compile(keras.optimizers.Adam(3e-2))
    history = model.fit(rows, batch_size=16, epochs=10, verbose=0).history
    assert history["loss"][-1] < 0.9 * history["loss"][0]
    for variable in model.network.variables:
        if id(variable) in frozen:
            np.testing.assert_array_equal(host(variable.value), frozen[id(variable)])
    tuned = host(model(rows[:, :8]))
    again = kg.GPT(**TINY)
    again.enable_lora(2, targets=("query", "value", "dense1"))
    for block, begun in zip(again.network.blocks, first, strict=True):
        layer = block.feed_forward.dense1
        np.testing.assert_array_equal(host(layer.lora_kernel_a), begun)
        assert np.abs(begun).max() > 0 and not np.any(host(layer.lora_kernel_b))
    assert np.abs(first[0] - first[1]).max() > 0.1
    model.merge_lora()
    np.testing.assert_allclose(host(model(rows[:, :8])), tuned, atol=1e-5)
    assert len(model.trainable_variables) == count
    model.save_pretrained(tmp_path / "merged")
    same = kg.GPT.from_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(host(same(rows[:, :8])), tuned, atol=1e-5)
    model.compile()
    model.save(tmp_path / "merged.keras")
    same = kg.load_model(tmp_path / "merged.keras")
    np.testing.assert_allclose(host(same(rows[:, :8])), tuned, atol=1e-5)
    for call, message in (
        (lambda: model.merge_lora(), "not enabled"),
        (lambda: model.enable_lora(0), "rank must be"),
        (
            lambda: model.enable_lora(2, ("queries",)),
            "names of dense layers, of dense1",
        ),
        (lambda: (model.enable_lora(2), model.enable_lora(2)), "enabled already"),
        (lambda: model.save(tmp_path / "x.keras"), "merge_lora"),
        (lambda: model.save_pretrained(tmp_path / "x"), "merge_lora"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_remat_changes_no_number():
    rows, logs = counting(16), []
    for remat in (False, True):
        model = kg.GPT(**TINY, dropout=0.1, remat=remat, seed=2)
        model.compile(keras.optimizers.Adam(1e-2))
        logs.append(model.fit(rows, batch_size=8, epochs=2, verbose=0).history["loss"])
    np.testing.assert_allclose(*logs, rtol=1e-4)


def test_a_tokenizer_is_kept_with_the_model(tmp_path):
    tokenizer = kg.Tokenizer.characters(["to be or not to be"])
    sizes = {k: v for k, v in TINY.items() if k != "vocabulary_size"}
    model = kg.GPT(**sizes, tokenizer=tokenizer)
    assert model.vocabulary_size == tokenizer.vocabulary_size
    model.save(tmp_path / "gpt.keras")
    again = kg.load_model(tmp_path / "gpt.keras")
    assert again.generate("to be", 3, seed=1) == model.generate("to be", 3, seed=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "huge"}, "size must be one of small, medium, large, xl"),
        ({"num_heads": 5}, "5 does not divide 32"),
        ({"num_layers": 0}, "num_layers must be"),
        ({"num_key_value_heads": 3}, "num_key_value_heads must divide num_heads"),
        ({"positions": "absolute"}, "positions must be one of"),
        ({"norm": "batch"}, 'norm must be "layer" or "rms"'),
        ({"activation": "swish"}, "activation must be one of"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\)"),
        ({"pad_token_id": 11}, "pad_token_id must be a token of the vocabulary"),
        ({"eos_token_id": (1, -1)}, "eos_token_id must be a token of the vocabulary"),
        ({"ema_decay": 2.0}, "ema_decay must be"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        kg.GPT(**{**TINY, **arguments})


def test_data_that_does_not_fit():
    model = kg.GPT(**TINY)
    model.compile()
    rows = counting(4)
    for data, message in (
        ((rows[0],), r"integers \(N, T\)"),
        ((rows.astype("float32"),), "must be integers"),
        ((rows + 3,), r"in the vocabulary, \[0, 11\)"),
        ((rows[:, :1],), "Rows must have 2 to 9 tokens.*got 1"),
        ((np.concatenate([rows, rows], 1),), "got 18. Cut the text"),
        ((rows, rows), "moved by one"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(*data, verbose=0)
    with pytest.raises(ValueError, match=r"\(4,\), one for each row, or \(4, 9\)"):
        model.fit(rows, sample_weight=np.ones((4, 3), "float32"), verbose=0)
    with pytest.raises(ValueError, match="at least two"):
        model.score(rows[:, :1])
