"""Texts do not depend on the other texts of a call, nor on the calls before it."""

import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from keras_genai.backend import programs
from keras_genai.layers import lora
from keras_genai.transformers.logits_processors import SamplingConfig
from keras_genai.transformers.padding import not_padding

pytestmark = pytest.mark.in_turn

SIZES = {
    "num_layers": 1,
    "hidden_dim": 8,
    "num_heads": 2,
    "vocabulary_size": 12,
    "seed": 0,
}


def host(x):
    return np.asarray(ops.convert_to_numpy(x))


def noisy(model, scale=0.5, seed=0):
    """The model with weights that make its texts vary."""
    rng = np.random.default_rng(seed)
    for v in model.network.trainable_variables:
        v.assign(host(v) + scale * rng.normal(size=v.shape).astype("float32"))
    return model


def gpt(max_sequence_length=48, seed=0, **kwargs):
    sizes = {
        **SIZES,
        "max_sequence_length": max_sequence_length,
        "pad_token_id": 0,
        "eos_token_id": 1,
        **kwargs,
    }
    return noisy(kg.GPT(**sizes), seed=seed)


# A pad that is also the end


def test_the_first_end_after_a_text_counts_where_it_is_the_padding_too():
    rows = np.array(
        [
            [5, 6, 7, 3, 3, 3],  # a text and its end
            [3, 3, 5, 6, 3, 3],  # begins by padding
            [5, 3, 6, 7, 3, 3],  # two texts
            [5, 6, 7, 8, 9, 4],  # no end
            [5, 4, 3, 3, 3, 3],  # another end, then padding
            [3, 3, 3, 3, 3, 3],
        ]
    )
    wanted = np.array(
        [
            [1, 1, 1, 1, 0, 0],
            [0, 0, 1, 1, 1, 0],
            [1, 1, 1, 1, 1, 0],
            [1, 1, 1, 1, 1, 1],
            [1, 1, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0],
        ]
    )
    np.testing.assert_array_equal(not_padding(rows, 3, (3, 4)), wanted)
    tensor = ops.convert_to_tensor(rows, "int32")
    np.testing.assert_array_equal(host(not_padding(tensor, 3, (3, 4))), wanted)


def test_a_pad_that_is_the_end_gives_the_loss_of_another_pad():
    rows = np.array([[5, 6, 7, 3, 3, 3], [8, 3, 3, 3, 3, 3], [5, 6, 7, 8, 9, 3]])
    other = rows.copy()
    other[0, 4:] = other[1, 2:] = 0
    both = (
        gpt(8, pad_token_id=3, eos_token_id=3),
        gpt(8, pad_token_id=0, eos_token_id=3),
    )
    found = []
    for model, x in zip(both, (rows, other), strict=True):
        losses, weights = map(host, model.token_losses(x))
        found.append((losses * weights, weights))
    np.testing.assert_array_equal(found[0][1].sum(axis=1), [3, 1, 5])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=0)


# Others of the call


def test_a_translation_is_the_same_beside_a_longer_sentence():
    model = kg.Translator(
        **SIZES,
        max_sequence_length=64,
        decoder_start_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
        intermediate_dim=8,
    )
    noisy(model)
    short, long = [5, 1], [7, 8, 9, 10, 11, 1]
    lengths = []
    for beams in (1, 3):
        (alone,) = model.translate([short], beams)
        first, second = model.translate([short, long], beams)
        np.testing.assert_array_equal(alone, first)
        lengths.append(len(second))
        assert len(alone) <= 2 * len(short) + 10
    assert max(lengths) <= 2 * len(long) + 10


PROMPTS = [[5, 6], [7, 8, 9, 10, 11, 2, 3, 4, 5], [4, 4, 7]]
WAYS = {
    "draws": {"temperature": 1.5, "top_k": 7},
    "beams": {"num_beams": 2},
    "penalty_alpha": {"penalty_alpha": 0.5, "top_k": 3},
    "draft_model": {"draft_tokens": 2},
}


@pytest.fixture(scope="module")
def models():
    return gpt(), gpt(seed=5)


