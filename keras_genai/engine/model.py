"""`GenerativeModel`: one stateful `train_step(data)` on three backends."""

import keras
import numpy as np
from keras import ops

from keras_genai.engine import backend_ops, random, replicas
from keras_genai.engine import data as data_lib
from keras_genai.engine.compiling import Compiling
from keras_genai.engine.ema import EMA
from keras_genai.engine.group import Group
from keras_genai.engine.precision import widen
from keras_genai.engine.sampling import Sampling
from keras_genai.engine.saving import deserialized


class _EpochNumber(keras.callbacks.Callback):
    """Tells the dataset which epoch it is, and stops at a loss that is not finite."""

    async_safe = True

    def __init__(self, dataset):
        super().__init__()
        self.dataset = dataset

    def on_epoch_begin(self, epoch, logs=None):
        if self.dataset is not None:
            self.dataset.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        for name, value in (logs or {}).items():
            if name.endswith("loss") and not np.all(np.isfinite(value)):
                raise _NotFinite

    def on_epoch_end(self, epoch, logs=None):
        losses = {n: v for n, v in (logs or {}).items() if not n.startswith("val_")}
        self.on_train_batch_end(None, losses)


class _NotFinite(Exception):
    """A loss was not finite; `GenerativeModel` says whose and when."""


