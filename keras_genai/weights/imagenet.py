"""Published networks of ImageNet <-> the layers of `kg.dream.load`.

Each function turns the arrays of a published file into ours, named `<layer>.<weight>`,
which `tools/fetch_data.py` writes; `assign` puts them into a network.
"""

import numpy as np


def assign(model, arrays):
    """Puts arrays into the layers of a network.

    Args:
        model: `keras.Model`.
        arrays: dict `<layer>.<weight>` -> array.

    Raises:
        ValueError: arrays and weights are not one for one, or differ in shape.
    """
    named = {
        f"{layer.name}.{weight.name}": weight
        for layer in model.layers
        for weight in layer.weights
    }
    if set(named) != set(arrays):
        missing, more = (
            sorted(set(named) - set(arrays)),
            sorted(set(arrays) - set(named)),
        )
        raise ValueError(
            f"These are not the weights of {model.name}: missing {missing[:4]}, beside "
            f"it {more[:4]}."
        )
    for name, weight in named.items():
        if tuple(weight.shape) != arrays[name].shape:
            raise ValueError(
                f"{name} of {model.name} has the shape {tuple(weight.shape)}; the file "
                f"has {arrays[name].shape}."
            )
        weight.assign(arrays[name])


def mobilenet_v2(state, epsilon=1e-5):
    """torchvision's MobileNetV2, batch normalization folded into the convolutions.

    Args:
        state: dict name -> array of its state dict.
        epsilon: of every normalization.

    Returns:
        Dict of our arrays.
    """
    arrays = {}

    def convolution(ours, theirs, normalization):
        weight = state[f"{theirs}.weight"].astype("float64")  # (out, in, h, w)
        gain, beta, mean, variance = (
            state[f"{normalization}.{part}"].astype("float64")
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gain / np.sqrt(variance + epsilon)
        kernel = (weight * scale[:, None, None, None]).transpose(2, 3, 1, 0)
        if ours.endswith("depthwise"):
            kernel = kernel.transpose(0, 1, 3, 2)  # (h, w, out, 1)
        arrays[f"{ours}.kernel"] = kernel.astype("float32")
        arrays[f"{ours}.bias"] = (beta - mean * scale).astype("float32")

    convolution("stem", "features.0.0", "features.0.1")
    for number in range(1, 18):
        name, theirs = f"block_{number}", f"features.{number}.conv"
        steps = ["depthwise"] if number == 1 else ["expand", "depthwise"]
        for place, step in enumerate(steps):
            convolution(f"{name}_{step}", f"{theirs}.{place}.0", f"{theirs}.{place}.1")
        last = len(steps)
        convolution(f"{name}_project", f"{theirs}.{last}", f"{theirs}.{last + 1}")
    convolution("head", "features.18.0", "features.18.1")
    arrays["logits.kernel"] = state["classifier.1.weight"].T.astype("float32")
    arrays["logits.bias"] = state["classifier.1.bias"].astype("float32")
    return arrays


def vgg16(state):
    """The convolutions of VGG16 in JAX's layout.

    Args:
        state: dict `Conv_0` to `Conv_12` -> dict of `kernel` and `bias`.

    Returns:
        Dict of our arrays.
    """
    names = [
        f"block{block}_conv{conv}"
        for block, count in enumerate((2, 2, 3, 3, 3), 1)
        for conv in range(1, count + 1)
    ]
    return {
        f"{name}.{part}": state[f"Conv_{i}"][part]
        for i, name in enumerate(names)
        for part in ("kernel", "bias")
    }


# What Keras's normalization added to the variance when ResNet50 was trained, and now.
THEN, NOW = 1e-3, 1.001e-5


def resnet50(state):
    """Keras's ResNet50 of 2018 under the names of `keras.applications` today.

    Args:
        state: dict such as `res2a_branch2a/kernel` -> array.

    Returns:
        Dict of our arrays.
    """
    arrays = {}
    for name, value in state.items():
        layer, _, weight = name.partition("/")
        if weight == "moving_variance":
            value = value + np.float32(THEN - NOW)
        arrays[f"{_resnet50_layer(layer)}.{weight}"] = value
    return arrays


def _resnet50_layer(name):
    """`res2a_branch2b` -> `conv2_block1_2_conv`, `bn_conv1` -> `conv1_bn`."""
    known = {"conv1": "conv1_conv", "bn_conv1": "conv1_bn", "fc1000": "predictions"}
    if name in known:
        return known[name]
    kind = "bn" if name.startswith("bn") else "conv"
    place, _, branch = name.removeprefix("bn").removeprefix("res").partition("_branch")
    block = ord(place[1]) - ord("a") + 1
    step = {"1": 0, "2a": 1, "2b": 2, "2c": 3}[branch]
    return f"conv{place[0]}_block{block}_{step}_{kind}"