@pytest.mark.once
@pytest.mark.parametrize("way", WAYS)
def test_a_text_is_the_same_alone_and_among_others(models, way):
    model, draft_model = models
    options = dict(WAYS[way], seed=4)
    if way == "draft_model":
        options["draft_model"] = draft_model
    fresh = gpt()
    fresh.run_eagerly = True
    wanted = fresh.generate(PROMPTS, 4, **options, batch_size=1)
    for ours, theirs in zip(model.generate(PROMPTS, 4, **options), wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    if way == "draws":
        (alone,) = model.generate(PROMPTS[:1], 4, **options)
        np.testing.assert_array_equal(alone, wanted[0])
        pieces = list(model.generate(PROMPTS[0], 4, **options, stream=True))
        np.testing.assert_array_equal([*PROMPTS[0], *pieces], wanted[0])


@pytest.mark.once
def test_an_attribute_of_the_draft_model_that_changes_is_heeded():
    def draw(model, draft):
        prompts, options = [[3, 4, 5, 6], [7, 8, 9, 3]], {"draft_tokens": 3}
        options |= {"max_new_tokens": 12, "seed": 4, "temperature": 1.5}
        texts = model.generate(prompts, draft_model=draft, **options)
        return [list(row) for row in texts]

    model, draft, other = gpt(), gpt(seed=9), gpt(seed=9)
    before = draw(model, draft)
    draft.network.norm_last.epsilon = other.network.norm_last.epsilon = 1e4
    after = draw(model, draft)
    assert after == draw(gpt(), other) and after != before


def test_calls_of_many_shapes_share_a_few_programs(monkeypatch):
    made, jit = [], programs.primitives.jit

    def counted(*args, **kwargs):
        made.append(args)
        return jit(*args, **kwargs)

    monkeypatch.setattr(programs.primitives, "jit", counted)
    model, rng = gpt(64), np.random.default_rng(0)
    for i, length in enumerate((3, 40, 11, 1, 25, 8, 50, 2, 29, 14, 20, 6)):
        rows = rng.integers(2, 12, (1 + i % 2, length)).tolist()
        rows[-1] = rows[-1][: 1 + i]
        wanted = rng.integers(1, 6)
        texts = model.generate(
            rows, wanted, temperature=0.5 + i / 12, top_k=2 + i, seed=i
        )
        for row, text in zip(rows, texts, strict=True):
            np.testing.assert_array_equal(text[: len(row)], row)
            assert len(row) < len(text) <= len(row) + wanted
    if programs.primitives.COMPILES:
        assert len(made) <= 6
    assert len(model.programs) <= programs.KEPT


# Pairs


def cut_as_bert(first, second, room):
    """`_truncate_seq_pair` of BERT's own code."""
    first, second = list(first), list(second)
    while len(first) + len(second) > room:
        (first if len(first) > len(second) else second).pop()
    return first, second


def test_pairs_that_are_too_long_keep_both_sentences():
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokenizer = kg.Tokenizer.train([" ".join(letters)] * 3, 60, kind="wordpiece")
    for first, second in (("abcdefghij", "klmnop"), ("abc", "klmnopq"), ("ab", "kl")):
        for length in (3, 4, 6, 8, 9, 12, 14, 30):
            x = tokenizer.batch([" ".join(first)], [" ".join(second)], length=length)
            a, b = cut_as_bert(first, second, length - 3)
            wanted = ["[CLS]", *a, "[SEP]", *b, "[SEP]"]
            types = [0] * (len(a) + 2) + [1] * (len(b) + 1)
            found = [tokenizer.token(i) for i in x["tokens"][0]]
            assert found[: len(wanted)] == wanted
            assert set(found[len(wanted) :]) <= {"[PAD]"}
            assert x["token_types"][0].tolist()[: len(wanted)] == types
    model = kg.BERT(
        **{**SIZES, "vocabulary_size": 60, "num_classes": 2},
        max_sequence_length=12,
        tokenizer=tokenizer,
    )
    noisy(model)
    one = model.classify(["a b c d e f g h i j"], ["k l m"])
    other = model.classify(["a b c d e f g h i j"], ["x y z"])
    assert np.abs(one - other).max() > 1e-3


# Logits processors


def test_top_p_keeps_no_more_ties_than_it_needs():
    config = SamplingConfig(top_p=0.35)
    logits = np.zeros((1, 10), "float32")
    kept = host(config.restrict(ops.convert_to_tensor(logits), config.numbers)) > -1e9
    np.testing.assert_array_equal(kept.sum(axis=1), 4)
    # Four of the largest ids, as transformers' `TopPLogitsWarper` has it.
    np.testing.assert_array_equal(np.flatnonzero(kept), [6, 7, 8, 9])
    logits[0, 2] = np.log(2)  # shares 2 / 11 and 1 / 11
    kept = host(config.restrict(ops.convert_to_tensor(logits), config.numbers)) > -1e9
    np.testing.assert_array_equal(np.flatnonzero(kept), [2, 8, 9])


# Tables


def test_calls_refuse_ids_and_lengths_that_no_table_holds():
    models = {
        "GPT": kg.GPT(**SIZES, max_sequence_length=8),
        "rotary": kg.GPT(**SIZES, max_sequence_length=8, **kg.GPT.LLAMA),
        "BERT": kg.BERT(
            **SIZES, max_sequence_length=8, pad_token_id=0, mask_token_id=2
        ),
    }
    for name, model in models.items():
        for tokens in ([[1, 12, 2]], [[1, -1, 2]], [[1] * 9]):
            tokens = np.array(tokens, "int32")
            if name == "rotary" and tokens.shape == (1, 9):  # there is no table
                assert np.isfinite(host(model(tokens))).all()
                continue
            for given in (tokens, ops.convert_to_tensor(tokens)):
                with pytest.raises(ValueError, match="okens|length|context"):
                    model(given)
        assert np.isfinite(host(model(np.array([[0, 11, 2]], "int32")))).all()


def test_calls_refuse_labels_that_no_table_holds():
    image, noise = np.zeros((1, 8, 8, 1), "float32"), np.zeros((1, 2), "float32")
    tiny = {"block_channels": (4,), "layers_per_block": 1, "groups": 2}
    unet = kg.UNet((8, 8, 1), **tiny, attention=False, num_classes=3, null_class=False)
    sizes = {"patch_size": 4, "num_layers": 1, "hidden_dim": 8, "num_heads": 2}
    dit = kg.DiT((8, 8, 1), **sizes, num_classes=3, null_class=False)
    cgan = kg.CGAN((8, 8, 1), 3, 2, base_filters=2)
    t = np.zeros(1, "int32")
    calls = [
        lambda labels: unet(image, t, labels),
        lambda labels: dit(image, t, labels),
        lambda labels: cgan.generator([noise, labels]),
    ]
    for run in calls:
        run(np.array([2], "int32"))
        for label in (3, -1):
            with pytest.raises(ValueError, match=r"Labels must lie in \[0, 3\)"):
                run(np.array([label], "int32"))


# LoRA


def test_lora_takes_layers_by_path_and_by_a_function():
    sizes = {"block_channels": (4,), "layers_per_block": 1, "groups": 2}
    unet = kg.UNet((4, 4, 1), **sizes, attention=True, context_dim=3, num_heads=2)
    paths = {id(layer): path for path, layer in lora.paths(unet)}
    # Beside `middle_attention/out`, which leads out of the transformer.
    outs = [p for p in paths.values() if p.endswith("/attention/out")]
    assert {p.split("/")[0] for p in outs} >= {"middle_attention", "up_0_attention_1"}
    lora.enable(unet, 2, "attention/out", seed=3)
    changed = {paths[id(x)] for x in lora.dense_layers(unet) if x.lora_enabled}
    assert changed == set(outs)
    rng = np.random.default_rng(0)
    for layer in lora.dense_layers(unet):
        if layer.lora_enabled:
            b = layer.lora_kernel_b
            b.assign(rng.normal(size=b.shape).astype("float32"))
    x = rng.normal(size=(1, 4, 4, 1)).astype("float32")
    context = rng.normal(size=(1, 2, 3)).astype("float32")
    inputs = {
        "x": x,
        "t": np.zeros(1, "int32"),
        "context": context,
    }
    before = host(unet(**inputs))
    lora.merge(unet)
    assert not any(layer.lora_enabled for layer in lora.dense_layers(unet))
    np.testing.assert_allclose(host(unet(**inputs)), before, atol=1e-5)
    assert all(v.trainable for v in unet.trainable_variables)
    lora.enable(unet, 2, lambda path, layer: path in outs)
    assert changed == {paths[id(x)] for x in lora.dense_layers(unet) if x.lora_enabled}
