"""ViT as SavedModel and ONNX."""

import keras_genai as kg
from tests.support import conformance, processes
from tests.support.processes import BY_GPT


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
    exceptions=BY_GPT,
)
