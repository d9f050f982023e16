"""`GenerativeModel`: one stateful `train_step(data)` on three backends."""

import keras
import numpy as np
from keras import ops

from keras_genai.engine import backend_ops, random, replicas
from keras_genai.engine import data as data_lib
from keras_genai.engine.compiling import Compiling
from keras_genai.engine.ema import EMA
from keras_genai.engine.fitting import Fitting
from keras_genai.engine.group import Group
from keras_genai.engine.interrupts import Interruptible
from keras_genai.engine.optimizer import updates
from keras_genai.engine.precision import widen
from keras_genai.engine.programs import Retracing
from keras_genai.engine.sampling import Sampling
from keras_genai.engine.saving import Saving, deserialized
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import dtype_policy, flag


class GenerativeModel(
    Compiling,
    Fitting,
    Sampling,
    Retracing,
    Interruptible,
    backend_ops.Trainer,
    Saving,
    keras.Model,
):
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
        noise: `engine.random.Noise`; its `step` counts the training steps. Under
            gradient accumulation the batches of one update are one step.
        ema: the `engine.EMA` of `set_players(..., ema=...)`, or None.
    """

    @checked(dtype=dtype_policy, trainable=flag)
    def __init__(self, seed=0, name=None, **kwargs):
        backend_ops.check_distribution()
        super().__init__(name=name, **kwargs)
        self.seed = random.check_seed(seed)
        self.noise = random.Noise(self.seed, name="noise")
        self.ema = None
        self.gathered = None
        self.accumulation = 1
        self._names = ()
        self._skip = 0

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
            store[str(i)] = backend_ops.to_host(variable)

    def load_own_variables(self, store):
        for i, variable in enumerate(self._own_variables()):
            if str(i) in store:  # files of the first releases end sooner
                variable.assign(store[str(i)])

    # One step

    def minimize(self, player, loss_fn):
        """One step of one player: its weights alone, down the gradient of the loss.

        A player whose weights are all frozen stays as it is; its loss is computed.
        Its average moves where its weights did: not at a batch whose gradient is only
        gathered, nor where a loss scale was too large.

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
        if variables:
            gradients = replicas.total(gradients)
            follows = self.ema is not None and self.ema.follows(self.players[player])
            before = updates(optimizer) if follows else None
            backend_ops.apply_gradients(optimizer, gradients, variables)
            if follows:
                self.ema.update(None if before is None else before < updates(optimizer))
        samples = replicas.batch_samples()
        self._metric_of(player).update_state(loss, sample_weight=samples)
        self._watch(player, loss)
        return loss

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
        with self._as_python("train"):
            return self._train_step(data_lib.unpack(data))

    def _train_step(self, data):
        rows = data_lib.rows(data)
        if self.accumulation == 1:
            with replicas.part(rows), replicas.counted(rows, data[2]):
                self.train_step(data)
            self.noise.advance()
        else:
            self._gather(data, rows)
        return self.logs()

    def _gather(self, data, rows):
        """A step on one of the batches whose gradients make one update.

        They are the parts of the batch of that update: the noise of all is that of
        one step, numbered on from batch to batch, in the layers (dropout) as well.
        """
        first, last = self.gathered.value[1] + 0, self.ends_update()
        before = self._layers_steps()
        with replicas.part(rows, first), replicas.counted(rows, data[2]):
            self.train_step(data)
            samples = ops.cast(replicas.samples(rows), "int32")
        for step, old in before:
            step.assign(ops.where(last, step.value, old))
        self.noise.advance(ops.cast(last, "int32"))
        gathered = ops.stack([self.gathered.value[0] + 1, first + samples])
        self.gathered.assign(ops.where(last, ops.zeros_like(gathered), gathered))

    def ends_update(self):
        """Whether this batch is the last of its update, a boolean scalar tensor."""
        return ops.equal(self.gathered.value[0] + 1, self.accumulation)

    def at_update(self, fn, otherwise):
        """`fn()` in the last batch of an update, else `otherwise()`."""
        known = self.is_last()
        if known is not None:
            return fn() if known else otherwise()
        return backend_ops.cond(self.ends_update(), fn, otherwise)

    def for_each_part(self, rows, fn):
        """Calls `fn()` as in each batch of an update, at the last: see `ends_update`.

        For a player that learns from what another one has just learnt, and needs no
        data for it. All batches of the update have as many samples.

        Args:
            rows: samples in this replica's part of the batch.
            fn: function of no arguments; its last value is returned.
        """
        before = self._layers_steps()
        samples = ops.cast(replicas.samples(rows), "int32")
        for part in range(self.accumulation):
            if part:
                for step, old in before:
                    step.assign(old)
            with replicas.numbered(part * samples):
                value = fn()
        return value

    def _layers_steps(self):
        """The counters of noise in layers, each with its value now."""
        return [
            (layer.step, ops.copy(layer.step.value))
            for layer in self._flatten_layers()
            if isinstance(layer, random.Noise) and layer is not self.noise
        ]

    def _run_test_step(self, data):
        data = data_lib.unpack(data)
        rows = data_lib.rows(data)
        parts = replicas.part(rows), replicas.counted(rows, data[2])
        with self._as_python("test"), parts[0], parts[1]:
            self.test_step(data)
            self._seen.update_state(replicas.samples(rows))
        return self.logs()

    def _take_skip(self):
        """Whether this step was done before the run was resumed."""
        if self._skip > 0:
            self._skip -= 1
            return True
        return False

    @classmethod
    def from_config(cls, config):
        return cls(**deserialized(config))


def _metric(item):
    return keras.metrics.Mean(name=item) if isinstance(item, str) else item
