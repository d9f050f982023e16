"""The linear probe is scikit-learn's regression of `encode_image`."""

import numpy as np
import pytest

import keras_genai as kg
from tests.support import tiny_clip

pytestmark = pytest.mark.in_turn

pytest.importorskip("tokenizers")
sklearn = pytest.importorskip("sklearn.linear_model")


def clusters(model, classes, count=12, noise=0.6):
    """Images of a class are one image and noise: `(images, integer labels)`."""
    centres = tiny_clip.images(classes, "centres")
    labels = np.arange(count) % classes
    x = centres[labels] + noise * tiny_clip.images(count, f"{count} around")
    return np.clip(x, -1, 1), labels


@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_equal_sklearn(classes, tmp_path):
    model = tiny_clip.model()
    x, labels = clusters(model, classes)
    probe = kg.clip.LinearProbe(model, C=3.0)
    assert probe.fit(x, labels) is probe
    reference = sklearn.LogisticRegression(C=3.0, max_iter=1000)
    reference.fit(model.encode_image(x).astype("float64"), labels)
    more, others = clusters(model, classes, 8)
    wanted = reference.predict_proba(model.encode_image(more))
    np.testing.assert_allclose(probe.classify(more), wanted, atol=1e-5)
    assert probe.label(more) == reference.predict(model.encode_image(more)).tolist()
    accuracy = reference.score(model.encode_image(more), others)
    assert probe.evaluate(more, others)["accuracy"] == pytest.approx(accuracy)
    assert probe.class_names == tuple(range(classes)) and probe.sweep == {}
    # Its model holds the image tower, and is loaded without scikit-learn.
    probe.save(tmp_path / "probe.keras")
    loaded = kg.load_model(tmp_path / "probe.keras")
    np.testing.assert_allclose(loaded.classify(more), wanted, atol=1e-5)
    assert loaded.class_names == probe.class_names


def test_labels_of_any_kind_and_second_fits():
    model = tiny_clip.model()
    x, numbers = clusters(model, 3)
    probe = kg.clip.LinearProbe(model, C=10.0).fit(x, numbers)
    first = probe.classify(x)
    names = np.array(["zebra", "ant", "bee"])[numbers]
    probe.fit(x, names)
    assert probe.class_names == ("ant", "bee", "zebra")
    np.testing.assert_allclose(probe.classify(x), first[:, [1, 2, 0]], atol=1e-4)
    assert probe.evaluate(x, names) == probe.evaluate(x, (numbers - 1) % 3)
    assert set(probe.label(x)) <= set(names.tolist())
    probe.fit(x, 10 * numbers - 10)
    assert probe.class_names == (-10, 0, 10)
    # Integers are the labels themselves.
    assert probe.evaluate(x, np.full(12, 10))["accuracy"] == pytest.approx(
        np.mean(probe.classify(x).argmax(axis=1) == 2)
    )


@pytest.mark.once
def test_the_sweep_is_the_papers():
    """Seven powers, then halves around the best down to an eighth of a decade."""
    model = tiny_clip.model()
    x, labels = clusters(model, 3, 24, noise=1.5)
    held_out = clusters(model, 3, 15, noise=1.5)
    probe = kg.clip.LinearProbe(model)
    probe.fit(x, labels, held_out)
    shares = {}
    vectors = [model.encode_image(a).astype("float64") for a in (x, held_out[0])]
    for C, share in probe.sweep.items():
        one = sklearn.LogisticRegression(C=C, max_iter=1000).fit(vectors[0], labels)
        shares[C] = one.score(vectors[1], held_out[1])
        assert share == shares[C]
    exponents = np.log10(list(probe.sweep))
    for coarse in range(-6, 7, 2):
        assert np.abs(exponents - coarse).min() < 1e-9
    assert 7 + 4 <= len(exponents) <= 7 + 8 and np.abs(exponents).max() <= 6
    np.testing.assert_allclose(exponents * 8, np.round(exponents * 8), atol=1e-9)
    best = max(shares.values())
    assert probe.C == min(C for C, share in shares.items() if share == best)
    near = np.abs(exponents - np.log10(probe.C))
    assert np.sort(near)[1] == pytest.approx(1 / 8)
    # The last fit is of both parts together.
    last = sklearn.LogisticRegression(C=probe.C, max_iter=1000)
    last.fit(np.concatenate(vectors), np.concatenate([labels, held_out[1]]))
    np.testing.assert_allclose(
        probe.classify(x), last.predict_proba(vectors[0]), atol=1e-5
    )
    # A second fit sweeps anew.
    probe.fit(x, labels[::-1].copy(), (held_out[0], held_out[1][::-1].copy()))
    assert len(probe.sweep) >= 11


def test_weights_that_changed_are_refused():
    model = tiny_clip.model()
    x, labels = clusters(model, 2)
    probe = kg.clip.LinearProbe(model, C=1.0).fit(x, labels)
    variable = model.image_tower.trainable_variables[0]
    variable.assign(2.0 * variable.value)
    for call in (probe.classify, probe.label, lambda x: probe.evaluate(x, labels)):
        with pytest.raises(ValueError, match="call fit again"):
            call(x)
    probe.fit(x, labels).classify(x)
    model.text_tower.trainable_variables[0].assign(
        0.0 * model.text_tower.trainable_variables[0].value
    )
    probe.classify(x)  # no text is in it


@pytest.mark.once
def test_refusals(monkeypatch):
    model = tiny_clip.model()
    x, labels = clusters(model, 2)
    probe = kg.clip.LinearProbe(model)
    fixed = kg.clip.LinearProbe(model, C=1.0)
    for call, says in (
        (lambda: kg.clip.LinearProbe(model, C=0), "C must be"),
        (lambda: kg.clip.LinearProbe(model, max_iter=0), "max_iter must be"),
        (lambda: kg.clip.LinearProbe(None), "clip must be a kg.CLIP"),
        (lambda: probe.classify(x), "The probe is not fitted"),
        (lambda: probe.evaluate(x, labels), "The probe is not fitted"),
        (lambda: probe.fit(x, labels), "validation_data is missing"),
        (lambda: probe.fit(x, labels, x), "validation_data must be (images, labels)"),
        (lambda: probe.fit(x, labels, (x, labels[:3])), "3 labels and 12 images"),
        (lambda: fixed.fit(x, labels[:5]), "got 5 labels and 12 images"),
        (lambda: fixed.fit(x, labels[:, None]), "labels must be integers or strings"),
        (lambda: fixed.fit(x, labels + 0.5), "labels must be integers or strings"),
        (lambda: fixed.fit(x, 0 * labels), "labels must be of two classes"),
        (lambda: fixed.fit(x[:, :4], labels), "Images must have the shape"),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert says in str(error.value)
    monkeypatch.setattr(
        "keras_genai.export.child.importlib.util.find_spec", lambda name: None
    )
    with pytest.raises(ImportError, match=r"linear probe needs sklearn.*genai\[clip\]"):
        fixed.fit(x, labels)
