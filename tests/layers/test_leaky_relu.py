"""LeakyReLU: values and derivatives, at 0 too."""

import keras
import numpy as np

from keras_genai import backend, layers


def test_values_and_derivatives():
    layer = layers.LeakyReLU(0.2)
    x = keras.ops.convert_to_tensor(np.array([-2.0, 0.0, 3.0], "float32"))
    got = keras.ops.convert_to_numpy(layer(x))
    np.testing.assert_allclose(got, [-0.4, 0.0, 3.0], rtol=1e-6)
    slopes = backend.gradients(lambda x: keras.ops.sum(layer(x)), x)
    slopes = keras.ops.convert_to_numpy(slopes)
    np.testing.assert_allclose(slopes, [0.2, 0.2, 1.0], rtol=1e-6)


def test_config():
    config = keras.saving.serialize_keras_object(layers.LeakyReLU(0.1))
    assert keras.saving.deserialize_keras_object(config).negative_slope == 0.1
