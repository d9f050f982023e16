"""Writing: token for token as transformers, and against written-out forms."""

import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from keras_genai import backend
from keras_genai.transformers.logits_processors import MINUS, SamplingConfig
from tests.support.conformance import BACKEND

pytestmark = pytest.mark.in_turn

V = 29
TINY = {
    "num_layers": 2,
    "hidden_dim": 16,
    "num_heads": 4,
    "vocabulary_size": V,
    "max_sequence_length": 32,
}
KINDS = {
    "gpt2": {**TINY, "eos_token_id": 3},
    "llama": {**TINY, **kg.GPT.LLAMA, "num_key_value_heads": 2, "eos_token_id": 3},
}


def host(x):
    return ops.convert_to_numpy(x)


def make(kind="gpt2", seed=0, scale=12.0, **kwargs):
    """A model whose weights are large enough for its choices to differ."""
    model = kg.GPT(**{**KINDS[kind], **kwargs}, seed=seed)
    for variable in model.network.trainable_variables:
        if len(variable.shape) > 1:
            variable.assign(scale * host(variable.value))
    return model


def prompts(count=3, length=5, seed=0):
    return np.random.default_rng(seed).integers(4, V, (count, length)).astype("int32")


SEEDS = (0, 1, 2)


@pytest.fixture(scope="module", params=KINDS)
def family(request, tmp_path_factory):
    """Our model, and of each seed its weights and transformers' model with them."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.set_num_threads(1)
    auto = transformers.AutoModelForCausalLM
    pairs = []
    for seed in SEEDS:
        model = make(request.param, seed)
        folder = tmp_path_factory.mktemp("pair")
        model.save_pretrained(folder)
        pairs.append((model.get_weights(), auto.from_pretrained(folder).eval()))
    return model, pairs


def theirs(reference, x, new, **options):
    import torch

    made = reference.generate(
        torch.from_numpy(np.asarray(x, "int64")),
        attention_mask=torch.ones(x.shape, dtype=torch.int64),
        max_new_tokens=new,
        pad_token_id=3,
        **{"do_sample": False, **options},
    )
    return np.pad(
        made.numpy(), ((0, 0), (0, x.shape[1] + new - made.shape[1])), constant_values=3
    )


OPTIONS = [
    ({"temperature": 0}, {}),
    ({"temperature": 0, "repetition_penalty": 1.7}, {"repetition_penalty": 1.7}),
    ({"temperature": 0, "no_repeat_ngram_size": 2}, {"no_repeat_ngram_size": 2}),
    ({"temperature": 0, "no_repeat_ngram_size": 1}, {"no_repeat_ngram_size": 1}),
    ({"num_beams": 1}, {}),
    ({"num_beams": 3}, {"num_beams": 3}),
    (
        {"num_beams": 4, "length_penalty": 0.6, "early_stopping": True},
        {"num_beams": 4, "length_penalty": 0.6, "early_stopping": True},
    ),
    (
        {"num_beams": 2, "length_penalty": 2.0, "early_stopping": "never"},
        {"num_beams": 2, "length_penalty": 2.0, "early_stopping": "never"},
    ),
    (
        {"num_beams": 3, "length_penalty": -0.5, "repetition_penalty": 1.3},
        {"num_beams": 3, "length_penalty": -0.5, "repetition_penalty": 1.3},
    ),
    (
        {"num_beams": 3, "no_repeat_ngram_size": 2},
        {"num_beams": 3, "no_repeat_ngram_size": 2},
    ),
]


@pytest.mark.parametrize(("ours", "options"), OPTIONS)
def test_equals_transformers_token_for_token(family, ours, options):
    model, pairs = family
    x = prompts()
    for weights, reference in pairs:
        model.set_weights(weights)
        wanted = theirs(reference, x, 9, **options)
        got = model.generate(x, 9, **ours)
        np.testing.assert_array_equal(got, wanted)
        assert got.dtype == np.int32


@pytest.mark.once
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("llama", {"temperature": 0}),
        ("gpt2", {"seed": 3}),
        ("llama", {"seed": 3, "top_k": 4, "repetition_penalty": 1.3}),
        ("gpt2", {"num_beams": 3, "no_repeat_ngram_size": 2}),
        ("llama", {"penalty_alpha": 0.5, "top_k": 3}),
        ("gpt2", {"penalty_alpha": 0.5, "top_k": 3}),
    ],
)
def test_a_row_is_the_same_whatever_stands_beside_it(kind, options):
    """Padding before a prompt, other rows and the batch's size change nothing."""
    model = make(kind)
    rows = [row[:n].tolist() for row, n in zip(prompts(4), (2, 5, 3, 1), strict=True)]
    together = model.generate(rows, 6, **options)
    divided = model.generate(rows, 6, batch_size=3, **options)
    for a, b in zip(together, divided, strict=True):
        np.testing.assert_array_equal(a, b)
    # Noise is numbered by the row.
    place = 0 if "seed" in options else 2
    alone = model.generate([rows[place]], 6, **options)
    np.testing.assert_array_equal(alone[0], together[place])


