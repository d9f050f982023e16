"""ViT's weights and configuration, as transformers stores them."""

from keras_genai.weights import _safetensors as st
from keras_genai.weights import _transformers

BODY, CLASSIFIER, MAE = "ViTModel", "ViTForImageClassification", "ViTMAEForPreTraining"
DEFAULTS = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "patch_size": 16,
    "num_channels": 3,
}
DECODER = {
    "decoder_num_attention_heads": 16,
    "decoder_hidden_size": 512,
    "decoder_num_hidden_layers": 8,
    "decoder_intermediate_size": 2048,
}
# What this network has not but with these values.
FIXED = {"hidden_act": "gelu", "qkv_bias": True}
LAYERS = {  # name in a block of the file -> ours
    "attention.attention.query": "self_attention.query",
    "attention.attention.key": "self_attention.key",
    "attention.attention.value": "self_attention.value",
    "attention.output.dense": "self_attention.out",
    "intermediate.dense": "feed_forward.dense1",
    "output.dense": "feed_forward.dense2",
}
DECODER_LAYERS = "decoder.decoder_layers"
NEWER = "decoder.decoder_encoder.layer"  # in files of transformers 5


def from_config(config, path, names):
    """The arguments of `ViT` of transformers' configuration.

    Args:
        config: the content of `config.json`, a dict.
        path: where it came from, for messages.
        names: set of the tensors' names: whether there is a pooler.

    Raises:
        ValueError: it is of another class, or asks for what this network has not.
    """
    kind = _transformers.class_of(config, path, BODY, CLASSIFIER, MAE)
    model_type = "vit_mae" if kind == MAE else "vit"
    _transformers.check_config(config, path, {"model_type": model_type, **FIXED})
    config = {**DEFAULTS, **DECODER, **config}
    sizes = _transformers.integers(config, path, *DEFAULTS)
    size = config.get("image_size", 224)
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    names_ = ("hidden", "depth", "heads", "hidden_units", "patch_size")
    given = {
        **dict(zip(names_, sizes, strict=False)),
        "image_shape": (height, width, sizes[-1]),
        "dropout": config.get("hidden_dropout_prob", 0.0),
        "attention_dropout": config.get("attention_probs_dropout_prob", 0.0),
        "epsilon": config.get("layer_norm_eps", 1e-12),
        "pooler": any(name.removeprefix("vit.").startswith("pooler") for name in names),
    }
    if kind == CLASSIFIER:
        labels = config.get("num_labels") or len(config.get("id2label") or "ab")
        given["num_classes"] = labels
    if kind == MAE:
        heads, hidden, depth, units = _transformers.integers(config, path, *DECODER)
        if units != 4 * hidden:
            raise ValueError(
                f"{path} is not of this network: decoder_intermediate_size must be 4 "
                f"times decoder_hidden_size; it is {units} with {hidden}."
            )
        given |= {
            "mae": True,
            "positions": "sinusoidal",
            "decoder_depth": depth,
            "decoder_hidden": hidden,
            "decoder_heads": heads,
            "mask_ratio": config.get("mask_ratio", 0.75),
            "normalized_pixels": config.get("norm_pix_loss", False),
        }
    return given


def to_config(model):
    """transformers' `config.json` of a model, a dict.

    Raises:
        ValueError: transformers has no such network.
    """
    height, width, channels = model.image_shape
    wrong = []
    if height != width:
        wrong.append(f"its images are square; image_shape is {model.image_shape}")
    if model.pooling != "token":
        wrong.append(f"its pooling is 'token', not {model.pooling!r}")
    if model.positions == "rotary" or (model.mae and model.positions == "learned"):
        wanted = "'sinusoidal'" if model.mae else "a table"
        wrong.append(f"its positions are {wanted}, not {model.positions!r}")
    if model.pooler and (model.num_classes or model.mae):
        wrong.append("its pooler has no head behind it")
    if wrong:
        raise ValueError(
            f"transformers' ViT is not this network: {'; '.join(wrong)}. Save it by "
            "model.save('vit.keras')."
        )
    kind = MAE if model.mae else CLASSIFIER if model.num_classes else BODY
    config = {
        **FIXED,
        "model_type": "vit_mae" if model.mae else "vit",
        "architectures": [kind],
        "hidden_size": model.hidden,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.heads,
        "intermediate_size": model.hidden_units,
        "patch_size": model.patch_size,
        "num_channels": channels,
        "image_size": height,
        "hidden_dropout_prob": model.dropout,
        "attention_probs_dropout_prob": model.attention_dropout,
        "layer_norm_eps": model.epsilon,
    }
    if model.num_classes:
        classes = range(model.num_classes)
        config["id2label"] = {str(i): f"LABEL_{i}" for i in classes}
        config["label2id"] = {f"LABEL_{i}": i for i in classes}
    if model.mae:
        config |= {
            "decoder_num_attention_heads": model.decoder_heads,
            "decoder_hidden_size": model.decoder_hidden,
            "decoder_num_hidden_layers": model.decoder_depth,
            "decoder_intermediate_size": 4 * model.decoder_hidden,
            "mask_ratio": model.mask_ratio,
            "norm_pix_loss": model.normalized_pixels,
        }
    return config


