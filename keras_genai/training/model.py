"""`Model`: one stateful `train_step(data)` on three backends."""

import contextlib

import keras
import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.backend import random, replicas
from keras_genai.backend.precision import widen
from keras_genai.training import data as data_lib
from keras_genai.training import fitting, gradient_accumulation
from keras_genai.training.compiled import CompiledFunctions
from keras_genai.training.ema import EMA, updates
from keras_genai.training.optimizer import (
    PlayersOptimizer,
    accumulation,
    choose_optimizers,
    inner,
    not_decayed,
    scaled_updates,
    schedule_by_updates,
    with_loss_scaling,
)
from keras_genai.utils.arguments import checked
from keras_genai.utils.interrupts import settled
from keras_genai.utils.serialization import Saving, deserialized
from keras_genai.utils.validation import (
    array,
    callbacks_of,
    class_weights,
    data,
    dtype_policy,
    either,
    flag,
    integer,
    integers,
    number,
    one_of,
    optional,
)


class Model(CompiledFunctions, Saving, backend.Trainer, keras.Model):
    """A `keras.Model` of one or several players that trains with `fit()`.

    A family writes `train_step(self, data)` once, in `keras.ops`, with `data` the
    triple `(x, condition, weight)`, and updates each player by
    `self.minimize(player, loss_fn)`. `fit` runs that step compiled on
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
        noise: `backend.random.Noise`; its `step` counts the training steps. Under
            gradient accumulation the batches of one update are one step.
        ema: the `EMA` of `set_players(..., ema=...)`, or None.
    """

    @checked(dtype=dtype_policy, trainable=flag)
    def __init__(self, seed=0, name=None, **kwargs):
        backend.check_distribution()
        super().__init__(name=name, **kwargs)
        self.seed = random.check_seed(seed)
        self.noise = random.Noise(self.seed, name="noise")
        self.ema = None
        self.gathered = None
        self.accumulation = 1
        self.accumulate = 1
        self._names = ()
        self._skip, self._resumed = 0, False

    def set_players(
        self,
        *names,
        networks=None,
        ema=None,
        ema_decay=None,
        metrics=(),
        hidden_metrics=(),
    ):
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
            hidden_metrics: likewise, of what the logs do not show: see `derive`.
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
        ] + [_metric(item) for item in metrics]
        self._hidden = [_metric(item) for item in hidden_metrics]
        self._seen = keras.metrics.Sum(name="samples_seen")
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
        trackers = [*self._trackers, *self._hidden, self._seen]
        metrics = [v for tracker in trackers for v in tracker.variables]
        gathered = [] if self.gathered is None else [self.gathered]
        return [self.not_finite, *metrics, *gathered]

    def save_own_variables(self, store):
        for i, variable in enumerate(self._own_variables()):
            store[str(i)] = backend.to_host(variable)

    def load_own_variables(self, store):
        for i, variable in enumerate(self._own_variables()):
            if str(i) in store:  # files of the first releases end sooner
                variable.assign(store[str(i)])

    # Compiling

    def default_optimizer(self, player):
        """The optimizer of the paper, when `compile` is given none."""
        raise ValueError(
            f"{type(self).__name__} has no default optimizer for {player!r}: give one."
        )

    @checked(
        accumulate=integer(1),
        steps_per_execution=integer(1),
        jit_compile=either(flag, one_of("auto", None)),
    )
    def compile(
        self,
        optimizer=None,
        *,
        accumulate=1,
        run_eagerly=False,
        steps_per_execution=1,
        jit_compile="auto",
        auto_scale_loss=True,
        **player_optimizers,
    ):
        """Configures training.

        Args:
            optimizer: for a model of one player, a name or an instance. Gradient
                clipping and accumulation are the optimizer's own arguments. With
                `gradient_accumulation_steps=k` (the same for every player) k batches
                are the parts of one: the average moves, and schedules, `every`,
                weights of the KL and noise count, by updates of the weights. The k
                gradients count alike, so that equal batches make the update of the
                whole; what a batch is normalized by remains its own. Players with
                other k count batches as steps; their averages count updates.
            accumulate: into how many parts a step cuts each batch, one after the other:
                a batch that does not fit into memory at once. The gradients are those
                of the whole batch, with one step of each optimizer; what a batch is
                normalized by (batch normalization) is a part's own.
            run_eagerly: run the step without compiling it.
            steps_per_execution: steps in one call (TensorFlow and JAX).
            jit_compile: as in Keras.
            auto_scale_loss: under `mixed_float16`, scale every player's loss by a
                `LossScaleOptimizer` of its own.
            **player_optimizers: `<player>_optimizer=`, for several players.

        Raises:
            ValueError: for an unknown argument, an optimizer given twice or built
                for another model, or one with `use_ema`.
        """
        chosen = choose_optimizers(self, optimizer, player_optimizers)
        scaled = chosen
        if auto_scale_loss:
            scaled = {
                n: with_loss_scaling(o, self.players[n]) for n, o in chosen.items()
            }
        found = {accumulation(item) for item in scaled.values()}
        if accumulate > 1 and found != {1}:
            raise ValueError(
                f"accumulate={accumulate} cuts each batch into parts, and "
                "gradient_accumulation_steps of an optimizer gathers batches: give one "
                "of them."
            )
        for item in scaled.values():
            schedule_by_updates(item)
        variables = {n: net.trainable_variables for n, net in self.players.items()}
        if len(self._names) == 1:
            (name,) = self._names
            whole = scaled[name]
            whole.build(variables[name])
        else:
            whole = PlayersOptimizer(scaled)
            whole.build_players(variables)
        super().compile(
            optimizer=whole,
            run_eagerly=run_eagerly,
            steps_per_execution=steps_per_execution,
            jit_compile=jit_compile,
            auto_scale_loss=False,
        )
        self._loss_tracker = None  # "loss" is the sum of the players' own trackers
        gradient_accumulation.start(self, found)
        self.accumulate = accumulate
        self._compile_arguments = {
            "accumulate": accumulate,
            "run_eagerly": run_eagerly,
            "steps_per_execution": steps_per_execution,
            "jit_compile": jit_compile,
            "auto_scale_loss": auto_scale_loss,
        }

    @property
    def optimizers(self):
        """Dict player name -> its optimizer (after `compile`)."""
        if isinstance(self.optimizer, PlayersOptimizer):
            return self.optimizer.players
        return {self._names[0]: self.optimizer}

    def get_compile_config(self):
        if not self.compiled:
            return None
        return {
            **self._compile_arguments,
            "optimizers": {
                name: keras.saving.serialize_keras_object(optimizer)
                for name, optimizer in self.optimizers.items()
            },
            "not_decayed": not_decayed(self),
        }

    def compile_from_config(self, config):
        optimizers = {
            name: keras.saving.deserialize_keras_object(item)
            for name, item in config.pop("optimizers").items()
        }
        for name, numbers in (config.pop("not_decayed", None) or {}).items():
            variables = self.players[name].variables
            inner(optimizers[name]).exclude_from_weight_decay(
                var_list=[variables[i] for i in numbers]
            )
        if len(self._names) == 1:
            self.compile(optimizers[self._names[0]], **config)
        else:
            named = {f"{name}_optimizer": o for name, o in optimizers.items()}
            self.compile(**named, **config)

    # Fitting

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
        checked on its first batch and keeps its own order; one with a method
        `set_epoch` is told the number of each epoch before it begins.

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
            dataset, validation_data = fitting.from_arrays(
                self,
                fitting.arrays_of(self, x, y, sample_weight, class_weight),
                batch_size=batch_size,
                shuffle=shuffle,
                steps_per_epoch=steps_per_epoch,
                validation_split=validation_split,
                validation_data=validation_data,
                validation_batch_size=kwargs.pop("validation_batch_size", None),
            )
            given = {"x": fitting.fed(dataset)}
        else:
            x = fitting.peeked(self, x)
            given = {
                "x": fitting.fed(x) if class_weight is None else x,
                "y": y,
                "batch_size": batch_size,
                "validation_split": validation_split,
                "class_weight": class_weight,
                "sample_weight": sample_weight,
                "steps_per_epoch": steps_per_epoch,
            }
        if isinstance(callbacks, keras.callbacks.Callback):
            callbacks = [callbacks]
        # For Resume; Keras does not track it.
        self.__dict__["_fit_data"] = x if dataset is None else dataset
        try:
            with settled(self):
                return super().fit(
                    **given,
                    epochs=epochs,
                    verbose=verbose if backend.is_main_process() else 0,
                    callbacks=[*(callbacks or []), fitting.EpochNumber(self.fit_data)],
                    validation_data=fitting.fed(fitting.divided(self, validation_data)),
                    shuffle=False,
                    initial_epoch=initial_epoch,
                    **kwargs,
                )
        except fitting.NotFinite:
            fitting.raise_not_finite(self)
        finally:
            self._skip, self._resumed = 0, False
            self._initial_epoch = None
            self._fit_data = self._stored_run = None

    @property
    def fit_data(self):
        """What the present `fit` trains on, for callbacks; None outside of it."""
        return self.__dict__.get("_fit_data")

    def stored_at(self, path):
        """Notes where the run is stored, which an error in `fit` then names."""
        self._stored_run = path

    def resume_at(self, epoch, batch=0):
        """Lets the present `fit` go on in mid-run, from a callback's `on_train_begin`.

        Args:
            epoch: index of the epoch in which training goes on.
            batch: batches of it that were trained on, which are passed over.
        """
        self._initial_epoch = epoch  # Keras's own, for callbacks that resume
        self._resumed = True
        self._skip = batch // self.steps_per_execution

    @property
    def resumed(self):
        """Whether the present `fit` goes on with a stored run (`resume_at`)."""
        return self._resumed

    @property
    def passes_over(self):
        """Whether the present batch was trained on before the run was resumed."""
        return self._skip > 0

    def _take_skip(self):
        if self._skip > 0:
            self._skip -= 1
            return True
        return False

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
            return fitting.judge_samples(
                self, metrics, seed, x, y, batch_size, sample_weight, kwargs
            )
        if data_lib.is_arrays(x):
            arrays = fitting.arrays_of(self, x, y, sample_weight)
            x, y, sample_weight = fitting.in_order(self, arrays, batch_size), None, None
            batch_size = None
        with settled(self):
            return super().evaluate(
                fitting.fed(fitting.divided(self, x)),
                y,
                batch_size=batch_size,
                sample_weight=sample_weight,
                **kwargs,
            )

    def predict(self, *args, **kwargs):
        with settled(self):
            return super().predict(*args, **kwargs)

    @checked(x=data, y=optional(data), sample_weight=array(finite=False))
    def train_on_batch(self, x, y=None, sample_weight=None, **kwargs):
        """One step on one batch: see `keras.Model.train_on_batch`."""
        x, y, sample_weight = fitting.arrays_of(self, x, y, sample_weight)
        size = data_lib.rows((x, y, sample_weight))
        fitting.check_parts(self, size, "the batch", size)
        with settled(self):
            logs = super().train_on_batch(x, y, sample_weight, **kwargs)
        values = logs.values() if isinstance(logs, dict) else np.atleast_1d(logs)
        if not np.all(np.isfinite(list(values))):
            fitting.raise_not_finite(self)
        return logs

    def test_on_batch(self, *args, **kwargs):
        with settled(self):
            return super().test_on_batch(*args, **kwargs)

    def predict_on_batch(self, *args, **kwargs):
        with settled(self):
            return super().predict_on_batch(*args, **kwargs)

    def _flatten_metrics_in_order(self, logs):
        values = list(logs.values())
        return values[0] if len(values) == 1 else values

    # Retracing

    def make_train_function(self, force=False):
        return super().make_train_function(force or fitting.is_other(self, "train"))

    def make_test_function(self, force=False):
        return super().make_test_function(force or fitting.is_other(self, "test"))

    def make_predict_function(self, force=False):
        return super().make_predict_function(force or fitting.is_other(self, "predict"))

    # One step

    def minimize(self, player, loss_fn, *batch):
        """One step of one player: its weights alone, down the gradient of the loss.

        A player whose weights are all frozen stays as it is; its loss is computed.
        Its average moves where its weights did: not at a batch whose gradient is only
        gathered, nor where a loss scale was too large.

        Under `compile(accumulate=k)` the batch is cut into k parts, one after the
        other: the mean of their gradients over the samples makes one step.

        Args:
            player: its name.
            loss_fn: function of the tensors of `batch` that returns a scalar, a mean
                over the samples. Regularizers of the player's layers are added to it.
            *batch: tensors, or trees of them, of one row a sample; None stays None. All
                that the loss needs of the batch must be here for it to be cut.

        Returns:
            The loss.

        Raises:
            ValueError: `accumulate` is set, and there are no tensors to cut.
        """
        variables = self.players[player].trainable_variables
        optimizer = self.optimizers[player]

        def whole_loss(*batch):
            loss = widen(loss_fn(*batch))
            for variable in variables:
                if variable.regularizer is not None:
                    loss = loss + widen(variable.regularizer(variable))
            return loss

        share = replicas.share()

        def scale(loss):
            return optimizer.scale_loss(loss if share is None else share * loss)

        if self.accumulate == 1:
            loss, gradients = backend.value_and_gradients(
                lambda: whole_loss(*batch), variables, scale
            )
        else:
            loss, gradients = gradient_accumulation.in_parts(
                self, player, whole_loss, batch, variables, scale
            )
        loss = replicas.mean(loss)
        if variables:
            gradients = replicas.total(gradients)
            follows = self.ema is not None and self.ema.follows(self.players[player])
            before = updates(optimizer) if follows else None
            factors = self.rate_factors(player)
            with scaled_updates(factors) if factors else contextlib.nullcontext():
                backend.apply_gradients(optimizer, gradients, variables)
            if follows:
                self.ema.update(None if before is None else before < updates(optimizer))
        samples = replicas.batch_samples()
        self._metric_of(player).update_state(loss, sample_weight=samples)
        self._watch(player, loss)
        return loss

    def rate_factors(self, player):
        """By what a player's variables' learning rates are multiplied.

        Args:
            player: its name.

        Returns:
            List of `(variable, factor)`; those that are not in it have 1.
        """
        del player
        return []

    def track(self, name, value, samples=None):
        """Adds a mean over the batch to the mean that the logs show.

        A batch counts by the sum of its samples' weights (by its samples, where they
        have none), so that the logs are means over the data whatever the batch size.

        Args:
            name: of a player, whose loss it is, or of one of the `metrics`.
            value: scalar; with weights, the weighted mean over the samples.
            samples: float scalar, what it is the mean of, and counts by, where that
                is other than the batch's samples: the sum of the weights of tokens.
        """
        if samples is None:
            value, samples = replicas.mean(value), replicas.batch_samples()
        else:
            samples = ops.cast(samples, value.dtype)
            total, samples = replicas.total([value * samples, samples])
            one = ops.ones_like(samples)
            value = total / ops.where(samples > 0.0, samples, one)
        self._metric_of(name).update_state(value, sample_weight=samples)

    def mean_so_far(self, name):
        """What `track` was given by that name, its mean over the data until now."""
        return self._metric_of(name).result()

    def derive(self, player, value):
        """In an evaluation: a loss that is no mean, but a function of means.

        A sum of means that count differently, or what is bent after the mean: tracked
        batch by batch it would depend on the batch size.

        Args:
            player: its name.
            value: scalar: the loss of all the data until now.
        """
        tracker = self._metric_of(player)
        tracker.total.assign(ops.cast(value, tracker.dtype))
        tracker.count.assign(ops.ones_like(tracker.count.value))

    def _metric_of(self, name):
        name = self._loss_name(name) if name in self._names else name
        (tracker,) = (t for t in (*self._trackers, *self._hidden) if t.name == name)
        return tracker

    def samples_seen(self):
        """How many samples an evaluation saw before this batch, an int32 scalar."""
        return ops.cast(self._seen.result(), "int32")

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
        return backend.cond(due, fn, otherwise)

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
        with fitting.as_python(self, "train"):
            return self._train_step(data_lib.unpack(data))

    def _train_step(self, data):
        rows = data_lib.rows(data)
        if self.accumulation == 1:
            with replicas.part(rows), replicas.counted(rows, data[2]):
                self.train_step(data)
            self.noise.advance()
        else:
            gradient_accumulation.gather(self, data, rows)
        return self.logs()

    def ends_update(self):
        """Whether this batch is the last of its update, a boolean scalar tensor."""
        return ops.equal(self.gathered.value[0] + 1, self.accumulation)

    def at_update(self, fn, otherwise):
        """`fn()` in the last batch of an update, else `otherwise()`."""
        known = self.is_last()
        if known is not None:
            return fn() if known else otherwise()
        return backend.cond(self.ends_update(), fn, otherwise)

    def for_each_part(self, rows, fn):
        """Calls `fn()` as in each batch of an update, at the last: see `ends_update`.

        For a player that learns from what another one has just learnt, and needs no
        data for it. All batches of the update have as many samples.

        Args:
            rows: samples in this replica's part of the batch.
            fn: function of no arguments; its last value is returned.
        """
        return gradient_accumulation.for_each_part(self, rows, fn)

    def _run_test_step(self, data):
        data = data_lib.unpack(data)
        rows = data_lib.rows(data)
        parts = replicas.part(rows), replicas.counted(rows, data[2])
        with fitting.as_python(self, "test"), parts[0], parts[1]:
            self.test_step(data)
            self._seen.update_state(replicas.samples(rows))
        return self.logs()

    def with_labels(self, x, labels):
        """What a network is called with: `[x, labels]`, or x of a model without."""
        return x if self.num_classes is None else [x, labels]

    # Averages

    def averaged(self, player):
        """Whether `player` samples with its average."""
        return self.ema is not None and self.ema.follows(self.players[player])

    def run_averaged(self, player, fn):
        """`fn()`, by the average of `player` where one is kept."""
        return self.ema.run(fn) if self.averaged(player) else fn()

    def averaged_variables(self, player):
        """List of the variables that `run_averaged` reads."""
        own = list(self.players[player].variables)
        return own + (self.ema.variables if self.averaged(player) else [])

    @classmethod
    def from_config(cls, config):
        return cls(**deserialized(config))


def _metric(item):
    return keras.metrics.Mean(name=item) if isinstance(item, str) else item


class Group:
    """What a model reads of a player, of several networks together.

    Not a layer: the networks stay what they are, attributes of their model.

    Args:
        name: of the player.
        networks: list of built networks, such as an encoder and a decoder.
    """

    def __init__(self, name, networks):
        self.name = name
        self.networks = networks

    @property
    def variables(self):
        return [v for network in self.networks for v in network.variables]

    @property
    def trainable_variables(self):
        return [v for network in self.networks for v in network.trainable_variables]

    def count_params(self):
        return sum(network.count_params() for network in self.networks)

    def _flatten_layers(self):
        return [x for network in self.networks for x in network._flatten_layers()]
