"""A table of vectors that refuses ids outside it."""

import keras
import numpy as np

from keras_genai import backend
from keras_genai.utils.serialization import PACKAGE


def check_ids(name, ids, count):
    """Refuses ids outside a table, where their values are known: not in a graph.

    Backends do not agree on them: a row of another id, NaN or an error of their own.

    Args:
        name: what they are, the first word of the message.
        ids: integers, a tensor or an array.
        count: rows of the table.
    """
    if isinstance(ids, keras.KerasTensor):
        return
    values = ids if isinstance(ids, np.ndarray) else backend.known(ids)
    if values is None or not values.size:
        return
    least, most = values.min(), values.max()
    if not (least >= 0 and most < count):
        raise ValueError(
            f"{name} must lie in [0, {count}); got values from {least} to {most}."
        )


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
