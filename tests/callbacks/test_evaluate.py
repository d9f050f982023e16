"""Metrics while the model trains, and the best model by one of them."""

import json
import sys
import types

import keras
import numpy as np
import pytest

import keras_genai as kg
from tests.support.short_run import build, data, fit

pytestmark = pytest.mark.in_turn


class Scripted:
    """A metric whose results are given."""

    name = "quality"

    add_generated = result = None  # as a metric has

    def __init__(self, results):
        self.results = list(results)


@pytest.fixture
def calls(monkeypatch):
    """Stands for `kg.metrics`; holds what it was called with."""
    made = []

    def evaluate(model, metrics, x, y=None, *, seed=0, batch_size=64):
        step = int(keras.ops.convert_to_numpy(model.noise.step)) // 4 - 1
        made.append((x, y, seed, batch_size))
        return {metric.name: metric.results[step] for metric in metrics}

    module = types.ModuleType("keras_genai.metrics")
    module.evaluate = evaluate
    monkeypatch.setitem(sys.modules, "keras_genai.metrics", module)
    monkeypatch.setattr(kg, "metrics", module, raising=False)
    return made


def test_the_results_are_in_the_logs_of_later_callbacks(tmp_path, calls):
    seen = []

    class Later(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(logs.get("quality"))

    images, labels = data()
    metric = Scripted([None, 3.0, None, 5.0])
    evaluate = kg.callbacks.Evaluate(
        metric, images, labels, every=2, n=10, seed=4, batch_size=5
    )
    model = fit([evaluate, Later()], epochs=4)
    assert seen == [None, 3.0, None, 5.0]
    assert model.history.history["quality"] == [3.0, 5.0]
    assert evaluate.best == 5.0 and evaluate.run_folder is None
    ((x, y, seed, batch_size), _) = calls
    np.testing.assert_array_equal(x, images[:10])
    np.testing.assert_array_equal(y, labels[:10])
    assert (seed, batch_size) == (4, 5)


@pytest.mark.parametrize(
    "name, mode, best", [("quality", "auto", 3), ("fid", "auto", 2), ("x", "min", 2)]
)
def test_the_best_model_is_kept(tmp_path, calls, name, mode, best):
    metric = Scripted([float("nan"), 1.0, 2.0, 1.5])
    metric.name = name
    if name == "quality":
        best = 3
    evaluate = kg.callbacks.Evaluate(
        [metric], data()[0], folder=tmp_path, mode=mode, monitor=name
    )
    states = []

    class State(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            states.append(self.model.generate(4, seed=1))

    fit([evaluate, State()], epochs=4)
    folder = tmp_path / "run-1"
    assert sorted(p.name for p in folder.iterdir()) == ["best.json", "best.keras"]
    stored = json.loads((folder / "best.json").read_text())
    assert stored["epoch"] == best
    assert stored[name] == evaluate.best
    model = kg.load_model(folder / "best.keras")
    np.testing.assert_allclose(
        model.generate(4, seed=1), states[best - 1], rtol=0, atol=1e-6
    )


def test_the_best_value_survives_a_resume(tmp_path, calls):
    def callbacks():
        metric = Scripted([4.0, 9.0, 5.0, 6.0])
        return [
            kg.callbacks.Evaluate(metric, data()[0], folder=tmp_path / "logs"),
            kg.callbacks.Resume(tmp_path / "run.npz"),
        ]

    fit(callbacks(), epochs=4, stop=(2, 1))
    again = callbacks()
    fit(again, epochs=4)
    assert again[0].best == 9.0
    assert json.loads((tmp_path / "logs/run-1/best.json").read_text())["epoch"] == 2
    # A run that begins anew has its own best.
    fit(callbacks()[:1], epochs=1)
    assert json.loads((tmp_path / "logs/run-2/best.json").read_text())["quality"] == 4.0


def test_a_damaged_or_another_best_is_refused(tmp_path, calls):
    folder = tmp_path / "run-1"
    folder.mkdir()
    evaluate = kg.callbacks.Evaluate(
        Scripted([1.0] * 9), data()[0], folder=tmp_path, monitor="quality"
    )
    model = build()
    for text, message in (("{", "damaged"), ('{"monitor": "fid", "fid": 1}', "'fid'")):
        (folder / "best.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            fit([evaluate], model, initial_epoch=1)
        assert (folder / "best.json").read_text() == text
    assert int(keras.ops.convert_to_numpy(model.noise.step)) == 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"every": 0}, "every must be"),
        ({"n": 0}, "n must be"),
        ({"n": 33}, "x holds 32"),
        ({"y": [1]}, "32 images, but y 1 labels"),
        ({"mode": "best"}, "mode must be"),
        ({"metrics": []}, "metrics is empty"),
    ],
)
def test_wrong_arguments(options, message):
    options = {"metrics": Scripted([1.0]), "x": data()[0], **options}
    with pytest.raises(ValueError, match=message):
        kg.callbacks.Evaluate(**options)


def test_an_unknown_monitor(calls):
    evaluate = kg.callbacks.Evaluate(Scripted([1.0]), data()[0], monitor="fid")
    with pytest.raises(ValueError, match="none of the results: quality"):
        fit([evaluate], epochs=1)
