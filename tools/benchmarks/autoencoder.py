"""AutoencoderKL: decoding, encoding and a training step, beside diffusers'.

Contenders, networks of the same weights:

    b              kg.AutoencoderKL on each backend: what `decode` and `encode` run, on
                   tensors; a training step as `fit` calls it
    torch peer     diffusers' AutoencoderKL, as its class comes (eager, contiguous)
    torch peer, channels last    the same in PyTorch's other memory format
    plain JAX      encoder and decoder in JAX alone (`_plain_jax.py`)

Tasks: "decode" (latents to images), "encode" (images to moments), and "step": the
training step with the patch discriminator, from the absolute error, the KL and the
adversarial loss with the adaptive weight. The peer's step is the published loop in
plain PyTorch (2112.10752): a forward pass for each of the two players, and two
additional backward passes for the adaptive weight.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import _beside as beside
from _beside import LAST, PEER, PLAIN, contenders  # noqa: F401

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


def rows(backends, gpu):
    """The lines of the table."""
    return beside.rows(("decode", "encode", "step"), backends, gpu)


def causes(label):
    """Why a row misses, as far as it is known."""
    return CAUSES.get(label)


CAUSES = {}


def build(name, case):
    """The contender of that name."""
    if name in (PEER, LAST):
        bench = Peer(case, name == LAST)
    else:
        bench = PlainJax(case) if name == PLAIN else Ours(case)
    bench.first_calls()
    return bench


class Bench(beside.Bench):
    """The model, the images and the latents of a case."""

    def __init__(self, case):
        super().__init__(case)
        import numpy as np

        import keras_genai as kg

        self.on_backend()
        latent = case["side"] // 2 ** (len(case["block_channels"]) - 1)
        draw = np.random.default_rng(0)
        batch, side = case["batch"], case["side"]
        self.images = draw.uniform(-1, 1, (batch, side, side, 3)).astype("float32")
        self.latents = draw.normal(size=(batch, latent, latent, 4)).astype("float32")
        self.model = kg.AutoencoderKL(
            (side, side, 3),
            block_channels=case["block_channels"],
            discriminator_start=0,
        )
        self.model.compile()


class Ours(Bench):
    """kg.AutoencoderKL on the backend of this process."""

    def __init__(self, case):
        super().__init__(case)
        from keras import ops

        from keras_genai import backend

        def task(network, x):
            run = backend.jit(network, network.variables)
            x = ops.convert_to_tensor(x)

            def steps(count):
                for _ in range(count):
                    y = run(x)
                float(backend.to_host(y[0, 0, 0, 0]))

            return steps

        self.tasks = {
            "decode": task(self.model.decoder, self.latents),
            "encode": task(self.model.encoder, self.images),
            "step": self._train,
        }

    def _train(self, count):
        for _ in range(count):
            logs = self.model.train_on_batch(self.images, return_dict=True)
        float(logs["loss"])


class PlainJax(Bench):
    """Encoder and decoder in JAX alone."""

    def __init__(self, case):
        super().__init__(case)
        import _plain_jax as plain
        import jax
        import jax.numpy as jnp
        import numpy as np

        weights, config = plain.tensors_of(self.model)
        self.tasks = {}
        for task, network, own, x in (
            ("decode", plain.decoder, self.model.decoder, self.latents),
            ("encode", plain.encoder, self.model.encoder, self.images),
        ):
            run = jax.jit(lambda w, x, network=network: network(w, config, x))
            x = jnp.asarray(x)
            if not np.allclose(run(weights, x), own(x), atol=1e-4):
                raise SystemExit(f"Plain JAX's {task} is not the one it stands beside.")

            def steps(count, run=run, x=x):
                for _ in range(count):
                    y = run(weights, x)
                float(y[0, 0, 0, 0])

            self.tasks[task] = steps


class Peer(Bench):
    """diffusers' network, and the published training loop."""

    def __init__(self, case, channels_last):
        super().__init__(case)
        import diffusers
        import torch
        from torch import nn

        self.torch = torch
        self.versions["diffusers"] = diffusers.__version__
        device = self.place
        torch.manual_seed(0)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        network = self.model
        self.model = beside.as_diffusers(network, "AutoencoderKL", device, layout)

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
