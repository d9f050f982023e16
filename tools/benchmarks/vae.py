"""A VAE's training step and its log-likelihood, beside PyTorch alone.

Contenders, on each backend `b`:

    b            kg.VAE: the compiled train function, called as `fit` calls it, and
                 `log_likelihood` over arrays
    torch peer   PyTorch alone: nn.Module networks of the same size (convolutions
                 channels last), torch.optim.Adam, torch.logsumexp
    plain JAX    the same in JAX alone, but for the networks' forward pass, which is
                 Keras's `stateless_call`

Tasks: "step", one training step on a batch that lies on the device;
"log_likelihood", 32 images by 128 importance samples (of the paper's network 512), in
chunks. Both Bernoulli with images drawn black or white. FLOPs are those of convolutions
and matrix products.

With `--quality`: `_vae_quality.py`, which trains and judges.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import engine  # the other benchmark: what its workers know of the backends
from _beside import PEER, PLAIN, SHARED

TITLE = "A VAE's training step and log-likelihood"
CASES = {
    "convolutional 28x28x1": {
        "batch": 64,
        "samples": 1,
        "image_shape": (28, 28, 1),
        "latent_dim": 32,
        "hidden_units": (256,),
        "filters": 32,
        "architecture": "convolutional",
    },
    "convolutional 64x64x3": {
        "batch": 64,
        "samples": 1,
        "image_shape": (64, 64, 3),
        "latent_dim": 32,
        "hidden_units": (256, 256),
        "filters": 32,
        "architecture": "convolutional",
        "divide": 4,
    },
    "784-200-200-50, k = 50": {
        "batch": 20,
        "samples": 50,
        "image_shape": (28, 28, 1),
        "latent_dim": 50,
        "hidden_units": (200, 200),
        "filters": 32,
        "architecture": "mlp",
        "latents": 512,
        "chunk": (16, 256),  # as `log_likelihood` has it by default
        "divide": 2,
    },
}
QUALITY_BACKEND = "jax"  # of the three the fastest at batches of 20
QUALITY_GROUPS = ("torch",)
JUDGED = 32  # images of the task "log_likelihood"
LATENTS, CHUNK = 128, (16, 64)  # of each; images and latents of one pass


def contenders(backends):
    """Name -> environment variables."""
    found = {b: {"KERAS_BACKEND": b, **SHARED} for b in backends}
    found = {PEER: SHARED, **found}
    return found | ({PLAIN: found["jax"]} if "jax" in backends else {})


def rows(backends, gpu):
    """The lines of the table, with what the speed rule wants."""
    limits = {"tensorflow": 1.2, "torch": 1.2, "jax": None}
    if gpu:
        limits = dict.fromkeys(limits, 1.0)
    found = []
    for task, name in (("step", "step"), ("log_likelihood", "log-likelihood")):
        over = {f"{name}: fastest backend / PyTorch": (tuple(backends), 1.0)}
        over |= {f"{name}: {b} / PyTorch": (b, limits[b]) for b in backends}
        found += [
            {"label": label, "task": task, "over": o, "under": PEER, "wanted": wanted}
            for label, (o, wanted) in over.items()
        ]
        if "jax" in backends:
            row = {"label": f"{name}: jax / plain JAX", "task": task, "over": "jax"}
            found.append({**row, "under": PLAIN, "wanted": 1.05})
    return found


def causes(label):
    """Why a row misses, as far as it is known."""
    return CAUSES.get(label)


CAUSES = {
    "log-likelihood: torch / PyTorch": "the noise that is the same on each backend: a "
    "tenth of the time (PyTorch's profiler); the rest is not known yet",
}


def products(case):
    """Multiplications of a forward pass for one image: `(encoder, decoder, first)`."""
    height, width, channels = case["image_shape"]
    filters, latent = case["filters"], case["latent_dim"]
    first, convolutions = 0, 0
    size = height * width * channels
    spread = 0
    if case["architecture"] == "convolutional":
        inputs = channels
        for _ in range(engine.stages_of(case["image_shape"])):
            height, width = height // 2, width // 2
            convolutions += height * width * 16 * inputs * filters
            first = first or convolutions
            inputs = filters
        size = height * width * filters
        spread = size * case["hidden_units"][0]
    units = case["hidden_units"]
    between = sum(a * b for a, b in zip(units, units[1:], strict=False))
    first = first or size * units[0]
    encoder = convolutions + size * units[0] + between + units[-1] * 2 * latent
    output = 0 if spread else size * units[0]
    decoder = latent * units[-1] + between + spread + convolutions + output
    return encoder, decoder, first


def build(name, case):
    """The contender of that name."""
    kinds = {"tensorflow": TensorFlow, "jax": Jax, "torch": Torch}
    bench = {PEER: Peer, PLAIN: PlainJax, **kinds}[name](case)
    bench.first_call()
    return bench


class Bench(engine.Bench):
    """What a worker serves: see `tools/benchmark.py`."""

    def __init__(self, case):
        super().__init__(case)
        encoder, decoder, first = products(case)
        self.latents = case.get("latents", LATENTS)
        self.chunk = case.get("chunk", CHUNK)
        k = case["samples"]
        step = 3 * (encoder + k * decoder) - first
        self.flops = {
            "step": 2 * self.batch * step,
            "log_likelihood": 2 * JUDGED * (encoder + self.latents * decoder),
        }

    def images(self, count):
        """Images in [0, 1]: noise, for a step takes as long whatever it sees."""
        return 0.5 * (super().images(count) + 1.0)


class Own(Bench):
    """`kg.VAE` on the backend that `KERAS_BACKEND` names."""

    def __init__(self, case):
        super().__init__(case)
        import keras

        import keras_genai as kg

        self.versions["keras"] = keras.__version__
        self.start()
        taken = ("image_shape", "latent_dim", "hidden_units", "filters")
        self.model = kg.VAE(
            binarize="dynamic",
            importance_samples=case["samples"],
            architecture=case["architecture"],
            **{name: case[name] for name in taken},
        )
        self.model.compile()
        self.model.make_train_function()
        self.judged = self.images(JUDGED)
        self.prepare()
        self.tasks = {"step": self._steps, "log_likelihood": self._judge}

    def _judge(self, steps):
        size, chunk = self.chunk
        for _ in range(steps):
            self.model.log_likelihood(
                self.judged,
                importance_samples=self.latents,
                batch_size=size,
                chunk=chunk,
            )


class TensorFlow(engine.OnTensorFlow, Own):
    prepare = engine.TensorFlow.prepare
    _steps = engine.TensorFlow._steps


class Jax(engine.OnJax, Own):
    prepare = engine.Jax.prepare
    _state = engine.Jax._state
    _steps = engine.Jax._steps


class Torch(engine.OnTorch, Own):
    prepare = engine.Torch.prepare
    _steps = engine.Torch._steps


class PlainJax(engine.OnJax, Own):
    """A step and a bound written for JAX, around the same networks."""

    def prepare(self):
        import _plain_jax as plain

        jax = self.jax
        jnp = jax.numpy
        networks = self.model.encoder, self.model.decoder
        # Copies, for the step gives its inputs' memory to its outputs.
        weights = [[jnp.array(v.value) for v in n.variables] for n in networks]
        self.real = jax.device_put(self.images(self.batch))
        self.state = weights, plain.adam_start(weights), jax.random.key(0)
        latent, k = self.latent, self.case["samples"]

        def run(number, weights, x):
            return networks[number].stateless_call(weights[number], [], x)[0]

        def bound(weights, x, moments, key, k):
            """`(log p(x|z), log w)`, each `(B, k)`."""
            mean, log_variance = (m[:, None] for m in jnp.split(moments, 2, 1))
            noise = jax.random.normal(key, (len(x), k, latent))
            z = mean + jnp.exp(0.5 * log_variance) * noise
            logits = run(1, weights, z.reshape(-1, latent))
            logits = logits.reshape(len(x), k, *x.shape[1:])
            log_p = x[:, None] * logits - jax.nn.softplus(logits)
            log_p = log_p.sum((2, 3, 4))
            difference = noise**2 + log_variance - z**2
            return log_p, log_p + 0.5 * difference.sum(-1)

        def step(state, real):
            weights, moments, key = state
            key, one, two = jax.random.split(key, 3)
            x = jax.random.bernoulli(one, real).astype("float32")

            def loss_of(weights):
                posterior = run(0, weights, x)
                log_p, log_w = bound(weights, x, posterior, two, k)
                if k > 1:
                    return jnp.mean(math.log(k) - jax.nn.logsumexp(log_w, 1))
                mean, log_variance = jnp.split(posterior, 2, 1)
                kl = mean**2 + jnp.exp(log_variance) - 1 - log_variance
                return jnp.mean(0.5 * kl.sum(1) - log_p[:, 0])

            loss, gradients = jax.value_and_grad(loss_of)(weights)
            weights, moments = plain.adam(
                weights, gradients, moments, 1e-3, epsilon=1e-4
            )
            return (weights, moments, key), loss

        def judge(weights, x, key):
            one, two = jax.random.split(key)
            x = jax.random.bernoulli(one, x).astype("float32")
            posterior = run(0, weights, x)

            def part(key):
                log_w = bound(weights, x, posterior, key, self.chunk[1])[1]
                return jax.nn.logsumexp(log_w, 1)

            keys = jax.random.split(two, self.latents // self.chunk[1])
            return jax.nn.logsumexp(jax.lax.map(part, keys), 0) - math.log(self.latents)

        self.step, self.judge = jax.jit(step, donate_argnums=0), jax.jit(judge)

    def _steps(self, steps):
        for _ in range(steps):
            self.state, _ = self.step(self.state, self.real)
        self.jax.block_until_ready(self.state)

    def _judge(self, steps):
        for _ in range(steps):
            for start in range(0, len(self.judged), self.chunk[0]):
                key = self.jax.random.key(start)
                part = self.judged[start : start + self.chunk[0]]
                self.judge(self.state[0], part, key).block_until_ready()


class Peer(Bench):
    """PyTorch alone."""

    def __init__(self, case):
        super().__init__(case)
        import torch

        self.torch = torch
        device, self.sync = engine.on_torch(self)
        self.place = {"device": device}
        torch.manual_seed(0)
        self.k = case["samples"]
        networks = mlp(case) if case["architecture"] == "mlp" else convolutional(case)
        last = torch.channels_last
        self.encoder, self.decoder = (
            n.to(device, memory_format=last) for n in networks
        )
        parameters = [*self.encoder.parameters(), *self.decoder.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=1e-3, eps=1e-4)
        self.real = self._on_device(self.images(self.batch))
        self.judged = self._on_device(self.images(JUDGED))
        self.total = torch.zeros((), device=device)
        self.tasks = {"step": self._steps, "log_likelihood": self._judge}
        self.matrix_rate = engine.matrix_rate(torch, device, self.sync)

    _on_device = engine.Peer._on_device

    def _weights(self, x, mean, log_variance, k):
        """`(log p(x|z), log w)` of k latents, each `(B, k)`."""
        torch = self.torch
        noise = torch.randn(len(x), k, self.latent, **self.place)
        z = mean[:, None] + torch.exp(0.5 * log_variance)[:, None] * noise
        logits = self.decoder(z.reshape(-1, self.latent))
        logits = logits.reshape(len(x), k, *x.shape[1:])
        log_p = -torch.nn.functional.binary_cross_entropy_with_logits(
            logits, x[:, None].expand_as(logits), reduction="none"
        ).sum((2, 3, 4))
        difference = noise**2 + log_variance[:, None] - z**2
        return log_p, log_p + 0.5 * difference.sum(-1)

    def _steps(self, steps):
        torch, k = self.torch, self.k
        for _ in range(steps):
            x = torch.bernoulli(self.real)
            mean, log_variance = self.encoder(x).chunk(2, 1)
            log_p, log_w = self._weights(x, mean, log_variance, k)
            if k == 1:
                kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
                loss = (kl - log_p[:, 0]).mean()
            else:
                loss = (math.log(k) - torch.logsumexp(log_w, 1)).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.total += loss.detach()
        self.sync()

    def _judge(self, steps):
        torch = self.torch
        size, chunk = self.chunk
        with torch.no_grad():
            for _ in range(steps):
                for part in self.judged.split(size):
                    x = torch.bernoulli(part)
                    moments = self.encoder(x).chunk(2, 1)
                    sums = [
                        torch.logsumexp(self._weights(x, *moments, chunk)[1], 1)
                        for _ in range(self.latents // chunk)
                    ]
                    torch.logsumexp(torch.stack(sums), 0).cpu()
        self.sync()


def mlp(case):
    """The dense networks, as a PyTorch user writes them."""
    from torch import nn

    size = math.prod(case["image_shape"])
    height, width, channels = case["image_shape"]
    units, latent = case["hidden_units"], case["latent_dim"]

    def sequence(*sizes):
        parts = []
        for a, b in zip(sizes, sizes[1:], strict=False):
            parts += [nn.Linear(a, b), nn.Tanh()]
        return parts[:-1]

    encoder = nn.Sequential(nn.Flatten(), *sequence(size, *units, 2 * latent))
    decoder = nn.Sequential(
        *sequence(latent, *reversed(units), size),
        nn.Unflatten(1, (channels, height, width)),
    )
    return encoder, decoder


def convolutional(case):
    """The convolutional networks, as a PyTorch user writes them."""
    from torch import nn

    height, width, channels = case["image_shape"]
    units, latent = case["hidden_units"], case["latent_dim"]
    filters = case["filters"]
    stages = engine.stages_of(case["image_shape"])
    h, w = height >> stages, width >> stages
    size = h * w * filters
    parts, inputs = [], channels
    for _ in range(stages):
        parts += [nn.Conv2d(inputs, filters, 4, 2, 1), nn.ReLU(True)]
        inputs = filters
    parts += [nn.Flatten()]
    for a, b in zip((size, *units), units, strict=False):
        parts += [nn.Linear(a, b), nn.ReLU(True)]
    encoder = nn.Sequential(*parts, nn.Linear(units[-1], 2 * latent))
    parts = []
    back = (*reversed(units), size)
    for a, b in zip((latent, *back), back, strict=False):
        parts += [nn.Linear(a, b), nn.ReLU(True)]
    parts += [nn.Unflatten(1, (filters, h, w))]
    for stage in range(stages):
        last = stage == stages - 1
        out = channels if last else filters
        parts += [nn.ConvTranspose2d(filters, out, 4, 2, 1)]
        parts += [] if last else [nn.ReLU(True)]
    return encoder, nn.Sequential(*parts)


if __name__ == "__main__":
    import _vae_quality

    _vae_quality.main()
