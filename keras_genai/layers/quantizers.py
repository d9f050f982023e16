"""What turns latents into codes: the common form, scalar and Gumbel quantizers.

The quantizers with a codebook of vectors are in `vector_quantizers.py`.
"""

import math

import keras
import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.backend import random
from keras_genai.backend.precision import wide, widen
from keras_genai.layers.initializers import VarianceScaling
from keras_genai.losses.reduction import per_sample
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_positive
from keras_genai.utils.serialization import PACKAGE
from keras_genai.utils.validation import either, integer, integers, number, tuple_of


def straight_through(z, code):
    """The code, with the derivative of z: `d/dz` is exactly the identity.

    1711.00937, section 3.2: the gradient passes the quantization as if it were not
    there. The value is the code to the bit, unlike `z + (code - z)`.

    Args:
        z: latents.
        code: what they were replaced by, of the same shape.
    """
    return ops.stop_gradient(code) + (z - ops.stop_gradient(z))


class Quantizer(keras.layers.Layer):
    """Base of the layers that `VQVAE` takes for `quantizer=`.

    A subclass defines `call(z, training)`, from latents `(B, ..., channels)` to

    - the code's vectors, `(B, ..., latent_dim)`;
    - the code's indices, int32 `(B, ...)`, or `(B, ..., stages)`;
    - the loss of each sample, `(B,)`, weighted;

    and `lookup(indices)`, from indices to vectors. It computes in float32 whatever
    the policy: half precision would take neighbours for each other.

    Attributes:
        channels: size of the latents that it takes.
        latent_dim: size of the vectors that it makes.
        codebook_size: number of codes: an index lies in [0, codebook_size).
        stages: how many indices stand for one vector, or None for a plain index.
        loss_name: what its loss is called in the logs, or None where it has none.
    """

    stages = None
    loss_name = None

    def __init__(self, **kwargs):
        super().__init__(**{**kwargs, "dtype": wide()})

    def check_latents(self, z):
        """Refuses latents of another size."""
        if z.shape[-1] != self.channels:
            raise ValueError(
                f"{type(self).__name__} takes latents (B, ..., {self.channels}); got "
                f"the shape {tuple(z.shape)}. The encoder's last layer must have "
                f"{self.channels} channels."
            )

    def lookup(self, indices):
        raise NotImplementedError(f"{type(self).__name__} must define lookup().")

    def get_config(self):
        config = super().get_config()
        config.pop("dtype")
        return config


# FSQ's levels for a codebook of about that size: 2309.15505, table 1 and its code.
LEVELS = {
    16: (5, 3),
    64: (8, 8),
    256: (8, 6, 5),
    512: (8, 8, 8),
    1024: (8, 5, 5, 5),
    2048: (8, 8, 6, 5),
    4096: (7, 5, 5, 5, 5),
    16384: (8, 8, 8, 6, 5),
    65536: (8, 8, 8, 5, 5, 5),
}


