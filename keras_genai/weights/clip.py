"""CLIP's and SigLIP's weights and configurations, as transformers stores them.

A folder of a whole model, or of a tower alone; OpenCLIP's are `_open_clip`'s.
"""

import warnings

from keras_genai.backend.precision import dtype_policy
from keras_genai.utils.files import reading
from keras_genai.weights import _keys, _open_clip, _transformers, _writing
from keras_genai.weights import _safetensors as st
from keras_genai.weights._diffusers import SIDES, sides_of
from keras_genai.weights._keys import FLAG, NULL, NUMBER, OBJECT, POSITIVE, RATE, SIZE
from keras_genai.weights._table import Table

TOKENIZER = ("tokenizer.json", "vocab.json", "spiece.model")  # one of these files
PREPROCESSOR = "preprocessor_config.json"
BICUBIC = 3  # Pillow's number
ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
}
# Where `eos_token_id` says so, the vector is taken at the largest id, whatever it is:
# OpenAI's own repositories say 2, which is none of their end tokens.
LARGEST = 2
SIZES = {  # key -> argument
    "hidden_size": "hidden_dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "intermediate_size": "intermediate_dim",
}
# An absent key has the default of transformers' own class.
TEXT = {
    "vocab_size": (49408, SIZE),
    "hidden_size": (512, SIZE),
    "intermediate_size": (2048, SIZE),
    "num_hidden_layers": (12, _keys.LAYERS),
    "num_attention_heads": (8, SIZE),
    "max_position_embeddings": (77, SIZE),
    "hidden_act": ("quick_gelu", _keys.one_of(*ACTIVATIONS)),
    "layer_norm_eps": (1e-5, POSITIVE),
    "attention_dropout": (0.0, RATE),
    "eos_token_id": (49407, _keys.TOKEN | NULL),
    "pad_token_id": (1, _keys.TOKEN | NULL),
}
VISION = {
    "hidden_size": (768, SIZE),
    "intermediate_size": (3072, SIZE),
    "num_hidden_layers": (12, _keys.LAYERS),
    "num_attention_heads": (12, SIZE),
    "num_channels": (3, SIZE),
    "image_size": (224, SIDES),
    "patch_size": (32, SIDES),
    "hidden_act": ("quick_gelu", _keys.one_of(*ACTIVATIONS)),
    "layer_norm_eps": (1e-5, POSITIVE),
    "attention_dropout": (0.0, RATE),
}
_SIGLIP = {
    "hidden_size": (768, SIZE),
    "intermediate_size": (3072, SIZE),
    "num_attention_heads": (12, SIZE),
    "hidden_act": ("gelu_pytorch_tanh", _keys.one_of(*ACTIVATIONS)),
    "layer_norm_eps": (1e-6, POSITIVE),
}
SIGLIP_TEXT = {
    **TEXT,
    **_SIGLIP,
    "vocab_size": (32000, SIZE),
    "max_position_embeddings": (64, SIZE),
    "projection_size": (None, SIZE | NULL),
}
SIGLIP_VISION = {
    **VISION,
    **_SIGLIP,
    "patch_size": (16, SIDES),
    "vision_use_head": (True, _keys.one_of(True)),
}
CLIP_KEYS = {"projection_dim": (512, SIZE)}
# The classes that a folder may be of: (architecture, part, whether SigLIP's).
CLASSES = {
    "CLIPModel": (None, False),
    "SiglipModel": (None, True),
    "CLIPTextModel": ("text", False),
    "CLIPTextModelWithProjection": ("text", False),
    "SiglipTextModel": ("text", True),
    "CLIPVisionModel": ("image", False),
    "CLIPVisionModelWithProjection": ("image", False),
    "SiglipVisionModel": ("image", True),
}
MODEL_TYPES = {  # where no architecture is said
    "clip": "CLIPModel",
    "siglip": "SiglipModel",
    "clip_text_model": "CLIPTextModel",
    "siglip_text_model": "SiglipTextModel",
    "clip_vision_model": "CLIPVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
}
BLOCK = {  # name in a block of the file -> ours
    "self_attn.q_proj": "self_attention.query",
    "self_attn.k_proj": "self_attention.key",
    "self_attn.v_proj": "self_attention.value",
    "self_attn.out_proj": "self_attention.out",
    "mlp.fc1": "feed_forward.dense1",
    "mlp.fc2": "feed_forward.dense2",
}
NORMS = {"layer_norm1": "norm1", "layer_norm2": "norm2"}
PREFIXES = {"text": "text_model.", "image": "vision_model."}
POSITION_IDS = "embeddings.position_ids"  # counted up, in older files
OF_OPEN_CLIP = ("visual.", "transformer.resblocks.", "text.transformer.")


