"""The exact log-likelihood by the probability-flow ODE (2011.13456, appendix D.2).

In the coordinates `y = x / sqrt(alpha^2 + sigma^2)`, with `c = alpha / sqrt(alpha^2 +
sigma^2)` and time `u = log(sigma / alpha)`, the ODE of every schedule is

    dy/du = c^2 y - c D(x, t),

smooth at both ends, and the change of the log-density along it

    d log p(y)/du = -(d c^2 - c tr(dD/dy)),        d the number of dimensions.
"""

import math

import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.backend import programs, random
from keras_genai.diffusion.denoiser import split
from keras_genai.diffusion.editing import checked_images, conditions_and_images
from keras_genai.diffusion.sampling_loop import conditioned, in_batches
from keras_genai.utils.checks import check_positive

_NAMES = ("times", "cosines", "radii")
PROBES = ("rademacher", "gaussian", "exact")

# Butcher's tableaus whose stages lie at 0, 1/2 or 1: (nodes in halves, rows, weights).
_METHODS = {
    "heun": ((0, 2), ((), (1.0,)), (0.5, 0.5)),
    "rk4": (
        (0, 1, 1, 2),
        ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
        (1 / 6, 1 / 3, 1 / 3, 1 / 6),
    ),
}


def log_likelihood(
    denoise,
    schedule,
    x,
    num_steps=100,
    probe="rademacher",
    probes=1,
    key=(0, 0),
    first=0,
    method="rk4",
    t_range=None,
    tables=None,
):
    """`log p(x)` of each sample, in nats, under the model's probability-flow ODE.

    A pure function with its loop in the graph. The density is that of samples at the
    least time of the range, divided by alpha there: the data's own, but for a noise of
    `sigma / alpha`.

    Args:
        denoise: denoiser `(x, t)`, differentiable by x; see `kg.samplers`.
        schedule: a schedule of `kg.schedules`.
        x: data `(B, ...)`.
        num_steps: of the ODE solver, equal ones of log(sigma / alpha).
        probe: how the trace of the Jacobian is found: "rademacher" or "gaussian"
            vectors (Hutchinson's estimator, unbiased), or "exact", with as many
            gradients as there are dimensions.
        probes: how many vectors are averaged; they stay the same along the grid.
        key: pair of words of `backend.random.key`, for the vectors.
        first: number of the first sample: its vectors depend on the key and on it.
        method: "rk4" (fourth order) or "heun" (second).
        t_range: least and largest time; by default the schedule's own. Alpha must be
            above 0 there.
        tables: of `ode_inputs`, as tensors, in place of `num_steps`.

    Returns:
        `(log p, y)`: `(B,)`, and the latent at the end of the ODE, like x and about
        standard normal.

    Example:

    ```python
    log_p, _ = log_likelihood(denoise, schedule, images)
    bits_per_dim(log_p, images.shape[1:])
    ```
    """
    check_positive("num_steps", num_steps)
    check_positive("probes", probes)
    if probe not in PROBES:
        raise ValueError(
            f"unknown probe {probe!r}; expected one of {', '.join(PROBES)}."
        )
    if method not in _METHODS:
        raise ValueError(
            f"unknown method {method!r}; expected one of {', '.join(_METHODS)}."
        )
    x = ops.convert_to_tensor(x)
    ends = _ends(schedule, t_range)
    if tables is None:
        tables = {**_tables(schedule, ends, num_steps), **_numbers(ends, num_steps)}
    du = ops.cast(tables["du"], x.dtype)
    size = math.prod(x.shape[1:])
    axes = tuple(range(1, len(x.shape)))
    vectors = None if probe == "exact" else _vectors(probe, probes, key, first, x)
    nodes, rows, weights = _METHODS[method]

    def slopes(place, y):
        """dy/du and d log p/du at half step `place`."""
        t, c, radius = (
            ops.take(ops.cast(tables[name], x.dtype), place) for name in _NAMES
        )

        def clean(y):
            return split(denoise(radius * y, t))[0]

        if probe == "exact":
            trace = _exact_trace(clean, y, size)
        else:
            trace = sum(
                ops.sum(v * _product(clean, y, v), axis=axes) for v in vectors
            ) / len(vectors)
        return c * c * y - c * clean(y), c * trace - c * c * size

    def body(i, carried):
        y, change = carried
        known = []
        for node, row in zip(nodes, rows, strict=True):
            at = y + du * sum(w * k for w, (k, _) in zip(row, known, strict=True))
            known.append(slopes(2 * i + node, at))
        pairs = list(zip(weights, known, strict=True))
        y = y + du * sum(w * k for w, (k, _) in pairs)
        return y, change + du * sum(w * k for w, (_, k) in pairs)

    _, cosines, radii = (at for at in _tables(schedule, ends, 1).values())
    y = float(cosines[0]) * x  # from x_0 = x / alpha to y
    zeros = ops.zeros_like(ops.sum(x, axis=axes))  # (B,)
    y, change = ops.fori_loop(0, tables["count"], body, (y, zeros))
    std = schedule.prior_std / radii[-1]
    prior = -0.5 * ops.sum(ops.square(y / float(std)), axis=axes)
    prior = prior - size * (0.5 * math.log(2 * math.pi) + math.log(std))
    return prior - change + size * math.log(cosines[0]), y


def ode_inputs(schedule, num_steps, t_range=None):
    """The `tables` of `log_likelihood` as inputs of one program for any `num_steps`."""
    ends = _ends(schedule, t_range)
    made = {
        **programs.filled(_tables(schedule, ends, num_steps)),
        **_numbers(ends, num_steps),
    }
    return {**made, "du": made["du"].astype("float32")}


