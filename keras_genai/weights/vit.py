"""ViT's weights and configuration, as transformers stores them."""

from keras_genai.weights import _keys, _transformers
from keras_genai.weights import _safetensors as st
from keras_genai.weights._diffusers import SIDES, sides_of
from keras_genai.weights._keys import NULL, RATE, SIZE
from keras_genai.weights._table import Table

BODY, CLASSIFIER, MAE = "ViTModel", "ViTForImageClassification", "ViTMAEForPreTraining"
# What this network has not but with these values.
FIXED = {"hidden_act": "gelu", "qkv_bias": True}
# An absent key has the default of transformers' own class.
SIZES = {  # key -> argument
    "hidden_size": "hidden_dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "intermediate_dim",
}
KEYS = {
    "hidden_size": (768, SIZE),
    "num_hidden_layers": (12, _keys.LAYERS),
    "num_attention_heads": (12, SIZE),
    "intermediate_size": (3072, SIZE),
    "image_size": (224, SIDES),
    "patch_size": (16, SIDES),
    "num_channels": (3, SIZE),
    "hidden_dropout_prob": (0.0, RATE),
    "attention_probs_dropout_prob": (0.0, RATE),
    "layer_norm_eps": (1e-12, _keys.POSITIVE),
    **{key: (value, _keys.one_of(value)) for key, value in FIXED.items()},
}
PLAIN = {
    "model_type": ("vit", _keys.one_of("vit")),
    "pooler_act": ("tanh", _keys.one_of("tanh")),
    "num_labels": (None, SIZE | NULL),
    "id2label": (None, _keys.LABELS | NULL),
}
MASKED = {
    "model_type": ("vit_mae", _keys.one_of("vit_mae")),
    "decoder_num_attention_heads": (16, SIZE),
    "decoder_hidden_size": (512, SIZE),
    "decoder_num_hidden_layers": (8, _keys.LAYERS),
    "decoder_intermediate_size": (2048, SIZE),
    "mask_ratio": (0.75, RATE),
    "norm_pix_loss": (False, _keys.FLAG),
}
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
        names: the tensors' names: whether there is a pooler; a dict of them bounds
            the sizes, see `_keys.read`.

    Raises:
        ValueError: it is of another class, or asks for what this network has not.
    """
    kind = _transformers.class_of(config, path, BODY, CLASSIFIER, MAE)
    keys = {**KEYS, **(MASKED if kind == MAE else PLAIN)}
    if kind == BODY:
        width = config.get("hidden_size", KEYS["hidden_size"][0])
        keys["pooler_output_size"] = None, _keys.one_of(None, width)
    config = _keys.read(config, path, keys, names if isinstance(names, dict) else None)
    patch, other = sides_of(config["patch_size"])
    if patch != other:
        _keys.refuse(path, [f"patch_size must be square; it is {patch, other}"])
    given = {
        **{own: config[key] for key, own in SIZES.items()},
        "patch_size": patch,
        "image_shape": (*sides_of(config["image_size"]), config["num_channels"]),
        "dropout": config["hidden_dropout_prob"],
        "attention_dropout": config["attention_probs_dropout_prob"],
        "layer_norm_epsilon": config["layer_norm_eps"],
        "pooler": any(name.removeprefix("vit.").startswith("pooler") for name in names),
    }
    if kind == CLASSIFIER:
        given["num_classes"] = _transformers.labels(config)
    if kind == MAE:
        hidden_dim = config["decoder_hidden_size"]
        units = config["decoder_intermediate_size"]
        if units != 4 * hidden_dim:
            wrong = "decoder_intermediate_size must be 4 times decoder_hidden_size"
            _keys.refuse(path, [f"{wrong}; it is {units} with {hidden_dim}"])
        given |= {
            "mae": True,
            "positions": "sinusoidal",
            "decoder_num_layers": config["decoder_num_hidden_layers"],
            "decoder_hidden_dim": hidden_dim,
            "decoder_num_heads": config["decoder_num_attention_heads"],
            "mask_ratio": config["mask_ratio"],
            "normalized_pixels": config["norm_pix_loss"],
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
        "hidden_size": model.hidden_dim,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "intermediate_size": model.intermediate_dim,
        "patch_size": model.patch_size,
        "num_channels": channels,
        "image_size": height,
        "hidden_dropout_prob": model.dropout,
        "attention_probs_dropout_prob": model.attention_dropout,
        "layer_norm_eps": model.layer_norm_epsilon,
    }
    if model.num_classes:
        classes = range(model.num_classes)
        config["id2label"] = {str(i): f"LABEL_{i}" for i in classes}
        config["label2id"] = {f"LABEL_{i}": i for i in classes}
    if model.mae:
        config |= {
            "decoder_num_attention_heads": model.decoder_num_heads,
            "decoder_hidden_size": model.decoder_hidden_dim,
            "decoder_num_hidden_layers": model.decoder_num_layers,
            "decoder_intermediate_size": 4 * model.decoder_hidden_dim,
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
    table = Table("" if bare else "vit.")
    place = "embeddings.patch_embeddings.projection"
    table.vector("embeddings.cls_token", network.token)
    table.vector("embeddings.position_embeddings", network.table)
    table.add(
        st.patches,
        f"{place}.weight",
        network.patches.kernel,
        side=model.patch_size,
        channels=model.image_shape[-1],
    )
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
    table.dense_layers(place, block, LAYERS, bare)
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
