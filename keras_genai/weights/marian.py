"""Marian's weights and configuration, as transformers stores them."""

from keras_genai.transformers.tokenizers import Tokenizer
from keras_genai.weights import _transformers, _writing

CLASS = "MarianMTModel"
DEFAULTS = {
    "vocab_size": 58101,
    "d_model": 1024,
    "encoder_layers": 12,
    "encoder_attention_heads": 16,
    "encoder_ffn_dim": 4096,
    "decoder_layers": 12,
    "decoder_attention_heads": 16,
    "decoder_ffn_dim": 4096,
    "max_position_embeddings": 1024,
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
    "static_position_embeddings": (True, None),
}
ACTIVATIONS = {  # transformers' name -> ours
    "gelu": "gelu",
    "swish": "silu",
    "silu": "silu",
    "relu": "relu",
    "gelu_new": "gelu_tanh",
    "tanh": "tanh",
}
ATTENTION = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
# In some files beside the weights: fixed sines, copies of what is tied.
BESIDE = (
    "model.encoder.embed_positions.weight",
    "model.decoder.embed_positions.weight",
    "model.encoder.embed_tokens.weight",
    "model.decoder.embed_tokens.weight",
    "lm_head.weight",
)


def from_config(config, path):
    """The arguments of `Translator` of transformers' configuration.

    Args:
        config: the content of `config.json`, a dict.
        path: where it came from, for messages.

    Raises:
        ValueError: it is of another class, or asks for what this network has not.
    """
    _transformers.class_of(config, path, CLASS)
    wanted = dict(FIXED)
    config = {**DEFAULTS, "activation_function": "gelu", **config}
    wanted["activation_function"] = tuple(ACTIVATIONS)
    for own in ("attention_heads", "ffn_dim"):
        wanted[f"decoder_{own}"] = config[f"encoder_{own}"]
    wanted["decoder_vocab_size"] = (config["vocab_size"], None)
    _transformers.check_config(config, path, wanted)
    sizes = _transformers.integers(config, path, *DEFAULTS)
    vocabulary, hidden, depth, heads, units, decoder_depth, _, _, context = sizes
    pad = config.get("pad_token_id", 58100)
    return {
        "vocabulary_size": vocabulary,
        "hidden": hidden,
        "depth": depth,
        "heads": heads,
        "hidden_units": units,
        "decoder_depth": decoder_depth,
        "context": context,
        "activation": ACTIVATIONS[config["activation_function"]],
        "epsilon": 1e-5,
        "positions": "sinusoidal_halves",
        "scale_embedding": config.get("scale_embedding", False),
        "logits_bias": True,
        "dropout": config.get("dropout", 0.1),
        "attention_dropout": config.get("attention_dropout", 0.0),
        "hidden_dropout": config.get("activation_dropout", 0.0),
        "pad_token": pad,
        "start_token": config.get("decoder_start_token_id", pad),
        "stop_token": config.get("eos_token_id", 0),
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
    if model.epsilon != 1e-5:
        wrong.append(f"its epsilon is 1e-5, not {model.epsilon}")
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
        "d_model": model.hidden,
        "encoder_layers": model.depth,
        "encoder_attention_heads": model.heads,
        "encoder_ffn_dim": model.hidden_units,
        "decoder_layers": model.decoder_depth,
        "decoder_attention_heads": model.heads,
        "decoder_ffn_dim": model.hidden_units,
        "max_position_embeddings": model.context,
        "activation_function": known[model.activation],
        "scale_embedding": model.scale_embedding,
        "dropout": model.dropout,
        "attention_dropout": model.attention_dropout,
        "activation_dropout": model.hidden_dropout,
        "pad_token_id": model.pad_token,
        "decoder_start_token_id": model.start_token,
        "eos_token_id": model.stop_token,
        "forced_eos_token_id": model.stop_token,
    }


def table(model, names=None):
    """transformers' names of the model's variables: a list of `Entry`."""
    del names
    network = model.network
    table = _transformers.Table()
    table.vector("model.shared.weight", network.table.embeddings)
    if network.bias is not None:
        table.vector("final_logits_bias", network.bias)
    for side in ("encoder", "decoder"):
        for i, block in enumerate(getattr(network, side)):
            place = f"model.{side}.layers.{i}"
            _attention(table, f"{place}.self_attn", block.self_attention)
            table.affine(f"{place}.self_attn_layer_norm", block.norm1)
            if block.cross:
                _attention(table, f"{place}.encoder_attn", block.cross_attention)
                table.affine(f"{place}.encoder_attn_layer_norm", block.norm_cross)
            table.dense(f"{place}.fc1", block.feed_forward.dense1)
            table.dense(f"{place}.fc2", block.feed_forward.dense2)
            table.affine(f"{place}.final_layer_norm", block.norm2)
    return table.entries


def _attention(table, place, layer):
    for name, own in ATTENTION.items():
        table.dense(f"{place}.{name}", getattr(layer, own))


def load(cls, source, subfolder=None, variant=None, **arguments):
    """A model of a published folder; see `Translator.from_pretrained`."""

    def make(config, path, names):
        del names
        given = from_config(config, path)
        there = (path.parent / "source.spm").is_file()
        if there and "tokenizer" not in arguments:
            given["tokenizer"] = Tokenizer.load(path.parent)
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
    if model.tokenizer is not None:
        model.tokenizer.save(folder)
