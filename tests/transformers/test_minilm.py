"""MiniLM's published weights rank related sentences above unrelated ones."""

import numpy as np
import pytest

import keras_genai as kg
from keras_genai.datasets import _files
from tests.support.conformance import host

RELATED = [
    ("A man is playing a guitar.", "Someone makes music on a string instrument."),
    ("The cat sleeps on the sofa.", "A kitten is napping on the couch."),
    ("Stocks fell sharply on Monday.", "The market dropped at the start of the week."),
    ("He baked bread this morning.", "Fresh loaves came out of his oven today."),
]


@pytest.fixture(scope="module")
def model():
    if not _files.cached_path("minilm").is_file():
        pytest.skip("Not fetched: python tools/fetch_data.py minilm")
    pytest.importorskip("tokenizers")
    pytest.importorskip("safetensors")
    return kg.transformers.minilm()


def test_related_sentences_are_nearer(model):
    first, second = (model.embed([pair[i] for pair in RELATED]) for i in (0, 1))
    cosines = first @ second.T
    related = np.diag(cosines)
    others = cosines[~np.eye(len(RELATED), dtype=bool)]
    assert related.min() > 0.4 and others.max() < 0.3, cosines
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1.0, atol=1e-5)


def test_hidden_states_equal_transformers(model, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    model.save_pretrained(tmp_path)
    network = transformers.AutoModel.from_pretrained(tmp_path).eval()
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    texts = [sentence for pair in RELATED for sentence in pair]
    batch = model.tokenizer.batch(texts)
    given = tokenizer(texts, padding=True, return_tensors="pt")
    np.testing.assert_array_equal(batch["tokens"], given["input_ids"].numpy())
    with torch.no_grad():
        wanted = network(
            input_ids=given["input_ids"], attention_mask=given["attention_mask"]
        ).last_hidden_state.numpy()
    real = batch["mask"][..., None]
    np.testing.assert_allclose(host(model(batch)) * real, wanted * real, atol=1e-4)
