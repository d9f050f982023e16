"""What the comparisons with diffusers and transformers share.

Contenders, the rows that the speed rule wants, and what a worker knows of its device.

    b              ours on each backend
    torch peer     the peer's classes as they come (eager), with our weights
    torch peer, channels last    the same in PyTorch's other memory format, of images
    plain JAX      the same network written in `jax.numpy` and `jax.lax` alone, with
                   our weights (`_plain_jax.py`)
"""

from __future__ import annotations

import tempfile
import time

PEER = "torch peer"
LAST = "torch peer, channels last"
PLAIN = "plain JAX"
SHARED = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
}


def contenders(backends):
    """Name -> environment variables. The peers take our weights, hence a backend."""
    found = {name: {"KERAS_BACKEND": "torch", **SHARED} for name in (PEER, LAST)}
    for backend in backends:
        found[backend] = {"KERAS_BACKEND": backend, **SHARED}
    if "jax" in backends:
        found[PLAIN] = {"KERAS_BACKEND": "jax", **SHARED}
    return found


def rows(tasks, backends, gpu):
    """The lines of the table, with what DESIGN.md's speed rule wants."""
    limits = {"tensorflow": 1.2, "torch": 1.2, "jax": None}
    if gpu:
        limits = dict.fromkeys(limits, 1.0)
    found = []

    def add(label, task, over, under, wanted=None):
        row = {"label": label, "task": task, "over": over, "under": under}
        found.append({**row, "wanted": wanted})

    for task in tasks:
        add(f"{task}: fastest backend / diffusers", task, tuple(backends), PEER, 1.0)
        for name in backends:
            add(f"{task}: {name} / diffusers", task, name, PEER, limits[name])
        if "jax" in backends:
            add(f"{task}: jax / plain JAX", task, "jax", PLAIN, 1.05)
        add(f"{task}: channels last / contiguous", task, LAST, PEER)
    return found


class Bench:
    """What a worker serves: see `tools/benchmark.py`."""

    def __init__(self, case):
        self.case = case
        self.device, self.versions, self.compile_seconds = "cpu", {}, None

    def peak(self):
        """The highest memory so far: the device's, or the process's."""
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def first_calls(self):
        started = time.perf_counter()
        for task in self.tasks.values():
            task(1)
        self.compile_seconds = time.perf_counter() - started

    def on_backend(self):
        """Fills in the versions and the device of Keras's backend; its name."""
        import keras

        self.versions["keras"] = keras.__version__
        name = keras.backend.backend()
        {"tensorflow": self.on_tensorflow, "jax": self.on_jax, "torch": self.on_torch}[
            name
        ]()
        return name

    def on_tensorflow(self):
        import tensorflow as tf

        self.versions["tensorflow"] = tf.__version__
        if gpus := tf.config.list_physical_devices("GPU"):
            details = tf.config.experimental.get_device_details(gpus[0])
            self.device = details.get("device_name", "gpu")
            self.peak = lambda: tf.config.experimental.get_memory_info("GPU:0")["peak"]

    def on_jax(self):
        import jax

        self.versions["jax"] = jax.__version__
        device = jax.devices()[0]
        if device.platform != "cpu":
            self.device = device.device_kind
            self.peak = lambda: device.memory_stats()["peak_bytes_in_use"]

    def on_torch(self):
        import torch

        self.versions["torch"] = torch.__version__
        if not torch.cuda.is_available():
            return torch.device("cpu")
        self.device = torch.cuda.get_device_name()
        self.peak = torch.cuda.max_memory_allocated
        return torch.device("cuda")


def as_diffusers(network, kind, device, layout):
    """The class `kind` of diffusers with the weights of a network of ours."""
    import diffusers

    peer = as_peer(network, getattr(diffusers, kind), device)
    return peer.to(memory_format=layout)


def as_peer(network, kind, device):
    """The class `kind` of diffusers or transformers with our weights."""
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        return kind.from_pretrained(folder).to(device)
