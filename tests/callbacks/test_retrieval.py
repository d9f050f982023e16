"""Recall of held-out pairs comes from `fit` by a callback."""

import numpy as np
import pytest

import keras_genai as kg
from tests.support import tiny_clip

pytestmark = pytest.mark.in_turn

pytest.importorskip("tokenizers")

NAMES = ["a dog", "the sun", "a heart", "a dog"]


def fit(model, judge, epochs=4, verbose=0):
    x = {"images": tiny_clip.images(6), "captions": [f"{c} b" for c in "abcdef"]}
    model.compile()
    return model.fit(
        x, batch_size=3, epochs=epochs, verbose=verbose, callbacks=judge
    ).history


def test_the_logs_are_those_of_the_metric(capsys):
    model = tiny_clip.model()
    x = tiny_clip.images(4, "held out")
    judge = kg.callbacks.Retrieval(x, NAMES, every=2)
    history = fit(model, judge, verbose=2)
    wanted = kg.metrics.recall_at_k(
        model.encode_image(x), model.encode_text(NAMES), NAMES, k=(1, 5)
    )
    assert judge.results == wanted and wanted["texts"] == 4
    recalls = {f"val_{name}" for name in wanted if "recall" in name}
    assert recalls == {name for name in history if "recall" in name}
    assert len(recalls) == 4
    for name in recalls:
        assert len(history[name]) == 2
        assert history[name][-1] == wanted[name.removeprefix("val_")]
    said = "4 texts (3 different) and 4 images are the candidates"
    assert capsys.readouterr().out.count(said) == 1


@pytest.mark.once
def test_several_captions_and_a_second_model(capsys):
    x = tiny_clip.images(3, "held out")
    groups = [["a dog", "dog"], ["the sun"], ["a heart", "heart", "love"]]
    judge = kg.callbacks.Retrieval(x, groups, k=2, batch_size=2)
    capsys.readouterr()
    for seed in (0, 1):
        model = tiny_clip.model(seed=seed)
        history = fit(model, judge, epochs=1)
        texts = model.encode_text([text for group in groups for text in group])
        wanted = kg.metrics.recall_at_k(model.encode_image(x), texts, groups, k=2)
        assert judge.results == wanted and wanted["texts"] == 6
        assert len(history["val_image_to_text_recall@2"]) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.once
def test_refusals_before_the_first_step():
    x = tiny_clip.images(4)
    for arguments, says in (
        ((x, NAMES[:3]), "got 4 images and captions of 3"),
        ((x, "abcd"), "captions must be a list of strings"),
        ((x, NAMES, 0), "k must be"),
        ((x, NAMES, 1, 0), "every must be"),
        ((x[0], NAMES), "images must be"),
    ):
        with pytest.raises(ValueError, match=says):
            kg.callbacks.Retrieval(*arguments)
    model = tiny_clip.model()
    before = [np.array(a) for a in model.get_weights()]
    for arguments, says in (
        ((x[:, :4], NAMES), "Images must have the shape"),
        ((x * 9, NAMES), "Images must lie in"),
        ((x, ["x" * 40, "a", "b", "c"]), "more than 24 tokens"),
    ):
        with pytest.raises(ValueError, match=says):
            fit(model, kg.callbacks.Retrieval(*arguments))
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    other = kg.CNN((8, 8, 1), 2, filters=(2,), hidden_units=())
    other.compile()
    with pytest.raises(ValueError, match="Retrieval needs a model of images and texts"):
        other.fit(
            x[..., :1],
            np.zeros(4, "int32"),
            verbose=0,
            callbacks=kg.callbacks.Retrieval(x, NAMES),
        )
