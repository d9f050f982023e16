"""The convolutional network (LeCun et al., 1998): a classifier to look into.

A convolution slides a small window of weights over the picture, with the same weights
everywhere:

    y[i, j, f] = b[f] + sum_{u, v, c} w[u, v, c, f] x[i + u - 1, j + v - 1, c]

for a window of 3 x 3 and zeros beyond the border. Rectified, halved by the maximum of
each 2 x 2, and repeated, it ends in dense layers that tell classes. The residual form
(1512.03385) adds what enters two convolutions to what leaves them.
"""

import functools

import keras
from keras import ops

from keras_genai import backend, layers
from keras_genai.backend import random
from keras_genai.backend.precision import dtype_policy, wide, widen
from keras_genai.dream.ascent import normalized
from keras_genai.layers.initializers import Streams, VarianceScaling
from keras_genai.losses.reduction import mean_over_samples
from keras_genai.training import GenerativeModel
from keras_genai.training.data import tensors
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import (
    check_image_shape,
    check_images,
    check_integer,
    check_labels,
    check_sample_weight,
)
from keras_genai.utils.serialization import PACKAGE, configuration
from keras_genai.utils.validation import integer, integers, number, text

ARCHITECTURES = ("plain", "residual")


@checked(architecture=text, filters=integers(0), hidden_units=integers(least=0))
def cnn_network(
    image_shape=(28, 28, 1),
    num_classes=10,
    architecture="plain",
    filters=(32, 64, 96),
    hidden_units=(64,),
    dropout=0.0,
    seed=0,
):
    """The network of `CNN`.

    Its layers are `conv_0`, `relu_0`, `pool_0`, `conv_1`, ...; in the residual form
    `block_i`, the output of the i-th block, follows `relu_i`.

    Args:
        image_shape, num_classes, architecture, filters, hidden_units, dropout, seed:
            see `CNN`.

    Returns:
        `keras.Model`, `(B, H, W, C)` -> logits `(B, num_classes)`.
    """
    residual = architecture == "residual"
    # He's deviation, which rectifiers keep (1502.01852, equation 10).
    he_normal = functools.partial(VarianceScaling, 2.0, "fan_in", "truncated_normal")
    kernel = Streams("cnn", seed, he_normal)

    def convolve(x, width, name):
        x = layers.Conv2D(
            width,
            3,
            padding="same",
            use_bias=not residual,
            kernel_initializer=kernel(name),
            name=name,
        )(x)
        return layers.BatchNormalization(name=f"{name}_norm")(x) if residual else x

    images = keras.Input(image_shape, name="images")
    x = images
    for i, width in enumerate(filters):
        x = keras.layers.ReLU(name=f"relu_{i}")(convolve(x, width, f"conv_{i}"))
        if residual:
            inner = keras.layers.ReLU()(convolve(x, width, f"block_{i}_conv_0"))
            inner = convolve(inner, width, f"block_{i}_conv_1")
            x = keras.layers.Add(name=f"block_{i}_sum")([x, inner])
            x = keras.layers.ReLU(name=f"block_{i}")(x)
        # (B, H / 2^(i + 1), W / 2^(i + 1), width)
        x = keras.layers.MaxPooling2D(2, name=f"pool_{i}")(x)
    if residual:
        x = keras.layers.GlobalAveragePooling2D(name="mean")(x)  # (B, C)
    else:
        x = keras.layers.Flatten(name="flatten")(x)  # (B, h w C)
    for i, units in enumerate(hidden_units):
        x = keras.layers.Dense(
            units,
            activation="relu",
            kernel_initializer=kernel(f"hidden_{i}"),
            name=f"hidden_{i}",
        )(x)
        if dropout:
            x = layers.Dropout(dropout, seed=seed, stream=f"dropout_{i}")(x)
    x = keras.layers.Dense(
        num_classes, kernel_initializer=kernel("classes"), name="classes"
    )(x)
    logits = keras.layers.Activation("linear", dtype=wide(), name="logits")(x)
    return keras.Model(images, logits, name="network")


