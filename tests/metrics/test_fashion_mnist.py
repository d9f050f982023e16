"""The classifier in the package: how good, and the same on every backend."""

import json
from pathlib import Path

import numpy as np
import pytest

import keras_genai as kg
from keras_genai import metrics
from keras_genai.metrics import fashion_mnist

pytestmark = pytest.mark.in_turn

GOLDEN = json.loads(Path(__file__).with_name("fashion_mnist.json").read_text())


@pytest.fixture(scope="module")
def test_set():
    return kg.datasets.load("fashion_mnist")[1]


@pytest.fixture(scope="module")
def logits(test_set):
    metric = metrics.FID(metrics.fashion_mnist_classifier())
    batches = np.array_split(test_set[0], 10)
    return np.concatenate([metric.extract(batch) for batch in batches])


def test_it_knows_at_least_92_of_100(logits, test_set):
    accuracy = np.mean(logits.argmax(-1) == test_set[1])
    assert accuracy >= 0.92
    # Roundings may turn a near tie.
    assert accuracy == pytest.approx(GOLDEN["accuracy"], abs=4e-4)


def test_the_same_logits_on_every_backend(logits):
    golden = np.array(GOLDEN["logits"])
    np.testing.assert_allclose(logits[: len(golden)], golden, atol=1e-4, rtol=1e-5)


def test_the_features_are_what_the_logits_are_made_of(test_set, logits):
    features = metrics.FID(metrics.fashion_mnist_features()).extract(test_set[0][:16])
    assert features.shape == (16, 64) and features.min() >= 0.0
    kernel, bias = metrics.fashion_mnist_classifier().get_layer("logits").get_weights()
    np.testing.assert_allclose(features @ kernel + bias, logits[:16], atol=1e-4)


def test_it_is_small_and_computes_in_float32():
    import keras

    assert fashion_mnist.FILE.stat().st_size < 1e6
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = metrics.fashion_mnist_classifier()
    finally:
        keras.config.set_dtype_policy(before)
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}
    assert not model.trainable_variables


def test_a_damaged_or_missing_file_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "weights.npz"
    monkeypatch.setattr(fashion_mnist, "FILE", path)
    with pytest.raises(FileNotFoundError, match="is missing. Install"):
        metrics.fashion_mnist_classifier()
    path.write_bytes(b"half")
    with pytest.raises(ValueError, match="is damaged"):
        metrics.fashion_mnist_classifier()


def test_it_judges_real_images_of_their_class(test_set):
    images, labels = test_set
    agreement = metrics.ClassAgreement(metrics.fashion_mnist_classifier())
    agreement.update_generated(images[:500], labels[:500])
    assert agreement.result()["class_agreement"] > 0.88
    assert agreement.by_class().shape == (10,)
