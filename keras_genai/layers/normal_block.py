"""A block of transformers: what is in it begins normal."""

import keras

from keras_genai.layers.embedding import Embedding
from keras_genai.layers.image_blocks import Block
from keras_genai.layers.initializers import Normal

INITIAL_STD = 0.02  # of the published trainings of GPT-2, BERT and ViT


class NormalBlock(Block):
    """A block whose kernels and tables begin normal.

    Attributes:
        initial_std: the deviation; None begins as `Block` does.
        out_std: that of the last kernel, by default `initial_std`.
        last: name of that kernel's layer.
    """

    initial_std = out_std = last = None

    def _initial(self, name, zero=False):
        std = self.out_std if name == self.last and self.out_std else self.initial_std
        if zero or std is None:
            return super()._initial(name, zero)
        return Normal(std, seed=self.seed, stream=f"{self.stream}/{name}")

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

    def _layer_norm(self, name, channels, epsilon):
        """A layer normalization, built."""
        layer = keras.layers.LayerNormalization(
            epsilon=epsilon, dtype=self.dtype_policy, name=name
        )
        layer.build((None, None, channels))
        return layer

    def _built_dense(self, name, inputs, units):
        layer = self._dense(name, units)
        layer.build((None, inputs))
        return layer
