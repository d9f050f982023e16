"""What TensorBoard reads back from the files of a run."""

import importlib.util
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_genai as kg
from tests.support.short_run import build, data, fit

pytestmark = pytest.mark.in_turn

loader = pytest.importorskip(
    "tensorboard.backend.event_processing.plugin_event_multiplexer"
)


def read(folder):
    """Tag -> [(step, value)], as the server of TensorBoard sees the newest run."""
    multiplexer = loader.EventMultiplexer(
        size_guidance={"tensors": 0}, purge_orphaned_data=True
    )
    multiplexer.AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    runs = multiplexer.Runs()
    found = {}
    for run in runs:
        accumulator = multiplexer.GetAccumulator(run)
        found[run] = {
            tag: [
                (
                    event.step,
                    list(event.tensor_proto.float_val)
                    or list(event.tensor_proto.string_val),
                )
                for event in accumulator.Tensors(tag)
            ]
            for tag in accumulator.Tags()["tensors"]
        }
    return found


def test_what_is_written(tmp_path):
    board = kg.callbacks.TensorBoard(tmp_path, every=3, histograms=2)
    model = fit(
        [kg.callbacks.ImageGrid(tmp_path, n=4), board],
        validation_data=data(),
    )
    found = read(tmp_path)
    assert list(found) == ["run-1"]
    run = found["run-1"]
    history = model.history.history
    for name, tag in (
        ("discriminator_loss", "loss/discriminator_loss"),
        ("generator_loss", "loss/generator_loss"),
        ("loss", "loss/loss"),
        ("val_generator_loss", "validation/val_generator_loss"),
    ):
        steps, values = zip(*run[tag], strict=True)
        assert steps == (4, 8)  # training steps
        np.testing.assert_allclose(np.ravel(values), history[name], rtol=1e-6)
    # The schedule: 0.5 (1 - step / 40).
    rates = [value[0] for _, value in run["learning_rate/generator"]]
    np.testing.assert_allclose(rates, [0.45, 0.4], rtol=1e-5)
    rates = [value[0] for _, value in run["learning_rate/discriminator"]]
    np.testing.assert_allclose(rates, [0.25, 0.25])
    assert [step for step, _ in run["batch/loss"]] == [3, 7]
    # The grids, also the one from before training.
    pictures = run["samples"]
    assert [step for step, _ in pictures] == [0, 4, 8]
    png = (tmp_path / "run-1" / "epoch-0002.png").read_bytes()
    assert pictures[-1][1][2] == png
    ((_, (text,)),) = run["model"]
    config = text.decode().split("```")[1]
    assert json.loads(config)["latent_dim"] == 4
    weights = [tag for tag in run if tag.startswith("weights/")]
    floats = [
        v
        for network in model.players.values()
        for v in network.variables
        if "float" in v.dtype
    ]
    assert len(weights) == len(floats)
    assert all([step for step, _ in run[tag]] == [8] for tag in weights)


@pytest.mark.parametrize("board_first", [True, False])
def test_a_resumed_run_continues_its_curves(tmp_path, board_first):
    def callbacks(folder):
        board = kg.callbacks.TensorBoard(folder / "logs", every=1)
        resume = kg.callbacks.Resume(folder / "run.npz", every=2)
        return [board, resume] if board_first else [resume, board]

    fit(callbacks(tmp_path / "whole"), epochs=3)
    # Stored after batch 2 of epoch 1; batch 3 is logged, lost, and done again.
    fit(callbacks(tmp_path / "cut"), epochs=3, stop=(1, 3))
    fit(callbacks(tmp_path / "cut"), epochs=3)
    whole, cut = read(tmp_path / "whole" / "logs"), read(tmp_path / "cut" / "logs")
    assert list(cut) == ["run-1"]
    assert [step for step, _ in cut["run-1"]["batch/loss"]] == [*range(1, 13)]
    for run in (*cut.values(), *whole.values()):
        assert len(run.pop("model")) == 1
    assert cut == whole


def test_each_run_has_a_folder(tmp_path):
    board = kg.callbacks.TensorBoard(tmp_path)
    model = fit([board], epochs=1)
    fit([board], model, epochs=2, initial_epoch=1)
    fit([board], epochs=1)
    assert board.run_folder == tmp_path / "run-2"
    found = read(tmp_path)
    assert [step for step, _ in found["run-1"]["loss/loss"]] == [4, 8]
    assert [step for step, _ in found["run-2"]["loss/loss"]] == [4]


def test_other_results_in_the_logs_are_shown(tmp_path):
    class Result(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            logs["fid"] = 12.5

    fit([Result(), kg.callbacks.TensorBoard(tmp_path)], epochs=1)
    assert read(tmp_path)["run-1"]["metrics/fid"] == [(4, [12.5])]


def test_what_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    model = build()
    for folder in (tmp_path / "file", tmp_path / "file" / "logs", "/proc/logs"):
        with pytest.raises(ValueError, match="cannot be written"):
            fit([kg.callbacks.TensorBoard(folder)], model)
    assert int(keras.ops.convert_to_numpy(model.noise.step)) == 0
    with pytest.raises(ValueError, match="every must be"):
        kg.callbacks.TensorBoard(tmp_path, every=0)
    with pytest.raises(ValueError, match="histograms must be"):
        kg.callbacks.TensorBoard(tmp_path, histograms=-1)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "tensorboard" else find(name, *rest),
    )
    with pytest.raises(ImportError, match="pip install tensorboard"):
        kg.callbacks.TensorBoard(tmp_path)


SCRIPT = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
import keras_genai as kg
from tests.support.short_run import fit

fit([kg.callbacks.ImageGrid(sys.argv[1]), kg.callbacks.TensorBoard(sys.argv[1],
     every=1, histograms=1)], epochs=1)
assert "tensorflow" not in sys.modules
"""


@pytest.mark.processes
def test_tensorflow_is_not_needed(tmp_path):
    backend = keras.backend.backend()
    if backend == "tensorflow":
        pytest.skip("it is the backend")
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "PYTHONPATH": os.pathsep.join(p for p in [os.getcwd(), *sys.path] if p),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert [step for step, _ in read(tmp_path)["run-1"]["loss/loss"]] == [4]
