"""What `fit` is given, in the one form that the steps take.

Arrays become an `ArrayDataset`, whose order is a function of the seed and the
epoch, the same on every backend; everything else keeps its own order.
"""

import hashlib

import keras
import numpy as np

from keras_genai.backend import random
from keras_genai.backend.devices import Devices

_WHOLE = 2**28  # bytes of data that are digested whole
_SAMPLED = 2**26  # bytes that are digested of more


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

    def fingerprint(self):
        """What `kg.callbacks.Resume` knows a run's data by, as a dict.

        Of large arrays some samples, spread over all.
        """
        leaves = [a for a in keras.tree.flatten(self.arrays) if a is not None]
        digest = hashlib.sha256(repr([a is None for a in self.arrays]).encode())
        size = sum(leaf.nbytes for leaf in leaves)
        count = self.size
        if size > _WHOLE:
            count = min(count, max(256, _SAMPLED * self.size // size))
        rows = np.linspace(0, self.size - 1, count).round().astype(int)
        for leaf in leaves:
            digest.update(f"{leaf.dtype.str} {leaf.shape}".encode())
            part = leaf if count == self.size else leaf[rows]
            digest.update(np.ascontiguousarray(part).reshape(-1).view(np.uint8))
        return {
            "number of samples": self.size,
            "batch size": self.batch_size,
            "shuffling": bool(self.shuffle),
            "data": digest.hexdigest(),
        }

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


class WrappedDataset(keras.utils.PyDataset):
    """A `PyDataset` whose batches are another's, changed by `__getitem__`.

    All else is the other's: its order, its workers, what callbacks ask it for.

    Args:
        dataset: `PyDataset`.
    """

    def __init__(self, dataset):
        self.__dict__["dataset"] = dataset
        super().__init__(
            workers=dataset.workers,
            use_multiprocessing=dataset.use_multiprocessing,
            max_queue_size=dataset.max_queue_size,
        )

    @property
    def num_batches(self):
        return self.dataset.num_batches

    def on_epoch_begin(self):
        self.dataset.on_epoch_begin()

    def on_epoch_end(self):
        self.dataset.on_epoch_end()

    def __getattr__(self, name):
        if name.startswith("_") or name == "dataset":
            raise AttributeError(name)
        return getattr(self.dataset, name)


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
