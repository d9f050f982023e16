"""Indices and ranks: by sorting, second calls, files, refusals."""

import json

import numpy as np
import pytest

import keras_genai as kg
from keras_genai.clip import index as index_lib
from keras_genai.training.fingerprint import fingerprint
from tests.support import tiny_clip
from tests.support.conformance import host

pytestmark = pytest.mark.in_turn

pytest.importorskip("tokenizers")

ITEMS = [f"picture {i}" for i in range(7)]


@pytest.fixture(scope="module")
def model():
    return tiny_clip.model()


def sorted_by_hand(query, vectors, k):
    scores = vectors @ query
    order = sorted(range(len(vectors)), key=lambda i: (-scores[i], i))[:k]
    return order, scores[order]


def check(found, query, vectors, k, items):
    order, scores = sorted_by_hand(query, vectors, k)
    assert [match.number for match in found] == order
    assert [match.item for match in found] == [items[i] for i in order]
    np.testing.assert_allclose([match.score for match in found], scores, atol=2e-6)


def test_search_by_texts_images_and_vectors(model, monkeypatch):
    x = tiny_clip.images(7)
    index = model.index(x, ITEMS, batch_size=3)
    vectors = model.encode_image(x)
    assert len(index) == 7
    np.testing.assert_allclose(index.vectors, vectors, atol=1e-6)
    text = model.encode_text("a dog")[0]
    check(index.search("a dog", k=3), text, vectors, 3, ITEMS)
    number, item, score = index.search(x[4], k=1)[0]
    assert (number, item) == (4, "picture 4") and score == pytest.approx(1.0, abs=1e-5)
    assert isinstance(number, int) and isinstance(score, float)
    check(index.search(5.0 * text, k=2), text, vectors, 2, ITEMS)
    # Several at once, more than there are; also where few scores fit at once.
    for size in (index_lib._BLOCK_BYTES, 1):
        monkeypatch.setattr(index_lib, "_BLOCK_BYTES", size)
        for queries, own in (
            (["a dog", "the sun"], model.encode_text(["a dog", "the sun"])),
            (np.array(["a dog"]), text[None]),
            (x[:3], vectors[:3]),
            (vectors[2:4], vectors[2:4]),
            (vectors[2:4].tolist(), vectors[2:4]),
        ):
            found = index.search(queries, k=100)
            assert len(found) == len(own)
            for one, query in zip(found, own, strict=True):
                check(one, query, vectors, 7, ITEMS)


def test_of_equal_scores_the_least_number_comes_first(model):
    vectors = np.eye(8, dtype="float32")[[3, 1, 2, 1, 1, 0, 1, 2]]
    found = model.index(vectors).search(vectors[1], k=6)
    assert [match.number for match in found] == [1, 3, 4, 6, 0, 2]
    assert [match.score for match in found] == [1.0] * 4 + [0.0] * 2
    assert {match.item for match in found} == {None}


def test_adding_in_parts_is_adding_at_once(model):
    x = tiny_clip.images(7)
    whole = model.index(x, ITEMS)
    parts = kg.clip.Index(model)
    assert len(parts) == 0 and parts.search("a dog") == []
    assert parts.search(["a dog", "a"], k=3) == [[], []]
    parts.add(x[:2], ITEMS[:2])
    parts.search("a dog")
    parts.add(model.encode_image(x[2:5]), ITEMS[2:5]).add(x[5:], ITEMS[5:])
    np.testing.assert_allclose(parts.vectors, whole.vectors, atol=1e-6)
    assert parts.items == whole.items == ITEMS
    assert [m.number for m in parts.search("a dog")] == [
        m.number for m in whole.search("a dog")
    ]


