"""Texts, pairs, tables and music."""

import numpy as np
import pytest

from keras_genai import datasets
from keras_genai.datasets import _files

pytestmark = pytest.mark.once


def fetched(name):
    """Skip by name where the data has not been fetched."""
    if not _files.cached_path(name).exists():
        pytest.skip(f"needs `python tools/fetch_data.py {name}`")


def test_shakespeare():
    works = datasets.text("shakespeare")
    assert len(works) == 42
    assert list(works) == sorted(works)
    assert sum(map(len, works.values())) > 5_000_000
    assert "To be, or not to be,--that is the question:--" in works["Hamlet"]
    assert "Shall I compare thee to a summer's day?" in works["Sonnets"]
    for text in works.values():
        assert text.isascii()
        assert text.endswith("\n")
        assert not {"\r", "\f"} & set(text)
        assert "gutenberg" not in text.lower()


def test_verses():
    verses = datasets.pairs("verses")
    count = len(verses["source"])
    assert count > 30_000
    assert set(verses) == {"source", "target", "reference"}
    assert len(set(verses["reference"])) == count == len(verses["target"])
    assert verses["reference"][0] == "Gen 1:1"
    assert verses["target"][0] == "EN el principio crió Dios los cielos y la tierra."
    place = verses["reference"].index("John 11:35")
    assert (verses["source"][place], verses["target"][place]) == (
        "Jesus wept.",
        "Y lloró Jesús.",
    )
    for text in verses["source"] + verses["target"]:
        assert text == " ".join(text.split()) != ""
        assert "¶" not in text
        assert "\\" not in text


def test_the_two_languages_say_the_same():
    # A name that both spell alike stands in both or in neither, but for the odd
    # verse that one of them words with a pronoun.
    verses = datasets.pairs("verses")
    for name in ("David", "Abraham", "Samuel", "Israel"):
        source = np.array([name in text for text in verses["source"]])
        target = np.array([name in text for text in verses["target"]])
        assert np.corrcoef(source, target)[0, 1] > 0.9, name
    lengths = np.array(
        [[len(text) for text in verses[each]] for each in ("source", "target")]
    )
    assert np.corrcoef(lengths)[0, 1] > 0.9


@pytest.mark.parametrize(
    "function, name, message",
    [
        ("text", "shakespear", "no text 'shakespear'. Did you mean 'shakespeare'"),
        ("text", "verses", r"is loaded by `pairs\('verses'\)`"),
        ("pairs", "verse", "no set of pairs 'verse'. Did you mean 'verses'"),
        ("table", "flight", "no table 'flight'. Did you mean 'flights'"),
        ("table", "mnist", r"is loaded by `load\('mnist'\)`"),
        ("table", None, "no table None. Known: 'adult', 'flights'"),
    ],
)
def test_an_unknown_name_offers_the_nearest(function, name, message):
    with pytest.raises(ValueError, match=message):
        getattr(datasets, function)(name)


@pytest.mark.parametrize("file", ["shakespeare.json.xz", "verses.tsv.xz"])
def test_a_damaged_text_is_refused(tmp_path, monkeypatch, file):
    packed = bytearray((_files.FOLDER / file).read_bytes())
    packed[1000] ^= 1
    (tmp_path / file).write_bytes(packed)
    monkeypatch.setattr(_files, "FOLDER", tmp_path)
    call = datasets.text if "shakespeare" in file else datasets.pairs
    with pytest.raises(ValueError, match="damaged"):
        call()


@pytest.mark.parametrize(
    "name, call",
    [
        ("adult", lambda: datasets.table("adult")),
        ("flights", lambda: datasets.table("flights")),
        ("chorales", datasets.chorales),
    ],
)
def test_what_is_not_there_says_what_to_run(tmp_path, monkeypatch, name, call):
    monkeypatch.setenv("KERAS_GENAI_DATA", str(tmp_path))
    with pytest.raises(
        FileNotFoundError,
        match=rf"python tools/fetch_data.py {name}`.*KERAS_GENAI_DATA",
    ):
        call()


def test_adult():
    fetched("adult")
    adult = datasets.table("adult")
    assert len(adult) == 16
    train = adult["part"] == "train"
    assert (train.sum(), (~train).sum()) == (32561, 16281)
    assert adult["age"].dtype == np.int32
    assert (adult["age"].min(), adult["age"].max()) == (17, 90)
    assert set(adult["income"]) == {"<=50K", ">50K"}
    # As adult.names says: 23.93% of all 48,842 are above.
    assert np.mean(adult["income"] == ">50K") == pytest.approx(0.2393, abs=5e-5)


def test_flights():
    fetched("flights")
    flights = datasets.table("flights")
    assert len(flights) == 19
    assert {len(column) for column in flights.values()} == {336776}
    assert flights["month"].dtype == np.int32
    # 8,255 flights were cancelled before they left.
    assert np.isnan(flights["dep_time"]).sum() == 8255
    assert set(flights["origin"]) == {"EWR", "JFK", "LGA"}
    assert flights["time_hour"][0] == np.datetime64("2013-01-01T10:00:00")


def test_chorales():
    fetched("chorales")
    music = datasets.chorales()
    assert len(music["pitch"]) == len(music["onset"]) == len(music["name"]) > 300
    for pitch, onset in zip(music["pitch"], music["onset"], strict=True):
        assert pitch.shape == onset.shape == (len(pitch), 4)
        assert onset[pitch >= 0].any()
        assert not onset[pitch < 0].any()
    # BWV 269 begins in G major, g d b g from the bass up... in every voice.
    first = music["pitch"][music["name"].index("bwv269")][0]
    assert set(first % 12) == {7, 2, 11}
    # Sopranos are above basses.
    means = np.array([[p[p >= 0].mean() for p in pitch.T] for pitch in music["pitch"]])
    assert (np.diff(means.mean(axis=0)) < 0).all()
