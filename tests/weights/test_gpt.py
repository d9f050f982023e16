"""GPT against transformers' GPT-2 and Llama: logits, gradients, folders; llama2.c."""

import json
import struct

import keras
import numpy as np
import pytest
from keras import ops
from safetensors.numpy import load_file, save_file

import keras_genai as kg
from keras_genai import backend
from keras_genai.transformers import llama2c
from keras_genai.weights import gpt as weights

# Reading and writing of files, in NumPy: the networks that they fill are held equal to
# their references and across the backends elsewhere.
pytestmark = pytest.mark.once

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)  # beside TensorFlow's or JAX's own

FILE = "model.safetensors"
SIZES = {"vocab_size": 31, "bos_token_id": 0, "eos_token_id": 0}
GPT2 = {**SIZES, "n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 16}
LLAMA = {
    **SIZES,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 16,
}
KINDS = {
    "gpt2": {**GPT2},
    "gpt2, exact gelu": {**GPT2, "activation_function": "gelu", "n_inner": 40},
    "llama": {**LLAMA},
    "llama, tied, biased": {
        **LLAMA,
        "tie_word_embeddings": True,
        "attention_bias": True,
        "mlp_bias": True,
        "head_dim": 8,
        "rope_parameters": {
            "rope_theta": 500.0,
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
}


def host(x):
    return ops.convert_to_numpy(x)


def reference_of(name):
    """transformers' network with random weights, biases and gains too."""
    torch.manual_seed(0)
    if name.startswith("gpt2"):
        config = transformers.GPT2Config(**KINDS[name])
        network = transformers.GPT2LMHeadModel(config)
    else:
        config = transformers.LlamaConfig(**KINDS[name])
        network = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network.eval()


def tokens(shape=(3, 11), seed=0):
    return np.random.default_rng(seed).integers(0, 31, shape)


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
    """The reference and our model of its folder."""
    reference = reference_of(request.param)
    folder = tmp_path_factory.mktemp("pair")
    reference.save_pretrained(folder)
    return reference, kg.GPT.from_pretrained(folder), folder


def test_equals_transformers_with_its_gradients(pair):
    reference, model, _ = pair
    x = tokens()
    wanted = reference(torch.from_numpy(x)).logits
    factor = np.random.default_rng(1).normal(size=wanted.shape).astype("float32")
    reference.zero_grad()
    torch.sum(torch.from_numpy(factor) * wanted).backward()
    entries = weights.table(model)
    parts = [getattr(e.variable, "variables", [e.variable]) for e in entries]
    variables = [v for part in parts for v in part]
    assert len(variables) == len(model.trainable_variables)
    factor = keras.Variable(factor)
    run = backend.jit(
        lambda x: backend.value_and_gradients(
            lambda: ops.sum(factor.value * model(x)), [factor, *variables]
        ),
        [factor, *model.variables],
    )
    _, (y, *gradients) = run(ops.convert_to_tensor(x.astype("int32")))
    np.testing.assert_allclose(host(y), wanted.detach().numpy(), atol=1e-4)
    by_name = {
        n: p.grad.numpy() for n, p in reference.named_parameters() if p.grad is not None
    }
    assert {e.name for e in entries} == set(by_name)
    largest = max(np.abs(g).max() for g in by_name.values())
    gradients = [host(ops.convert_to_tensor(g)) for g in gradients]
    for entry, part in zip(entries, parts, strict=True):
        got = np.concatenate([gradients.pop(0) for _ in part], axis=-1)
        want = entry.ours(by_name[entry.name])
        # A shift of the keys changes no softmax: that gradient is 0 but for rounding.
        scale = max(np.linalg.norm(want), 1e-4 * largest)
        assert np.linalg.norm(got - want) <= 1e-3 * scale, entry.name


def test_padding_before_a_text_changes_nothing(pair):
    reference, model, _ = pair
    x, mask = tokens((2, 9)), np.ones((2, 9), "int64")
    mask[0, :4] = 0
    places = np.maximum(mask.cumsum(1) - 1, 0)
    wanted = reference(
        torch.from_numpy(x),
        attention_mask=torch.from_numpy(mask),
        position_ids=torch.from_numpy(places),
    ).logits.detach()
    got = host(model(x, mask=mask))
    np.testing.assert_allclose(got[0, 4:], wanted[0, 4:].numpy(), atol=1e-4)
    np.testing.assert_allclose(got[1], wanted[1].numpy(), atol=1e-4)
    np.testing.assert_allclose(got[0, 4:], host(model(x[:1, 4:]))[0], atol=1e-4)


def test_there_and_back_without_loss(pair, tmp_path):
    reference, model, folder = pair
    model.save_pretrained(tmp_path)
    first, second = load_file(folder / FILE), load_file(tmp_path / FILE)
    assert set(first) == set(second)
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name])
    again, said = type(reference).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(said.values()), said
    x = torch.from_numpy(tokens())
    np.testing.assert_allclose(
        again.eval()(x).logits.detach(), reference(x).logits.detach(), atol=1e-6
    )
    same = kg.GPT.from_pretrained(tmp_path).get_config()
    assert same == {**model.get_config(), "name": same["name"]}


def test_shards_older_names_and_heads_that_may_be_absent(tmp_path):
    reference = reference_of("llama")
    reference.save_pretrained(tmp_path / "shards", max_shard_size="8KB")
    assert (tmp_path / "shards" / f"{FILE}.index.json").exists()
    x = tokens()
    wanted = reference(torch.from_numpy(x)).logits.detach().numpy()
    model = kg.GPT.from_pretrained(tmp_path / "shards")
    np.testing.assert_allclose(host(model(x)), wanted, atol=1e-4)
    # A body alone, and the first published files: no prefix, masks beside.
    reference.model.save_pretrained(tmp_path / "body")
    kg.GPT.from_pretrained(tmp_path / "body")
    reference = reference_of("gpt2")
    reference.transformer.save_pretrained(tmp_path / "gpt2")
    arrays = load_file(tmp_path / "gpt2" / FILE)
    assert "wte.weight" in arrays
    arrays["h.0.attn.bias"] = np.ones((1, 1, 16, 16), "float32")
    save_file(arrays, tmp_path / "gpt2" / FILE)
    wanted = reference(torch.from_numpy(x)).logits.detach().numpy()
    model = kg.GPT.from_pretrained(tmp_path / "gpt2")
    np.testing.assert_allclose(host(model(x)), wanted, atol=1e-4)


def test_generation_config_says_what_ends_a_text(tmp_path):
    reference_of("llama").save_pretrained(tmp_path)
    path = tmp_path / "generation_config.json"

    def load(**said):
        path.write_text(json.dumps(said), "utf-8")
        return kg.GPT.from_pretrained(tmp_path)

    model = load(eos_token_id=[3, 23], pad_token_id=5)
    assert (model.eos_token_id, model.pad_token_id) == ((3, 23), 5)
    model.eos_token_id = 7
    model.save_pretrained(tmp_path)  # an old file does not come first
    assert kg.GPT.from_pretrained(tmp_path).eos_token_id == 7
    with pytest.warns(UserWarning, match="eos_token_id=50256, which is passed over"):
        assert load(eos_token_id=[50256, 4]).eos_token_id == 4
    with pytest.warns(UserWarning, match="temperature=0.6, top_p=0.9, which is"):
        assert load(do_sample=True, temperature=0.6, top_p=0.9).eos_token_id == 7


def test_theta_has_two_places():
    new = {"model_type": "llama", "rope_parameters": {"rope_theta": 7.0}}
    assert weights.from_config(new)["rope_theta"] == 7.0
    assert (
        weights.from_config({"model_type": "llama", "rope_theta": 8.0})["rope_theta"]
        == 8
    )
    assert weights.from_config({"model_type": "llama"})["rope_theta"] == 10_000.0


def test_scalings_have_an_old_name_and_a_new_one():
    scaling = {"rope_type": "linear", "factor": 2.0}
    for given in (
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 7.0},
        {"rope_parameters": {**scaling, "rope_theta": 7.0}},
    ):
        found = weights.from_config({"model_type": "llama", **given})
        assert found["rope_scaling"] == scaling and found["rope_theta"] == 7.0
    plain = {"model_type": "llama", "rope_parameters": {"rope_type": "default"}}
    assert weights.from_config(plain)["rope_scaling"] is None