# Configurations


def kind_of(config, path):
    """`(part, siglip)` of a configuration: see `CLASSES`."""
    model_type = config.get("model_type")
    if not config.get("architectures") and isinstance(model_type, str):
        if model_type in MODEL_TYPES:
            config = {**config, "architectures": [MODEL_TYPES[model_type]]}
        else:
            raise ValueError(
                f"{path} is of the model_type {model_type!r}; CLIP reads "
                f"{', '.join(MODEL_TYPES)}."
            )
    return CLASSES[_transformers.class_of(config, path, *CLASSES)]


def _part_of(config, key, path):
    """A tower's part of a whole configuration; the oldest files have a copy of it."""
    found = {}
    for name in (key, f"{key}_dict"):
        part = config.get(name)
        if part is None:
            continue
        if not isinstance(part, dict):
            _keys.refuse(path, [f"{name} must be {OBJECT.says}"])
        found.update(part)
    return found


def text_arguments(config, path, siglip, names):
    """The arguments of `TextTower` of a `text_config`, but for its projection."""
    keys = SIGLIP_TEXT if siglip else TEXT
    config = _keys.read(config, path, keys, names)
    given = {
        **{own: config[key] for key, own in SIZES.items()},
        "vocabulary_size": config["vocab_size"],
        "max_sequence_length": config["max_position_embeddings"],
        "activation": ACTIVATIONS[config["hidden_act"]],
        "layer_norm_epsilon": config["layer_norm_eps"],
        "attention_dropout": config["attention_dropout"],
        "causal": not siglip,
    }
    if siglip:
        size = config["projection_size"] or config["hidden_size"]
        return given | {
            "pooling": "last",
            "projection_dim": size,
            "projection_bias": True,
        }
    end = config["eos_token_id"]
    if end == LARGEST:
        return given | {"pooling": "largest"}
    size = config["vocab_size"]
    if end is None or not 0 <= end < size:
        warnings.warn(
            f"{path} says eos_token_id={end}, which is not in the vocabulary of "
            f"{size}: no text has an end token at which it is read. Put that of its "
            "tokenizer there.",
            stacklevel=2,
        )
        end = size
    return given | {"pooling": "first_end", "eos_token_id": end}


def image_arguments(config, path, siglip, names):
    """The arguments of `ImageTower` of a `vision_config`, but for its projection."""
    keys = SIGLIP_VISION if siglip else VISION
    config = _keys.read(config, path, keys, names)
    patch, other = sides_of(config["patch_size"])
    if patch != other:
        _keys.refuse(path, [f"patch_size must be square; it is {patch, other}"])
    return {
        **{own: config[key] for key, own in SIZES.items()},
        "image_shape": (*sides_of(config["image_size"]), config["num_channels"]),
        "patch_size": patch,
        "activation": ACTIVATIONS[config["hidden_act"]],
        "layer_norm_epsilon": config["layer_norm_eps"],
        "attention_dropout": config["attention_dropout"],
        "pooling": "attention" if siglip else "token",
        "pre_norm": not siglip,
        "patch_bias": siglip,
    }


def _projection(names, place):
    """Channels of a tower's projection in a file, or None where there is none."""
    kind = names.get(f"{place}_projection.weight")
    return kind[0][0] if kind and len(kind[0]) == 2 else None


def _check_layout(path, names):
    found = sorted(n for n in names if n.startswith(OF_OPEN_CLIP))
    if found:
        raise ValueError(
            f"The weights beside {path} are OpenCLIP's ({found[0]}), not "
            f"transformers'. Name them {_open_clip.WEIGHTS}, put their "
            f"{_open_clip.CONFIG} beside them, and take {path.name} away."
        )


# Names


def text_table(tower, siglip):
    """transformers' names of a text tower: a list of `Entry`."""
    table, network = Table(PREFIXES["text"]), tower.network
    place = "embeddings"
    table.vector(f"{place}.token_embedding.weight", network.embedding.embeddings)
    table.vector(f"{place}.position_embedding.weight", network.position.embeddings)
    _blocks(table, network.blocks)
    table.affine("final_layer_norm", network.norm_last)
    if tower.projection is not None:
        place = "head" if siglip else "text_projection"
        table.dense(place, tower.projection, bare=not siglip)
    return table.entries


