"""Tiny networks of every kind that `UNet` makes, and what they are called with."""

import numpy as np

import keras_genai as kg

TINY = {"block_channels": (8, 16), "layers_per_block": 1, "groups": 4}
STABLE = {
    **TINY,
    "image_shape": (8, 12, 4),
    "epsilon": 1e-5,
    "context_dim": 6,
    "downsample_padding": "before",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
}
NETWORKS = {
    "DDPM": {**TINY, "attention": (False, True)},
    "heads, classes, scales": {
        **TINY,
        "out_channels": 6,
        "attention": (True, False),
        "head_dim": 4,
        "num_classes": 3,
        "time_scale_shift": True,
        "epsilon": 1e-5,
        "downsample_padding": "before",
        "flip_sin_to_cos": True,
        "freq_shift": 0,
    },
    "one level, no attention": {
        "block_channels": (8,),
        "layers_per_block": 2,
        "groups": 2,
        "attention": False,
        "mid_attention": False,
    },
    "Stable Diffusion 1": {**STABLE, "attention": (False, True), "num_heads": 2},
    "Stable Diffusion 2, with a vector": {
        **STABLE,
        "attention": (True, False),
        "num_heads": (2, 4),
        "vector_dim": 5,
        "transformer_layers": (1, 2),
        "linear_projection": True,
        "upcast_attention": True,
    },
}


def make(name="DDPM", **kwargs):
    return kg.UNet(**{"image_shape": (8, 12, 3), **NETWORKS[name], **kwargs})


def inputs(model, batch=3):
    """Images, times and the conditions, a dict of NumPy arrays."""
    rng = np.random.default_rng(0)
    values = {
        "x": rng.normal(size=(batch, *model.image_shape)),
        "t": rng.uniform(0, 999, batch),
    }
    if model.context_dim is not None:
        values["context"] = rng.normal(size=(batch, 7, model.context_dim))
    if model.vector_dim is not None:
        values["vector"] = rng.normal(size=(batch, model.vector_dim))
    values = {k: v.astype("float32") for k, v in values.items()}
    if model.num_classes is not None:
        values["labels"] = rng.integers(0, model.num_classes, batch)
    return values
