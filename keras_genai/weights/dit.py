"""DiT's weights and configuration, as diffusers stores them."""

import pathlib

import numpy as np

from keras_genai.weights import _safetensors as st

STEM = "diffusion_pytorch_model"

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
    if model.frequency_shift != 1.0:
        wrong.append(f"its frequency_shift is 1; here {model.frequency_shift}")
    if wrong:
        raise ValueError(
            f"diffusers' DiTTransformer2DModel is not this network: {'; '.join(wrong)}."
            " Save it by model.save('dit.keras')."
        )
    return {
        **DEFAULTS,
        "_class_name": "DiTTransformer2DModel",
        "_diffusers_version": "0.42.0",
        "num_attention_heads": model.heads,
        "attention_head_dim": model.hidden // model.heads,
        "in_channels": channels,
        "out_channels": model.out_channels,
        "num_layers": model.depth,
        "sample_size": height,
        "patch_size": model.patch_size,
        "num_embeds_ada_norm": model.num_classes,
    }


def from_config(config, path="config.json"):
    """The arguments of `DiT` of diffusers' configuration.

    Args:
        config: the content of `config.json`, a dict.
        path: where it came from, for messages.

    Raises:
        ValueError: it is of another class, or asks for what this network has not.
    """
    name = config.get("_class_name", "DiTTransformer2DModel")
    if name not in ("DiTTransformer2DModel", GENERAL):
        raise ValueError(
            f"{path} is the configuration of {name}, not DiTTransformer2DModel."
        )
    defaults, fixed = DEFAULTS, FIXED
    if name == GENERAL:
        defaults = {**GENERAL_DEFAULTS, **GENERAL_ONLY}
        fixed = {**FIXED, **GENERAL_ONLY}
    config = {**defaults, **config}
    unknown = {k for k in config if k not in defaults and not k.startswith("_")}
    wrong = [f"{key}={config[key]!r} is not known" for key in sorted(unknown)]
    for key, value in fixed.items():
        if config[key] != value:
            wrong.append(f"{key} must be {value!r}; it is {config[key]!r}")
    for key in ("in_channels", "sample_size", "patch_size", "num_embeds_ada_norm"):
        if not isinstance(config[key], int):
            wrong.append(f"{key} must be an integer; it is {config[key]!r}")
    if wrong:
        raise ValueError(f"{path} is not of this network: {'; '.join(wrong)}.")
    side, heads = config["sample_size"], config["num_attention_heads"]
    return {
        "image_shape": (side, side, config["in_channels"]),
        "patch_size": config["patch_size"],
        "depth": config["num_layers"],
        "hidden": heads * config["attention_head_dim"],
        "heads": heads,
        "num_classes": config["num_embeds_ada_norm"],
        "out_channels": config["out_channels"],
    }


def table(model):
    """diffusers' names of the model's variables: a list of `Entry`.

    A shared embedding has an entry for each block's copy.
    """
    entries = []

    def dense(name, layer):
        entries.append(st.dense(f"{name}.weight", layer.kernel))
        entries.append(st.vector(f"{name}.bias", layer.bias))

    side, channels, hidden = model.patch_size, model.image_shape[-1], model.hidden
    entries.append(
        st.Entry(
            "pos_embed.proj.weight",
            model.patches.kernel,  # (p * p * C, D)
            (hidden, channels, side, side),
            lambda a: a.transpose(2, 3, 1, 0).reshape(-1, hidden),
            lambda a: a.reshape(side, side, channels, hidden).transpose(3, 2, 0, 1),
        )
    )
    entries.append(st.vector("pos_embed.proj.bias", model.patches.bias))
    for i, block in enumerate(model.blocks):
        place = f"transformer_blocks.{i}"
        embedding = f"{place}.norm1.emb"
        condition = model.conditions[0 if model.shared_embedding else i]
        dense(f"{embedding}.timestep_embedder.linear_1", condition.time.dense1)
        dense(f"{embedding}.timestep_embedder.linear_2", condition.time.dense2)
        if condition.table is not None:
            rows = condition.table.embeddings
            name = f"{embedding}.class_embedder.embedding_table.weight"
            entries.append(st.vector(name, rows))
        dense(f"{place}.norm1.linear", block.modulation)
        dense(f"{place}.attn1.to_q", block.query)
        dense(f"{place}.attn1.to_k", block.key)
        dense(f"{place}.attn1.to_v", block.value)
        dense(f"{place}.attn1.to_out.0", block.out)
        dense(f"{place}.ff.net.0.proj", block.mlp1)
        dense(f"{place}.ff.net.2", block.mlp2)
    dense("proj_out_1", model.modulation)
    dense("proj_out_2", model.last)
    return entries


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
    folder = st.fetch(source, subfolder)
    config = folder / "config.json"
    weights = st.find_weights(folder, STEM, variant)
    arguments = {**from_config(st.read_json(config), config), **arguments}
    equal = embeddings_are_equal(weights)
    if arguments.setdefault("shared_embedding", equal) and not equal:
        raise ValueError(
            f"The blocks of {weights} have different embeddings of time and label; "
            "they need shared_embedding=False."
        )
    model = cls(**arguments)
    st.load(table(model), weights)
    return model


def save(model, folder, dtype="float32"):
    """Writes diffusers' folder; see `DiT.save_pretrained`."""
    st.check_dtype(dtype)
    config = to_config(model)
    folder = pathlib.Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; save_pretrained writes a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    st.save(table(model), folder / f"{STEM}.safetensors", dtype)
    st.write_json(folder / "config.json", config)