def image_table(tower, siglip):
    """transformers' names of an image tower: a list of `Entry`."""
    table, network = Table(PREFIXES["image"]), tower.network
    side, channels = tower.patch_size, tower.image_shape[-1]
    if network.token is not None:
        shape = tuple(network.token.shape)[-1:]
        name = "embeddings.class_embedding"
        table.add(st.reshaped, name, network.token, shape=shape)
    kernel = network.patches.kernel
    name = "embeddings.patch_embedding"
    table.add(st.patches, f"{name}.weight", kernel, side=side, channels=channels)
    if network.patches.use_bias:
        table.vector(f"{name}.bias", network.patches.bias)
    shape = tuple(network.table.shape)[1:]
    name = "embeddings.position_embedding.weight"
    table.add(st.reshaped, name, network.table, shape=shape)
    if network.norm_before is not None:
        table.affine("pre_layrnorm", network.norm_before)  # spelt so
    _blocks(table, network.blocks)
    table.affine("post_layernorm", network.norm)
    if network.attention_pool is not None:
        pool = network.attention_pool
        parts = [getattr(pool.attention, n) for n in ("query", "key", "value")]
        table.vector("head.probe", pool.query)
        kernels = st.Joined(part.kernel for part in parts)
        table.add(st.dense, "head.attention.in_proj_weight", kernels)
        table.vector(
            "head.attention.in_proj_bias", st.Joined(part.bias for part in parts)
        )
        table.dense("head.attention.out_proj", pool.attention.out)
        table.affine("head.layernorm", pool.norm)
        table.dense("head.mlp.fc1", pool.feed_forward.dense1)
        table.dense("head.mlp.fc2", pool.feed_forward.dense2)
    if network.projection is not None and not siglip:
        table.dense("visual_projection", network.projection, bare=True)
    return table.entries


def _blocks(table, blocks):
    for i, block in enumerate(blocks):
        place = f"encoder.layers.{i}"
        table.dense_layers(place, block, BLOCK)
        for name, own in NORMS.items():
            table.affine(f"{place}.{name}", getattr(block, own))


def table(model, names=None):
    """transformers' names of the model's, or of a tower's, variables.

    Args:
        model: `CLIP`, `ImageTower` or `TextTower`.
        names: for the signature that `load_model` calls.

    Returns:
        List of `Entry`.
    """
    del names
    siglip = is_siglip(model)
    if model.weights_part == "text":
        return text_table(model, siglip)
    if model.weights_part == "image":
        return image_table(model, siglip)
    entries = [
        *text_table(model.text_tower, siglip),
        *image_table(model.image_tower, siglip),
    ]
    scalars = {
        "logit_scale": model.scale.logit_scale,
        "logit_bias": model.scale.logit_bias,
    }
    shapes = ((1,), ()) if siglip else ((), (1,))
    for name, variable in scalars.items():
        if variable is not None:
            how = {"shape": shapes[0], "shapes": shapes[1:]}
            entries.append(st.reshaped(name, variable, **how))
    return entries


def is_siglip(model):
    """Whether a model, or a tower, is of SigLIP's layout, not of CLIP's."""
    if model.weights_part is None:
        return model.loss_name == "sigmoid"
    return model.pooling in ("last", "attention")


# Reading


