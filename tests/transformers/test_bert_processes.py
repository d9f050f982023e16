"""BERT as SavedModel and ONNX."""

import keras_genai as kg
from tests.support import conformance, processes
from tests.support.processes import BY_GPT


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
    ranges={"tokens": (4, 20), "token_types": (0, 2), "mask": (1, 2)},
    sample=lambda model, seed: model.embed(_sentences(4)[0]),
    sizes=(2, 4),
    methods={
        "embed": lambda model, tokens, token_types, mask: model.embed(
            {"tokens": tokens, "token_types": token_types, "mask": mask}
        ),
        "hidden_states": lambda model, tokens, token_types, mask: model(
            tokens, token_types, mask
        ),
    },
    exceptions=BY_GPT,
)
