"""Files and folders, written whole or not at all.

Everything that the package writes goes through here. What is new is written in a
private folder beside its place, brought to the disk, and moved there in one step, so
that a kill, an error or a full disk leaves what stood there before.

Needs the standard library alone: `tools/fetch_data.py` reads this file by itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fnmatch
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_OWN = ".keras_genai."  # how the names of our own begin within a folder
_COMMITTED = f"{_OWN}saved"  # a save that has only to be moved into its folder
_PATIENCE = 60.0  # seconds to wait for another process that reads or writes a folder
_DAY = 86400.0
_FILLED = {}  # open folders of `written_into` -> patterns of what goes


@contextlib.contextmanager
def written_beside(path: str | os.PathLike) -> Iterator[Path]:
    """A path to write to in place of `path`, where the file is moved at the end.

    What stands at `path` is replaced in one step, once the new file is whole and on
    the disk. After an error nothing is left beside it; what a killed process left is
    removed by the next write to the same path. Nothing follows a symbolic link: one at
    `path` is itself replaced.

    Args:
        path: the file, in a folder that is there.

    Yields:
        A path of the same name in a private folder, another for each writer.

    Raises:
        OSError: it cannot be written; names the file and keeps the cause's `errno`.

    Example:

    ```python
    with written_beside("logs/grid.png") as beside:
        picture.save(beside)
    ```
    """
    path = Path(path)
    with _telling(path), _private(path) as private:
        made = private / path.name
        yield made
        _sync(made)
        os.replace(made, path)
        _sync(path.parent)


@contextlib.contextmanager
def written_folder(path: str | os.PathLike, head: str) -> Iterator[Path]:
    """A folder to make in place of `path`, which it replaces whole at the end.

    In one step where the system exchanges folders; else, as for a mount point, as
    `written_into` does. Until then the old folder is untouched.

    Args:
        path: the folder, which need not exist.
        head: the file without which no reader takes the folder for one.

    Yields:
        A path that does not exist yet, of the same name.

    Raises:
        OSError: it cannot be written; names the folder and keeps the cause's `errno`.
    """
    path = Path(path).resolve()
    if path.is_dir() and not os.access(path.parent, os.W_OK):
        with written_into(path, head, stale=["*"]) as made:
            made.rmdir()
            yield made
        return
    with _telling(path), _private(path) as private:
        made = private / path.name
        yield made
        _sync_all(made)
        try:
            _take_place(made, path)
        except OSError:
            if not path.is_dir():
                raise
            # It cannot be renamed: the new files are brought to where it is.
            with written_into(path, head, stale=["*"]) as inside:
                shutil.copytree(made, inside, dirs_exist_ok=True)
        _sync(path.parent)


@contextlib.contextmanager
def written_into(
    folder: str | os.PathLike,
    head: str,
    stale: Iterable[str] = (),
) -> Iterator[Path]:
    """A folder to fill, whose files then go into `folder`, all of them or none.

    Other files in `folder` stay. Once the new files are whole and on the disk they are
    moved; a process killed while it moves them leaves a note, by which the next reader
    (`reading`) or writer finishes. The old `head` goes first and the new one comes
    last, so that other libraries refuse the folder meanwhile.

    Args:
        folder: it is made if it is not there.
        head: the file that readers open first, such as `"config.json"`.
        stale: patterns of the names that an earlier save may have left: such files go.

    Yields:
        An empty private folder. A call for that folder, within, joins this one.

    Raises:
        OSError: it cannot be written; names the folder and keeps the cause's `errno`.
    """
    folder = Path(folder)
    if folder in _FILLED:
        _FILLED[folder].update(stale)
        yield folder
        return
    with _telling(folder):
        there = folder.is_dir()
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with _private(folder / "keras_genai") as private:
                made = private / "new"
                made.mkdir()
                _FILLED[made] = set(stale)
                try:
                    yield made
                finally:
                    stale = _FILLED.pop(made)
                (private / "old").mkdir()
                _sync_all(made)
                with _locked(folder, exclusive=True):
                    _finish(folder)
                    plan = {"head": head, "remove": _stale(folder, made, stale)}
                    (private / "plan.json").write_text(json.dumps(plan), "utf-8")
                    _sync_all(private)
                    os.rename(private, folder / _COMMITTED)
                    _sync(folder)
                    _finish(folder)
        except BaseException:
            if not there:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise


@contextlib.contextmanager
def reading(folder: str | os.PathLike) -> Iterator[None]:
    """Holds the files of a folder still: those of one save, while they are read.

    A save that a kill cut off while it moved its files is finished first.

    Raises:
        ValueError: it is not finished and this process may not finish it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        yield
        return
    while True:
        with _locked(folder, exclusive=False):
            if not (folder / _COMMITTED).is_dir():
                yield
                return
        try:
            with _locked(folder, exclusive=True):
                _finish(folder)
        except OSError as error:
            raise ValueError(
                f"{folder} holds a save that was cut off, which cannot be finished "
                f"here ({error.strerror or error}). Load it once where the folder can "
                "be written, or save the model again."
            ) from error