def load(cls, source, subfolder=None, variant=None, **arguments):
    """A model of a published folder; see `CLIP.from_pretrained`."""
    patterns = ("*.json", "*.safetensors", "*.txt", "*.model")
    folder = st.fetch(source, subfolder, patterns)
    if cls.weights_part is None and _open_clip.is_folder(folder):
        return _open_clip.load(cls, folder, **arguments)
    siglip = None

    def make(config, path, names):
        nonlocal siglip
        _check_layout(path, names)
        part, siglip = kind_of(config, path)
        if cls.weights_part is None and part is not None:
            kind = "text" if part == "text" else "image"
            raise ValueError(
                f"{path} is the configuration of the {kind} tower alone: read it by "
                f"kg.clip.{kind.capitalize()}Tower.from_pretrained."
            )
        if part is not None and cls.weights_part != part:
            raise ValueError(f"{path} is the configuration of the other tower.")
        whole = part is None
        with dtype_policy(arguments.get("dtype")):
            if cls.weights_part is None:
                return _clip(cls, config, path, names, siglip, folder, arguments)
            if cls.weights_part == "text":
                given = _part_of(config, "text_config", path) if whole else config
                given = text_arguments(given, path, siglip, names)
                width = _projection(names, "text")
            else:
                given = _part_of(config, "vision_config", path) if whole else config
                given = image_arguments(given, path, siglip, names)
                width = _projection(names, "visual")
            if not siglip:
                given["projection_dim"] = width
            return cls(**{**given, **arguments})

    def ignored(name):
        if name.endswith(POSITION_IDS):
            return True
        others = [p for part, p in PREFIXES.items() if part != cls.weights_part]
        other = {"text": "visual", "image": "text"}.get(cls.weights_part)
        return other is not None and name.startswith(
            (*others, f"{other}_projection.", "logit_")
        )

    return _transformers.load(make, table, folder, None, variant, ignored)


def _clip(cls, config, path, names, siglip, folder, arguments):
    """The `CLIP` of a whole configuration."""
    text = text_arguments(_part_of(config, "text_config", path), path, siglip, names)
    image = image_arguments(
        _part_of(config, "vision_config", path), path, siglip, names
    )
    own = {"loss": "sigmoid" if siglip else "softmax"}
    if siglip:
        own["embed_dim"] = text["projection_dim"]
        if image["hidden_dim"] != own["embed_dim"]:
            wrong = "vision_config's hidden_size must be text_config's projection_size"
            sizes = f"{image['hidden_dim']} and {own['embed_dim']}"
            _keys.refuse(path, [f"{wrong}; they are {sizes}"])
    else:
        width = _keys.read(config, path, CLIP_KEYS, names)["projection_dim"]
        own["embed_dim"] = width
        text["projection_dim"] = image["projection_dim"] = width
    own["mean"], own["std"] = moments(cls, folder, siglip)
    own |= arguments
    if "tokenizer" not in own:
        own["tokenizer"] = _transformers.tokenizer_of(cls, folder, TOKENIZER)
    if own["tokenizer"] is None and "pad_token_id" not in own:
        # CLIP's pad with the end token (`CLIP`'s default), SigLIP's with 1.
        own |= {"pad_token_id": 1} if siglip else {}
    seed = own.get("seed", 0)
    return cls(
        cls.image_tower_class(**image, seed=seed, stream="image", name="image_tower"),
        cls.text_tower_class(**text, seed=seed, stream="text", name="text_tower"),
        **own,
    )


def moments(cls, folder, siglip):
    """Mean and standard deviation of a folder's images, by default the published."""
    mean, std = cls.published_moments["siglip" if siglip else "clip"]
    path = folder / PREPROCESSOR
    if not path.is_file():
        return mean, std
    keys = {
        "image_mean": (list(mean), _keys.list_of(NUMBER)),
        "image_std": (list(std), _keys.list_of(POSITIVE)),
        "do_normalize": (True, FLAG),
    }
    with reading(folder):
        found = _keys.read(st.read_json(path), path, keys, of="CLIP's images")
    if not found["do_normalize"]:  # images in [0, 1], as they are
        return (0.0,) * len(mean), (1.0,) * len(std)
    return tuple(found["image_mean"]), tuple(found["image_std"])


# Writing


@_writing.saved_whole
def save(model, folder, dtype="float32", max_shard_size=None, layout=None):
    """Writes a folder; see `CLIP.save_pretrained`."""
    _writing.check_dtype(dtype)
    if layout == "open_clip":
        _open_clip.save(model, folder, dtype)
    else:
        config = to_config(model)
        _transformers.save(table(model), config, folder, dtype, max_shard_size)
        if model.weights_part is None:
            st.write_json(folder / PREPROCESSOR, preprocessor(model))
    if getattr(model, "tokenizer", None) is not None:
        model.tokenizer.save(folder)


def preprocessor(model):
    """transformers' `preprocessor_config.json` of a model, a dict."""
    height, width = model.image_size
    square = {"height": height, "width": width}
    settings = {
        "do_convert_rgb": None if is_siglip(model) else True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(model.mean),
        "image_processor_type": "SiglipImageProcessor",
        "image_std": list(model.std),
        "resample": BICUBIC,
        "rescale_factor": 1 / 255,
        "size": square,
    }
    if is_siglip(model):
        return settings
    return settings | {
        "crop_size": square,
        "do_center_crop": True,
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": min(height, width)},
    }


