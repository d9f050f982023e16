"""AutoencoderKL: decoding, encoding and a training step, beside diffusers'.

Contenders, networks of the same sizes (their values cost no time):

    b              kg.AutoencoderKL on each backend: what `decode` and `encode` run, on
                   tensors; a training step as `fit` calls it
    torch peer     diffusers' AutoencoderKL, as its class comes (eager, contiguous)
    torch peer, channels last    the same in PyTorch's other memory format

Tasks: "decode" (latents to images), "encode" (images to moments), and "step": the
training step with the patch discriminator, from the absolute error, the KL and the
adversarial loss with the adaptive weight. The peer's step is the published loop in
plain PyTorch (2112.10752): a forward pass for each of the two players, and two
additional backward passes for the adaptive weight.
"""

from __future__ import annotations

import time

TITLE = "AutoencoderKL beside diffusers'"
CASES = {
    "64x64, block_channels (64, 128, 128)": {
        "side": 64,
        "block_channels": (64, 128, 128),
        "batch": 4,
        "divide": 4,
    },
    "128x128, block_channels (64, 128, 256, 256)": {
        "side": 128,
        "block_channels": (64, 128, 256, 256),
        "batch": 2,
        "divide": 10,
    },
}
PEER = "torch peer"
LAST = "torch peer, channels last"
TASKS = ("decode", "encode", "step")


def contenders(backends):
    """Name -> environment variables."""
    shared = {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }
    found = {PEER: shared, LAST: shared}
    for backend in backends:
        found[backend] = {"KERAS_BACKEND": backend, **shared}
    return found


def rows(backends, gpu):
    """The lines of the table, with what DESIGN.md's speed rule wants."""
    limits = {"tensorflow": 1.2, "torch": 1.2, "jax": None}
    if gpu:
        limits = dict.fromkeys(limits, 1.0)
    found = []

    def add(label, task, over, under, wanted=None):
        row = {"label": label, "task": task, "over": over, "under": under}
        found.append({**row, "wanted": wanted})

    for task in TASKS:
        add(f"{task}: fastest backend / diffusers", task, tuple(backends), PEER, 1.0)
        for name in backends:
            add(f"{task}: {name} / diffusers", task, name, PEER, limits[name])
        add(f"{task}: channels last / contiguous", task, LAST, PEER)
    return found


def causes(label):
    """Why a row misses, as far as it is known."""
    return next((why for start, why in CAUSES.items() if label.startswith(start)), None)


CAUSES = {}


class Bench:
    """What a worker serves: see `tools/benchmark.py`."""

    def __init__(self, case):
        import numpy as np

        self.case = case
        self.device, self.versions, self.compile_seconds = "cpu", {}, None
        self.latent = case["side"] // 2 ** (len(case["block_channels"]) - 1)
        draw = np.random.default_rng(0)
        batch, side = case["batch"], case["side"]
        self.images = draw.uniform(-1, 1, (batch, side, side, 3)).astype("float32")
        self.latents = draw.normal(size=(batch, self.latent, self.latent, 4))
        self.latents = self.latents.astype("float32")

    def first_calls(self):
        started = time.perf_counter()
        for task in self.tasks.values():
            task(1)
        self.compile_seconds = time.perf_counter() - started

    def peak(self):
        """The highest memory so far: the device's, or the process's."""
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def build(name, case):
    """The contender of that name."""
    bench = Peer(case, name == LAST) if name in (PEER, LAST) else Ours(name, case)
    bench.first_calls()
    return bench


