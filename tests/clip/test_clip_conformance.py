"""CLIP passes the battery: by softmax with several captions, and by sigmoid."""

import numpy as np

import keras_genai as kg
from tests.support import conformance

END, LENGTH = 1, 6
READS = {
    "generate": "CLIP looks at images and texts: `similarity` stands for it.",
    "weighted_evaluate": "A pair's loss depends on the others of its batch.",
    "mixed_float16": "Its first gradients, times 2^15, are over what float16 holds and "
    "are skipped until the scale has fallen: tests/clip/test_clip.py begins lower.",
}


def captions(name, count, several=None):
    """Token ids, of which the last is the end token; of several, some are not there."""
    shape = (count, several or 1, LENGTH)
    tokens = 2 + conformance.integers(f"{name}/tokens", shape, 14)
    tokens[..., -1] = END
    if several is None:
        return tokens[:, 0].astype("int32")
    tokens[::2, 1:] = -1
    tokens[3] = tokens[2, 0]  # equal captions
    return tokens.astype("int32")


def batch(name, several=None):
    def made(n):
        images = conformance.uniform(name, (n, 8, 8, 3))
        return {"images": images, "tokens": captions(name, n, several)}, None

    return made


def similarity(model, seed):
    images = conformance.uniform(f"clip/{seed}", (conformance.SAMPLES, 8, 8, 3))
    return model.similarity(images, captions("clip/sample", 3))


def tiny(pooling="token", **arguments):
    attention = pooling == "attention"
    towers = {"num_layers": 1, "hidden_dim": 12, "num_heads": 2, "seed": 1}
    return kg.CLIP(
        kg.clip.ImageTower(
            (8, 8, 3),
            4,
            **towers,
            pooling=pooling,
            pre_norm=not attention,
            patch_bias=attention,
            projection_dim=None if attention else 8,
            dropout=0.1,
            attention_dropout=0.1,
            stream="image",
            name="image_tower",
        ),
        kg.clip.TextTower(
            16,
            LENGTH,
            **towers,
            causal=not attention,
            pooling="last" if attention else "first_end",
            eos_token_id=END,
            projection_dim=8,
            projection_bias=attention,
            dropout=0.1,
            stream="text",
            name="text_tower",
        ),
        8,
        seed=1,
        **arguments,
    )


TestSoftmax = conformance.battery(
    "clip",
    lambda: tiny(mask_equal_captions=True, mean=(0.5, 0.4, 0.3), layer_decay=0.7),
    batch("clip", several=3),
    exceptions=READS,
    sample=similarity,
)

TestSigmoid = conformance.battery(
    "clip_sigmoid",
    lambda: tiny("attention", loss="sigmoid"),
    batch("clip_sigmoid"),
    exceptions=READS,
    sample=similarity,
    variant=True,
)


def test_the_data_hold_what_the_battery_is_to_see():
    """Images of one caption and of several, and equal captions."""
    tokens = captions("clip", conformance.BATCH, 3)
    counts = (tokens[:, :, 0] >= 0).sum(axis=1)
    assert set(counts) == {1, 3}
    assert np.array_equal(tokens[2, 0], tokens[3, 0])
