"""DDPM: a training step and 50 steps of DDIM, beside diffusers'.

Contenders, U-Nets of one configuration with the same weights:

    b              kg.DDPM on each backend: a training step as `fit` calls it, and what
                   `generate` runs
    SavedModel     what TensorFlow runs of the model that `export` wrote
    torch peer     diffusers' UNet2DModel with DDPMScheduler and DDIMScheduler, as its
                   classes come (eager, contiguous), in the usual loop
    torch peer, channels last    the same in PyTorch's other memory format
    plain JAX      the network, the step and the loop in JAX alone (`_plain_jax.py`)

Tasks: "step" (noise, its prediction, squared error, Adam) and "sample" (50 evaluations
of DDIM with x_0 clipped), at batch 16.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import _beside as beside
from _beside import LAST, PEER, PLAIN, SHARED

TITLE = "DDPM beside diffusers'"
CASES = {
    "32x32x3, channels (64, 128, 128)": {
        "image_shape": (32, 32, 3),
        "block_channels": (64, 128, 128),
        "attention": (False, True, False),
        "layers_per_block": 2,
        "batch": 16,
        "num_steps": 50,
        "divide": 20,
    },
}
SERVED = "SavedModel"
RATE, CLIP = 2e-4, 1.0


def contenders(backends):
    """Name -> environment variables."""
    found = beside.contenders(backends)
    if "tensorflow" in backends:
        found[SERVED] = {"KERAS_BACKEND": "tensorflow", **SHARED}
    return found


def rows(backends, gpu):
    """The lines of the table."""
    found = beside.rows(("step", "sample"), backends, gpu)
    if "tensorflow" in backends:
        row = {"label": "sample: SavedModel / in process", "task": "sample"}
        found.append({**row, "over": SERVED, "under": "tensorflow", "wanted": 1.0})
    return found


def causes(label):
    """Why a row misses, as far as it is known."""
    return CAUSES.get(label)


CAUSES = {}


def build(name, case):
    """The contender of that name."""
    kinds = {PEER: Peer, LAST: ChannelsLast, PLAIN: PlainJax, SERVED: Served}
    bench = kinds.get(name, Ours)(case)
    bench.first_calls()
    return bench


class Bench(beside.Bench):
    """The model and the images of a case."""

    def __init__(self, case):
        super().__init__(case)
        import keras
        import numpy as np

        import keras_genai as kg

        self.on_backend()
        draw = np.random.default_rng(0)
        shape = (case["batch"], *case["image_shape"])
        self.images = draw.uniform(-1, 1, shape).astype("float32")
        names = ("image_shape", "block_channels", "attention", "layers_per_block")
        unet = kg.UNet(**{name: case[name] for name in names}, mid_attention=False)
        for weight in unet.trainable_variables:  # some begin at zero
            weight.assign(weight + draw.normal(0, 0.02, weight.shape))
        self.model = kg.DDPM(unet, num_steps=case["num_steps"], ema_decay=None)
        self.model.compile(
            keras.optimizers.Adam(RATE, epsilon=1e-8, global_clipnorm=CLIP)
        )


class Ours(Bench):
    """kg.DDPM on the backend of this process."""

    def __init__(self, case):
        super().__init__(case)
        self.tasks = {"step": self._train, "sample": self._sample}

    def _train(self, count):
        for _ in range(count):
            logs = self.model.train_on_batch(self.images, return_dict=True)
        float(logs["loss"])

    def _sample(self, count):
        size = self.case["batch"]
        for _ in range(count):
            self.model.generate(size, batch_size=size)


class Served(Bench):
    """The exported loop in TensorFlow."""

    def __init__(self, case):
        super().__init__(case)
        import tensorflow as tf

        self.folder = tempfile.TemporaryDirectory()
        self.model.export(f"{self.folder.name}/served")
        self.served = tf.saved_model.load(f"{self.folder.name}/served")
        generate = self.served.signatures["generate"]

        def sample(count):
            for _ in range(count):
                made = generate(seed=tf.constant(0), n=tf.constant(case["batch"]))
                made["images"].numpy()

        self.tasks = {"sample": sample}


class Peer(Bench):
    """diffusers' network and schedulers in the usual loops."""

    layout = "contiguous_format"

    def __init__(self, case):
        super().__init__(case)
        import diffusers
        import torch

        self.torch = torch
        self.versions["diffusers"] = diffusers.__version__
        self.to = self.place
        torch.manual_seed(0)
        layout = getattr(torch, self.layout)
        network = self.model.network
        self.unet = beside.as_diffusers(network, "UNet2DModel", self.to, layout)
        images = torch.from_numpy(self.images).permute(0, 3, 1, 2)
        self.x = images.to(self.to).contiguous(memory_format=layout)
        self.noising = diffusers.DDPMScheduler()
        self.scheduler = diffusers.DDIMScheduler()
        self.scheduler.set_timesteps(case["num_steps"])
        self.optimizer = torch.optim.Adam(self.unet.parameters(), lr=RATE)
        self.tasks = {"step": self._train, "sample": self._sample}

    def _train(self, count):
        torch = self.torch
        for _ in range(count):
            noise = torch.randn_like(self.x)
            t = torch.randint(0, 1000, (len(self.x),), device=self.to)
            predicted = self.unet(self.noising.add_noise(self.x, noise, t), t).sample
            loss = torch.nn.functional.mse_loss(predicted, noise)
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.unet.parameters(), CLIP)
            self.optimizer.step()
        float(loss)

    def _sample(self, count):
        with self.torch.no_grad():
            for _ in range(count):
                x = self.torch.randn_like(self.x)
                for t in self.scheduler.timesteps:
                    x = self.scheduler.step(self.unet(x, t).sample, t, x).prev_sample
        float(x[0, 0, 0, 0])


