"""GPT's weights and configuration, as transformers stores GPT-2 and Llama."""

import pathlib

from keras_genai.layers.positions import SCALINGS
from keras_genai.weights import _generation, _keys, _transformers, _writing
from keras_genai.weights import _safetensors as st
from keras_genai.weights._keys import (
    FLAG,
    LAYERS,
    NULL,
    OBJECT,
    POSITIVE,
    RATE,
    SIZE,
    TOKEN,
    TOKENS,
    one_of,
)
from keras_genai.weights._table import Table

GPT2 = ("GPT2LMHeadModel", "GPT2Model")
LLAMA = ("LlamaForCausalLM", "LlamaModel")
TOKENIZER = ("tokenizer.json", "vocab.json", "tokenizer.model")  # one of these files
BARE = ("GPT2Model", "LlamaModel")  # without a head
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu": "gelu", "relu": "relu", "silu": "silu"}
# An absent key has the default of transformers' own class. A tuple of the first part
# becomes an argument; of the second, the network has but these values.
GPT2_SIZES = {  # key -> argument
    "vocab_size": "vocabulary_size",
    "n_positions": "max_sequence_length",
    "n_embd": "hidden_dim",
    "n_layer": "num_layers",
    "n_head": "num_heads",
    "n_inner": "intermediate_dim",
}
GPT2_KEYS = {
    "vocab_size": (50257, SIZE),
    "n_positions": (1024, SIZE),
    "n_embd": (768, SIZE),
    "n_layer": (12, LAYERS),
    "n_head": (12, SIZE),
    "n_inner": (None, SIZE | NULL),
    "activation_function": ("gelu_new", one_of(*ACTIVATIONS)),
    "layer_norm_epsilon": (1e-5, POSITIVE),
    "resid_pdrop": (0.1, RATE),
    "embd_pdrop": (0.1, RATE),
    "attn_pdrop": (0.1, RATE),
    "pad_token_id": (None, TOKEN | NULL),
    "eos_token_id": (50256, TOKENS | NULL),
    "model_type": ("gpt2", one_of("gpt2")),
    "scale_attn_weights": (True, one_of(True)),
    "scale_attn_by_inverse_layer_idx": (False, one_of(False)),
    "reorder_and_upcast_attn": (False, one_of(False, True)),  # but for rounding
    "add_cross_attention": (False, one_of(False)),
    "tie_word_embeddings": (True, one_of(True)),
}
GPT2_ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
LLAMA_LAYERS = {  # name in a block of the file -> ours
    "self_attn.q_proj": "self_attention.query",
    "self_attn.k_proj": "self_attention.key",
    "self_attn.v_proj": "self_attention.value",
    "self_attn.o_proj": "self_attention.out",
    "mlp.gate_proj": "feed_forward.gate",
    "mlp.up_proj": "feed_forward.dense1",
    "mlp.down_proj": "feed_forward.dense2",
}
LLAMA_SIZES = {
    "vocab_size": "vocabulary_size",
    "hidden_size": "hidden_dim",
    "intermediate_size": "intermediate_dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "num_key_value_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "max_position_embeddings": "max_sequence_length",
}
LLAMA_KEYS = {
    "vocab_size": (32000, SIZE),
    "hidden_size": (4096, SIZE),
    "intermediate_size": (11008, SIZE),
    "num_hidden_layers": (32, LAYERS),
    "num_attention_heads": (32, SIZE),
    "num_key_value_heads": (None, SIZE | NULL),
    "head_dim": (None, SIZE | NULL),
    "max_position_embeddings": (2048, _keys.COUNT),
    "rms_norm_eps": (1e-6, POSITIVE),
    "rope_parameters": (None, OBJECT | NULL),
    "rope_scaling": (None, OBJECT | NULL),
    "rope_theta": (10_000.0, POSITIVE),
    "attention_dropout": (0.0, RATE),
    "mlp_bias": (False, FLAG),
    "tie_word_embeddings": (False, FLAG),
    "pad_token_id": (None, TOKEN | NULL),
    "eos_token_id": (2, TOKENS | NULL),
    "model_type": ("llama", one_of("llama")),
    "hidden_act": ("silu", one_of("silu")),
    "rope_interleaved": (False, one_of(False)),
    "partial_rotary_factor": (1.0, one_of(1.0)),
}


def from_config(config, path="config.json", kinds=None):
    """The arguments of `GPT` of transformers' configuration.

    Args:
        config: the content of `config.json`, a dict.
        path: where it came from, for messages.
        kinds: see `_keys.read`.

    Raises:
        ValueError: it is of another class, or asks for what this network has not.
    """
    if _is_llama(config, path):
        return _from_llama(config, path, kinds)
    config = _keys.read(config, path, GPT2_KEYS, kinds, aliases=GPT2_ALIASES)
    if config["embd_pdrop"] != config["resid_pdrop"]:
        _keys.pass_over(path, config, ["embd_pdrop"], "the embeddings have resid_pdrop")
    return {
        **{own: config[key] for key, own in GPT2_SIZES.items()},
        "activation": ACTIVATIONS[config["activation_function"]],
        "layer_norm_epsilon": config["layer_norm_epsilon"],
        "dropout": config["resid_pdrop"],
        "attention_dropout": config["attn_pdrop"],
        "pad_token_id": config["pad_token_id"],
        "eos_token_id": config["eos_token_id"],
    }


