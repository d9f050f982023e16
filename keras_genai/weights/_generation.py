"""`generation_config.json`: how a published model of text writes by default.

Where a folder has none, `config.json` may say the same, as older ones do.
"""

import pathlib

from keras_genai.weights import _keys
from keras_genai.weights import _safetensors as st
from keras_genai.weights._keys import FLAG, NULL, TOKEN, TOKENS
from keras_genai.weights._transformers import VERSION

FILE = "generation_config.json"
_WORDS = _keys.list_of(_keys.list_of(TOKEN), 0)
# What a key must hold, and the values of it that say nothing: those that transformers
# itself takes where the key is left out.
KEYS = {
    "eos_token_id": (TOKENS | NULL, ()),
    "pad_token_id": (TOKEN | NULL, ()),
    "decoder_start_token_id": (TOKEN | NULL, ()),
    "num_beams": (_keys.COUNT | NULL, (1,)),
    "length_penalty": (_keys.NUMBER | NULL, (1.0,)),
    "early_stopping": (_keys.one_of(True, False, "never", None), (False,)),
    "max_length": (_keys.COUNT | NULL, ()),
    "max_new_tokens": (_keys.COUNT | NULL, ()),
    "bad_words_ids": (_WORDS | NULL, ([],)),
    "forced_bos_token_id": (TOKENS | NULL, ()),
    "forced_eos_token_id": (TOKENS | NULL, ()),
    "renormalize_logits": (FLAG | NULL, (False,)),
    "do_sample": (FLAG | NULL, (False,)),
    "temperature": (_keys.NUMBER | NULL, (1.0,)),
    "top_k": (_keys.NUMBER | NULL, (50,)),
    "top_p": (_keys.NUMBER | NULL, (1.0,)),
    "typical_p": (_keys.NUMBER | NULL, (1.0,)),
    "repetition_penalty": (_keys.NUMBER | NULL, (1.0,)),
    "encoder_repetition_penalty": (_keys.NUMBER | NULL, (1.0,)),
    "no_repeat_ngram_size": (_keys.NUMBER | NULL, (0,)),
    "encoder_no_repeat_ngram_size": (_keys.NUMBER | NULL, (0,)),
    "min_length": (_keys.NUMBER | NULL, (0,)),
    "num_return_sequences": (_keys.NUMBER | NULL, (1,)),
    "num_beam_groups": (_keys.NUMBER | NULL, (1,)),
    "diversity_penalty": (_keys.NUMBER | NULL, (0.0,)),
    "epsilon_cutoff": (_keys.NUMBER | NULL, (0.0,)),
    "eta_cutoff": (_keys.NUMBER | NULL, (0.0,)),
    **dict.fromkeys(
        (
            "min_new_tokens",
            "min_p",
            "top_h",
            "max_time",
            "stop_strings",
            "suppress_tokens",
            "begin_suppress_tokens",
            "sequence_bias",
            "exponential_decay_length_penalty",
            "force_words_ids",
            "constraints",
            "penalty_alpha",
            "dola_layers",
            "guidance_scale",
            "watermarking_config",
            "token_healing",
        ),
        (_keys.ANY, ([], {}, False)),
    ),
}
SAMPLING = ("temperature", "top_k", "top_p", "typical_p")  # of effect where it draws


def read(folder, config, config_path, taken):
    """What a folder says of writing.

    Args:
        folder: path.
        config: the content of its `config.json`.
        config_path: its path.
        taken: names of the keys that the caller uses: others that would change what
            is written are passed over with a warning that names them.

    Returns:
        Dict of the values of all keys, None where nothing is said.

    Raises:
        ValueError: a key holds what it may not.
    """
    path = folder / FILE
    if path.is_file():
        config = st.read_json(path)
    else:
        path = config_path
    keys = {key: (None, kind) for key, (kind, _) in KEYS.items()}
    values = _keys.read(config, path, keys, of="generation")
    drawn = bool(values["do_sample"])
    beside = [
        key
        for key, (_, idle) in KEYS.items()
        if key not in taken
        and values[key] is not None
        and values[key] not in idle
        and (drawn or key not in SAMPLING)
    ]
    if beside:
        instead = "give what you want of it as arguments"
        _keys.pass_over(path, values, beside, instead)
    return values


def stops_within(tokens, size, path):
    """The end tokens within a vocabulary: a tuple; warns of others.

    Args:
        tokens: an integer, a list of them, or None.
        size: of the vocabulary.
        path: of the file, for the warning.
    """
    tokens = tokens if isinstance(tokens, (list, tuple)) else [tokens]
    tokens = [token for token in tokens if token is not None]
    outside = [token for token in tokens if not 0 <= token < size]
    if outside:
        said = {"eos_token_id": outside[0] if len(outside) == 1 else outside}
        _keys.pass_over(
            path,
            said,
            said,
            f"it is no id of the vocabulary of {size}, and ends no text",
        )
    return tuple(dict.fromkeys(token for token in tokens if token not in outside))


def pad_within(token, size, path):
    """The padding token, or None where it is outside the vocabulary; warns then."""
    if token is None or 0 <= token < size:
        return token
    said = {"pad_token_id": token}
    _keys.pass_over(path, said, said, f"it is no id of the vocabulary of {size}")
    return None


def save(folder, content):
    """Writes the file; keys of None are left out."""
    content = {key: value for key, value in content.items() if value is not None}
    path = pathlib.Path(folder) / FILE
    st.write_json(path, {"transformers_version": VERSION, **content})
