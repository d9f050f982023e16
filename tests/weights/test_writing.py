"""Weights in one file or in shards, and what an earlier model left beside them."""

import json
import math

import numpy as np
import pytest

import keras_genai as kg
from keras_genai.weights._writing import bytes_of

pytestmark = pytest.mark.in_turn

TINY = {
    "num_layers": 2,
    "hidden_dim": 16,
    "num_heads": 2,
    "vocabulary_size": 40,
    "max_sequence_length": 8,
}


def assert_same(a, b):
    for one, other in zip(a.get_weights(), b.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_shards_hold_what_one_file_holds(tmp_path):
    pytest.importorskip("safetensors")
    model = kg.GPT(**TINY, seed=1)
    model.save_pretrained(tmp_path, max_shard_size="6KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2 and not (tmp_path / "model.safetensors").exists()
    assert shards[0].name == f"model-00001-of-{len(shards):05}.safetensors"
    assert all(path.stat().st_size < 7500 for path in shards)  # with its header
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {path.name for path in shards}
    total = sum(4 * math.prod(v.shape) for v in model.network.trainable_variables)
    assert index["metadata"]["total_size"] == total
    assert_same(kg.GPT.from_pretrained(tmp_path).network, model.network)
    transformers = pytest.importorskip("transformers")
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path)


def test_nothing_of_an_earlier_model_stays_beside(tmp_path):
    pytest.importorskip("safetensors")
    for seed, size in ((1, "50GB"), (2, 4000), (3, "6KB"), (4, "50GB")):
        model = kg.GPT(**TINY, seed=seed)
        model.save_pretrained(tmp_path, max_shard_size=size)
        assert_same(kg.GPT.from_pretrained(tmp_path).network, model.network)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json", "model.safetensors"}


@pytest.mark.parametrize(
    ("size", "count"), [("5GB", 5 * 10**9), ("200 MB", 2 * 10**8), (1234, 1234)]
)
def test_sizes(size, count):
    assert bytes_of(size) == count


@pytest.mark.once
@pytest.mark.parametrize("size", [0, -1, "", "5 TB", "0GB", 1.5, None])
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match="such as '5GB'"):
        bytes_of(size)
