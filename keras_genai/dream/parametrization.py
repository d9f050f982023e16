"""Pictures as functions of coefficients, and the shakes that a feature must survive.

A pixel's gradient favours fine patterns. Coefficients of waves, each as large as in
photographs, and of colours that vary independently, favour nothing: the same ascent
then gives pictures (Olah, Mordvintsev and Schubert, 2017, "preconditioning").
"""

import numpy as np
from keras import ops

# Ohta's axes of colours (1980), orthogonal: brightness, red against blue, and green
# against both; with the deviation along each of CIFAR-10's training photographs.
AXES = np.array([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-0.5, 1.0, -0.5]])
AXES /= np.linalg.norm(AXES, axis=1, keepdims=True)
DEVIATIONS = np.array([0.829, 0.237, 0.108])


class Pixels:
    """Each coefficient a pixel: `image = tanh(z)`.

    Args:
        shape: `(H, W, C)`.
    """

    def __init__(self, shape):
        self.shape = tuple(shape)

    def image(self, z):
        """Coefficients `(B, H, W, C)` -> pictures in (-1, 1)."""
        return ops.tanh(z)

    def coefficients(self, images):
        """The inverse of `image`, of pictures within (-1, 1), in NumPy."""
        return np.arctanh(np.clip(np.asarray(images, "float64"), -1 + 1e-7, 1 - 1e-7))


class Fourier(Pixels):
    """Coefficients of waves and of decorrelated colours: `image = tanh(F z)`.

    The basis is the real form of Fourier's, `cos + sin` of each frequency (Hartley,
    1942), which is orthonormal and its own inverse. A coefficient counts as one over
    its frequency, as in photographs (Field, 1987), scaled so that standard normal
    coefficients give pixels of deviation 1 before the tanh.

    Args:
        shape: `(H, W, C)`.
        decay: power of the frequency.
    """

    def __init__(self, shape, decay=1.0):
        super().__init__(shape)
        height, width, channels = self.shape
        self.rows, self.columns = _hartley(height), _hartley(width)
        up, across = _frequencies(height), _frequencies(width)
        frequency = np.sqrt(up[:, None] ** 2 + across**2)
        scale = np.maximum(frequency, 1.0 / max(height, width)) ** -decay
        self.scale = scale / np.sqrt(np.mean(scale**2))  # (H, W)
        self.colours = np.eye(channels)
        if channels == 3:
            deviations = DEVIATIONS / np.sqrt(np.mean(DEVIATIONS**2))
            self.colours = deviations[:, None] * AXES

    def image(self, z):
        def constant(array):
            return ops.convert_to_tensor(array, z.dtype)

        z = z * constant(self.scale[..., None])
        z = ops.einsum("ih,bhwc->biwc", constant(self.rows), z)
        z = ops.einsum("jw,bhwc->bhjc", constant(self.columns), z)
        return ops.tanh(ops.matmul(z, constant(self.colours)))

    def coefficients(self, images):
        z = super().coefficients(images) @ np.linalg.inv(self.colours)
        z = np.einsum("ih,bhwc->biwc", self.rows, z, optimize=True)
        z = np.einsum("jw,bhwc->bhjc", self.columns, z, optimize=True)
        return z / self.scale[..., None]


PARAMETRIZATIONS = {"fourier": Fourier, "pixels": Pixels}


def _hartley(size):
    """`cas(2 pi i j / n) / sqrt(n)`: symmetric and orthogonal."""
    angle = 2.0 * np.pi * (np.outer(np.arange(size), np.arange(size)) % size) / size
    return (np.cos(angle) + np.sin(angle)) / np.sqrt(size)


def _frequencies(size):
    """Of each row of the basis, in cycles a pixel: 0 to 1/2."""
    return np.minimum(np.arange(size), size - np.arange(size)) / size


def warped(x, angle, scale, shift):
    """Pictures turned, zoomed and moved about their middle, bilinear.

    What comes from beyond the edge is the edge.

    Args:
        x: `(B, H, W, C)`, H and W known.
        angle: radians, a scalar tensor.
        scale: above 1 shows less, larger; a scalar tensor.
        shift: `(2,)` tensor, rows and columns, in pixels.

    Returns:
        Tensor like `x`.
    """
    _, height, width, channels = x.shape
    middle = (height - 1) / 2, (width - 1) / 2
    rows = ops.arange(height, dtype=x.dtype)[:, None] - middle[0]
    columns = ops.arange(width, dtype=x.dtype)[None] - middle[1]
    angle, scale, shift = (ops.cast(v, x.dtype) for v in (angle, scale, shift))
    cos, sin = ops.cos(angle) / scale, ops.sin(angle) / scale
    row = cos * rows + sin * columns - shift[0] + middle[0]  # (H, W)
    column = cos * columns - sin * rows - shift[1] + middle[1]
    row = ops.clip(row, 0.0, height - 1.0)
    column = ops.clip(column, 0.0, width - 1.0)
    top = ops.minimum(ops.floor(row), float(max(height - 2, 0)))
    left = ops.minimum(ops.floor(column), float(max(width - 2, 0)))
    down, right = (row - top)[..., None], (column - left)[..., None]  # (H, W, 1)
    flat = ops.reshape(x, (-1, height * width, channels))
    first = ops.cast(top, "int32") * width + ops.cast(left, "int32")  # (H, W)

    def pixels(rows, columns):
        step = min(rows, height - 1) * width + min(columns, width - 1)
        return ops.take(flat, first + step, axis=1)  # (B, H, W, C)

    above = (1.0 - right) * pixels(0, 0) + right * pixels(0, 1)
    below = (1.0 - right) * pixels(1, 0) + right * pixels(1, 1)
    return (1.0 - down) * above + down * below
