"""Marian's weights and configuration, as transformers stores them."""

import dataclasses

from keras_genai.weights import _generation, _keys, _transformers, _writing
from keras_genai.weights._keys import NULL, RATE, SIZE, TOKEN
from keras_genai.weights._table import Table

CLASS = "MarianMTModel"
TOKENIZER = ("source.spm",)
ACTIVATIONS = {  # transformers' name -> ours
    "gelu": "gelu",
    "swish": "silu",
    "silu": "silu",
    "relu": "relu",
    "gelu_new": "gelu_tanh",
    "tanh": "tanh",
}
SIZES = {  # key -> argument
    "vocab_size": "vocabulary_size",
    "d_model": "hidden_dim",
    "encoder_layers": "num_layers",
    "encoder_attention_heads": "num_heads",
    "encoder_ffn_dim": "intermediate_dim",
    "decoder_layers": "decoder_num_layers",
    "max_position_embeddings": "max_sequence_length",
}
# What this network has not but with these values; published files say some of them.
FIXED = {
    "model_type": "marian",
    "share_encoder_decoder_embeddings": True,
    "tie_word_embeddings": True,
    "is_encoder_decoder": True,
    "encoder_layerdrop": 0.0,
    "decoder_layerdrop": 0.0,
    "normalize_embedding": False,
    "normalize_before": False,
    "add_final_layer_norm": False,
}
# An absent key has the default of transformers' own class.
KEYS = {
    "vocab_size": (58101, SIZE),
    "d_model": (1024, SIZE),
    "encoder_layers": (12, _keys.LAYERS),
    "encoder_attention_heads": (16, SIZE),
    "encoder_ffn_dim": (4096, SIZE),
    "decoder_layers": (12, _keys.LAYERS),
    "max_position_embeddings": (1024, _keys.COUNT),
    "activation_function": ("gelu", _keys.one_of(*ACTIVATIONS)),
    "scale_embedding": (False, _keys.FLAG),
    "dropout": (0.1, RATE),
    "attention_dropout": (0.0, RATE),
    "activation_dropout": (0.0, RATE),
    "pad_token_id": (58100, TOKEN),
    "decoder_start_token_id": (58100, TOKEN | NULL),
    "eos_token_id": (0, _keys.TOKENS),
    **{key: (value, _keys.one_of(value)) for key, value in FIXED.items()},
    "static_position_embeddings": (True, _keys.one_of(True, None)),
}
ALIASES = {
    "num_attention_heads": "encoder_attention_heads",
    "hidden_size": "d_model",
    "num_hidden_layers": "encoder_layers",
}
# Where the decoder is not the encoder's size, it is another network.
DECODER = {"decoder_attention_heads": 16, "decoder_ffn_dim": 4096}
ATTENTION = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
# In some files beside the weights: fixed sines, copies of what is tied.
BESIDE = (
    "model.encoder.embed_positions.weight",
    "model.decoder.embed_positions.weight",
    "model.encoder.embed_tokens.weight",
    "model.decoder.embed_tokens.weight",
    "lm_head.weight",
)


def from_config(config, path, kinds=None):
    """The arguments of `Translator` of transformers' configuration.

    Args:
        config: the content of `config.json`, a dict.
        path: where it came from, for messages.
        kinds: see `_keys.read`.

    Raises:
        ValueError: it is of another class, or asks for what this network has not.
    """
    _transformers.class_of(config, path, CLASS)
    keys = dict(KEYS)
    for key, default in DECODER.items():
        encoder = key.replace("decoder", "encoder")
        keys[key] = default, _keys.one_of(config.get(encoder, default))
    words = config.get("vocab_size", KEYS["vocab_size"][0])
    keys["decoder_vocab_size"] = None, _keys.one_of(words, None)
    config = _keys.read(config, path, keys, kinds, aliases=ALIASES)
    pad, start = config["pad_token_id"], config["decoder_start_token_id"]
    if start is None or start >= config["vocab_size"] > pad:
        start = pad
    stop = config["eos_token_id"]
    return {
        **{own: config[key] for key, own in SIZES.items()},
        "activation": ACTIVATIONS[config["activation_function"]],
        "layer_norm_epsilon": 1e-5,
        "positions": "sinusoidal_halves",
        "scale_embedding": config["scale_embedding"],
        "logits_bias": True,
        "dropout": config["dropout"],
        "attention_dropout": config["attention_dropout"],
        "hidden_dropout": config["activation_dropout"],
        "pad_token_id": pad,
        "decoder_start_token_id": start,
        "eos_token_id": stop,
    }


