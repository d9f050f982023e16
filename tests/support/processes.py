"""The checks that need other processes, for one model of each family, by one call:

    TestCGANProcesses = processes.battery(factory, batch, ranges={"labels": (0, 3)})

A run is killed again and again and resumed; several devices or processes train as one
does; every signature leaves as a SavedModel that TensorFlow runs alone, and as an ONNX
file that ONNX Runtime runs. All of it starts from one training in this process.

`factory` and `batch` are as in `tests/support/conformance.py`; child processes import
the module that makes the call. What is dear is started once in a test run, when a test
first needs it: the TensorFlow worker, and the processes of each way to divide a
training, which do the jobs of all batteries.
"""

import contextlib
import functools
import importlib.util
import json
import os
import pathlib
import random
import subprocess
import sys
import time
import types
from collections.abc import Callable

import keras
import numpy as np
import pytest

import keras_genai as kg
from keras_genai import backend
from keras_genai.export import child
from tests.support import conformance, spent
from tests.support.conformance import (
    BACKEND,
    THOROUGH,
    assert_golden,
    host,
    in_turn,
    release,
)
from tests.support.short_run import StopAt
from tests.support.train_on_devices import ROOT, WAYS, run

# Twenty by `tools/test.py --thorough`, of every class on every backend; every test run
# kills one class on each.
KILLS = 20 if THOROUGH else 1
KILLED = {
    "tensorflow": "TestCNNProcesses",
    "jax": "TestCGANProcesses",
    "torch": "TestGPTProcesses",
}
# Exceptions of the other transformers.
BY_GPT = {
    "killed": "GPT is killed for all transformers.",
    "devices": "GPT is trained on devices for all transformers.",
}
EPOCHS = 3
STEPS = 7
# Of parts of different sizes where a backend can divide so; four devices on JAX.
BATCH = 8 if BACKEND == "jax" else 5
RANGES = {"seed": (0, 1000), "n": (2, 6)}
SIZES = (1, 4)  # what is free in a signature
CONVERTERS = {"tensorflow": "tf2onnx", "jax": "tf2onnx", "torch": "onnxscript"}


def state(model):
    """Copies of every variable of the model and its optimizer, and the last losses."""
    variables = [*model.variables, *model.optimizer.variables]
    history = model.history.history.items()
    losses = [steps[-1] for name, steps in history if not name.startswith("val_")]
    return [*(host(v.value) for v in variables), np.array(losses)]


def _generated(model, seed):
    return model.generate(4, seed=seed)


class Runs:
    """The model of a battery, and its trainings."""

    def __init__(self, factory, batch, compile, weighted, sample=None):
        self._factory, self._batch = factory, batch
        self._sample = sample or _generated
        self._compile, self._weighted = compile, weighted

    def fit(self, epochs=EPOCHS, callbacks=(), validate=False):
        """A new model, trained on a few batches."""
        model = self._factory()
        model.compile(**self._compile())
        x, condition = self._batch(STEPS * BATCH)
        weights = conformance.uniform("weights", (STEPS * BATCH,), 0.0, 1.0)
        if validate:
            held_out = conformance.rows((x, condition), 0, 2 * BATCH)
        model.fit(
            x,
            condition,
            sample_weight=weights if self._weighted else None,
            batch_size=BATCH,
            epochs=epochs,
            callbacks=list(callbacks),
            validation_data=held_out if validate else None,
            verbose=0,
        )
        return model

    def results(self):
        """What must be the same however a training is divided, by name."""
        model = self.fit(validate=True)
        x, condition = conformance.rows(self._batch(2 * BATCH), 0, 2 * BATCH)
        evaluated = model.evaluate(
            x, condition, batch_size=BATCH, verbose=0, return_dict=True
        )
        variables = {"weights": model.variables, "state": model.optimizer.variables}
        return model, {
            **model.history.history,
            **{f"evaluated {name}": value for name, value in evaluated.items()},
            **{
                name: np.concatenate([host(v.value).ravel() for v in group])
                for name, group in variables.items()
            },
            "samples": self._sample(model, 1),
        }

    @functools.cached_property
    def whole(self):
        """The training on one device, in this process: `(model, results)`."""
        return self.results()


# Jobs for several devices


def job(item):
    """What other processes call the class of a test: `"module:Class"`."""
    module = item.path.relative_to(ROOT).with_suffix("").parts
    return f"{'.'.join(module)}:{item.parent.name}"


@functools.cache
def _divided(way, jobs, folder):
    folder.mkdir()
    with spent.shared():
        return run(way, jobs, folder, BACKEND)


