"""The translator as SavedModel and ONNX."""

import numpy as np

import keras_genai as kg
from tests.support import conformance, processes
from tests.support.processes import BY_GPT


def _pairs(n):
    tokens = conformance.integers("seq2seq processes", (2, n, 7), 17) + 3
    tokens[:, :, 6] = 2
    source, target = tokens.astype("int32")
    return {"source": source, "target": target}, None


def _padded(model, tokens):
    rows = model.translate(tokens, max_length=model.max_sequence_length - 1)
    made = np.full((len(rows), model.max_sequence_length), model.pad_token_id, "int32")
    made[:, 0] = model.decoder_start_token_id
    for line, row in zip(made, rows, strict=True):
        line[1 : 1 + len(row)] = row
    return made


TestTranslatorProcesses = processes.battery(
    lambda: kg.Translator(
        num_layers=1,
        hidden_dim=8,
        num_heads=2,
        intermediate_dim=8,
        vocabulary_size=20,
        max_sequence_length=8,
        pad_token_id=0,
        decoder_start_token_id=1,
        eos_token_id=2,
        seed=1,
    ),
    _pairs,
    sample=lambda model, seed: _padded(model, _pairs(4)[0]["source"]),
    ranges=dict.fromkeys(("tokens", "source", "target"), (3, 20)),
    sizes=(2, 4),
    methods={
        "translate": _padded,
        "score": lambda model, source, target: model.score(source, target),
    },
    onnx=("score",),  # the loop: a SavedModel alone
    exceptions=BY_GPT,
)
