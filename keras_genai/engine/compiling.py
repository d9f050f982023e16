"""`compile` for models of several players."""

import keras

from keras_genai.engine.optimizer import (
    PlayersOptimizer,
    accumulation,
    inner,
    schedule_by_updates,
)
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import either, flag, integer, one_of, refuse


class Compiling:
    """The part of `GenerativeModel` that holds an optimizer for each player."""

    def default_optimizer(self, player):
        """The optimizer of the paper, when `compile` is given none."""
        raise ValueError(
            f"{type(self).__name__} has no default optimizer for {player!r}: give one."
        )

    @checked(
        steps_per_execution=integer(1), jit_compile=either(flag, one_of("auto", None))
    )
    def compile(
        self,
        optimizer=None,
        *,
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
        chosen = self._choose_optimizers(optimizer, player_optimizers)
        scaled = {
            name: _scaled(item, self.players[name]) if auto_scale_loss else item
            for name, item in chosen.items()
        }
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
        self._set_accumulation({accumulation(item) for item in scaled.values()})
        self._compile_arguments = {
            "run_eagerly": run_eagerly,
            "steps_per_execution": steps_per_execution,
            "jit_compile": jit_compile,
            "auto_scale_loss": auto_scale_loss,
        }

    def _set_accumulation(self, found):
        """Over how many batches a step goes, from the numbers of all players."""
        self.accumulation = found.pop() if len(found) == 1 else 1
        if self.accumulation > 1 and self.gathered is None:
            # Batches, and samples in them, since the last update.
            self.gathered = self.add_weight(
                name="gathered",
                shape=(2,),
                dtype="int32",
                initializer="zeros",
                trainable=False,
                aggregation="only_first_replica",
            )
        elif self.gathered is not None:
            self.gathered.assign([0, 0])

    def _choose_optimizers(self, optimizer, given):
        single = len(self._names) == 1
        expected = {f"{name}_optimizer": name for name in self._names}
        unknown = sorted(set(given) - set(expected))
        if unknown or (optimizer is not None and not single):
            wrong = unknown or ["optimizer"]
            names = ["optimizer"] if single else sorted(expected)
            raise ValueError(
                f"{type(self).__name__}.compile does not take {', '.join(wrong)}; "
                f"it takes {', '.join(names)} and Keras's run_eagerly, "
                "steps_per_execution, jit_compile, auto_scale_loss."
            )
        chosen = {}
        for argument, name in expected.items():
            item = given.get(argument, optimizer if single else None)
            chosen[name] = (
                self.default_optimizer(name)
                if item is None
                else _optimizer(argument if not single else "optimizer", item)
            )
        for name, item in chosen.items():
            others = [n for n, o in chosen.items() if o is item and n != name]
            if others:
                raise ValueError(
                    f"The same optimizer instance is given for {name} and "
                    f"{others[0]}. An optimizer keeps the state of one player's "
                    "weights: make one instance for each."
                )
            own = {id(v) for v in self.players[name].trainable_variables}
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
            "not_decayed": self._not_decayed(),
        }

    def _not_decayed(self):
        """Dict player -> numbers of its variables without weight decay, or None.

        An optimizer's configuration leaves them out, by names or by variables.
        """
        found = {}
        for name, optimizer in self.optimizers.items():
            decays = getattr(inner(optimizer), "_use_weight_decay", lambda _: True)
            variables = enumerate(self.players[name].variables)
            excluded = [i for i, v in variables if not decays(v)]
            if excluded:
                found[name] = excluded
        return found or None

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


def _scaled(optimizer, network):
    """The optimizer with loss scaling around it, when the network needs that."""
    half = any(layer.compute_dtype == "float16" for layer in network._flatten_layers())
    if not half or isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer)


def _optimizer(argument, given):
    """Keras's optimizer of a name, a configuration or an instance."""
    says = "a Keras optimizer, the name of one, or its configuration"
    if not isinstance(given, (str, dict, keras.optimizers.Optimizer)):
        refuse(argument, says, given)
    try:
        return keras.optimizers.get(given)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{argument} must be {says}; got {given!r}.") from error
