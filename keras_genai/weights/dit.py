"""DiT's weights and configuration, as diffusers stores them."""

import dataclasses

import numpy as np

from keras_genai.weights import _diffusers, _keys
from keras_genai.weights import _safetensors as st

# What diffusers' configuration leaves out has these values there.
DEFAULTS = {
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": None,
    "num_layers": 28,
    "dropout": 0.0,
    "norm_num_groups": 32,
    "attention_bias": True,
    "sample_size": 32,
    "patch_size": 2,
    "activation_fn": "gelu-approximate",
    "num_embeds_ada_norm": 1000,
    "upcast_attention": False,
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-5,
}
# The class that the published files are of, which holds other networks as well.
GENERAL = "Transformer2DModel"
GENERAL_DEFAULTS = {
    **DEFAULTS,
    "attention_head_dim": 88,
    "in_channels": None,
    "num_layers": 1,
    "attention_bias": False,
    "sample_size": None,
    "patch_size": None,
    "activation_fn": "geglu",
    "num_embeds_ada_norm": None,
    "norm_type": "layer_norm",
    "norm_elementwise_affine": True,
}
GENERAL_ONLY = {
    "cross_attention_dim": None,
    "num_vector_embeds": None,
    "use_linear_projection": False,
    "only_cross_attention": False,
    "double_self_attention": False,
    "attention_type": "default",
    "caption_channels": None,
    "interpolation_scale": None,
    "use_additional_conditions": None,
}
# What the keys that become arguments may hold.
SIDE = dataclasses.replace(_diffusers.SIDE, says="an integer")
KINDS = {
    "num_attention_heads": _keys.SIZE,
    "attention_head_dim": _keys.SIZE,
    "in_channels": _keys.SIZE,
    "out_channels": _keys.SIZE | _keys.NULL,
    "num_layers": _keys.LAYERS,
    "norm_num_groups": _keys.ANY,  # of no effect
    "sample_size": SIDE,
    "patch_size": SIDE,
    "num_embeds_ada_norm": _keys.SIZE,
}
# What this network has not but with these values.
FIXED = {
    "dropout": 0.0,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "upcast_attention": False,
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-5,
}


def to_config(model):
    """diffusers' `config.json` of a model, a dict.

    Raises:
        ValueError: diffusers has no such network.
    """
    height, width, channels = model.image_shape
    wrong = []
    if height != width:
        wrong.append(f"its images are square; image_shape is {model.image_shape}")
    if model.num_classes is None:
        wrong.append("it has labels; num_classes is None")
    elif not model.null_class:
        wrong.append("its table has a row for no label; null_class is False")
    if model.freq_shift != 1.0:
        wrong.append(f"its freq_shift is 1; here {model.freq_shift}")
    if wrong:
        raise ValueError(
            f"diffusers' DiTTransformer2DModel is not this network: {'; '.join(wrong)}."
            " Save it by model.save('dit.keras')."
        )
    return {
        **DEFAULTS,
        "_class_name": "DiTTransformer2DModel",
        "num_attention_heads": model.num_heads,
        "attention_head_dim": model.hidden_dim // model.num_heads,
        "in_channels": channels,
        "out_channels": model.out_channels,
        "num_layers": model.num_layers,
        "sample_size": height,
        "patch_size": model.patch_size,
        "num_embeds_ada_norm": model.num_classes,
    }


def from_config(config, path="config.json", kinds=None):
    """The arguments of `DiT` of diffusers' configuration.

    Args:
        config: the content of `config.json`, a dict.
        path: where it came from, for messages.
        kinds: see `_keys.read`.

    Raises:
        ValueError: it is of another class, or asks for what this network has not.
    """
    name = _diffusers.class_of(config, path, "DiTTransformer2DModel", GENERAL)
    defaults, fixed = DEFAULTS, dict(FIXED)
    if name == GENERAL:
        defaults = {**GENERAL_DEFAULTS, **GENERAL_ONLY}
        fixed |= GENERAL_ONLY
    keys = {
        key: (value, KINDS[key] if key in KINDS else _keys.one_of(fixed[key]))
        for key, value in defaults.items()
    }
    scale = "interpolation_scale"  # of the positions, which has no effect at 1
    if name == GENERAL:
        keys[scale] = None, _keys.one_of(None, 1)
    config = _keys.read(config, path, keys, kinds, strict=True)
    if name == GENERAL and config["sample_size"] >= 128 and config[scale] is None:
        # The class then takes sample_size // 64.
        _keys.refuse(path, [f"{scale} must be 1 from a sample_size of 128 on"])
    side, num_heads = config["sample_size"], config["num_attention_heads"]
    return {
        "image_shape": (side, side, config["in_channels"]),
        "patch_size": config["patch_size"],
        "num_layers": config["num_layers"],
        "hidden_dim": num_heads * config["attention_head_dim"],
        "num_heads": num_heads,
        "num_classes": config["num_embeds_ada_norm"],
        "out_channels": config["out_channels"],
    }


def table(model):
    """diffusers' names of the model's variables: a list of `Entry`.

    A shared embedding has an entry for each block's copy.
    """
    table = _diffusers.Table()
    table.add(
        st.patches,
        "pos_embed.proj.weight",
        model.patches.kernel,  # (p * p * C, D)
        side=model.patch_size,
        channels=model.image_shape[-1],
    )
    table.vector("pos_embed.proj.bias", model.patches.bias)
    for i, block in enumerate(model.blocks):
        place = f"transformer_blocks.{i}"
        embedding = f"{place}.norm1.emb"
        condition = model.conditions[0 if model.shared_embedding else i]
        time = f"{embedding}.timestep_embedder"
        table.dense(f"{time}.linear_1", condition.time.dense1)
        table.dense(f"{time}.linear_2", condition.time.dense2)
        if condition.table is not None:
            name = f"{embedding}.class_embedder.embedding_table.weight"
            table.vector(name, condition.table.embeddings)
        table.dense(f"{place}.norm1.linear", block.modulation)
        table.attention(f"{place}.attn1", block.attention)
        table.dense(f"{place}.ff.net.0.proj", block.mlp1)
        table.dense(f"{place}.ff.net.2", block.mlp2)
    table.dense("proj_out_1", model.modulation)
    table.dense("proj_out_2", model.last)
    return table.entries


def embeddings_are_equal(path):
    """Whether all blocks of a file have the same embedding of time and label.

    Args:
        path: a `.safetensors` file or a `.safetensors.index.json`.
    """
    tensors = st.Tensors(path)
    names = [name for name in sorted(tensors.names()) if ".norm1.emb." in name]
    first = {}
    for name, array in tensors.arrays(names):
        part = name.partition(".norm1.emb.")[2]
        if not np.array_equal(array, first.setdefault(part, array)):
            return False
    return True


def load(cls, source, subfolder=None, variant=None, **arguments):
    """A model of a published folder; see `DiT.from_pretrained`."""

    def make(config, path, kinds):
        given = {**from_config(config, path, kinds), **arguments}
        weights = st.find_weights(path.parent, _diffusers.STEM, variant)
        equal = embeddings_are_equal(weights)
        if given.setdefault("shared_embedding", equal) and not equal:
            raise ValueError(
                f"The blocks of {weights} have different embeddings of time and label; "
                "they need shared_embedding=False."
            )
        return cls(**given)

    return _diffusers.load(make, table, source, subfolder, variant)


def save(model, folder, dtype="float32", max_shard_size=None):
    """Writes diffusers' folder; see `DiT.save_pretrained`."""
    _diffusers.save(table(model), to_config(model), folder, dtype, max_shard_size)