def _is_llama(config, path):
    named = config.get("architectures")
    llama = isinstance(named, list) and any(name in LLAMA for name in named)
    kind = config.get("model_type", "llama" if llama else "gpt2")
    names = {"gpt2": GPT2, "llama": LLAMA}
    if not isinstance(kind, str) or kind not in names:
        raise ValueError(
            f"{path} is of the model_type {kind!r}; GPT loads 'gpt2' and 'llama'."
        )
    _transformers.class_of(config, path, *names[kind])
    return kind == "llama"


def _from_llama(config, path, kinds):
    biased = config.get("mlp_bias", False)  # all dense layers alike
    keys = {**LLAMA_KEYS, "attention_bias": (False, one_of(biased))}
    config = _keys.read(config, path, keys, kinds)
    rope_theta, scaling = _rotary(config, path)
    num_heads = config["num_attention_heads"]
    config["num_key_value_heads"] = config["num_key_value_heads"] or num_heads
    config["head_dim"] = config["head_dim"] or config["hidden_size"] // num_heads
    return {
        **{own: config[key] for key, own in LLAMA_SIZES.items()},
        "norm": "rms",
        "positions": "rotary",
        "activation": "swiglu",
        "layer_norm_epsilon": config["rms_norm_eps"],
        "rope_theta": rope_theta,
        "rope_scaling": scaling,
        "use_bias": biased,
        "tie_word_embeddings": config["tie_word_embeddings"],
        "attention_dropout": config["attention_dropout"],
        "pad_token_id": config["pad_token_id"],
        "eos_token_id": config["eos_token_id"],
    }


def _rotary(config, path):
    """Theta, and the scaling of the positions or None."""
    rope = dict(config["rope_parameters"] or config["rope_scaling"] or {})
    rope_theta = rope.pop("rope_theta", config["rope_theta"])
    kind = rope.pop("type", "default")  # the old name
    scaling = {"rope_type": kind, **rope}
    kind = scaling["rope_type"]
    if not isinstance(kind, str) or kind not in ("default", *SCALINGS):
        raise ValueError(
            f"{path}: the rope_type must be 'default' or one of {', '.join(SCALINGS)}; "
            f"got {kind!r}."
        )
    numbers = {**scaling, "rope_theta": rope_theta}
    known = {"rope_theta", "partial_rotary_factor"}.union(*SCALINGS.values())
    _keys.read(numbers, path, dict.fromkeys(known, (1.0, POSITIVE)))
    if scaling.pop("partial_rotary_factor", 1.0) != 1.0:
        _keys.refuse(path, ["partial_rotary_factor must be 1.0"])
    return float(rope_theta), None if kind == "default" else scaling


def to_config(model):
    """transformers' `config.json` of a model, a dict.

    Raises:
        ValueError: transformers has no such network.
    """
    wanted = {"sliding_window": None, "qk_norm": None}
    llama = model.norm == "rms"
    if llama:
        wanted |= {"positions": "rotary", "activation": "swiglu", "dropout": 0.0}
    else:
        wanted |= {"norm": "layer", "positions": "learned", "use_bias": True}
        wanted |= {
            "tie_word_embeddings": True,
            "activation": tuple(ACTIVATIONS.values()),
        }
        if model.head_dim != model.hidden_dim // model.num_heads:
            wanted["head_dim"] = None
        if model.num_key_value_heads != model.num_heads:
            wanted["num_key_value_heads"] = None
    wrong = []
    for name, values in wanted.items():
        got, values = (
            getattr(model, name),
            values if type(values) is tuple else [values],
        )
        if got not in values:
            wrong.append(f"{name} is {got!r}")
    if wrong:
        raise ValueError(
            f"transformers' {'Llama' if llama else 'GPT-2'} is not this network: "
            f"{'; '.join(wrong)}. Save it as a .keras file, model.save('gpt.keras')."
        )
    stop = model.eos_token_id
    stop = list(stop) if isinstance(stop, tuple) else stop
    ends = {"pad_token_id": model.pad_token_id, "eos_token_id": stop}
    if llama:
        return {**_to_llama(model), **ends, "bos_token_id": None}
    functions = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": model.vocabulary_size,
        "n_positions": model.max_sequence_length,
        "n_embd": model.hidden_dim,
        "n_layer": model.num_layers,
        "n_head": model.num_heads,
        "n_inner": model.intermediate_dim,
        "activation_function": functions[model.activation],
        "layer_norm_epsilon": model.layer_norm_epsilon,
        "resid_pdrop": model.dropout,
        "embd_pdrop": model.dropout,
        "attn_pdrop": model.attention_dropout,
        **ends,
        "bos_token_id": stop if isinstance(stop, int) else None,
    }


