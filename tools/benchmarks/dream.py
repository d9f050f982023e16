"""DeepDream: a step of a 512x512 octave on MobileNetV2, beside plain PyTorch and JAX.

Contenders, the same network (MobileNetV2, batch normalization folded) with the same
weights, on the mean square of `block_10`, with the gradient by its root mean square,
jitter and clipping:

    b              kg.DeepDream on each backend: a step as `dream` takes it
    b, in parts    the same of 2048x2048 in parts of 512: its memory is to be at most
                   twice that of b
    torch peer     the usual loop in PyTorch, channels first
    torch peer, channels last    the same in PyTorch's other memory format
    plain JAX      network and step in JAX alone
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from _beside import LAST, PEER, PLAIN, SHARED, Bench
from _beside import contenders as _contenders

TITLE = "DeepDream beside plain PyTorch and plain JAX"
CASES = {
    "MobileNetV2, 512x512": {
        "size": 512,
        "large": 2048,
        "layer": "block_10",
        "divide": 4,
    },
    "MobileNetV2, 64x64": {
        "size": 64,
        "large": 256,
        "layer": "block_10",
        "divide": 4,
    },
}
PARTS = ", in parts"
MEMORY = "memory"  # the task whose peak is asked for: its time takes one round
ROUNDS = {MEMORY: 1}
RATE, JITTER = 0.02, 8


def contenders(backends):
    """Name -> environment variables."""
    found = _contenders(backends)
    for backend in backends:
        found[backend + PARTS] = {"KERAS_BACKEND": backend, **SHARED}
    return found


def rows(backends, gpu):
    """The lines of the table, with what the speed rule wants."""
    limits = {"tensorflow": 1.2, "torch": 1.2, "jax": None}
    if gpu:
        limits = dict.fromkeys(limits, 1.0)
    found = []

    def add(label, over, under, wanted=None, task="step"):
        row = {"label": label, "task": task, "over": over, "under": under}
        found.append({**row, "wanted": wanted})

    add("fastest backend / plain PyTorch", tuple(backends), PEER, 1.0)
    for name in backends:
        add(f"{name} / plain PyTorch", name, PEER, limits[name])
    if "jax" in backends:
        add("jax / plain JAX", "jax", PLAIN, 1.05)
    add("channels last / contiguous", LAST, PEER)
    for name in backends:
        # Sixteen times the pixels: the memory ratio is what counts, at most 2.
        add(f"{name}: four times the side, in parts", name + PARTS, name, task=MEMORY)
    return found


def causes(label):
    """Why a row misses, as far as it is known."""
    del label


def build(name, case):
    """The contender of that name."""
    kinds = {PEER: Peer, LAST: ChannelsLast, PLAIN: PlainJax}
    bench = Parts(case) if name.endswith(PARTS) else kinds.get(name, Ours)(case)
    bench.first_calls()
    return bench


class Case(Bench):
    """The network and the picture of a case."""

    side = "size"

    def __init__(self, case):
        super().__init__(case)
        import numpy as np

        from keras_genai.dream import pretrained

        self.on_backend()
        draw = np.random.default_rng(0)
        self.network = pretrained.mobilenet_v2()
        for weight in self.network.weights:
            fan = int(np.prod(weight.shape[:-1])) or 1
            if "depthwise" in weight.path:
                fan = 9
            size = np.sqrt(2.0 / fan) if len(weight.shape) > 1 else 0.1
            weight.assign(draw.normal(0, size, weight.shape))
        side = case[self.side]
        shape = (1, side, side, 3)
        self.image = draw.uniform(-0.5, 0.5, shape).astype("float32")


class Ours(Case):
    """kg.DeepDream on the backend of this process."""

    def __init__(self, case):
        super().__init__(case)
        import keras_genai as kg

        dreamer = kg.DeepDream(
            self.network,
            {case["layer"]: 1.0},
            octaves=1,
            jitter=JITTER,
            step_size=RATE,
            smoothing=0,
            tile=case["size"],
            tile_overlap=case["size"] // 4,
        )

        def step(count):
            dreamer.dream(self.image, steps=count, verbose=0)

        self.tasks = {"step": step, MEMORY: step}


class Parts(Ours):
    """A picture of four times the side."""

    side = "large"

    def __init__(self, case):
        super().__init__(case)
        del self.tasks["step"]


def convolutions(network, layer):
    """The convolutions up to a layer, as plain data.

    Returns:
        List of dicts: `name`, `kernel` `(h, w, in, out)`, `bias`, `strides`, `groups`,
        and `active`, whether ReLU6 follows.
    """
    found = []
    for each in network.layers:
        name = each.name
        if name == layer:
            break
        if not hasattr(each, "kernel"):
            continue
        kernel, bias = each.get_weights()
        depthwise = name.endswith("_depthwise")
        if depthwise:
            kernel = kernel.transpose(0, 1, 3, 2)  # (h, w, 1, C)
        found.append(
            {
                "name": name,
                "kernel": kernel,
                "bias": bias,
                "strides": each.strides[0],
                "groups": kernel.shape[-1] if depthwise else 1,
                "active": not name.endswith("_project"),
            }
        )
    return found


def run(layers, x, convolve, relu6):
    """The network: `convolve(x, layer)` and `relu6(x)` are the library's."""
    start = None
    for layer in layers:
        block, _, part = layer["name"].rpartition("_")
        first = part == "expand" or layer["name"] == "block_1_depthwise"
        if first:
            start = x
        x = convolve(x, layer)
        if layer["active"]:
            x = relu6(x)
        elif start is not None and start.shape == x.shape and block != "block_1":
            x = x + start
    return x