def to_config(model):
    """transformers' `config.json` of a model, a dict.

    Raises:
        ValueError: Marian has no such network.
    """
    known = {own: name for name, own in reversed(ACTIVATIONS.items())}
    wrong = []
    if model.norm_first:
        wrong.append("its normalizations come behind; norm_first is True")
    if model.positions != "sinusoidal_halves":
        wrong.append(f"its positions are 'sinusoidal_halves', not {model.positions!r}")
    if model.layer_norm_epsilon != 1e-5:
        wrong.append(f"its layer_norm_epsilon is 1e-5, not {model.layer_norm_epsilon}")
    if model.activation not in known:
        wrong.append(f"it has no {model.activation!r}")
    if wrong:
        raise ValueError(
            f"Marian is not this network: {'; '.join(wrong)}. Save it by "
            "model.save('translator.keras')."
        )
    return {
        **{name: value for name, value in FIXED.items() if name != "model_type"},
        "static_position_embeddings": True,
        "model_type": "marian",
        "architectures": [CLASS],
        "vocab_size": model.vocabulary_size,
        "decoder_vocab_size": model.vocabulary_size,
        "d_model": model.hidden_dim,
        "encoder_layers": model.num_layers,
        "encoder_attention_heads": model.num_heads,
        "encoder_ffn_dim": model.intermediate_dim,
        "decoder_layers": model.decoder_num_layers,
        "decoder_attention_heads": model.num_heads,
        "decoder_ffn_dim": model.intermediate_dim,
        "max_position_embeddings": model.max_sequence_length,
        "activation_function": known[model.activation],
        "scale_embedding": model.scale_embedding,
        "dropout": model.dropout,
        "attention_dropout": model.attention_dropout,
        "activation_dropout": model.hidden_dropout,
        "pad_token_id": model.pad_token_id,
        "decoder_start_token_id": model.decoder_start_token_id,
        "eos_token_id": model.eos_token_id,
        "forced_eos_token_id": model.eos_token_id,
    }


def table(model, names=None):
    """transformers' names of the model's variables: a list of `Entry`."""
    del names
    network = model.network
    table = Table()
    table.vector("model.shared.weight", network.table.embeddings)
    if network.bias is not None:
        table.vector("final_logits_bias", network.bias)
    for side in ("encoder", "decoder"):
        for i, block in enumerate(getattr(network, side)):
            place = f"model.{side}.layers.{i}"
            table.dense_layers(f"{place}.self_attn", block.self_attention, ATTENTION)
            table.affine(f"{place}.self_attn_layer_norm", block.norm1)
            if block.cross:
                cross = block.cross_attention
                table.dense_layers(f"{place}.encoder_attn", cross, ATTENTION)
                table.affine(f"{place}.encoder_attn_layer_norm", block.norm_cross)
            table.dense(f"{place}.fc1", block.feed_forward.dense1)
            table.dense(f"{place}.fc2", block.feed_forward.dense2)
            table.affine(f"{place}.final_layer_norm", block.norm2)
    return table.entries


