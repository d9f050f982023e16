"""Marian's folders against transformers': logits, gradients, beams, both ways."""

import json

import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from keras_genai.weights import marian as weights
from tests.support.conformance import host
from tests.support.parity import gradients_are_equal, same_tensors, shaken

# Reading and writing of files, in NumPy: the networks that they fill are held equal to
# their references and across the backends elsewhere.
pytestmark = pytest.mark.once

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

SMALL = {
    "vocab_size": 40,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 20,
    "activation_function": "swish",
    "scale_embedding": True,
    "pad_token_id": 39,
    "decoder_start_token_id": 39,
    "eos_token_id": 0,
    "forced_eos_token_id": None,
    "init_std": 0.3,
}


def reference(seed=0, **changes):
    torch.manual_seed(seed)
    config = transformers.MarianConfig(
        **{**SMALL, **changes}, attn_implementation="eager"
    )
    network = shaken(transformers.MarianMTModel(config), seed=seed)
    with torch.no_grad():
        network.final_logits_bias.copy_(0.5 * torch.randn(1, 40))
    return network


def sources(count=3, seed=0):
    draw = np.random.default_rng(seed)
    tokens = draw.integers(1, 39, (count, 9)).astype("int32")
    for row, length in enumerate((9, 6, 7, 4, 8)[:count]):
        tokens[row, length - 1], tokens[row, length:] = 0, 39
    return tokens


def theirs(network, source, before):
    source, before = (torch.from_numpy(x).long() for x in (source, before))
    mask = (source != 39).long()
    return network(input_ids=source, attention_mask=mask, decoder_input_ids=before)


def test_logits_and_gradients_equal_transformers(tmp_path):
    network = reference()
    network.save_pretrained(tmp_path)
    model = kg.Translator.from_pretrained(tmp_path, dropout=0.0, label_smoothing=0.0)
    assert (model.pad_token_id, model.decoder_start_token_id, model.eos_token_id) == (
        39,
        39,
        0,
    )
    source = sources()
    target = np.random.default_rng(1).integers(1, 39, (3, 7)).astype("int32")
    before = np.concatenate([np.full((3, 1), 39, "int32"), target[:, :-1]], axis=1)
    wanted = theirs(network, source, before).logits
    assert wanted.std() > 0.1
    found = model(source, before)
    np.testing.assert_allclose(host(found), wanted.detach().numpy(), atol=1e-4)
    # PyTorch's table takes no gradient of padding, with which Marian's texts begin.
    begun = np.where(before == 39, 5, before)
    wanted = theirs(network, source, begun).logits
    tensors = [ops.convert_to_tensor(x) for x in (source, begun)]
    entries = [e for e in weights.table(model) if e.variable.trainable]
    gradients_are_equal(lambda: [model(*tensors)], entries, [wanted], network)
    log_p = torch.log_softmax(theirs(network, source, before).logits, -1)
    log_p = log_p.detach().numpy()
    log_p = np.take_along_axis(log_p, target[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(model.score(source, target), log_p.sum(1), atol=1e-3)


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_translations_equal_transformers_token_for_token(tmp_path, beams, seed):
    network = reference(seed)
    network.save_pretrained(tmp_path)
    model = kg.Translator.from_pretrained(tmp_path)
    source = sources(5, seed)
    with torch.no_grad():
        wanted = network.generate(
            torch.from_numpy(source).long(),
            attention_mask=torch.from_numpy((source != 39).astype("int64")),
            num_beams=beams,
            length_penalty=0.6,
            max_length=12,
            do_sample=False,
            bad_words_ids=[[39]],
            early_stopping=False,
        ).numpy()
    found = model.translate(source, beams, 0.6, max_length=11, batch_size=3)
    for row, want in zip(found, wanted, strict=True):
        want = want[1:]
        ends = np.flatnonzero(want == 0)
        want = want[: ends[0] + 1] if len(ends) else want
        np.testing.assert_array_equal(row, want)


@pytest.mark.parametrize(
    ("seed", "said"),
    [
        (0, {}),
        (
            1,
            {"num_beams": 4, "length_penalty": 0.8, "max_length": 14}
            | {"bad_words_ids": [[39]], "renormalize_logits": True},
        ),
        (
            2,
            {"num_beams": 3, "max_new_tokens": 9, "early_stopping": True}
            | {"bad_words_ids": [[39], [5], [7, 9]], "forced_bos_token_id": 11},
        ),
    ],
)
def test_translate_has_the_defaults_of_the_folder(tmp_path, seed, said):
    network = reference(seed, forced_eos_token_id=0)
    network.save_pretrained(tmp_path)
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | said), "utf-8")
    network = transformers.MarianMTModel.from_pretrained(tmp_path).eval()
    model, source = kg.Translator.from_pretrained(tmp_path), sources(5, seed)
    with torch.no_grad():
        wanted = network.generate(
            torch.from_numpy(source).long(),
            attention_mask=torch.from_numpy((source != 39).astype("int64")),
        ).numpy()
    for row, want in zip(model.translate(source), wanted[:, 1:], strict=True):
        ends = np.flatnonzero(want == 0)
        want = want[: ends[0] + 1] if len(ends) else want
        np.testing.assert_array_equal(row, want)
    # It is kept, in either kind of file.
    model.save_pretrained(tmp_path / "ours")
    again = kg.Translator.from_pretrained(tmp_path / "ours")
    made = kg.Translator.from_config(model.get_config())
    assert again.generation == made.generation == model.generation


def test_what_is_passed_over_is_named(tmp_path):
    reference().save_pretrained(tmp_path)
    said = {"num_beams": 2, "no_repeat_ngram_size": 3, "top_p": 0.5, "use_cache": True}
    path = tmp_path / "generation_config.json"
    path.write_text(json.dumps(said), "utf-8")
    with pytest.warns(UserWarning, match="says no_repeat_ngram_size=3, which is pas"):
        model = kg.Translator.from_pretrained(tmp_path)
    assert model.generation.num_beams == 2
    path.write_text(json.dumps({"num_beams": "two"}), "utf-8")
    with pytest.raises(ValueError, match="generation_config.json .*num_beams must be"):
        kg.Translator.from_pretrained(tmp_path)


def test_a_round_trip_keeps_every_bit(tmp_path):
    network = reference()
    network.save_pretrained(tmp_path / "theirs", max_shard_size="10KB")
    network.save_pretrained(tmp_path / "whole")
    model = kg.Translator.from_pretrained(tmp_path / "theirs")
    model.save_pretrained(tmp_path / "ours")
    again = transformers.MarianMTModel.from_pretrained(tmp_path / "ours")
    for key, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    kg.Translator.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "twice")
    same_tensors(tmp_path / "ours", tmp_path / "twice")


def test_what_does_not_fit_is_named(tmp_path):
    reference().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text("utf-8"))
    wrong = config | {"decoder_ffn_dim": 48, "normalize_before": True}
    path.write_text(json.dumps(wrong), "utf-8")
    with pytest.raises(
        ValueError,
        match="normalize_before must be False; it is True; decoder_ffn_dim must be 24",
    ):
        kg.Translator.from_pretrained(tmp_path)
    path.write_text(json.dumps(config | {"d_model": 32}), "utf-8")
    with pytest.raises(ValueError, match="misshapen: .*model.shared.weight is"):
        kg.Translator.from_pretrained(tmp_path)
    model = kg.Translator(
        num_layers=1, hidden_dim=8, num_heads=2, intermediate_dim=8, norm_first=True
    )
    with pytest.raises(ValueError, match="come behind; norm_first is True"):
        model.save_pretrained(tmp_path / "no")