def is_own(name: str) -> bool:
    """Whether a name in a folder is one of a save that goes on or was cut off."""
    return name.startswith(_OWN)


def check_writable(folder: str | os.PathLike) -> None:
    """Makes a folder; a `ValueError` if no file can be written in it."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _private(folder / "keras_genai") as private:
            probe = private / "probe"
            probe.write_bytes(b"keras_genai")
            _sync(probe)
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written ({error.strerror or error}). Give a folder "
            "that can, or free some space."
        ) from error


def os_error(error: BaseException, text: str) -> OSError:
    """An `OSError` with another text and the same cause.

    Args:
        error: an `OSError`, or another library's error that tells the number of one.
        text: of the new error.
    """
    number = _number(error)
    return OSError(text) if number is None else OSError(number, text)


# Private folders


@contextlib.contextmanager
def _private(path):
    """A folder beside `path` that no other user can enter, locked while it is used."""
    if not path.name:
        raise ValueError(f"A path must name a file; got {str(path)!r}.")
    _clear(path)
    folder, lock = _make(path)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _label(name):
    # A name of a file holds 255 bytes.
    long = len(os.fsencode(name)) > 120
    return hashlib.sha256(os.fsencode(name)).hexdigest()[:32] if long else name


def _host():
    return re.sub(r"[^\w-]", "-", socket.gethostname(), flags=re.ASCII)[:40] or "-"


def _make(path):
    while True:
        owner = f"{_host()}.{os.getpid()}.{secrets.token_hex(8)}"
        folder = path.with_name(f".{_label(path.name)}.{owner}.tmp")
        # Fails where anything of that name is: no link is followed.
        os.mkdir(folder, 0o700)
        lock = _opened(folder)
        if lock is None:
            return folder, None
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():
            return folder, lock
        os.close(lock)  # it was cleared before it was locked


def _clear(path):
    """Removes what killed processes left beside `path`, and nothing of a live one."""
    pattern = re.compile(
        rf"\.{re.escape(_label(path.name))}\.([\w-]+)\.(\d+)\.[0-9a-f]{{16}}\.tmp"
    )
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(path.parent)):
            found = pattern.fullmatch(entry.name)
            if found is None or not entry.is_dir(follow_symlinks=False):
                continue
            lock = _opened(entry.path)
            if lock is None:
                continue
            try:
                if _is_left(lock, *found.groups()):
                    shutil.rmtree(entry.path, ignore_errors=True)
            finally:
                os.close(lock)


def _is_left(lock, host, process):
    """Whether the writer of a private folder is gone, which frees its lock."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        if host != _host() or time.time() - os.fstat(lock).st_mtime < _DAY:
            return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _opened(folder):
    """A descriptor of a folder, or None where folders have none."""
    if fcntl is None:
        return None
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None


# Moving into place


