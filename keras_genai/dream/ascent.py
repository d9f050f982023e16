"""One step uphill on a picture: the gradient made even, smooth, and followed.

Everything is written for `(B, H, W, C)` of any size, also one that is known only when
the step runs.
"""

import math

from keras import ops

OPTIMIZERS = ("step", "adam")
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8  # Adam's (1412.6980)


def normalized(gradient):
    """Each image's gradient by its own root mean square: its size is 1 a pixel."""
    square = ops.mean(ops.square(gradient), axis=(1, 2, 3), keepdims=True)
    return gradient / (ops.sqrt(square) + 1e-12)


def rolled(x, shift):
    """The picture moved by `shift`, `(2,)` integers, rows and columns, around the edge.

    By a choice of rows and columns: a roll by a tensor is not in every backend.
    """
    for axis in (1, 2):
        size = ops.shape(x)[axis]
        places = ops.mod(ops.arange(size, dtype="int32") - shift[axis - 1], size)
        x = ops.take(x, places, axis=axis)
    return x


def laplacian(x):
    """The sum of the four neighbours' differences; beyond the edge is the edge.

    It is minus the gradient of the total variation in its square form, half the sum of
    the squared differences between neighbours (1412.0035, section 3, beta = 2).
    """
    total = 0.0
    for axis in (1, 2):
        difference = _ends(x, axis, 1, None) - _ends(x, axis, 0, -1)
        nothing = ops.zeros_like(_ends(x, axis, 0, 1))
        total = total + ops.concatenate([difference, nothing], axis)
        total = total - ops.concatenate([nothing, difference], axis)
    return total


def _ends(x, axis, start, stop):
    return x[:, start:stop] if axis == 1 else x[:, :, start:stop]


def smoothed(x, sigma):
    """Blurred by a Gaussian of `sigma` pixels; beyond the edge the picture begins anew.

    Args:
        x: `(B, H, W, C)`, H and W greater than `3 sigma`.
        sigma: number; 0 changes nothing.
    """
    if not sigma:
        return x
    radius = math.ceil(3 * sigma)
    weights = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(radius + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    for axis in (1, 2):
        whole = weights[0] * x
        for k in range(1, radius + 1):
            whole = whole + weights[k] * (_turned(x, axis, k) + _turned(x, axis, -k))
        x = whole / total
    return x


def _turned(x, axis, k):
    return ops.concatenate([_ends(x, axis, -k, None), _ends(x, axis, 0, -k)], axis)


def start_state(x, optimizer, xp=ops):
    """What the optimizer remembers before the first step: a tuple like `x`.

    `xp` is `np` where `x` is a NumPy array.
    """
    if optimizer == "step":
        return ()
    return xp.zeros_like(x), xp.zeros_like(x)


def climbed(x, direction, state, number, step_size, optimizer):
    """One step in a direction.

    Args:
        x: what is moved.
        direction: like `x`, uphill.
        state: of the optimizer.
        number: of the step, from 0, an integer scalar.
        step_size: of the step.
        optimizer: `"step"`, `x + step_size direction`; or `"adam"` (1412.6980).

    Returns:
        `(x, state)`.
    """
    if optimizer == "step":
        return x + step_size * direction, ()
    first, second = state
    first = BETA_1 * first + (1.0 - BETA_1) * direction
    second = BETA_2 * second + (1.0 - BETA_2) * ops.square(direction)
    number = ops.cast(number, x.dtype) + 1.0
    mean = first / (1.0 - ops.power(ops.cast(BETA_1, x.dtype), number))
    square = second / (1.0 - ops.power(ops.cast(BETA_2, x.dtype), number))
    return x + step_size * mean / (ops.sqrt(square) + EPSILON), (first, second)