def table(model, names=None):
    """transformers' names of the model's variables: a list of `Entry`.

    Args:
        model: a `ViT`.
        names: set of the names in a file that is read, which says how the decoder's
            blocks are called.
    """
    network = model.network
    bare = not (model.num_classes or model.mae)
    table = _transformers.Table("" if bare else "vit.")
    side, channels, hidden = model.patch_size, model.image_shape[-1], model.hidden

    def patches(name, variable, aliases):
        return st.Entry(
            name,
            variable,  # (p * p * C, D)
            (hidden, channels, side, side),
            lambda a: a.transpose(2, 3, 1, 0).reshape(-1, hidden),
            lambda a: a.reshape(side, side, channels, hidden).transpose(3, 2, 0, 1),
            aliases,
        )

    place = "embeddings.patch_embeddings.projection"
    table.vector("embeddings.cls_token", network.token)
    table.vector("embeddings.position_embeddings", network.table)
    table.add(patches, f"{place}.weight", network.patches.kernel)
    table.vector(f"{place}.bias", network.patches.bias)
    for i, block in enumerate(network.blocks):
        _block(table, f"encoder.layer.{i}", block)
    table.affine("layernorm", network.norm)
    if network.pool is not None:
        table.dense("pooler.dense", network.pool)
    if network.head is not None:
        table.dense("classifier", network.head, bare=True)
    if model.mae:
        decoder = model.decoder
        newer = any(name.startswith(NEWER) for name in names or ())
        table.vector("decoder.mask_token", decoder.token, bare=True)
        table.vector("decoder.decoder_pos_embed", decoder.table, bare=True)
        table.dense("decoder.decoder_embed", decoder.embed, bare=True)
        for i, block in enumerate(decoder.blocks):
            _block(table, f"{NEWER if newer else DECODER_LAYERS}.{i}", block, bare=True)
        table.affine("decoder.decoder_norm", decoder.norm, bare=True)
        table.dense("decoder.decoder_pred", decoder.predict, bare=True)
    return table.entries


def _block(table, place, block, bare=False):
    for name, own in LAYERS.items():
        layer = block
        for part in own.split("."):
            layer = getattr(layer, part)
        table.dense(f"{place}.{name}", layer, bare)
    table.affine(f"{place}.layernorm_before", block.norm1, bare)
    table.affine(f"{place}.layernorm_after", block.norm2, bare)


def load(cls, source, subfolder=None, variant=None, **arguments):
    """A model of a published folder; see `ViT.from_pretrained`."""
    shape, classes = arguments.pop("image_shape", None), arguments.pop("num_classes", 0)
    config = {}

    def make(found, path, names):
        config.update(from_config(found, path, names))
        given = {**config, **arguments}
        if classes:
            given["pooler"] = False
        return cls(**given)

    def ignored(name):
        return name.removeprefix("vit.").startswith("pooler.") and bool(classes)

    model = _transformers.load(make, table, source, subfolder, variant, ignored)
    wanted = classes or model.num_classes
    resized = shape is not None and tuple(shape) != model.image_shape
    if wanted == model.num_classes and not resized:
        return model
    if not wanted:
        raise ValueError(
            "Only a classifier is made for another image_shape: give num_classes too. "
            "(Images of another size may be given to any model.)"
        )
    tuned = model.fine_tuned(wanted, shape)
    if wanted == model.num_classes:
        pairs = zip(
            model.network.head.variables, tuned.network.head.variables, strict=True
        )
        for old, new in pairs:
            new.assign(old)
    return tuned


def save(model, folder, dtype="float32", max_shard_size=None):
    """Writes transformers' folder; see `ViT.save_pretrained`."""
    config = to_config(model)
    _transformers.save(table(model), config, folder, dtype, max_shard_size)