def divided(request, way, folder):
    """What the class of the present test gave when its training was divided.

    The first call for a way does it for all tests of the run.
    """
    items = request.session.items
    name = f"test_devices[{way}]"
    jobs = {job(each) for each in items if each.name == name}
    answers = _divided(way, tuple(sorted(jobs)), folder / way)
    result, seconds = answers[job(request.node)]
    spent.tell(seconds)
    assert isinstance(result, dict), result
    return {name: np.reshape(data, shape) for name, (shape, data) in result.items()}


class OnDevices:
    """Several devices or processes train as one does on the same global batches.

    A subclass has `on_devices()`, which other processes call, and `reference()`, both
    static: a dict name -> array. It is run in one way of all backends' ways, in turn
    over the classes, and in all where `every_way` is set and by `tools/test.py
    --thorough`.
    """

    tolerance = conformance.TOLERANCE
    every_way = False

    @classmethod
    def ways(cls, name):
        """The ways in which the class of that name is run."""
        if cls.every_way or THOROUGH:
            return list(WAYS[BACKEND])
        ways = [(b, way) for b in WAYS for way in WAYS[b]]
        backend, way = in_turn(name, ways)
        return [way] if backend == BACKEND else []

    @pytest.mark.processes
    @pytest.mark.timeout(0)  # `run` has its own, for the jobs of all tests
    def test_devices(self, way, request, device_folder):
        got = divided(request, way, device_folder)
        for name, reference in self.reference().items():
            assert_golden(got[name], reference, name, self.tolerance)


# TensorFlow alone


