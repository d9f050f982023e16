"""Labelled images and emoji: what they are, and how a broken copy is refused."""

import hashlib
import shutil

import numpy as np
import pytest

from keras_genai import datasets
from keras_genai.datasets import _files
from keras_genai.datasets import images as emoji_images

pytestmark = pytest.mark.once


@pytest.fixture(scope="module")
def fashion():
    return datasets.load("fashion_mnist")


def test_names_lists_what_load_knows():
    assert datasets.names() == [
        "cifar10",
        "fashion_mnist",
        "fashion_mnist_full",
        "mnist",
        "quickdraw",
    ]


def test_shapes_types_and_range(fashion):
    for (images, labels), count in zip(fashion, (20000, 5000), strict=True):
        assert images.shape == (count, 28, 28, 1)
        assert images.dtype == np.float32
        assert labels.shape == (count,)
        assert labels.dtype == np.int32
        # Exactly the ends: the models refuse data a rounding error outside.
        assert images.min() == -1.0
        assert images.max() == 1.0
        assert images.flags.writeable


def test_every_class_has_the_same_share(fashion):
    for (_, labels), share in zip(fashion, (2000, 500), strict=True):
        assert np.bincount(labels).tolist() == [share] * 10


def test_the_order_is_that_of_the_full_set(fashion):
    # The first labels of Fashion-MNIST's own training and test files.
    assert fashion[0][1][:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert fashion[1][1][:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]


def test_class_names_in_the_order_of_the_published_definition(fashion):
    names = datasets.class_names("fashion_mnist")
    assert names == (
        "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
    ).split(",")
    # And the pictures agree: a pair of trousers has a gap between two legs, a
    # sandal covers fewer pixels than a bag.
    images, labels = fashion[0]
    ink = [(images[labels == label] > -0.5).mean(axis=(0, 3)) for label in range(10)]
    legs = ink[names.index("Trouser")]
    assert legs[24, 14] < 0.5 * legs[24, 10]
    assert ink[names.index("Sandal")].mean() < 0.6 * ink[names.index("Bag")].mean()


def test_class_names_cannot_be_changed_from_outside():
    datasets.class_names("fashion_mnist")[0] = "Hat"
    assert datasets.class_names("fashion_mnist")[0] == "T-shirt/top"


@pytest.mark.parametrize("value_range", [(0.0, 1.0), (-1, 1), (0, 255), (-0.3, 0.7)])
def test_value_range(fashion, value_range):
    low, high = value_range
    (images, labels), _ = datasets.load("fashion_mnist", value_range=value_range)
    assert images.dtype == np.float32
    assert images.min() == np.float32(low)
    assert images.max() == np.float32(high)
    np.testing.assert_array_equal(labels, fashion[0][1])
    wanted = (fashion[0][0][:100].astype("float64") + 1) / 2 * (high - low) + low
    np.testing.assert_allclose(
        images[:100], wanted, rtol=0, atol=1e-6 * max(abs(low), abs(high))
    )


@pytest.mark.parametrize(
    "value_range",
    [(1.0, -1.0), (0.0, 0.0), (0.0, float("nan")), (-float("inf"), 1.0), (1.0,), 1.0]
    + [None, "ab", ("a", "b"), (0.0, 0.5, 1.0)],
)
def test_a_bad_value_range_is_refused(value_range):
    with pytest.raises(ValueError, match=r"two finite numbers.*low < high.*got"):
        datasets.load("fashion_mnist", value_range=value_range)


@pytest.mark.parametrize(
    "name, offer",
    [
        ("fashion-mnist", "Did you mean 'fashion_mnist'"),
        ("Mnist", "Did you mean 'mnist'"),
        ("CIFAR-10", "Did you mean 'cifar10'"),
        ("quick draw", "Did you mean 'quickdraw'"),
        ("shakespear", r"Did you mean 'shakespeare' \(by `text\('shakespeare'\)`\)"),
        ("adult", r"'adult' is loaded by `table\('adult'\)`"),
        ("emoji", r"'emoji' is loaded by `emoji\(\)`"),
        ("xyz", "'xyz'. Known"),
        ("", "''. Known"),
        (None, "None. Known"),
        (3, "3. Known"),
        ("../fashion_mnist", "Did you mean 'fashion_mnist'"),
    ],
)
def test_an_unknown_name_offers_the_nearest(name, offer):
    for function in (datasets.load, datasets.class_names):
        with pytest.raises(ValueError, match=rf"no data set of images.*{offer}"):
            function(name)


def test_a_damaged_file_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    file = "fashion_mnist.npz"
    shutil.copy(_files.FOLDER / file, tmp_path / file)
    monkeypatch.setattr(_files, "FOLDER", tmp_path)
    datasets.load("fashion_mnist")
    monkeypatch.setattr(np, "load", lambda *a, **k: pytest.fail("parsed"))
    packed = bytearray((tmp_path / file).read_bytes())
    packed[5_000_000] ^= 1
    for damaged in (bytes(packed), bytes(packed[:1000]), b""):
        (tmp_path / file).write_bytes(damaged)
        with pytest.raises(ValueError, match=r"damaged.*Install keras-genai again"):
            datasets.load("fashion_mnist")


def test_a_missing_file_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(_files, "FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"missing.*Install keras-genai again"):
        datasets.load("fashion_mnist")


# Sketches -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def quickdraw():
    return datasets.load("quickdraw", value_range=(0.0, 1.0))


def test_the_sketches(quickdraw):
    for (images, labels), share in zip(quickdraw, (80, 20), strict=True):
        assert images.shape == (345 * share, 28, 28, 1)
        assert (images.dtype, labels.dtype) == (np.float32, np.int32)
        assert (images.min(), images.max()) == (0.0, 1.0)
        # No sheet is empty, and every beginning has all classes alike.
        assert images.max(axis=(1, 2, 3)).min() > 0
        assert labels.tolist() == list(range(345)) * share


def test_names_of_the_sketches():
    names = datasets.class_names("quickdraw")
    assert len(set(names)) == 345
    assert names[:2] == ["aircraft carrier", "airplane"]
    assert names[-2:] == ["zebra", "zigzag"]
    assert {"cat", "The Eiffel Tower"} <= set(names)


def test_the_sketches_show_what_their_names_say(quickdraw):
    # Lines drawn in one stroke have little ink, and a calendar's grid much.
    names = datasets.class_names("quickdraw")
    images, labels = quickdraw[0]
    ink = [images[labels == names.index(name)].mean() for name in ("line", "calendar")]
    assert 4 * ink[0] < ink[1]
    # A nearest-mean classifier learns from them: chance is one in 345.
    means = np.stack([images[labels == each].mean(axis=0) for each in range(345)])
    means = means.reshape(345, -1)
    test, wanted = quickdraw[1][0][:690].reshape(690, -1), quickdraw[1][1][:690]
    distance = (means**2).sum(1) - 2 * test @ means.T  # (690, 345)
    assert np.mean(distance.argmin(1) == wanted) > 20 / 345


# Emoji --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def emoji():
    return {style: datasets.emoji(style) for style in ("google", "fluent")}


@pytest.mark.parametrize("style, count", [("google", 1911), ("fluent", 1544)])
def test_the_emoji(emoji, style, count):
    data = emoji[style]
    assert data["images"].shape == (count, 64, 64, 3)
    assert data["images"].dtype == np.float32
    assert (data["images"].min(), data["images"].max()) == (-1.0, 1.0)
    for column in ("captions", "tags", "codes", "characters", "groups", "subgroups"):
        assert len(data[column]) == count
    assert len(set(data["codes"])) == count
    assert data["captions"][0] == "grinning face"
    assert data["characters"][0] == "\N{GRINNING FACE}"
    assert all(isinstance(tag, str) for tags in data["tags"] for tag in tags)


@pytest.mark.parametrize("style", ["google", "fluent"])
def test_the_emoji_show_what_their_captions_say(emoji, style):
    data = emoji[style]
    for caption, channel in [("green apple", 1), ("blue heart", 2), ("red apple", 0)]:
        image = data["images"][data["captions"].index(caption)]
        coloured = image[image.min(axis=-1) < 0.5]  # what is not the white around
        assert coloured.mean(axis=0).argmax() == channel, caption
    corners = data["images"][:, [0, 0, -1, -1], [0, -1, 0, -1]]  # (N, 4, 3)
    assert np.mean(corners == 1.0) > 0.75  # the background is white


def test_a_code_is_one_thing_in_both_styles(emoji):
    captions = [
        dict(zip(d["codes"], d["captions"], strict=True)) for d in emoji.values()
    ]
    shared = set(captions[0]) & set(captions[1])
    assert len(shared) == 1544
    assert all(captions[0][code] == captions[1][code] for code in shared)


def test_the_fluent_emoji_are_those_that_were_published(emoji):
    data = emoji["fluent"]
    assert not {"country-flag", "family"} & set(data["subgroups"])
    assert not {"paperclip", "technologist", "video game"} & set(data["captions"])


SPLITS = {
    ("google", "train"): 1611,
    ("google", "held_out_names"): 300,
    ("google", "seen_names"): 1611,
    ("fluent", "train"): 1056,
    ("fluent", "held_out_drawings"): 244,
    ("fluent", "held_out_names"): 244,
    ("fluent", "seen_names"): 1300,
}
# The first digits of the SHA-256 of their code points, sorted.
FIXED = {
    ("google", "held_out_names"): "9751d9c85fac5759",
    ("fluent", "held_out_drawings"): "ac10a352e9ab50cb",
}


@pytest.fixture(scope="module")
def splits(emoji):
    """(style, split) -> the rows of that split in `emoji(style)`."""
    return {
        (style, split): [
            i
            for i, code in enumerate(emoji[style]["codes"])
            if emoji_images._is_in(code, style, split)
        ]
        for style, split in SPLITS
    }


def test_the_splits_of_the_emoji_have_their_counts(emoji, splits):
    assert {each: len(rows) for each, rows in splits.items()} == SPLITS
    # Later models are compared by them: they never change.
    for (style, split), digest in FIXED.items():
        rows = splits[style, split]
        codes = " ".join(sorted(emoji[style]["codes"][i] for i in rows))
        assert hashlib.sha256(codes.encode()).hexdigest()[:16] == digest
        data = datasets.emoji(style, split=split)
        np.testing.assert_array_equal(data["images"], emoji[style]["images"][rows])
        for column in set(data) - {"images"}:
            assert data[column] == [emoji[style][column][i] for i in rows]
    with pytest.raises(ValueError, match="'held_out_drawings' has no pictures in the"):
        datasets.emoji("google", split="held_out_drawings")
    with pytest.raises(ValueError, match="split must be one of train, .*; got 'test'"):
        datasets.emoji(split="test")


def test_nothing_of_a_held_out_emoji_is_trained_on(emoji, splits):
    def held(column, style, split):
        return {emoji[style][column][i] for i in splits[style, split]}

    for column in ("codes", "captions"):
        names = held(column, "google", "held_out_names")
        assert held(column, "fluent", "held_out_names") <= names
        seen = held(column, "google", "train")
        assert not names & (seen | held(column, "fluent", "seen_names"))
        drawings = held(column, "fluent", "held_out_drawings")
        trained = held(column, "fluent", "train")
        assert drawings <= seen and not drawings & trained
        assert drawings | trained == held(column, "fluent", "seen_names")
    for style in emoji:  # nor a picture that is one of them to the pixel
        pictures = [image.tobytes() for image in emoji[style]["images"]]
        known = {pictures[i] for i in splits[style, "train"]}
        for each in SPLITS:
            if each[0] == style and each[1].startswith("held_out"):
                assert not known & {pictures[i] for i in splits[each]}
    groups = held("groups", "google", "held_out_names")
    assert groups == set(emoji["google"]["groups"]) - {"component"}  # five skin tones


def test_alpha_and_white():
    data = datasets.emoji("fluent", value_range=(0.0, 1.0), alpha=True)
    images = data["images"].astype("float64")
    assert images.shape == (1544, 64, 64, 4)
    assert (images[..., 3].min(), images[..., 3].max()) == (0.0, 1.0)
    wanted = images[..., :3] * images[..., 3:] + 1 - images[..., 3:]
    white = datasets.emoji("fluent", value_range=(0.0, 1.0))["images"]
    np.testing.assert_allclose(white, wanted, rtol=0, atol=0.5 / 255 + 1e-6)


def test_captions_in_other_languages(emoji):
    spanish = datasets.emoji("google", language="es")["captions"]
    german = datasets.emoji("google", language="de")["captions"]
    captions = emoji["google"]["captions"]
    place = captions.index("dog face")
    assert (spanish[place], german[place]) == ("cara de perro", "Hundegesicht")


def test_bad_arguments_of_emoji():
    with pytest.raises(
        ValueError, match="no style of emoji 'gogle'. Did you mean 'goo"
    ):
        datasets.emoji("gogle")
    with pytest.raises(ValueError, match="no language .* 'english'.*Known: 'bn'.*'en'"):
        datasets.emoji(language="english")
    with pytest.raises(ValueError, match="low < high"):
        datasets.emoji(value_range=(1, 0))


# Licences -----------------------------------------------------------------------


def test_the_notices_are_kept():
    notice = (_files.FOLDER / "NOTICE.md").read_text(encoding="utf-8")
    for file in _files.PACKAGED:
        assert f"\n## {file}\n" in notice
    for holder in (
        "Copyright: 2017, Zalando SE",
        "Copyright (c) Microsoft Corporation",
        "Copyright (c) 2017-2019 Miles Johnson",
        "Copyright (c) 2017 Thomas Wagenaar",
        "Creative Commons Attribution\n4.0 International",
        "Apache License 2.0",
        "Open Knowledge Foundation",
        "License: public-domain",
    ):
        assert holder in notice
    assert "Permission is hereby granted, free of charge" in notice
