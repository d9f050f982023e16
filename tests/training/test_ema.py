"""The average of a network against its recursion."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_genai.training import EMA

pytestmark = pytest.mark.in_turn


def network():
    inputs = keras.Input((2,))
    x = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(inputs)
    return keras.Model(inputs, keras.layers.BatchNormalization()(x))


def test_the_shadow_follows_the_recursion_with_its_statistics():
    net = network()
    ema = EMA(net, decay=0.9)
    moving = net.layers[-1].moving_mean
    shadow = np.ones((2, 1)), np.zeros(1)
    for n in range(15):
        net.layers[1].kernel.assign(np.full((2, 1), float(n)))
        moving.assign(np.full(1, 10.0 * n))
        ema.update()
        d = min(0.9, (1 + n) / (10 + n))
        shadow = d * shadow[0] + (1 - d) * n, d * shadow[1] + (1 - d) * 10.0 * n
    kernel = ops.convert_to_numpy(ema.shadow[0])
    np.testing.assert_allclose(kernel, shadow[0], rtol=1e-5)
    index = [v.path for v in net.variables].index(moving.path)
    np.testing.assert_allclose(
        ops.convert_to_numpy(ema.shadow[index]), shadow[1], rtol=1e-5
    )


def test_run_reads_the_shadow_and_leaves_the_network():
    net = network()
    ema = EMA(net, decay=0.5)
    net.layers[1].kernel.assign(np.full((2, 1), 7.0))
    x = np.ones((1, 2), "float32")
    averaged = ops.convert_to_numpy(ema.run(lambda: net(x, training=False)))
    np.testing.assert_allclose(averaged, 2.0 / np.sqrt(1.001), rtol=1e-5)
    own = ops.convert_to_numpy(net(x, training=False))
    np.testing.assert_allclose(own, 14.0 / np.sqrt(1.001), rtol=1e-5)


@pytest.mark.parametrize("decay", [1.0, -0.1, True])
def test_a_decay_out_of_range_is_refused(decay):
    with pytest.raises(ValueError, match="ema_decay"):
        EMA(network(), decay)