@keras.saving.register_keras_serializable(PACKAGE)
class FiniteScalarQuantizer(Quantizer):
    """Finite scalar quantization, FSQ (2309.15505).

    Each of a few channels is bounded by a tanh and rounded to one of its levels; the
    codebook is all combinations of levels, and nothing of it is learned. There is no
    loss beside the reconstruction's.

    Args:
        levels: integers >= 2, the number of levels of each channel. The codebook has
            their product of codes; the paper takes at least 5 a channel.

    Call arguments:
        z: latents `(B, ..., len(levels))`.

    Returns:
        `(code, indices, loss)`: code in [-1, 1] `(B, ..., len(levels))`, indices
        int32 `(B, ...)`, the first channel counting ones; loss zeros `(B,)`.

    Raises:
        ValueError: for levels that are none, or under 2, or too many to count.

    Example:

    ```python
    quantizer = FiniteScalarQuantizer((8, 6, 5))       # 240 codes
    code, indices, _ = quantizer(keras.ops.ones((2, 7, 7, 3)))
    ```
    """

    @checked(levels=integers(smallest=2))
    def __init__(self, levels, **kwargs):
        super().__init__(**kwargs)
        ok = isinstance(levels, (tuple, list)) and len(levels) > 0
        whole = (int, np.integer)
        if not ok or not all(isinstance(n, whole) and n >= 2 for n in levels):
            raise ValueError(
                "levels must be a list of integers of at least 2, one for each "
                f"channel, such as (8, 6, 5); got {levels!r}."
            )
        self.levels = tuple(int(n) for n in levels)
        self.channels = self.latent_dim = len(levels)
        self.codebook_size = math.prod(self.levels)
        if self.codebook_size >= 2**31:
            raise ValueError(
                f"levels {self.levels} make {self.codebook_size} codes, more than "
                "int32 can number (2**31)."
            )
        self._half = np.array(self.levels) // 2
        self._basis = np.cumprod([1, *self.levels[:-1]]).astype("int32")
        self.built = True

    def bound(self, z):
        """Latents to the interval that rounds to the levels: the paper's listing."""
        levels, epsilon = np.array(self.levels), 1e-3
        half = (levels - 1) * (1.0 - epsilon) / 2.0
        offset = np.where(levels % 2 == 1, 0.0, 0.5)
        shift = np.tan(offset / half)
        # An even number of levels has none at 0: -2, -1, 0, 1 for four.
        shift, half, offset = (
            ops.convert_to_tensor(each, z.dtype) for each in (shift, half, offset)
        )
        return ops.tanh(z + shift) * half - offset

    def call(self, z, training=False):
        self.check_latents(z)
        z = self.bound(widen(z))
        levels = ops.round(z)
        digits = ops.cast(levels, "int32") + ops.convert_to_tensor(self._half, "int32")
        indices = ops.sum(digits * ops.convert_to_tensor(self._basis), axis=-1)
        code = straight_through(z, levels) / ops.convert_to_tensor(self._half, z.dtype)
        loss = ops.zeros((ops.shape(z)[0],), z.dtype)  # (B,)
        return code, ops.cast(indices, "int32"), loss

    def lookup(self, indices):
        basis = ops.convert_to_tensor(self._basis)
        digits = ops.floor_divide(ops.expand_dims(indices, -1), basis)
        digits = ops.mod(digits, ops.convert_to_tensor(self.levels, "int32"))
        half = ops.convert_to_tensor(self._half, wide())
        return (ops.cast(digits, wide()) - half) / half  # (B, ..., channels)

    def get_config(self):
        return {**super().get_config(), "levels": list(self.levels)}