class Peer(Case):
    """The usual loop in PyTorch."""

    layout = "contiguous_format"

    def __init__(self, case):
        super().__init__(case)
        import numpy as np
        import torch
        import torch.nn.functional as F

        to = self.place
        layout = getattr(torch, self.layout)
        layers = convolutions(self.network, case["layer"])
        wanted = reference(self.network, case["layer"], self.image)
        for layer in layers:
            kernel = torch.from_numpy(layer["kernel"].transpose(3, 2, 0, 1).copy())
            layer["kernel"] = kernel.to(to).contiguous(memory_format=layout)
            layer["bias"] = torch.from_numpy(layer["bias"]).to(to)

        mean = torch.tensor((0.485, 0.456, 0.406), device=to)[:, None, None]
        deviation = torch.tensor((0.229, 0.224, 0.225), device=to)[:, None, None]

        def convolve(x, layer):
            pad = layer["kernel"].shape[-1] // 2
            how = layer["strides"], pad, 1, layer["groups"]
            return F.conv2d(x, layer["kernel"], layer["bias"], *how)

        def features(x):
            x = ((x + 1) / 2 - mean) / deviation
            return run(layers, x, convolve, F.relu6)

        x = torch.from_numpy(self.image).permute(0, 3, 1, 2)
        x = x.to(to).contiguous(memory_format=layout)
        with torch.no_grad():
            found = features(x).permute(0, 2, 3, 1).cpu().numpy()
        if not np.allclose(found, wanted, atol=1e-3 * np.abs(wanted).max()):
            raise SystemExit("The plain PyTorch network is not the one beside.")

        def step(count):
            moved = x
            for _ in range(count):
                shift = [int(n) for n in torch.randint(-JITTER, JITTER + 1, (2,))]
                rolled = torch.roll(moved, shift, (2, 3)).requires_grad_()
                score = features(rolled).square().mean()
                (gradient,) = torch.autograd.grad(score, rolled)
                gradient = torch.roll(gradient, [-n for n in shift], (2, 3))
                gradient = gradient / (gradient.square().mean().sqrt() + 1e-12)
                moved = (moved + RATE * gradient).clamp(-1, 1)
                float(score.detach())

        self.tasks = {"step": step}


class ChannelsLast(Peer):
    """The same in the memory format of our tensors."""

    layout = "channels_last"


class PlainJax(Case):
    """Network and step in JAX alone."""

    def __init__(self, case):
        super().__init__(case)
        import jax
        import jax.numpy as jnp
        import numpy as np

        layers = convolutions(self.network, case["layer"])
        wanted = reference(self.network, case["layer"], self.image)
        arrays = [(jnp.asarray(x["kernel"]), jnp.asarray(x["bias"])) for x in layers]
        mean = jnp.array((0.485, 0.456, 0.406))
        deviation = jnp.array((0.229, 0.224, 0.225))

        def features(arrays, x):
            def convolve(x, layer):
                kernel, bias = layer["arrays"]
                pad = kernel.shape[0] // 2
                y = jax.lax.conv_general_dilated(
                    x,
                    kernel,
                    (layer["strides"],) * 2,
                    [(pad, pad)] * 2,
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                    feature_group_count=layer["groups"],
                )
                return y + bias

            own = [{**a, "arrays": b} for a, b in zip(layers, arrays, strict=True)]
            x = ((x + 1) / 2 - mean) / deviation
            return run(own, x, convolve, jax.nn.relu6)

        found = np.asarray(jax.jit(features)(arrays, jnp.asarray(self.image)))
        if not np.allclose(found, wanted, atol=1e-3 * np.abs(wanted).max()):
            raise SystemExit("The plain JAX network is not the one beside.")

        @jax.jit
        def climb(arrays, x, shift):
            rolled = jnp.roll(x, shift, (1, 2))
            score, gradient = jax.value_and_grad(
                lambda x: jnp.mean(jnp.square(features(arrays, x)))
            )(rolled)
            gradient = jnp.roll(gradient, -shift, (1, 2))
            size = jnp.sqrt(jnp.mean(jnp.square(gradient))) + 1e-12
            return score, jnp.clip(x + RATE * gradient / size, -1, 1)

        draw = np.random.default_rng(0)

        def step(count):
            x = jnp.asarray(self.image)
            for _ in range(count):
                shift = jnp.asarray(draw.integers(-JITTER, JITTER + 1, 2))
                score, x = climb(arrays, x, shift)
                float(score)

        self.tasks = {"step": step}


def reference(network, layer, image):
    """What our network says of the picture, on this process's backend."""
    import keras

    inner = keras.Model(network.input, network.get_layer(layer).output)
    return keras.ops.convert_to_numpy(inner(image))