# The keys of `generation_config.json` that become arguments of `TranslationConfig`.
USUAL = {
    "num_beams": ("num_beams", 1),
    "length_penalty": ("length_penalty", 1.0),
    "early_stopping": ("early_stopping", False),
    "bad_words_ids": ("bad_words_ids", ()),
    "renormalize_logits": ("renormalize", False),
}
FORCED = {
    "forced_bos_token_id": "forced_bos_token_id",
    "forced_eos_token_id": "forced_eos_token_id",
}
LENGTHS = ("max_length", "max_new_tokens")
ENDS = {
    "eos_token_id": "eos_token_id",
    "pad_token_id": "pad_token_id",
    "decoder_start_token_id": "decoder_start_token_id",
}
NEW_TOKENS = 20  # where a file says no length


def _written(given, config, path):
    """How a folder's translator writes: arguments of `Translator`.

    What is left out has transformers' own defaults, which are not those of ours.
    """
    taken = (*USUAL, *FORCED, *LENGTHS, *ENDS)
    said = _generation.read(path.parent, config, path, taken)
    folder, size = path.parent, given["vocabulary_size"]
    usual = {
        own: default if said[key] is None else said[key]
        for key, (own, default) in USUAL.items()
    }
    for key, own in FORCED.items():
        tokens = said[key] if isinstance(said[key], list) else [said[key]]
        if len(tokens) == 1:
            usual[own] = tokens[0]
        else:
            _keys.pass_over(folder, said, [key], "one token can be forced")
    whole, new = (said[key] for key in LENGTHS)
    if new is None:  # the other counts the start
        new = NEW_TOKENS if whole is None else max(1, whole - 1)
    usual["max_length"] = max(1, min(new, given["max_sequence_length"] - 1))
    ends = {
        own: given[own] if said[key] is None else said[key] for key, own in ENDS.items()
    }
    stops = _generation.stops_within(ends["eos_token_id"], size, folder)
    if not stops:
        _keys.refuse(path, [f"eos_token_id must be in [0, {size})"])
    if len(stops) > 1:
        beside = {"eos_token_id": list(stops[1:])}
        _keys.pass_over(folder, beside, beside, f"{stops[0]} alone ends a translation")
    return {**ends, "eos_token_id": stops[0], "generation": usual}


def _to_generation(model):
    """`generation_config.json` of a model."""
    usual = model.generation
    bad_words_ids = (
        [[model.pad_token_id]] if usual.bad_words_ids is None else usual.bad_words_ids
    )
    ours = {
        **dataclasses.asdict(usual),
        "bad_words_ids": [list(words) for words in bad_words_ids] or None,
    }
    return {
        **{key: ours[own] for key, (own, _) in USUAL.items()},
        **{key: ours[own] for key, own in FORCED.items()},
        **{key: getattr(model, own) for key, own in ENDS.items()},
        "max_length": min(
            model.max_sequence_length,
            (usual.max_length or model.max_sequence_length) + 1,
        ),
    }


def load(cls, source, subfolder=None, variant=None, **arguments):
    """A model of a published folder; see `Translator.from_pretrained`."""

    def make(config, path, kinds):
        given = from_config(config, path, kinds)
        given |= _written(given, config, path)
        if "tokenizer" not in arguments:
            given["tokenizer"] = _transformers.tokenizer_of(cls, path.parent, TOKENIZER)
        return cls(**{**given, **arguments})

    return _transformers.load(
        make, table, source, subfolder, variant, lambda name: name in BESIDE
    )


@_writing.saved_whole
def save(model, folder, dtype="float32", max_shard_size=None):
    """Writes transformers' folder; see `Translator.save_pretrained`."""
    _writing.check_dtype(dtype)
    config, entries = to_config(model), table(model)
    if model.network.bias is None:
        raise ValueError("Marian's logits have a bias: make it with logits_bias=True.")
    _transformers.save(entries, config, folder, dtype, max_shard_size)
    _generation.save(folder, _to_generation(model))
    if model.tokenizer is not None:
        model.tokenizer.save(folder)
