"""Recall at k, CLIPScore and directions by hand."""

import itertools

import numpy as np
import pytest

import keras_genai as kg
from keras_genai.metrics import retrieval

pytestmark = pytest.mark.once

CAPTIONS = [["a red heart", "love"], ["a dog"], ["love", "a kiss"], ["a cat"]]


def vectors(count, channels=5, seed=0):
    return np.random.default_rng(seed).normal(size=(count, channels))


def by_hand(images, texts, groups, ks):
    """Recalls by sorting all candidates of each query, wrong ones first of equals."""
    flat = [(i, text) for i, group in enumerate(groups) for text in group]
    images = images / np.linalg.norm(images, axis=1, keepdims=True)
    texts = texts / np.linalg.norm(texts, axis=1, keepdims=True)
    scores = images @ texts.T
    found = {}
    for k in ks:
        hits = []
        for i, group in enumerate(groups):
            right = [text in group for _, text in flat]
            order = sorted(range(len(flat)), key=lambda j: (-scores[i, j], right[j]))
            hits.append(any(right[j] for j in order[:k]))
        found[f"image_to_text_recall@{k}"] = np.mean(hits)
        hits = []
        for j, (_, text) in enumerate(flat):
            right = [text in group for group in groups]
            order = sorted(range(len(groups)), key=lambda i: (-scores[i, j], right[i]))
            hits.append(any(right[i] for i in order[:k]))
        found[f"text_to_image_recall@{k}"] = np.mean(hits)
    return {**found, "texts": len(flat), "images": len(groups)}


@pytest.mark.parametrize("seed", range(5))
def test_recall_is_that_of_sorted_candidates(seed, monkeypatch):
    images, texts = vectors(4, seed=seed), vectors(6, seed=seed + 50)
    wanted = by_hand(images, texts, CAPTIONS, (1, 2, 3))
    assert kg.metrics.recall_at_k(images, texts, CAPTIONS, k=[1, 2, 3]) == wanted
    # Whatever the lengths of the vectors, and however few rows are compared at once.
    monkeypatch.setattr(retrieval, "_BLOCK_BYTES", 1)
    scaled = images * vectors(4, 1, seed=1) ** 2
    assert kg.metrics.recall_at_k(scaled, texts, CAPTIONS, k=(1, 2, 3)) == wanted


def test_pairs_alone_and_equal_captions():
    x = np.eye(4)
    found = kg.metrics.recall_at_k(x, x[[1, 0, 2, 3]], k=(1, 2))
    assert found["image_to_text_recall@1"] == found["text_to_image_recall@1"] == 0.5
    # Ties of three wrong ones at 0 stand before the right one.
    assert found["image_to_text_recall@2"] == 0.5
    # The two that are exchanged say the same.
    names = ["star", "star", "moon", "sun"]
    found = kg.metrics.recall_at_k(x, x[[1, 0, 2, 3]], names, k=1)
    assert found["image_to_text_recall@1"] == found["text_to_image_recall@1"] == 1.0
    assert (found["texts"], found["images"]) == (4, 4)


def test_a_collapsed_model_finds_nothing():
    one = vectors(1, 64).astype("float32")
    same = np.repeat(one, 300, axis=0)
    rng = np.random.default_rng(1)
    for noise in (0.0, 1e-8):  # rounding does not tell candidates apart
        x, y = (same + noise * rng.normal(size=same.shape) for _ in range(2))
        found = kg.metrics.recall_at_k(x, y, k=(1, 10))
        assert {v for n, v in found.items() if "recall" in n} == {0.0}


def test_the_best_and_chance():
    x = vectors(200, 32)
    assert kg.metrics.recall_at_k(x, x, k=1)["text_to_image_recall@1"] == 1.0
    found = kg.metrics.recall_at_k(x, vectors(200, 32, seed=9), k=(10, 200))
    assert found["image_to_text_recall@10"] == pytest.approx(0.05, abs=0.05)
    assert found["image_to_text_recall@200"] == 1.0


