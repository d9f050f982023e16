"""UNet's weights and configuration, as diffusers stores them.

A network without a context is a `UNet2DModel` there, one with a context a
`UNet2DConditionModel`.
"""

from keras_genai.weights import _diffusers, _keys
from keras_genai.weights._keys import COUNT, FLAG, LAYERS, NULL, SIZE, TEXT

PLAIN, CONDITIONAL = "UNet2DModel", "UNet2DConditionModel"

# What diffusers' configuration leaves out has these values there. The keys of the
# first part become arguments of ours; those of the second must have these values.
COMMON = {
    "sample_size": None,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "layers_per_block": 2,
    "downsample_padding": 1,
    "dropout": 0.0,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "attention_head_dim": 8,
    "resnet_time_scale_shift": "default",
    "class_embed_type": None,
    "num_class_embeds": None,
}
ARGUMENTS = {
    PLAIN: {
        **COMMON,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": [224, 448, 672, 896],
        "down_block_types": ["DownBlock2D", *["AttnDownBlock2D"] * 3],
        "up_block_types": [*["AttnUpBlock2D"] * 3, "UpBlock2D"],
        "add_attention": True,
        "attn_norm_num_groups": None,
    },
    CONDITIONAL: {
        **COMMON,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [320, 640, 1280, 1280],
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
        "cross_attention_dim": 1280,
        "transformer_layers_per_block": 1,
        "use_linear_projection": False,
        "upcast_attention": False,
        "projection_class_embeddings_input_dim": None,
    },
}
FIXED_COMMON = {
    "act_fn": "silu",
    "center_input_sample": False,
    "mid_block_scale_factor": 1,
    "time_embedding_dim": None,
    "time_embedding_type": "positional",
}
FIXED = {
    PLAIN: {
        **FIXED_COMMON,
        "downsample_type": "conv",
        "mid_block_type": "UNetMidBlock2D",
        "upsample_type": "conv",
    },
    CONDITIONAL: {
        **FIXED_COMMON,
        "addition_embed_type": None,
        "attention_type": "default",
        "class_embeddings_concat": False,
        "conv_in_kernel": 3,
        "conv_out_kernel": 3,
        "cross_attention_norm": None,
        "dual_cross_attention": False,
        "encoder_hid_dim": None,
        "encoder_hid_dim_type": None,
        "mid_block_only_cross_attention": None,
        "mid_block_type": "UNetMidBlock2DCrossAttn",
        "num_attention_heads": None,
        "only_cross_attention": False,
        "resnet_out_scale_factor": 1.0,
        "resnet_skip_time_act": False,
        "reverse_transformer_layers_per_block": None,
        "time_cond_proj_dim": None,
        "time_embedding_act_fn": None,
        "timestep_post_act": None,
    },
}
# What the keys of the first part may hold.
KINDS = {
    "sample_size": _diffusers.SIDES | NULL,
    "flip_sin_to_cos": FLAG,
    "freq_shift": _keys.NUMBER,
    "layers_per_block": LAYERS,
    "downsample_padding": _keys.one_of(0, 1),
    "dropout": _keys.RATE,
    "norm_num_groups": SIZE,
    "norm_eps": _keys.POSITIVE,
    "attention_head_dim": SIZE | _keys.list_of(SIZE) | NULL,
    "resnet_time_scale_shift": _keys.one_of("default", "scale_shift"),
    "class_embed_type": NULL,
    "num_class_embeds": SIZE | NULL,
    "in_channels": SIZE,
    "out_channels": SIZE,
    "block_out_channels": _keys.list_of(SIZE),
    "down_block_types": _keys.list_of(TEXT),
    "up_block_types": _keys.list_of(TEXT),
    "add_attention": FLAG,
    "attn_norm_num_groups": SIZE | NULL,
    "cross_attention_dim": SIZE,
    "transformer_layers_per_block": LAYERS | _keys.list_of(LAYERS),
    "use_linear_projection": FLAG,
    "upcast_attention": FLAG,
    "projection_class_embeddings_input_dim": SIZE | NULL,
}
CONDITIONAL_KINDS = {
    **KINDS,
    "class_embed_type": _keys.one_of(None, "projection"),
    "attention_head_dim": SIZE | _keys.list_of(SIZE),
}
# Other values that say the same as those of the second part.
SAME = {"act_fn": "swish", "mid_block_only_cross_attention": False}
# Of no effect where the keys above have their values.
IDLE = {
    PLAIN: {"num_train_timesteps": None},
    CONDITIONAL: {"addition_embed_type_num_heads": 64, "addition_time_embed_dim": None},
}
PREFIX = {PLAIN: "Attn", CONDITIONAL: "CrossAttn"}