def to_config(model):
    """transformers' `config.json` of a model or a tower, a dict.

    Raises:
        ValueError: transformers has no such network.
    """
    siglip, part = is_siglip(model), model.weights_part
    wrong = []
    if part is None:
        towers = model.image_tower, model.text_tower
        kinds = "image", "text"
        for kind, tower in zip(kinds, towers, strict=True):
            if getattr(tower, "weights_part", None) != kind:
                wrong.append(f"its {kind} tower is a {type(tower).__name__}")
        for name in ("image_projection", "text_projection"):
            if getattr(model, name) is not None:
                wrong.append(f"it has the {name} behind a tower")
        if not wrong:
            image, text = (_tower_config(x, siglip, wrong) for x in towers)
    else:
        config = _tower_config(model, siglip, wrong)
    if wrong:
        name = "SigLIP" if siglip else "CLIP"
        raise ValueError(
            f"transformers' {name} is not this network: {'; '.join(wrong)}. Save it by "
            "model.save('clip.keras')"
            + (", or with layout='open_clip'." if part is None else ".")
        )
    prefix = "Siglip" if siglip else "CLIP"
    if part is None:
        width = {} if siglip else {"projection_dim": model.embed_dim}
        return {
            "model_type": prefix.lower(),
            "architectures": [f"{prefix}Model"],
            "text_config": text,
            "vision_config": image,
            **width,
        }
    projected = "" if siglip or not model.projection_dim else "WithProjection"
    kind = "Text" if part == "text" else "Vision"
    return {**config, "architectures": [f"{prefix}{kind}Model{projected}"]}


def _tower_config(tower, siglip, wrong):
    """A tower's configuration; what transformers has not is added to `wrong`."""
    functions = {own: name for name, own in reversed(ACTIVATIONS.items())}
    kind = "text" if tower.weights_part == "text" else "vision"
    config = {
        **{key: getattr(tower, own) for key, own in SIZES.items()},
        "model_type": f"{'siglip' if siglip else 'clip'}_{kind}_model",
        "hidden_act": functions.get(tower.activation),
        "layer_norm_eps": tower.layer_norm_epsilon,
        "attention_dropout": tower.attention_dropout,
    }
    if config["hidden_act"] is None:
        wrong.append(f"activation is {tower.activation!r}")
    if tower.weights_part == "text":
        wanted = {"causal": not siglip, "projection_bias": siglip}
        poolings = ("last",) if siglip else ("first_end", "largest")
        if not tower.projection_dim:
            wanted.pop("projection_bias")
            if siglip:
                wrong.append("projection_dim is None")
        config |= {
            "vocab_size": tower.vocabulary_size,
            "max_position_embeddings": tower.max_sequence_length,
        }
        if siglip:
            config["projection_size"] = tower.projection_dim
        else:
            # It is read wherever a folder is of a class with a projection.
            config["projection_dim"] = tower.projection_dim or tower.hidden_dim
            largest = tower.pooling == "largest"
            config["eos_token_id"] = LARGEST if largest else tower.eos_token_id
            if not largest and tower.eos_token_id == LARGEST:
                wrong.append(
                    f"eos_token_id is {LARGEST}, which stands there for the largest id"
                )
    else:
        wanted = {"pre_norm": not siglip, "patch_bias": siglip}
        poolings = ("attention",) if siglip else ("token",)
        height, width, channels = tower.image_shape
        if height != width:
            wrong.append(f"its images are square; image_shape is {tower.image_shape}")
        if siglip and tower.projection_dim:
            wrong.append(f"projection_dim is {tower.projection_dim}")
        config |= {
            "image_size": height,
            "patch_size": tower.patch_size,
            "num_channels": channels,
        }
        if not siglip:
            config["projection_dim"] = tower.projection_dim or tower.hidden_dim
    if tower.pooling not in poolings:
        wrong.append(f"the {kind} tower's pooling is {tower.pooling!r}")
    for name, value in wanted.items():
        if getattr(tower, name) != value:
            wrong.append(f"the {kind} tower's {name} is {getattr(tower, name)!r}")
    return config
