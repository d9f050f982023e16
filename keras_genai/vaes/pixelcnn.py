"""PixelCNN: a distribution over grids of codes, one after the other.

The gated network of van den Oord and others (1606.05328): the probability of a grid
is the product of that of each code given those above it and to its left. As the
prior over the codes of a `VQVAE` it makes that model generate (1711.00937, section
3.3).
"""

import math

import keras
import numpy as np
from keras import ops

from keras_genai.backend import random
from keras_genai.backend.precision import dtype_policy
from keras_genai.backend.threefry import threefry2x32, to_int32
from keras_genai.losses.reduction import mean_over_samples
from keras_genai.training import GenerativeModel
from keras_genai.training.data import tensors
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import (
    check_labels,
    check_sample_weight,
)
from keras_genai.utils.serialization import PACKAGE, configuration
from keras_genai.utils.validation import array, integer, integers, number
from keras_genai.vaes.codes import check_codes, check_temperature
from keras_genai.vaes.pixelcnn_network import pixelcnn_network


@keras.saving.register_keras_serializable(PACKAGE)
class PixelCNN(GenerativeModel):
    """The gated PixelCNN (1606.05328) over grids of integers.

    The prior over the codes of a `VQVAE`, or a model of small images with few grey
    levels. The loss is the mean negative log-likelihood of a code in nats.

    Args:
        shape: `(h, w)`, or `(h, w, stages)` for several codes at a place, such as a
            residual quantizer's, or colours.
        vocabulary_size: V, at least 2: codes are integers in [0, V).
        num_classes: K of the labels, or None for a model without labels.
        filters: channels of each stack.
        blocks: number of gated layers. The rows above that a place sees are
            `(kernel_size // 2) * blocks`.
        kernel_size: odd, at least 3.
        dropout: rate before the last layers, in [0, 1).
        ema_decay: decay of the average of the network that `generate` uses, or None.
        network: a network of your own: codes (with labels: `[codes, labels]`) ->
            logits `(B, *shape, V)`, of which those of a code must not depend on it
            nor on a later one, in the order of rows, columns and stages.
        seed: integer >= 0.

    Raises:
        ValueError: for an argument out of range, before any work.

    Example:

    ```python
    codes = vqvae.encode_indices(images)                # int32 (N, 7, 7)
    prior = kg.PixelCNN((7, 7), vocabulary_size=512, num_classes=10)
    prior.compile()                                     # Adam(1e-3)
    prior.fit(codes, labels, epochs=10)
    prior.generate(labels=[3, 3, 7], temperature=0.9)   # int32 (3, 7, 7)
    ```
    """

    @checked(shape=integers(), filters=integer(1), kernel_size=integer(3))
    def __init__(
        self,
        shape,
        vocabulary_size,
        num_classes=None,
        *,
        filters=64,
        blocks=6,
        kernel_size=5,
        dropout=0.0,
        ema_decay=None,
        network=None,
        seed=0,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        shape = _check_shape(shape)
        if vocabulary_size < 2:
            raise ValueError(
                f"vocabulary_size must be at least 2; got {vocabulary_size!r}."
            )
        if kernel_size not in range(3, 100, 2):
            raise ValueError(
                f"kernel_size must be an odd number of at least 3; got {kernel_size!r}."
            )
        self.shape = shape
        self.vocabulary_size = vocabulary_size
        self.num_classes = num_classes
        self.filters = filters
        self.blocks = blocks
        self.kernel_size = kernel_size
        self.dropout = dropout
        self.ema_decay = ema_decay
        self._own = [] if network is None else ["network"]
        with dtype_policy(kwargs.get("dtype")):
            self.network = network or pixelcnn_network(
                shape,
                vocabulary_size,
                num_classes,
                filters,
                blocks,
                kernel_size,
                dropout,
                seed,
            )
        self._check_network()
        self.set_players("network", ema="network", ema_decay=ema_decay)

    def _check_network(self):
        codes = keras.KerasTensor((None, *self.shape), dtype="int32")
        labels = keras.KerasTensor((None,), dtype="int32")
        made = self.network(self.with_labels(codes, labels))
        if tuple(made.shape[1:]) != (*self.shape, self.vocabulary_size):
            raise ValueError(
                "The network must make logits (B, "
                f"{', '.join(map(str, (*self.shape, self.vocabulary_size)))}); it "
                f"makes {tuple(made.shape)}."
            )

    def check_data(self, x, condition, weight):
        check_codes(x, self.shape, self.vocabulary_size)
        check_labels(
            condition,
            self.num_classes,
            len(x),
            type(self).__name__,
            "Leave them out, or make it with num_classes=.",
        )
        check_sample_weight(weight, len(x), each="sample")

    # Training

    def default_optimizer(self, player):
        """Adam(1e-3)."""
        del player
        return keras.optimizers.Adam(1e-3)

    def negative_log_likelihood(self, codes, labels, training=False):
        """Of each code in nats: `(B, *shape)`."""
        logits = self.network(self.with_labels(codes, labels), training=training)
        return ops.sparse_categorical_crossentropy(codes, logits, from_logits=True)

    def train_step(self, data):
        codes, labels, weight = tensors(data)
        codes = ops.cast(codes, "int32")

        def loss(codes, labels, weight):
            losses = self.negative_log_likelihood(codes, labels, training=True)
            return mean_over_samples(losses, weight)

        self.minimize("network", loss, codes, labels, weight)

    def test_step(self, data):
        codes, labels, weight = tensors(data)
        codes = ops.cast(codes, "int32")
        losses = self.run_averaged(
            "network", lambda: self.negative_log_likelihood(codes, labels)
        )
        self.track("network", mean_over_samples(losses, weight))

    # Use

    def call(self, codes, labels=None, training=False):
        """Logits `(B, *shape, V)` of codes, by the average where one is kept."""
        if isinstance(codes, (list, tuple)):
            codes, labels = codes
        codes = ops.cast(codes, "int32")
        return self.run_averaged(
            "network",
            lambda: self.network(self.with_labels(codes, labels), training=training),
        )

    @checked(codes=array())
    def log_probability(self, codes, labels=None, batch_size=256):
        """The logarithm of the probability of each grid, in nats.

        Args:
            codes: integers `(N, *shape)`.
            labels: integers `(N,)`, for a model with labels.
            batch_size: grids in one pass.

        Returns:
            NumPy float32 `(N,)`.
        """
        codes, labels = (
            np.asarray(codes),
            None if labels is None else np.asarray(labels),
        )
        self.check_data(codes, labels, None)
        places = tuple(range(1, 1 + len(self.shape)))

        def run(codes, labels=None):
            return -ops.sum(
                self.run_averaged(
                    "network", lambda: self.negative_log_likelihood(codes, labels)
                ),
                axis=places,
            )

        given = [codes] if labels is None else [codes, labels.reshape(-1)]
        variables = self.sampling_variables()
        return self.run_in_batches("log_probability", run, variables, given, batch_size)

    numbers = ("temperature",)

    def sampling_variables(self):
        return self.averaged_variables("network")

    @checked(temperature=number("> 0"))
    def generate_batches(self, n=None, seed=0, *, temperature=1.0, **kwargs):
        """See `GenerativeModel.generate_batches`.

        Args:
            temperature: over 0; under 1 the more probable codes come more often.
        """
        check_temperature(temperature)
        return super().generate_batches(n, seed, temperature=temperature, **kwargs)

    def draw(self, key, count, first, labels=None, temperature=1.0):
        """Code after code: the loop is in the graph."""
        places = math.prod(self.shape)

        def place(i, codes):
            grid = ops.reshape(codes, (-1, *self.shape))
            logits = ops.reshape(self(grid, labels), (-1, places, self.vocabulary_size))
            logits = ops.take(logits, i, axis=1)  # (B, V)
            logits = logits / ops.cast(temperature, logits.dtype)
            # Its own key at each place, so that a sample's noise is its own.
            words = threefry2x32(key, (to_int32(i), to_int32(places)))
            drawn = random.categorical(words, logits, offset=first)  # (B,)
            here = ops.equal(ops.arange(places, dtype="int32"), ops.cast(i, "int32"))
            return ops.where(here, ops.expand_dims(drawn, 1), codes)  # (B, places)

        codes = ops.zeros((count, places), dtype="int32")
        codes = ops.fori_loop(0, places, place, codes)
        return ops.reshape(codes, (-1, *self.shape))

    def export_signatures(self):
        """`generate`: `seed` with `labels` or `n` -> `codes`."""
        generate, inputs = self.seeded_signature()

        def codes(seed, last):
            return {"codes": generate(seed, last)["images"]}

        return {"generate": (codes, inputs)}

    def get_config(self):
        names = (
            "shape",
            "vocabulary_size",
            "num_classes",
            "filters",
            "blocks",
            "kernel_size",
            "dropout",
            "ema_decay",
        )
        return configuration(self, names, self._own)


def _check_shape(shape):
    ok = isinstance(shape, (tuple, list)) and len(shape) in (2, 3)
    if not ok or not all(isinstance(n, (int, np.integer)) and n > 0 for n in shape):
        raise ValueError(
            "shape must be (height, width), or (height, width, stages), of integers "
            f"of at least 1; got {shape!r}."
        )
    return tuple(int(n) for n in shape)
