"""What `fit` is given, in the one form that the steps take.

Arrays become an `ArrayDataset`, whose order is a function of the seed and the
epoch, the same on every backend; everything else keeps its own order.
"""

import keras
import numpy as np

from keras_genai.backend import random
from keras_genai.backend.devices import Devices


def unpack(data):
    """What Keras hands to a step, as `(x, condition, weight)`; the absent are None."""
    if isinstance(data, list):
        data = tuple(data)
    if not isinstance(data, tuple):
        data = (data,)
    if len(data) > 3:
        raise ValueError(
            "A batch is x, (x, condition) or (x, condition, weight); "
            f"got a tuple of {len(data)}."
        )
    x, condition, weight = (*data, None, None)[:3]
    # No condition beside a weight is `()` (see `ArrayDataset`), which the queue of
    # PyTorch makes a list of, and which others may write so in batches of their own.
    condition, weight = (
        None if isinstance(part, (tuple, list)) and not part else part
        for part in (condition, weight)
    )
    return x, condition, weight


def tensors(data):
    """A batch `(images, labels, weight)` as tensors of the types that networks take."""
    real, labels, weight = (
        None if part is None else keras.ops.convert_to_tensor(part) for part in data
    )
    real = keras.ops.cast(real, keras.config.floatx())
    if labels is not None:
        labels = keras.ops.cast(keras.ops.reshape(labels, (-1,)), "int32")
    if weight is not None:
        weight = keras.ops.cast(weight, keras.config.floatx())
    return real, labels, weight


def rows(data):
    """The number of samples in a batch, a scalar tensor where it is not known."""
    leaf = next(leaf for leaf in keras.tree.flatten(data) if leaf is not None)
    return keras.ops.shape(leaf)[0]


def is_arrays(x):
    """Whether `x` is arrays or tensors in memory (alone, or in a dict or list)."""
    leaves = keras.tree.flatten(x)
    return bool(leaves) and all(
        isinstance(leaf, np.ndarray) or keras.ops.is_tensor(leaf) or _is_foreign(leaf)
        for leaf in leaves
    )


def _is_foreign(leaf):
    """Another backend's tensor or a table: it has values and knows its shape."""
    return hasattr(leaf, "__array__") and hasattr(leaf, "shape")


def to_numpy(tree):
    """Every leaf as a NumPy array; None stays None."""

    def convert(leaf):
        if keras.ops.is_tensor(leaf):
            return keras.ops.convert_to_numpy(leaf)
        return np.asarray(leaf)

    return None if tree is None else keras.tree.map_structure(convert, tree)


class ArrayDataset(keras.utils.PyDataset):
    """Batches of arrays in an order that is a function of (seed, epoch).

    Args:
        arrays: `(x, condition, weight)`, NumPy arrays or trees of them, or None.
        batch_size: samples in a batch; the last may have fewer.
        shuffle: False keeps the order of the arrays.
        seed: integer.
        steps_per_epoch: batches in an epoch; the data is run through again and
            again, each pass in its own order. By default one pass.
        devices: how the batches are divided, a `Devices`. By default not at all.

    Attributes:
        epoch: index of the epoch; set before each.
    """

    def __init__(
        self, arrays, batch_size, shuffle, seed, steps_per_epoch=None, devices=None
    ):
        super().__init__()
        self.devices = devices or Devices()
        sizes = {len(leaf) for leaf in keras.tree.flatten(arrays) if leaf is not None}
        if len(sizes) != 1:
            raise ValueError(
                "The images, conditions and weights must have the same number of "
                f"samples; got {sorted(sizes)}."
            )
        (self.size,) = sizes
        if self.size == 0:
            raise ValueError("The data holds no samples; at least one is needed.")
        self.arrays = arrays
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.batches = self.devices.batches(self.size, batch_size)
        self.steps = steps_per_epoch or self.batches
        self.epoch = 0
        self._order = (None, None)

    def set_epoch(self, epoch):
        self.epoch = epoch

    @property
    def num_batches(self):
        return self.steps

    def smallest_batch(self):
        """`(samples, name)` of the batch that has the fewest."""
        last = self.size - (self.batches - 1) * self.batch_size
        if last >= self.batch_size:  # the one after it may have been left out
            return self.batch_size, "a batch"
        return self.devices.usable(last), "the last batch"

    def order(self, number):
        """The order of the samples in the pass of that number."""
        if not self.shuffle:
            return np.arange(self.size)
        if self._order[0] != number:
            key = random.key(self.seed, "shuffle", number)
            self._order = (number, random.permutation(key, self.size))
        return self._order[1]

    def __getitem__(self, index):
        number, batch = divmod(self.epoch * self.steps + index, self.batches)
        rows = self.order(number)[batch * self.batch_size :][: self.batch_size]
        rows = self.devices.own(rows)
        x, condition, weight = (
            None if part is None else keras.tree.map_structure(lambda a: a[rows], part)
            for part in self.arrays
        )
        if weight is not None:
            # TensorFlow's queue of batches holds no None.
            return x, () if condition is None else condition, weight
        return (x,) if condition is None else (x, condition)


def peek(x):
    """The first batch of an iterable, and the iterable with nothing lost.

    Args:
        x: a `PyDataset`, a `tf.data.Dataset`, a `DataLoader`, or a generator.

    Returns:
        `(batch, x)`.
    """
    if isinstance(x, keras.utils.PyDataset):
        return x[0], x
    iterator = iter(x)
    try:
        batch = next(iterator)
    except StopIteration:
        raise ValueError("The data holds no batches; at least one is needed.") from None
    return batch, _chained(batch, iterator) if iterator is x else x


def _chained(first, rest):
    """A generator (Keras takes no other iterator) of the first batch and the rest."""
    yield first
    yield from rest
