"""The CLIP of the emoji that ships with the package."""

import json
import pathlib

import numpy as np
import pytest

import keras_genai as kg
from keras_genai.clip import packaged

pytest.importorskip("tokenizers")
GOLDEN = json.loads((pathlib.Path(__file__).parent / "emoji.json").read_text())


def test_it_finds_what_it_knows_and_is_the_same_everywhere():
    clip = kg.clip.emoji()
    data = kg.datasets.emoji()
    images, names = data["images"][::400], data["captions"][::400]
    np.testing.assert_allclose(clip.encode_image(images), GOLDEN["images"], atol=1e-4)
    np.testing.assert_allclose(clip.encode_text(names), GOLDEN["texts"], atol=1e-4)
    found = clip.index(data["images"][::4], data["captions"][::4])
    (matches,) = found.search("grinning face", k=1)[:1] or [None]
    assert matches.item == "grinning face"
    # Half as large, with pixels twice as wide and high, a picture is the same.
    small = images.reshape(-1, 32, 2, 32, 2, 3).mean((2, 4))
    doubled = small.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(
        clip.encode_image(doubled), clip.encode_image(images), atol=1e-5
    )
    zero_shot = kg.clip.ZeroShotClassifier(clip, ["a face", "a flag"], ["{}"])
    assert zero_shot.label(images[:1]) == ["a face"]


@pytest.mark.once
def test_the_file_is_small_and_is_checked(monkeypatch, tmp_path):
    assert packaged.FILE.stat().st_size <= 6 * 2**20
    data = packaged.FILE.read_bytes()
    damaged = tmp_path / "emoji.npz"
    damaged.write_bytes(data[:-9] + b"123456789")
    monkeypatch.setattr(packaged, "FILE", damaged)
    with pytest.raises(ValueError, match="is damaged"):
        kg.clip.emoji()
    for style in ("google", "fluent"):
        recall = GOLDEN["recall"][style]
        assert recall["image_to_text_recall@5"] > 0.85