def class_of(model):
    """The name of diffusers' class for a model."""
    return PLAIN if model.context_dim is None else CONDITIONAL


def to_config(model):
    """diffusers' `config.json` of a model, a dict.

    Raises:
        ValueError: diffusers has no such network.
    """
    name, levels = class_of(model), len(model.block_channels)
    height, width, channels = model.image_shape
    rows = None
    if model.num_classes is not None:
        rows = model.num_classes + model.null_class
    if model.vector_dim is not None and (name == PLAIN or rows is not None):
        raise ValueError(
            "diffusers has no network of a vector beside labels or without a context: "
            "save it as a .keras file, model.save('unet.keras')."
        )
    if name == CONDITIONAL and not model.mid_attention:
        raise ValueError(
            "diffusers has no network of a context without attention in the middle: "
            "save it as a .keras file, model.save('unet.keras')."
        )
    config = {
        "_class_name": name,
        **ARGUMENTS[name],
        **FIXED[name],
        **IDLE[name],
        "in_channels": channels,
        "out_channels": model.out_channels,
        "sample_size": _diffusers.sample_size_of(height, width),
        **_block_types(name, model.attention),
        "block_out_channels": list(model.block_channels),
        "layers_per_block": model.layers_per_block,
        "norm_num_groups": model.groups,
        "norm_eps": model.epsilon,
        "dropout": model.dropout,
        "flip_sin_to_cos": model.flip_sin_to_cos,
        "freq_shift": model.freq_shift,
        "downsample_padding": int(model.downsample_padding == "before"),
        "resnet_time_scale_shift": "scale_shift"
        if model.time_scale_shift
        else "default",
        "num_class_embeds": rows,
    }
    if rows is not None and model.null_class:
        config["_null_class"] = True  # diffusers passes over such a key
    if name == PLAIN:
        config["add_attention"] = model.mid_attention
        config["attention_head_dim"] = _head_channels(model)
        if model.time_scale_shift:  # without it, the middle's has no normalization
            config["attn_norm_num_groups"] = model.groups
        return config
    num_heads = [max(1, model.heads_of(level)) for level in range(levels)]
    depth = model.transformer_layers
    return {
        **config,
        "attention_head_dim": num_heads if len(set(num_heads)) > 1 else num_heads[0],
        "cross_attention_dim": model.context_dim,
        "transformer_layers_per_block": depth if isinstance(depth, int) else [*depth],
        "use_linear_projection": model.linear_projection,
        "upcast_attention": model.upcast_attention,
        "class_embed_type": model.vector_dim and "projection",
        "projection_class_embeddings_input_dim": model.vector_dim,
    }


def _block_types(name, attention):
    """The two lists of names of the levels' blocks."""
    kinds = [PREFIX[name] if attended else "" for attended in attention]
    return {
        "down_block_types": [f"{kind}DownBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpBlock2D" for kind in reversed(kinds)],
    }


