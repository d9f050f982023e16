"""Editing by a diffusion model: img2img, inpainting, inversion, interpolation."""

import dataclasses

import numpy as np
from keras import ops

from keras_genai.backend import random
from keras_genai.diffusion import repaint, samplers
from keras_genai.diffusion.sampling_loop import (
    INPUTS,
    SamplingLoop,
    conditioned,
    in_batches,
    sampling_inputs,
    sampling_loop,
)
from keras_genai.utils.checks import check_integer
from keras_genai.utils.interpolation import check_kind, interpolate


def img2img(model, images, strength, seed, batch_size, verbose, options):
    """See `DDPM.img2img`."""
    inputs, loop, n = _prepared(model, images, {**options, "strength": strength})
    inputs["images"] = checked_images(images, n, model.image_shape, "images")
    key = random.key(seed, "img2img")
    made = loop.batches("img2img", inputs, n, key, batch_size, verbose)
    return np.concatenate(list(made))


def inpaint(model, images, mask, seed, jump_length, resamplings, batch_size, options):
    """See `DDPM.inpaint`."""
    inputs, loop, n = _prepared(model, images, {"sampler": "ddpm", **options})
    images = checked_images(images, n, model.image_shape, "images")
    mask = _mask(mask, n, model.image_shape)
    inputs["mask"] = mask
    inputs["latent_mask"] = _coarser(mask, model.latent_shape(model.image_shape))
    inputs["known"] = np.where(mask > 0, np.float32(0.0), images)
    repaint.check_repaintable(loop.sampler, loop.grid)
    num_steps = loop.grid.num_steps
    jump_length = min(10, num_steps) if jump_length is None else jump_length
    walk = repaint.resampled(num_steps, jump_length, resamplings)
    loop = dataclasses.replace(loop, repaint=repaint.tables(loop.grid, walk))
    key = random.key(seed, "inpaint")
    return np.concatenate(list(loop.batches("inpaint", inputs, n, key, batch_size)))


def invert(model, images, num_steps, spacing, batch_size, conditions):
    """See `DDPM.invert`."""
    inputs, n = conditions_and_images(model, "invert", images, conditions)
    grid = samplers.time_grid(
        model.schedule, num_steps or model.num_steps, spacing, end="least"
    )
    rising = grid.reversed()
    loop = SamplingLoop(model, samplers.ddim(rising), rising, rising.begin)
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


def _prepared(model, images, options):
    """`(inputs, loop, N)` of a call that begins with images."""
    given = {k: v for k, v in options.items() if k in INPUTS}
    options = {k: v for k, v in options.items() if k not in INPUTS}
    inputs, n, guided = sampling_inputs(
        model, len(images), 0, **given, draw_labels=False
    )
    return inputs, sampling_loop(model, guided=guided, **options), n


def conditions_and_images(model, name, images, conditions):
    """`(inputs, N)` of a call that takes images and their conditions alone."""
    unknown = set(conditions) - {"labels", "vector", "context"}
    if unknown:
        raise ValueError(f"{name} does not take {', '.join(sorted(unknown))}.")
    inputs, n, _ = sampling_inputs(
        model, len(images), 0, **conditions, draw_labels=False
    )
    images = checked_images(images, n, model.image_shape, "images")
    return {**inputs, "images": images}, n


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
