"""A table of vectors that refuses ids outside it."""

import keras

from keras_genai.engine.checks import check_ids
from keras_genai.engine.optimizer import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class Embedding(keras.layers.Embedding):
    """Keras's embedding, with a `ValueError` for ids outside the table.

    They are looked at where the layer is called by itself: in a graph their values are
    not known.

    Args:
        what: what the ids are, for the message; by default "Ids".
    """

    def __init__(self, *args, what="Ids", **kwargs):
        super().__init__(*args, **kwargs)
        self.what = what

    def call(self, inputs):
        check_ids(self.what, inputs, self.input_dim)
        return super().call(inputs)

    def get_config(self):
        return {**super().get_config(), "what": self.what}