@keras.saving.register_keras_serializable(PACKAGE)
class GumbelQuantizer(Quantizer):
    """The discrete VAE's relaxation: a Gumbel-softmax over the codes.

    2102.12092, section 2.1 and appendix A.2, after 1611.01144: the encoder gives
    logits; while training a code is `softmax((logits + g) / tau)` with g Gumbel noise,
    which at low temperatures tau is one code, and its vector is the mean of the
    codebook by it. Otherwise it is the code of the largest logit. `tau` falls, and the
    weight of the KL divergence to uniform codes rises, along a cosine of the step.

    Args:
        codebook_size: K, number of codes (the paper: 8192).
        latent_dim: size of the codebook's vectors.
        temperature: `(first, last)`, both over 0. A number keeps it constant.
        temperature_steps: steps from the first to the last; the paper's 150,000 are
            for a training of 3,000,000. Give about half of your own.
        kl_weight: weight of the KL divergence of one code, in nats. The paper's 6.6
            counts by code where the reconstruction counts by 8 x 8 pixels of 3
            channels: 6.6 / 192 with a mean over pixels.
        kl_steps: steps in which that weight rises from 0.
        hard: whether the forward pass takes the largest entry alone, with the
            derivative of the soft one (1611.01144, section 2.2).
        seed: integer seed of the model.
        stream: name of the layer, for its noise and the initial codebook.

    Call arguments:
        z: logits `(B, ..., K)`.

    Returns:
        `(code, indices, loss)`: code `(B, ..., latent_dim)`, indices of the largest
        logits int32 `(B, ...)`, loss `(B,)` the weighted KL, a mean over codes.

    Raises:
        ValueError: for a size under 1 or a temperature that is not over 0.

    Example:

    ```python
    quantizer = GumbelQuantizer(512, 64, temperature_steps=2000)
    code, indices, kl = quantizer(logits, training=True)
    ```
    """

    loss_name = "kl"

    @checked(
        temperature=either(number("> 0"), tuple_of(number("> 0"), length=2)),
        temperature_steps=integer(1),
        kl_weight=number(">= 0"),
        kl_steps=integer(0),
    )
    def __init__(
        self,
        codebook_size,
        latent_dim,
        temperature=(1.0, 1.0 / 16.0),
        temperature_steps=150_000,
        kl_weight=6.6 / 192,
        kl_steps=5_000,
        hard=False,
        seed=0,
        stream="quantizer",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive("codebook_size", codebook_size)
        check_positive("latent_dim", latent_dim)
        check_positive("temperature_steps", temperature_steps)
        check_positive("kl_steps", kl_steps)
        ends = temperature if isinstance(temperature, (tuple, list)) else [temperature]
        if len(ends) not in (1, 2) or not all(tau > 0 for tau in ends):
            raise ValueError(
                "temperature must be a number over 0 or a pair (first, last) of them; "
                f"got {temperature!r}."
            )
        if kl_weight < 0:
            raise ValueError(f"kl_weight must be at least 0; got {kl_weight!r}.")
        self.codebook_size = self.channels = codebook_size
        self.latent_dim = latent_dim
        self.temperature = (float(ends[0]), float(ends[-1]))
        self.temperature_steps = temperature_steps
        self.kl_weight = kl_weight
        self.kl_steps = kl_steps
        self.hard = hard
        self.seed = random.check_seed(seed)
        self.stream = stream
        self.noise = random.Noise(self.seed, name="noise")
        self.codebook = self.add_weight(
            name="codebook",
            shape=(codebook_size, latent_dim),
            initializer=VarianceScaling(
                1.0, "fan_out", seed=self.seed, stream=f"{stream}/codebook"
            ),
        )
        self.built = True

    def _cosine(self, first, last, steps):
        """From the first to the last value along half a cosine."""
        done = ops.cast(self.noise.step.value, wide()) / steps
        angle = math.pi * ops.minimum(done, 1.0)
        return last + (first - last) * 0.5 * (1.0 + ops.cos(angle))

    def tau(self):
        """The temperature at the present step."""
        return self._cosine(*self.temperature, self.temperature_steps)

    def call(self, z, training=False):
        self.check_latents(z)
        logits = widen(z)
        log_q = ops.log_softmax(logits, axis=-1)  # (B, ..., K)
        kl = ops.sum(ops.exp(log_q) * log_q, axis=-1) + math.log(self.codebook_size)
        loss = self._cosine(0.0, self.kl_weight, self.kl_steps) * per_sample(kl)
        indices = backend.argmax(logits)  # (B, ...)
        if not training:
            return self.lookup(indices), indices, loss
        gumbel = self.noise.gumbel(f"{self.stream}/gumbel", ops.shape(logits), wide())
        weights = ops.softmax((logits + gumbel) / self.tau(), axis=-1)
        self.noise.advance()
        if self.hard:
            largest = backend.argmax(weights)
            one_hot = ops.one_hot(largest, self.codebook_size, dtype=weights.dtype)
            weights = straight_through(weights, one_hot)
        return ops.matmul(weights, self.codebook.value), indices, loss

    def lookup(self, indices):
        return ops.take(self.codebook.value, indices, axis=0)

    def get_config(self):
        return {
            **super().get_config(),
            "codebook_size": self.codebook_size,
            "latent_dim": self.latent_dim,
            "temperature": list(self.temperature),
            "temperature_steps": self.temperature_steps,
            "kl_weight": self.kl_weight,
            "kl_steps": self.kl_steps,
            "hard": self.hard,
            "seed": self.seed,
            "stream": self.stream,
        }
