"""What `fit` and `evaluate` do around Keras's own: data, checks, losses not finite."""

import contextlib
import dataclasses

import keras
import numpy as np
from keras import ops

from keras_genai import backend, metrics
from keras_genai.backend.programs import Traits
from keras_genai.training import data as data_lib

RUNS = 16  # of a step as Python, until it is taken to be run as Python for ever


class EpochNumber(keras.callbacks.Callback):
    """Tells the dataset which epoch it is, and stops at a loss that is not finite."""

    async_safe = True

    def __init__(self, dataset):
        super().__init__()
        self.dataset = dataset

    def on_epoch_begin(self, epoch, logs=None):
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
        # The other callbacks came before: they may have set what the step reads.
        self.model.make_train_function()

    def on_train_batch_end(self, batch, logs=None):
        for name, value in (logs or {}).items():
            if name.endswith("loss") and not np.all(np.isfinite(value)):
                raise NotFinite

    def on_epoch_end(self, epoch, logs=None):
        losses = {n: v for n, v in (logs or {}).items() if not n.startswith("val_")}
        self.on_train_batch_end(None, losses)


class NotFinite(Exception):
    """A loss was not finite; `raise_not_finite` says whose and when."""


def arrays_of(model, x, y, sample_weight, class_weight=None):
    """The arrays of `fit` and `evaluate`, checked."""
    arrays = [data_lib.to_numpy(part) for part in (x, y, sample_weight)]
    if class_weight is not None:
        if arrays[1] is None or arrays[2] is not None:
            raise ValueError(
                "class_weight needs labels and no sample_weight beside it."
            )
        arrays[2] = np.array(
            [class_weight.get(int(label), 1.0) for label in arrays[1]], "float32"
        )
    model.check_data(*arrays)
    return tuple(arrays)


def from_arrays(
    model,
    arrays,
    *,
    batch_size,
    shuffle,
    steps_per_epoch,
    validation_split,
    validation_data,
    validation_batch_size,
):
    """What Keras's `fit` is given where the data are arrays.

    Args:
        model: the model.
        arrays: `(x, condition, weight)`: see `arrays_of`.
        batch_size, shuffle, steps_per_epoch, validation_split, validation_data,
        validation_batch_size: of `fit`.

    Returns:
        `(dataset, validation_data)`.
    """
    if validation_split:
        arrays, held_out = _split(arrays, validation_split)
        validation_data = validation_data or held_out
    dataset = data_lib.ArrayDataset(
        arrays,
        batch_size or 32,
        shuffle,
        model.seed,
        steps_per_epoch,
        model.devices(),
    )
    size, which = dataset.smallest_batch()
    check_parts(model, size, which, dataset.devices.least(size))
    held_out = data_lib.unpack(validation_data)
    if data_lib.is_arrays(held_out[0]):
        validation_data = in_order(
            model, arrays_of(model, *held_out), validation_batch_size or batch_size
        )
    return dataset, validation_data


def peeked(model, x):
    """An iterable of batches, with nothing lost, when its first is checked."""
    batch, x = data_lib.peek(divided(model, x))
    batch = [*map(data_lib.to_numpy, data_lib.unpack(batch))]
    model.check_data(*batch)
    size = data_lib.rows(batch)
    check_parts(model, size, "the first batch", model.devices().least_of_own(size))
    return x


def check_parts(model, size, which, share):
    """Refuses a batch of fewer samples than the parts that a step cuts it into.

    Args:
        model: the model.
        size: samples in the batch.
        which: what the batch is called in the message.
        share: samples of it that a step sees, on the device that has the fewest.

    Raises:
        ValueError: some device or some part would have no sample.
    """
    if share >= model.accumulate:
        return
    devices = model.devices()
    divided = f"{devices.count} {devices.kind}"
    if share == 0:
        raise ValueError(
            f"{which[0].upper()}{which[1:]} has {size} samples, which {divided} cannot "
            f"share: each must get some. Give batches of a multiple of {devices.count}."
        )
    raise ValueError(
        f"accumulate={model.accumulate} cuts each batch into as many parts"
        + (f" on each of the {divided}" if share < size else "")
        + f"; {which} has {size} samples"
        + (f", of which one of them gets {share}" if share < size else "")
        + ". Give a smaller accumulate, or batches of more samples, the last as well."
    )


