"""BERT, ViT and the translator on devices and as SavedModels."""

import numpy as np

import keras_genai as kg
from tests import conformance, processes

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
        depth=1,
        hidden=8,
        heads=2,
        context=8,
        vocabulary_size=20,
        mask_token=3,
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
        "hidden": lambda model, tokens, token_types, mask: model(
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
        depth=1,
        hidden=8,
        heads=2,
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
    rows = model.translate(tokens, max_length=model.context - 1)
    made = np.full((len(rows), model.context), model.pad_token, "int32")
    made[:, 0] = model.start_token
    for line, row in zip(made, rows, strict=True):
        line[1 : 1 + len(row)] = row
    return made


TestTranslatorProcesses = processes.battery(
    lambda: kg.Translator(
        depth=1,
        hidden=8,
        heads=2,
        hidden_units=8,
        vocabulary_size=20,
        context=8,
        pad_token=0,
        start_token=1,
        stop_token=2,
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
