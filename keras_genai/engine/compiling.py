"""`compile` for models of several players."""

import keras

from keras_genai.engine.optimizer import PlayersOptimizer
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import either, flag, integer, one_of


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
                clipping and accumulation are the optimizer's own arguments.
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
        self._compile_arguments = {
            "run_eagerly": run_eagerly,
            "steps_per_execution": steps_per_execution,
            "jit_compile": jit_compile,
            "auto_scale_loss": auto_scale_loss,
        }

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
                else keras.optimizers.get(item)
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
            inner = getattr(item, "inner_optimizer", item)
            if inner.use_ema:
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
        }

    def compile_from_config(self, config):
        optimizers = {
            name: keras.saving.deserialize_keras_object(item)
            for name, item in config.pop("optimizers").items()
        }
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
