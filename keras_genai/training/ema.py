"""The exponential moving average of a network."""

import keras
from keras import ops

from keras_genai import backend
from keras_genai.backend.scope import with_values
from keras_genai.utils.serialization import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class EMA(keras.layers.Layer):
    """A shadow of every variable of a network, moved a little after each update of it.

    `shadow <- d shadow + (1 - d) value`, with `d = min(decay, (1 + n) / (10 + n))`
    at the n-th update, so that the first ones are forgotten quickly. Batch-norm
    statistics are averaged like the weights; integer variables are copied. The
    averaged generator samples better than the last one (1806.04498; 1710.10196,
    section 5).

    Args:
        network: a built `keras.Model` or layer.
        decay: float in [0, 1).

    Example:

    ```python
    ema = EMA(generator, decay=0.999)
    ema.update()
    images = ema.run(lambda: generator(latents, training=False))
    ```
    """

    def __init__(self, network, decay, name="ema"):
        super().__init__(name=name, trainable=False, dtype="float32")
        check_decay(decay)
        self.decay = float(decay)
        # Not tracked: the network belongs to the model, the shadow to this layer.
        self.__dict__["__network"] = network
        self.updates = self.add_weight(
            shape=(),
            dtype="int32",
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
        )
        self.shadow = []
        for variable in self._values():
            weight = self.add_weight(
                shape=variable.shape,
                dtype=variable.dtype,
                initializer="zeros",
                trainable=False,
                autocast=False,
                aggregation="only_first_replica",
            )
            weight.assign(backend.to_host(variable.value))  # a copy
            self.shadow.append(weight)
        self.built = True

    def _values(self):
        return self.__dict__["__network"].variables

    def follows(self, network):
        """Whether this is the average of that network."""
        return self.__dict__["__network"] is network

    def reset(self):
        """Makes the average the network's present weights, as at the beginning."""
        for shadow, variable in zip(self.shadow, self._values(), strict=True):
            shadow.assign(backend.to_host(variable.value))  # a copy
        self.updates.assign(0)

    def update(self, moved=None):
        """Moves the shadow towards the network: once for each update of its weights.

        Args:
            moved: boolean scalar tensor: False leaves all as it is. No branch: replicas
                may not meet in one.
        """
        n = ops.cast(self.updates.value, "float32")
        rate = 1.0 - ops.minimum(self.decay, (1.0 + n) / (10.0 + n))
        with backend.without_gradients():
            for shadow, variable in zip(self.shadow, self._values(), strict=True):
                value, old = variable.value, shadow.value
                if keras.backend.is_float_dtype(shadow.dtype):
                    value = old + ops.cast(rate, shadow.dtype) * (value - old)
                shadow.assign(value if moved is None else ops.where(moved, value, old))
            one = 1 if moved is None else ops.cast(moved, "int32")
            self.updates.assign(self.updates.value + one)

    def run(self, fn):
        """`fn()` with the averaged values in the network's variables."""
        pairs = [
            (variable, shadow.value)
            for variable, shadow in zip(self._values(), self.shadow, strict=True)
        ]
        return with_values(pairs, fn)


def check_decay(decay):
    """Refuses a decay outside [0, 1)."""
    if isinstance(decay, bool) or not 0.0 <= float(decay) < 1.0:
        raise ValueError(
            f"ema_decay must be a float in [0, 1), such as 0.999; got {decay!r}. "
            "Give None for no average."
        )


def updates(optimizer):
    """How often an optimizer has moved its weights, an integer scalar tensor.

    None where every step is known to move them: the average then moves without asking.
    A copy: what a variable holds may be written over.
    """
    scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    if not scaled and (optimizer.gradient_accumulation_steps or 1) == 1:
        return None
    return optimizer.iterations + 0
