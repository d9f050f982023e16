"""The cache: what is in it is whole and what it should be, or is not used."""

import errno
import os

import keras
import numpy as np
import pytest

from keras_genai import datasets
from keras_genai.datasets import _files
from tests.datasets.test_texts import fetched

pytestmark = pytest.mark.once

ARRAYS = {
    "x_train": np.arange(6 * 4, dtype="uint8").reshape(6, 2, 2),
    "y_train": np.array([0, 1, 2, 3, 4, 9], "uint8"),
    "x_test": np.full((2, 2, 2), 255, "uint8"),
    "y_test": np.array([7, 8], "uint8"),
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder (not made yet) in which `mnist` is ARRAYS."""
    monkeypatch.setenv("KERAS_GENAI_DATA", str(tmp_path / "deep" / "cache"))
    monkeypatch.setitem(_files.FETCHED, "mnist", _files.content_hash(ARRAYS))
    return tmp_path / "deep" / "cache"


@pytest.fixture
def no_network(monkeypatch):
    def fail():
        raise Exception("URL fetch failure on https://...: no address")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", fail)


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_GENAI_DATA", str(tmp_path))
    assert _files.cache_folder() == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_GENAI_DATA", "")
    assert _files.cache_folder() == tmp_path / ".keras" / "keras_genai"
    monkeypatch.setenv("KERAS_GENAI_DATA", "~/data")
    assert _files.cache_folder() == tmp_path / "data"


def test_the_hash_sees_names_types_shapes_and_values():
    x = np.arange(6, dtype="int32")
    hashes = {
        _files.content_hash(arrays)
        for arrays in (
            {"x": x},
            {"y": x},
            {"x": x.astype("uint32")},
            {"x": x.reshape(2, 3)},
            {"x": x[::-1]},
            {"x": x, "y": x},
        )
    }
    assert len(hashes) == 6
    # Neither the order of the names nor that of the memory.
    table = np.arange(6.0).reshape(2, 3)
    assert _files.content_hash({"x": x, "y": table}) == _files.content_hash(
        {"y": np.asfortranarray(table), "x": x}
    )
    dates = np.array(["2013-01-01", "2013-01-02"], "datetime64[s]")
    assert _files.content_hash({"x": dates}) != _files.content_hash({"x": dates[::-1]})
    assert _files.content_hash({"x": np.array(["a", "b"])})


def test_what_is_written_is_read_again(cache):
    assert _files.read_cached("mnist") is None
    assert _files.write_cached("mnist", ARRAYS) == cache / "mnist.npz"
    (x, y), (x_test, y_test) = datasets.load("mnist", value_range=(0, 255))
    assert (x.shape, x.dtype, y.dtype) == ((6, 2, 2, 1), np.float32, np.int32)
    np.testing.assert_array_equal(x[..., 0], ARRAYS["x_train"])
    np.testing.assert_array_equal(y_test, [7, 8])
    assert [each.name for each in cache.iterdir()] == ["mnist.npz"]


def test_other_data_is_not_written(cache):
    other = {**ARRAYS, "y_test": np.array([7, 7], "uint8")}
    with pytest.raises(
        ValueError, match="'mnist' is not what this version.*Nothing was"
    ):
        _files.write_cached("mnist", other)
    assert not cache.exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "other"])
def test_a_damaged_file_is_refused(cache, no_network, damage):
    path = _files.write_cached("mnist", ARRAYS)
    packed = bytearray(path.read_bytes())
    if damage == "other":
        np.savez(path, **{**ARRAYS, "y_test": np.array([1, 1], "uint8")})
    else:
        flipped = packed.copy()
        flipped[len(packed) // 3] ^= 1
        path.write_bytes(
            {
                "cut": packed[: len(packed) // 2],
                "flipped": flipped,
                "empty": b"",
                "text": b"<html>502 Bad Gateway</html>",
            }[damage]
        )
    with pytest.raises(ValueError, match=r"mnist.npz is damaged.*not used.*Delete it"):
        datasets.load("mnist")


@pytest.mark.parametrize("where", ["write", "replace"])
def test_a_full_disk_leaves_nothing(cache, monkeypatch, where):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if where == "write":
        monkeypatch.setattr(np, "savez", full)
    else:
        monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="'mnist' could not be written.*KERAS_GENAI_DATA"):
        _files.write_cached("mnist", ARRAYS)
    assert list(cache.iterdir()) == []


def test_a_full_disk_leaves_the_file_that_was_there(cache, full_disk):
    path = _files.write_cached("mnist", ARRAYS)
    before = path.read_bytes()
    with full_disk(100), pytest.raises(OSError, match="'mnist' could not be written"):
        _files.write_cached("mnist", ARRAYS)
    assert path.read_bytes() == before
    assert list(cache.iterdir()) == [path]


def test_a_file_is_written_wholly_or_not_at_all(tmp_path, full_disk):
    path = tmp_path / "notes.txt"
    with full_disk(10), pytest.raises(OSError, match="too large|No space"):
        with _files.written_beside(path) as beside:
            assert beside.suffix == ".txt"
            beside.write_text("more than ten bytes")
    assert list(tmp_path.iterdir()) == []
    with _files.written_beside(str(path)) as beside:
        beside.write_text("old")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt), _files.written_beside(path) as beside:
        beside.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    with _files.written_beside(path) as beside:
        beside.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_without_a_network_the_error_says_what_to_run(cache, no_network):
    with pytest.raises(
        FileNotFoundError,
        match=r"(?s)not inside the package.*URL fetch failure.*python "
        r"tools/fetch_data.py mnist`.*copy mnist.npz.*set KERAS_GENAI_DATA",
    ):
        datasets.load("mnist")
    assert not cache.exists()


def test_the_ordinary_source_fills_the_cache(cache, monkeypatch):
    calls = []

    def download():
        calls.append(1)
        # As keras.datasets gives CIFAR-10: labels of shape (N, 1).
        return (
            (ARRAYS["x_train"], ARRAYS["y_train"][:, np.newaxis]),
            (ARRAYS["x_test"], ARRAYS["y_test"][:, np.newaxis]),
        )

    monkeypatch.setattr(keras.datasets.mnist, "load_data", download)
    for _ in range(2):
        (x, y), _ = datasets.load("mnist")
        assert x.shape == (6, 2, 2, 1)
        assert y.tolist() == [0, 1, 2, 3, 4, 9]
    assert calls == [1]


def test_other_data_from_the_ordinary_source_is_refused(cache, monkeypatch):
    other = (
        (ARRAYS["x_train"], ARRAYS["y_train"]),
        (ARRAYS["x_test"], ARRAYS["y_train"]),
    )
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: other)
    with pytest.raises(ValueError, match="not what this version"):
        datasets.load("mnist")
    assert not cache.exists()


@pytest.mark.parametrize(
    "name, side, channels, first, mean",
    [
        # The means of all training pixels, as they are published everywhere.
        ("mnist", 28, 1, [5, 0, 4, 1, 9], 33.3184),
        ("fashion_mnist_full", 28, 1, [9, 0, 0, 3, 0], 72.9404),
        ("cifar10", 32, 3, [6, 9, 9, 4, 1], 120.7076),
    ],
)
def test_the_real_sets(name, side, channels, first, mean):
    fetched(name)
    (x, y), (x_test, y_test) = datasets.load(name, value_range=(0, 255))
    count = 50_000 if name == "cifar10" else 60_000
    assert x.shape == (count, side, side, channels)
    assert x_test.shape == (10_000, side, side, channels)
    assert y[:5].tolist() == first
    assert np.bincount(y).sum() == count
    assert np.bincount(y_test, minlength=10).min() > 800
    assert x.mean(dtype="float64") == pytest.approx(mean, abs=1e-3)
    assert len(datasets.class_names(name)) == 10