@keras.saving.register_keras_serializable(PACKAGE)
class CNN(GenerativeModel):
    """Convolutional classifier of images that also draws what it looks for.

    It minimises the cross-entropy of its logits; the logs show `loss` and `accuracy`.
    `cnn(images)` and `predict(images)` give logits `(B, num_classes)`.
    `generate(n, labels=...)` climbs from noise to images of a large logit,
    `argmax_x S_y(x) - decay ||x||^2 / 2` (1312.6034, equation 1).

    Args:
        image_shape: `(H, W, C)`; H and W at least `2 ** len(filters)`.
        num_classes: K, at least 2.
        architecture: `"plain"`, convolution, ReLU and max pooling in each stage and
            then dense layers; or `"residual"`, with a residual block in each stage,
            batch normalization, and a mean over the places in the end, so that it
            takes images of other sizes too.
        filters: channels of the stages, each of which halves the sides.
        hidden_units: sizes of the dense layers before the logits; may be empty.
        dropout: share of each hidden layer that training drops.
        network: a network of your own, images -> logits `(B, num_classes)`, in place
            of the four above.
        steps: of `generate`'s ascent, at least 1.
        step_size: how far each step moves a pixel on the average.
        decay: of the same ascent, at least 0.
        seed: integer >= 0: initial weights, noise and shuffling follow from it.

    Raises:
        ValueError: for an argument out of range, before any work.

    Example:

    ```python
    import keras_genai as kg

    (images, labels), (test, test_labels) = kg.datasets.load("fashion_mnist")
    model = kg.CNN(image_shape=(28, 28, 1), num_classes=10)
    model.compile()                        # Adam(1e-3)
    model.fit(images, labels, batch_size=64, epochs=3)
    found = model.predict(test).argmax(-1)
    dreams = model.generate(labels=range(10), seed=0)  # (10, 28, 28, 1) in [-1, 1]
    ```
    """

    @checked(
        architecture=text,
        filters=integers(0),
        hidden_units=integers(least=0),
        step_size=number("> 0"),
        decay=number(">= 0"),
        steps=integer(1),
    )
    def __init__(
        self,
        image_shape=(28, 28, 1),
        num_classes=10,
        *,
        architecture="plain",
        filters=(32, 64, 96),
        hidden_units=(64,),
        dropout=0.0,
        network=None,
        steps=40,
        step_size=0.05,
        decay=0.05,
        seed=0,
        **kwargs,
    ):
        image_shape = check_image_shape(image_shape)
        check_integer("num_classes", num_classes, 2)
        if architecture not in ARCHITECTURES:
            raise ValueError(
                f"architecture must be one of {ARCHITECTURES}; got {architecture!r}."
            )
        if not filters:
            raise ValueError("filters must name at least one stage, such as (32, 64).")
        if network is None and min(image_shape[:2]) < 2 ** len(filters):
            raise ValueError(
                f"{len(filters)} stages halve the sides {len(filters)} times: "
                f"image_shape must have sides of at least {2 ** len(filters)}; got "
                f"{image_shape}. Give fewer filters or larger images."
            )
        super().__init__(seed=seed, **kwargs)
        self.image_shape = image_shape
        self.num_classes = int(num_classes)
        self.architecture = architecture
        self.filters = tuple(filters)
        self.hidden_units = tuple(hidden_units)
        self.dropout = dropout
        self.steps = steps
        self.step_size = step_size
        self.decay = decay
        self._own = [] if network is None else ["network"]
        if network is None:
            with dtype_policy(kwargs.get("dtype")):
                network = cnn_network(
                    image_shape,
                    num_classes,
                    architecture,
                    self.filters,
                    self.hidden_units,
                    dropout,
                    seed,
                )
        self.network = network
        self._check_network()
        self.set_players("network", metrics=("accuracy",))

    def _check_network(self):
        got = self.network.compute_output_shape((None, *self.image_shape))
        if tuple(got) != (None, self.num_classes):
            raise ValueError(
                f"network must give logits (B, {self.num_classes}) for images (B, "
                f"{', '.join(map(str, self.image_shape))}); it gives {got}."
            )

    @classmethod
    @checked(name=text)
    def from_pretrained(cls, name="fashion_mnist", **kwargs):
        """The trained classifier that the package brings: nothing is downloaded.

        Args:
            name: `"fashion_mnist"`: 28x28 grey clothes, right on about 92 of 100 test
                images. Its layers are `conv_0` to `conv_3`, `features` and `logits`.
            **kwargs: further arguments of `CNN`, such as `steps`.

        Returns:
            A `CNN`, which `fit` trains further.

        Raises:
            ValueError: for another name.
        """
        if name != "fashion_mnist":
            raise ValueError(
                f"There is no packaged CNN {name!r}; there is 'fashion_mnist'. "
                "Networks of photographs are loaded by kg.dream.load(name)."
            )
        from keras_genai.metrics import fashion_mnist_classifier

        network = fashion_mnist_classifier()
        network.trainable = True
        return cls((28, 28, 1), 10, network=network, **kwargs)

    # Training

    def default_optimizer(self, player):
        """Adam(1e-3) (1412.6980)."""
        del player
        return keras.optimizers.Adam(1e-3)

    def check_data(self, x, condition, weight):
        check_images(x, self.image_shape, self.value_range)
        check_labels(condition, self.num_classes, len(x), type(self).__name__)
        check_sample_weight(weight, len(x))

    def call(self, images, training=False):
        return widen(self.network(images, training=training))

    def losses(self, images, labels, training):
        """The cross-entropy of each sample, and whether it is named rightly: `(B,)`."""
        logits = self(images, training=training)  # (B, K)
        losses = keras.losses.sparse_categorical_crossentropy(
            labels, logits, from_logits=True
        )
        right = ops.equal(backend.argmax(logits), labels)
        return losses, ops.cast(ops.stop_gradient(right), losses.dtype)

    def _loss(self, data, training):
        images, labels, weight = tensors(data)
        losses, right = self.losses(images, labels, training)
        self.track("accuracy", mean_over_samples(right, weight))
        return mean_over_samples(losses, weight)

    def train_step(self, data):
        self.minimize("network", lambda *data: self._loss(data, training=True), *data)

    def test_step(self, data):
        self.track("network", self._loss(data, training=False))

    # What it looks for

    def draw(self, key, count, first, labels=None):
        noise = random.normal(key, (count, *self.image_shape), offset=first)
        wanted = ops.one_hot(ops.cast(labels, "int32"), self.num_classes)  # (B, K)

        def ascend(_, x):
            def score(x):
                logits = self(ops.cast(x, self.compute_dtype))  # (B, K)
                return ops.sum(logits * ops.cast(wanted, logits.dtype))

            _, gradient = backend.value_and_gradient(score, x)
            x = x + self.step_size * (normalized(widen(gradient)) - self.decay * x)
            return ops.clip(x, *self.value_range)

        start = 0.1 * ops.cast(noise, wide())
        return ops.fori_loop(0, self.steps, ascend, start)

    def export_signatures(self):
        """`logits` of `images`, and `generate` (`seed`, `labels`)."""

        def logits(images):
            return {"logits": self(images)}

        return {
            "logits": (logits, [("images", (None, *self.image_shape), "float32")]),
            "generate": self.seeded_signature(),
        }

    def get_config(self):
        names = (
            "image_shape",
            "num_classes",
            "architecture",
            "filters",
            "hidden_units",
            "dropout",
            "steps",
            "step_size",
            "decay",
        )
        return configuration(self, names, self._own)
