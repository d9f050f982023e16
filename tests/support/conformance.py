"""The battery that every model passes, by one call:

    TestDCGAN = conformance.battery("dcgan", factory, batch)

`factory()` makes a fresh, uncompiled model with fewer than 50,000 parameters,
`batch(n)` the first n samples `(x, condition)` as NumPy arrays (drawn by
`backend.random` on the host, which is the same everywhere). pytest then reports each
check of each model by name. A check that a model cannot meet is listed with its
reason, `exceptions={"gradients": "..."}`, and shown as skipped with that reason.

The golden losses and samples are in `tests/golden/`, written by `tools/golden.py`.
"""

import contextlib
import copy
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import tempfile
import types
import zlib
from collections.abc import Callable

import keras
import numpy as np
import pytest
from keras.src.backend.common import dtypes

import keras_genai as kg
from keras_genai import backend

BACKEND = keras.backend.backend()
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# What every run does on one backend or once, `tools/test.py --thorough` does on all.
THOROUGH = bool(os.environ.get("KG_THOROUGH"))
TOLERANCE = 1e-4  # |difference| <= 1e-4 max(1, |reference|)
MAX_PARAMETERS = 50_000
BATCH = 8
STEPS = 5
SAVED_AFTER = 3
EAGER = 2
SAMPLES = 2
# TensorFlow takes seven seconds to trace a step, and half a second to run it eagerly:
# what compiled steps do is held by the golden losses and under float16.
RESUMES_EAGERLY = BACKEND == "tensorflow" and not THOROUGH


_UNCOMPILED = "Runs without a compiler, on PyTorch; elsewhere by --thorough."
BACKEND_EXCEPTIONS = {
    "torch": {
        "no_retrace": "PyTorch runs the step eagerly: there is nothing to retrace."
    }
}


def in_turn(name, choices):
    """One of the choices, another for another name, the same in every run."""
    return choices[zlib.crc32(name.encode()) % len(choices)]


# What compiles a step once more, in groups that share what is compiled. Of a family's
# first battery PyTorch checks all of it, and one of the two backends that compile, or
# neither, each group, in turn over names and groups; of a variant PyTorch alone. All
# else of a variant is checked by PyTorch and one of the two, in turn over variants.
_COMPILED_AGAIN = (
    ("evaluate",),
    ("run_eagerly",),
    ("no_retrace", "generate_does_not_retrace", "optimizer_settings"),
    ("mixed_float16",),
    ("mixed_bfloat16",),
)
_OTHER = "Run on PyTorch, and elsewhere in turn over the families or by --thorough."


def _left_out(name, variant):
    """dict check -> reason: what an ordinary run leaves to another backend."""
    if THOROUGH or BACKEND == "torch":
        return {}
    if variant and in_turn(name, ("tensorflow", "jax")) != BACKEND:
        return dict.fromkeys(CHECKS, _OTHER)
    reasons = {"phases": _UNCOMPILED, "gradients": _UNCOMPILED}
    for group in _COMPILED_AGAIN:
        turn = in_turn(f"{name} {group[0]}", ("tensorflow", "jax", "torch"))
        if variant or turn != BACKEND:
            reasons |= dict.fromkeys(group, _OTHER)
    return reasons


# Golden files


GOLDENS = {}