def test_half_precision():
    x = vectors(20, 16).astype("float16")
    assert kg.metrics.recall_at_k(x, x, k=1)["image_to_text_recall@1"] == 1.0


@pytest.mark.parametrize(
    "change, says",
    [
        ({"text_embeddings": vectors(3)}, "got 4 image embeddings and 3"),
        ({"captions": ["a", "b", "c"]}, "3 texts of 3 images; got 4 text embeddings"),
        ({"captions": ["a", [], "c", "d"]}, "captions must be a list of strings"),
        ({"captions": ["a", 3, "c", "d"]}, "captions must be a list of strings"),
        ({"captions": "abcd"}, "captions must be a list of strings"),
        ({"k": 0}, "k must be an integer of at least 1"),
        ({"k": ()}, "k must be an integer of at least 1"),
        ({"k": [[1], [2, 3]]}, "k must be an integer of at least 1"),
        ({"k": (1, 2.5)}, "k must be an integer"),
        ({"text_embeddings": vectors(4, 6)}, "got 5, 6. Are they of one model"),
        ({"image_embeddings": vectors(4) * np.nan}, "image_embeddings must be"),
        ({"image_embeddings": vectors(4)[0]}, "image_embeddings must be"),
    ],
)
def test_bad_input(change, says):
    given = {"image_embeddings": vectors(4), "text_embeddings": vectors(4)}
    with pytest.raises(ValueError, match=says.replace("(", r"\(")):
        kg.metrics.recall_at_k(**{**given, **change})


def test_clip_score_by_hand():
    x = np.array([[1.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
    y = np.array([[2.0, 0.0], [1.0, 0.0], [-1.0, 0.1]])
    np.testing.assert_allclose(kg.metrics.clip_score(x, y), [2.5, 1.5, 0.0])
    np.testing.assert_allclose(kg.metrics.clip_score(x, y, w=100), [100, 60, 0])
    np.testing.assert_allclose(kg.metrics.clip_score(x, y[:1]), [2.5, 1.5, 2.5])
    with pytest.raises(ValueError, match="text_embeddings must have 3 rows"):
        kg.metrics.clip_score(x, y[:2])
    with pytest.raises(ValueError, match="w must be"):
        kg.metrics.clip_score(x, y, w=0)


def test_directional_similarity_by_hand():
    photo, sketch = np.array([[0.0, 1.0, 0.0]]), np.array([[0.0, 0.0, 1.0]])
    before = np.array([[1.0, 2.0, 0.0], [1.0, 2.0, 0.0], [5.0, 1.0, 1.0]])
    after = np.array([[1.0, 0.0, 2.0], [2.0, 4.0, 0.0], [5.0, 1.0, 1.0]])
    found = kg.metrics.directional_similarity(before, after, photo, sketch)
    np.testing.assert_allclose(found, [1.0, 0.0, 0.0], atol=1e-12)  # 0: no change
    found = kg.metrics.directional_similarity(after, before, photo, sketch)
    np.testing.assert_allclose(found[0], -1.0)
    # Lengths do not count, each text may have its own row.
    scaled = kg.metrics.directional_similarity(
        before, after * [[3.0], [1.0], [2.0]], np.repeat(photo, 3, axis=0), 7 * sketch
    )
    np.testing.assert_allclose(scaled, [1.0, 0.0, 0.0], atol=1e-12)
    x = [vectors(4, seed=i) for i in range(4)]
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in x]
    moved, said = unit[1] - unit[0], unit[3] - unit[2]
    wanted = [
        a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        for a, b in zip(moved, said, strict=True)
    ]
    np.testing.assert_allclose(kg.metrics.directional_similarity(*x), wanted)
    for i, count in itertools.product((0, 2), (0, 3)):
        wrong = [y[:count] if i == j else y for j, y in enumerate(x)]
        with pytest.raises(ValueError, match="source_"):
            kg.metrics.directional_similarity(*wrong)