@pytest.mark.once
@pytest.mark.parametrize("kind", KINDS)
def test_the_loop_with_its_cache_is_the_network_called_anew(kind):
    """Each token is the most probable one of the whole text before it."""
    model = make(kind, eos_token_id=None)
    made = model.generate(prompts(), 12, temperature=0)
    logits = host(model(made))
    np.testing.assert_array_equal(made[:, 5:], logits[:, 4:-1].argmax(-1))


@pytest.mark.once
def test_draws_have_the_distribution():
    model = make(scale=4.0, eos_token_id=None)
    x = np.repeat(prompts(1), 4000, axis=0)
    logits = host(model(x[:1]))[0, -1].astype("float64")
    for options in (
        {},
        {"temperature": 0.5},
        {"temperature": 2.0},
        {"top_k": 3},
        {"top_p": 0.6},
        {"min_p": 0.3},
    ):
        made = model.generate(x, 1, seed=5, batch_size=4000, **options)[:, -1]
        p = np.exp(logits / options.get("temperature", 1.0))
        p /= p.sum()
        order = np.argsort(-p)
        kept = np.zeros(V, bool)
        kept[order[: options.get("top_k", V)]] = True
        before = np.cumsum(p[order]) - p[order]
        kept[order[before >= options.get("top_p", 2.0)]] = False
        kept &= p >= options.get("min_p", 0.0) * p.max()
        p = np.where(kept, p, 0.0) / p[kept].sum()
        counts = np.bincount(made, minlength=V)
        assert not counts[~kept].any()
        deviation = np.sqrt(4000 * p * (1 - p)) + 1e-6
        assert np.abs((counts - 4000 * p) / deviation)[kept].max() < 4.5, options


def test_numbers_are_inputs_of_what_is_compiled():
    """Another temperature, penalty or probability compiles nothing anew."""
    if BACKEND == "torch":
        pytest.skip("PyTorch runs the loop eagerly: there is nothing to compile.")
    model, x = make(), prompts(2)
    model.generate(x, 4, top_p=0.9, repetition_penalty=1.2)
    model.generate(x, 4, num_beams=2)
    model.generate(x, 4, penalty_alpha=0.3, top_k=2)
    count = len(model.programs)
    for temperature in (1.0, 0.2, 50.0):
        options = {"top_p": 0.5 + temperature / 100, "repetition_penalty": 3.0}
        made = model.generate(x, 4, temperature=temperature, **options)
        assert made.shape == (2, 9)
    model.generate(x, 4, num_beams=2, length_penalty=-1.0)
    model.generate(x, 4, penalty_alpha=0.9, top_k=2)
    assert len(model.programs) == count


