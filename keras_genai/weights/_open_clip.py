"""CLIP's weights and configuration, as OpenCLIP stores them.

`open_clip_config.json` beside `open_clip_model.safetensors`: vision transformers, the
modified ResNet, and its own transformer of texts.
"""

from keras_genai.backend.precision import dtype_policy
from keras_genai.utils.files import reading, written_into
from keras_genai.weights import _keys, _transformers, _writing
from keras_genai.weights import _safetensors as st
from keras_genai.weights._diffusers import SIDES, sides_of
from keras_genai.weights._keys import (
    ANY,
    FLAG,
    NULL,
    NUMBER,
    OBJECT,
    POSITIVE,
    RATE,
    SIZE,
    one_of,
)
from keras_genai.weights._table import Table

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
STEMS = ("open_clip_model", "open_clip_pytorch_model")  # with its ending
TOKENIZER = ("tokenizer.json", "vocab.json")
HEAD, EXPANSION = 64, 32  # channels of a head; of the last stage by the stem's
POOLINGS = {"argmax": "largest", "eos": "first_end", "last": "last"}
# What these networks have not but with these values.
FIXED = {
    "ls_init_value": None,
    "block_type": (None, "default"),
    "qk_norm": False,
    "scaled_cosine_attn": False,
    "scale_heads": False,
    "scale_attn_inner": False,
    "scale_attn": False,
    "scale_fc": False,
    "act_kwargs": None,
    "norm_kwargs": None,
}
MODEL = {
    "embed_dim": (512, SIZE),
    "vision_cfg": ({}, OBJECT),
    "text_cfg": ({}, OBJECT),
    "quick_gelu": (False, FLAG),
    "custom_text": (False, FLAG),
    "init_logit_scale": (None, NUMBER | NULL),
    "init_logit_bias": (None, NUMBER | NULL),
    "nonscalar_logit_scale": (False, FLAG),
}


def _fixed(values):
    """Keys that may hold but one value, or those of a tuple, the first by default."""
    values = {k: v if isinstance(v, tuple) else (v,) for k, v in values.items()}
    return {key: (known[0], one_of(*known)) for key, known in values.items()}


VISION = {
    "layers": (12, _keys.LAYERS | _keys.list_of(_keys.LAYERS, 4)),
    "width": (768, SIZE),
    "head_width": (HEAD, SIZE),
    "mlp_ratio": (4.0, POSITIVE),
    "patch_size": (16, SIDES | NULL),
    "image_size": (224, SIDES),
    "patch_dropout": (0.0, RATE),
    "no_ln_pre": (False, FLAG),
    "final_ln_after_pool": (False, FLAG),  # the same of one token
    "output_tokens": (False, FLAG),
    "timm_model_name": (None, one_of(None)),
    **_fixed({**FIXED, "attentional_pool": False, "pool_type": "tok"}),
    **_fixed({"pos_embed_type": "learnable"}),
}
TEXT = {
    "context_length": (77, SIZE),
    "vocab_size": (49408, SIZE),
    "width": (512, SIZE),
    "heads": (8, SIZE),
    "layers": (12, _keys.LAYERS),
    "mlp_ratio": (4.0, POSITIVE),
    "pad_id": (0, _keys.TOKEN),
    "eos_id": (2, _keys.TOKEN),
    "no_causal_mask": (False, FLAG),
    "final_ln_after_pool": (False, FLAG),
    "pool_type": ("argmax", one_of(*POOLINGS)),
    "proj_type": ("linear", one_of("linear", "none", None)),
    "proj_bias": (False, FLAG),
    "output_tokens": (False, FLAG),
    "hf_model_name": (None, one_of(None)),
    "hf_tokenizer_name": (None, ANY),
    **_fixed({**FIXED, "embed_cls": False}),
}


