"""AutoencoderKL passes the battery, on networks of a few thousand weights."""

import keras

import keras_genai as kg
from keras_genai.layers.initializers import VarianceScaling
from tests.support import conformance

SMALL = {
    "image_shape": (8, 8, 3),
    "block_channels": (8, 16),
    "layers_per_block": 1,
    "groups": 4,
    "discriminator_filters": 8,
    "discriminator_layers": 1,
    "discriminator_start": 0,
}


def images(name):
    return lambda n: (conformance.uniform(name, (n, 8, 8, 3)), None)


def features():
    """A network whose features are compared."""

    def convolution(name, strides):
        initial = VarianceScaling(seed=7, stream=name)
        return keras.layers.Conv2D(
            4, 3, strides, padding="same", kernel_initializer=initial, name=name
        )

    x = image = keras.Input((8, 8, 3), name="image")
    maps = []
    for name, strides in (("fine", 1), ("coarse", 2)):
        x = keras.layers.Activation("silu", name=f"{name}_silu")(
            convolution(name, strides)(x)
        )
        maps.append(x)
    return keras.Model(image, maps, name="features")


def constant_balance(model):
    """The gradient takes the weight of the adversarial loss as a constant."""
    model.adaptive_weight = lambda *gradients: keras.ops.convert_to_tensor(
        0.3, keras.config.floatx()
    )


TestAutoencoderKL = conformance.battery(
    "autoencoder_kl",
    lambda: kg.AutoencoderKL(
        **SMALL,
        perceptual=features(),
        perceptual_channels=[[1.0, 0.5, 0.0, 2.0], [1.0, 1.0, 1.0, 1.0]],
        learn_log_variance=True,
        # With other seeds float16's first loss scale overflows: the step that its
        # optimizer then leaves out is a difference, but not one of rounding.
        seed=7,
    ),
    images("autoencoder_kl"),
    prepare_gradients=constant_balance,
)

TestAutoencoderKLPlain = conformance.battery(
    "autoencoder_kl_plain",
    lambda: kg.AutoencoderKL(
        **{**SMALL, "attention": False, "quant_conv": False, "reconstruction": "l2"},
        kl_weight=1e-2,
        discriminator_weight=0.0,
        seed=2,
    ),
    images("autoencoder_kl_plain"),
    variant=True,
)
