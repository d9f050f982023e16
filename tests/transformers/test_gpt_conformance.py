"""Both kinds of GPT pass the battery, and one the checks in other processes."""

import keras

import keras_genai as kg
from tests.support import conformance, processes

V = 23
TINY = {
    "num_layers": 2,
    "hidden_dim": 16,
    "num_heads": 4,
    "vocabulary_size": V,
    "eos_token_id": 0,
}


def tokens(name, length=9):
    return lambda n: (conformance.integers(name, (n, length), V), None)


def fast():
    return {"optimizer": keras.optimizers.Adam(1e-2, global_clipnorm=1.0)}


TestGPT2 = conformance.battery(
    "gpt2",
    lambda: kg.GPT(**TINY, max_sequence_length=10, dropout=0.1, ema_decay=0.9, seed=1),
    tokens("gpt2"),
    compile=fast,
    value_range=(0, V - 1),
    sample_dtype="int32",
)

TestLlama = conformance.battery(
    "llama",
    lambda: kg.GPT(
        **{**TINY, **kg.GPT.LLAMA},
        max_sequence_length=10,
        num_key_value_heads=2,
        pad_token_id=1,
        seed=2,
    ),
    tokens("llama"),
    compile=fast,
    value_range=(0, V - 1),
    sample_dtype="int32",
    variant=True,
)

TestGPTProcesses = processes.battery(
    lambda: kg.GPT(**TINY, max_sequence_length=20, dropout=0.1, ema_decay=0.9, seed=3),
    tokens("gpt processes"),
    compile=lambda: {"optimizer": keras.optimizers.Adam(1e-3)},
    ranges={
        "tokens": (0, V),
        "lengths": (1, 3),
        "temperature": (0.5, 1.5),
        "top_p": (0.5, 1.0),
    },
    sizes=(2, 5),
    methods={
        "score": lambda model, tokens: model.score(tokens),
        "embed": lambda model, tokens, lengths: model.embed(
            [row[:n].tolist() for row, n in zip(tokens, lengths, strict=True)]
        ),
    },
    onnx=("score", "embed", "logits"),  # no converter has the loop over a cache
)
