"""Quantizers with a codebook of vectors: one, or several after each other."""

import keras
from keras import ops

from keras_genai import backend
from keras_genai.backend import random, replicas
from keras_genai.backend.precision import widen
from keras_genai.layers.initializers import VarianceScaling
from keras_genai.layers.quantizers import Quantizer, straight_through
from keras_genai.losses.reduction import per_sample
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_positive
from keras_genai.utils.serialization import PACKAGE
from keras_genai.utils.validation import flag, number, text


@keras.saving.register_keras_serializable(PACKAGE)
class VectorQuantizer(Quantizer):
    """Vector quantization (1711.00937): each latent becomes its nearest code.

    `loss = |sg(z) - e|^2 + beta |z - sg(e)|^2` (equation 3, means over elements). By
    default the first term is replaced by averages of what each code stood for
    (appendix A.1, and Laplace smoothing as in the authors' code):

        N_i <- g N_i + (1 - g) n_i,  m_i <- g m_i + (1 - g) sum_j z_ij,  e_i = m_i / N_i

    A code that few latents choose is dead, and is put where a latent of the batch is
    (2005.00341, section 3.1; 2107.03312, section III-C). At the first step all are: the
    codebook begins with latents. Which latents is drawn from the package's noise.

    Args:
        codebook_size: K, number of codes.
        latent_dim: size of a code.
        update: `"ema"`, averages, or `"gradient"`, the first term of the loss.
        decay: g, in [0, 1), of the averages.
        beta: weight of the commitment of the latents to their codes, at least 0.
        restart: a code is dead when its share of the latents, averaged, is under this
            part of the mean share 1 / K. 0 restarts none. By default 0.1; with
            `"gradient"` there are no restarts.
        initialization: `"data"`, latents of the first batch, or `"uniform"`. By
            default `"data"`; with `"gradient"` it is `"uniform"`.
        normalize: whether latents and codes are scaled to length 1, so that the
            nearest is the one of the largest cosine (2110.04627, section 3.2).
        epsilon: of the Laplace smoothing.
        seed: integer seed of the model.
        stream: name of the layer, for its restarts and the initial codebook.

    Call arguments:
        z: latents `(B, ..., latent_dim)`.
        weight: `(B,)`, how much each sample counts in the averages; by default 1.

    Returns:
        `(code, indices, loss)`: code `(B, ..., latent_dim)`, with the derivative of z;
        indices int32 `(B, ...)`; loss `(B,)`, a mean over the sample's latents.

    Raises:
        ValueError: for an argument out of range.

    Example:

    ```python
    quantizer = VectorQuantizer(512, 64)
    code, indices, loss = quantizer(latents, training=True)  # moves the codebook
    ```
    """

    loss_name = "commitment"

    @checked(
        update=text,
        decay=number("[0, 1)"),
        beta=number(">= 0"),
        restart=number(">= 0"),
        initialization=text,
    )
    def __init__(
        self,
        codebook_size,
        latent_dim,
        update="ema",
        decay=0.99,
        beta=0.25,
        restart=None,
        initialization=None,
        normalize=False,
        epsilon=1e-5,
        seed=0,
        stream="quantizer",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_positive("codebook_size", codebook_size)
        check_positive("latent_dim", latent_dim)
        self._check(update, decay, beta, restart, initialization, epsilon)
        ema = update == "ema"
        self.codebook_size = codebook_size
        self.latent_dim = self.channels = latent_dim
        self.update = update
        self.decay = float(decay)
        self.beta = float(beta)
        self.restart = (0.1 if ema else 0.0) if restart is None else float(restart)
        self.initialization = initialization or ("data" if ema else "uniform")
        self.normalize = bool(normalize)
        self.epsilon = float(epsilon)
        self.seed = random.check_seed(seed)
        self.stream = stream
        uniform = VarianceScaling(
            1.0, "fan_out", seed=self.seed, stream=f"{stream}/codebook"
        )
        shape = (codebook_size, latent_dim)
        self.codebook = self._weight("codebook", shape, uniform, trainable=not ema)
        if ema:
            known = self.initialization == "uniform"
            ones = "ones" if known else "zeros"
            self.usage = self._weight("usage", shape[:1], ones)  # N
            self.sums = self._weight("sums", shape, uniform if known else "zeros")  # m
            self.noise = random.Noise(self.seed, name="noise")
        self.built = True

    def _weight(self, name, shape, initializer, trainable=False):
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer,
            trainable=trainable,
            autocast=False,
            aggregation="none" if trainable else "only_first_replica",
        )

    def _check(self, update, decay, beta, restart, initialization, epsilon):
        if update not in ("ema", "gradient"):
            raise ValueError(f"update must be 'ema' or 'gradient'; got {update!r}.")
        if initialization not in (None, "data", "uniform"):
            raise ValueError(
                f"initialization must be 'data' or 'uniform'; got {initialization!r}."
            )
        if update == "gradient" and (restart or initialization == "data"):
            raise ValueError(
                "A codebook trained by gradients (update='gradient') is not set from "
                "latents: leave restart and initialization out, or use update='ema'."
            )
        if not 0.0 <= decay < 1.0 or beta < 0.0 or epsilon <= 0.0:
            raise ValueError(
                "VectorQuantizer takes decay in [0, 1), beta >= 0 and epsilon > 0; got "
                f"decay={decay!r}, beta={beta!r}, epsilon={epsilon!r}."
            )
        if restart is not None and not 0.0 <= restart < 1.0:
            raise ValueError(f"restart must be in [0, 1); got {restart!r}.")

    def codes(self):
        """The codebook `(K, latent_dim)`, of length 1 where `normalize` says so."""
        codebook = ops.convert_to_tensor(self.codebook.value)
        return _unit(codebook) if self.normalize else codebook

    def call(self, z, training=False, weight=None):
        self.check_latents(z)
        z = widen(z)
        if self.normalize:
            z = _unit(z)
        codes = self.codes()
        flat = ops.reshape(ops.stop_gradient(z), (-1, self.latent_dim))  # (N, D)
        nearest = _nearest(flat, ops.stop_gradient(codes))  # (N,)
        indices = ops.reshape(nearest, ops.shape(z)[:-1])  # (B, ...)
        code = ops.take(codes, indices, axis=0)  # (B, ..., D)
        loss = self.beta * per_sample(ops.square(z - ops.stop_gradient(code)))
        if self.update == "gradient":
            loss = loss + per_sample(ops.square(ops.stop_gradient(z) - code))
        elif training:
            with backend.without_gradients():
                self._follow(flat, nearest, ops.shape(z)[0], weight)
        return straight_through(z, code), indices, loss

    def _follow(self, flat, nearest, batch, weight):
        """Moves the codebook to the averages of the latents, and restarts dead codes.

        Args:
            flat: latents `(N, D)`.
            nearest: their codes `(N,)`.
            batch: number of samples, of which each has N / batch latents.
            weight: `(batch,)`, or None.
        """
        each = ops.shape(flat)[0] // batch
        # (N, K): a matrix product sums in one order, where a scatter may not.
        chosen = ops.one_hot(nearest, self.codebook_size, dtype=flat.dtype)
        if weight is not None:
            weight = ops.repeat(ops.cast(weight, flat.dtype), each)  # (N,)
            chosen = chosen * ops.expand_dims(weight, 1)
        counts, sums = replicas.total(
            [ops.sum(chosen, axis=0), ops.matmul(ops.transpose(chosen), flat)]
        )
        before = self.usage.value
        usage = self.decay * before + (1.0 - self.decay) * counts  # (K,)
        sums = self.decay * self.sums.value + (1.0 - self.decay) * sums  # (K, D)
        if self.restart or self.initialization == "data":
            # What was never used is not known yet: all codes, at the first step.
            mean = ops.mean(usage)
            dead = ops.logical_or(usage < self.restart * mean, ops.equal(before, 0))
            latents = self._latents(flat, each)
            usage = ops.where(dead, mean, usage)
            sums = ops.where(ops.expand_dims(dead, 1), mean * latents, sums)
        total = ops.sum(usage)
        smooth = (usage + self.epsilon) / (total + self.codebook_size * self.epsilon)
        codebook = sums / ops.expand_dims(smooth * total, 1)
        self.codebook.assign(_unit(codebook) if self.normalize else codebook)
        self.usage.assign(usage)
        self.sums.assign(sums)
        self.noise.advance()

    def _latents(self, flat, each):
        """K latents `(K, D)` of the global batch, evenly spaced from a drawn one.

        So no latent is taken twice where there are as many as codes.
        """
        own = ops.cast(ops.shape(flat)[0], "int32")
        total = ops.cast(ops.round(replicas.samples(own)), "int32")
        key = self.noise.key(f"{self.stream}/restart")
        k = ops.arange(self.codebook_size, dtype="int32")
        size = self.codebook_size
        # k * total / K, in parts that stay within int32.
        rows = k * (total // size) + (k * (total % size)) // size
        rows = (rows + random.randint(key, (), 0, total)) % total
        rows = rows - ops.cast(replicas.offset() * each, "int32")  # in this part
        here = ops.logical_and(rows >= 0, rows < own)
        latents = ops.take(flat, ops.clip(rows, 0, own - 1), axis=0)  # (K, D)
        latents = ops.where(ops.expand_dims(here, 1), latents, 0.0)
        return replicas.total([latents])[0]

    def lookup(self, indices):
        """The codes of indices: int32 `(B, ...)` to `(B, ..., latent_dim)`."""
        return ops.take(self.codes(), indices, axis=0)

    def get_config(self):
        return {
            **super().get_config(),
            "codebook_size": self.codebook_size,
            "latent_dim": self.latent_dim,
            "update": self.update,
            "decay": self.decay,
            "beta": self.beta,
            "restart": self.restart,
            "initialization": self.initialization,
            "normalize": self.normalize,
            "epsilon": self.epsilon,
            "seed": self.seed,
            "stream": self.stream,
        }


def _nearest(z, codes):
    """The row of `codes` (K, D) nearest to each row of `z` (N, D): int32 `(N,)`."""
    # |z - e|^2 = |z|^2 - 2 z.e + |e|^2, of which the first is the same for all codes.
    squares = ops.sum(ops.square(codes), axis=1)  # (K,)
    return backend.argmax(2.0 * ops.matmul(z, ops.transpose(codes)) - squares)


def _unit(x):
    """Vectors scaled to length 1."""
    squares = ops.sum(ops.square(x), axis=-1, keepdims=True)
    return x * ops.rsqrt(squares + 1e-12)


@keras.saving.register_keras_serializable(PACKAGE)
class ResidualVectorQuantizer(Quantizer):
    """Residual vector quantization (2107.03312, section III-C and algorithm 1).

    Each stage quantizes what the stages before it left over, so that S stages of K
    codes tell `K^S` vectors apart, and the first stages alone are a coarser code.

    Args:
        codebook_size: K, number of codes of each stage.
        latent_dim: size of a code.
        stages: S, at least 1.
        dropout: whether each sample of a training batch uses a random number of the
            stages, 1 to S, so that any number will do later (the paper's quantizer
            dropout).
        seed: integer seed of the model.
        stream: name of the layer; each stage adds its number.
        **options: of each stage, see `VectorQuantizer`.

    Call arguments:
        z: latents `(B, ..., latent_dim)`.

    Returns:
        `(code, indices, loss)`: code `(B, ..., latent_dim)`, with the derivative of z;
        indices int32 `(B, ..., S)`; loss `(B,)`, the mean of the stages' losses.

    Example:

    ```python
    quantizer = ResidualVectorQuantizer(64, 32, stages=4)
    code, indices, loss = quantizer(latents)         # indices (B, h, w, 4)
    coarse = quantizer.lookup(indices[..., :2])      # by the first two stages
    ```
    """

    loss_name = "commitment"

    @checked(dropout=flag)
    def __init__(
        self,
        codebook_size,
        latent_dim,
        stages=4,
        dropout=False,
        seed=0,
        stream="quantizer",
        **options,
    ):
        own = {
            name: options.pop(name)
            for name in ("name", "trainable", "dtype")
            if name in options
        }
        super().__init__(**own)
        check_positive("stages", stages)
        self.codebook_size = codebook_size
        self.latent_dim = self.channels = latent_dim
        self.stages = stages
        self.dropout = bool(dropout)
        self.seed = random.check_seed(seed)
        self.stream = stream
        self.options = options
        self.quantizers = [
            VectorQuantizer(
                codebook_size,
                latent_dim,
                seed=seed,
                stream=f"{stream}/{stage}",
                name=f"stage_{stage}",
                **options,
            )
            for stage in range(stages)
        ]
        self.noise = random.Noise(self.seed, name="noise")
        self.built = True

    def call(self, z, training=False):
        self.check_latents(z)
        z = widen(z)
        used = None
        if training and self.dropout:
            batch = ops.shape(z)[0]
            used = self.noise.randint(
                f"{self.stream}/dropout", (batch,), 1, self.stages + 1
            )
            self.noise.advance()
        rest, code, loss, indices = z, ops.zeros_like(z), 0.0, []
        for i, stage in enumerate(self.quantizers):
            weight = None
            if used is not None:
                weight = ops.cast(i < used, z.dtype)  # (B,)
            found, index, stage_loss = stage(rest, training=training, weight=weight)
            found = ops.stop_gradient(found)
            rest = rest - found
            if weight is not None:
                found = found * ops.reshape(weight, (-1, *[1] * (len(z.shape) - 1)))
                stage_loss = stage_loss * weight
            code = code + found
            loss = loss + stage_loss / self.stages
            indices.append(index)
        return straight_through(z, code), ops.stack(indices, axis=-1), loss

    def lookup(self, indices):
        """The codes of indices of the first stages, int32 `(B, ..., s)`, s <= S."""
        parts = [
            stage.lookup(indices[..., i])
            for i, stage in enumerate(self.quantizers[: indices.shape[-1]])
        ]
        return sum(parts)

    def get_config(self):
        return {
            **super().get_config(),
            "codebook_size": self.codebook_size,
            "latent_dim": self.latent_dim,
            "stages": self.stages,
            "dropout": self.dropout,
            "seed": self.seed,
            "stream": self.stream,
            **self.options,
        }
