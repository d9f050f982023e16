"""What a decoder's output means: the distribution p(x|z) of an image."""

import keras
import numpy as np
from keras import ops

from keras_genai.backend import random
from keras_genai.losses import elbo
from keras_genai.utils.serialization import PACKAGE

NAMES = ("bernoulli", "gaussian", "discretized_logistic")
SCALES = ("learned", "per_pixel")
LEVELS = 256
# Below this a scale grows no smaller (the code of 1701.05517): where pixels never
# change, the likelihood of an exact hit would have no bound.
MIN_LOG_SCALE = -7.0


@keras.saving.register_keras_serializable(PACKAGE)
class LogScale(keras.layers.Layer):
    """The log of one scale for all pixels, learned with the networks (2006.13202)."""

    def __init__(self, initial=-1.0, **kwargs):
        super().__init__(**kwargs)
        self.initial = float(initial)
        self.log_scale = self.add_weight(
            name="log_scale",
            shape=(),
            initializer=keras.initializers.Constant(self.initial),
            autocast=False,
        )
        self.built = True

    def value(self):
        """The weight as a scalar tensor."""
        return self.log_scale.value

    def get_config(self):
        return {**super().get_config(), "initial": self.initial}


class Likelihood:
    """Base: `p(x|z)` from the decoder's output.

    Args:
        image_shape: `(H, W, C)`.
        scale: see `VAE`; for a likelihood that has one.

    Attributes:
        value_range: of the images.
        output_shape: what the decoder must make, `(H, W, n C)`.
    """

    value_range = (-1.0, 1.0)
    has_scale = True

    def __init__(self, image_shape, scale):
        self.channels = image_shape[-1]
        self.scale = scale
        parts = 2 if self.has_scale and scale == "per_pixel" else 1
        self.output_shape = (*image_shape[:2], parts * self.channels)

    def split(self, output, learned):
        """Location and log scale of the decoder's output `(..., H, W, n C)`.

        Args:
            output: of the decoder.
            learned: the weight of `LogScale`, where there is one.
        """
        if self.scale == "per_pixel":
            location = output[..., : self.channels]
            log_scale = output[..., self.channels :]
        else:
            location = output
            log_scale = learned
            if learned is None:
                log_scale = ops.cast(np.log(self.scale), output.dtype)
        return location, ops.maximum(log_scale, MIN_LOG_SCALE)

    def log_likelihood(self, x, output, learned, batch_axes):
        """`log p(x|z)`, the sum over all but the first `batch_axes` axes."""
        raise NotImplementedError

    def mean(self, output):
        """The mean image of the decoder's output."""
        return output[..., : self.channels]

    def sample(self, key, output, learned, offset):
        """Images drawn from the decoder's output `(B, H, W, n C)`."""
        raise NotImplementedError


class Bernoulli(Likelihood):
    """Black or white; the decoder makes logits (1312.6114, appendix C.1)."""

    value_range = (0.0, 1.0)
    has_scale = False

    def log_likelihood(self, x, output, learned, batch_axes):
        return elbo.bernoulli_log_likelihood(x, output, batch_axes)

    def mean(self, output):
        return ops.sigmoid(output)

    def sample(self, key, output, learned, offset):
        draw = random.uniform(key, ops.shape(output), dtype="float32", offset=offset)
        return ops.cast(draw < ops.sigmoid(output), "float32")


class Gaussian(Likelihood):
    """Normal pixels about the decoder's mean (1312.6114, appendix C.2)."""

    def log_likelihood(self, x, output, learned, batch_axes):
        location, log_scale = self.split(output, learned)
        return elbo.gaussian_log_likelihood(x, location, log_scale, batch_axes)

    def sample(self, key, output, learned, offset):
        location, log_scale = self.split(output, learned)
        noise = random.normal(key, ops.shape(location), offset=offset)
        return location + ops.exp(log_scale) * noise


class DiscretizedLogistic(Likelihood):
    """The 256 levels of 8-bit images (1606.04934; 1701.05517, equation 2)."""

    def log_likelihood(self, x, output, learned, batch_axes):
        location, log_scale = self.split(output, learned)
        return elbo.discretized_logistic_log_likelihood(
            x, location, log_scale, LEVELS, batch_axes
        )

    def sample(self, key, output, learned, offset):
        location, log_scale = self.split(output, learned)
        draw = random.uniform(key, ops.shape(location), offset=offset)
        draw = ops.clip(draw, 2.0**-25, 1.0 - 2.0**-24)
        noise = ops.log(draw) - ops.log1p(-draw)
        x = location + ops.exp(log_scale) * noise
        half = 0.5 * (LEVELS - 1)
        return ops.clip(ops.round((x + 1.0) * half) / half - 1.0, -1.0, 1.0)


_LIKELIHOODS = dict(zip(NAMES, (Bernoulli, Gaussian, DiscretizedLogistic), strict=True))


def make(name, image_shape, scale):
    """The likelihood of a name.

    Raises:
        ValueError: the name or the scale is unknown; the message lists the known.
    """
    if name not in _LIKELIHOODS:
        raise ValueError(f"likelihood must be one of {', '.join(NAMES)}; got {name!r}.")
    number = isinstance(scale, (int, float)) and not isinstance(scale, bool)
    if not (scale in SCALES if isinstance(scale, str) else number and scale > 0):
        raise ValueError(
            "scale must be 'learned' (one for all pixels), 'per_pixel' (the decoder "
            f"makes it) or a positive number; got {scale!r}."
        )
    return _LIKELIHOODS[name](image_shape, scale)
