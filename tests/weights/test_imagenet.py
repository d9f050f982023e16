"""Networks of ImageNet give what their sources' forward passes give, weight for weight.

The sources are written out here in PyTorch's functions, with the published names and
random weights; with the fetched ones, the networks name photographs.
"""

import keras
import numpy as np
import pytest

import keras_genai as kg
from keras_genai.dream import pretrained
from keras_genai.weights import imagenet
from tests.support.conformance import host

pytestmark = pytest.mark.in_turn

torch = pytest.importorskip("torch")
F = torch.nn.functional
DRAW = np.random.default_rng(0)


def images(*shape):
    return DRAW.uniform(-1, 1, shape).astype("float32")


def filled(names):
    """Random arrays of the shapes, of a size that activations keep."""
    state = {}
    for name, shape in names.items():
        if name.endswith(("var", "variance")):
            value = DRAW.uniform(0.5, 1.5, shape)
        elif name.endswith(("gamma", "bn.weight")):
            value = DRAW.uniform(0.1, 0.4, shape)
        elif len(shape) > 1:
            fan = np.prod(shape) / (shape[0] if name.endswith("weight") else shape[-1])
            value = DRAW.normal(0, np.sqrt(2.0 / fan), shape)
        else:
            value = DRAW.normal(0, 0.1, shape)
        state[name] = value.astype("float32")
    return state


def assert_near(got, reference):
    got, reference = host(got), reference.numpy()
    error = np.abs(got - reference) / np.maximum(1.0, np.abs(reference))
    assert got.shape == reference.shape and error.max() <= 1e-4, error.max()


def put(network, arrays):
    imagenet.assign(network, arrays)
    return network


# MobileNetV2 ---------------------------------------------------------------------


def mobilenet_state():
    """torchvision's names, with their shapes."""
    names = {}

    def convolution(conv, norm, outputs, inputs, size):
        names[f"{conv}.weight"] = (outputs, inputs, size, size)
        for part in ("weight", "bias", "running_mean", "running_var"):
            names[f"{norm}.{part}"] = (outputs,)

    convolution("features.0.0", "features.0.1", 32, 3, 3)
    number, inputs = 0, 32
    for expansion, width, repeats, _ in pretrained.MOBILENET_V2:
        for _ in range(repeats):
            number += 1
            at, hidden_dim = f"features.{number}.conv", inputs * expansion
            place = 0
            if expansion > 1:
                convolution(f"{at}.0.0", f"{at}.0.1", hidden_dim, inputs, 1)
                place = 1
            convolution(f"{at}.{place}.0", f"{at}.{place}.1", hidden_dim, 1, 3)
            convolution(f"{at}.{place + 1}", f"{at}.{place + 2}", width, hidden_dim, 1)
            inputs = width
    convolution("features.18.0", "features.18.1", 1280, 320, 1)
    names |= {"classifier.1.weight": (1000, 1280), "classifier.1.bias": (1000,)}
    return filled(names)


