"""BERT, ViT and the translator on devices and as SavedModels."""

import numpy as np

import keras_genai as kg
from tests.support import conformance, processes

TOKENS = {
    "tokens": (4, 20),
    "token_types": (0, 2),
    "mask": (1, 2),
    "source": (3, 20),
    "target": (3, 20),
}
# GPT does these for all transformers.
ELSEWHERE = {
    "killed": "GPT is killed for all transformers.",
    "devices": "GPT is trained on devices for all transformers.",
}


def _sentences(n):
    tokens = conformance.integers("bert processes", (n, 8), 16) + 4
    labels = conformance.integers("bert processes/labels", (n,), 2)
    return tokens.astype("int32"), labels


TestBERTProcesses = processes.battery(
    lambda: kg.BERT(
        num_layers=1,
        hidden_dim=8,
        num_heads=2,
        max_sequence_length=8,
        vocabulary_size=20,
        mask_token_id=3,
        special_tokens=[0, 1, 2, 3],
        next_sentence=True,
        mask_rate=0.3,
        seed=1,
    ),
    _sentences,
    ranges=TOKENS,
    sample=lambda model, seed: model.embed(_sentences(4)[0]),
    sizes=(2, 4),
    methods={
        "embed": lambda model, tokens, token_types, mask: model.embed(
            {"tokens": tokens, "token_types": token_types, "mask": mask}
        ),
        "hidden_dim": lambda model, tokens, token_types, mask: model(
            tokens, token_types, mask
        ),
    },
    exceptions=ELSEWHERE,
)


def _images(n):
    labels = conformance.integers("vit processes/labels", (n,), 3)
    return conformance.uniform("vit processes", (n, 8, 8, 2)), labels


TestViTProcesses = processes.battery(
    lambda: kg.ViT(
        (8, 8, 2),
        patch_size=4,
        num_layers=1,
        hidden_dim=8,
        num_heads=2,
        num_classes=3,
        dropout=0.1,
        seed=1,
    ),
    _images,
    sample=lambda model, seed: model.embed(_images(4)[0]),
    sizes=(2, 4),
    methods={
        "logits": lambda model, images: model(images),
        "embed": lambda model, images: model.embed(images),
    },
    exceptions=ELSEWHERE,
)


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
    ranges=TOKENS,
    sizes=(2, 4),
    methods={
        "translate": _padded,
        "score": lambda model, source, target: model.score(source, target),
    },
    onnx=("score",),  # the loop: a SavedModel alone
    exceptions=ELSEWHERE,
)