class ChannelsLast(Peer):
    """The same in the memory format of our tensors."""

    layout = "channels_last"


class PlainJax(Bench):
    """Network, step and loop in JAX alone."""

    def __init__(self, case):
        super().__init__(case)
        import _plain_jax as plain
        import jax
        import jax.numpy as jnp
        import numpy as np

        weights, config = plain.tensors_of(self.model.network)
        x, t = jnp.asarray(self.images), jnp.full((case["batch"],), 500.0)
        theirs = jax.jit(lambda w: plain.unet(w, config, x, t))(weights)
        ours = self.model.network(self.images, np.asarray(t))
        if not np.allclose(theirs, ours, atol=1e-4):
            raise SystemExit("The plain JAX network is not the one beside.")
        share = jnp.cumprod(1.0 - jnp.linspace(1e-4, 0.02, 1000))

        def step(state, x):
            weights, moments, key = state
            key, one, two = jax.random.split(key, 3)
            noise = jax.random.normal(one, x.shape)
            t = jax.random.randint(two, (len(x),), 0, 1000)
            kept = share[t][:, None, None, None]
            noised = jnp.sqrt(kept) * x + jnp.sqrt(1 - kept) * noise

            def loss_of(weights):
                predicted = plain.unet(weights, config, noised, t.astype("float32"))
                return jnp.mean((predicted - noise) ** 2)

            loss, gradients = jax.value_and_grad(loss_of)(weights)
            weights, moments = plain.adam(weights, gradients, moments, RATE, clip=CLIP)
            return (weights, moments, key), loss

        times = jnp.arange(case["num_steps"])[::-1] * (1000 // case["num_steps"])
        kept = jnp.append(share[times], 1.0)

        def sample(weights, key):
            x = jax.random.normal(key, self.images.shape)

            def walk(i, x):
                predicted = plain.unet(
                    weights, config, x, jnp.full((len(x),), times[i], "float32")
                )
                clean = (x - jnp.sqrt(1 - kept[i]) * predicted) / jnp.sqrt(kept[i])
                clean = jnp.clip(clean, -1.0, 1.0)
                noise = (x - jnp.sqrt(kept[i]) * clean) / jnp.sqrt(1 - kept[i])
                ahead = kept[i + 1]
                return jnp.sqrt(ahead) * clean + jnp.sqrt(1 - ahead) * noise

            return jax.lax.fori_loop(0, case["num_steps"], walk, x)

        step, sample = jax.jit(step, donate_argnums=0), jax.jit(sample)
        copy = jax.tree.map(jnp.array, weights)
        self.state = copy, plain.adam_start(copy), jax.random.key(0)

        def train(count):
            for _ in range(count):
                self.state, loss = step(self.state, x)
            float(loss)

        def draw(count):
            for _ in range(count):
                made = np.asarray(sample(weights, jax.random.key(0)))
            float(made[0, 0, 0, 0])

        self.tasks = {"step": train, "sample": draw}


QUALITY_BACKEND = "tensorflow"
QUALITY_GROUPS = ("torch",)

if __name__ == "__main__":
    import _diffusion_quality

    _diffusion_quality.main()
