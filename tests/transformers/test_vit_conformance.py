"""ViT passes the battery, as a classifier and as a masked autoencoder."""

import keras_genai as kg
from tests.support import conformance

SMALL = {
    "image_shape": (8, 8, 2),
    "patch_size": 4,
    "num_layers": 2,
    "hidden_dim": 12,
    "num_heads": 2,
}
READS = {"generate": "ViT looks at images and makes none: `embed` stands for it."}


def _batch(name, labelled):
    def batch(n):
        labels = conformance.integers(f"{name}/labels", (n,), 3) if labelled else None
        return conformance.uniform(name, (n, 8, 8, 2)), labels

    return batch


def _embed(model, seed):
    shape = (conformance.SAMPLES, 8, 8, 2)
    return model.embed(conformance.uniform(f"vit/{seed}", shape))


TestClassifier = conformance.battery(
    "vit",
    lambda: kg.ViT(
        **SMALL,
        num_classes=3,
        dropout=0.1,
        attention_dropout=0.1,
        label_smoothing=0.1,
        seed=1,
    ),
    _batch("vit", True),
    exceptions=READS,
    sample=_embed,
)

TestRotary = conformance.battery(
    "vit_rotary",
    lambda: kg.ViT(
        **{**SMALL, "num_heads": 1},
        num_classes=3,
        pooling="mean",
        positions="rotary",
        seed=2,
    ),
    _batch("vit_rotary", True),
    exceptions=READS,
    sample=_embed,
    variant=True,
)

TestMaskedAutoencoder = conformance.battery(
    "vit_mae",
    lambda: kg.ViT(
        **SMALL,
        mae=True,
        positions="sinusoidal",
        mask_ratio=0.5,
        decoder_num_layers=1,
        decoder_hidden_dim=8,
        decoder_num_heads=2,
        seed=3,
    ),
    _batch("vit_mae", False),
    exceptions=READS,
    sample=_embed,
)