def in_order(model, arrays, batch_size):
    """Batches of arrays in their order, for an evaluation."""
    return data_lib.ArrayDataset(
        arrays, batch_size or 32, False, model.seed, devices=model.devices()
    )


def raise_not_finite(model):
    """Raises the `FloatingPointError` of `fit`, with player and step."""
    first = ops.convert_to_numpy(model.not_finite)
    found = [
        f"the {name}'s at step {step}"
        for step, name in sorted(zip(first, model._names, strict=True))
        if step >= 0
    ]
    # Resume notes where it has stored a state, which is finite.
    path = getattr(model, "_stored_run", None)
    stored = f"; {path} holds the last finite state" if path else ""
    raise FloatingPointError(
        f"A loss of {type(model).__name__} is not finite: "
        f"{', then '.join(found) or 'an average over the epoch'} (counted from "
        "0). Training has stopped. Lower that player's learning rate, clip its "
        f"gradients (clipnorm=1.0 in its optimizer) or check the data{stored}."
    ) from None


def judge_samples(model, chosen, seed, x, y, batch_size, weight, kwargs):
    """The losses on data and what metrics say of as many samples; see `evaluate`."""
    if not data_lib.is_arrays(x):
        raise ValueError(
            "evaluate(metrics=...) compares with real samples in an array x; got "
            f"{type(x).__name__}."
        )
    kwargs["return_dict"] = True
    losses = model.evaluate(x, y, batch_size, weight, **kwargs)
    verbose = 0 if kwargs.get("verbose") == 0 else 1
    judged = metrics.evaluate(
        model,
        chosen,
        *map(data_lib.to_numpy, (x, y)),
        seed=seed,
        batch_size=batch_size or 256,
        verbose=verbose if backend.is_main_process() else 0,
    )
    return {**losses, **judged}


def divided(model, x):
    """Data of which each process reads its own part, where they can be told that."""
    if hasattr(x, "divide"):
        x.divide(model.devices())
    return x


def fed(x):
    """A `PyDataset` as the backend reads it fastest; anything else as it is."""
    return backend.feed(x) if isinstance(x, keras.utils.PyDataset) else x


def _split(arrays, fraction):
    """The arrays without their last `fraction`, and those last ones."""
    leaves = [leaf for leaf in keras.tree.flatten(arrays) if leaf is not None]
    cut = round(len(leaves[0]) * (1.0 - fraction))

    def take(rows):
        return tuple(
            None if part is None else keras.tree.map_structure(lambda a: a[rows], part)
            for part in arrays
        )

    return take(slice(None, cut)), take(slice(cut, None))


# Retracing


@dataclasses.dataclass
class _Traced:
    """What a step was made of, and how often it was run as Python."""

    traits: Traits
    runs: int = 0


def is_other(model, kind):
    """Whether what a step takes as constants has changed since it was made."""
    made = model.__dict__.setdefault("__traced", {})
    now, before = Traits(model, getattr(model, "optimizer", None)), made.get(kind)
    if before is not None and before.traits == now:
        return False
    made[kind] = _Traced(now)
    return before is not None


@contextlib.contextmanager
def as_python(model, kind):
    """Around a step while it is traced: what it sets itmodel is no change."""
    traced = model.__dict__.get("__traced", {}).get(kind)
    seen = traced is not None and traced.runs < RUNS
    seen = seen and traced.traits == Traits(model, getattr(model, "optimizer", None))
    yield
    if seen:
        traced.runs += 1
        traced.traits = Traits(model, getattr(model, "optimizer", None))