def test_the_published_sizes():
    assert all(n * 64 == width for _, width, n in kg.transformers.gpt.SIZES.values())

    def count(words):
        with torch.device("meta"):
            config = transformers.GPT2Config(vocab_size=words)
            reference = transformers.GPT2LMHeadModel(config)
        return sum(p.numel() for p in reference.parameters())

    assert count(50_257) == 124_439_808
    # Twelve blocks of ours are twelve times one; few words are soon drawn.
    one, two = (
        kg.GPT(num_layers=n, vocabulary_size=100, eos_token_id=None).count_params()
        for n in (1, 2)
    )
    counters = 2  # the noise's step, and the first loss that is not finite
    assert one + 11 * (two - one) == count(100) + counters


def test_missing_extra_and_misshapen_tensors_are_listed(tmp_path):
    reference_of("llama").save_pretrained(tmp_path)
    arrays = load_file(tmp_path / FILE)
    del arrays["lm_head.weight"]
    arrays["model.more"] = np.zeros(3, "float32")
    arrays["model.norm.weight"] = np.zeros(5, "float32")
    save_file(arrays, tmp_path / FILE)
    with pytest.raises(ValueError) as caught:
        kg.GPT.from_pretrained(tmp_path)
    for part in (
        "1 missing: lm_head.weight (31, 24)",
        "1 extra: model.more (3,)",
        "model.norm.weight is (5,), expected (24,)",
    ):
        assert part in str(caught.value)
    (tmp_path / FILE).unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="pickle.*save_file.*model.safetensors"):
        kg.GPT.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "bert"}, "GPT loads 'gpt2' and 'llama'"),
        ({"architectures": ["GPT2ForSequenceClassification"]}, "GPT2LMHeadModel"),
        ({"activation_function": "swish"}, "activation_function must be"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse"),
        ({"n_layer": 0}, "n_layer must be a positive integer"),
        ({"model_type": "llama", "hidden_act": "gelu"}, "hidden_act must be 'silu'"),
        ({"model_type": "llama", "attention_bias": True}, "attention_bias must be"),
        (
            {"model_type": "llama", "rope_scaling": {"type": "dynamic", "factor": 2.0}},
            "rope_type must be 'default' or one of linear, llama3; got 'dynamic'",
        ),
    ],
)
def test_configurations_of_other_networks(config, message):
    with pytest.raises(ValueError, match=message):
        weights.from_config(config)