def is_folder(folder):
    """Whether a folder is OpenCLIP's, and not transformers' as well."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


# Configurations


def from_config(config, path, kinds=None):
    """`(image, text, clip)`: the arguments of the towers and of `CLIP`.

    Args:
        config: the content of the file, a dict.
        path: where it came from, for messages.
        kinds: see `_keys.read`.

    Returns:
        Three dicts; the first has `filters` where the tower is a ResNet.
    """
    both = {"model_cfg": (None, OBJECT), "preprocess_cfg": ({}, OBJECT)}
    config = _keys.read(config, path, both, kinds)
    images = config["preprocess_cfg"]
    config = _keys.read(config["model_cfg"], path, MODEL, kinds)
    vision = _keys.read(config["vision_cfg"], path, VISION, kinds)
    texts = _keys.read(config["text_cfg"], path, TEXT, kinds)
    activation = "quick_gelu" if config["quick_gelu"] else "gelu"
    width = config["embed_dim"]
    sides = sides_of(vision["image_size"])
    image = {"image_shape": (*sides, 3), "projection_dim": width}
    if isinstance(vision["layers"], (list, tuple)):
        image |= {
            "num_layers": tuple(vision["layers"]),
            "filters": vision["width"],
            "num_heads": vision["width"] * EXPANSION // vision["head_width"],
        }
    else:
        image |= _vision(vision, path, activation)
    if vision["patch_dropout"]:
        instead = "no patches are dropped in training"
        _keys.pass_over(path, vision, ["patch_dropout"], instead)
    text = {
        "vocabulary_size": texts["vocab_size"],
        "max_sequence_length": texts["context_length"],
        "num_layers": texts["layers"],
        "hidden_dim": texts["width"],
        "num_heads": texts["heads"],
        "intermediate_dim": int(texts["width"] * texts["mlp_ratio"]),
        "activation": activation,
        "causal": not texts["no_causal_mask"],
        "pooling": POOLINGS[texts["pool_type"]],
        "eos_token_id": texts["eos_id"] if texts["pool_type"] == "eos" else None,
        "projection_dim": width if texts["proj_type"] == "linear" else None,
        "projection_bias": texts["proj_bias"],
    }
    sigmoid = config["init_logit_bias"] is not None
    own = {
        "embed_dim": width,
        "loss": "sigmoid" if sigmoid else "softmax",
        "pad_token_id": texts["pad_id"],
    }
    keys = {key: (None, _keys.list_of(NUMBER, 3) | NULL) for key in ("mean", "std")}
    found = _keys.read(images, path, keys)
    return image, text, own | {k: tuple(v) for k, v in found.items() if v is not None}


def _vision(vision, path, activation):
    """The arguments of an `ImageTower`."""
    if vision["patch_size"] is None:
        _keys.refuse(path, ["patch_size must be an integer; it is None"])
    patch, other = sides_of(vision["patch_size"])
    if patch != other:
        _keys.refuse(path, [f"patch_size must be square; it is {patch, other}"])
    return {
        "patch_size": patch,
        "num_layers": vision["layers"],
        "hidden_dim": vision["width"],
        "num_heads": vision["width"] // vision["head_width"],
        "intermediate_dim": int(vision["width"] * vision["mlp_ratio"]),
        "activation": activation,
        "pre_norm": not vision["no_ln_pre"],
    }


def to_config(model):
    """OpenCLIP's configuration of a model, a dict.

    Raises:
        ValueError: OpenCLIP has no such network.
    """
    image, text = model.image_tower, model.text_tower
    wrong = []
    if not isinstance(text, model.text_tower_class):
        wrong.append(f"its text tower is a {type(text).__name__}")
    classes = (model.image_tower_class, model.resnet_tower_class)
    if not isinstance(image, classes):
        wrong.append(f"its image tower is a {type(image).__name__}")
    for name in ("image_projection", "text_projection"):
        if getattr(model, name) is not None:
            wrong.append(f"it has the {name} behind a tower")
    _refuse(wrong)
    functions = {"quick_gelu", "gelu"}
    resnet = isinstance(image, model.resnet_tower_class)
    used = {text.activation} | (set() if resnet else {image.activation})
    if len(used) > 1 or not used <= functions:
        wrong.append(f"its activation is {' and '.join(sorted(used))}")
    if text.layer_norm_epsilon != 1e-5:
        wrong.append(f"layer_norm_epsilon is {text.layer_norm_epsilon}")
    if len(model.mean) != 3:
        wrong.append(f"its images have 3 channels, not {len(model.mean)}")
    vision = _to_resnet(image) if resnet else _to_vision(image, wrong)
    if text.projection_dim not in (None, model.embed_dim):
        wrong.append(f"projection_dim is {text.projection_dim}")
    _refuse(wrong)
    pools = {own: name for name, own in POOLINGS.items()}
    texts = {
        "context_length": text.max_sequence_length,
        "vocab_size": text.vocabulary_size,
        "width": text.hidden_dim,
        "heads": text.num_heads,
        "layers": text.num_layers,
        "mlp_ratio": _ratio(text),
        "pad_id": model.pad_token_id,
        "pool_type": pools[text.pooling],
        "proj_type": "linear" if text.projection_dim else "none",
    }
    if text.pooling == "first_end":
        texts["eos_id"] = text.eos_token_id
    if not text.causal:
        texts["no_causal_mask"] = True
    if text.projection_bias:
        texts["proj_bias"] = True
    config = {"embed_dim": model.embed_dim, "vision_cfg": vision, "text_cfg": texts}
    if used == {"quick_gelu"}:
        config["quick_gelu"] = True
    if model.scale.logit_bias is not None:
        config |= {"init_logit_bias": float(model.scale.bias)}
    images = {"mean": list(model.mean), "std": list(model.std)}
    return {"model_cfg": config, "preprocess_cfg": images}


def _refuse(wrong):
    if wrong:
        raise ValueError(
            f"OpenCLIP's CLIP is not this network: {'; '.join(wrong)}. Save it by "
            "model.save('clip.keras')."
        )


def _ratio(tower):
    """The `mlp_ratio` of which OpenCLIP makes this tower's width."""
    inside, width = tower.intermediate_dim, tower.hidden_dim
    ratio = inside / width
    # Rounded down there: half a channel more is the same network.
    return ratio if int(width * ratio) == inside else (inside + 0.5) / width