def processed(config, *arrays):
    return config.process(*map(ops.convert_to_tensor, (*arrays, config.numbers)))


def test_logits_processors_against_transformers():
    torch = pytest.importorskip("torch")
    process = pytest.importorskip("transformers.generation.logits_process")
    rng = np.random.default_rng(0)
    logits = (3 * rng.normal(size=(4, V))).astype("float32")
    logits[3] = np.round(logits[3])  # ties
    x = rng.integers(0, 6, (4, 9)).astype("int32")
    seen = np.ones(x.shape, bool)
    for own, reference in (
        ({"repetition_penalty": 1.3}, process.RepetitionPenaltyLogitsProcessor(1.3)),
        ({"no_repeat_ngram_size": 1}, process.NoRepeatNGramLogitsProcessor(1)),
        ({"no_repeat_ngram_size": 2}, process.NoRepeatNGramLogitsProcessor(2)),
        ({"no_repeat_ngram_size": 3}, process.NoRepeatNGramLogitsProcessor(3)),
        ({"temperature": 0.7}, process.TemperatureLogitsWarper(0.7)),
        ({"top_k": 5}, process.TopKLogitsWarper(5)),
        ({"top_p": 0.7}, process.TopPLogitsWarper(0.7)),
        ({"top_p": 1.0}, process.TopPLogitsWarper(1.0)),
        ({"min_p": 0.2}, process.MinPLogitsWarper(0.2)),
    ):
        wanted = reference(torch.from_numpy(x).long(), torch.from_numpy(logits.copy()))
        wanted = np.maximum(wanted.numpy(), MINUS)
        got = processed(SamplingConfig(**own), logits, x, seen)
        np.testing.assert_allclose(host(got), wanted, rtol=1e-5, err_msg=str(own))
    # What is not seen does not count.
    half = np.arange(9) < np.array([[4]] * 4)
    got = processed(SamplingConfig(repetition_penalty=2.0), logits, x, half)
    changed = host(got) != logits
    assert all(
        set(np.flatnonzero(c)) == set(r[:4]) for c, r in zip(changed, x, strict=True)
    )


# Contrastive search and drafts


def penalty_alpha(model, x, new, penalty, k):
    """2202.06417, written out: the whole text anew for every candidate."""
    text = list(x)
    for _ in range(new):
        logits = host(model(np.array([text], "int32")))[0, -1].astype("float64")
        p = np.exp(logits - logits.max())
        p /= p.sum()
        found = []
        for token in np.argsort(-p)[:k]:
            whole = np.array([[*text, token]], "int32")
            states, _ = model.network.hidden_states(ops.convert_to_tensor(whole))
            states = host(states)[0].astype("float64")
            states /= np.linalg.norm(states, axis=-1, keepdims=True)
            alike = (states[:-1] @ states[-1]).max()
            found.append(((1 - penalty) * p[token] - penalty * alike, token))
        text.append(int(max(found)[1]))
    return text


@pytest.mark.once
def test_contrastive_search_written_out():
    model = make("llama", scale=8.0, eos_token_id=None)
    for penalty, k in ((0.6, 4), (0.2, 4), (0.0, 4), (1.0, 3)):
        x = prompts(2)
        got = model.generate(x, 5, penalty_alpha=penalty, top_k=k)
        for row, text in zip(got, x.tolist(), strict=True):
            assert row.tolist() == penalty_alpha(model, text, 5, penalty, k)