@dataclasses.dataclass(frozen=True)
class Golden:
    """Committed numbers, with a hash of the configuration that they belong to.

    Args:
        name: of the file `tests/golden/<name>.json`.
        configuration: function -> JSON: all that the numbers follow from.
        compute: function -> dict name -> array.
    """

    name: str
    configuration: Callable
    compute: Callable

    def __post_init__(self):
        GOLDENS[self.name] = self

    @property
    def path(self):
        return ROOT / "tests" / "golden" / f"{self.name}.json"

    def digest(self):
        text = json.dumps(self.configuration(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def read(self):
        """The committed arrays; fails where they are of another configuration."""
        command = f"KERAS_BACKEND=jax python tools/golden.py {self.name}"
        if not self.path.exists():
            pytest.fail(f"{self.path} is missing. Write it: {command}")
        stored = json.loads(self.path.read_text("utf-8"))
        if stored["configuration"] != self.digest():
            pytest.fail(
                f"{self.path} was made from another configuration of {self.name}. If "
                f"the change is wanted, write it anew and say why in the commit: "
                f"{command}"
            )
        return {
            name: np.array(item["values"], "float64").reshape(item["shape"])
            for name, item in stored["arrays"].items()
        }

    def sign(self):
        """Writes the present configuration's hash beside the committed numbers.

        Returns:
            Whether it is another.

        Raises:
            AssertionError: computed now, a number misses the committed one.
        """
        text = self.path.read_text("utf-8")
        stored = json.loads(text)
        before, now = stored["configuration"], self.digest()
        if before == now:
            return False
        made = self.compute()
        assert set(made) == set(stored["arrays"]), f"{self.name} has other arrays"
        for name, item in stored["arrays"].items():
            committed = np.array(item["values"], "float64").reshape(item["shape"])
            assert_golden(made[name], committed, f"{self.name}: {name}")
        self.path.write_text(text.replace(before, now), "utf-8")
        return True

    def write(self):
        """Computes the arrays and writes the file."""
        arrays = {
            name: {
                "shape": list(np.shape(array)),
                "values": [float(f"{x:.7g}") for x in np.ravel(array)],
            }
            for name, array in self.compute().items()
        }
        lines = ",\n  ".join(
            f"{json.dumps(name)}: {json.dumps(item)}" for name, item in arrays.items()
        )
        self.path.parent.mkdir(exist_ok=True)
        self.path.write_text(
            f'{{"backend": {json.dumps(BACKEND)},\n'
            f' "configuration": {json.dumps(self.digest())},\n'
            f' "arrays": {{\n  {lines}}}}}\n',
            "utf-8",
        )


def assert_golden(got, reference, what, tolerance=TOLERANCE):
    """`|got - reference| <= tolerance max(1, |reference|)`, element by element."""
    got, reference = np.asarray(got, "float64"), np.asarray(reference, "float64")
    assert got.shape == reference.shape, f"{what}: {got.shape}, not {reference.shape}"
    error = np.abs(got - reference) / np.maximum(1.0, np.abs(reference))
    assert np.all(error <= tolerance), (
        f"{what}: off by {np.nanmax(error):.3g}, more than {tolerance:.3g}.\n"
        f"got       {got.ravel()[:12]}\nreference {reference.ravel()[:12]}"
    )


def describe(model, *arrays):
    """What the numbers of a compiled model follow from, as JSON: for `Golden`.

    Without Keras's entries that are None, those that say where a class lives, and
    names, which depend on how many models the process has made.
    """
    data = [np.ascontiguousarray(a) for a in arrays if a is not None]
    return {
        "model": type(model).__name__,
        "config": _plain(model.get_config()),
        "compile": _plain(model.get_compile_config()),
        "variables": [[list(v.shape), str(v.dtype)] for v in model.variables],
        "data": [hashlib.sha256(a.tobytes()).hexdigest() for a in data],
    }


_NOT_DESCRIBED = {
    "name",
    "inbound_nodes",
    "input_layers",
    "output_layers",
    "module",
    "registered_name",
    "build_config",
    "dtype",
    "jit_compile",
    "run_eagerly",
    "steps_per_execution",
}


def _plain(item):
    if isinstance(item, dict):
        return {
            str(key): _plain(value)
            for key, value in item.items()
            if value is not None and key not in _NOT_DESCRIBED
        }
    if isinstance(item, list | tuple):
        return [_plain(x) for x in item]
    return item.item() if isinstance(item, np.generic) else item


# Parts of the checks


def host(x):
    """A copy in NumPy."""
    return np.array(backend.to_host(x))


def uniform(name, shape, low=-1.0, high=1.0):
    """Data for a battery: uniform numbers that are the same everywhere."""
    key = backend.random.key(0, f"conformance/{name}")
    return backend.random.uniform(key, shape, low, high, host=True)


def integers(name, shape, high):
    """Data for a battery: integers in [0, high) that are the same everywhere."""
    key = backend.random.key(0, f"conformance/{name}")
    return host(backend.random.randint(key, shape, 0, high))


def state(model):
    """Every variable that a saved model holds, in one list."""
    optimizer = model.optimizer.variables if model.compiled else []
    return [*model.variables, *optimizer, *model.metrics_variables]


def values(variables):
    """Copies of the values, by the variable's id."""
    return {id(v): host(v.value) for v in variables}


def restore(variables, stored):
    for variable in variables:
        variable.assign(stored[id(variable)])


def same_bits(a, b):
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


def assert_same_state(model, reference):
    """Every variable has the bits that are in the list `reference`."""
    pairs = list(zip(state(model), reference, strict=True))
    differing = [v.path for v, array in pairs if not same_bits(host(v.value), array)]
    assert not differing, f"{len(differing)} of {len(pairs)} differ: {differing}"


@contextlib.contextmanager
def policy(name):
    """Another dtype policy, and then the old one."""
    old = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(old)


def _jax_float64():
    """JAX has float64 only where it is asked for."""
    if BACKEND != "jax":
        return contextlib.nullcontext()
    import jax

    return jax.enable_x64(True)


@contextlib.contextmanager
def float64():
    """All in float64, and then the old types."""
    # Keras promotes float64 to float64 on TensorFlow alone: elsewhere its means and
    # products would pass through float32.
    rounded, old = dtypes.BIT64_TO_BIT32_DTYPE, keras.config.floatx()
    # The policy first: the default one, where nobody has asked for it yet, is of the
    # floatx at that moment.
    with policy("float64"), pytest.MonkeyPatch.context() as patch, _jax_float64():
        keras.config.set_floatx("float64")
        try:
            patch.setitem(rounded, "float64", "float64")
            yield
        finally:
            keras.config.set_floatx(old)


def rows(data, start, stop):
    """Samples `start` to `stop` of `(x, condition)`."""
    return tuple(
        None
        if part is None
        else keras.tree.map_structure(lambda a: a[start:stop], part)
        for part in data
    )


def train(model, data, first, last):
    """The logs of steps `first` to `last`, each on its own batch, by name."""
    logs = [
        model.train_on_batch(
            *rows(data, step * BATCH, (step + 1) * BATCH), return_dict=True
        )
        for step in range(first, last)
    ]
    return {name: np.array([log[name] for log in logs]) for name in logs[0]}


def without_branches(model, always=False):
    """Replaces `model.every` by a choice in Python, so that no branch is traced."""

    def every(interval, fn, otherwise, phase=0):
        due = always or int(host(model.noise.step.value)) % interval == phase
        return fn() if due else otherwise()

    model.every = every


def noise_steps(model):
    """The counters of noise that belong to no player: augmentations draw by them."""
    players = {id(v) for net in model.players.values() for v in net.variables}
    counters = [
        layer.step
        for layer in model._flatten_layers()
        if isinstance(layer, backend.random.Noise)
    ]
    return {id(v) for v in counters} - players


@dataclasses.dataclass
class Phase:
    """One call of `minimize`: what every variable was before and after."""

    player: str
    before: dict
    after: dict
    gradients: list  # (variable, gradient)


def record_phases(model, monkeypatch):
    """Makes `minimize` record a `Phase` at each call; returns the growing list."""
    phases, gradients = [], []
    minimize, apply = model.minimize, backend.apply_gradients

    def recording_apply(optimizer, gradients_, variables):
        gradients[:] = [
            (v, host(g)) for v, g in zip(variables, gradients_, strict=True)
        ]
        apply(optimizer, gradients_, variables)

    def recording_minimize(player, loss_fn, *batch):
        before = values(model.variables)
        loss = minimize(player, loss_fn, *batch)
        phases.append(Phase(player, before, values(model.variables), gradients[:]))
        return loss

    monkeypatch.setattr(backend, "apply_gradients", recording_apply)
    monkeypatch.setattr(model, "minimize", recording_minimize)
    return phases


def changed(before, after):
    return {key for key in before if not same_bits(before[key], after[key])}


def count_calls(fn, counts):
    @functools.wraps(fn)
    def counted(*args, **kwargs):
        counts.append(1)
        return fn(*args, **kwargs)

    return counted


# Gradients


def gradient_errors(model, data, prepare=None):
    """Every player's directional derivatives against central differences.

    At a point beside the initial weights: there, biases are zero, and a cut-out
    region lies exactly on the kink of a rectifier.

    Args:
        model: in float64, compiled.
        data: `(x, condition)`.
        prepare: optional function of the model, called at that point.

    Returns:
        dict player -> list of errors, each relative to the root of the sum of the
        squared terms of its derivative.
    """
    draw = np.random.default_rng(0)

    def sizes(variables):
        return [max(float(np.std(host(v.value))), 0.05) for v in variables]

    def directions(variables):
        return [
            size * draw.standard_normal(v.shape)
            for v, size in zip(variables, sizes(variables), strict=True)
        ]

    trainable = model.trainable_variables
    for variable, step in zip(trainable, directions(trainable), strict=True):
        variable.assign(host(variable.value) + 0.3 * step)
    if prepare is not None:
        prepare(model)
    errors = {}

    def probe(player, loss_fn, *batch):
        loss_fn = functools.partial(loss_fn, *batch)
        variables = model.players[player].trainable_variables
        # The loss moves statistics and noise; each evaluation begins with the same.
        point = values(model.variables)

        def loss_at(step, direction):
            restore(model.variables, point)
            for v, d in zip(variables, direction, strict=True):
                v.assign(point[id(v)] + step * d)
            return float(host(loss_fn()))

        loss, gradients = backend.value_and_gradients(loss_fn, variables)
        gradients = [host(g) for g in gradients]
        assert all(g.dtype == "float64" for g in gradients), "computed in less"
        errors[player] = []
        for _ in range(2):
            direction = directions(variables)
            terms = np.concatenate(
                [(g * d).ravel() for g, d in zip(gradients, direction, strict=True)]
            )
            h = 1e-6
            difference = (loss_at(h, direction) - loss_at(-h, direction)) / (2 * h)
            scale = np.sqrt(np.sum(terms**2))
            assert scale > 0, f"{player}: the gradient is zero"
            errors[player].append(abs(terms.sum() - difference) / scale)
        restore(model.variables, point)
        return loss

    model.minimize = probe
    without_branches(model, always=True)
    model.train_step((*data, None))
    return errors


# The battery


def _generated(model, seed):
    return model.generate(SAMPLES, seed=seed)


class Runs:
    """What several checks look at, made once: networks, steps and compilations."""

    def __init__(self, factory, batch, compile, sample=None):
        self._factory, self._batch, self._compile = factory, batch, compile
        self.sample = sample or _generated

    def fresh(self, **kwargs):
        """A new model, compiled."""
        model = self._factory()
        count = sum(net.count_params() for net in model.players.values())
        assert count < MAX_PARAMETERS, (
            f"The battery is for tiny networks, of fewer than {MAX_PARAMETERS:,} "
            f"parameters; the factory's have {count:,}."
        )
        model.compile(**{**self._compile(), **kwargs})
        return model

    @functools.cached_property
    def data(self):
        return self._batch(STEPS * BATCH)

    @functools.cached_property
    def trained(self):
        """Five steps on from a seed, saved on the way."""
        model = self.fresh()
        fresh = self.sample(model, 1)
        losses = train(model, self.data, 0, SAVED_AFTER)
        saved = Saved(model, self.sample)
        later = train(model, self.data, SAVED_AFTER, STEPS)
        losses = {name: np.concatenate([losses[name], later[name]]) for name in losses}
        return types.SimpleNamespace(
            model=model,
            saved=saved,
            state=[host(v.value) for v in state(model)],
            losses=losses,
            arrays={
                **{f"{name}": array for name, array in losses.items()},
                "generate: fresh": fresh,
                "generate: trained": self.sample(model, 1),
            },
        )

    @functools.cached_property
    def eager(self):
        """The first steps with `run_eagerly`, saved before the last."""
        model = self.fresh(run_eagerly=True)
        losses = train(model, self.data, 0, EAGER - 1)
        saved = Saved(model, self.sample) if RESUMES_EAGERLY else None
        later = train(model, self.data, EAGER - 1, EAGER)
        return types.SimpleNamespace(
            model=model,
            saved=saved,
            state=[host(v.value) for v in state(model)],
            losses={n: np.concatenate([losses[n], later[n]]) for n in losses},
        )

    @functools.cached_property
    def fitted(self):
        """Four calls of `fit` with the settings of the optimizers that change steps.

        Accumulation over four steps, clipping, a schedule; one batch twice, then three
        epochs of a whole and a partial batch, then two epochs of both.
        """
        model = self._factory()

        def optimizer():
            rate = keras.optimizers.schedules.ExponentialDecay(1e-2, 1, 0.9)
            return keras.optimizers.Adam(
                rate, clipnorm=1.0, gradient_accumulation_steps=4
            )

        names = list(model.players)
        one = len(names) == 1
        model.compile(
            **{"optimizer" if one else f"{n}_optimizer": optimizer() for n in names}
        )
        traces, weights, logs = [], [values(model.trainable_variables)], []
        model.train_step = count_calls(model.train_step, traces)
        counts = []
        partial = BATCH // 2
        for size, epochs in ((BATCH, 1), (BATCH, 1), (BATCH + partial, 3)):
            logs.append(self._fit(model, size, epochs))
            weights.append(values(model.trainable_variables))
            counts.append(len(traces))
        logs.append(self._fit(model, BATCH + partial, 2))
        counts.append(len(traces))
        return types.SimpleNamespace(
            model=model, weights=weights, traces=counts, logs=logs
        )

    def _fit(self, model, size, epochs):
        x, condition = rows(self.data, 0, size)
        return model.fit(
            x, condition, batch_size=BATCH, epochs=epochs, verbose=0
        ).history

    def mixed(self, name):
        """Five steps under a policy of mixed precision: `(model, losses)`."""
        with policy(name):
            eager = RESUMES_EAGERLY and name == "mixed_bfloat16"
            model = self.fresh(run_eagerly=eager)
            return model, train(model, self.data, 0, STEPS)


def release(runs):
    """Forgets what cached properties hold."""
    for name, item in vars(type(runs)).items():
        if isinstance(item, functools.cached_property):
            runs.__dict__.pop(name, None)


class Saved:
    """A model's file with what it should hold."""

    def __init__(self, model, sample):
        self.state = [host(v.value) for v in state(model)]
        self.samples = sample(model, 1)
        self.config = copy.deepcopy(model.get_compile_config())
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "model.keras"
            model.save(path)
            self.file = path.read_bytes()

    def load(self):
        """The model of the file, every variable compared to the bit."""
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "model.keras"
            path.write_bytes(self.file)
            model = kg.load_model(path)
        assert_same_state(model, self.state)
        assert as_json(model.get_compile_config()) == as_json(self.config)
        return model


def as_json(config):
    return json.loads(json.dumps(config))


class Battery:
    """The checks; `battery` makes the subclass of a model."""

    runs: Runs
    golden: Golden
    exceptions: dict
    prepare_gradients: Callable | None
    value_range: tuple
    sample_dtype: str

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

    # Steps

    def test_golden_losses(self):
        """Five steps from one seed give the committed losses."""
        reference = self.golden.read()
        for name, losses in self.runs.trained.losses.items():
            assert_golden(losses, reference[name], name)

    def test_golden_samples(self):
        """The same weights, and then the same steps, give the same samples."""
        reference, arrays = self.golden.read(), self.runs.trained.arrays
        for name in ("generate: fresh", "generate: trained"):
            # Networks this small make faint images: measured by their own size.
            scale = max(1e-6, np.abs(reference[name]).max())
            assert_golden(arrays[name] / scale, reference[name] / scale, name)

    def test_phases(self, monkeypatch):
        """Each player's phase changes its own variables, and only those."""
        model = self.runs.eager.model
        phases = record_phases(model, monkeypatch)
        monkeypatch.setattr(model, "every", None)
        without_branches(model)
        first = values(model.variables)
        train(model, self.runs.data, EAGER, 2 * EAGER)
        paths = {id(v): v.path for v in model.variables}
        counters = noise_steps(model) | {id(model.not_finite)}
        own = {
            name: {id(v) for v in net.variables} for name, net in model.players.items()
        }
        for name, net in model.players.items():
            if model.ema is not None and model.ema.follows(net):
                own[name] |= {id(v) for v in model.ema.variables}
        everyones = set().union(*own.values())
        assert {phase.player for phase in phases} == set(own), "a player had no phase"
        last = first
        with_gradient = set()
        for phase in phases:
            stray = changed(last, phase.before) & everyones
            assert not stray, f"changed between phases: {[paths[k] for k in stray]}"
            wrong = changed(phase.before, phase.after) - own[phase.player] - counters
            assert not wrong, (
                f"the phase of {phase.player} changed {[paths[k] for k in wrong]}"
            )
            with_gradient |= {id(v) for v, g in phase.gradients if np.any(g != 0)}
            last = phase.after
        stray = changed(last, values(model.variables)) & everyones
        assert not stray, f"changed after the phases: {[paths[k] for k in stray]}"
        # At the end and not after each phase: an optimizer may gather gradients.
        still = with_gradient - changed(first, last)
        assert not still, f"did not move: {[paths[k] for k in still]}"
        for name, net in model.players.items():
            assert with_gradient & {id(v) for v in net.trainable_variables}, name

    def test_run_eagerly(self):
        """Without compilation the losses are the same."""
        for name, losses in self.runs.eager.losses.items():
            assert_golden(losses, self.runs.trained.losses[name][:EAGER], name)

    def test_no_retrace(self):
        """The step is traced once for each shape of a batch, at most twice."""
        once, twice, epochs, again = self.runs.fitted.traces
        assert twice == once, "the same batch was traced again"
        assert epochs <= 2, f"{epochs} traces for a whole and a partial batch"
        assert again == epochs, "shapes already seen were traced again"

    def test_generate_does_not_retrace(self, monkeypatch):
        """`generate` with the same n is compiled once, whatever the weights."""
        if BACKEND == "torch":
            pytest.skip(BACKEND_EXCEPTIONS[BACKEND]["no_retrace"])
        model, traces = self.runs.fitted.model, []
        compiled = model.compiled_once

        def counted(name, fn, variables):
            return compiled(name, count_calls(fn, traces), variables)

        monkeypatch.setattr(model, "compiled_once", counted)
        first = self.runs.sample(model, 1)
        count = len(traces)
        assert count >= 1
        assert np.array_equal(self.runs.sample(model, 1), first)
        self.runs.sample(model, 2)
        assert len(traces) == count, "the same n was traced again"

    def test_optimizer_settings(self):
        """Accumulation, clipping and a schedule work for every player."""
        run = self.runs.fitted
        for logs in run.logs:
            for name, losses in logs.items():
                assert np.all(np.isfinite(losses)), f"{name} {losses}"
        start, one_step, _, end = run.weights
        assert not changed(start, one_step), "weights moved before the last gradient"
        moved = changed(start, end)
        for name, network in run.model.players.items():
            assert moved & {id(v) for v in network.trainable_variables}, name
            assert float(host(run.model.optimizers[name].learning_rate)) < 1e-2
        assert all(np.all(np.isfinite(array)) for array in end.values())

    def test_evaluate(self):
        """`evaluate` gives finite losses, the same again, and changes nothing."""
        model = self.runs.trained.model
        before = values(state(model))
        x, condition = rows(self.runs.data, 0, 2 * BATCH)

        def evaluate():
            return model.evaluate(
                x, condition, batch_size=BATCH, verbose=0, return_dict=True
            )

        logs = evaluate()
        assert set(logs) == set(self.runs.trained.losses)
        assert all(np.isfinite(value) for value in logs.values()), logs
        assert evaluate() == logs
        metrics = {id(v) for v in model.metrics_variables}
        assert not changed(before, values(state(model))) - metrics

    def test_weighted_evaluate(self):
        """With weights every mean is one over the data, whatever the batches."""
        if BACKEND != "torch":
            pytest.skip("What is compiled for each size is the same step on each.")
        model, count = self.runs.trained.model, BATCH
        x, condition = rows(self.runs.data, 0, count)
        weight = uniform("weights", (count,), 0.1, 3.0)
        weight[1:3] = 0.0

        def evaluate(size, rows_=slice(None), weight=weight):
            taken = [
                None
                if part is None
                else keras.tree.map_structure(lambda a: a[rows_], part)
                for part in (x, condition)
            ]
            return model.evaluate(
                *taken,
                sample_weight=None if weight is None else weight[rows_],
                batch_size=size,
                verbose=0,
                return_dict=True,
            )

        whole = evaluate(count)
        for size in (1, 5):
            for name, value in evaluate(size).items():
                assert_golden(value, whole[name], f"{name} in batches of {size}")
        alone = evaluate(count, slice(1), None)
        weight[1:] = 0.0
        for name, value in evaluate(3).items():
            assert_golden(value, alone[name], f"{name} of the sample that counts")

    # Saving

    def test_save(self):
        """A loaded model is the saved one to the bit, and so are its samples."""
        saved = self.runs.trained.saved
        np.testing.assert_array_equal(self.runs.sample(saved.load(), 1), saved.samples)

    def test_resume(self):
        """N steps, save, load and N more are the unbroken run to the bit."""
        if RESUMES_EAGERLY:
            run, after, end = self.runs.eager, EAGER - 1, EAGER
        else:
            run, after, end = self.runs.trained, SAVED_AFTER, STEPS
        model = run.saved.load()
        losses = train(model, self.runs.data, after, end)
        assert_same_state(model, run.state)
        for name, array in losses.items():
            np.testing.assert_array_equal(array, run.losses[name][after:])

    def test_config(self):
        """The configuration is JSON and makes the same model again."""
        model = self.runs.trained.model
        config = as_json(model.get_config())
        again = type(model).from_config(copy.deepcopy(config))
        assert as_json(again.get_config()) == config
        again = type(model).from_config(model.get_config())
        assert again.get_config() == model.get_config()
        shapes = [(tuple(v.shape), v.dtype) for v in model.variables]
        assert [(tuple(v.shape), v.dtype) for v in again.variables] == shapes

    def test_summary(self):
        """`summary()` names every player."""
        lines = []
        self.runs.trained.model.summary(print_fn=lines.append)
        for player in self.runs.trained.model.players.values():
            for network in getattr(player, "networks", [player]):
                assert network.name in "\n".join(lines)

    # Precision

    def _check_mixed(self, name):
        model, losses = self.runs.mixed(name)
        for loss, array in losses.items():
            reference = self.runs.trained.losses[loss]
            assert np.all(np.isfinite(array)), f"{loss} {array}"
            # An accuracy jumps by a sample where two logits are near each other.
            if not loss.endswith(("accuracy", *self.choices)):
                assert_golden(array, reference, loss, tolerance=0.05)
        for variable in model.trainable_variables:
            assert variable.dtype == "float32", variable.path
            assert np.all(np.isfinite(host(variable.value))), variable.path
        computed = {layer.compute_dtype for layer in model._flatten_layers()}
        assert name.removeprefix("mixed_") in computed, "computed in full precision"
        with policy(name):
            samples = self.runs.sample(model, 0)
            assert samples.dtype == self.sample_dtype
            assert np.all(np.isfinite(samples))
        return model

    def test_mixed_float16(self):
        """Under float16 every player has loss scaling of its own, and it is saved."""
        model = self._check_mixed("mixed_float16")
        optimizers = list(model.optimizers.values())
        assert len({id(optimizer) for optimizer in optimizers}) == len(model.players)
        for optimizer in optimizers:
            assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        saved = Saved(model, self.runs.sample)
        loaded = saved.load()  # under the policy float32: the file knows its own
        np.testing.assert_array_equal(self.runs.sample(loaded, 1), saved.samples)

    def test_mixed_bfloat16(self):
        self._check_mixed("mixed_bfloat16")

    def test_gradients(self):
        """Gradients agree with float64 central differences, penalties included."""
        with float64():
            model = self.runs.fresh(run_eagerly=True)
            data = rows(self.runs.data, 0, BATCH)
            errors = gradient_errors(model, data, self.prepare_gradients)
        assert set(errors) == set(model.players)
        for player, relative in errors.items():
            assert max(relative) <= 1e-5, f"{player}: {relative}"

    # Samples

    def test_generate(self):
        """Shapes, types and ranges; sample i depends on the seed and i alone."""
        model = self.runs.trained.model
        samples = model.generate(16, batch_size=8)
        assert isinstance(samples, np.ndarray)
        assert samples.dtype == self.sample_dtype
        assert samples.shape[0] == 16
        assert np.all(np.isfinite(samples))
        low, high = self.value_range
        assert low <= samples.min() <= samples.max() <= high
        fewer = model.generate(8, batch_size=3)
        assert fewer.shape == (8, *samples.shape[1:])
        np.testing.assert_allclose(samples[:8], fewer, rtol=0, atol=1e-6)
        assert not np.array_equal(model.generate(8, seed=1, batch_size=3), fewer)
        with pytest.raises(ValueError, match="(n|prompts) must be"):
            model.generate(0)


CHECKS = tuple(
    name.removeprefix("test_") for name in vars(Battery) if name.startswith("test_")
)


def battery(
    name,
    factory,
    batch,
    *,
    compile=dict,
    exceptions=None,
    prepare_gradients=None,
    value_range=(-1.0, 1.0),
    sample_dtype="float32",
    sample=None,
    choices=(),
    variant=False,
):
    """The class of checks of one model, for pytest to collect.

    Args:
        name: of the golden file.
        factory: function -> a fresh, uncompiled model with networks of fewer than
            50,000 parameters in all.
        batch: function n -> `(x, condition)`, NumPy arrays of n samples; None for no
            condition.
        compile: function -> the arguments of `compile`, with new optimizers.
        exceptions: dict check -> reason, for checks that this model cannot meet.
        prepare_gradients: function of the model, called at the point where its
            gradients are checked, for state that must have converged there.
        value_range: smallest and largest value of a sample.
        sample_dtype: type of a sample.
        sample: function (model, seed) -> array: what stands for `generate` with that
            seed, for a model that reads and makes nothing by itself.
        choices: metrics that jump, as an accuracy does, where a choice is a near one:
            half precision may then choose another.
        variant: whether another battery is of the same class: where steps are
            compiled, an ordinary run then checks what needs one compiled step.

    Returns:
        A class; its name in the test module must begin with `Test`.
    """
    exceptions = dict(exceptions or {})
    for check, reason in exceptions.items():
        if check not in CHECKS:
            raise ValueError(
                f"{name}: there is no check {check!r} to except; the checks are "
                f"{', '.join(CHECKS)}."
            )
        if not (isinstance(reason, str) and reason.strip()):
            raise ValueError(f"{name}: give the reason of the exception {check!r}.")
    runs = Runs(factory, batch, compile, sample)
    if name in GOLDENS:
        raise ValueError(f"There are two batteries of the name {name!r}.")
    golden = Golden(
        name,
        lambda: describe(runs.fresh(), *keras.tree.flatten(runs.data)),
        lambda: runs.trained.arrays,
    )
    return type(
        f"Test_{name}",
        (Battery,),
        {
            "runs": runs,
            "golden": golden,
            "exceptions": {
                **_left_out(name, variant),
                **BACKEND_EXCEPTIONS.get(BACKEND, {}),
                **exceptions,
            },
            "prepare_gradients": staticmethod(prepare_gradients)
            if prepare_gradients
            else None,
            "value_range": value_range,
            "sample_dtype": sample_dtype,
            "choices": choices,
        },
    )
