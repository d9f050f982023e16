"""A sum that is kept in memory: the same numbers and gradients, of every order."""

import numpy as np
from keras import ops

from keras_genai import backend


def test_it_is_the_identity():
    x = ops.convert_to_tensor(np.linspace(-1, 1, 6, dtype="float32").reshape(2, 3))

    def cube(x):
        return ops.sum(backend.materialized(x) ** 3)

    def twice(x):
        return ops.sum(backend.gradients(cube, x) ** 2)

    found = [backend.materialized(x), backend.gradients(cube, x)]
    found.append(backend.gradients(twice, x))
    for made, wanted in zip(found, (x, 3 * x**2, 36 * x**3), strict=True):
        np.testing.assert_allclose(
            ops.convert_to_numpy(made), ops.convert_to_numpy(wanted), rtol=1e-6
        )
