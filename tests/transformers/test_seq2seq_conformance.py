"""The translator passes the battery, its normalizations behind and before."""

import keras
import numpy as np

import keras_genai as kg
from tests.support import conformance

SMALL = {
    "num_layers": 1,
    "hidden_dim": 12,
    "num_heads": 2,
    "intermediate_dim": 16,
    "vocabulary_size": 20,
    "max_sequence_length": 10,
    "pad_token_id": 0,
    "decoder_start_token_id": 1,
    "eos_token_id": 2,
}
READS = {"generate": "`translate` takes sentences, not a number of samples."}


def _tokens(name, n):
    tokens = conformance.integers(f"seq2seq/{name}", (n, 8), 17) + 3
    tokens[:, 7] = 2
    tokens[::3, 5], tokens[::3, 6:] = 2, 0  # padding
    return tokens.astype("int32")


def _batch(n):
    return {name: _tokens(name, n) for name in ("source", "target")}, None


def _translated(model, seed):
    rows = model.translate(_tokens(seed, conformance.SAMPLES), 3, max_length=6)
    padded = np.zeros((len(rows), 6), "int32")
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return padded


TestTranslator = conformance.battery(
    "translator",
    lambda: kg.Translator(**SMALL, seed=1),
    _batch,
    compile=lambda: {
        "optimizer": keras.optimizers.Adam(
            kg.transformers.WarmupSchedule(12, warmup=10), beta_2=0.98, epsilon=1e-9
        )
    },
    exceptions=READS,
    sample=_translated,
    sample_dtype="int32",
)

TestNormFirst = conformance.battery(
    "translator_norm_first",
    lambda: kg.Translator(
        **SMALL,
        norm_first=True,
        activation="swiglu",
        positions="learned",
        dropout=0.0,
        attention_dropout=0.1,
        hidden_dropout=0.1,
        seed=2,
    ),
    _batch,
    exceptions=READS,
    sample=_translated,
    sample_dtype="int32",
    variant=True,
)
