"""A part of an image painted anew, in keeping with the rest.

RePaint (2201.09865), and blended latent diffusion (2206.02779), which puts what is
known in its place after each step of any sampler and goes back nowhere.
"""

import numpy as np
from keras import ops

from keras_genai.backend import random
from keras_genai.backend.threefry import concrete
from keras_genai.diffusion import samplers
from keras_genai.utils.checks import check_integer, check_positive


def resampled(num_steps, jump_length, resamplings):
    """The trajectory that goes back and does stretches again (section 4.2, appendix B).

    Args:
        num_steps: n of the grid.
        jump_length: j, how many steps are gone back at a time, at most n.
        resamplings: r, how often each stretch is done; 1 goes back nowhere.

    Returns:
        List of `(i, after)`: a step from node i to node i + 1, and the node, at most
        i + 1, to which the noise is raised again.

    Example:

    >>> resampled(4, 2, 2)
    [(0, 1), (1, 2), (2, 3), (3, 2), (2, 3), (3, 4)]
    """
    check_integer("jump_length", jump_length)
    check_positive("resamplings", resamplings)
    if jump_length > num_steps:
        raise ValueError(
            f"jump_length must be at most the {num_steps} steps; got {jump_length}."
        )
    turns = dict.fromkeys(
        range(0, num_steps - jump_length, jump_length), resamplings - 1
    )
    walk, left = [], num_steps  # `left` steps lie between here and the last node
    while left:
        node = num_steps - left
        left -= 1
        if turns.get(left, 0):
            turns[left] -= 1
            left += jump_length
        walk.append((node, num_steps - left))
    return walk


def check_repaintable(sampler, grid):
    """Refuses a sampler with more than x in its state."""
    if sampler.updates.shape[1] != 1 or sampler.evaluations != grid.num_steps:
        raise ValueError(
            f"The sampler {sampler.name} looks back or asks more than once a step, "
            "which an image that is held in part cannot have: take 'ddpm' or 'ddim'."
        )


def tables(grid, walk):
    """What `repaint` reads at each step: dict name -> NumPy `(n,)`.

    Args:
        grid: the `TimeGrid`.
        walk: the trajectory, of `resampled`.
    """
    nodes = np.array(walk)  # (evaluations, 2): where from, and where to afterwards
    here, after = nodes[:, 0] + 1, nodes[:, 1]
    alpha, sigma = grid.alphas[here], grid.sigmas[here]
    scale = grid.alphas[after] / alpha
    variance = grid.sigmas[after] ** 2 - (scale * sigma) ** 2
    std = np.sqrt(np.where(after == here, 0.0, np.maximum(variance, 0.0)))
    scale = np.where(after == here, 1.0, scale)
    rows = {"alpha": alpha, "sigma": sigma, "scale": scale, "std": std}
    return {"node": nodes[:, 0], **rows}


def repaint(sampler, tables, denoise, x, images, mask, key, first=0):
    """Algorithm 1: after each step what is known is put in its place, as noisy.

    Args:
        sampler: a `Sampler` on the grid, of one evaluation and one array, such as that
            of "ddpm".
        tables: of `tables`; or, as tensors, `backend.programs.filled` of them.
        denoise: denoiser `(x, t)`.
        x: `(B, H, W, C)`, noise at the first node.
        images: `(B, H, W, C)`.
        mask: like them or `(B, H, W, 1)`: 1 where to paint, 0 where the image is known.
        key, first: see `samplers.keyed_noise`.

    Returns:
        `(B, H, W, C)`.
    """
    x = ops.convert_to_tensor(x)
    images, mask = (ops.convert_to_tensor(a, dtype=x.dtype) for a in (images, mask))
    names = ("step", "known", "back")
    noises = {n: samplers.keyed_noise(random.subkey(key, n), first) for n in names}

    def body(k, x):
        k = concrete(k)

        def at(name):
            table = tables[name]
            if isinstance(k, int) and isinstance(table, np.ndarray):
                return table[k].item()
            dtype = "int32" if name == "node" else x.dtype
            return ops.take(ops.cast(table, dtype), k, axis=0)

        drawn = lambda _, x: noises["step"](k, x)  # noqa: E731
        (x,) = sampler.step(denoise, at("node"), (x,), drawn)
        known = at("alpha") * images + at("sigma") * noises["known"](k, x)
        x = mask * x + (1.0 - mask) * known
        return at("scale") * x + at("std") * noises["back"](k, x)

    count = tables["count"] if "count" in tables else len(tables["node"])
    return ops.fori_loop(0, count, body, x)


def blend_tables(sampler, grid):
    """What `blended` reads after each evaluation: dict name -> NumPy `(n,)`.

    Args:
        sampler: a `Sampler` on the grid.
        grid: the `TimeGrid`.
    """
    nodes = np.asarray(sampler.nodes)
    alpha, sigma = grid.alphas[nodes], grid.sigmas[nodes]
    last = nodes == grid.num_steps
    alpha, sigma = np.where(last, 1.0, alpha), np.where(last, 0.0, sigma)
    return {"alpha": alpha, "sigma": sigma, "held": (nodes >= 0).astype("float32")}


def blended(tables, images, mask, noise):
    """Function `(i, x) -> x` for a `Sampler`: what is known in its place, as noisy.

    Args:
        tables: of `blend_tables`; or, as tensors, `backend.programs.filled` of them.
        images: `(B, H, W, C)`.
        mask: like them or `(B, H, W, 1)`: 1 where to paint, 0 where the image is known.
        noise: like the images: that of the known part, at every step the same.
    """

    def after(i, x):
        i = concrete(i)

        def at(name):
            table = tables[name]
            if isinstance(i, int) and isinstance(table, np.ndarray):
                return table[i].item()
            return ops.take(ops.cast(table, x.dtype), i, axis=0)

        known = at("alpha") * images + at("sigma") * noise
        share = at("held") * (1.0 - mask)
        return share * known + (1.0 - share) * x

    return after
