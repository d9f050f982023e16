"""Published networks of ImageNet <-> the layers of `kg.dream.load`.

Each function turns the arrays of a published file into ours, named `<layer>.<weight>`,
which `tools/fetch_data.py` writes; `assign` puts them into a network.
"""

import numpy as np

# torchvision's places of VGG16's convolutions, in their order
VGG16 = {
    f"block{block}_conv{conv}": f"features.{place}"
    for place, block, conv in (
        (0, 1, 1),
        (2, 1, 2),
        (5, 2, 1),
        (7, 2, 2),
        (10, 3, 1),
        (12, 3, 2),
        (14, 3, 3),
        (17, 4, 1),
        (19, 4, 2),
        (21, 4, 3),
        (24, 5, 1),
        (26, 5, 2),
        (28, 5, 3),
    )
}


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
    """torchvision's convolutions of VGG16.

    Args:
        state: dict `features.0.weight`, `features.0.bias`, ... -> array.

    Returns:
        Dict of our arrays.
    """
    arrays = {}
    for ours, theirs in VGG16.items():
        kernel = state[f"{theirs}.weight"].transpose(2, 3, 1, 0)
        arrays[f"{ours}.kernel"] = np.ascontiguousarray(kernel, "float32")
        arrays[f"{ours}.bias"] = state[f"{theirs}.bias"].astype("float32")
    return arrays
