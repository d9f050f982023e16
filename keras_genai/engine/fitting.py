"""`fit` and `evaluate` of every model: what Keras leaves to the backend, in one way."""

import keras
import numpy as np
from keras import ops

from keras_genai.engine import backend_ops
from keras_genai.engine import data as data_lib
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import (
    array,
    callbacks_of,
    class_weights,
    data,
    either,
    flag,
    integer,
    integers,
    number,
    optional,
)


class _EpochNumber(keras.callbacks.Callback):
    """Tells the dataset which epoch it is, and stops at a loss that is not finite."""

    async_safe = True

    def __init__(self, dataset):
        super().__init__()
        self.dataset = dataset

    def on_epoch_begin(self, epoch, logs=None):
        if self.dataset is not None:
            self.dataset.epoch = epoch
        # The other callbacks came before: they may have set what the step reads.
        self.model.make_train_function()

    def on_train_batch_end(self, batch, logs=None):
        for name, value in (logs or {}).items():
            if name.endswith("loss") and not np.all(np.isfinite(value)):
                raise _NotFinite

    def on_epoch_end(self, epoch, logs=None):
        losses = {n: v for n, v in (logs or {}).items() if not n.startswith("val_")}
        self.on_train_batch_end(None, losses)


class _NotFinite(Exception):
    """A loss was not finite; `Fitting.fit` says whose and when."""


