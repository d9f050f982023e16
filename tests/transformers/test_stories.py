"""stories15M's published weights: the logits of a written-out forward, and a story."""

import numpy as np
import pytest

import keras_genai as kg
from keras_genai.datasets import _files
from keras_genai.transformers import llama2c
from tests.support.conformance import host
from tests.weights.test_gpt import forward


@pytest.fixture(scope="module")
def model():
    if not _files.cached_path("stories15m").is_file():
        pytest.skip("Not fetched: python tools/fetch_data.py stories15m")
    pytest.importorskip("tokenizers")
    return kg.transformers.stories15m()


def test_the_logits_of_a_written_out_forward(model, tmp_path):
    path = tmp_path / "llama2.data"
    path.write_bytes(_files.read_cached("stories15m")["data"].tobytes())
    _, arrays, _ = llama2c.read(path)
    tokens = model.tokenizer.encode("Once upon a time, there was a little girl")
    wanted = forward(arrays, tokens)
    np.testing.assert_allclose(host(model(np.array([tokens])))[0], wanted, atol=1e-3)


def test_it_tells_a_story(model):
    story = model.generate("Once upon a time", max_new_tokens=60, temperature=0)
    assert story.startswith("Once upon a time, there was a little girl named Lily.")
    # A coherent text is one that it finds probable: the wrong rotation still babbles.
    loss = -model.score(story).mean()
    assert loss < 1.0