@pytest.mark.parametrize("items", [ITEMS, None])
def test_saved_and_loaded(model, tmp_path, items):
    x = tiny_clip.images(7)
    index = model.index(x, items)
    path = tmp_path / "new" / "index.npz"
    index.save(path)
    index.save(path)  # over itself
    assert [p.name for p in path.parent.iterdir()] == ["index.npz"]
    loaded = kg.clip.Index.load(path, model)
    np.testing.assert_array_equal(loaded.vectors, index.vectors)
    assert loaded.items == index.items
    assert loaded.search("a dog") == index.search("a dog")
    more = None if items is None else ["one more"]
    loaded.add(x[:1], more).save(path)
    assert len(kg.clip.Index.load(path, model)) == 8
    # A model of the same weights, as one that was loaded itself.
    model.save(tmp_path / "model.keras")
    again = kg.load_model(tmp_path / "model.keras")
    assert kg.clip.Index.load(path, again).search(x[3], k=1)[0].number == 3
    kg.clip.Index(model).save(tmp_path / "empty.npz")
    assert kg.clip.Index.load(tmp_path / "empty.npz", model).search("a dog") == []


def test_another_models_index_is_refused(model, tmp_path):
    x = tiny_clip.images(4)
    index = model.index(x)
    index.save(tmp_path / "index.npz")
    for other in (tiny_clip.model(seed=1), tiny_clip.model(mean=0.3)):
        with pytest.raises(ValueError, match="was made with another model, or with"):
            kg.clip.Index.load(tmp_path / "index.npz", other)


@pytest.mark.parametrize("tower", ["image_tower", "text_tower"])
def test_weights_that_changed_are_refused(tower):
    model = tiny_clip.model()
    x = tiny_clip.images(4)
    index = model.index(x)
    variable = getattr(model, tower).trainable_variables[-1]
    value = host(variable.value)
    changed = np.array(value)
    changed.flat[-1] += 1e-3
    value = value.copy()
    variable.assign(changed)
    for call in (lambda: index.search("a dog"), lambda: index.add(x)):
        with pytest.raises(ValueError, match="weights have changed since the index"):
            call()
    variable.assign(value)
    index.search("a dog")
    # The temperature is none of the vectors' business.
    model.scale.logit_scale.assign(1.0)
    index.search("a dog")


@pytest.mark.once
def test_training_makes_an_index_old():
    model = tiny_clip.model()
    x = tiny_clip.images(4)
    index = model.index(x)
    model.compile()
    model.train_on_batch({"images": x, "captions": ["a", "b", "c", "d"]})
    with pytest.raises(ValueError, match="Make it anew"):
        index.search("a dog")
    assert len(model.index(x).search("a dog")) == 4


@pytest.mark.once
def test_a_fingerprint_sees_every_byte():
    class Weight:
        dtype = "float32"

        def __init__(self, value):
            self.value, self.shape = value, value.shape

    class Counter(Weight):
        dtype = "int32"

    value = np.arange(1301, dtype="float32")
    known = fingerprint([Weight(value)])
    assert fingerprint([Weight(value.copy()), Counter(value)]) == known
    for i in (0, 1, 508, 509, 1017, 1018, 1299, 1300):
        other = value.copy()
        other[i] = np.nextafter(other[i], 2e9, dtype="float32")
        assert fingerprint([Weight(other)]) != known, i
    assert fingerprint([Weight(value.reshape(1, -1))]) != known
    assert fingerprint([Weight(value[::-1])]) != known
    assert fingerprint([Weight(value[:0])]) != fingerprint([])


def test_rank(model):
    x, names = tiny_clip.images(3), ["a dog", "the sun", "a", "heart"]
    texts = model.encode_text(names)
    found = model.rank(x, names, k=2)
    for one, query in zip(found, model.encode_image(x), strict=True):
        check(one, query, texts, 2, names)
    tokens = model.tokenize(names)
    ranked = model.rank(x, tokens, k=9)
    assert [[m.number for m in row][:2] for row in ranked] == [
        [m.number for m in row] for row in found
    ]
    assert {m.item for row in ranked for m in row} == {None}
    assert model.rank(x, "a dog")[0][0].item == "a dog"
    with pytest.raises(ValueError, match="k must be"):
        model.rank(x, names, k=0)
    # The scores are cosines: without the temperature.
    assert abs(found[0][0].score) <= 1.0


