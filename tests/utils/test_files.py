"""What is written is whole or was not written, whenever the process dies."""

import contextlib
import errno
import json
import os
import re
import signal
import sys

import keras
import numpy as np
import pytest

import keras_genai as kg
from keras_genai.export import savedmodel
from keras_genai.utils import archives, files

pytestmark = pytest.mark.once

ONCE = keras.backend.backend() == "torch"
once = pytest.mark.skipif(not ONCE, reason="No backend is looked at: run once.")
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork.")


def filled(text):
    return {"head": text, "a": text, "b": text}


def write_file(folder, text):
    with files.written_beside(folder / "file.txt") as beside:
        beside.write_text(text)


def read_file(folder):
    return (folder / "file.txt").read_text()


def write_into(folder, text):
    with files.written_into(folder / "into", "head", stale=["old*"]) as made:
        for name, content in filled(text).items():
            (made / name).write_text(content)
        (made / f"{text}-own").write_text(text)


def read_folder(folder):
    names = ("head", "a", "b")
    with files.reading(folder):
        (text,) = {(folder / name).read_text() for name in names}
    return text


def write_folder(folder, text):
    with files.written_folder(folder / "whole", "head") as made:
        made.mkdir()
        for name, content in filled(text).items():
            (made / name).write_text(content)


def write_mounted(folder, text):
    """As onto a mount point, which cannot be renamed."""
    (folder / "whole").mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:

        def refuse(*paths):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

        patch.setattr(files, "_take_place", refuse)
        write_folder(folder, text)


def tokenizer(text):
    return kg.Tokenizer.characters([text])


def write_tokenizer(folder, text):
    tokenizer(text).save(folder / "tokens")


def read_tokenizer(folder):
    found = kg.Tokenizer.load(folder / "tokens").vocabulary
    return next(text for text in ("old", "new") if set(text) <= set(found))


def small(text):
    return kg.GPT(
        num_layers=1,
        hidden_dim=4,
        num_heads=1,
        max_sequence_length=4,
        tokenizer=tokenizer(text),
        layer_norm_epsilon={"old": 1e-5, "new": 1e-3}[text],
        seed={"old": 1, "new": 2}[text],
    )


MODELS = {}


def model(text):
    return MODELS.setdefault(text, small(text))


def write_pretrained(folder, text):
    size = 400 if text == "old" else "1GB"  # bytes: some shards, then one file
    model(text).save_pretrained(folder / "model", max_shard_size=size)


def read_pretrained(folder):
    made = kg.GPT.from_pretrained(folder / "model")
    (text,) = (
        text
        for text in ("old", "new")
        if made.layer_norm_epsilon == model(text).layer_norm_epsilon
        and made.tokenizer.vocabulary == model(text).tokenizer.vocabulary
    )
    for one, other in zip(made.weights, model(text).weights, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (one, other)))
    return text


def write_model(folder, text):
    model(text).save(folder / "model.keras")


def read_model(folder):
    made = kg.load_model(folder / "model.keras")
    return next(
        t
        for t in ("old", "new")
        if made.layer_norm_epsilon == model(t).layer_norm_epsilon
    )


WRITERS = {
    "file": (write_file, read_file),
    "into": (write_into, lambda folder: read_folder(folder / "into")),
    "folder": (write_folder, lambda folder: read_folder(folder / "whole")),
    "mount": (write_mounted, lambda folder: read_folder(folder / "whole")),
    "tokenizer": (write_tokenizer, read_tokenizer),
    "pretrained": (write_pretrained, read_pretrained),
    "model": (write_model, read_model),
}
# Every n-th moment on average of the long ones.
STRIDES = {"into": 3, "folder": 2, "mount": 5, "pretrained": 15, "model": 9}
EVENTS = {"os.rename", "os.mkdir", "os.rmdir", "os.remove", "shutil.rmtree"}


def killed_at(event, write, folder):
    """Kills a child before its n-th event in the file system; whether it got there."""
    child = os.fork()
    if not child:
        seen = [0]

        def hook(name, arguments):
            opens = name == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
            if (name in EVENTS or opens) and str(folder) in str(arguments[0]):
                seen[0] += 1
                if seen[0] == event:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        with contextlib.suppress(BaseException):
            write(folder, "new")
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status != 0


def strays(folder):
    return [path for path in folder.rglob("*") if path.name.startswith(".")]


@once
@forks
@pytest.mark.parametrize("name", WRITERS)
def test_a_kill_at_any_moment_leaves_the_old_or_the_new(tmp_path, name):
    write, read = WRITERS[name]
    seed = np.random.default_rng(0)
    write(tmp_path, "old")
    if name in ("tokenizer", "pretrained", "model"):
        pytest.importorskip("tokenizers")
        read(tmp_path)  # what is imported at the first call is imported
    found, event, stride = set(), 1, 2 * STRIDES.get(name, 1) - 1
    while killed_at(event, write, tmp_path):
        found.add(read(tmp_path))
        write(tmp_path, "old")
        assert strays(tmp_path) == []
        assert read(tmp_path) == "old"
        event += int(seed.integers(1, stride + 1))
    assert event > 4
    assert read(tmp_path) == "new"
    assert found <= {"old", "new"} and "old" in found


