"""AutoencoderKL's weights and configuration, as diffusers stores them."""

from keras_genai.weights import _diffusers

# What diffusers' configuration leaves out has these values there.
DEFAULTS = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [64],
    "layers_per_block": 1,
    "act_fn": "silu",
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 32,
    "scaling_factor": 0.18215,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
    "force_upcast": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "mid_block_add_attention": True,
}
BLOCKS = {
    "down_block_types": "DownEncoderBlock2D",
    "up_block_types": "UpDecoderBlock2D",
}


def to_config(model):
    """diffusers' `config.json` of a model, a dict."""
    height, width, channels = model.image_shape
    levels = len(model.block_channels)
    return {
        **DEFAULTS,
        "_class_name": "AutoencoderKL",
        "in_channels": channels,
        "out_channels": channels,
        **{key: [name] * levels for key, name in BLOCKS.items()},
        "block_out_channels": list(model.block_channels),
        "layers_per_block": model.layers_per_block,
        "latent_channels": model.latent_channels,
        "norm_num_groups": model.groups,
        "sample_size": _diffusers.sample_size_of(height, width),
        "scaling_factor": model.scaling_factor,
        "shift_factor": model.shift_factor,
        "use_quant_conv": model.quant_conv,
        "use_post_quant_conv": model.quant_conv,
        "mid_block_add_attention": model.attention,
    }


def from_config(config, path="config.json"):
    """The arguments of `AutoencoderKL` of diffusers' configuration.

    Args:
        config: the content of `config.json`, a dict.
        path: where it came from, for messages.

    Raises:
        ValueError: it is of another class, or asks for what this network has not.
    """
    _diffusers.class_of(config, path, "AutoencoderKL")
    levels = len(config.get("block_out_channels", DEFAULTS["block_out_channels"]))
    blocks = {key: [block] * levels for key, block in BLOCKS.items()}
    defaults = {**DEFAULTS, **blocks}
    given, config = config, {**defaults, **config}
    wanted = {
        "act_fn": "silu",
        "out_channels": config["in_channels"],
        "use_post_quant_conv": config["use_quant_conv"],
        "latents_mean": None,
        "latents_std": None,
        **blocks,
    }
    _diffusers.check_config(given, path, defaults, wanted)
    height, width = _diffusers.sides_of(config["sample_size"])
    return {
        "image_shape": (height, width, config["in_channels"]),
        "latent_channels": config["latent_channels"],
        "block_channels": tuple(config["block_out_channels"]),
        "layers_per_block": config["layers_per_block"],
        "groups": config["norm_num_groups"],
        "attention": config["mid_block_add_attention"],
        "quant_conv": config["use_quant_conv"],
        "scaling_factor": config["scaling_factor"],
        "shift_factor": config["shift_factor"],
    }


def table(model):
    """diffusers' names of the model's variables: a list of `Entry`."""
    table = _diffusers.Table()

    def network(name, network, side, ends):
        """One of the two; `side` is "down" or "up", `ends` its last part's name."""
        layers = {layer.name: layer for layer in network.layers}
        table.convolution(f"{name}.conv_in", layers["conv_in"])
        for own, block in layers.items():
            if not own.startswith(f"{side}_"):
                continue
            _, level, kind, *number = own.split("_")
            place = f"{name}.{side}_blocks.{level}"
            if kind == "resnet":
                table.resnet(f"{place}.resnets.{number[0]}", block)
            else:
                table.convolution(f"{place}.{ends}.0.conv", block.conv)
        middle = f"{name}.mid_block"
        for number in range(2):
            table.resnet(f"{middle}.resnets.{number}", layers[f"mid_resnet_{number}"])
        if "mid_attention" in layers:
            table.attention_2d(f"{middle}.attentions.0", layers["mid_attention"])
        table.affine(f"{name}.conv_norm_out", layers["norm_out"])
        table.convolution(f"{name}.conv_out", layers["conv_out"])

    network("encoder", model.encoder, "down", "downsamplers")
    network("decoder", model.decoder, "up", "upsamplers")
    if model.quant_conv:
        for name, part in (
            ("quant_conv", model.encoder),
            ("post_quant_conv", model.decoder),
        ):
            table.convolution(name, part.get_layer(name))
    return table.entries


def load(cls, source, subfolder=None, variant=None, **arguments):
    """A model of a published folder; see `AutoencoderKL.from_pretrained`."""

    def make(config, path):
        made = {**from_config(config, path), **arguments}
        if not {"discriminator_layers", "discriminator_weight"} & set(arguments):
            # It is no part of the file, and small images leave room for less of it.
            made |= cls.discriminator_for(made["image_shape"])
        return cls(**made)

    return _diffusers.load(make, table, source, subfolder, variant)


def save(model, folder, dtype="float32", max_shard_size=None):
    """Writes diffusers' folder; see `AutoencoderKL.save_pretrained`."""
    _diffusers.save(table(model), to_config(model), folder, dtype, max_shard_size)
