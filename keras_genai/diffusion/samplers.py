"""Samplers: from noise to data along a time grid, in one compiled loop.

Every sampler here is linear in all but the network: between two calls of the denoiser
it adds up known factors times arrays. A sampler is therefore a table of factors,
computed once in float64 by the papers' formulas, and one loop that applies any table:

    grid = kg.samplers.time_grid(schedule, num_steps=50)
    sampler = kg.samplers.get("ddim")(grid, eta=0.0)
    x = sampler(denoise, grid.start(noise))

`sampler(denoise, x, noise)` is a pure function, with the loop in the graph. `denoise`
is a function `(x, t) -> x_0`, or to `(x_0, v)` with a learned variance, in the model's
own coordinates `x = alpha x_0 + sigma eps`; `noise` is a function `(i, x)` that gives
standard normal noise of the shape of x for evaluation i: `keyed_noise` makes one of
which sample j depends on the key and on j alone.
"""

from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.diffusion.linear_sampler import Sampler, tabulate
from keras_genai.diffusion.solvers import (
    ddim,
    ddpm,
    dpmpp_2m,
    dpmpp_2m_sde,
    euler,
    euler_ancestral,
    flow_euler,
    flow_heun,
    heun,
    lcm,
    lms,
    pndm,
    unipc,
)
from keras_genai.diffusion.time_grid import ENDS, SPACINGS, TimeGrid, at, time_grid
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import either, function, text

_SAMPLERS = {
    f.__name__: f
    for f in (
        ddpm,
        ddim,
        euler,
        euler_ancestral,
        heun,
        lms,
        pndm,
        dpmpp_2m,
        dpmpp_2m_sde,
        unipc,
        flow_euler,
        flow_heun,
        lcm,
    )
}

NAMES = tuple(_SAMPLERS)

__all__ = [
    "ENDS",
    "NAMES",
    "SPACINGS",
    "Sampler",
    "TimeGrid",
    "at",
    "get",
    "keyed_noise",
    "stepped",
    "tabulate",
    "time_grid",
    *NAMES,
]


@checked(sampler=either(text, function))
def get(sampler: str | Callable) -> Callable:
    """The function time grid -> `Sampler` of a name.

    Args:
        sampler: one of `NAMES`, or such a function, which is returned as it is.

    Returns:
        The function; see each for its options.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.

    Example:

    >>> get("ddim") is ddim
    True
    """
    if callable(sampler):
        return sampler
    if isinstance(sampler, str) and sampler in _SAMPLERS:
        return _SAMPLERS[sampler]
    raise ValueError(
        f"unknown sampler {sampler!r}; expected one of {', '.join(NAMES)}."
    )


def keyed_noise(key, first=0):
    """The noise of a sampler, keyed by (key, evaluation, sample).

    Args:
        key: pair of words of `backend.random.key`, integers or int32 scalars.
        first: number of the first sample, an integer or int32 scalar tensor.

    Returns:
        Function `(i, x)` to standard normal noise of the shape and dtype of x.
    """

    def noise(i, x):
        step_key = backend.random.subkey(key, "sampler", i)
        dtype = keras.backend.standardize_dtype(x.dtype)
        return backend.random.normal(step_key, ops.shape(x), dtype=dtype, offset=first)

    return noise


def stepped(sampler, denoiser, variables=(), compiled=True):
    """The sampler driven from Python, with a progress bar: one compiled step.

    Args:
        sampler: a `Sampler`.
        denoiser: function of tensors, the inputs (labels, a guidance scale), to a
            `denoise`.
        variables: list of the Keras variables that the network reads.
        compiled: False runs it eagerly.

    Returns:
        Function `(x, *inputs, key=(0, 0), first=0, verbose=0, bar=None) -> x`: keep it,
        it is compiled once for each shape. Key and first are those of `keyed_noise`;
        `verbose=1` shows a bar of the evaluations; `bar` is a `keras.utils.Progbar` to
        move in its place.

    Example:

    ```python
    sample = stepped(sampler, lambda: denoise, network.variables)
    x = sample(grid.start(noise), verbose=1)
    ```
    """

    def step(i, key, first, state, *inputs):
        noise = keyed_noise((key[0], key[1]), first)
        return sampler.step(denoiser(*inputs), i, state, noise)

    return driven(sampler, backend.jit(step, list(variables), compiled=compiled))


def driven(sampler, run):
    """The function that `stepped` returns, of its compiled step."""

    def sample(x, *inputs, key=(0, 0), first=0, verbose=0, bar=None):
        words = backend.from_host(np.array(key, "int32"))
        first = ops.convert_to_tensor(first, "int32")
        count = sampler.evaluations
        if bar is None:
            bar = keras.utils.Progbar(count, verbose=verbose, unit_name="evaluation")
        state = sampler.begin(x)
        for i in range(count):
            number = ops.convert_to_tensor(i, "int32")
            state = tuple(run(number, words, first, state, *inputs))
            if bar.verbose:
                ops.convert_to_numpy(state[0][:1])  # the bar waits for the step
            bar.add(1)
        return state[0]

    return sample
