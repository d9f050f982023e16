"""Editing by a diffusion model: img2img, inpainting, inversion, interpolation."""

import dataclasses
import warnings

import numpy as np
from keras import ops

from keras_genai.backend import random
from keras_genai.diffusion import repaint, samplers
from keras_genai.diffusion.conditions import NAMES
from keras_genai.diffusion.sampling_loop import (
    INPUTS,
    SamplingLoop,
    conditioned,
    in_batches,
    plain_spacing,
    sampling_inputs,
    sampling_loop,
    sized,
)
from keras_genai.utils.checks import check_integer
from keras_genai.utils.interpolation import check_kind, interpolate

METHODS = ("repaint", "blended", "concat")


def img2img(model, images, strength, seed, batch_size, verbose, options):
    """See `DDPM.img2img`."""
    inputs, loop, n = _prepared(model, images, {**options, "strength": strength})
    inputs["images"] = checked_images(images, n, loop.image_shape, "images")
    key = random.key(seed, "img2img")
    made = loop.batches("img2img", inputs, n, key, batch_size, verbose)
    return np.concatenate(list(made))


def inpaint(
    model,
    images,
    mask,
    seed,
    method,
    strength,
    jump_length,
    resamplings,
    batch_size,
    verbose,
    options,
):
    """See `DDPM.inpaint`."""
    method = _method(model, method)
    if method == "repaint":
        options = {
            "sampler": "ddpm",
            **options,
            "num_steps": options["num_steps"] or 250,
        }
    if method == "concat" and options.get("image") is not None:
        raise ValueError(
            "inpaint with method='concat' makes the condition 'image' itself, of the "
            "mask and of what is known: leave image= out."
        )
    joined = ("image",) if method == "concat" else ()
    options = {**options, "strength": strength}
    inputs, loop, n = _prepared(model, images, options, joined)
    images = checked_images(images, n, loop.image_shape, "images")
    mask = _mask(mask, n, loop.image_shape)
    inputs |= {"mask": mask, "known": images}
    if strength < 1:
        inputs["images"] = images
    if method == "repaint":
        # Nothing of what is painted over is read.
        inputs["known"] = np.where(mask > 0, np.float32(0.0), images)
        inputs["latent_mask"] = _coarser(mask, loop.latent_shape)
        loop = _repainting(loop, jump_length, resamplings)
    else:
        _refuse_repaint(method, jump_length, resamplings)
        inputs["latent_mask"] = _nearest(mask, loop.latent_shape)
    if method == "blended":
        blend = repaint.blend_tables(loop.sampler, loop.grid)
        loop = dataclasses.replace(loop, blend=blend)
    if method == "concat":
        given = {key: inputs[key] for key in ("known", "mask", "latent_mask")}
        joined = in_batches(
            model,
            ("known", loop.latent_shape),
            _joined(model),
            given,
            n,
            (0, 0),
            batch_size,
        )
        inputs["image"] = np.concatenate(list(joined))
    key = random.key(seed, "inpaint")
    verbose = 0 if method == "repaint" else verbose  # it goes back and forth
    made = loop.batches(("inpaint", method), inputs, n, key, batch_size, verbose)
    return np.concatenate(list(made))


def _method(model, method):
    """The method of `inpaint`, by default what the network was made for."""
    channels = model.latent_shape(model.image_shape)[-1]
    able = model.concat_channels == channels + 1
    if method is None:
        return "concat" if able else "repaint"
    if method not in METHODS:
        raise ValueError(
            f"unknown method {method!r}; expected one of {', '.join(METHODS)}."
        )
    if method == "concat" and not able:
        raise ValueError(
            "method='concat' needs a network that takes the mask and what is known "
            f"beside x: concat_channels={channels + 1}; this model has "
            f"concat_channels={model.concat_channels}."
        )
    return method


def _refuse_repaint(method, jump_length, resamplings):
    if jump_length is not None or resamplings is not None:
        raise ValueError(
            f"jump_length and resamplings are of method='repaint'; this is {method!r}."
        )


def _repainting(loop, jump_length, resamplings):
    """The loop that goes back and does stretches again."""
    repaint.check_repaintable(loop.sampler, loop.grid)
    num_steps = loop.grid.num_steps
    jump_length = min(10, num_steps) if jump_length is None else jump_length
    resamplings = 10 if resamplings is None else resamplings
    walk = repaint.resampled(num_steps, jump_length, resamplings)
    return dataclasses.replace(loop, repaint=repaint.tables(loop.grid, walk))


def _joined(model):
    """The function of `in_batches` that makes the condition image of `inpaint`."""

    def joined(key, count, first, inputs):
        known = inputs["known"] * (1.0 - inputs["mask"])
        return inpainting_condition(model, known, inputs["latent_mask"])

    return joined


def inpainting_condition(model, known, latent_mask):
    """`(B, h, w, 1 + C)`: the mask, and the latents of the images that are known.

    Args:
        model: the `DDPM`.
        known: tensor `(B, H, W, C)`, zeros where to paint.
        latent_mask: tensor `(B, h, w, 1)`, 1 where to paint.
    """
    latents = model.to_latents(known)
    return ops.concatenate([ops.cast(latent_mask, latents.dtype), latents], axis=-1)


