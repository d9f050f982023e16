"""AutoencoderKL's weights and configuration, as diffusers stores them."""

import pathlib

from keras_genai.weights import _safetensors as st

STEM = "diffusion_pytorch_model"

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
NAMES = {  # old name -> new name of the attention's matrices
    "to_q": "query",
    "to_k": "key",
    "to_v": "value",
    "to_out.0": "proj_attn",
}


def to_config(model):
    """diffusers' `config.json` of a model, a dict."""
    height, width, channels = model.image_shape
    levels = len(model.block_channels)
    return {
        **DEFAULTS,
        "_class_name": "AutoencoderKL",
        "_diffusers_version": "0.42.0",
        "in_channels": channels,
        "out_channels": channels,
        **{key: [name] * levels for key, name in BLOCKS.items()},
        "block_out_channels": list(model.block_channels),
        "layers_per_block": model.layers_per_block,
        "latent_channels": model.latent_channels,
        "norm_num_groups": model.groups,
        "sample_size": height if height == width else [height, width],
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
    name = config.get("_class_name", "AutoencoderKL")
    if name != "AutoencoderKL":
        raise ValueError(f"{path} is the configuration of {name}, not AutoencoderKL.")
    config = {**DEFAULTS, **config}
    levels = len(config["block_out_channels"])
    for key, block in BLOCKS.items():
        config.setdefault(key, [block] * levels)
    known = {*DEFAULTS, *BLOCKS}
    unknown = {k for k in config if k not in known and not k.startswith("_")}
    wrong = [f"{key}={config[key]!r} is not known" for key in sorted(unknown)]
    for key, value in (
        ("act_fn", "silu"),
        ("out_channels", config["in_channels"]),
        ("use_post_quant_conv", config["use_quant_conv"]),
        ("latents_mean", None),
        ("latents_std", None),
        *((key, [block] * levels) for key, block in BLOCKS.items()),
    ):
        got = config[key]
        if (list(got) if isinstance(got, tuple) else got) != value:
            wrong.append(f"{key} must be {value!r}; it is {got!r}")
    if wrong:
        raise ValueError(f"{path} is not of this network: {'; '.join(wrong)}.")
    size = config["sample_size"]
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
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
    entries = []

    def affine(name, layer):
        entries.append(st.vector(f"{name}.weight", layer.gamma))
        entries.append(st.vector(f"{name}.bias", layer.beta))

    def convolution(name, layer):
        entries.append(st.convolution(f"{name}.weight", layer.kernel))
        entries.append(st.vector(f"{name}.bias", layer.bias))

    def resnet(name, block):
        affine(f"{name}.norm1", block.norm1)
        convolution(f"{name}.conv1", block.conv1)
        affine(f"{name}.norm2", block.norm2)
        convolution(f"{name}.conv2", block.conv2)
        if block.shortcut is not None:
            convolution(f"{name}.conv_shortcut", block.shortcut)

    def attention(name, block):
        affine(f"{name}.group_norm", block.norm)
        layers = (block.query, block.key, block.value, block.out)
        for (new, old), layer in zip(NAMES.items(), layers, strict=True):
            aliases = (f"{name}.{old}.weight",)
            entries.append(st.dense(f"{name}.{new}.weight", layer.kernel, aliases))
            aliases = (f"{name}.{old}.bias",)
            entries.append(st.vector(f"{name}.{new}.bias", layer.bias, aliases))

    def network(name, network, side, ends):
        """One of the two; `side` is "down" or "up", `ends` its last part's name."""
        layers = {layer.name: layer for layer in network.layers}
        convolution(f"{name}.conv_in", layers["conv_in"])
        for own, block in layers.items():
            if not own.startswith(f"{side}_"):
                continue
            _, level, kind, *number = own.split("_")
            place = f"{name}.{side}_blocks.{level}"
            if kind == "resnet":
                resnet(f"{place}.resnets.{number[0]}", block)
            else:
                convolution(f"{place}.{ends}.0.conv", block.conv)
        for number in range(2):
            resnet(f"{name}.mid_block.resnets.{number}", layers[f"mid_resnet_{number}"])
        if "mid_attention" in layers:
            attention(f"{name}.mid_block.attentions.0", layers["mid_attention"])
        affine(f"{name}.conv_norm_out", layers["norm_out"])
        convolution(f"{name}.conv_out", layers["conv_out"])

    network("encoder", model.encoder, "down", "downsamplers")
    network("decoder", model.decoder, "up", "upsamplers")
    if model.quant_conv:
        convolution("quant_conv", model.encoder.get_layer("quant_conv"))
        convolution("post_quant_conv", model.decoder.get_layer("post_quant_conv"))
    return entries


def load(cls, source, subfolder=None, variant=None, **arguments):
    """A model of a published folder; see `AutoencoderKL.from_pretrained`."""
    folder = st.fetch(source, subfolder)
    config = folder / "config.json"
    weights = st.find_weights(folder, STEM, variant)
    model = cls(**{**from_config(st.read_json(config), config), **arguments})
    st.load(table(model), weights)
    return model


def save(model, folder, dtype="float32"):
    """Writes diffusers' folder; see `AutoencoderKL.save_pretrained`."""
    st.check_dtype(dtype)
    folder = pathlib.Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; save_pretrained writes a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    st.save(table(model), folder / f"{STEM}.safetensors", dtype)
    st.write_json(folder / "config.json", to_config(model))
