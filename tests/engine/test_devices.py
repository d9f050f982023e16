"""Several devices or processes train as one does on the same global batch."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_genai as kg
from keras_genai.engine.data import ArrayDataset
from keras_genai.engine.devices import Devices
from tests.conformance import assert_golden
from tests.engine.train_on_devices import codes, uneven
from tests.gans.test_golden import GOLDEN

BACKEND = keras.backend.backend()
ROOT = pathlib.Path(__file__).parents[2]
PROGRAM = str(ROOT / "tests" / "engine" / "train_on_devices.py")
WAYS = {
    "jax": ["devices", "processes"],
    "tensorflow": ["mirrored", "workers"],
    "torch": ["processes"],
}


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def commands(way, path):
    """The processes to start: `(command, variables)` of each."""
    program = [sys.executable, PROGRAM, way, str(path)]
    if BACKEND == "torch":
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        return [([*launcher, "--nproc-per-node=2", *program[1:]], {})]
    if way == "devices":
        return [(program, {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"})]
    if way == "processes":
        (port,) = free_ports(1)
        return [([*program, "2", str(index), str(port)], {}) for index in range(2)]
    if way == "workers":
        cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(2)]}
        tasks = [{"type": "worker", "index": index} for index in range(2)]
        return [
            (program, {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})})
            for task in tasks
        ]
    return [(program, {})]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("way", WAYS[BACKEND])
def test_many_train_as_one(way, tmp_path):
    path = tmp_path / "result.json"
    children, logs = [], []
    for index, (command, variables) in enumerate(commands(way, path)):
        logs.append(tmp_path / f"{index}.log")
        with open(logs[-1], "w") as log:
            children.append(
                subprocess.Popen(
                    command,
                    env=os.environ | {"PYTHONPATH": str(ROOT)} | variables,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
            )
    try:
        ended = [child.wait(timeout=300) for child in children]
    finally:
        for child in children:
            child.kill()
    said = "\n".join(log.read_text(errors="replace")[-3000:] for log in logs)
    assert ended == [0] * len(children), said
    results = json.loads(path.read_text())
    for name, reference in GOLDEN.read().items():
        got = results["twenty steps"][name]
        assert_golden(np.reshape(got, np.shape(reference)), reference, name)
    for what, alone in (("uneven", uneven), ("codes", codes)):
        for name, reference in alone().items():
            got = np.array(results[what][name])
            assert_golden(got, np.ravel(reference), f"{what}: {name}")


def test_parts_of_a_batch_cover_it_once():
    for count in (1, 2, 3):
        parts = [Devices(process=(i, count)).own(np.arange(8)) for i in range(count)]
        np.testing.assert_array_equal(np.concatenate(parts), np.arange(8))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def dataset(size, batch_size, **devices):
    arrays = (np.zeros((size, 2)), None, None)
    return ArrayDataset(arrays, batch_size, False, 0, devices=Devices(**devices))


def test_a_batch_that_devices_cannot_share_is_refused_or_told_of():
    with pytest.raises(ValueError, match="batch of 6 samples.*divisible by 4"):
        dataset(12, 6, count=4, multiple=4)
    with pytest.raises(ValueError, match="batch_size that is at least 4"):
        dataset(12, 3, kind="processes", count=4)
    with pytest.warns(UserWarning, match="last batch of a pass has 6.*2 of 14"):
        trimmed = dataset(14, 8, count=4, multiple=4)
    assert [len(trimmed[i][0]) for i in range(trimmed.num_batches)] == [8, 4]
    with pytest.warns(UserWarning, match="1 of 9 samples"):
        dropped = dataset(9, 8, count=2)
    assert [len(dropped[i][0]) for i in range(dropped.num_batches)] == [8]


@pytest.mark.skipif(BACKEND == "jax", reason="keras.distribution is JAX's")
def test_keras_distribution_is_refused_where_it_does_nothing(monkeypatch):
    monkeypatch.setattr(keras.distribution, "distribution", lambda: object())
    expected = "torchrun" if BACKEND == "torch" else "MirroredStrategy"
    with pytest.raises(ValueError, match=expected):
        kg.DCGAN((8, 8, 1), latent_dim=4, base_filters=4)