class Worker:
    """A process that answers each line of JSON with one; it is started now.

    Args:
        program: file of the folder of this one, which runs.
        folder: `pathlib.Path` of a folder for what it says and is given.
        variables: of its environment, beside this process's.
    """

    def __init__(self, program, folder, variables):
        self.folder, self.count = folder, 0
        self.log = open(folder / "stderr.txt", "w+")
        self.process = subprocess.Popen(
            [sys.executable, str(pathlib.Path(__file__).with_name(program))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env={**os.environ, **variables},
            text=True,
        )

    def ask(self, request):
        """The answer to a request, dicts of what JSON holds; a test fails by an
        answer that has an `"error"`."""
        try:
            print(json.dumps(request), file=self.process.stdin, flush=True)
            answer = json.loads(self.process.stdout.readline())
        except (OSError, json.JSONDecodeError):
            self.log.seek(0)
            pytest.fail(f"A worker has ended.\n{self.log.read()[-3000:]}")
        spent.tell(answer["seconds"])
        if "error" in answer:
            pytest.fail(answer["error"], pytrace=False)
        return answer

    def close(self):
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        with spent.shared():
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process.stdout.close()
        self.log.close()


class TensorFlowWriter(Worker):
    """Writes exports as `keras_genai.export.child.run` does, in one process for all."""

    def __init__(self, folder):
        variables = {"PYTHONPATH": str(ROOT), **child.VARIABLES}
        super().__init__("tensorflow_writer.py", folder, variables)


class TensorFlowAlone(Worker):
    """Runs SavedModels where there is nothing but TensorFlow."""

    def __init__(self, folder):
        variables = {"CUDA_VISIBLE_DEVICES": "-1"}
        super().__init__("tensorflow_alone.py", folder, variables)

    def serve(self, folder, calls):
        """Calls signatures of a SavedModel.

        Args:
            folder: of the SavedModel.
            calls: list of `(signature, dict name -> array)`.

        Returns:
            `(names, outputs)`: the signatures that it has, in order of the alphabet;
            a dict name -> array for each call.
        """
        self.count += 1
        path = self.folder / f"{self.count}.npz"
        inputs = enumerate(inputs for _, inputs in calls)
        np.savez(path, **{f"{i}/{n}": a for i, own in inputs for n, a in own.items()})
        names = [name for name, _ in calls]
        answer = self.ask({"folder": str(folder), "calls": names, "arrays": str(path)})
        outputs = [{} for _ in calls]
        with np.load(path) as stored:
            for key, array in stored.items():
                number, _, name = key.partition("/")
                outputs[int(number)][name] = array
        path.unlink()
        return answer["signatures"], outputs


# Signatures


class Call:
    """One call of a signature, with what the model gives in this process.

    Args:
        model: the model.
        name: of the signature.
        size: what is free in the shapes of its inputs.
        ranges: dict name of an input -> `(low, high)`.
    """

    def __init__(self, model, name, size, ranges):
        fn, declared = model.export_signatures()[name]
        self.name = name
        self.inputs = {
            key: _draw(key, [size if n is None else n for n in shape], dtype, ranges)
            for key, shape, dtype in declared
        }
        # As the function stands: compiled, `n` could not be a tensor.
        plain = backend.jit(fn, model.variables, compiled=False)
        tensors = map(keras.ops.convert_to_tensor, self.inputs.values())
        self.wanted = {key: host(x) for key, x in plain(*tensors).items()}

    def check(self, got, what):
        """Raises where outputs (dict name -> array) differ from this process's."""
        assert set(got) == set(self.wanted), what
        for key, wanted in self.wanted.items():
            # Networks this small make faint images: measured by their own size.
            scale = max(1e-6, np.abs(wanted).max())
            assert_golden(got[key] / scale, wanted / scale, f"{what}: {key}")


def _draw(name, shape, dtype, ranges):
    """An input of a signature, the same everywhere."""
    whole = np.issubdtype(dtype, np.integer)
    if whole and name not in ranges:
        raise ValueError(
            f"The battery does not know which integers the input {name!r} takes: give "
            f"ranges={{{name!r}: (low, high)}}, high excluded."
        )
    low, high = ranges.get(name, (-1.0, 1.0))
    if whole:
        drawn = low + conformance.integers(f"processes/{name}", shape, high - low)
    else:
        drawn = conformance.uniform(f"processes/{name}", shape, low, high)
    return np.asarray(drawn, dtype)


# The battery


class Battery(OnDevices):
    """The checks; `battery` makes the subclass of a model."""

    runs: Runs
    ranges: dict
    sizes: tuple
    methods: dict
    onnx: tuple | None
    exceptions: dict

    @pytest.fixture(scope="class", autouse=True)
    def _release(self):
        """The models of a battery go with its last check."""
        yield
        release(self.runs)

    @pytest.fixture(autouse=True)
    def _skip_exceptions(self, request):
        name = request.node.originalname.removeprefix("test_")
        if name in self.exceptions:
            pytest.skip(self.exceptions[name])

    @classmethod
    def on_devices(cls):
        return cls.runs.results()[1]

    def reference(self):
        return self.runs.whole[1]

    @pytest.mark.slow
    @pytest.mark.processes
    def test_killed(self, request, tmp_path):
        """SIGKILL in mid-epoch, then to the end; by `--thorough` again and again."""
        if not THOROUGH and KILLED[BACKEND] != request.node.parent.name:
            pytest.skip("Another class is killed on this backend; all by --thorough.")
        epochs = max(EPOCHS, KILLS)
        choose = random.Random(0)
        path, result = tmp_path / "run.npz", tmp_path / "result.npz"
        command = [sys.executable, "-m", "tests.support.killed_run", job(request.node)]
        command += [str(path), str(result), str(epochs)]

        def start():
            return subprocess.Popen(
                command,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

        for _ in range(KILLS):
            child = start()
            seen, wanted = 0, choose.randint(3, 9)
            for line in child.stdout:
                seen += line.startswith("batch")
                if seen == wanted:
                    time.sleep(choose.uniform(0.0, 0.02))
                    child.kill()
                    break
            _, errors = child.communicate()
            assert not result.exists() and seen == wanted, errors[-3000:]
        child = start()
        output, errors = child.communicate()
        assert child.returncode == 0, errors[-3000:]
        assert "Resuming from" in output
        whole = self.runs.whole[0] if epochs == EPOCHS else self.runs.fit(epochs)
        with np.load(result) as resumed:
            pairs = list(zip(resumed.values(), state(whole), strict=True))
        for ours, theirs in pairs:
            np.testing.assert_array_equal(ours, theirs)

    def test_interrupted(self, tmp_path):
        """Cut off in mid-epoch in this process, where a kill was not to be paid for."""
        if "killed" in self.exceptions:
            pytest.skip(self.exceptions["killed"])
        if BACKEND != "torch":
            pytest.skip("What is stored is the same; the step is compiled twice more.")

        def resume():
            return kg.callbacks.Resume(tmp_path / "run.npz", every=2)

        with pytest.raises(KeyboardInterrupt):
            self.runs.fit(callbacks=[resume(), StopAt(1, 3)])
        resumed = self.runs.fit(callbacks=[resume()])
        pairs = zip(state(resumed), state(self.runs.whole[0]), strict=True)
        for ours, theirs in pairs:
            np.testing.assert_array_equal(ours, theirs)

    def _calls(self, names):
        """Calls of signatures, checked against the methods that they stand for."""
        model = self.runs.whole[0]
        calls = [
            Call(model, name, n, self.ranges) for name in names for n in self.sizes
        ]
        for call in calls:
            if call.name in self.methods:
                given = host(self.methods[call.name](model, **call.inputs))
                (key,) = call.wanted
                call.check({key: given}, f"{call.name}, by the model's method")
        return calls

    @pytest.mark.processes
    def test_savedmodel(self, request, tmp_path):
        """TensorFlow alone gives what the model gives, for every signature.

        From JAX and PyTorch one and the same child writes it: from either in turn.
        """
        name = f"served {job(request.node)}"
        others = ("jax", "torch")
        if not THOROUGH and BACKEND in others and in_turn(name, others) != BACKEND:
            pytest.skip("This class is exported from another backend.")
        request.getfixturevalue("kept_child")
        tensorflow_alone = request.getfixturevalue("tensorflow_alone")
        model = self.runs.whole[0]
        model.export(tmp_path / "served")
        signatures = list(model.export_signatures())
        assert set(self.methods) <= set(signatures), "methods of no signature"
        calls = self._calls(signatures)
        asked = [(call.name, call.inputs) for call in calls]
        asked.append(("serving_default", calls[0].inputs))
        names, outputs = tensorflow_alone.serve(tmp_path / "served", asked)
        assert names == sorted([*signatures, "serving_default"])
        for call, got in zip(calls, outputs, strict=False):
            call.check(got, call.name)
        for key, array in outputs[0].items():
            np.testing.assert_array_equal(outputs[-1][key], array)

    @pytest.mark.processes
    def test_onnx(self, request, tmp_path):
        """ONNX Runtime gives what the model gives; from one backend, in turn."""
        name = f"onnx {job(request.node)}"
        if not THOROUGH and in_turn(name, list(WAYS)) != BACKEND:
            pytest.skip("This class becomes ONNX on another backend.")
        request.getfixturevalue("kept_child")
        onnxruntime = pytest.importorskip("onnxruntime")
        if importlib.util.find_spec(CONVERTERS[BACKEND]) is None:
            pytest.skip(f"{CONVERTERS[BACKEND]} is not installed")
        model = self.runs.whole[0]
        signatures = model.export_signatures()
        # From JAX what TensorFlow would write is written: one is enough to see that.
        few = BACKEND == "jax" and not THOROUGH
        names = list(self.onnx or signatures)[: 1 if few else None]
        for name in names:
            path = tmp_path / "made" / f"{name}.onnx"
            model.export(path, format="onnx", signature=name)
            session = onnxruntime.InferenceSession(str(path))
            found = {x.name: x.shape for x in session.get_inputs()}
            _, declared = signatures[name]
            assert list(found) == [key for key, _, _ in declared]
            for key, shape, _ in declared:
                free = [isinstance(n, str) for n in found[key]]
                assert free == [n is None for n in shape], f"{name}: {key}"
                assert not shape or shape[0] is not None or found[key][0] == "batch"
            keys = [x.name for x in session.get_outputs()]
            for call in self._calls([name]):
                got = dict(zip(keys, session.run(None, call.inputs), strict=True))
                call.check(got, f"{name} in ONNX Runtime")
        assert len(list((tmp_path / "made").iterdir())) == len(names)


CHECKS = ("devices", "killed", "savedmodel", "onnx")


def battery(
    factory: Callable,
    batch: Callable,
    *,
    compile: Callable = dict,
    weighted: bool = True,
    sample: Callable | None = None,
    ranges: dict | None = None,
    sizes: tuple = SIZES,
    methods: dict | None = None,
    onnx: tuple | None = None,
    exceptions: dict | None = None,
):
    """The class of process checks of one model, for pytest to collect.

    Args:
        factory: function -> a fresh, uncompiled, tiny model.
        batch: function n -> `(x, condition)`, NumPy arrays of n samples; None for no
            condition.
        compile: function -> the arguments of `compile`, with new optimizers.
        weighted: whether the model trains with sample weights.
        sample: as in `tests/support/conformance.py`.
        ranges: dict name of a signature's input -> `(low, high)`, high excluded, of
            the numbers that it takes; by default (-1, 1) for floats, and for integers
            what `seed` and `n` take.
        sizes: what stands for the free sizes of a signature, one after the other.
        methods: dict signature of one output -> function `(model, **inputs)` of NumPy
            arrays that gives the same by the model's own method.
        onnx: the signatures to try as ONNX files; by default all.
        exceptions: dict check -> reason, for checks that are not run for this model.

    Returns:
        A class; its name in the test module must begin with `Test`.
    """
    exceptions = dict(exceptions or {})
    for check, reason in exceptions.items():
        if check not in CHECKS or not (isinstance(reason, str) and reason.strip()):
            raise ValueError(
                f"exceptions must give reasons for checks of {', '.join(CHECKS)}; got "
                f"{check!r}: {reason!r}."
            )
    return types.new_class(
        "TestProcesses",
        (Battery,),
        exec_body=lambda body: body.update(
            runs=Runs(factory, batch, compile, weighted, sample),
            ranges={**RANGES, **(ranges or {})},
            sizes=sizes,
            methods=dict(methods or {}),
            onnx=onnx,
            exceptions=exceptions,
        ),
    )