class Fitting:
    """The part of `GenerativeModel` that takes data and runs the steps over it."""

    def check_data(self, x, condition, weight):
        """Raises a `ValueError` for data that the model cannot train on.

        Args:
            x: NumPy array or tree: all samples, or the first batch.
            condition: likewise, or None.
            weight: likewise, or None.
        """

    @checked(
        x=data,
        y=optional(data),
        batch_size=integer(1),
        callbacks=callbacks_of,
        validation_split=number("[0, 1)"),
        validation_data=optional(data),
        shuffle=flag,
        class_weight=class_weights,
        sample_weight=array(finite=False),
        initial_epoch=integer(0),
        steps_per_epoch=integer(1, 10**8),
        validation_freq=either(integer(1), integers()),
        validation_batch_size=optional(integer(1)),
        validation_steps=optional(integer(1)),
    )
    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        initial_epoch=0,
        steps_per_epoch=None,
        **kwargs,
    ):
        """Trains the model: `keras.Model.fit`, with what Keras leaves to the backend.

        Arrays are checked whole and shuffled by (seed, epoch), alike on every
        backend. A `PyDataset`, `tf.data.Dataset`, `DataLoader` or generator is
        checked on its first batch and keeps its own order.

        Args:
            x: data, or an iterable of `x`, `(x, condition)` or
                `(x, condition, weight)`.
            y: condition of every sample (labels), with arrays.
            sample_weight: weight `(N,)` of every sample, with arrays.
            **kwargs: see `keras.Model.fit`.

        Returns:
            `keras.callbacks.History` with `<player>_loss` and `loss`.

        Raises:
            ValueError: for data or a number that does not fit, before any step.
            FloatingPointError: when a loss is not finite; names player and step.
        """
        self._assert_compile_called("fit")
        if initial_epoch > epochs:
            raise ValueError(
                f"initial_epoch must be at most epochs, {epochs}; got {initial_epoch}: "
                "epochs is the number of the last one, not of those to come."
            )
        self.synchronize()
        self.not_finite.assign(np.full(len(self._names), -1, "int32"))
        dataset = None
        if data_lib.is_arrays(x):
            arrays = self._arrays(x, y, sample_weight, class_weight)
            class_weight = None
            if validation_split:
                arrays, held_out = _split(arrays, validation_split)
                validation_data = validation_data or held_out
            dataset = data_lib.ArrayDataset(
                arrays,
                batch_size or 32,
                shuffle,
                self.seed,
                steps_per_epoch,
                self.devices(),
            )
            size = kwargs.pop("validation_batch_size", None) or batch_size
            held_out = data_lib.unpack(validation_data)
            if data_lib.is_arrays(held_out[0]):
                validation_data = self._in_order(self._arrays(*held_out), size)
            x, y, sample_weight, batch_size = dataset, None, None, None
            steps_per_epoch = None
        else:
            batch, x = data_lib.peek(x)
            self.check_data(*map(data_lib.to_numpy, data_lib.unpack(batch)))
            validation = {"validation_split": validation_split}
            kwargs |= {k: v for k, v in validation.items() if v}
        if isinstance(callbacks, keras.callbacks.Callback):
            callbacks = [callbacks]
        if not backend_ops.is_main_process():
            verbose = 0
        callbacks = [*(callbacks or []), _EpochNumber(dataset)]
        self.__dict__["_fit_data"] = x  # for Resume; Keras does not track it
        try:
            return super().fit(
                _fed(x) if class_weight is None else x,
                y,
                batch_size=batch_size,
                epochs=epochs,
                verbose=verbose,
                callbacks=callbacks,
                validation_data=_fed(validation_data),
                shuffle=False,
                class_weight=class_weight,
                sample_weight=sample_weight,
                initial_epoch=initial_epoch,
                steps_per_epoch=steps_per_epoch,
                **kwargs,
            )
        except _NotFinite:
            self._raise_not_finite()
        finally:
            self._skip = 0
            self._initial_epoch = None
            self._fit_data = self._stored_run = None

    def _arrays(self, x, y, sample_weight, class_weight=None):
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
        self.check_data(*arrays)
        return tuple(arrays)

    def _raise_not_finite(self):
        first = ops.convert_to_numpy(self.not_finite)
        found = [
            f"the {name}'s at step {step}"
            for step, name in sorted(zip(first, self._names, strict=True))
            if step >= 0
        ]
        # Resume notes where it has stored a state, which is finite.
        path = getattr(self, "_stored_run", None)
        stored = f"; {path} holds the last finite state" if path else ""
        raise FloatingPointError(
            f"A loss of {type(self).__name__} is not finite: "
            f"{', then '.join(found) or 'an average over the epoch'} (counted from "
            "0). Training has stopped. Lower that player's learning rate, clip its "
            f"gradients (clipnorm=1.0 in its optimizer) or check the data{stored}."
        ) from None

    @checked(
        x=data,
        y=optional(data),
        batch_size=integer(1),
        sample_weight=array(finite=False),
        steps=optional(integer(1)),
    )
    def evaluate(
        self,
        x=None,
        y=None,
        batch_size=None,
        sample_weight=None,
        metrics=None,
        seed=0,
        **kwargs,
    ):
        """The losses on data, without training: see `keras.Model.evaluate`.

        Args:
            metrics: metrics of `kg.metrics`: as many samples are generated as there
                are real ones in the array `x` (with labels, of the same labels), and
                compared with them. A dict is then returned, of losses and results.
            seed: integer >= 0, of the generated samples.

        Example:

        ```python
        extractor = kg.metrics.fashion_mnist_features()
        model.evaluate(images, labels, metrics=[kg.metrics.FID(extractor)])
        ```
        """
        if metrics is not None:
            return self._judge_samples(
                metrics, seed, x, y, batch_size, sample_weight, kwargs
            )
        if data_lib.is_arrays(x):
            arrays = self._arrays(x, y, sample_weight)
            x, y, sample_weight = self._in_order(arrays, batch_size), None, None
            batch_size = None
        return super().evaluate(
            _fed(x), y, batch_size=batch_size, sample_weight=sample_weight, **kwargs
        )

    def _judge_samples(self, metrics, seed, x, y, batch_size, weight, kwargs):
        from keras_genai.metrics import evaluate

        if not data_lib.is_arrays(x):
            raise ValueError(
                "evaluate(metrics=...) compares with real samples in an array x; got "
                f"{type(x).__name__}."
            )
        kwargs["return_dict"] = True
        losses = self.evaluate(x, y, batch_size, weight, **kwargs)
        verbose = 0 if kwargs.get("verbose") == 0 else 1
        judged = evaluate(
            self,
            metrics,
            *map(data_lib.to_numpy, (x, y)),
            seed=seed,
            batch_size=batch_size or 256,
            verbose=verbose if backend_ops.is_main_process() else 0,
        )
        return {**losses, **judged}

    def _in_order(self, arrays, batch_size):
        """Batches of arrays in their order, for an evaluation."""
        return data_lib.ArrayDataset(
            arrays, batch_size or 32, False, self.seed, devices=self.devices()
        )

    @checked(x=data, y=optional(data), sample_weight=array(finite=False))
    def train_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        """One step on one batch: see `keras.Model.train_on_batch`."""
        x, y, sample_weight = self._arrays(x, y, sample_weight)
        logs = super().train_on_batch(x, y, sample_weight, **kwargs)
        values = logs.values() if isinstance(logs, dict) else np.atleast_1d(logs)
        if not np.all(np.isfinite(list(values))):
            self._raise_not_finite()
        return logs

    def _flatten_metrics_in_order(self, logs):
        values = list(logs.values())
        return values[0] if len(values) == 1 else values


def _fed(x):
    """A `PyDataset` as the backend reads it fastest; anything else as it is."""
    feed = getattr(backend_ops, "feed", None)
    return x if feed is None or not isinstance(x, keras.utils.PyDataset) else feed(x)


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
