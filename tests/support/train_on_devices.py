"""Trainings divided over several devices or processes: starts them, and is what runs.

A job is `"module:Class"`, whose `on_devices()` takes no arguments, trains something
and returns a dict name -> array. All jobs of a test run are done in one start of the
processes of a way (`run`); each process executes this file.
"""

import contextlib
import importlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import time
import traceback

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
WAYS = {
    "jax": {"devices": "4 virtual devices", "processes": "2 processes"},
    "tensorflow": {"mirrored": "2 mirrored replicas", "workers": "2 workers"},
    "torch": {"processes": "2 processes under torchrun"},
}
PROCESSES = {"processes": 2, "workers": 2}  # that do the same, each its part


# The side that starts


def run(way, jobs, folder, backend, python=sys.executable):
    """Does the jobs in the processes of one way.

    Args:
        way: a key of `WAYS[backend]`, or `"one"` for one device.
        jobs: list of jobs.
        folder: `pathlib.Path` of an empty folder, for what the processes say.
        backend: name of the backend.
        python: the interpreter of the processes.

    Returns:
        dict job -> (dict name -> `(shape, list of numbers)`, or a text that says what
        went wrong; the process-seconds that it took).

    Raises:
        RuntimeError: with the end of what they said, where the processes failed.
    """
    path = folder / "result.json"
    children, logs = [], []
    try:
        for command, variables in _commands(way, [str(path), *jobs], backend, python):
            logs.append(folder / f"{len(logs)}.log")
            with open(logs[-1], "w") as log:
                own = {"PYTHONPATH": str(ROOT), "KERAS_BACKEND": backend, **variables}
                children.append(
                    subprocess.Popen(
                        command,
                        cwd=ROOT,
                        env={**os.environ, **own},
                        stdout=log,
                        stderr=subprocess.STDOUT,
                    )
                )
        limit = 600 + 120 * len(jobs)  # for a machine that does other work too
        ended = [child.wait(timeout=limit) for child in children]
    except subprocess.TimeoutExpired:
        ended = [f"more than {limit} s"]
    finally:
        for child in children:
            child.kill()
            child.wait()
    if any(ended):
        said = "\n".join(log.read_text(errors="replace")[-3000:] for log in logs)
        raise RuntimeError(f"{backend}, {way}: ended with {ended}\n{said}")
    return json.loads(path.read_text())


def _commands(way, arguments, backend, python):
    """The processes to start: `(command, variables)` of each."""
    program = [python, __file__, way]
    if backend == "torch" and way == "processes":
        launcher = [python, "-m", "torch.distributed.run", "--standalone"]
        return [([*launcher, "--nproc-per-node=2", __file__, way, *arguments], {})]
    if way == "devices":
        flags = os.environ.get("XLA_FLAGS", "")
        flags = f"{flags} --xla_force_host_platform_device_count=4".strip()
        return [([*program, *arguments], {"XLA_FLAGS": flags})]
    if way == "processes":
        (port,) = _free_ports(1)
        return [
            ([*program, *arguments], {"KG_TEST_PROCESS": f"{index} 2 {port}"})
            for index in range(2)
        ]
    if way == "workers":
        cluster = {"worker": [f"127.0.0.1:{port}" for port in _free_ports(2)]}
        tasks = [{"type": "worker", "index": index} for index in range(2)]
        return [
            (
                [*program, *arguments],
                {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})},
            )
            for task in tasks
        ]
    return [([*program, *arguments], {})]


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


# The side that trains


def main(way, path, *jobs):
    scope = _divided(way)
    from keras_genai import backend

    results = {}
    for job in jobs:
        began = time.process_time()
        try:
            with scope():
                result = _plain(find(job).on_devices())
        except Exception:
            result = traceback.format_exc()
        seconds = time.process_time() - began
        results[job] = result, seconds * PROCESSES.get(way, 1)
    if backend.is_main_process():
        pathlib.Path(path).write_text(json.dumps(results))


def find(job):
    """The class of a job `"module:Class"`."""
    module, _, name = job.partition(":")
    return getattr(importlib.import_module(module), name)


def _plain(result):
    import numpy as np

    arrays = {name: np.asarray(array, "float64") for name, array in result.items()}
    return {n: (list(a.shape), a.ravel().tolist()) for n, a in arrays.items()}


def _divided(way):
    """Sets the devices up as the README tells users to; a function -> the scope."""
    if os.environ["KERAS_BACKEND"] == "jax" and way != "one":
        import keras

        if way == "processes":
            import jax

            index, count, port = map(int, os.environ["KG_TEST_PROCESS"].split())
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
            keras.distribution.initialize(f"127.0.0.1:{port}", count, index)
        devices = keras.distribution.list_devices("cpu")
        keras.distribution.set_distribution(
            keras.distribution.DataParallel(devices=devices)
        )
    if way == "mirrored":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * 2
        )
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope
    if way == "workers":
        import tensorflow as tf

        return tf.distribute.MultiWorkerMirroredStrategy().scope
    return contextlib.nullcontext


if __name__ == "__main__":
    main(*sys.argv[1:])