def _to_vision(tower, wrong):
    if tower.pooling != "token" or tower.patch_bias or not tower.projection_dim:
        wrong.append(
            "its image tower has a class token, a projection and no bias of the patches"
        )
    if tower.layer_norm_epsilon != 1e-5:
        wrong.append(f"layer_norm_epsilon is {tower.layer_norm_epsilon}")
    return {
        "image_size": _sides(tower.image_shape),
        "layers": tower.num_layers,
        "width": tower.hidden_dim,
        "head_width": tower.hidden_dim // tower.num_heads,
        "mlp_ratio": _ratio(tower),
        "patch_size": tower.patch_size,
        **({} if tower.pre_norm else {"no_ln_pre": True}),
    }


def _to_resnet(tower):
    return {
        "image_size": _sides(tower.image_shape),
        "layers": list(tower.num_layers),
        "width": tower.filters,
        "head_width": tower.filters * EXPANSION // tower.num_heads,
        "patch_size": None,
    }


def _sides(shape):
    height, width = shape[:2]
    return height if height == width else [height, width]


# Names


def table(model, names=()):
    """OpenCLIP's names of the model's variables: a list of `Entry`.

    Args:
        model: `CLIP`.
        names: those in a file that is read: whether the text tower's have a prefix.
    """
    custom = any(name.startswith("text.") for name in names or ())
    table = Table()
    resnet = isinstance(model.image_tower, model.resnet_tower_class)
    (_resnet if resnet else _image)(table, model.image_tower)
    _text(table, "text." if custom else "", model.text_tower)
    for name in ("logit_scale", "logit_bias"):
        variable = getattr(model.scale, name)
        if variable is not None:
            table.add(st.reshaped, name, variable, shapes=((1,),))
    return table.entries


def _image(table, tower):
    network = tower.network
    if network.token is not None:
        width = tuple(network.token.shape)[-1:]
        name = "visual.class_embedding"
        table.add(st.reshaped, name, network.token, shape=width)
    shape = tuple(network.table.shape)[1:]
    table.add(st.reshaped, "visual.positional_embedding", network.table, shape=shape)
    table.add(
        st.patches,
        "visual.conv1.weight",
        network.patches.kernel,
        side=tower.patch_size,
        channels=tower.image_shape[-1],
    )
    if network.norm_before is not None:
        table.affine("visual.ln_pre", network.norm_before)
    _blocks(table, "visual.transformer", network.blocks)
    table.affine("visual.ln_post", network.norm)
    # It multiplies from the right, as ours.
    table.vector("visual.proj", network.projection.kernel)