@once
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_and_names_the_file(tmp_path, name, full_disk):
    write, read = WRITERS[name]
    write(tmp_path, "old")
    with full_disk(2), pytest.raises(OSError, match="could not be written") as caught:
        write(tmp_path, "new")
    assert caught.value.errno == errno.EFBIG
    assert "whole, as it was before" in str(caught.value)
    assert read(tmp_path) == "old"
    assert strays(tmp_path) == []


@once
@pytest.mark.parametrize(
    "said",
    [
        "RESOURCE_EXHAUSTED: served/variables.data; No space left on device",
        "Error while serializing: I/O error (os error 28)",
    ],
)
def test_a_full_disk_of_another_library_is_told_as_one(tmp_path, said):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="written: No space left.*whole") as caught:
        with files.written_beside(path):
            raise RuntimeError(f"Its own process said:\n{said}\n  at line 3")
    assert caught.value.errno == errno.ENOSPC
    assert path.read_text() == "old"


@once
def test_nothing_follows_a_link_that_waits(tmp_path):
    outside = tmp_path / "precious"
    outside.write_text("precious")
    folder = tmp_path / "logs"
    folder.mkdir()
    for name in (f".{os.getpid()}.file.txt", f".{os.getpid()}.tmp", "file.txt"):
        (folder / name).symlink_to(outside)
    files.check_writable(folder)
    write_file(folder, "new")
    assert outside.read_text() == "precious"
    assert read_file(folder) == "new" and not (folder / "file.txt").is_symlink()


@once
def test_what_a_live_process_writes_is_not_cleared(tmp_path):
    with files.written_beside(tmp_path / "file.txt") as first:
        first.write_text("first")
        write_file(tmp_path, "second")
        assert first.read_text() == "first"
        (left,) = strays(tmp_path)
        assert re.fullmatch(r"\.file\.txt\.[\w-]+\.\d+\.[0-9a-f]{16}\.tmp", left.name)
    assert read_file(tmp_path) == "first"
    # A folder of the same kind of name whose writer is gone, whatever its number.
    gone = tmp_path / f".file.txt.{'host'}.{os.getpid()}.{16 * '0'}.tmp"
    gone.mkdir()
    (gone / "file.txt").write_text("half")
    other = tmp_path / f".other.txt.host.1.{16 * '0'}.tmp"
    other.mkdir()
    write_file(tmp_path, "third")
    assert strays(tmp_path) == [other]


@once
def test_files_of_others_stay_and_stale_ones_go(tmp_path):
    into = tmp_path / "into"
    write_into(tmp_path, "one")
    (into / "README.md").write_text("mine")
    (into / "old-part").write_text("stale")
    write_into(tmp_path, "two")
    names = {path.name for path in into.iterdir()}
    assert names == {"head", "a", "b", "one-own", "two-own", "README.md"}
    with pytest.raises(KeyError), files.written_into(tmp_path / "none", "head"):
        raise KeyError
    assert not (tmp_path / "none").exists()


@once
def test_a_cut_off_save_that_cannot_be_finished_is_refused(tmp_path, monkeypatch):
    write_into(tmp_path, "old")
    into = tmp_path / "into"
    saved = into / ".keras_genai.saved"
    (saved / "new").mkdir(parents=True)
    (saved / "plan.json").write_text(json.dumps({"head": "head", "remove": ["../x"]}))
    with pytest.raises(ValueError, match="names files outside"), files.reading(into):
        pass
    (saved / "plan.json").write_text(json.dumps({"head": "head", "remove": []}))

    def refuse(*paths, **options):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "rmtree", refuse)
        with pytest.raises(ValueError, match="into holds a save that was cut off"):
            with files.reading(into):
                pass
    assert read_folder(into) == "old"


@once
def test_export_leaves_the_served_model_when_it_fails(tmp_path, monkeypatch):
    served = tmp_path / "served"
    served.mkdir()
    (served / "saved_model.pb").write_bytes(b"old")

    def fail(*paths):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def fill(writer, model, target):
        target.mkdir()
        (target / "saved_model.pb").write_bytes(b"new")

    monkeypatch.setattr(savedmodel, "write_in_child", fill)
    monkeypatch.setattr(savedmodel, "check_installed", lambda *arguments: None)
    network = kg.DCGAN((8, 8, 1), 2, base_filters=4)
    with monkeypatch.context() as patch:
        patch.setattr(files, "_take_place", fail)
        patch.setattr(files.os, "rename", fail)
        with pytest.raises(OSError, match="served could not be written"):
            network.export(served, overwrite=True)
    assert (served / "saved_model.pb").read_bytes() == b"old"
    network.export(served, overwrite=True)
    assert (served / "saved_model.pb").read_bytes() == b"new"
    assert [path.name for path in tmp_path.rglob("*")] == ["served", "saved_model.pb"]


@once
def test_archives_are_not_unpacked_beyond_their_size(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, x=np.zeros(10**7, "uint8"))
    with pytest.raises(ValueError, match="x.npy unpacks from"):
        with archives.opened_arrays(path) as found:
            found["x"]
    np.savez(path, x=np.zeros(10, "uint8"))
    content = path.read_bytes().replace(b"'shape': (10,)", b"'shape': (99,)")
    path.write_bytes(content)
    with pytest.raises(archives.DAMAGED), archives.opened_arrays(path) as found:
        found["x"]