def mobilenet(state, x):
    """torchvision's pass, in float64, of pictures `(B, 3, H, W)` in [0, 1]."""
    state = {k: torch.from_numpy(v).double() for k, v in state.items()}
    mean, deviation = (
        torch.tensor(v)[:, None, None] for v in (pretrained.MEAN, pretrained.DEVIATION)
    )

    def convolve(x, conv, norm, stride=1, groups=1, active=True):
        weight = state[f"{conv}.weight"]
        x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, groups)
        gain, bias, mean, var = (
            state[f"{norm}.{part}"]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        x = F.batch_norm(x, mean, var, gain, bias, eps=1e-5)
        return F.relu6(x) if active else x

    x = convolve((x - mean) / deviation, "features.0.0", "features.0.1", 2)
    number = 0
    for expansion, _, repeats, stride in pretrained.MOBILENET_V2:
        for repeat in range(repeats):
            number += 1
            at, before, place = f"features.{number}.conv", x, 0
            if expansion > 1:
                x, place = convolve(x, f"{at}.0.0", f"{at}.0.1"), 1
            x = convolve(
                x,
                f"{at}.{place}.0",
                f"{at}.{place}.1",
                stride if repeat == 0 else 1,
                x.shape[1],
            )
            x = convolve(x, f"{at}.{place + 1}", f"{at}.{place + 2}", active=False)
            x = x + before if repeat else x
    x = convolve(x, "features.18.0", "features.18.1").mean((2, 3))
    return x @ state["classifier.1.weight"].T + state["classifier.1.bias"]


@pytest.mark.parametrize("size", [(64, 64), (75, 50)])
def test_mobilenet_v2_is_torchvisions(size):
    state, x = mobilenet_state(), images(2, *size, 3)
    network = put(pretrained.mobilenet_v2(), imagenet.mobilenet_v2(state))
    unit = torch.from_numpy((x + 1) / 2).permute(0, 3, 1, 2)
    assert_near(network(x), mobilenet(state, unit.double()))


# VGG16 ---------------------------------------------------------------------------


def test_vgg16_is_the_convolutions_of_the_paper():
    widths = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)
    names, inputs = {}, 3
    for i, width in enumerate(widths):
        names[f"{i}.kernel"], names[f"{i}.bias"] = (3, 3, inputs, width), (width,)
        inputs = width
    flat = filled(names)
    state = {
        f"Conv_{i}": {part: flat[f"{i}.{part}"] for part in ("kernel", "bias")}
        for i in range(13)
    }
    network = put(pretrained.vgg16(), imagenet.vgg16(state))
    x = images(1, 40, 33, 3)
    mean, deviation = np.array(pretrained.MEAN), np.array(pretrained.DEVIATION)
    y = (((x + 1) / 2 - mean) / deviation).astype("float32")
    y = torch.from_numpy(y).permute(0, 3, 1, 2)
    for i in range(13):
        kernel = torch.from_numpy(flat[f"{i}.kernel"]).permute(3, 2, 0, 1)
        y = F.relu(F.conv2d(y, kernel, torch.from_numpy(flat[f"{i}.bias"]), padding=1))
        if i in (1, 3, 6, 9, 12):
            y = F.max_pool2d(y, 2)
    assert_near(network(x), y.permute(0, 2, 3, 1))


# ResNet50 ------------------------------------------------------------------------

STAGES = {2: (64, 3, 1), 3: (128, 4, 2), 4: (256, 6, 2), 5: (512, 3, 2)}


def resnet_state():
    names = {}

    def convolution(conv, norm, size, inputs, outputs):
        names[f"{conv}/kernel"] = (size, size, inputs, outputs)
        names[f"{conv}/bias"] = (outputs,)
        for part in ("gamma", "beta", "moving_mean", "moving_variance"):
            names[f"{norm}/{part}"] = (outputs,)

    convolution("conv1", "bn_conv1", 7, 3, 64)
    inputs = 64
    for stage, (width, blocks, _) in STAGES.items():
        for block in "abcdef"[:blocks]:
            at = f"{stage}{block}_branch"
            if block == "a":
                convolution(f"res{at}1", f"bn{at}1", 1, inputs, 4 * width)
            for step, size, a, b in (
                ("2a", 1, inputs, width),
                ("2b", 3, width, width),
                ("2c", 1, width, 4 * width),
            ):
                convolution(f"res{at}{step}", f"bn{at}{step}", size, a, b)
            inputs = 4 * width
    return filled({**names, "fc1000/kernel": (2048, 1000), "fc1000/bias": (1000,)})