def test_networks_that_transformers_has_not(tmp_path):
    tiny = {
        "num_layers": 1,
        "hidden_dim": 8,
        "num_heads": 2,
        "vocabulary_size": 5,
        "max_sequence_length": 4,
    }
    for arguments, message in (
        ({"positions": "alibi"}, "positions is 'alibi'"),
        ({"sliding_window": 2}, "window is 2"),
        ({"num_key_value_heads": 1}, "num_key_value_heads is 1"),
        ({"norm": "rms"}, "positions is 'learned'"),
    ):
        with pytest.raises(ValueError, match=message):
            kg.GPT(**tiny, **arguments).save_pretrained(tmp_path / "made")
    assert not (tmp_path / "made").exists()


# llama2.c


def checkpoint(path, tie_word_embeddings, rng):
    """A random checkpoint, and its arrays by name."""
    sizes = (16, 12, 2, 4, 2, 19 if tie_word_embeddings else -19, 10)
    shapes = llama2c._shapes(16, 12, 2, 4, 2, 10, tie_word_embeddings, 19)
    arrays = {n: rng.normal(size=s).astype("float32") / 3 for n, s in shapes.items()}
    angles = np.arange(10)[:, None] * 10_000.0 ** (-np.arange(0, 4, 2) / 4)
    arrays["cosines"], arrays["sines"] = np.cos(angles), np.sin(angles)
    body = b"".join(a.astype("<f4").tobytes() for a in arrays.values())
    path.write_bytes(struct.pack("<7i", *sizes) + body + b"tokenizer")
    return arrays