def _take_place(made, path):
    """Moves a folder to `path`; what stands there goes to `made`, in the same step."""
    if not path.exists():
        os.rename(made, path)
        return
    if not sys.platform.startswith("linux"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), str(path))
    exchange = ctypes.CDLL(None, use_errno=True).renameat2
    here, swap = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if exchange(here, os.fsencode(made), here, os.fsencode(path), swap):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))


def _stale(folder, made, patterns):
    """The names in a folder that match, and that are not written anew."""
    names = {p.name for p in folder.iterdir() if not is_own(p.name)}
    old = {n for n in names if any(fnmatch.fnmatchcase(n, p) for p in patterns)}
    return sorted(old - {p.name for p in made.iterdir()})


def _finish(folder):
    """Moves the files of a committed save into their folder; under its lock."""
    saved = folder / _COMMITTED
    if saved.is_symlink() or not saved.is_dir():
        return
    new, old = saved / "new", saved / "old"
    plan = _plan(saved / "plan.json")
    if plan is not None and new.is_dir():
        head, remove = plan
        names = sorted((p.name for p in new.iterdir()), key=lambda n: (n == head, n))
        old.mkdir(exist_ok=True)
        # The head is moved last: where it is in its place already, all is.
        for name in [*([head] if head in names else []), *remove]:
            if os.path.lexists(folder / name):
                _move(folder / name, old / name)
        _sync(folder)
        for name in names:
            target = folder / name
            if target.is_dir() and not target.is_symlink():
                _move(target, old / name)
            os.replace(new / name, target)
        _sync(folder)
        (saved / "plan.json").unlink()  # done: what is left is rubbish
    shutil.rmtree(saved)


def _move(source, target):
    if os.path.lexists(target):  # an earlier, cut-off try
        target = target.with_name(f"{target.name}.{secrets.token_hex(4)}")
    os.rename(source, target)


def _plan(path):
    """The head and the names to remove; None where the save was done already."""
    try:
        plan = json.loads(path.read_text("utf-8"))
        head, remove = plan["head"], plan["remove"]
        plain = all(Path(n).name == n and not is_own(n) for n in remove)
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}).") from error
    if not plain:
        raise ValueError(f"{path} is damaged: it names files outside its folder.")
    return head, remove


@contextlib.contextmanager
def _locked(folder, exclusive):
    """Holds a folder among processes; a reader shares it with other readers."""
    lock = _opened(folder.resolve())
    try:
        end = time.monotonic() + _PATIENCE
        while lock is not None:
            kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise OSError(
                        errno.EBUSY, f"{folder} is in use by another process"
                    ) from None
                time.sleep(0.002)
            except OSError:  # a file system without locks
                break
        yield
    finally:
        if lock is not None:
            os.close(lock)


# Disk and errors


def _sync(path):
    """Brings a file, or the names in a folder, to the disk."""
    folder = path.is_dir()
    try:
        descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    except OSError:
        if folder:  # Windows opens no folders
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not folder or error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _sync_all(folder):
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync(Path(parent, name))
        _sync(Path(parent))


@contextlib.contextmanager
def _telling(path):
    """Errors of writing become an `OSError` that names the path."""
    there = os.path.lexists(path)
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and _number(error) is None:
            raise
        cause = getattr(error, "strerror", None) or str(error)
        # Others tell it in words of their own, among many.
        if not isinstance(error, OSError) or isinstance(error, shutil.Error):
            cause = os.strerror(_number(error)) if _number(error) else cause
        if cause.startswith(f"{path} could not be written"):
            raise
        state = (
            "What stood there is whole, as it was before"
            if there
            else "Nothing was left half-written"
        )
        raise os_error(error, f"{path} could not be written: {cause}. {state}") from (
            error
        )


def _number(error):
    """The `errno` of an error, also where a library tells it in its text alone."""
    number = getattr(error, "errno", None)
    if number is None:
        told = r"(?:errno = |code: |os error |\[Errno )(\d+)"
        found = re.search(told, str(error))
        number = int(found[1]) if found else None
    if number is None:  # TensorFlow's
        full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        number = next((n for n in full if os.strerror(n) in str(error)), None)
    return number