def invert(model, images, num_steps, spacing, batch_size, conditions):
    """See `DDPM.invert`."""
    inputs, n, shape = conditions_and_images(model, "invert", images, conditions)
    spacing = {"spacing": "trailing", **plain_spacing(spacing or model.spacing or {})}
    grid = model.time_grid(num_steps or model.num_steps, {**spacing, "end": "least"})
    rising = grid.reversed()
    sampler = samplers.ddim(rising)
    loop = SamplingLoop(model, sampler, rising, rising.begin, image_shape=shape)
    inputs |= {"prior_std": np.float32(grid.prior_std), **loop.numbers()}

    def noise(key, count, first, inputs):
        bound = loop.bound(inputs)
        x = bound.noised(model.to_latents(inputs["images"]), 0.0)
        x = bound.sampler(conditioned(model, inputs, clip=None), x)
        return x / inputs["prior_std"]

    name = ("invert", loop.form)
    made = in_batches(model, name, noise, inputs, n, (0, 0), batch_size)
    return np.concatenate(list(made))


def interpolated(model, a, b, n, kind, num_steps, batch_size):
    """See `DDPM.interpolate`."""
    check_integer("n", n, 2)
    check_kind(kind)
    ends = [
        checked_images(np.asarray(x)[None], 1, model.image_shape, "An end")
        for x in (a, b)
    ]
    noise = model.invert(np.concatenate(ends), num_steps=num_steps)
    a, b = noise.reshape(2, -1)
    between = interpolate(a, b, np.linspace(0.0, 1.0, n)[:, None], kind)
    return model.generate(
        noise=between.reshape(n, *noise.shape[1:]).astype("float32"),
        labels=model.num_classes and np.full(n, model.num_classes),  # none
        sampler="ddim",
        num_steps=num_steps,
        batch_size=batch_size,
    )


def _prepared(model, images, options, own=()):
    """`(inputs, loop, N)` of a call that begins with images.

    Args:
        own: names of the conditions that the call makes itself.
    """
    given = {k: v for k, v in options.items() if k in INPUTS}
    options = {k: v for k, v in options.items() if k not in INPUTS}
    inputs, n, guided = sampling_inputs(
        model, len(images), 0, **given, draw_labels=False, own=own
    )
    return inputs, sampling_loop(model, guided=guided, **options), n


def conditions_and_images(model, name, images, conditions):
    """`(inputs, N, image_shape)` of a call that takes images and conditions alone."""
    conditions = dict(conditions)
    shape = sized(
        model.image_shape, conditions.pop("height", None), conditions.pop("width", None)
    )
    unknown = set(conditions) - set(NAMES)
    if unknown:
        raise ValueError(f"{name} does not take {', '.join(sorted(unknown))}.")
    inputs, n, _ = sampling_inputs(
        model, len(images), 0, **conditions, draw_labels=False
    )
    images = checked_images(images, n, shape, "images")
    return {**inputs, "images": images}, n, shape


def checked_images(x, n, shape, name):
    """Images, latents or noise as NumPy floats `(n, *shape)`."""
    x = ops.convert_to_numpy(x) if ops.is_tensor(x) else np.asarray(x)
    if x.shape != (n, *shape) or not np.issubdtype(x.dtype, np.floating):
        raise ValueError(
            f"{name} must be floats of the shape {(n, *shape)}; got {x.dtype} of the "
            f"shape {x.shape}."
        )
    return x.astype("float32", copy=False)


def _mask(mask, n, image_shape):
    """`(N, H, W, 1)` floats of 0 and 1."""
    mask = np.asarray(mask)
    height, width, _ = image_shape
    shapes = ((height, width), (height, width, 1), (n, height, width, 1))
    if mask.shape not in shapes or not np.all((mask == 0) | (mask == 1)):
        raise ValueError(
            f"mask must be booleans of the shape {shapes[0]}, {shapes[1]} or "
            f"{shapes[2]}, True where to paint; got {mask.dtype} of the shape "
            f"{mask.shape}."
        )
    share = float(np.mean(mask))
    if share > 0.95:
        warnings.warn(
            f"The mask is True in {share:.0%} of its places, and True is what is "
            "painted; what is False stays. Is it the wrong way round?",
            stacklevel=4,
        )
    mask = mask[..., None] if mask.ndim == 2 else mask
    return np.broadcast_to(mask, (n, height, width, 1)).astype("float32")


def _coarser(mask, latent_shape):
    """The mask of the latents: 1 where any pixel of theirs is to be painted."""
    n, height, width, _ = mask.shape
    rows, columns, _ = latent_shape
    if (rows, columns) == (height, width):
        return mask
    if height % rows or width % columns:
        raise ValueError(
            f"A mask of {(height, width)} cannot be divided into latents of "
            f"{(rows, columns)}."
        )
    parts = (n, rows, height // rows, columns, width // columns, 1)
    return mask.reshape(parts).max(axis=(2, 4))


def _nearest(mask, latent_shape):
    """The mask of the latents: that of the first pixel of each, as diffusers has it."""
    _, height, width, _ = mask.shape
    rows, columns, _ = latent_shape
    row = np.arange(rows) * height // rows
    column = np.arange(columns) * width // columns
    return np.ascontiguousarray(mask[:, row][:, :, column])
