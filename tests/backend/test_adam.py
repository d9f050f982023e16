"""Adam with a step of our own is Keras's Adam."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_genai import backend

pytestmark = pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="JAX takes Keras's own step."
)
# On TensorFlow the operations are Keras's: to the bit.
TOLERANCES = {
    "torch": {"float32": 2e-6, "float64": 1e-14},
    "tensorflow": {"float32": 0.0, "float64": 0.0},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.Adam(0.01),
        lambda: keras.optimizers.Adam(0.01, beta_1=0.5, epsilon=1e-2, clipnorm=1.0),
        lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1, global_clipnorm=0.5),
        lambda: keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(0.01, 15), use_ema=True
        ),
        lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
        lambda: keras.optimizers.Adam(0.01, amsgrad=True),
        lambda: keras.optimizers.SGD(0.01, momentum=0.9),
    ],
)
def test_it_is_kerass(make, dtype):
    draw = np.random.default_rng(0)
    start = draw.normal(size=(5, 7)), draw.normal(size=(3,))
    sides = [[keras.Variable(x, dtype=dtype) for x in start] for _ in range(2)]
    optimizers = [make(), make()]
    for _ in range(20):
        wide = ops.transpose(ops.convert_to_tensor(draw.normal(size=(7, 5)), dtype))
        gradients = [wide, ops.convert_to_tensor(draw.normal(size=(3,)), dtype)]
        with backend.without_gradients():
            optimizers[0].apply(gradients, sides[0])
        backend.apply_gradients(optimizers[1], gradients, sides[1])
    tolerance = TOLERANCES[keras.backend.backend()][dtype]
    for a, b in zip(
        sides[0] + optimizers[0].variables,
        sides[1] + optimizers[1].variables,
        strict=True,
    ):
        a, b = ops.convert_to_numpy(a), ops.convert_to_numpy(b)
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance)


def test_the_optimizer_is_left_as_it_was():
    optimizer = keras.optimizers.Adam(0.01)
    before = set(vars(optimizer))
    variable = keras.Variable(np.ones(3, "float32"))
    backend.apply_gradients(optimizer, [ops.ones(3)], [variable])
    methods = {"_parallel_update_step", "_distributed_tf_update_step"}
    assert not methods & (set(vars(optimizer)) - before)
