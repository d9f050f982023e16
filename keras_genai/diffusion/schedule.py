"""What every noise schedule has in common, and its arithmetic on both libraries."""

import dataclasses
from typing import ClassVar

import numpy as np
from keras import ops

# Where log-SNR is infinite: sigmoid(-80) is still a normal float32.
LARGEST_LOG_SNR = 80.0


def library(x):
    """`(ops or np, x)`: tensors stay tensors of floats, numbers become float64."""
    if ops.is_tensor(x):
        is_float = "float" in str(x.dtype)
        return ops, x if is_float else ops.cast(x, "float32")
    return np, np.asarray(x, "float64")


def sigmoid(xp, x):
    # NumPy has none; this one neither overflows nor loses digits on either side.
    return ops.sigmoid(x) if xp is ops else np.exp(-np.logaddexp(0.0, -x))


def softplus(xp, x):
    return ops.softplus(x) if xp is ops else np.logaddexp(0.0, x)


def expand(factor, x):
    """A factor for each sample, `(B,)` or a scalar, to broadcast against `(B, ...)`."""
    factor = ops.cast(factor, x.dtype)
    missing = len(x.shape) - len(factor.shape) if len(factor.shape) else 0
    return ops.reshape(factor, (-1,) + (1,) * missing) if missing else factor


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What every schedule has; see `keras_genai.diffusion.schedules`."""

    kinds: ClassVar[dict] = {}

    def __init_subclass__(cls):
        Schedule.kinds[cls.__name__] = cls

    @property
    def t_min(self):
        """The time of least noise that a network is trained at."""
        return 0.0

    @property
    def t_max(self):
        """The time of most noise."""
        return 1.0

    @property
    def prior_std(self):
        """Standard deviation of the noise that sampling starts from at `t_max`."""
        return 1.0

    def alpha(self, t):
        xp, _ = library(t)
        return xp.sqrt(sigmoid(xp, self.log_snr(t)))

    def sigma(self, t):
        xp, _ = library(t)
        return xp.sqrt(sigmoid(xp, -self.log_snr(t)))

    def log_snr(self, t):
        raise NotImplementedError

    def time(self, log_snr):
        raise NotImplementedError

    def times(self, u):
        return self.t_min + (self.t_max - self.t_min) * u

    def noise_level(self, t):
        """`sigma / alpha`, the sigma of 2206.00364; infinite where alpha is 0."""
        xp, _ = library(t)
        return xp.exp(-0.5 * self.log_snr(t))

    def add_noise(self, x, noise, t):
        """Draws `x_t ~ q(x_t | x_0)`.

        Args:
            x: clean samples `(B, ...)`.
            noise: standard normal noise of the same shape.
            t: times `(B,)`, or one for all.

        Returns:
            Tensor of the shape of `x`.
        """
        x, noise, t = map(ops.convert_to_tensor, (x, noise, t))
        if "int" not in str(t.dtype):
            t = ops.cast(t, x.dtype)
        return expand(self.alpha(t), x) * x + expand(self.sigma(t), x) * noise

    def get_config(self):
        """The constructor's arguments with the `class`, as a plain dict."""
        return {"class": type(self).__name__, **dataclasses.asdict(self)}

    @staticmethod
    def from_config(config):
        """The schedule of a `get_config`."""
        config = dict(config)
        kind = config.pop("class", None)
        if kind not in Schedule.kinds:
            raise ValueError(
                "A schedule's config names its class, one of "
                f"{', '.join(Schedule.kinds)}; got {kind!r}."
            )
        return Schedule.kinds[kind](**config)
