"""DCGAN's networks: the paper's shapes, counts and first weights."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from keras_genai.layers.convolution import stages_of

pytestmark = pytest.mark.in_turn


@pytest.mark.parametrize(
    ("shape", "stages"),
    [((28, 28, 1), 2), ((32, 32, 3), 3), ((64, 64, 3), 4), ((128, 64, 4), 4)],
)
def test_stages(shape, stages):
    assert stages_of(shape) == stages
    generator = kg.gans.dcgan_generator(shape, 6, base_filters=2)
    assert generator.output_shape == (None, *shape)
    discriminator = kg.gans.dcgan_discriminator(shape, base_filters=2)
    assert discriminator.output_shape == (None, 1)


def test_the_64_pixel_networks_have_the_known_number_of_weights():
    """Those of the authors' code with nz=100, ngf=ndf=64, nc=3, and the biases here."""
    generator = kg.gans.dcgan_generator((64, 64, 3), 100)
    # 100*512*16 + 512*256*16 + 256*128*16 + 128*64*16 + 64*3*16 (+ 3), gains, offsets
    kernels = 16 * (100 * 512 + 512 * 256 + 256 * 128 + 128 * 64 + 64 * 3) + 3
    # the projection is normalised over channels, as the authors' transposed one
    norms = 2 * (512 + 256 + 128 + 64)
    assert generator.count_params() - 2 * 960 == kernels + norms
    discriminator = kg.gans.dcgan_discriminator((64, 64, 3))
    kernels = 16 * (3 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) + 64 + 1
    norms = 2 * (128 + 256 + 512)
    assert discriminator.count_params() - 2 * 896 == kernels + norms


def test_first_weights_are_the_papers():
    model = kg.DCGAN((32, 32, 3), base_filters=16)
    for network in model.players.values():
        for variable in network.trainable_variables:
            values = ops.convert_to_numpy(variable)
            if "kernel" in variable.path:
                assert abs(values.std() - 0.02) < 0.003, variable.path
            elif "gamma" in variable.path:
                assert abs(values.mean() - 1.0) < 0.02 and 0.01 < values.std() < 0.03
            else:
                assert not values.any()
    adam = model.default_optimizer("generator")
    assert (float(ops.convert_to_numpy(adam.learning_rate)), adam.beta_1) == (
        pytest.approx(2e-4),
        0.5,
    )


def test_the_forward_pass_equals_pytorchs():
    """The same weights in PyTorch's own layers give the same images and logits."""
    torch = pytest.importorskip("torch", reason="PyTorch is the reference here")
    nn = torch.nn
    rng = np.random.default_rng(0)
    generator = kg.gans.dcgan_generator((16, 16, 3), 5, base_filters=4)
    discriminator = kg.gans.dcgan_discriminator((16, 16, 3), base_filters=4)

    def tensor(variable):
        return torch.from_numpy(np.array(ops.convert_to_numpy(variable)))

    def kernel(layer):  # (h, w, a, b) -> (b, a, h, w): out, in or (transposed) in, out
        return tensor(layer.kernel).permute(3, 2, 0, 1).contiguous()

    for network in (generator, discriminator):
        for variable in network.variables:
            values = rng.normal(0.0, 0.3, variable.shape)
            variable.assign(np.abs(values) if "variance" in variable.path else values)

    def norm(x, layer):
        return nn.functional.batch_norm(
            x,
            tensor(layer.moving_mean),
            tensor(layer.moving_variance),
            tensor(layer.gamma),
            tensor(layer.beta),
            eps=1e-5,
        )

    z = rng.normal(size=(3, 5)).astype("float32")
    get = generator.get_layer
    x = torch.from_numpy(z) @ tensor(get("project").kernel)
    x = x.reshape(3, 4, 4, 8).permute(0, 3, 1, 2)
    x = norm(x, get("project_norm")).relu()
    x = nn.functional.conv_transpose2d(x, kernel(get("up_1")), stride=2, padding=1)
    x = norm(x, get("up_1_norm")).relu()
    last = get("to_image")
    x = nn.functional.conv_transpose2d(
        x, kernel(last), tensor(last.bias), stride=2, padding=1
    ).tanh()
    made = ops.convert_to_numpy(generator(z, training=False))
    np.testing.assert_allclose(made, x.permute(0, 2, 3, 1).numpy(), atol=1e-4)

    get = discriminator.get_layer
    first = get("down_0")
    y = nn.functional.conv2d(x, kernel(first), tensor(first.bias), 2, 1)
    y = nn.functional.leaky_relu(y, 0.2)
    y = nn.functional.conv2d(y, kernel(get("down_1")), None, 2, 1)
    y = nn.functional.leaky_relu(norm(y, get("down_1_norm")), 0.2)
    y = y.permute(0, 2, 3, 1).flatten(1) @ tensor(get("judge").kernel)
    y = y + tensor(get("judge").bias)
    judged = ops.convert_to_numpy(discriminator(made, training=False))
    np.testing.assert_allclose(judged, y.numpy(), atol=1e-4)


def test_channels_and_handed_in_networks():
    images = np.zeros((4, 12, 8, 4), "float32")
    discriminator = keras.Sequential(
        [keras.Input((12, 8, 4)), keras.layers.Flatten(), keras.layers.Dense(1)]
    )
    model = kg.DCGAN((12, 8, 4), 3, base_filters=2, discriminator=discriminator)
    model.compile(run_eagerly=True)
    model.fit(images, batch_size=4, verbose=0)
    copy = kg.DCGAN.from_config(model.get_config())
    assert copy.discriminator.count_params() == discriminator.count_params()