def stored(path, about=None, **arrays):
    """An index's file with something else in it."""
    with np.load(path) as file:
        found = {**file, **arrays}
    if about is not None:
        text = json.loads(bytes(found["about"])) | about
        found["about"] = np.frombuffer(json.dumps(text).encode(), "uint8")
    np.savez(path, **{name: a for name, a in found.items() if a is not None})


@pytest.mark.once
def test_damaged_files(model, tmp_path):
    path = tmp_path / "index.npz"
    with pytest.raises(ValueError, match="There is no file"):
        kg.clip.Index.load(path, model)
    for name in ("index", "index.keras"):
        with pytest.raises(ValueError, match=r"ends in \.npz"):
            model.index(tiny_clip.images(2)).save(tmp_path / name)
    index = model.index(tiny_clip.images(7), ITEMS)
    index.save(path)
    whole = path.read_bytes()
    changes = [
        {"vectors": None},
        {"about": None, "vectors": np.array([object()])},  # a pickle
        {"vectors": np.zeros((7, 8))},
        {"vectors": np.zeros(7, "float32")},
        {"vectors": np.full((7, 8), np.nan, "float32")},
        {"vectors": np.zeros((3, 8), "float32")},
        {"about": {"items": [1, 2]}},
        {"about": {"items": ITEMS[:3]}},
        {"about": {"format": 2}},
    ]
    for change in changes:
        path.write_bytes(whole)
        stored(path, **change)
        with pytest.raises(ValueError, match=r"index\.npz is damaged, or no index"):
            kg.clip.Index.load(path, model)
    place = whole.index(index.vectors.tobytes()) + 17
    flipped = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
    for data in (b"", whole[:-40], whole[:100], b"no archive", flipped):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"index\.npz is damaged, or no index"):
            kg.clip.Index.load(path, model)
    path.write_bytes(whole)
    assert kg.clip.Index.load(path, model).items == ITEMS


@pytest.mark.once
def test_a_full_disk_leaves_what_stood_there(model, tmp_path, full_disk):
    path = tmp_path / "index.npz"
    index = model.index(tiny_clip.images(7), ITEMS)
    index.save(path)
    index.add(tiny_clip.images(50, "more"), ["more"] * 50)
    with full_disk(), pytest.raises(OSError, match=r"index\.npz"):
        index.save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["index.npz"]
    assert len(kg.clip.Index.load(path, model)) == 7


@pytest.mark.once
def test_refusals(model):
    x = tiny_clip.images(3)
    index = model.index(x, ITEMS[:3])
    zero = np.zeros(8, "float32")
    for call, says in (
        (lambda: index.search("a dog", k=0), "k must be"),
        (lambda: index.search("a dog", k=1.5), "k must be"),
        (lambda: index.search("x" * 50), "more than 24 tokens"),
        (lambda: index.search(["a dog", 3]), "query must be a list of at least one"),
        (lambda: index.search(None), "query must be a string, an image"),
        (lambda: index.search(np.ones(5)), "query must be images, or vectors of 8"),
        (lambda: index.search(zero), "query must be images, or vectors of 8"),
        (lambda: index.search(zero * np.nan), "query must be a string, an image"),
        (lambda: index.search(x[0, :4]), "Images must have the shape"),
        (lambda: index.search(100 * x[0]), "Images must lie in"),
        (lambda: index.add(x), "items must be given, since"),
        (lambda: index.add(x, ITEMS), "got 3 images and 7 items"),
        (lambda: index.add(x, [1, 2, 3]), "items must be a list of strings"),
        (lambda: index.add(x, "abc"), "items must be a list of strings"),
        (lambda: model.index(x).add(x, ITEMS[:3]), "items must be left out"),
        (lambda: model.index(x[:, :4]), "Images must have the shape"),
        (lambda: model.index(np.ones((3, 5))), "images must be images, or vectors"),
        (lambda: kg.clip.Index("model"), "clip must be a kg.CLIP"),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert says in str(error.value)
    assert len(index) == 3 and index.items == ITEMS[:3]
