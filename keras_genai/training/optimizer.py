"""Players, of one network or several, and their optimizers."""

import contextlib
import functools

import keras
from keras import ops

from keras_genai.backend.learning_rate import current_rate
from keras_genai.utils.serialization import PACKAGE
from keras_genai.utils.validation import refuse


def inner(optimizer):
    """The optimizer, without the loss scaling around it."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def decaying(optimizer, variables, but=()):
    """The optimizer, whose weight decay leaves out biases and normalizations.

    Args:
        optimizer: one that is not built yet.
        variables: of the network.
        but: names of variables that are left out as well.
    """
    spared = [v for v in variables if len(v.shape) < 2 or v.name in but]
    optimizer.exclude_from_weight_decay(var_list=spared)
    return optimizer


@contextlib.contextmanager
def scaled_updates(factors):
    """Around a step of an optimizer: some variables move by a part of their updates.

    The updates of all of Keras's optimizers are linear in the learning rate, weight
    decay included: this is a rate of each variable's own, whatever the optimizer.

    Args:
        factors: list of `(variable, factor)`.
    """
    before = [(v, factor, ops.copy(v.value)) for v, factor in factors if factor != 1.0]
    yield
    for variable, factor, old in before:
        variable.assign(old + factor * (variable.value - old))


def accumulation(optimizer):
    """Over how many batches it gathers the gradients of an update."""
    return inner(optimizer).gradient_accumulation_steps or 1


def schedule_by_updates(optimizer):
    """Lets an optimizer's schedule count updates of the weights, as all else does.

    Keras's counts batches, so that with accumulation it would run k times as fast as
    with the whole batch.
    """
    optimizer = inner(optimizer)
    if accumulation(optimizer) > 1:
        rate = functools.partial(current_rate, optimizer)
        object.__setattr__(optimizer, "_get_current_learning_rate", rate)


def with_loss_scaling(optimizer, network):
    """The optimizer with loss scaling around it, when the network needs that."""
    half = any(layer.compute_dtype == "float16" for layer in network._flatten_layers())
    if not half or isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer)


def optimizer_of(argument, given):
    """Keras's optimizer of a name, a configuration or an instance."""
    says = "a Keras optimizer, the name of one, or its configuration"
    if not isinstance(given, (str, dict, keras.optimizers.Optimizer)):
        refuse(argument, says, given)
    try:
        return keras.optimizers.get(given)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{argument} must be {says}; got {given!r}.") from error


def choose_optimizers(model, optimizer, given):
    """The optimizer of each player, from the arguments of `Model.compile`.

    Args:
        model: the model.
        optimizer: that of its one player, or None.
        given: dict `<player>_optimizer` -> optimizer.

    Returns:
        Dict player -> optimizer; the paper's where none is given.

    Raises:
        ValueError: for an unknown argument, an optimizer given twice or built for
            other weights, or one with `use_ema`.
    """
    single = len(model.players) == 1
    expected = {f"{name}_optimizer": name for name in model.players}
    unknown = sorted(set(given) - set(expected))
    if unknown or (optimizer is not None and not single):
        wrong = unknown or ["optimizer"]
        names = ["optimizer"] if single else sorted(expected)
        raise ValueError(
            f"{type(model).__name__}.compile does not take {', '.join(wrong)}; "
            f"it takes {', '.join(names)} and Keras's run_eagerly, "
            "steps_per_execution, jit_compile, auto_scale_loss."
        )
    chosen = {}
    for argument, name in expected.items():
        item = given.get(argument, optimizer if single else None)
        chosen[name] = (
            model.default_optimizer(name)
            if item is None
            else optimizer_of(argument if not single else "optimizer", item)
        )
    for name, item in chosen.items():
        others = [n for n, o in chosen.items() if o is item and n != name]
        if others:
            raise ValueError(
                f"The same optimizer instance is given for {name} and "
                f"{others[0]}. An optimizer keeps the state of one player's "
                "weights: make one instance for each."
            )
        own = {id(v) for v in model.players[name].trainable_variables}
        if item.built and any(id(v) not in own for v in item._trainable_variables):
            raise ValueError(
                f"The optimizer given for {name} was already used for other "
                "weights. Make a new instance."
            )
        if inner(item).use_ema:
            raise ValueError(
                f"The optimizer of {name} has use_ema=True. The average is kept "
                "by the model: give ema_decay= to the model instead."
            )
    return chosen


