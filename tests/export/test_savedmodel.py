"""The sampler leaves as a SavedModel that TensorFlow runs alone."""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_genai as kg

SERVER = pathlib.Path(__file__).with_name("tensorflow_alone.py")


def serve(tmp_path, folder, calls):
    request = tmp_path / "request.json"
    request.write_text(json.dumps([str(folder), calls]))
    done = subprocess.run(
        [sys.executable, str(SERVER), str(request)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(str(request) + ".npz")


@pytest.fixture(scope="module")
def model():
    model = kg.CGAN(
        image_shape=(8, 8, 2),
        num_classes=3,
        latent_dim=5,
        base_filters=4,
        generator_conditioning="conditional_batch_norm",
        ema_decay=0.5,
    )
    model.compile()
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (24, 8, 8, 2)).astype("float32")
    model.fit(images, rng.integers(0, 3, 24), batch_size=8, epochs=2, verbose=0)
    return model


@pytest.mark.processes
def test_served_by_tensorflow_alone(model, tmp_path):
    folder = tmp_path / "served" / "cgan"
    model.export(folder)
    labels = [0, 1, 2, 2, 1]
    latents = np.random.default_rng(1).normal(size=(3, 5)).astype("float32")
    label = {"labels": (labels, "int32")}
    few = {"latents": (latents.tolist(), "float32"), "labels": ([1, 0, 2], "int32")}
    answers = serve(
        tmp_path,
        folder,
        [
            ("generate_seeded", {"seed": (7, "int32"), **label}),
            ("generate_seeded", {"seed": (7, "int32"), "labels": ([0, 1], "int32")}),
            ("serving_default", few),
            ("generate", few),
        ],
    )
    signatures = ["generate", "generate_seeded", "serving_default"]
    assert list(answers["signatures"]) == signatures
    wanted = model.generate(labels=labels, seed=7)
    np.testing.assert_allclose(answers["0"], wanted, atol=1e-4)
    np.testing.assert_allclose(answers["1"], wanted[:2], atol=1e-4)
    called = model(latents, np.array([1, 0, 2], "int32"))
    called = keras.ops.convert_to_numpy(called)
    np.testing.assert_allclose(answers["2"], called, atol=1e-4)
    np.testing.assert_array_equal(answers["2"], answers["3"])

    before = (folder / "saved_model.pb").read_bytes()
    with pytest.raises(ValueError, match="not empty; nothing was written"):
        model.export(folder)
    assert (folder / "saved_model.pb").read_bytes() == before
    model.export(folder, overwrite=True)
    assert [p.name for p in folder.parent.iterdir()] == ["cgan"]


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
