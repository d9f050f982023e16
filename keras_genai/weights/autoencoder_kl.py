"""AutoencoderKL's weights and configuration, as diffusers stores them."""

from keras_genai.weights import _diffusers, _keys
from keras_genai.weights._keys import FLAG, NUMBER, SIZE

# What diffusers' configuration leaves out has these values there.
KEYS = {
    "in_channels": (3, SIZE),
    "out_channels": (3, SIZE),
    "down_block_types": (["DownEncoderBlock2D"], _keys.list_of(_keys.TEXT)),
    "up_block_types": (["UpDecoderBlock2D"], _keys.list_of(_keys.TEXT)),
    "block_out_channels": ([64], _keys.list_of(SIZE)),
    "layers_per_block": (1, _keys.LAYERS),
    "act_fn": ("silu", _keys.one_of("silu")),
    "latent_channels": (4, SIZE),
    "norm_num_groups": (32, SIZE),
    "sample_size": (32, _diffusers.SIDES),
    "scaling_factor": (0.18215, _keys.POSITIVE),
    "shift_factor": (None, NUMBER | _keys.NULL),
    "latents_mean": (None, _keys.one_of(None)),
    "latents_std": (None, _keys.one_of(None)),
    "force_upcast": (True, FLAG),
    "use_quant_conv": (True, FLAG),
    "use_post_quant_conv": (True, FLAG),
    "mid_block_add_attention": (True, FLAG),
}


def to_config(model):
    """diffusers' `config.json` of a model, a dict."""
    height, width, channels = model.image_shape
    levels = len(model.block_channels)
    return {
        **{key: default for key, (default, _) in KEYS.items()},
        "_class_name": "AutoencoderKL",
        "in_channels": channels,
        "out_channels": channels,
        **_blocks(levels),
        "block_out_channels": list(model.block_channels),
        "layers_per_block": model.layers_per_block,
        "latent_channels": model.latent_channels,
        "norm_num_groups": model.groups,
        "sample_size": _diffusers.sample_size_of(height, width),
        "scaling_factor": model.scaling_factor,
        "shift_factor": model.shift_factor,
        "force_upcast": model.force_upcast,
        "use_quant_conv": model.quant_conv,
        "use_post_quant_conv": model.quant_conv,
        "mid_block_add_attention": model.attention,
    }


def _blocks(levels):
    return {
        key: KEYS[key][0] * levels for key in ("down_block_types", "up_block_types")
    }


def from_config(config, path="config.json", kinds=None):
    """The arguments of `AutoencoderKL` of diffusers' configuration.

    Args:
        config: the content of `config.json`, a dict.
        path: where it came from, for messages.
        kinds: see `_keys.read`.

    Raises:
        ValueError: it is of another class, or asks for what this network has not.
    """
    _diffusers.class_of(config, path, "AutoencoderKL")
    config = _keys.read(config, path, KEYS, kinds, strict=True)
    wanted = {
        "out_channels": config["in_channels"],
        "use_post_quant_conv": config["use_quant_conv"],
        **_blocks(len(config["block_out_channels"])),
    }
    _diffusers.check_values(config, path, wanted)
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
        "force_upcast": config["force_upcast"],
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

    def make(config, path, kinds):
        made = {**from_config(config, path, kinds), **arguments}
        if not {"discriminator_layers", "discriminator_weight"} & set(arguments):
            # It is no part of the file, and small images leave room for less of it.
            made |= cls.discriminator_for(made["image_shape"])
        return cls(**made)

    return _diffusers.load(make, table, source, subfolder, variant)


def save(model, folder, dtype="float32", max_shard_size=None):
    """Writes diffusers' folder; see `AutoencoderKL.save_pretrained`."""
    _diffusers.save(table(model), to_config(model), folder, dtype, max_shard_size)
