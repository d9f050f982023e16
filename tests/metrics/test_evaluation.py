"""Extractors, their errors, and `evaluate` on a model."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from keras_genai import metrics

pytestmark = pytest.mark.in_turn


def extractor(shape=(8, 8, 1), features=3, seed=0):
    """A small network with a layer that behaves otherwise in training."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input(shape),
            keras.layers.Dropout(0.9),
            keras.layers.Conv2D(4, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(features),
        ]
    )


def images(n=40, shape=(8, 8, 1), seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (n, *shape)).astype("float32")


@pytest.fixture(scope="module")
def model():
    return kg.CGAN(
        image_shape=(8, 8, 1), num_classes=3, latent_dim=4, base_filters=2, seed=3
    )


def test_a_model_and_a_function_extract_the_same():
    network = extractor()
    x = images(10)
    by_model = metrics.FID(network).extract(x)
    assert by_model.dtype == "float64" and by_model.shape == (10, 3)
    weights = [np.asarray(w) for w in network.get_weights()]
    by_function = metrics.FID(lambda x: network(x, training=False)).extract(x)
    np.testing.assert_allclose(by_model, by_function, atol=1e-6)
    # The weights of the moment count, and extracting changes none.
    for before, after in zip(weights, network.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    metric = metrics.FID(network)
    metric.extract(x)
    network.layers[-1].bias.assign(ops.ones(3) * 5.0)
    np.testing.assert_allclose(metric.extract(x), by_model + 5.0, atol=1e-5)


def test_a_last_partial_batch_compiles_once():
    traced = []

    class Counted(keras.layers.Layer):
        def call(self, x):
            traced.append(x.shape[0])
            return ops.reshape(x, (-1, 64))

    network = keras.Sequential([keras.Input((8, 8, 1)), Counted()])
    metric = metrics.FID(network)
    metric.extract(images(6))
    traced.clear()
    for n in (6, 6, 3, 6, 3, 6, 3):
        metric.extract(images(n))
    compiled = keras.backend.backend() != "torch"
    assert len(traced) <= (1 if compiled else 7)


@pytest.mark.parametrize(
    "x, message",
    [
        (images(4, (9, 9, 1)), r"takes images \(8, 8, 1\).*got \(9, 9, 1\)"),
        (images(4, (8, 8, 3)), "repeat a grey channel"),
        (images(4)[0], r"floats \(B, H, W, C\)"),
        ((images(4) * 127).astype("uint8"), "x / 127.5 - 1"),
        (images(4) * 255, r"in \[-1, 1\]; got values from -2"),
        (np.where(images(4) > 0.9, np.nan, images(4)), "not finite"),
    ],
)
@pytest.mark.parametrize("update", ["update_real", "update_generated"])
def test_images_that_do_not_fit(x, message, update):
    with pytest.raises(ValueError, match=message):
        getattr(metrics.FID(extractor()), update)(x)


def test_extractors_that_do_not_fit():
    with pytest.raises(ValueError, match="must be a Keras model or a function"):
        metrics.FID("inception")
    with pytest.raises(ValueError, match=r"must be of shape \(samples, features\)"):
        metrics.FID(lambda x: x).extract(images(4))
    with pytest.raises(ValueError, match="one row for each"):
        metrics.FID(lambda x: x[:2, 0, 0]).extract(images(4))
    with pytest.raises(ValueError, match="output holds values that are not finite"):
        metrics.FID(lambda x: x[:, 0, 0] * np.inf).extract(images(4))
    metric = metrics.FID(lambda x: x[:, 0].reshape(len(x), -1))
    metric.update_real(images(4))
    with pytest.raises(ValueError, match="from 8 to 9"):
        metric.update_real(images(4, (9, 9, 1)))


def test_evaluate_is_the_metrics_on_one_whole_generate(model):
    x, y = images(50), np.arange(50) % 3
    network, judge = extractor(), extractor(seed=1)
    kinds = [
        metrics.FID(network),
        metrics.KID(network, subsets=4, subset_size=20),
        metrics.PrecisionRecall(network),
        metrics.DensityCoverage(network),
        metrics.InceptionScore(judge),
        metrics.ClassAgreement(judge),
    ]
    found = metrics.evaluate(model, kinds, x, y, seed=5, batch_size=16)
    generated = model.generate(labels=y, seed=5)
    real, ours = (metrics.FID(network).extract(i) for i in (x, generated))
    logits = metrics.FID(judge).extract(generated)
    assert found["fid"] == pytest.approx(metrics.fid(real, ours), rel=1e-4)
    assert found["kid"] == pytest.approx(
        metrics.kid(real, ours, 4, 20)[0], rel=1e-3, abs=1e-6
    )
    assert found["precision"] == metrics.precision_recall(real, ours)[0]
    assert found["recall"] == metrics.precision_recall(real, ours)[1]
    assert found["coverage"] == metrics.density_coverage(real, ours)[1]
    assert found["class_agreement"] == np.mean(logits.argmax(1) == y)
    assert 1.0 <= found["inception_score"] <= 3.0
    # The batch size is no part of the result, nor is what was judged before.
    again = metrics.evaluate(model, kinds, x, y, seed=5, batch_size=50)
    assert again == pytest.approx(found, rel=1e-4, abs=1e-6)


def test_images_in_the_models_own_range(model):
    """A model of images in [0, 1] is judged as the same model of [-1, 1]."""
    metric = metrics.FID(extractor())
    x = images()
    wanted = metrics.evaluate(model, metric, x)["fid"]

    class Half:
        value_range = (0.0, 1.0)

        def generate(self, *args, **kwargs):
            return 0.5 * (model.generate(*args, **kwargs) + 1.0)

    got = metrics.evaluate(Half(), metric, 0.5 * (x + 1.0))["fid"]
    assert got == pytest.approx(wanted, rel=1e-3)


def test_one_pass_for_each_extractor(model):
    seen = []

    def features(x):
        seen.append(len(x))
        return x.reshape(len(x), -1)[:, :3]

    kinds = [metrics.FID(features), metrics.PrecisionRecall(features)]
    metrics.evaluate(model, kinds, images(30), batch_size=16)
    assert seen == [16, 14] * 2
    seen.clear()
    # Nobody looks at the real images.
    agreement = metrics.ClassAgreement(features)
    metrics.evaluate(model, agreement, images(30), np.zeros(30, int), batch_size=30)
    assert seen == [30]


def test_a_model_that_generates_in_batches_is_never_held_whole():
    class Streaming:
        alive = []

        def generate(self, *args, **kwargs):
            raise AssertionError("the whole set was asked for")

        def generate_batches(self, n, seed, batch_size, labels=None):
            whole = images(n, seed=seed)
            for start in range(0, n, batch_size):
                yield whole[start : start + batch_size]

    fid = metrics.FID(lambda x: x.reshape(len(x), -1)[:, :4])
    found = metrics.evaluate(Streaming(), fid, images(70), seed=2, batch_size=32)
    expected = (i.reshape(70, -1)[:, :4] for i in (images(70), images(70, seed=2)))
    assert found["fid"] == pytest.approx(metrics.fid(*expected), rel=1e-9)


def test_the_progress_bar(model, capsys):
    fid = metrics.FID(lambda x: x.reshape(len(x), -1)[:, :4])
    metrics.evaluate(model, fid, images(20), batch_size=8, verbose=1)
    assert "40/40" in capsys.readouterr().out


def test_class_agreement():
    agreement = metrics.ClassAgreement(lambda x: x)
    found = np.eye(4)[[0, 1, 1, 2, 2, 2]]
    agreement.add_generated(found[:4], [0, 1, 0, 2])
    agreement.add_generated(found[4:], np.array([1, 2]))
    assert agreement.result() == {"class_agreement": pytest.approx(4 / 6)}
    np.testing.assert_array_equal(agreement.by_class(), [0.5, 0.5, 1.0, np.nan])
    for labels, message in (
        (None, "condition=labels"),
        ([0], "must be 2 integer labels"),
        ([0, 4], "labels from 0 to 3; got 0 to 4"),
    ):
        with pytest.raises(ValueError, match=message):
            agreement.add_generated(found[:2], labels)


def test_what_evaluate_refuses_before_any_work(model):
    fid = metrics.FID(lambda x: 1 / 0)
    for arguments, message in (
        ((model, [], images()), "at least one metric"),
        ((model, ["fid"], images()), "must be kg.metrics objects"),
        ((model, [fid, fid], images()), "Two metrics have the name 'fid'"),
        ((model, metrics.ClassAgreement(abs), images()), "class_agreement judges"),
        ((model, fid, images()[0]), r"\(N, H, W, C\)"),
        ((model, fid, images(), np.zeros(3)), "each of the 40 images; got 3"),
        ((object(), fid, images()), "object does not have"),
    ):
        with pytest.raises(ValueError, match=message):
            metrics.evaluate(*arguments)
