"""Prompts, sizes and noise of `LatentDiffusion` as its `DDPM` takes them."""

import warnings

import numpy as np

from keras_genai.backend import random
from keras_genai.utils.checks import check_integer
from keras_genai.utils.interpolation import check_kind, interpolate
from keras_genai.utils.validation import array, is_integer, refuse
from keras_genai.utils.validation import prompts as texts_or_ids

GUIDANCE = 7.5  # by default, as published with Stable Diffusion 1


def prompts(name, value):
    """Texts, token ids, their states `(P, T, E)`, or a number of pictures."""
    if is_integer(value):
        return check_integer(name, value)
    if isinstance(value, str):
        return value  # the empty prompt, too
    if hasattr(value, "dtype") and len(value.shape) == 3:
        return array(3, "f")(name, value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "UO" and value.ndim == 1:
        value = value.tolist()
    if isinstance(value, (list, tuple)) and value:
        if all(isinstance(x, str) for x in value):
            return value
    try:
        return texts_or_ids(name, value)
    except ValueError:
        refuse(
            name,
            "a string, a list of strings, token ids (P, T), states (P, T, E), or a "
            "number of pictures",
            value,
        )


def is_states(value):
    """Whether prompts are states already."""
    return hasattr(value, "dtype") and len(value.shape) == 3


def states(model, value, clip_skip, truncate):
    """The states `(P, T, E)` of prompts, NumPy."""
    if not is_states(value):
        return model.encode_prompts(value, clip_skip=clip_skip, truncate=truncate)
    value = np.asarray(value, "float32")
    width = model.conditions.context_shape[1]
    if value.shape[2] != width:
        raise ValueError(
            f"The states of prompts must have the shape (P, T, {width}); got "
            f"{value.shape}."
        )
    return value


def conditions(model, given, negative, n, scale, clip_skip, truncate, options):
    """How many pictures there are, and what `DDPM.generate` is told of their prompts.

    Args:
        model: `LatentDiffusion`.
        given, negative, n, scale, clip_skip, truncate: of its `generate`.
        options: the others, of which a condition may be one.

    Returns:
        `(count, arguments)`.
    """
    bare = given is None or is_integer(given)
    if model.text_encoder is None:
        if not bare or negative is not None or clip_skip is not None:
            raise ValueError(
                "This model has no text encoder: it takes no prompts. prompts must be "
                "a number of pictures, or None with labels=."
            )
        count = None if given is None else given * n
        scale = 1.0 if scale is None else scale
        return count, {"guidance_scale": scale}
    if given is None:
        raise ValueError(
            "prompts must be strings, token ids, states or a number of pictures; got "
            "None."
        )
    for name in ("context", "negative"):
        if name in options:
            raise ValueError(f"Give prompts or negative_prompts in place of {name}.")
    if scale is None:
        trained = bool(model.conditions.dropout)
        scale = GUIDANCE if trained and not (bare and negative is None) else 1.0
    if bare:
        context = np.repeat(null_states(model, clip_skip), given, axis=0)
    else:
        context = states(model, given, clip_skip, truncate)
    count = len(context)
    scale = np.asarray(scale, "float32")
    if scale.ndim == 1 and len(scale) == count and n > 1:
        scale = np.repeat(scale, n)
    if scale.ndim and len(scale) != count * n:
        raise ValueError(
            f"guidance_scale must be a number, {count} of them, one for each prompt, "
            f"or {count * n}, one for each picture; got {len(scale)}."
        )
    made = {"context": np.repeat(context, n, axis=0), "guidance_scale": scale}
    if np.all(scale == 1.0):
        if negative is not None:
            warnings.warn(
                "negative_prompts have no effect at guidance_scale=1: nothing is led "
                "away from them. Give a larger one.",
                stacklevel=5,
            )
        return count * n, made
    if negative is None:
        away = null_states(model, clip_skip)
    elif is_integer(negative):
        refuse("negative_prompts", "strings, token ids or states", negative)
    else:
        away = states(model, negative, clip_skip, truncate)
    if len(away) not in (1, count):
        raise ValueError(
            f"negative_prompts must be one for all prompts, or one for each of the "
            f"{count}; got {len(away)}."
        )
    if away.shape[1] != context.shape[1]:
        raise ValueError(
            f"Prompts of {context.shape[1]} positions and negative_prompts of "
            f"{away.shape[1]} must have as many."
        )
    away = np.broadcast_to(away, context.shape)
    made["negative"] = {"context": np.repeat(away, n, axis=0)}
    return count * n, made


def null_states(model, clip_skip):
    """The states of the empty prompt, `(1, T, E)`."""
    tokens = model.null_tokens[None]
    return model.encode_prompts(tokens, clip_skip=clip_skip)


def of_images(model, count, given, negative, scale, clip_skip, truncate, options):
    """The arguments of `DDPM.img2img` and its kin for images with prompts."""
    options = dict(options)
    if model.text_encoder is None:
        scale = 1.0 if scale is None else scale
        _, made = conditions(
            model, given, negative, 1, scale, clip_skip, truncate, options
        )
        return {**options, **made}
    given = count if given is None else given
    if isinstance(given, str):
        given = [given]
    found, made = conditions(
        model, given, negative, 1, scale, clip_skip, truncate, options
    )
    if found not in (1, count):
        raise ValueError(
            f"prompts must be one for all images, or one for each of the {count}; got "
            f"{found}."
        )
    if found != count:
        made["context"] = np.repeat(made["context"], count, axis=0)
        if "negative" in made:
            away = made["negative"]["context"]
            made["negative"] = {"context": np.repeat(away, count, axis=0)}
        if made["guidance_scale"].ndim:
            made["guidance_scale"] = np.repeat(made["guidance_scale"], count)
    return {**options, **made}


def check_finite(images):
    """Refuses pictures that the decoder made of finite latents, and that are not."""
    if not np.isfinite(images).all():
        raise FloatingPointError(
            "The pictures are not finite, and their latents are: the autoencoder's "
            "decoder gave such numbers. In float16 what is over 65,504 is infinite: "
            "load the autoencoder in float32 or bfloat16."
        )


def variables_of(autoencoder, name):
    """List of the variables of a part of an autoencoder."""
    if autoencoder is None:
        return []
    part = getattr(autoencoder, name, None)
    return list(autoencoder.variables if part is None else part.variables)


def for_each(values, n):
    """Each of a list or an array n times, one after the other; one for all stays."""
    if values is None or isinstance(values, str):
        return values
    if hasattr(values, "dtype"):
        return np.repeat(np.asarray(values), n, axis=0)
    return [value for value in values for _ in range(n)]


def check_mask(mask):
    """Refuses a mask that paints nothing; `DDPM.inpaint` says what else is wrong."""
    mask = np.asarray(mask)
    if mask.dtype.kind in "bif" and mask.size and not mask.any():
        raise ValueError(
            "mask is False everywhere: nothing would be painted. It must be True where "
            "to paint."
        )


def interpolated(model, ends, n, kind, seeds, options):
    """See `LatentDiffusion.interpolate`."""
    check_integer("n", n, 2)
    check_kind(kind)
    clip_skip = options.pop("clip_skip", None)
    truncate = bool(options.pop("truncate", None))
    a, b = states(model, list(ends), clip_skip, truncate)
    between = np.linspace(0.0, 1.0, n, dtype="float32")
    context = a + between[:, None, None] * (b - a)
    sides = [
        options.get(name) or own
        for name, own in zip(("height", "width"), model.image_shape[:2], strict=True)
    ]
    shape = model.latent_shape((*sides, model.image_shape[2]))
    noise = [first_noise(seed, shape).ravel() for seed in seeds]
    if seeds[0] == seeds[1]:
        noise = np.repeat(noise[0][None], n, axis=0)
    else:
        noise = interpolate(*noise, between[:, None], kind)
    return model.generate(
        context,
        noise=noise.reshape(n, *shape).astype("float32"),
        clip_skip=clip_skip,
        **options,
    )


def first_noise(seed, shape):
    """The noise that picture 0 of a seed begins with, NumPy `(h, w, L)`."""
    key = random.key(seed, "generate/latents")
    return random.normal(random.subkey(key, "x"), (1, *shape), host=True)[0]
