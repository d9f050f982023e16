"""BERT's folders against transformers': all heads, gradients, both ways."""

import json

import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from keras_genai.weights import bert as weights
from tests.support.conformance import host
from tests.support.parity import gradients_are_equal, same_tensors, shaken

# Reading and writing of files, in NumPy: the networks that they fill are held equal to
# their references and across the backends elsewhere.
pytestmark = pytest.mark.once

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

CLASSES = (
    "BertModel",
    "BertForMaskedLM",
    "BertForPreTraining",
    "BertForSequenceClassification",
)
SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
}


def reference(name, **changes):
    config = transformers.BertConfig(
        **{**SMALL, **changes}, num_labels=3, attn_implementation="eager"
    )
    return shaken(getattr(transformers, name)(config))


def batch():
    draw = np.random.default_rng(0)
    tokens = draw.integers(1, 40, (3, 9)).astype("int32")
    types = (np.arange(9) > 4).astype("int32")[None].repeat(3, axis=0)
    mask = (np.arange(9) < np.array([[9], [6], [7]])).astype("int32")
    return tokens, types, mask


def theirs(network, tokens, types, mask):
    """Hidden states of what is not padding, and the outputs of the heads."""
    given = {"input_ids": tokens, "token_type_ids": types, "attention_mask": mask}
    given = {name: torch.from_numpy(x).long() for name, x in given.items()}
    made = network(**given, output_hidden_states=True)
    seen = torch.from_numpy(mask[..., None].astype("float32"))
    outputs = [made.hidden_states[-1] * seen]
    if hasattr(made, "prediction_logits"):
        outputs += [made.prediction_logits * seen, made.seq_relationship_logits]
    elif hasattr(made, "logits"):
        outputs += [made.logits * seen if made.logits.ndim == 3 else made.logits]
    elif made.get("pooler_output") is not None:
        outputs.append(made.pooler_output)
    return outputs


def ours(model, tokens, types, mask):
    hidden_dim = model(tokens, types, mask)
    seen = ops.convert_to_tensor(mask[..., None].astype("float32"))
    outputs = [hidden_dim * seen]
    if model.mlm:
        outputs.append(model.mlm(hidden_dim) * seen)
    if model.nsp:
        outputs.append(model.nsp(hidden_dim))
    if model.classifier:
        outputs.append(model.classifier(hidden_dim))
    if len(outputs) == 1 and model.pooled:
        outputs.append(model.pooled(hidden_dim))
    return outputs


@pytest.mark.parametrize("name", CLASSES)
def test_outputs_and_gradients_equal_transformers(tmp_path, name):
    network = reference(name)
    network.save_pretrained(tmp_path)
    model = kg.BERT.from_pretrained(tmp_path, dropout=0.0)
    assert bool(model.mlm) == (name in weights.MLM)
    assert bool(model.nsp) == (name in weights.NSP)
    arrays = batch()
    wanted = theirs(network, *arrays)
    found = ours(model, *arrays)
    assert len(found) == len(wanted)
    for got, want in zip(found, wanted, strict=True):
        want = want.detach().numpy()
        assert np.std(want) > 0.1
        np.testing.assert_allclose(host(got), want, atol=1e-4)
    gradients_are_equal(
        lambda: ours(model, *arrays), weights.table(model), wanted, network
    )


@pytest.mark.parametrize("name", CLASSES)
def test_a_round_trip_keeps_every_bit(tmp_path, name):
    network = reference(name)
    network.save_pretrained(tmp_path / "theirs", max_shard_size="10KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").is_file()
    network.save_pretrained(tmp_path / "whole")
    model = kg.BERT.from_pretrained(tmp_path / "theirs")
    model.save_pretrained(tmp_path / "ours")
    same_tensors(tmp_path / "ours", tmp_path / "whole")
    again = getattr(transformers, name).from_pretrained(tmp_path / "ours")
    for key, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    half = tmp_path / "half"
    model.save_pretrained(half, dtype="float16")
    loaded = kg.BERT.from_pretrained(half)
    for a, b in zip(model.variables, loaded.variables, strict=True):
        if "float" in str(a.dtype):
            np.testing.assert_allclose(host(a.value), host(b.value), atol=2e-3)


def test_old_names_copies_and_other_heads(tmp_path):
    """gamma and beta, places counted up, tied copies: as the first files have them."""
    from safetensors.numpy import load_file, save_file

    network = reference("BertForPreTraining")
    network.config.architectures = ["BertForMaskedLM"]
    network.save_pretrained(tmp_path)
    arrays = load_file(tmp_path / "model.safetensors")
    for new, old in (("weight", "gamma"), ("bias", "beta")):
        for key in [k for k in arrays if k.endswith(f"LayerNorm.{new}")]:
            arrays[key.removesuffix(new) + old] = arrays.pop(key)
    arrays["bert.embeddings.position_ids"] = np.arange(12)[None]
    table = arrays["bert.embeddings.word_embeddings.weight"]
    arrays["cls.predictions.decoder.weight"] = table.copy()
    save_file(arrays, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    config["architectures"] = ["BertForMaskedLM"]
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    model = kg.BERT.from_pretrained(tmp_path)
    assert model.nsp and model.mlm
    for got, want in zip(ours(model, *batch()), theirs(network, *batch()), strict=True):
        np.testing.assert_allclose(host(got), want.detach().numpy(), atol=1e-4)
    # A classifier is put on: the body is that of the file, the other heads go.
    classifier = kg.BERT.from_pretrained(tmp_path, num_classes=5)
    assert classifier.mlm is None and classifier.nsp is None
    hidden_dim = classifier(*batch())
    np.testing.assert_allclose(host(hidden_dim), host(model(*batch())), atol=1e-6)
    assert classifier.classifier(hidden_dim).shape == (3, 5)


def test_what_does_not_fit_is_named(tmp_path):
    from safetensors.numpy import load_file, save_file

    network = reference("BertForMaskedLM")
    network.save_pretrained(tmp_path)
    arrays = load_file(tmp_path / "model.safetensors")
    arrays.pop("cls.predictions.transform.dense.bias")
    arrays["bert.encoder.layer.0.output.dense.bias"] = np.zeros(3, "float32")
    arrays["bert.something"] = np.zeros(2, "float32")
    save_file(arrays, tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError,
        match=r"1 missing: cls.predictions.transform.dense.bias \(16,\)\. 1 extra: "
        r"bert.something \(2,\)\. 1 misshapen: bert.encoder.layer.0.output.dense.bias "
        r"is \(3,\), expected \(16,\)",
    ):
        kg.BERT.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(ValueError, match="is a pickle.*'model.safetensors'"):
        kg.BERT.from_pretrained(tmp_path)
    network = reference("BertForMaskedLM", hidden_act="relu")
    network.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="hidden_act must be 'gelu'; it is 'relu'"):
        kg.BERT.from_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    config["architectures"] = ["RobertaModel"]
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    with pytest.raises(ValueError, match="of RobertaModel, not BertModel"):
        kg.BERT.from_pretrained(tmp_path)