class GenerativeModel(Compiling, Sampling, backend_ops.Trainer, keras.Model):
    """A `keras.Model` of one or several players that trains with `fit()`.

    A family writes `train_step(self, data)` once, in `keras.ops`, with `data` the
    triple `(x, condition, weight)`, and updates each player by
    `self.minimize(player, loss_fn)`. The engine runs that step compiled on
    TensorFlow and JAX and eagerly on PyTorch, draws noise that is the same on each,
    keeps the exponential average, checks the losses and saves every state.

    A subclass calls `super().__init__(seed=...)`, makes its networks (built), and
    then `self.set_players("discriminator", "generator")` with the names of the
    attributes that hold them, in the order of the phases.

    Args:
        seed: integer >= 0. Initial weights, noise and the order of the samples
            follow from it, equal on every backend.

    Attributes:
        players: dict name -> network.
        noise: `engine.random.Noise`; its `step` counts the training steps.
        ema: the `engine.EMA` of `set_players(..., ema=...)`, or None.
    """

    def __init__(self, seed=0, name=None, **kwargs):
        backend_ops.check_distribution()
        super().__init__(name=name, **kwargs)
        self.seed = random.check_seed(seed)
        self.noise = random.Noise(self.seed, name="noise")
        self.ema = None
        self._names = ()
        self._skip = 0

    def set_players(self, *names, networks=None, ema=None, ema_decay=None, metrics=()):
        """Names the attributes that hold the players, in the order of the phases.

        Args:
            names: names of the players. Each is the name of an attribute, a built
                network, but for those in `networks`.
            networks: dict player -> tuple of names of attributes: several networks
                that train as one player, such as an encoder and a decoder.
            ema: name of the player whose average is kept.
            ema_decay: its decay; None keeps none.
            metrics: what the logs show beside the losses: names, each a mean of what
                `self.track(name, value)` is given, or `keras.metrics.Metric`s, which
                the model updates itself.
        """
        self._names = names
        networks = networks or {}
        # Not tracked: the networks belong to the model's own attributes.
        self.__dict__["__players"] = {
            name: Group(name, [getattr(self, part) for part in networks[name]])
            if name in networks
            else getattr(self, name)
            for name in names
        }
        self._trackers = [
            keras.metrics.Mean(name=self._loss_name(name)) for name in names
        ] + [
            keras.metrics.Mean(name=item) if isinstance(item, str) else item
            for item in metrics
        ]
        self.not_finite = self.add_weight(
            name="not_finite",
            shape=(len(names),),
            dtype="int32",
            initializer=keras.initializers.Constant(-1),
            trainable=False,
            aggregation="only_first_replica",
        )
        if ema_decay is not None:
            self.ema = EMA(self.players[ema], ema_decay)
        self.built = True

    @property
    def players(self):
        return self.__dict__.get("__players", {})

    def _loss_name(self, player):
        return "loss" if len(self._names) == 1 else f"{player}_loss"

    # Keras saves no metrics: their state is stored beside the model's own weights.

    def _own_variables(self):
        metrics = [v for tracker in self._trackers for v in tracker.variables]
        return [self.not_finite, *metrics]

    def save_own_variables(self, store):
        for i, variable in enumerate(self._own_variables()):
            store[str(i)] = backend_ops.to_host(variable)

    def load_own_variables(self, store):
        for i, variable in enumerate(self._own_variables()):
            variable.assign(store[str(i)])

    # One step

    def minimize(self, player, loss_fn):
        """One step of one player: its weights alone, down the gradient of the loss.

        Args:
            player: its name.
            loss_fn: function of no arguments that returns a scalar. Regularizers
                of the player's layers are added to it.

        Returns:
            The loss.
        """
        variables = self.players[player].trainable_variables
        optimizer = self.optimizers[player]

        def whole_loss():
            loss = widen(loss_fn())
            for variable in variables:
                if variable.regularizer is not None:
                    loss = loss + widen(variable.regularizer(variable))
            return loss

        share = replicas.share()

        def scale(loss):
            return optimizer.scale_loss(loss if share is None else share * loss)

        loss, gradients = backend_ops.value_and_gradients(whole_loss, variables, scale)
        loss = replicas.mean(loss)
        gradients = replicas.total(gradients)
        backend_ops.apply_gradients(optimizer, gradients, variables)
        self._track(player, loss)
        self._watch(player, loss)
        return loss

    def track(self, name, value, samples=None):
        """Adds a mean over the batch to the mean that the logs show.

        In an evaluation batches count by their samples, so that the logs are means
        over the data whatever the batch size.

        Args:
            name: of a player, whose loss it is, or of one of the `metrics`.
            value: scalar.
            samples: float scalar, how many samples of the batch it is the mean of,
                and counts by; by default all of them.
        """
        if samples is None:
            self._track(name, replicas.mean(value), replicas.batch_samples())
        else:
            total, samples = replicas.total([value * samples, samples])
            self._track(name, total / ops.maximum(samples, 1.0), samples)

    def _track(self, name, value, samples=None):
        name = self._loss_name(name) if name in self._names else name
        (tracker,) = (t for t in self._trackers if t.name == name)
        tracker.update_state(value, sample_weight=samples)

    def samples_seen(self):
        """How many samples an evaluation saw before this batch, an int32 scalar."""
        return ops.cast(self._trackers[0].count.value, "int32")

    def _watch(self, player, loss):
        """Notes the first step at which a loss was not finite."""
        first = self.not_finite.value
        here = np.arange(len(self._names)) == self._names.index(player)
        bad = ops.logical_and(ops.logical_not(ops.isfinite(loss)), here)
        bad = ops.logical_and(bad, first < 0)
        self.not_finite.assign(ops.where(bad, self.noise.step.value, first))

    def every(self, interval, fn, otherwise, phase=0):
        """`fn()` on the steps `phase`, `phase + interval`, ...; else `otherwise()`."""
        if interval == 1:
            return fn()
        known = self.is_due(interval, phase)
        if known is not None:
            return fn() if known else otherwise()
        due = ops.equal(ops.mod(self.noise.step.value, interval), phase)
        return backend_ops.cond(due, fn, otherwise)

    def logs(self):
        """The losses and metrics so far in this epoch, as tensors."""
        logs = {tracker.name: tracker.result() for tracker in self._trackers}
        if len(self._names) > 1:
            logs["loss"] = sum(logs[self._loss_name(name)] for name in self._names)
        return logs

    def get_metrics_result(self):
        return {name: float(value) for name, value in self.logs().items()}

    def train_step(self, data):
        raise NotImplementedError(
            f"{type(self).__name__} must define train_step(self, data)."
        )

    def test_step(self, data):
        raise NotImplementedError(
            f"{type(self).__name__} must define test_step(self, data)."
        )

    def _run_train_step(self, data):
        data = data_lib.unpack(data)
        with replicas.part(data_lib.rows(data)):
            self.train_step(data)
        if self.ema is not None:
            self.ema.update()
        self.noise.advance()
        return self.logs()

    def _run_test_step(self, data):
        data = data_lib.unpack(data)
        rows = data_lib.rows(data)
        with replicas.part(rows), replicas.counted(rows):
            self.test_step(data)
        return self.logs()

    def _take_skip(self):
        """Whether this step was done before the run was resumed."""
        if self._skip > 0:
            self._skip -= 1
            return True
        return False

    # Training

    def check_data(self, x, condition, weight):
        """Raises a `ValueError` for data that the model cannot train on.

        Args:
            x: NumPy array or tree: all samples, or the first batch.
            condition: likewise, or None.
            weight: likewise, or None.
        """

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
            ValueError: for data that does not fit, before any step.
            FloatingPointError: when a loss is not finite; names player and step.
        """
        self._assert_compile_called("fit")
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
        try:
            return super().fit(
                x,
                y,
                batch_size=batch_size,
                epochs=epochs,
                verbose=verbose,
                callbacks=callbacks,
                validation_data=validation_data,
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
        raise FloatingPointError(
            f"A loss of {type(self).__name__} is not finite: "
            f"{', then '.join(found) or 'an average over the epoch'} (counted from "
            "0). Training has stopped. Lower that player's learning rate, clip its "
            "gradients (clipnorm=1.0 in its optimizer) or check the data; the last "
            "checkpoint of kg.callbacks.Resume holds finite weights."
        ) from None

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
            x, y, batch_size=batch_size, sample_weight=sample_weight, **kwargs
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

    @classmethod
    def from_config(cls, config):
        return cls(**deserialized(config))


def _split(arrays, fraction):
    """The arrays without their last `fraction`, and those last ones."""
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"validation_split must be in (0, 1); got {fraction!r}.")
    leaves = [leaf for leaf in keras.tree.flatten(arrays) if leaf is not None]
    cut = round(len(leaves[0]) * (1.0 - fraction))

    def take(rows):
        return tuple(
            None if part is None else keras.tree.map_structure(lambda a: a[rows], part)
            for part in arrays
        )

    return take(slice(None, cut)), take(slice(cut, None))
