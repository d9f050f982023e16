"""The default encoders and decoders of a VAE."""

import keras
from keras import ops

from keras_genai.backend.precision import wide
from keras_genai.layers import Conv2D, Conv2DTranspose, Dense
from keras_genai.layers.convolution import stages_of
from keras_genai.layers.embedding import check_ids
from keras_genai.layers.initializers import Streams
from keras_genai.utils.checks import check_image_shape
from keras_genai.utils.serialization import PACKAGE

ARCHITECTURES = ("mlp", "convolutional")


@keras.saving.register_keras_serializable(PACKAGE)
class OneHot(keras.layers.Layer):
    """Labels `(B,)` -> `(B, K)`, with a 1 at the label."""

    def __init__(self, num_classes, **kwargs):
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.built = True

    def call(self, labels):
        check_ids("Labels", labels, self.num_classes)
        return ops.one_hot(labels, self.num_classes, dtype=self.compute_dtype)

    def compute_output_spec(self, labels):
        shape = (*labels.shape, self.num_classes)
        return keras.KerasTensor(shape, self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes}


class VAENetworks:
    """Encoder and decoder of one VAE, from one set of arguments.

    Args:
        image_shape: `(H, W, C)`; for `"convolutional"` H and W divisible by 4.
        latent_dim: D.
        architecture: `"mlp"`: dense layers with tanh, 1312.6114's appendix C; or
            `"convolutional"`: 4 x 4 convolutions of stride 2 and then dense layers,
            with ReLU, as 1804.03599's appendix A (its 64 x 64 network by the
            arguments `hidden_units=(256, 256)`).
        hidden_units: sizes of the dense layers, from the image to the latents; the
            decoder has them in reverse.
        filters: channels of each convolution.
        activation: of the hidden layers; by default the paper's.
        num_classes: K of the labels, one-hot beside the first dense layer's input
            (1406.5298's M2), or None.
        seed: integer.
    """

    def __init__(
        self,
        image_shape,
        latent_dim,
        architecture="mlp",
        hidden_units=None,
        filters=32,
        activation=None,
        num_classes=None,
        seed=0,
    ):
        if architecture not in ARCHITECTURES:
            raise ValueError(
                f"architecture must be one of {', '.join(ARCHITECTURES)}; got "
                f"{architecture!r}."
            )
        convolutional = architecture == "convolutional"
        if convolutional:
            check_image_shape(image_shape, 4, 4)
        default = (256,) if convolutional else (500,)
        self.image_shape = tuple(image_shape)
        self.latent_dim = latent_dim
        self.stages = stages_of(image_shape) if convolutional else 0
        self.hidden_units = tuple(default if hidden_units is None else hidden_units)
        self.filters = filters
        self.activation = activation or ("relu" if convolutional else "tanh")
        self.num_classes = num_classes
        self.seed = seed

    def _with_labels(self, x, inputs):
        """`(B, n)` with the label beside it; appends the label's input."""
        if self.num_classes is None:
            return x
        inputs.append(keras.Input((), dtype="int32", name="labels"))
        code = OneHot(self.num_classes, name="one_hot")(inputs[-1])
        return keras.layers.Concatenate()([x, code])  # (B, n + K)

    def _model(self, inputs, outputs, name):
        inputs = inputs[0] if self.num_classes is None else inputs
        return keras.Model(inputs, outputs, name=name)

    def encoder(self):
        """`(B, H, W, C)`, with labels `[images, (B,)]` -> `(B, 2 D)`."""
        initial = Streams("encoder", self.seed)
        x = keras.Input(self.image_shape, name="images")
        inputs = [x]
        for stage in range(self.stages):
            name = f"down_{stage}"
            x = _strided(Conv2D, initial, name, self.filters, x, self.activation)
        x = keras.layers.Flatten()(x)
        x = self._with_labels(x, inputs)
        for number, units in enumerate(self.hidden_units):
            x = _dense(initial, f"hidden_{number}", units, x, self.activation)
        moments = _dense(initial, "moments", 2 * self.latent_dim, x)
        moments = keras.layers.Activation("linear", dtype=wide(), name="float")(moments)
        return self._model(inputs, moments, "encoder")

    def decoder(self, likelihood):
        """`(B, D)`, with labels `[latents, (B,)]` -> the likelihood's parameters.

        Logits for a Bernoulli. For the others the mean, held in the data's (-1, 1) by
        tanh (1312.6114, appendix C.2, holds it by a sigmoid), and where the scale is
        per pixel its logarithm, of any size.
        """
        initial = Streams("decoder", self.seed)
        x = keras.Input((self.latent_dim,), name="latents")
        inputs = [x]
        x = self._with_labels(x, inputs)
        for number, units in enumerate(reversed(self.hidden_units)):
            x = _dense(initial, f"hidden_{number}", units, x, self.activation)
        height, width, channels = likelihood.output_shape
        if not self.stages:
            x = _dense(initial, "output", height * width * channels, x)
            x = keras.layers.Reshape(likelihood.output_shape)(x)  # (B, H, W, n C)
        else:
            h, w = height >> self.stages, width >> self.stages
            x = _dense(initial, "spread", h * w * self.filters, x, self.activation)
            x = keras.layers.Reshape((h, w, self.filters))(x)  # (B, h, w, filters)
            for stage in range(self.stages):
                last = stage == self.stages - 1
                x = _strided(
                    Conv2DTranspose,
                    initial,
                    "output" if last else f"up_{stage}",
                    channels if last else self.filters,
                    x,
                    None if last else self.activation,
                )  # (B, 2h, 2w, .)
        x = keras.layers.Activation("linear", dtype=wide(), name="float")(x)
        if likelihood.has_scale:
            x = Squash(likelihood.channels, dtype=wide(), name="squash")(x)
        return self._model(inputs, x, "decoder")


def _dense(initial, name, units, x, activation=None):
    layer = Dense(units, activation, kernel_initializer=initial(name), name=name)
    return layer(x)


def _strided(kind, initial, name, filters, x, activation=None):
    """A 4 x 4 convolution, of a kind, that halves or doubles the sides."""
    layer = kind(
        filters,
        4,
        strides=2,
        padding="same",
        activation=activation,
        kernel_initializer=initial(name),
        name=name,
    )
    return layer(x)


@keras.saving.register_keras_serializable(PACKAGE)
class Squash(keras.layers.Layer):
    """tanh on the first `channels` channels; the others pass."""

    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.built = True

    def call(self, x):
        mean = ops.tanh(x[..., : self.channels])
        if x.shape[-1] == self.channels:
            return mean
        return ops.concatenate([mean, x[..., self.channels :]], axis=-1)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}