def _to_llama(model):
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": model.vocabulary_size,
        "max_position_embeddings": model.max_sequence_length,
        "hidden_size": model.hidden_dim,
        "intermediate_size": model.intermediate_dim,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_heads,
        "num_key_value_heads": model.num_key_value_heads or model.num_heads,
        "head_dim": model.head_dim or model.hidden_dim // model.num_heads,
        "hidden_act": "silu",
        "rms_norm_eps": model.layer_norm_epsilon,
        "rope_theta": model.rope_theta,
        "rope_parameters": {
            "rope_theta": model.rope_theta,
            "rope_type": "default",
            **(model.rope_scaling or {}),
        },
        "attention_bias": model.use_bias,
        "mlp_bias": model.use_bias,
        "attention_dropout": model.attention_dropout,
        "tie_word_embeddings": model.tie_word_embeddings,
    }


def table(model, bare=False):
    """transformers' names of the model's variables: a list of `Entry`.

    Args:
        model: a `GPT`.
        bare: whether the file is of a class without a head.
    """
    return (_llama_table if model.norm == "rms" else _gpt2_table)(model, bare)


def _gpt2_table(model, bare):
    network, table = model.network, Table("transformer.")

    def dense(name, kernel, bias):  # GPT-2's files hold matrices as Keras does
        table.add(st.vector, f"{name}.weight", kernel)
        table.add(st.vector, f"{name}.bias", bias)

    table.vector("wte.weight", network.embedding.embeddings)
    table.vector("wpe.weight", network.position.embeddings)
    for i, block in enumerate(network.blocks):
        attention, inner = block.self_attention, block.feed_forward
        parts = [attention.query, attention.key, attention.value]
        table.affine(f"h.{i}.ln_1", block.norm1)
        dense(
            f"h.{i}.attn.c_attn",
            st.Joined(part.kernel for part in parts),
            st.Joined(part.bias for part in parts),
        )
        dense(f"h.{i}.attn.c_proj", attention.out.kernel, attention.out.bias)
        table.affine(f"h.{i}.ln_2", block.norm2)
        dense(f"h.{i}.mlp.c_fc", inner.dense1.kernel, inner.dense1.bias)
        dense(f"h.{i}.mlp.c_proj", inner.dense2.kernel, inner.dense2.bias)
    table.affine("ln_f", network.norm_last)
    return table.entries


def _llama_table(model, bare):
    network, table = model.network, Table("model.")
    table.vector("embed_tokens.weight", network.embedding.embeddings)
    for i, block in enumerate(network.blocks):
        place = f"layers.{i}"
        table.vector(f"{place}.input_layernorm.weight", block.norm1.scale)
        table.dense_layers(place, block, LLAMA_LAYERS)
        table.vector(f"{place}.post_attention_layernorm.weight", block.norm2.scale)
    table.vector("norm.weight", network.norm_last.scale)
    if network.head is not None and not bare:
        table.dense("lm_head", network.head, bare=True)
    return table.entries


def _ends(given, config, path):
    """The end and padding tokens of a folder: `generation_config.json`'s come first."""
    ends = {"eos_token_id": "eos_token_id", "pad_token_id": "pad_token_id"}
    said = _generation.read(path.parent, config, path, tuple(ends.values()))
    stop, pad = (
        given[own] if said[key] is None else said[key] for own, key in ends.items()
    )
    size = given["vocabulary_size"]
    stops = _generation.stops_within(stop, size, path.parent)
    return {
        "eos_token_id": stops if len(stops) > 1 else (*stops, None)[0],
        "pad_token_id": _generation.pad_within(pad, size, path.parent),
    }


def load(cls, source, subfolder=None, variant=None, **arguments):
    """A model of a published folder; see `GPT.from_pretrained`."""
    bare = []

    def make(config, path, kinds):
        given = from_config(config, path, kinds)
        given |= _ends(given, config, path)
        if (config.get("architectures") or [""])[0] in BARE:
            bare.append(True)
        if "tokenizer" not in arguments:
            given["tokenizer"] = _transformers.tokenizer_of(cls, path.parent, TOKENIZER)
        return cls(**{**given, **arguments})

    def ignored(name):
        # Masks and frequencies of older files, and copies of what is tied.
        ends = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq")
        return name.endswith(ends) or (
            name == "lm_head.weight" and tie_word_embeddings[0]
        )

    tie_word_embeddings = [True]

    def entries(model, names):
        del names
        tie_word_embeddings[0] = model.tie_word_embeddings
        return table(model, bool(bare))

    return _transformers.load(make, entries, source, subfolder, variant, ignored)


@_writing.saved_whole
def save(model, folder, dtype="float32", max_shard_size=None):
    """Writes transformers' folder; see `GPT.save_pretrained`."""
    _writing.check_dtype(dtype)
    config = to_config(model)
    # What writes is the average, where one is kept: that is what is saved.
    model.run_averaged(
        "network",
        lambda: _transformers.save(table(model), config, folder, dtype, max_shard_size),
    )
    if (pathlib.Path(folder) / _generation.FILE).is_file():  # it would come first
        ends = ("eos_token_id", "pad_token_id", "bos_token_id")
        _generation.save(folder, {key: config[key] for key in ends})
    if model.tokenizer is not None:
        model.tokenizer.save(folder)
