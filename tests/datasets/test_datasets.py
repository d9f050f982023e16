"""The data inside the package: what it is, and how a broken copy is refused."""

import shutil

import numpy as np
import pytest

from keras_genai import datasets


@pytest.fixture(scope="module")
def fashion():
    return datasets.load("fashion_mnist")


def test_names_lists_what_load_knows():
    assert datasets.names() == ["fashion_mnist"]


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


@pytest.mark.parametrize("name", ["mnist", "", None, 3, "../fashion_mnist"])
def test_an_unknown_name_lists_the_known(name):
    for function in (datasets.load, datasets.class_names):
        with pytest.raises(ValueError, match=r"no data set.*Known: 'fashion_mnist'"):
            function(name)


def test_a_damaged_file_is_refused_before_it_is_parsed(tmp_path, monkeypatch):
    file = "fashion_mnist.npz"
    shutil.copy(datasets._FOLDER / file, tmp_path / file)
    monkeypatch.setattr(datasets, "_FOLDER", tmp_path)
    datasets.load("fashion_mnist")
    monkeypatch.setattr(np, "load", lambda *a, **k: pytest.fail("parsed"))
    packed = bytearray((tmp_path / file).read_bytes())
    packed[5_000_000] ^= 1
    for damaged in (bytes(packed), bytes(packed[:1000]), b""):
        (tmp_path / file).write_bytes(damaged)
        with pytest.raises(ValueError, match=r"damaged.*Install keras-genai again"):
            datasets.load("fashion_mnist")


def test_a_missing_file_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "_FOLDER", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"missing.*Install keras-genai again"):
        datasets.load("fashion_mnist")


def test_the_notice_is_kept():
    notice = (datasets._FOLDER / "NOTICE.md").read_text(encoding="utf-8")
    assert "Copyright: 2017, Zalando SE" in notice
    assert "Permission is hereby granted, free of charge" in notice
