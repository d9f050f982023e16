"""DDPM: a training step and 50 steps of DDIM, beside diffusers'.

Contenders, U-Nets of one configuration (their values cost no time):

    b              kg.DDPM on each backend: a training step as `fit` calls it, and what
                   `generate` runs
    SavedModel     what TensorFlow runs of the model that `export` wrote
    torch peer     diffusers' UNet2DModel with DDPMScheduler and DDIMScheduler, as its
                   classes come (eager, contiguous), in the usual loop
    torch peer, channels last    the same in PyTorch's other memory format

Tasks: "step" (noise, its prediction, squared error, Adam) and "sample" (50 evaluations
of DDIM with x_0 clipped), at batch 16.
"""

from __future__ import annotations

import tempfile
import time

TITLE = "DDPM beside diffusers'"
CASES = {
    "32x32x3, channels (64, 128, 128)": {
        "image_shape": (32, 32, 3),
        "block_channels": (64, 128, 128),
        "attention": (False, True, False),
        "layers_per_block": 2,
        "batch": 16,
        "steps": 50,
        "divide": 20,
    },
}
PEER = "torch peer"
LAST = "torch peer, channels last"
SERVED = "SavedModel"
TASKS = ("step", "sample")


def contenders(backends):
    """Name -> environment variables."""
    shared = {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    }
    found = {PEER: shared, LAST: shared}
    for backend in backends:
        found[backend] = {"KERAS_BACKEND": backend, **shared}
    if "tensorflow" in backends:
        found[SERVED] = {"KERAS_BACKEND": "tensorflow", **shared}
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
    if "tensorflow" in backends:
        add("sample: SavedModel / in process", "sample", SERVED, "tensorflow", 1.0)
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
        draw = np.random.default_rng(0)
        shape = (case["batch"], *case["image_shape"])
        self.images = draw.uniform(-1, 1, shape).astype("float32")

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
    kinds = {PEER: Peer, LAST: ChannelsLast, SERVED: Served}
    bench = kinds.get(name, Ours)(case)
    bench.first_calls()
    return bench


def model_of(case):
    """A DDPM of a case, compiled."""
    import keras_genai as kg

    names = ("image_shape", "block_channels", "attention", "layers_per_block")
    unet = kg.UNet(**{name: case[name] for name in names}, mid_attention=False)
    model = kg.DDPM(unet, steps=case["steps"], ema_decay=None)
    model.compile()
    return model


class Ours(Bench):
    """kg.DDPM on the backend of this process."""

    def __init__(self, case):
        super().__init__(case)
        import keras

        from keras_genai import engine

        self.versions["keras"] = keras.__version__
        backend = keras.backend.backend()
        self.versions[backend] = __import__(backend).__version__
        devices = ", ".join(map(str, engine.list_devices()))
        if "gpu" in devices.lower() or "cuda" in devices.lower():
            self.device = devices
        model = model_of(case)
        if backend == "torch":
            import torch

            if torch.cuda.is_available():
                self.device = torch.cuda.get_device_name()
                self.peak = torch.cuda.max_memory_allocated

        def train(count):
            for _ in range(count):
                logs = model.train_on_batch(self.images, return_dict=True)
            float(logs["loss"])

        def sample(count):
            for _ in range(count):
                model.generate(case["batch"], batch_size=case["batch"])

        self.tasks = {"step": train, "sample": sample}


class Served(Bench):
    """The exported loop in TensorFlow."""

    def __init__(self, case):
        super().__init__(case)
        import tensorflow as tf

        self.versions["tensorflow"] = tf.__version__
        self.folder = tempfile.TemporaryDirectory()
        model_of(case).export(f"{self.folder.name}/served")
        served = tf.saved_model.load(f"{self.folder.name}/served")
        generate = served.signatures["generate"]
        self.served = served

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
        self.versions |= {
            "torch": torch.__version__,
            "diffusers": diffusers.__version__,
        }
        self.to = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.to.type == "cuda":
            self.device = torch.cuda.get_device_name()
            self.peak = torch.cuda.max_memory_allocated
        torch.manual_seed(0)
        layout = getattr(torch, self.layout)
        kinds = ["Attn" if attended else "" for attended in case["attention"]]
        height, _, channels = case["image_shape"]
        self.unet = diffusers.UNet2DModel(
            sample_size=height,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=case["block_channels"],
            layers_per_block=case["layers_per_block"],
            down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
            up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
            attention_head_dim=None,
            add_attention=False,
        ).to(self.to, memory_format=layout)
        images = torch.from_numpy(self.images).permute(0, 3, 1, 2)
        self.x = images.to(self.to).contiguous(memory_format=layout)
        self.noising = diffusers.DDPMScheduler()
        self.scheduler = diffusers.DDIMScheduler()
        self.scheduler.set_timesteps(case["steps"])
        self.optimizer = torch.optim.Adam(self.unet.parameters(), lr=2e-4)
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
            torch.nn.utils.clip_grad_norm_(self.unet.parameters(), 1.0)
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


QUALITY_BACKEND = "tensorflow"
QUALITY_GROUPS = ("torch",)

if __name__ == "__main__":
    import _diffusion_quality

    _diffusion_quality.main()