def _text(table, prefix, tower):
    network = tower.network
    name = f"{prefix}token_embedding.weight"
    table.vector(name, network.embedding.embeddings)
    table.vector(f"{prefix}positional_embedding", network.position.embeddings)
    _blocks(table, f"{prefix}transformer", network.blocks)
    table.affine(f"{prefix}ln_final", network.norm_last)
    if tower.projection is None:
        return
    if tower.projection_bias:
        table.dense(f"{prefix}text_projection", tower.projection)
    else:
        table.vector(f"{prefix}text_projection", tower.projection.kernel)


def _blocks(table, prefix, blocks):
    for i, block in enumerate(blocks):
        place = f"{prefix}.resblocks.{i}"
        attention = block.self_attention
        parts = [attention.query, attention.key, attention.value]
        table.affine(f"{place}.ln_1", block.norm1)
        kernels = st.Joined(part.kernel for part in parts)
        table.add(st.dense, f"{place}.attn.in_proj_weight", kernels)
        table.vector(
            f"{place}.attn.in_proj_bias", st.Joined(part.bias for part in parts)
        )
        table.dense(f"{place}.attn.out_proj", attention.out)
        table.affine(f"{place}.ln_2", block.norm2)
        table.dense(f"{place}.mlp.c_fc", block.feed_forward.dense1)
        table.dense(f"{place}.mlp.c_proj", block.feed_forward.dense2)


def _resnet(table, tower):
    def normalized(place, layer, own, conv, norm):
        kernel = getattr(layer, f"conv{own}").kernel
        table.add(_convolution, f"{place}.{conv}.weight", kernel)
        _batch_norm(table, f"{place}.{norm}", getattr(layer, f"norm{own}"))

    for i in "123":
        normalized("visual", tower.stem, i, f"conv{i}", f"bn{i}")
    for stage, blocks in enumerate(tower.stages(), 1):
        for number, block in enumerate(blocks):
            place = f"visual.layer{stage}.{number}"
            for i in "123":
                normalized(place, block, i, f"conv{i}", f"bn{i}")
            if block.shortcut:
                # The pooling before it is the first of the three, and named "-1".
                normalized(f"{place}.downsample", block, "_shortcut", "0", "1")
    pool = tower.pooling
    table.vector("visual.attnpool.positional_embedding", pool.table)
    for name, layer in {
        "q_proj": pool.query,
        "k_proj": pool.key,
        "v_proj": pool.value,
        "c_proj": pool.out,
    }.items():
        table.dense(f"visual.attnpool.{name}", layer)


def _convolution(name, variable, aliases=()):
    del aliases
    return st.convolution(name, variable)


def _batch_norm(table, name, layer):
    table.affine(name, layer)
    table.vector(f"{name}.running_mean", layer.moving_mean)
    table.vector(f"{name}.running_var", layer.moving_variance)


# Reading and writing


def load(cls, folder, **arguments):
    """A `CLIP` of OpenCLIP's folder, a path."""
    config = folder / CONFIG
    with reading(folder):
        found = [s for s in STEMS if (folder / f"{s}.safetensors").is_file()]
        path = st.find_weights(folder, found[0] if found else STEMS[0])
        content = st.read_json(config)

        def make(kinds):
            image, text, own = from_config(content, config, kinds)
            own.setdefault("mean", cls.published_moments["clip"][0])
            own.setdefault("std", cls.published_moments["clip"][1])
            own |= arguments
            if "tokenizer" not in own:
                own["tokenizer"] = _transformers.tokenizer_of(cls, folder, TOKENIZER)
            resnet = "filters" in image
            kind = cls.resnet_tower_class if resnet else cls.image_tower_class
            places = {"image": "image_tower", "text": "text_tower"}
            image, text = (
                {**given, "seed": own.get("seed", 0), "stream": s, "name": places[s]}
                for given, s in ((image, "image"), (text, "text"))
            )
            with dtype_policy(own.get("dtype")):
                return cls(kind(**image), cls.text_tower_class(**text), **own)

        return st.load_model(make, table, path, _ignored, config)


def _ignored(name):
    return name.endswith(("num_batches_tracked", "attn_mask"))


def save(model, folder, dtype="float32"):
    """Writes OpenCLIP's folder."""
    config = to_config(model)
    with written_into(folder, CONFIG, ["config.json", "model*.safetensors*"]) as beside:
        _writing.save(table(model), beside / WEIGHTS, dtype)
        st.write_json(beside / CONFIG, config)