def forward(w, tokens):
    """run.c's `forward` of one text, token by token, written out in NumPy."""

    def norm(x, gain):
        return gain * x / np.sqrt(np.mean(x * x) + 1e-5)

    num_layers, hidden_dim = w["norm1"].shape
    size = 2 * w["cosines"].shape[1]
    num_heads, group = hidden_dim // size, hidden_dim // w["key"].shape[1]
    keys, values = [[] for _ in range(num_layers)], [[] for _ in range(num_layers)]
    logits = []
    for place, token in enumerate(tokens):
        x = w["embedding"][token].astype("float64")
        for i in range(num_layers):
            y = norm(x, w["norm1"][i])
            q, k, v = (w[n][i] @ y for n in ("query", "key", "value"))
            for vector in (q, k):
                for j in range(0, len(vector), 2):
                    pair = (j % size) // 2
                    c, s = w["cosines"][place, pair], w["sines"][place, pair]
                    a, b = vector[j], vector[j + 1]
                    vector[j], vector[j + 1] = a * c - b * s, a * s + b * c
            keys[i].append(k.reshape(-1, size))
            values[i].append(v.reshape(-1, size))
            mixed = []
            for h in range(num_heads):
                own = q.reshape(num_heads, size)[h]
                scores = (
                    np.array([own @ past[h // group] for past in keys[i]]) / size**0.5
                )
                share = np.exp(scores - scores.max())
                share /= share.sum()
                parts = zip(share, values[i], strict=True)
                mixed.append(sum(p * past[h // group] for p, past in parts))
            x = x + w["out"][i] @ np.concatenate(mixed)
            y = norm(x, w["norm2"][i])
            gate = w["gate"][i] @ y
            x = x + w["dense2"][i] @ (gate / (1 + np.exp(-gate)) * (w["dense1"][i] @ y))
        head = w.get("head", w["embedding"])
        logits.append(head @ norm(x, w["norm_last"]))
    return np.array(logits)


@pytest.mark.parametrize("tie_word_embeddings", [True, False])
def test_checkpoints_of_llama2_c(tmp_path, tie_word_embeddings):
    arrays = checkpoint(
        tmp_path / "model.bin", tie_word_embeddings, np.random.default_rng(0)
    )
    model = llama2c.load(tmp_path / "model.bin")
    x = np.random.default_rng(1).integers(0, 19, 10)
    wanted = forward(arrays, x)
    np.testing.assert_allclose(host(model(x[None]))[0], wanted, atol=1e-4)
    # And so they are Llama's, in transformers' layout too.
    model.save_pretrained(tmp_path / "folder")
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert config["tie_word_embeddings"] is tie_word_embeddings
    network = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "folder").eval()
    theirs = network(torch.from_numpy(x[None])).logits.detach().numpy()
    np.testing.assert_allclose(theirs[0], wanted, atol=1e-4)


def test_files_that_are_no_checkpoints(tmp_path):
    path = tmp_path / "model.bin"
    checkpoint(path, True, np.random.default_rng(0))
    whole = path.read_bytes()
    for content, message in (
        (whole[:20], "too short"),
        (whole[:2000], "cut short: its sizes ask for"),
        (struct.pack("<7i", 16, 12, 2, 4, 3, 19, 10), "no checkpoint"),
        (b"\x80\x02}q" * 30, "ask for .* bytes, and there are 120"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            llama2c.load(path)


PIECES = ["th", "he", "the", " t", " the", " c", "at", " cat", "ca", "cat", "ee", " a"]


def tokenizer_file(path):
    """A tokenizer of llama2.c, after seven other bytes; its tokens and scores."""
    letters = list("\u00e9 abcdehtz")
    tokens = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{i:02X}>" for i in range(256))]
    tokens += [*letters, *PIECES]
    scores = [0.0] * (259 + len(letters)) + [-float(i) for i in range(len(PIECES))]
    body = b"".join(
        struct.pack("<fi", score, len(token.encode())) + token.encode()
        for token, score in zip(tokens, scores, strict=True)
    )
    path.write_bytes(b"weights" + struct.pack("<i", 9) + body)
    return tokens, scores


def encoded(text, tokens, scores):
    """run.c's `encode`: the best pair first, until no pair is a token."""
    known = {token: i for i, token in enumerate(tokens)}
    ids = [known[" "]] if text else []
    for letter in text:
        ids += [known[letter]] if letter in known else [3 + b for b in letter.encode()]
    while True:
        best = None
        for i in range(len(ids) - 1):
            merged = known.get(tokens[ids[i]] + tokens[ids[i + 1]])
            if merged is not None and (best is None or scores[merged] > best[0]):
                best = scores[merged], i, merged
        if best is None:
            return [1, *ids]
        ids[best[1] : best[1] + 2] = [best[2]]


def test_the_tokenizer_of_llama2_c(tmp_path):
    pytest.importorskip("tokenizers")
    path = tmp_path / "data.bin"
    tokens, scores = tokenizer_file(path)
    tokenizer = llama2c.load_tokenizer(path, len(tokens), offset=7)
    assert tokenizer.vocabulary_size == len(tokens)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    for text in ("the cat", "a the thee", "ca t\u00e9", "  he", "x\u20acy", "cat\nthe"):
        ids = tokenizer.encode(text)
        assert ids == encoded(text, tokens, scores), text
        assert tokenizer.decode(ids) == text
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="cut short: of 281 tokens"):
        llama2c.load_tokenizer(path, len(tokens), offset=7)
