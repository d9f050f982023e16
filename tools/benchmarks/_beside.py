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

import engine  # the other benchmark: what its workers know of the backends

PEER = "torch peer"
LAST = "torch peer, channels last"
PLAIN = "plain JAX"
SHARED = engine.SHARED


def contenders(backends):
    """Name -> environment variables. The peers take our weights, hence a backend."""
    found = {name: {"KERAS_BACKEND": "torch", **SHARED} for name in (PEER, LAST)}
    for backend in backends:
        found[backend] = {"KERAS_BACKEND": backend, **SHARED}
    if "jax" in backends:
        found[PLAIN] = {"KERAS_BACKEND": "jax", **SHARED}
    return found


def rows(tasks, backends, gpu):
    """The lines of the table, with what the speed rule wants."""
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


def with_peer(backends):
    """Name -> environment variables of our backends and of transformers as it comes."""
    found = {b: {"KERAS_BACKEND": b, **SHARED} for b in backends}
    return {PEER: {"KERAS_BACKEND": "torch", **SHARED}, **found}


def rows_of_task(task, backends, fastest, most):
    """The lines of a task beside transformers.

    Args:
        task: its name.
        backends: ours.
        fastest: what is wanted of the fastest of them, a ratio.
        most: what is wanted of each.
    """
    sides = {"fastest backend": (tuple(backends), fastest)}
    sides |= {backend: (backend, most) for backend in backends}
    return [
        {
            "label": f"{task}: {name} / transformers",
            "task": task,
            "over": over,
            "under": PEER,
            "wanted": wanted,
        }
        for name, (over, wanted) in sides.items()
    ]


class Bench:
    """What a worker serves: see `tools/benchmark.py`."""

    def __init__(self, case):
        self.case = case
        self.device, self.versions, self.compile_seconds = "cpu", {}, None

    peak = engine.Bench.peak

    def first_calls(self):
        started = time.perf_counter()
        for task in self.tasks.values():
            task(1)
        self.compile_seconds = time.perf_counter() - started

    def on_backend(self):
        """Fills in the versions and the device of Keras's backend."""
        import keras

        self.versions["keras"] = keras.__version__
        starts = {"tensorflow": engine.OnTensorFlow.start, "jax": engine.OnJax.start}
        starts.get(keras.backend.backend(), engine.OnTorch.start)(self)


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
