"""Small networks of time for the tests: functional, of the package's layers."""

import keras
from keras import ops

from keras_genai import layers
from keras_genai.layers.initializers import Streams


def network(
    image_shape=(4, 4, 1),
    num_classes=None,
    vector_dim=None,
    factor=1,
    seed=0,
    out_channels=None,
):
    """Two convolutions, between them the time and the conditions."""
    initial = Streams("tiny", seed)
    x, t = keras.Input(image_shape), keras.Input(())
    inputs = [x, t]
    embedding = layers.TimeEmbedding(8, 8, seed=seed, stream="time")(t)
    if num_classes is not None:
        inputs.append(keras.Input((), dtype="int32"))
        one_hot = ops.one_hot(inputs[-1], num_classes + 1)
        dense = keras.layers.Dense(8, kernel_initializer=initial("labels"))
        embedding = embedding + dense(one_hot)
    if vector_dim is not None:
        inputs.append(keras.Input((vector_dim,)))
        dense = keras.layers.Dense(8, kernel_initializer=initial("vector"))
        embedding = embedding + dense(inputs[-1])
    y = layers.Conv2D(8, 3, padding="same", kernel_initializer=initial("first"))(x)
    y = layers.ResNetBlock(8, groups=2, seed=seed, stream="block")(y, embedding)
    channels = out_channels or factor * image_shape[-1]
    last = layers.Conv2D(
        channels, 3, padding="same", kernel_initializer=initial("last")
    )
    return keras.Model(inputs, last(y))