def _head_channels(model):
    """The channels of every head, or None where each attention has one head."""
    levels = [level for level, attended in enumerate(model.attention) if attended]
    levels += [len(model.block_channels) - 1] * bool(model.mid_attention)
    num_heads = {level: model.heads_of(level) for level in levels}
    if set(num_heads.values()) <= {1}:
        return None
    sizes = {model.block_channels[level] // n for level, n in num_heads.items()}
    if len(sizes) > 1:
        raise ValueError(
            "diffusers' UNet2DModel has heads of one size at all levels; these have "
            f"{sorted(sizes)} channels: save it as a .keras file, "
            "model.save('unet.keras')."
        )
    return sizes.pop()


def from_config(config, path="config.json", kinds=None):
    """The arguments of `UNet` of diffusers' configuration.

    Args:
        config: the content of `config.json`, a dict.
        path: where it came from, for messages.
        kinds: see `_keys.read`.

    Raises:
        ValueError: it is of another class, or asks for what this network has not.
    """
    name = _diffusers.class_of(config, path, CONDITIONAL, PLAIN)
    # Lists of one value for all levels say the same as the value.
    given = {key: _one(key, value) for key, value in config.items()}
    config = _keys.read(given, path, _keys_of(name, given), kinds, strict=True)
    width = config["block_out_channels"]
    attention = [kind.startswith(PREFIX[name]) for kind in config["down_block_types"]]
    wanted = _block_types(name, attention)
    if len(attention) != len(width):
        wanted["block_out_channels"] = f"of the length {len(attention)}"
    scale_shift = config["resnet_time_scale_shift"] == "scale_shift"
    if name == PLAIN and config["add_attention"]:
        groups = config["norm_num_groups"]
        if scale_shift or config["attn_norm_num_groups"] is not None:
            wanted["attn_norm_num_groups"] = groups
    _diffusers.check_values(config, path, wanted)
    projected = config["class_embed_type"] == "projection"
    rows = None if projected else config["num_class_embeds"]
    null_class = rows is None or given.get("_null_class") is True
    arguments = {
        "image_shape": (
            *_diffusers.sides_of(config["sample_size"]),
            config["in_channels"],
        ),
        "out_channels": config["out_channels"],
        "block_channels": tuple(width),
        "layers_per_block": config["layers_per_block"],
        "attention": tuple(attention),
        "groups": config["norm_num_groups"],
        "epsilon": config["norm_eps"],
        "dropout": config["dropout"],
        "num_classes": None if rows is None else rows - null_class,
        "null_class": null_class,
        "time_scale_shift": scale_shift,
        "downsample_padding": "before" if config["downsample_padding"] else "after",
        "flip_sin_to_cos": config["flip_sin_to_cos"],
        "freq_shift": config["freq_shift"],
    }
    size = config["attention_head_dim"]
    if name == PLAIN:
        arguments["mid_attention"] = config["add_attention"]
        arguments["head_dim"] = size
        return arguments
    vector_dim = config["projection_class_embeddings_input_dim"]
    return {
        **arguments,
        "num_heads": size,
        "context_dim": config["cross_attention_dim"],
        "vector_dim": vector_dim if projected else None,
        "transformer_layers": config["transformer_layers_per_block"],
        "linear_projection": config["use_linear_projection"],
        "upcast_attention": config["upcast_attention"],
    }


def _keys_of(name, config):
    """The table of a class's keys: see `_keys.read`."""
    kinds = KINDS if name == PLAIN else CONDITIONAL_KINDS
    keys = {key: (default, kinds[key]) for key, default in ARGUMENTS[name].items()}
    for key, value in FIXED[name].items():
        same = [SAME[key]] if key in SAME else []
        if key == "time_embedding_dim":
            width = config.get("block_out_channels", [])
            first = width[0] if isinstance(width, (list, tuple)) and width else None
            same = [4 * first] if COUNT.fits(first) else []
        keys[key] = value, _keys.one_of(value, *same)
    idle = COUNT | NULL
    return {**keys, **{key: (value, idle) for key, value in IDLE[name].items()}}


def _one(key, value):
    """The value that all levels share, where a list holds no other."""
    lists = ("block_out_channels", "down_block_types", "up_block_types", "sample_size")
    if key in lists or not isinstance(value, (list, tuple)) or not value:
        return value
    return value[0] if all(item == value[0] for item in value) else value


def table(model):
    """diffusers' names of the model's variables: a list of `Entry`."""
    table = _diffusers.Table()
    table.convolution("conv_in", model.conv_in)
    for part in ("1", "2"):
        embedding = getattr(model.time_embedding, f"dense{part}")
        table.dense(f"time_embedding.linear_{part}", embedding)
        if model.vector_dim is not None:
            embedding = getattr(model, f"vector_dense{part}")
            table.dense(f"class_embedding.linear_{part}", embedding)
    if model.num_classes is not None:
        table.vector("class_embedding.weight", model.class_embedding.embeddings)

    def attention(name, block):
        if model.context_dim is None:
            return table.attention_2d(name, block)
        return table.cross_attention_2d(name, block, not model.linear_projection)

    for layer in model.layers:
        side, *place = layer.name.split("_")
        if side in ("down", "up"):
            level, kind, *number = place
            name = f"{side}_blocks.{level}"
        elif side == "middle":
            kind, *number = place
            name = "mid_block"
        else:
            continue
        number = number[0] if number else "0"
        if kind == "resnet":
            table.resnet(f"{name}.resnets.{number}", layer)
        elif kind == "attention":
            attention(f"{name}.attentions.{number}", layer)
        else:
            table.convolution(f"{name}.{kind}rs.0.conv", layer.conv)
    table.affine("conv_norm_out", model.norm_out)
    table.convolution("conv_out", model.conv_out)
    return table.entries


def load(cls, source, subfolder=None, variant=None, **arguments):
    """A network of a published folder; see `UNet.from_pretrained`."""

    def make(config, path, kinds):
        return cls(**{**from_config(config, path, kinds), **arguments})

    return _diffusers.load(make, table, source, subfolder, variant)


def save(model, folder, dtype="float32", max_shard_size=None):
    """Writes diffusers' folder; see `UNet.save_pretrained`."""
    _diffusers.save(table(model), to_config(model), folder, dtype, max_shard_size)