def _ends(schedule, t_range):
    """log(sigma / alpha) at the least and the largest time."""
    low, high = t_range or (schedule.t_min, schedule.t_max)
    levels = schedule.noise_level(np.array([low, high], "float64"))
    if not (np.all(np.isfinite(levels)) and 0 < levels[0] < levels[1] < 1e12):
        raise ValueError(
            "The likelihood needs noise at the least time and something of the data at "
            f"the largest; from t={low!r} to {high!r} sigma / alpha goes from "
            f"{levels[0]:.3g} to {levels[1]:.3g}. Give another t_range."
        )
    return np.log(levels)


def _tables(schedule, ends, num_steps):
    """Times, c and sqrt(alpha^2 + sigma^2) at every half step: dict name -> array."""
    u = np.linspace(*ends, 2 * num_steps + 1)
    times = schedule.time_at(-2.0 * u)
    radii = np.sqrt(schedule.alpha(times) ** 2 + schedule.sigma(times) ** 2)
    return dict(
        zip(_NAMES, (times, 1.0 / np.sqrt(1.0 + np.exp(2.0 * u)), radii), strict=True)
    )


def _numbers(ends, num_steps):
    """The number of steps, and how long each is."""
    return {
        "count": np.array(num_steps, "int32"),
        "du": (ends[1] - ends[0]) / num_steps,
    }


def _vectors(probe, probes, key, first, x):
    vectors = []
    for k in range(probes):
        probe_key = backend.random.subkey(key, "probe", k)
        shape = ops.shape(x)
        if probe == "gaussian":
            v = backend.random.normal(probe_key, shape, offset=first)
        else:
            v = backend.random.bernoulli(probe_key, shape, dtype="int32", offset=first)
            v = 2 * v - 1
        vectors.append(ops.cast(v, x.dtype))
    return vectors


def _product(clean, y, v):
    """`v^T dD/dy`, like y."""
    return backend.gradients(lambda y: ops.sum(clean(y) * v), y)


def _exact_trace(clean, y, size):
    """`tr(dD/dy)` `(B,)`, a gradient for each dimension."""
    shape = tuple(y.shape[1:])

    def body(k, total):
        one = ops.cast(ops.equal(ops.arange(size), k), y.dtype)
        one = ops.reshape(one, (1, *shape))
        product = _product(clean, y, one) * one
        return total + ops.sum(product, axis=tuple(range(1, len(y.shape))))

    zeros = ops.zeros_like(ops.sum(y, axis=tuple(range(1, len(y.shape)))))
    return ops.fori_loop(0, size, body, zeros)


def bits_per_dim(log_p, shape, levels=256, value_range=(-1.0, 1.0)):
    """Bits per dimension of data with discrete levels.

    The log-density should be that of the data with uniform noise of one level added
    (1511.01844, section 3.1): it then bounds the discrete log-likelihood from below.

    Args:
        log_p: nats, `(B,)`.
        shape: of one sample, without the batch.
        levels: number of the levels.
        value_range: lowest and highest level.

    Returns:
        `(B,)`.
    """
    size = math.prod(shape)
    low, high = value_range
    return -log_p / (size * math.log(2.0)) + math.log2((levels - 1) / (high - low))


# Of a model


def of_images(model, images, seed, num_steps, probe, probes, batch_size, conditions):
    """See `DDPM.log_likelihood`."""
    inputs, n, _ = conditions_and_images(model, "log_likelihood", images, conditions)
    t_range = _range(model.schedule)
    if backend.COMPILES:
        name = ("likelihood", probe, probes)
        inputs["ode"] = ode_inputs(model.schedule, num_steps, t_range)
    else:
        name = ("likelihood", probe, probes, num_steps)

    def density(key, count, first, inputs):
        return log_likelihood(
            conditioned(model, inputs, clip=None),
            model.schedule,
            model.to_latents(inputs["images"]),
            num_steps=num_steps,
            probe=probe,
            probes=probes,
            key=key,
            first=first,
            t_range=t_range,
            tables=inputs.get("ode"),
        )[0]

    key = random.key(seed, "likelihood")
    made = in_batches(model, name, density, inputs, n, key, batch_size)
    return np.concatenate(list(made))


def _range(schedule):
    """The schedule's times, but for one where nothing of the data is left."""
    low, high = schedule.t_min, schedule.t_max
    if schedule.alpha(high) > 0:
        return low, high
    return low, float(schedule.time_at(math.log(1e-4) * 2.0))


def bits_of_images(model, images, seed, levels, options):
    """See `DDPM.bits_per_dim`."""
    latents = tuple(model.latent_shape(model.image_shape))
    if latents != tuple(model.image_shape):
        raise ValueError(
            f"bits_per_dim is of images; {type(model).__name__} models latents "
            f"{latents}, whose density says nothing of bits of images. Its "
            "log_likelihood is that of the latents."
        )
    images = checked_images(images, len(images), model.image_shape, "images")
    key = random.key(seed, "dequantize")
    u = random.uniform(key, images.shape, host=True)
    width = 2.0 / (levels - 1)
    # Each level fills its own interval: the range grows by half a level each way.
    noisy = (images + (u - 0.5) * width).astype("float32")
    nats = model.log_likelihood(noisy, seed, **options)
    return bits_per_dim(nats, model.image_shape, levels)
