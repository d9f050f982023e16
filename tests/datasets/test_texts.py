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


# Pairs of one's own


def file(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.tsv", 'a "dog\tun perro\n\n  two\u2028cats \tdos gatos\n'),
        ("a.tsv", 'Source\tTarget\na "dog\tun perro\ntwo\u2028cats\tdos gatos'),
        ("a.txt", '\ufeffa "dog\tun perro\r\ntwo\u2028cats\tdos gatos\r\n'),
        ("a.txt", '"a ""dog",un perro\n"two\u2028cats",dos gatos\n'),
        ("A.CSV", 'n,target,source\n1,un perro,"a ""dog"\n2,dos gatos,two\u2028cats'),
        (
            "a.jsonl",
            '{"source": "a \\"dog", "target": "un perro", "n": 1}\n\n'
            '{"source": "two\\u2028cats", "target": " dos gatos "}\n',
        ),
    ],
)
def test_pairs_of_ones_own(tmp_path, name, content):
    path = file(tmp_path, name, content)
    for source in (path, str(path)):
        assert datasets.pairs(source) == {
            "source": ['a "dog', "two\u2028cats"],
            "target": ["un perro", "dos gatos"],
        }


def test_columns_of_ones_own(tmp_path):
    path = file(tmp_path, "a.tsv", "en\tes\tby\nhi\thola\tx\nno\tno\ty\n")
    wanted = {"source": ["hola", "no"], "target": ["hi", "no"]}
    assert datasets.pairs(path, columns=("es", "EN")) == wanted
    wanted = {"source": ["en", "hi", "no"], "target": ["by", "x", "y"]}
    assert datasets.pairs(path, columns=[0, 2]) == wanted
    lines = file(tmp_path, "a.jsonl", '{"en": "hi", "es": "hola"}')
    assert datasets.pairs(lines, ("en", "es")) == {"source": ["hi"], "target": ["hola"]}
    for columns in ((0, 0), (0,), ("en", 1), (-1, 0), "en", ("", "en")):
        with pytest.raises(ValueError, match="columns must be two different positions"):
            datasets.pairs(path, columns=columns)
    with pytest.raises(ValueError, match="no column 'fr': line 1 names 'en', 'es', 'b"):
        datasets.pairs(path, columns=("en", "fr"))
    with pytest.raises(ValueError, match="line 1 has 3 columns, no number 3"):
        datasets.pairs(path, columns=(0, 3))
    with pytest.raises(ValueError, match="columns is for a file of one's own"):
        datasets.pairs("verses", columns=(0, 1))


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.tsv", "", "a.tsv holds no rows"),
        ("a.tsv", "\n \n", "a.tsv holds no rows"),
        ("a.tsv", "source\ttarget\n", "a.tsv holds no rows"),
        (
            "a.tsv",
            "a\tb\n\nc\nd\te\tf\n",
            "line 3 has 1 column where 2 are expected; line 4 has 3 columns where 2 "
            "are expected. Say which by columns=",
        ),
        ("a.tsv", "\n".join(["a\tb\tc"] * 9), "line 5 has 3 columns.*; and 4 more"),
        ("a.tsv", "a\tb\nc\t \n\td\n", "line 2 is empty in column 2; line 3 is .*n 1"),
        ("a.csv", 'a,b\n"c\nd",e\nf\n', "a.csv: line 4 has 1 column"),
        ("a.csv", 'a,b\nc,"d\n', "a.csv: line 2: unexpected end of data"),
        ("a.csv", "source,target\na,b,c\n", "line 2 has 3 columns where 2 are exp"),
        ("a.tsv", b"a\tb\nc\t\xe9\n", "not in UTF-8: line 2 holds the byte 0xe9"),
        ("a.tsv", "a\tb\n".encode("utf-16"), "is in UTF-16"),
        ("a.tsv", b"a\tb\nc\td\0\n", "is no text: line 2 holds a zero byte"),
        ("a.jsonl", '{"source": "a"}\n[]\n', "1 lacks 'target'; line 2 is no object"),
        (
            "a.jsonl",
            '{"source": 1, "target": "b"}',
            "holds no text in 'source' or 'tar",
        ),
    ],
)
def test_faults_of_ones_own_pairs_are_told_by_line(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        datasets.pairs(file(tmp_path, name, content))


def test_a_file_of_pairs_that_is_not_there(tmp_path):
    for path in (tmp_path / "no.tsv", str(tmp_path / "no.tsv"), tmp_path / "no"):
        with pytest.raises(FileNotFoundError, match="no"):
            datasets.pairs(path)


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
