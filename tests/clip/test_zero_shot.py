"""Zero-shot classes: transformers' numbers, second calls, files, refusals."""

import keras
import numpy as np
import pytest

import keras_genai as kg
from tests.clip.test_transformers import images as their_images
from tests.clip.test_transformers import pixels, reference
from tests.support import tiny_clip

pytestmark = pytest.mark.in_turn

pytest.importorskip("tokenizers")

NAMES = ["a heart", "a dog", "the sun"]
TEMPLATES = ["an image of {}.", "{}", "big {}, {}"]


def classifier(loss="softmax", names=NAMES, templates=TEMPLATES, **arguments):
    model = tiny_clip.model(loss, **arguments)
    if loss == "sigmoid":
        model.scale.logit_bias.assign(-1.0)  # so that probabilities are no zeros
    return kg.clip.ZeroShotClassifier(model, names, templates)


def by_hand(made, images):
    """The probabilities from `encode_image` and `encode_text` alone."""
    clip = made.clip
    x = clip.encode_image(images).astype("float64")
    classes = []
    for name in made.class_names:
        texts = [template.replace("{}", name) for template in made.templates]
        mean = clip.encode_text(texts).astype("float64").mean(axis=0)
        classes.append(mean / np.linalg.norm(mean))
    scale, bias = clip.scale.numbers()
    logits = scale * x @ np.array(classes).T + bias
    if clip.loss_name == "sigmoid":
        return 1.0 / (1.0 + np.exp(-logits))
    made = np.exp(logits)
    return made / made.sum(axis=1, keepdims=True)


class TextsOfTokens:
    """A tokenizer of the ids that a text spells: "<" stands for the end token."""

    vocabulary_size, fill_id, end = 30, 1, 29

    def encode(self, texts):
        return [[*(3 + ord(c) % 26 for c in text), self.end] for text in texts]

    def decode(self, tokens):
        return str(tokens)

    def check_fits(self, vocabulary_size, model):
        assert vocabulary_size == self.vocabulary_size, model


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_probabilities_equal_transformers(tmp_path, family):
    """Class vectors, logits and probabilities by the reference's own embeddings."""
    torch = pytest.importorskip("torch")
    network = reference(family)
    network.save_pretrained(tmp_path)
    model = kg.CLIP.from_pretrained(tmp_path)
    model.tokenizer = TextsOfTokens()
    names, templates = ["ab", "c", "xyz"], ["{}", "h{}", "{}q."]
    made = kg.clip.ZeroShotClassifier(model, names, templates)
    x = their_images(5)
    with torch.no_grad():
        classes = []
        for name in names:
            texts = [template.replace("{}", name) for template in templates]
            ids = torch.from_numpy(model.tokenize(texts))
            given = {"pixel_values": pixels(model, x), "input_ids": ids}
            out = network(**given)
            assert torch.allclose(out.text_embeds.norm(dim=1), torch.ones(3))
            mean = out.text_embeds.mean(0)
            classes.append(mean / mean.norm())
        logits = network.logit_scale.exp() * out.image_embeds @ torch.stack(classes).T
        if family == "siglip":
            logits = logits + network.logit_bias
            wanted = logits.sigmoid()
        else:
            wanted = logits.softmax(-1)
    np.testing.assert_allclose(made.logits(x), logits.numpy(), atol=1e-4, rtol=1e-4)
    got = made.classify(x, batch_size=2)
    np.testing.assert_allclose(got, wanted.numpy(), atol=1e-5, rtol=1e-4)
    assert got.dtype == np.float32 and got.std() > 0.01


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_second_calls(loss):
    """Other classes, another count of images, and weights that changed in between."""
    made = classifier(loss)
    x = tiny_clip.images(5)
    first = made.classify(x)
    np.testing.assert_allclose(first, by_hand(made, x), atol=1e-5)
    if loss == "softmax":
        np.testing.assert_allclose(first.sum(axis=1), 1.0, rtol=1e-5)
    other = kg.clip.ZeroShotClassifier(made.clip, NAMES[::-1], TEMPLATES)
    np.testing.assert_allclose(other.classify(x), first[:, ::-1], atol=1e-6)
    two = kg.clip.ZeroShotClassifier(made.clip, NAMES[:2], "{}")
    np.testing.assert_allclose(two.classify(x[:3]), by_hand(two, x[:3]), atol=1e-5)
    np.testing.assert_array_equal(made.classify(x), first)
    # One weight of the text tower, then the image tower, then the temperature.
    for variable in (
        made.clip.text_tower.network.norm_last.trainable_variables[0],
        made.clip.image_tower.network.norm.trainable_variables[0],
        made.clip.scale.logit_scale,
    ):
        variable.assign(variable.value * 1.5)
        again = made.classify(x)
        np.testing.assert_allclose(again, by_hand(made, x), atol=1e-5)
        assert np.abs(again / first - 1.0).max() > 1e-2
        first = again


