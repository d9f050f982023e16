"""Guidance: from a denoiser to one that follows a condition more closely.

Each function returns a denoiser `(x, t) -> x_0` for the samplers, and is pure. At a
given x and t the parameterizations are linear in x_0, so that a combination of clean
samples whose weights add up to 1 is the same combination of noises or velocities.
"""

from collections.abc import Callable

import keras
from keras import ops

from keras_genai import backend
from keras_genai.backend.precision import widen
from keras_genai.diffusion.denoiser import Denoiser, split
from keras_genai.diffusion.schedules import expand


def _join(x_0, v):
    return x_0 if v is None else (x_0, v)


def _extrapolate(base, strong, scale):
    return base + scale * (strong - base)


def _scale_at(scale, t, interval, x):
    """The scale to broadcast against x; 1 outside the interval of times."""
    scale = ops.cast(ops.convert_to_tensor(scale), x.dtype)
    if interval is not None:
        low, high = (ops.cast(bound, x.dtype) for bound in interval)
        t = ops.cast(t, x.dtype)
        inside = ops.logical_and(t >= low, t <= high)
        scale = ops.where(inside, scale, ops.ones_like(scale))
    return expand(scale, x)


def check_interval(interval):
    """Refuses two times that are none, or in the wrong order; tensors pass."""
    if interval is None or any(map(ops.is_tensor, interval)):
        return
    if not (len(interval) == 2 and interval[0] < interval[1]):
        raise ValueError(
            "interval must be two times (t_low, t_high) with t_low < t_high; got "
            f"{interval!r}."
        )


def check_rescale(rescale):
    """Refuses a share outside [0, 1]; a tensor passes."""
    if not ops.is_tensor(rescale) and not 0 <= rescale <= 1:
        raise ValueError(f"rescale must be in [0, 1]; got {rescale!r}.")


def classifier_free(
    denoise,
    condition,
    null,
    scale,
    interval=None,
    rescale=0.0,
    image_null=None,
    image_scale=None,
):
    """Classifier-free guidance (2207.12598) by one call on a doubled batch.

    `x_0 = x_0(null) + scale (x_0(condition) - x_0(null))`: 1 is no guidance. With
    `image_null`, by a tripled batch, `x_0(null)` is itself led away from there:
    `x_0(image_null) + image_scale (x_0(null) - x_0(image_null))` (2211.09800, equation
    3, whose null has the image of the condition).

    Args:
        denoise: function `(x, t, condition)`, usually a `Denoiser`, of a network that
            was trained with the condition dropped at times.
        condition: tensor or structure of tensors `(B, ...)`.
        null: likewise, what the network was given for a dropped condition; or a
            negative condition, to be led away from.
        scale: number, scalar tensor or `(B,)`.
        interval: times (t_low, t_high), both included; outside there is no guidance
            (2404.07724), and with one time for all samples no second half of the batch.
            `schedule.time_at(-2 log(sigma / alpha))` turns noise levels into times.
        rescale: share phi in [0, 1] by which the prediction is scaled back to the
            standard deviation of the conditional one (2305.08891, section 3.4); in the
            parameterization of a `Denoiser`, else of x_0.
        image_null: like `null`, without the condition's image.
        image_scale: like `scale`, of the image.

    Returns:
        A denoiser. A learned variance is the conditional one.

    Raises:
        ValueError: for a missing null, a wrong interval or rescale.
    """
    if null is None:
        raise ValueError(
            "Guidance compares with the network's answer without a condition: it "
            "needs a model trained with label dropout, and its null condition."
        )
    check_interval(interval)
    check_rescale(rescale)

    parts = [condition, null] if image_null is None else [condition, null, image_null]

    def guided(x, t):
        factor = _scale_at(scale, t, interval, x)
        joined = keras.tree.map_structure(
            lambda a, *b: ops.concatenate([a, *(ops.cast(c, a.dtype) for c in b)]),
            *map(_tensors, parts),
        )
        all_x = ops.concatenate([x] * len(parts))  # (2B, ...) or (3B, ...)
        all_t = ops.concatenate([t] * len(parts)) if len(ops.shape(t)) else t
        x_0, v = split(denoise(all_x, all_t, joined))
        count = ops.shape(x)[0]
        strong, base = x_0[:count], x_0[count : 2 * count]
        mixed = _extrapolate(base, strong, factor)
        if image_null is not None:
            share = _scale_at(image_scale, t, interval, x) - 1.0
            mixed = mixed + share * (base - x_0[2 * count :])
        if ops.is_tensor(rescale) or rescale:
            mixed = _rescaled(denoise, mixed, strong, x, t, rescale)
        return _join(mixed, None if v is None else v[:count])

    def plain(x, t):
        return denoise(x, t, _tensors(condition))

    def at_its_times(x, t):
        x, t = map(ops.convert_to_tensor, (x, t))
        if interval is None or len(t.shape):
            return guided(x, t)
        low, high = (ops.cast(bound, t.dtype) for bound in interval)
        inside = ops.logical_and(t >= low, t <= high)
        return ops.cond(inside, lambda: guided(x, t), lambda: plain(x, t))

    return at_its_times


