"""The sampler leaves as a SavedModel that TensorFlow runs alone."""

import json
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


def test_a_class_of_the_notebook_is_named(tmp_path, monkeypatch):
    class Scale(keras.layers.Layer):
        def call(self, x):
            return ops_tanh(x)

    def ops_tanh(x):
        return keras.ops.tanh(x)

    monkeypatch.setattr(Scale, "__module__", "__main__")
    generator = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(64),
            keras.layers.Reshape((8, 8, 1)),
            Scale(),
        ]
    )
    model = kg.DCGAN((8, 8, 1), 4, base_filters=4, generator=generator)
    if keras.backend.backend() == "tensorflow":
        model.export(tmp_path / "served")
        assert (tmp_path / "served" / "saved_model.pb").exists()
    else:
        with pytest.raises(ValueError, match="Scale is defined in a notebook"):
            model.export(tmp_path / "served")
        assert not (tmp_path / "served").exists()