def resnet(state, x):
    """Keras's ResNet50 of 2018, in float64, on blue, green, red less their mean."""
    state = {k: torch.from_numpy(v).double() for k, v in state.items()}

    def convolve(x, conv, norm, stride=1, pad=0):
        kernel = state[f"{conv}/kernel"].permute(3, 2, 0, 1)
        x = F.conv2d(x, kernel, state[f"{conv}/bias"], stride, pad)
        gain, bias, mean, var = (
            state[f"{norm}/{part}"]
            for part in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        return F.batch_norm(x, mean, var, gain, bias, eps=1e-3)

    x = F.relu(convolve(x, "conv1", "bn_conv1", 2, 3))
    x = F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2)
    for stage, (_, blocks, stride) in STAGES.items():
        for block in "abcdef"[:blocks]:
            at = f"{stage}{block}_branch"
            own = stride if block == "a" else 1
            y = F.relu(convolve(x, f"res{at}2a", f"bn{at}2a", own))
            y = F.relu(convolve(y, f"res{at}2b", f"bn{at}2b", 1, 1))
            y = convolve(y, f"res{at}2c", f"bn{at}2c")
            if block == "a":
                x = convolve(x, f"res{at}1", f"bn{at}1", own)
            x = F.relu(x + y)
    return x.mean((2, 3)) @ state["fc1000/kernel"] + state["fc1000/bias"]


def test_resnet50_is_keras_of_2018():
    state, x = resnet_state(), images(1, 64, 50, 3)
    network = put(pretrained.resnet50(), imagenet.resnet50(state))
    caffe = 255 * (x[..., ::-1].astype("float64") + 1) / 2 - np.array(
        pretrained.CAFFE_MEAN
    )
    caffe = torch.from_numpy(caffe).permute(0, 3, 1, 2)
    assert_near(network(x), resnet(state, caffe))


# Errors, and the fetched ones ------------------------------------------------------


def test_other_arrays_are_refused():
    inputs = keras.Input((4,))
    network = keras.Model(inputs, keras.layers.Dense(2, name="d")(inputs), name="n")
    with pytest.raises(ValueError, match="not the weights of n: missing .'d.bias'"):
        imagenet.assign(network, {"d.kernel": np.zeros((4, 2))})
    with pytest.raises(ValueError, match=r"d.kernel of n has the shape \(4, 2\)"):
        arrays = {"d.kernel": np.zeros((3, 2)), "d.bias": np.zeros(2)}
        imagenet.assign(network, arrays)


def fetched(load, *arguments):
    try:
        return load(*arguments)
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50"])
def test_fetched_networks_name_photographs(name):
    network = fetched(kg.dream.load, name)
    photographs = fetched(kg.datasets.photographs)
    cats = range(281, 286)  # tabby, tiger, Persian, Siamese, Egyptian
    for photograph, classes in (("chelsea", cats), ("coffee", (967, 504))):
        x = photographs[photograph][None]
        x = kg.dream.pictures.resize(x, 256, round(256 * x.shape[2] / x.shape[1]))
        left = (x.shape[2] - 224) // 2
        logits = host(network(x[:, 16:240, left : left + 224]))[0]
        assert logits.argmax() in classes, np.argsort(-logits)[:5]


@pytest.mark.parametrize(
    "name, layer", [("vgg16", "block4_conv2"), ("inception_v3", "mixed_4")]
)
def test_fetched_networks_dream(name, layer):
    network = fetched(kg.dream.load, name)
    dreamer = kg.DeepDream(network, {layer: 1.0}, octaves=1, steps=2, jitter=2)
    image = 0.3 * images(96, 96, 3)
    made = dreamer.dream(image, verbose=0)
    assert dreamer.measure(made) > 1.2 * dreamer.measure(image)


def test_the_features_of_inception_are_those_of_fid():
    network = fetched(kg.dream.load, "inception_v3")
    whole = kg.metrics.inception_v3()
    pixels = DRAW.integers(0, 256, (1, 299, 299, 3))
    x = (pixels / 127.5 - 1).astype("float32")
    scaled = ((pixels - 128) / 128).astype("float32")  # as its preprocessing gives it
    features = host(network(scaled)).mean((1, 2))
    np.testing.assert_allclose(features, host(whole(x)), rtol=1e-4, atol=1e-4)
