"""Initial weights that are the same, to the bit, on every backend.

Keras's initializers draw from each backend's own generator, so that one seed gives
three different networks. These draw from `backend.random` on the host.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import keras
from keras import ops

from keras_genai.backend import random
from keras_genai.utils.arguments import checked
from keras_genai.utils.deferred import is_deferring
from keras_genai.utils.memory import check_weight
from keras_genai.utils.serialization import PACKAGE
from keras_genai.utils.validation import number, text


class _Initializer(keras.initializers.Initializer):
    """Base: keyed by (seed, stream); `stream` names the weight."""

    def __init__(self, seed=0, stream=""):
        self.seed = seed
        self.stream = stream

    def __call__(self, shape, dtype=None):
        if is_deferring():  # a shape is asked for, not a value
            return ops.zeros(shape, dtype=dtype or keras.config.floatx())
        check_weight(shape)
        key = random.key(self.seed, f"initial/{self.stream}")
        values = self.draw(key, tuple(int(n) for n in shape))
        return ops.convert_to_tensor(values, dtype=dtype or keras.config.floatx())

    def get_config(self):
        return {"seed": self.seed, "stream": self.stream}


@keras.saving.register_keras_serializable(PACKAGE)
class Zeros(keras.initializers.Zeros):
    """Zeros of a shape that the machine's memory can hold."""

    def __call__(self, shape, dtype=None):
        check_weight(shape)
        return super().__call__(shape, dtype)


@keras.saving.register_keras_serializable(PACKAGE)
class Normal(_Initializer):
    """Normal weights.

    Args:
        stddev: standard deviation. DCGAN's 0.02 (1511.06434, section 4).
        mean: mean.
        seed: integer seed of the model.
        stream: name of the weight: other names draw other numbers.

    Example:

    ```python
    keras.layers.Dense(8, kernel_initializer=Normal(0.02, seed=0, stream="dense"))
    ```
    """

    @checked(stddev=number(">= 0"), mean=number())
    def __init__(self, stddev=0.02, mean=0.0, seed=0, stream=""):
        super().__init__(seed, stream)
        self.stddev = stddev
        self.mean = mean

    def draw(self, key, shape):
        return random.normal(key, shape, self.mean, self.stddev, host=True)

    def get_config(self):
        return {**super().get_config(), "stddev": self.stddev, "mean": self.mean}


@keras.saving.register_keras_serializable(PACKAGE)
class VarianceScaling(_Initializer):
    """Weights whose variance follows the fans: Glorot, He and LeCun.

    `variance = scale / n` with `n` the fan in, the fan out, or their mean.
    Glorot uniform is `(1, "fan_avg", "uniform")`, He normal
    `(2, "fan_in", "truncated_normal")` (1502.01852), as in Keras.

    Args:
        scale: positive float.
        mode: `"fan_in"`, `"fan_out"` or `"fan_avg"`.
        distribution: `"normal"`, `"truncated_normal"` or `"uniform"`.
        seed: integer seed of the model.
        stream: name of the weight.
    """

    @checked(scale=number("> 0"), mode=text, distribution=text)
    def __init__(
        self, scale=1.0, mode="fan_avg", distribution="uniform", seed=0, stream=""
    ):
        super().__init__(seed, stream)
        modes = ("fan_in", "fan_out", "fan_avg")
        distributions = ("normal", "truncated_normal", "uniform")
        if scale <= 0 or mode not in modes or distribution not in distributions:
            raise ValueError(
                f"VarianceScaling takes scale > 0, mode in {modes} and distribution "
                f"in {distributions}; got {scale!r}, {mode!r}, {distribution!r}."
            )
        self.scale = scale
        self.mode = mode
        self.distribution = distribution

    def draw(self, key, shape):
        fan_in, fan_out = _fans(shape)
        fan = {"fan_in": fan_in, "fan_out": fan_out}.get(
            self.mode, (fan_in + fan_out) / 2
        )
        deviation = math.sqrt(self.scale / max(1.0, fan))
        if self.distribution == "normal":
            return random.normal(key, shape, 0.0, deviation, host=True)
        if self.distribution == "truncated_normal":
            # The deviation of a standard normal cut at two deviations.
            deviation /= 0.87962566103423978
            return random.truncated_normal(key, shape, 0.0, deviation, host=True)
        limit = math.sqrt(3.0) * deviation
        return random.uniform(key, shape, -limit, limit, host=True)

    def get_config(self):
        return {
            **super().get_config(),
            "scale": self.scale,
            "mode": self.mode,
            "distribution": self.distribution,
        }


def torch_uniform(seed, stream):
    """PyTorch's initializer: uniform within `1 / sqrt(fan in)`."""
    return VarianceScaling(1.0 / 3.0, "fan_in", "uniform", seed=seed, stream=stream)


def normal_or_uniform(std):
    """The initializers of `Streams`: normal, or `torch_uniform` where `std` is None."""
    return torch_uniform if std is None else functools.partial(Normal, std)


@dataclasses.dataclass(frozen=True)
class Streams:
    """The initializers of a network's layers, each with its own stream.

    Args:
        prefix: name of the network, the first part of every stream.
        seed: integer seed of the model.
        initializer: function of `(seed, stream)`: `torch_uniform`, a class of this
            module, or a `functools.partial` of one.

    Example:

    ```python
    kernel = Streams("encoder", seed=0)
    keras.layers.Dense(8, kernel_initializer=kernel("hidden_1"), name="hidden_1")
    ```
    """

    prefix: str
    seed: int
    initializer: Callable = VarianceScaling

    def __call__(self, name):
        """The initializer of the layer of that name."""
        return self.initializer(seed=self.seed, stream=f"{self.prefix}/{name}")

    def arguments(self, name):
        """The arguments of a layer of that name that draws its own weights or noise."""
        return {"seed": self.seed, "stream": f"{self.prefix}/{name}", "name": name}


def _fans(shape):
    """Fan in and fan out of a kernel `(..., in, out)`."""
    if len(shape) < 2:
        size = shape[0] if shape else 1
        return size, size
    field = math.prod(shape[:-2])
    return shape[-2] * field, shape[-1] * field
