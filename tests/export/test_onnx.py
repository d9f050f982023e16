"""The sampler leaves as ONNX, and ONNX Runtime gives the images of the model."""

import importlib.util

import keras
import numpy as np
import pytest

import keras_genai as kg

onnxruntime = pytest.importorskip("onnxruntime")
BACKEND = keras.backend.backend()


def make(labelled):
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (16, 8, 8, 2)).astype("float32")
    common = {"image_shape": (8, 8, 2), "latent_dim": 5, "base_filters": 4}
    if labelled:
        model = kg.CGAN(
            num_classes=3,
            generator_conditioning="conditional_batch_norm",
            ema_decay=0.5,
            **common,
        )
        data = (images, rng.integers(0, 3, 16))
    else:
        model = kg.DCGAN(**common)
        data = (images,)
    # Large weights, so that the images fill [-1, 1] and a difference shows.
    for variable in model.generator.trainable_variables:
        variable.assign(8.0 * variable)
    model.compile()
    model.fit(*data, batch_size=8, epochs=1, verbose=0)
    return model


@pytest.fixture(scope="module", params=[True, False], ids=["labelled", "plain"])
def case(request):
    return request.param, make(request.param)


def export(model, path, **options):
    if importlib.util.find_spec("tf2onnx" if BACKEND != "torch" else "onnxscript"):
        model.export(path, format="onnx", **options)
        return onnxruntime.InferenceSession(str(path))
    return pytest.skip("the converter is not installed")


@pytest.mark.processes
def test_the_network_gives_the_images_of_the_model(case, tmp_path):
    labelled, model = case
    session = export(model, tmp_path / "made" / "net.onnx")
    assert [x.shape[0] for x in session.get_inputs()] == ["batch"] * (1 + labelled)
    assert [x.name for x in session.get_outputs()] == ["images"]
    rng = np.random.default_rng(1)
    for n in (1, 4):  # the batch is free
        feed = {"latents": rng.normal(size=(n, 5)).astype("float32")}
        if labelled:
            feed["labels"] = rng.integers(0, 3, n).astype("int32")
        wanted = keras.ops.convert_to_numpy(model(*feed.values()))
        (images,) = session.run(None, feed)
        assert np.abs(wanted).max() > 0.5
        np.testing.assert_allclose(images, wanted, atol=1e-4)
    # With the average, which is not the network's present weights.
    if labelled:
        last = model.generator(list(feed.values()), training=False)
        assert np.abs(images - keras.ops.convert_to_numpy(last)).max() > 1e-3
    assert [p.name for p in (tmp_path / "made").iterdir()] == ["net.onnx"]


@pytest.mark.processes
def test_the_sampler_draws_the_noise_of_generate(case, tmp_path):
    labelled, model = case
    path = tmp_path / "seeded.onnx"
    session = export(model, path, signature="generate_seeded")
    feed = {"seed": np.array(7, "int32")}
    if labelled:
        feed["labels"] = np.array([0, 1, 2, 2, 1], "int32")
        wanted = model.generate(labels=feed["labels"], seed=7)
    else:
        feed["n"] = np.array(5, "int32")
        wanted = model.generate(5, seed=7)
    (images,) = session.run(None, feed)
    np.testing.assert_allclose(images, wanted, atol=1e-4)


def test_what_stands_there_is_not_replaced(tmp_path):
    model = kg.DCGAN((8, 8, 1), 4, base_filters=4)
    path = tmp_path / "net.onnx"
    path.write_text("mine")
    with pytest.raises(ValueError, match="nothing was written"):
        model.export(path, format="onnx")
    assert path.read_text() == "mine"
    with pytest.raises(ValueError, match="ends in .onnx"):
        model.export(tmp_path / "net", format="onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        model.export(tmp_path / "folder.onnx", format="onnx", overwrite=True)
    with pytest.raises(ValueError, match="no signature 'sample'; it has 'generate'"):
        model.export(tmp_path / "x.onnx", format="onnx", signature="sample")
    with pytest.raises(ValueError, match="format must be"):
        model.export(tmp_path / "x", format="tflite")
    assert {p.name for p in tmp_path.iterdir()} == {"net.onnx", "folder.onnx"}


def test_an_absent_package_is_named(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "onnx" else find(name, *rest),
    )
    model = kg.DCGAN((8, 8, 1), 4, base_filters=4)
    with pytest.raises(ImportError, match="pip install onnx "):
        model.export(tmp_path / "x.onnx", format="onnx")
    assert not list(tmp_path.iterdir())