def test_after_training():
    made = classifier()
    x = tiny_clip.images(6)
    before = made.classify(x)
    made.model()  # shares the tower, which trains as before
    made.clip.compile()
    captions = [NAMES[i % 3] for i in range(6)]
    made.clip.fit({"images": x, "captions": captions}, batch_size=3, verbose=0)
    after = made.classify(x)
    np.testing.assert_allclose(after, by_hand(made, x), atol=1e-5)
    assert np.abs(after - before).max() > 1e-6


def test_class_vectors_are_computed_once(monkeypatch):
    made = classifier()
    x = tiny_clip.images(2)
    made.classify(x)
    monkeypatch.setattr(made.clip, "encode_text", None)
    made.classify(x)
    made.label(x)


def test_names_and_accuracy():
    made = classifier()
    x = tiny_clip.images(20)
    best = made.classify(x).argmax(axis=1)
    assert made.label(x) == [NAMES[i] for i in best]
    assert made.evaluate(x, best) == {"accuracy": 1.0, "mean_class_accuracy": 1.0}
    named = made.evaluate(x, made.label(x))
    assert named["accuracy"] == 1.0
    labels = np.where(np.arange(20) < 5, (best + 1) % 3, best)
    found = made.evaluate(x, labels, batch_size=7)
    assert found["accuracy"] == 0.75
    shares = [(best == labels)[labels == i].mean() for i in np.unique(labels)]
    assert found["mean_class_accuracy"] == pytest.approx(np.mean(shares))


@pytest.mark.once
def test_a_name_with_braces_is_a_name():
    made = classifier(names=["a {}", "b {0}", "c"], templates="the {}.")
    texts = ["the a {}.", "the b {0}.", "the c."]
    np.testing.assert_array_equal(made._tokens, made.clip.tokenize(texts))
    assert made.templates == ("the {}.",)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_saved_without_the_text_tower(tmp_path, loss):
    made = classifier(loss, mean=(0.4, 0.5, 0.6), std=0.25)
    x = tiny_clip.images(4)
    made.save(tmp_path / "made.keras")
    loaded = kg.load_model(tmp_path / "made.keras")
    assert type(loaded) is kg.clip.ImageClassifier
    assert loaded.class_names == tuple(NAMES)
    assert loaded.count_params() < made.clip.count_params()
    for model in (made.model(), loaded):
        np.testing.assert_allclose(model.classify(x), made.classify(x), atol=1e-6)
        np.testing.assert_allclose(
            model.predict(x, verbose=0), made.logits(x), atol=1e-5, rtol=1e-5
        )
        np.testing.assert_array_equal(model.encode_image(x), made.clip.encode_image(x))
    # Again, after it was loaded.
    loaded.save(tmp_path / "again.keras")
    again = kg.load_model(tmp_path / "again.keras")
    np.testing.assert_array_equal(again.classify(x), loaded.classify(x))


def test_half_precision(tmp_path):
    made = classifier(dtype="mixed_bfloat16")
    x = tiny_clip.images(4)
    made.save(tmp_path / "made.keras")
    loaded = kg.load_model(tmp_path / "made.keras")
    assert loaded.dtype_policy.name == "mixed_bfloat16"
    assert loaded.kernel.dtype == "float32"
    np.testing.assert_allclose(loaded.classify(x), made.classify(x), atol=1e-5)


