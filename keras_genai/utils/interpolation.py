"""Ways from one latent to another."""

import numpy as np

KINDS = ("spherical", "linear")


def check_kind(kind):
    """Refuses another kind of way."""
    if kind not in KINDS:
        raise ValueError(f"kind must be 'spherical' or 'linear'; got {kind!r}.")


def interpolate(a, b, t, kind="spherical"):
    """Vectors on the way from one to another, on the last axis.

    Args:
        a, b: NumPy arrays `(..., D)`.
        t: places on the way, 0 at a and 1 at b, to broadcast against them.
        kind: `"spherical"`, along a great circle with the length between
            (1609.04468, section 2.1), or `"linear"`.

    Returns:
        NumPy float64.
    """
    check_kind(kind)
    a, b = np.asarray(a, "float64"), np.asarray(b, "float64")
    straight = (1.0 - t) * a + t * b
    if kind == "linear":
        return straight
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    cosine = np.sum(a * b, axis=-1) / np.maximum(lengths, 1e-12)
    angle = np.arccos(np.clip(cosine, -1.0, 1.0))[..., None]
    sine = np.sin(angle)
    parallel = sine < 1e-6  # or opposite, or a zero: no circle is defined
    sine = np.where(parallel, 1.0, sine)
    circle = (np.sin((1.0 - t) * angle) * a + np.sin(t * angle) * b) / sine
    return np.where(parallel, straight, circle)