def _tensors(structure):
    return keras.tree.map_structure(ops.convert_to_tensor, structure)


def _rescaled(denoise, x_0, conditional, x, t, share):
    """2305.08891, equations 15 and 16."""
    predicts = isinstance(denoise, Denoiser)
    if predicts:
        x_0, conditional = (
            denoise.to_prediction(item, x, t) for item in (x_0, conditional)
        )
    axes = tuple(range(1, len(x.shape)))
    wanted = ops.std(conditional, axis=axes, keepdims=True)
    factor = wanted / ops.maximum(ops.std(x_0, axis=axes, keepdims=True), 1e-12)
    share = ops.cast(share, factor.dtype)
    scaled = (share * factor + (1.0 - share)) * x_0
    return denoise.to_x0(scaled, x, t) if predicts else scaled


def autoguidance(denoise, weak, scale, interval=None):
    """Autoguidance (2406.02507, equation 4): away from a worse version of the model.

    `x_0 = weak + scale (x_0 - weak)`, both with the condition, if any.

    Args:
        denoise: denoiser `(x, t)`.
        weak: denoiser of a smaller or less trained network.
        scale: number, scalar tensor or `(B,)`; 1 is no guidance.
        interval: see `classifier_free`.

    Returns:
        A denoiser. A learned variance is that of `denoise`.
    """
    check_interval(interval)

    def guided(x, t):
        strong, v = split(denoise(x, t))
        base, _ = split(weak(x, t))
        return _join(_extrapolate(base, strong, _scale_at(scale, t, interval, x)), v)

    return guided


def classifier(denoise, log_probability: Callable, schedule, scale):
    """Classifier guidance (2105.05233, algorithm 2), for x of any alpha and sigma.

    Adds `scale` times the gradient of `log p(y | x_t)` to the score:
    `x_0 + scale (sigma^2 / alpha) grad log p`.

    Args:
        denoise: denoiser `(x, t)`.
        log_probability: function `(x, t)` to `(B,)`, of a classifier of noisy samples.
        schedule: a schedule of `kg.schedules`, without a time of alpha = 0.
        scale: number, scalar tensor or `(B,)`; 0 is no guidance.

    Returns:
        A denoiser.
    """

    def guided(x, t):
        x_0, v = split(denoise(x, t))
        gradient = backend.gradients(lambda y: ops.sum(log_probability(y, t)), x)
        gradient = ops.stop_gradient(ops.cast(widen(gradient), x.dtype))
        t = ops.cast(t, x.dtype)
        shift = schedule.sigma(t) ** 2 / schedule.alpha(t)
        factor = expand(shift, x) * _scale_at(scale, t, None, x)
        return _join(x_0 + factor * gradient, v)

    return guided