def test_a_network_of_keras_and_lora(tmp_path):
    """Any image tower; low-rank changes are merged before they are saved."""
    tower = keras.Sequential(
        [
            keras.Input((tiny_clip.SIDE, tiny_clip.SIDE, 3)),
            keras.layers.Conv2D(5, 3, strides=2, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(4, name="dense"),
        ]
    )
    text = tiny_clip.model()
    clip = kg.CLIP(tower, text.text_tower, 8, tokenizer=text.tokenizer)
    tiny_clip.shake(clip)
    made = kg.clip.ZeroShotClassifier(clip, NAMES)
    x = tiny_clip.images(4)
    made.save(tmp_path / "made.keras")
    loaded = kg.load_model(tmp_path / "made.keras")
    np.testing.assert_allclose(loaded.classify(x), made.classify(x), atol=1e-6)
    clip.enable_lora(2, targets=("dense",), towers=("image",))
    with pytest.raises(ValueError, match=r"call merge_lora\(\) before"):
        made.save(tmp_path / "made.keras")
    clip.merge_lora()
    made.save(tmp_path / "made.keras")


@pytest.mark.processes
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_savedmodel(loss, tmp_path, kept_child, tensorflow_alone):
    """TensorFlow alone classifies, with no text tower in the folder."""
    made = classifier(loss)
    x = tiny_clip.images(3)
    made.export(tmp_path / "served")
    calls = [("classify", {"images": x}), ("classify", {"images": x[:1]})]
    names, outputs = tensorflow_alone.serve(tmp_path / "served", calls)
    assert {"classify", "serving_default"} >= set(names) and "classify" in names
    wanted = made.classify(x)
    np.testing.assert_allclose(outputs[0]["probabilities"], wanted, atol=1e-5)
    np.testing.assert_allclose(outputs[1]["probabilities"], wanted[:1], atol=1e-5)
    with pytest.raises(ValueError, match="exists and is not empty"):
        made.export(tmp_path / "served")


@pytest.mark.processes
def test_onnx(tmp_path, kept_child):
    runtime = pytest.importorskip("onnxruntime")
    made = classifier()
    x = tiny_clip.images(5)
    made.export(tmp_path / "made.onnx", format="onnx", signature="classify")
    session = runtime.InferenceSession(str(tmp_path / "made.onnx"))
    for count in (5, 2):
        (got,) = session.run(None, {"images": x[:count]})
        np.testing.assert_allclose(got, made.classify(x[:count]), atol=1e-5)


@pytest.mark.once
@pytest.mark.parametrize(
    "change, says",
    [
        ({"names": "a heart"}, "class_names must be a list"),
        ({"names": []}, "class_names must be a list"),
        ({"names": ["a dog", 3]}, "class_names must be a list"),
        ({"names": ["a dog", "the sun", "a dog"]}, "'a dog' more than once"),
        ({"names": ["a dog", " "]}, "not empty; got ' '"),
        ({"names": ["a dog"]}, "class_names must be two or more"),
        ({"names": ["a dog", "x\u00e9", "x\u00e8"]}, "'x\u00e9' and 'x\u00e8' have"),
        ({"templates": "a photo"}, "templates must have {} where"),
        ({"templates": ["{}", "a photo of {0}"]}, "templates must have {} where"),
        ({"templates": []}, "templates must be a string with {}, or"),
        ({"templates": [""]}, "templates must be a string with {}, or"),
        ({"templates": 3}, "templates must be a string with {}, or"),
        ({"templates": "a very long image of {}"}, "have more than 24 tokens"),
    ],
)
def test_refusals(change, says):
    with pytest.raises(ValueError) as error:
        classifier(**change)
    assert says in str(error.value)


@pytest.mark.once
def test_one_class_of_a_sigmoid_and_other_refusals():
    made = classifier("sigmoid", ["a dog"])
    assert made.classify(tiny_clip.images(2)).shape == (2, 1)
    made = classifier()
    x = tiny_clip.images(2)
    for labels, says in (
        ([0, 3], "Labels must lie in"),
        ([0], "labels must be one for each image; got 1 labels and 2"),
        (["a dog", "a cat"], "labels must be among the 3 class names; got 'a cat'"),
        (["a dog"], "labels must be one for each image"),
        ([0.5, 1.0], "labels must be integers or strings"),
    ):
        with pytest.raises(ValueError, match=says):
            made.evaluate(x, labels)
    with pytest.raises(ValueError, match="Images must"):
        made.classify(x[:, :4])
    with pytest.raises(ValueError, match="clip must be a kg.CLIP"):
        kg.clip.ZeroShotClassifier(made, NAMES)
    made.clip.tokenizer = None
    with pytest.raises(ValueError, match="tokenizer"):
        kg.clip.ZeroShotClassifier(made.clip, NAMES)
    with pytest.raises(AttributeError):
        made.class_names = ["a", "b"]