class Ours(Bench):
    """kg.AutoencoderKL on the backend of this process."""

    def __init__(self, backend, case):
        super().__init__(case)
        import keras
        from keras import ops

        import keras_genai as kg
        from keras_genai import engine

        self.versions["keras"] = keras.__version__
        side = case["side"]
        model = kg.AutoencoderKL(
            (side, side, 3),
            block_channels=case["block_channels"],
            discriminator_start=0,
        )
        model.compile()
        if backend == "torch":
            import torch

            self.versions["torch"] = torch.__version__
            if torch.cuda.is_available():
                self.device = torch.cuda.get_device_name()
                self.peak = torch.cuda.max_memory_allocated
        elif keras.backend.backend() == "jax":
            import jax

            self.versions["jax"] = jax.__version__
            if jax.devices()[0].platform == "gpu":
                self.device = jax.devices()[0].device_kind
        else:
            import tensorflow as tf

            self.versions["tensorflow"] = tf.__version__
            if tf.config.list_physical_devices("GPU"):
                details = tf.config.experimental.get_device_details
                self.device = details(tf.config.list_physical_devices("GPU")[0])[
                    "device_name"
                ]

        def task(network, x):
            run = engine.jit(network, network.variables)
            x = ops.convert_to_tensor(x)

            def steps(count):
                for _ in range(count):
                    y = run(x)
                float(engine.to_host(y[0, 0, 0, 0]))

            return steps

        images = self.images

        def train(count):
            for _ in range(count):
                logs = model.train_on_batch(images, return_dict=True)
            float(logs["loss"])

        self.tasks = {
            "decode": task(model.decoder, self.latents),
            "encode": task(model.encoder, images),
            "step": train,
        }


class Peer(Bench):
    """diffusers' network, and the published training loop."""

    def __init__(self, case, channels_last):
        super().__init__(case)
        import diffusers
        import torch
        from diffusers import AutoencoderKL
        from torch import nn

        self.torch = torch
        self.versions |= {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
        }
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if device.type == "cuda":
            self.device = torch.cuda.get_device_name()
            self.peak = torch.cuda.max_memory_allocated
        torch.manual_seed(0)
        levels = len(case["block_channels"])
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * levels,
            up_block_types=["UpDecoderBlock2D"] * levels,
            block_out_channels=list(case["block_channels"]),
            layers_per_block=2,
        ).to(device, memory_format=layout)

        def placed(x):
            x = torch.from_numpy(x).permute(0, 3, 1, 2)
            return x.to(device).contiguous(memory_format=layout)

        self.x, self.z = placed(self.images), placed(self.latents)
        layers, filters = [nn.Conv2d(3, 64, 4, 2, 1), nn.LeakyReLU(0.2)], 64
        for i in range(1, 4):
            out = 64 * 2**i
            layers += [
                nn.Conv2d(filters, out, 4, 2 if i < 3 else 1, 1, bias=False),
                nn.BatchNorm2d(out),
                nn.LeakyReLU(0.2),
            ]
            filters = out
        layers.append(nn.Conv2d(filters, 1, 4, 1, 1))
        self.judge = nn.Sequential(*layers).to(device, memory_format=layout)
        self.optimizers = [
            torch.optim.Adam(net.parameters(), lr=5.4e-5, betas=(0.5, 0.9))
            for net in (self.model, self.judge)
        ]
        self.tasks = {
            "decode": lambda n: self._run(lambda: self.model.decode(self.z).sample, n),
            "encode": lambda n: self._run(
                lambda: self.model.encode(self.x).latent_dist.mean, n
            ),
            "step": self._train,
        }

    def _run(self, fn, count):
        with self.torch.no_grad():
            for _ in range(count):
                y = fn()
        float(y[0, 0, 0, 0])

    def _train(self, count):
        torch, x = self.torch, self.x
        grad, relu = torch.autograd.grad, torch.nn.functional.relu
        last = self.model.decoder.conv_out.weight
        for _ in range(count):
            posterior = self.model.encode(x).latent_dist
            fake = self.model.decode(posterior.sample()).sample
            nll = (x - fake).abs().sum() / len(x)
            judged = -self.judge(fake).mean()
            ratio = grad(nll, last, retain_graph=True)[0].norm() / (
                grad(judged, last, retain_graph=True)[0].norm() + 1e-4
            )
            balance = 0.5 * ratio.clamp(0, 1e4).detach()
            loss = nll + 1e-6 * posterior.kl().mean() + balance * judged
            self.optimizers[0].zero_grad()
            loss.backward()
            self.optimizers[0].step()
            with torch.no_grad():
                posterior = self.model.encode(x).latent_dist
                fake = self.model.decode(posterior.sample()).sample
            loss = relu(1 - self.judge(x)).mean() + relu(1 + self.judge(fake)).mean()
            self.optimizers[1].zero_grad()
            loss.backward()
            self.optimizers[1].step()
        float(loss)
