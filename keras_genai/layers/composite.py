"""The base of layers made of layers, each with its own stream of initial weights."""

import inspect

import keras

from keras_genai.backend import random
from keras_genai.layers.convolution import Conv2D
from keras_genai.layers.dense import Dense
from keras_genai.layers.embedding import Embedding
from keras_genai.layers.group_normalization import GroupNormalization
from keras_genai.layers.initializers import Normal, Streams, torch_uniform

INITIAL_STD = 0.02  # of the published trainings of GPT-2, BERT and ViT


class CompositeLayer(keras.layers.Layer):
    """A layer made of layers, each with its own stream of initial weights.

    The configuration is the arguments of the subclass's constructor, which are
    attributes of the same names.

    Args:
        seed: integer, the model's.
        stream: name of the layer's weights: layers of one model take different names.
        initializer: of the kernels and tables inside, a function of `(seed, stream)`:
            see `Streams`. A subclass gives its own; it is no part of the configuration.
    """

    def __init__(self, seed=0, stream="", initializer=torch_uniform, **kwargs):
        super().__init__(**kwargs)
        self.seed = random.check_seed(seed)
        self.stream = stream
        self._initial = Streams(stream, self.seed, initializer)

    def _normal(self, name, std):
        """The initializer of a layer inside: normal, or all's where `std` is None."""
        if not std:
            return self._initial(name)
        return Normal(std, seed=self.seed, stream=f"{self.stream}/{name}")

    def _place(self, name):
        """The arguments that every composite layer or dropout inside takes."""
        return {**self._initial.arguments(name), "dtype": self.dtype_policy}

    def _convolution(
        self,
        name,
        filters,
        size,
        strides=1,
        padding="same",
        initializer=None,
        use_bias=True,
    ):
        return Conv2D(
            filters,
            size,
            strides=strides,
            padding=padding,
            use_bias=use_bias,
            kernel_initializer=initializer or self._initial(name),
            dtype=self.dtype_policy,
            name=name,
        )

    def _dense(self, name, units, use_bias=True, initializer=None):
        return Dense(
            units,
            use_bias=use_bias,
            kernel_initializer=initializer or self._initial(name),
            dtype=self.dtype_policy,
            name=name,
        )

    def _built_dense(self, name, inputs, units):
        layer = self._dense(name, units)
        layer.build((None, inputs))
        return layer

    def _table(self, name, rows, channels, what="Tokens"):
        """An embedding, built; `what` its ids are."""
        layer = Embedding(
            rows,
            channels,
            embeddings_initializer=self._initial(name),
            dtype=self.dtype_policy,
            name=name,
            what=what,
        )
        layer.build()
        return layer

    def _group_norm(self, name, groups, epsilon):
        return GroupNormalization(groups, epsilon, dtype=self.dtype_policy, name=name)

    def _layer_norm(self, name, channels, epsilon):
        """A layer normalization, built."""
        layer = keras.layers.LayerNormalization(
            epsilon=epsilon, dtype=self.dtype_policy, name=name
        )
        layer.build((None, None, channels))
        return layer

    @classmethod
    def arguments(cls):
        """The names of the constructor's own arguments."""
        _, *parameters = inspect.signature(cls.__init__).parameters.values()
        return [p.name for p in parameters if p.kind != p.VAR_KEYWORD]

    def get_config(self):
        names = (*self.arguments(), "seed", "stream")
        own = {name: getattr(self, name) for name in names}
        return {**super().get_config(), **own}