@pytest.mark.once
def test_a_draft_changes_nothing_but_the_number_of_steps():
    model = make("llama")
    rows = [row[:n].tolist() for row, n in zip(prompts(4), (2, 5, 3, 1), strict=True)]
    wanted = model.generate(rows, 10, temperature=0)
    drafts = (make("llama", seed=7, num_layers=1), make("gpt2", seed=8), model)
    for draft_model, count in zip(drafts, (3, 1, 3), strict=True):
        made = model.generate(
            rows, 10, temperature=0, draft_model=draft_model, draft_tokens=count
        )
        for a, b in zip(made, wanted, strict=True):
            np.testing.assert_array_equal(a, b)
    # Up to the very end of the context.
    wanted = model.generate(rows, temperature=0)
    made = model.generate(rows, temperature=0, draft_model=make("gpt2", seed=8))
    for a, b in zip(made, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.once
def test_draws_with_a_draft_have_the_model_s_distribution():
    small = {"vocabulary_size": 5, "eos_token_id": None}
    model = make(scale=8.0, **small)
    draft_model = make(scale=8.0, seed=5, num_layers=1, **small)
    x = np.repeat(np.array([[1, 4]], "int32"), 6000, axis=0)
    made = model.generate(
        x, 3, seed=2, draft_model=draft_model, draft_tokens=2, batch_size=6000
    )
    every = np.stack(np.meshgrid(*[np.arange(5)] * 3, indexing="ij"), -1).reshape(-1, 3)
    whole = np.concatenate([np.repeat(x[:1], 125, axis=0), every], 1).astype("int32")
    p = np.exp(model.score(whole, batch_size=125)[:, 1:].sum(1))
    assert p.sum() == pytest.approx(1.0, rel=1e-4)
    counts = np.bincount(made[:, 2:] @ [25, 5, 1], minlength=125)
    deviation = np.sqrt(6000 * p * (1 - p)) + 1e-3
    expected = 6000 * p > 5
    assert np.abs((counts - 6000 * p) / deviation)[expected].max() < 4.5
    first = np.bincount(made[:, 2], minlength=5) / 6000
    assert np.abs(first - p.reshape(5, 25).sum(1)).max() < 0.03


# Forms, texts, streams


@pytest.mark.once
def test_forms_of_prompts_and_results():
    model, x = make(), prompts(2)
    array = model.generate(x, 4, seed=1)
    assert array.shape == (2, 9) and array.dtype == np.int32
    lists = model.generate(x.tolist(), 4, seed=1)
    for row, ended in zip(array, lists, strict=True):
        np.testing.assert_array_equal(row[: len(ended)], ended)
        assert np.all(row[len(ended) :] == 3)
    np.testing.assert_array_equal(model.generate(x[0].tolist(), 4, seed=1), lists[0])
    np.testing.assert_array_equal(model.generate(x[0], 4, seed=1), array[0])
    three = model.generate(3, 4, seed=1)
    assert three.shape == (3, 5) and np.all(three[:, 0] == 3)
    assert model.generate(1).shape == (1, 32)
    several = make(eos_token_id=(3, 5, 7, 9, 11))
    ends = several.generate(8, 20, seed=2)
    for row in ends[:, 1:]:
        stops = np.flatnonzero(np.isin(row, several.eos_token_id))
        assert not len(stops) or np.all(row[stops[0] + 1 :] == 3)


TEXT = "to be, or not to be: that is the question"


def speaking(**kwargs):
    tokenizer = kg.Tokenizer.characters([TEXT])
    size = tokenizer.vocabulary_size
    given = {**KINDS["gpt2"], "vocabulary_size": size, "eos_token_id": None}
    return kg.GPT(**{**given, **kwargs}, tokenizer=tokenizer)


@pytest.mark.once
def test_texts_streams_and_stop_strings(capsys):
    model = speaking()
    whole = model.generate("to be", 20, seed=4)
    assert isinstance(whole, str) and len(whole) == 25 and whole.startswith("to be")
    assert model.generate(["to be", "or"], 20, seed=4)[0] == whole
    pieces = list(model.generate("to be", 20, seed=4, stream=True))
    assert len(pieces) > 5 and "to be" + "".join(pieces) == whole
    capsys.readouterr()
    assert model.generate("to be", 20, seed=4, verbose=1) == whole
    assert capsys.readouterr().out == whole[5:] + "\n"
    stop = whole[12:14]
    place = whole.index(stop, 5)
    assert model.generate("to be", 20, seed=4, stop=stop) == whole[:place]
    streamed = model.generate("to be", 20, seed=4, stop=[stop, "#"], stream=True)
    assert "to be" + "".join(streamed) == whole[:place]
    assert streamed.result == whole[:place]
    ids = model.tokenizer.encode("to be")
    made = model.generate([ids], 20, seed=4)[0]
    assert model.tokenizer.decode(made) == whole
    assert model.score("to be").shape == (1, 4)
    assert model.embed(["to be", "or"]).shape == (2, 16)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "num_beams must be"),
        ({"num_beams": 2, "top_k": 3}, "contradicts temperature, top_k"),
        ({"num_beams": 2, "temperature": 0.5}, "contradicts temperature"),
        ({"num_beams": 2, "penalty_alpha": 0.5}, "different ways"),
        ({"num_beams": 2, "early_stopping": 3}, "early_stopping must be"),
        ({"penalty_alpha": 0.5}, "give top_k"),
        ({"penalty_alpha": 1.5, "top_k": 3}, r"in \[0, 1\]"),
        ({"penalty_alpha": 0.5, "top_k": 3, "top_p": 0.5}, "contradicts temperature"),
        ({"temperature": -1.0}, "temperature must be"),
        ({"temperature": 0, "top_p": 0.5, "top_k": 3}, "contradicts top_k, top_p"),
        ({"top_k": 0}, "top_k must be"),
        ({"top_p": 0.0}, "top_p must be"),
        ({"min_p": 1.5}, "min_p must be"),
        ({"repetition_penalty": 0}, "repetition_penalty must be"),
        ({"no_repeat_ngram_size": 0}, "no_repeat_ngram_size must be"),
        ({"seed": -1}, "seed must be"),
        ({"batch_size": 0}, "batch_size must be"),
        ({"max_new_tokens": 0}, "max_new_tokens must be"),
        ({"max_new_tokens": 28}, "has 5 tokens and max_new_tokens is 28.*at most 32"),
        ({"stop": "x"}, "need a model with a tokenizer"),
        ({"stream": True}, "of one prompt"),
    ],
)
def test_arguments_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        make().generate(prompts(), **options)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "prompts must be .*none of them empty"),
        ([[1], []], "prompts must be .*none of them empty"),
        (np.zeros((2, 0), "int32"), "prompts must be .*none of them empty"),
        ([[1, V]], rf"\[0, {V}\); got values from 1 to {V}"),
        (np.array([[-1, 2]]), "got values from -1 to 2"),
        (np.ones((2, 3)), r"integer array \(N, T\)"),
        (np.ones((1, 2, 3), "int32"), r"integer array \(N, T\)"),
        (["to be"], "need a model with a tokenizer"),
        ([["a"]], "prompts must be .*strings, lists"),
        (np.ones((1, 32), "int32"), "has 32 tokens; it may have at most 31"),
        (0, "prompts must be"),
    ],
)
def test_prompts_that_do_not_fit(given, message):
    with pytest.raises(ValueError, match=message):
        make().generate(given)


def test_models_that_do_not_fit():
    model = make()
    with pytest.raises(ValueError, match="of the same 29 tokens; got GPT of 5"):
        model.generate(prompts(), draft_model=make(vocabulary_size=5))
    with pytest.raises(ValueError, match="contradicts repetition_penalty"):
        model.generate(prompts(), draft_model=model, repetition_penalty=2.0)
    with pytest.raises(ValueError, match="which this model has not"):
        make(eos_token_id=None).generate(2)
    with pytest.raises(ValueError, match="tokenizer does not fit"):
        speaking(vocabulary_size=4)
    with pytest.raises(ValueError, match="eos_token_id must be a token"):
        make(eos_token_id=V)
    assert backend.to_host(model(prompts())).shape == (3, 5, V)
