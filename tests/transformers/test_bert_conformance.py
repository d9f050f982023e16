"""BERT passes the battery, as it learns hidden words and as a classifier."""

import numpy as np

import keras_genai as kg
from tests.support import conformance

SMALL = {
    "num_layers": 2,
    "hidden_dim": 12,
    "num_heads": 2,
    "max_sequence_length": 10,
    "vocabulary_size": 24,
    "mask_token_id": 3,
    "special_tokens": [0, 1, 2, 3],
    "mask_rate": 0.3,
}
READS = {"generate": "BERT reads texts and writes none: `embed` stands for it."}


def _batch(name, labelled):
    def batch(n):
        tokens = conformance.integers(f"{name}/tokens", (n, 9), 20) + 4
        tokens[::3, 7:] = 0  # padding
        types = (np.arange(9) > 4).astype("int32") + np.zeros_like(tokens)
        labels = conformance.integers(f"{name}/labels", (n,), 2) if labelled else None
        return {"tokens": tokens.astype("int32"), "token_types": types}, labels

    return batch


def _embed(model, seed):
    tokens = conformance.integers(f"bert/{seed}", (conformance.SAMPLES, 9), 20) + 4
    return model.embed(tokens.astype("int32"))


TestPreTraining = conformance.battery(
    "bert",
    lambda: kg.BERT(**SMALL, next_sentence=True, seed=1),
    _batch("bert", True),
    exceptions=READS,
    sample=_embed,
)

TestClassifier = conformance.battery(
    "bert_classifier",
    lambda: kg.BERT(**SMALL, num_classes=2, remat=True, seed=2),
    _batch("bert_classifier", True),
    exceptions=READS,
    sample=_embed,
    variant=True,
)