def not_decayed(model):
    """Dict player -> indices of its variables without weight decay, or None.

    An optimizer's configuration leaves them out, by names or by variables.
    """
    found = {}
    for name, optimizer in model.optimizers.items():
        decays = getattr(inner(optimizer), "_use_weight_decay", lambda _: True)
        variables = enumerate(model.players[name].variables)
        excluded = [i for i, v in variables if not decays(v)]
        if excluded:
            found[name] = excluded
    return found or None


@keras.saving.register_keras_serializable(PACKAGE)
class PlayersOptimizer(keras.optimizers.Optimizer):
    """The optimizers of several players behind Keras's one `model.optimizer`.

    Keras saves, restores and compiles through `model.optimizer.variables`; this
    class puts every player's variables there. Keras's own `MultiOptimizer` refuses
    an inner `LossScaleOptimizer` and the gradients of one player alone.

    `keras.callbacks.LearningRateScheduler` iterates `.optimizers`: it sets every
    player's rate. For one player's rate, schedule that player's own optimizer with
    a `keras.optimizers.schedules.LearningRateSchedule`, or give
    `kg.callbacks.LearningRateScheduler(schedule, player="generator")`.

    Args:
        players: dict player name -> `keras.optimizers.Optimizer`.
        name: optional name.

    Example:

    ```python
    optimizer = PlayersOptimizer({"generator": keras.optimizers.Adam(2e-4),
                                  "discriminator": keras.optimizers.Adam(2e-4)})
    optimizer["generator"].learning_rate = 1e-4
    ```
    """

    def __init__(self, players, name="players_optimizer"):
        super().__init__(learning_rate=0.0, name=name)
        self.__dict__["__players"] = dict(players)

    @property
    def players(self):
        """Dict player name -> its optimizer."""
        return self.__dict__["__players"]

    @property
    def optimizers(self):
        """The players' optimizers in order."""
        return list(self.players.values())

    def __getitem__(self, player):
        return self.players[player]

    @property
    def variables(self):
        return [v for optimizer in self.optimizers for v in optimizer.variables]

    @property
    def learning_rate(self):
        raise AttributeError(
            "A model of several players has no one learning rate: read or set "
            + " or ".join(f"optimizer[{name!r}].learning_rate" for name in self.players)
            + "."
        )

    def build_players(self, variables):
        """Builds every player's optimizer.

        Args:
            variables: dict player name -> list of its trainable variables.
        """
        for name, optimizer in self.players.items():
            optimizer.build(variables[name])
        self.built = True

    def apply(self, grads, trainable_variables=None):
        raise ValueError(
            "PlayersOptimizer steps no variables itself: apply the gradients of one "
            "player with its own optimizer, optimizer[player].apply(...)."
        )

    def finalize_variable_values(self, var_list):
        for optimizer in self.optimizers:
            own = {id(v) for v in optimizer._trainable_variables}
            optimizer.finalize_variable_values([v for v in var_list if id(v) in own])

    # Keras's saving walks into `optimizers`, and stores each there, once.

    def save_own_variables(self, store):
        del store

    def load_own_variables(self, store):
        del store

    def get_config(self):
        return {
            "name": self.name,
            "players": {
                name: keras.saving.serialize_keras_object(optimizer)
                for name, optimizer in self.players.items()
            },
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        players = {
            name: keras.saving.deserialize_keras_object(item, custom_objects)
            for name, item in config["players"].items()
        }
        return cls(players, name=config["name"])
