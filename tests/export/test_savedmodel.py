"""Export as a SavedModel: what is refused. What it gives:
`tests/support/processes.py`."""

import importlib
import os
import subprocess
import sys

import keras
import pytest

import keras_genai as kg
from keras_genai.export.child import check_importable

pytestmark = pytest.mark.in_turn


@pytest.fixture(scope="module")
def model():
    return kg.DCGAN((8, 8, 1), 4, base_filters=4)


MINE = """
import keras

@keras.saving.register_keras_serializable("mine_in_the_folder")
class Half(keras.layers.Layer):
    def call(self, x):
        return x / 2
"""


@pytest.mark.processes
def test_a_savedmodel_is_replaced_and_nothing_of_the_folder_is_run(
    tmp_path, monkeypatch
):
    """A user's own module comes from the folder; nothing else that lies there does."""
    (tmp_path / "mine_in_the_folder.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])  # as in a notebook
    generator = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(64),
            importlib.import_module("mine_in_the_folder").Half(),
            keras.layers.Reshape((8, 8, 1)),
        ]
    )
    model = kg.DCGAN((8, 8, 1), 4, base_filters=4, generator=generator)
    ours = ("json", "tempfile", "keras", "numpy", "h5py", "subprocess")
    for name in (*ours, "site", "sitecustomize", "usercustomize"):
        (tmp_path / f"{name}.py").write_text("print(file=open('RUN', 'w'))")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", str(tmp_path)]))
    folder = tmp_path / "served" / "gan"
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_text("another")
    with pytest.raises(ValueError, match="not empty; nothing was written"):
        model.export(folder)
    assert (folder / "saved_model.pb").read_text() == "another"
    model.export(folder, overwrite=True)
    assert (folder / "saved_model.pb").stat().st_size > 1000
    assert [p.name for p in folder.parent.iterdir()] == ["gan"]
    assert not (tmp_path / "RUN").exists()


def test_a_configuration_names_no_module_to_import():
    @keras.saving.register_keras_serializable("export")
    class Hostile(keras.layers.Layer):
        def get_config(self):
            name = {"class_name": "X", "module": "antigravity", "registered_name": "X"}
            function = {**name, "class_name": "function", "config": "X"}
            return {**super().get_config(), "a": name, "b": [function], "c": [[name]]}

    modules = check_importable(keras.Sequential([keras.Input((2,)), Hostile()]))
    assert modules == [__name__]


def test_only_a_savedmodel_is_replaced(model, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="something other than a SavedModel"):
        model.export(tmp_path, overwrite=True)
    with pytest.raises(ValueError, match="is a file"):
        model.export(tmp_path / "notes.txt", overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


NOTEBOOK = """
import sys
import keras
import keras_genai as kg

{definition}

generator = keras.Sequential([
    keras.Input((4,)),
    keras.layers.Dense(64),
    keras.layers.Reshape((8, 8, 1)),
    {last},
])
model = kg.DCGAN((8, 8, 1), 4, base_filters=4, generator=generator)
model.export(sys.argv[1])
"""
LAYER = """
@keras.saving.register_keras_serializable("mine")
class Scale(keras.layers.Layer):
    def call(self, x):
        return keras.ops.tanh(x)
"""
FUNCTION = """
@keras.saving.register_keras_serializable("mine")
def squash(x):
    return keras.ops.tanh(x)
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    "name, definition, last",
    [
        ("Scale", LAYER, "Scale()"),
        ("squash", FUNCTION, "keras.layers.Activation(squash)"),
    ],
    ids=["layer", "function"],
)
def test_what_a_notebook_defines(tmp_path, name, definition, last):
    script = tmp_path / "notebook.py"
    script.write_text(NOTEBOOK.format(definition=definition, last=last))
    folder = tmp_path / "made" / "served"
    done = subprocess.run(
        [sys.executable, str(script), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
    )
    if keras.backend.backend() == "tensorflow":
        assert done.returncode == 0, done.stderr[-2000:]
        assert (folder / "saved_model.pb").exists()
    else:
        assert f"ValueError: {name} is defined in a notebook" in done.stderr
        assert "Move it into a module (a .py file)" in done.stderr
        assert not folder.parent.exists()
