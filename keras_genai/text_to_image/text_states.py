"""Prompts for a diffusion model: token ids, and the states that it attends to."""

import keras
import numpy as np

from keras_genai.backend.precision import widen
from keras_genai.utils.validation import is_integer


def text_states(encoder, tokens, skip=0, norm=True, training=False):
    """The states `(B, T, E)` of token ids `(B, T)`, float32.

    Args:
        encoder: a text encoder of layers, with `hidden_states` and `normalized` as
            `kg.clip.TextTower`, or any function of token ids to states.
        tokens: int32.
        skip: how many blocks at the end are left out.
        norm: whether the states go through the last normalization.
        training: whether there is dropout.
    """
    if not is_layered(encoder):
        return widen(encoder(tokens, training=training))
    states = encoder.hidden_states(tokens, training=training)[-1 - skip]
    return widen(encoder.normalized(states) if norm else states)


def is_layered(encoder):
    """Whether the states of inner layers can be had."""
    return hasattr(encoder, "hidden_states") and hasattr(encoder, "normalized")


def width_of(encoder, length):
    """Channels E of the states."""
    width = getattr(encoder, "hidden_dim", None)
    if is_integer(width):
        return width
    made = encoder(keras.KerasTensor((None, length), dtype="int32"))
    if not isinstance(made, keras.KerasTensor) or len(made.shape) != 3:
        raise ValueError(
            "text_encoder must give the states (B, T, E) of token ids (B, T); it gives "
            f"{getattr(made, 'shape', type(made).__name__)}."
        )
    return made.shape[-1]


def check_skip(encoder, skip, norm=True):
    """Refuses layers that the text encoder does not have."""
    if not is_layered(encoder):
        if skip or not norm:
            raise ValueError(
                f"clip_skip={skip} and text_norm={norm} need a text encoder whose "
                "inner states can be had, with hidden_states and normalized, such as "
                f"kg.clip.TextTower; {type(encoder).__name__} has none."
            )
        return
    layers = getattr(encoder, "num_layers", None)
    if layers is not None and skip >= layers:
        raise ValueError(
            f"clip_skip must be below the text encoder's {layers} layers; got {skip}."
        )


def empty_prompt(tokenizer, length, pad_token_id, end_token_id):
    """The token ids of the empty prompt: int32 `(T,)`."""
    row = [] if tokenizer is None else [*tokenizer.encode("")]
    if end_token_id is not None and end_token_id not in row:
        row.append(end_token_id)
    tokens = np.full(length, pad_token_id, "int32")
    tokens[: len(row)] = row[:length]
    return tokens


def pad_token_of(given, encoder, tokenizer):
    """What fills rows of tokens: see `LatentDiffusion`."""
    known = [
        given,
        None if tokenizer is None else tokenizer.fill_id,
        getattr(encoder, "pad_token_id", None),
        getattr(encoder, "eos_token_id", None),
    ]
    pad = next((i for i in known if i is not None), 0)
    if pad >= encoder.vocabulary_size:
        raise ValueError(
            f"pad_token_id must be an id in [0, {encoder.vocabulary_size}); got {pad}."
        )
    return pad
