"""Make, reuse and repair the virtual environments that the tools run in.

Standard library only: this is what runs before anything is installed.

`prepare(folder, groups)` gives the path of the environment's Python once every
group of packages is in it. What has been finished is written to a stamp file inside
the environment, so that a second run starts at once; an environment that a kill or
a lost network left half made is completed, and made again where it cannot be.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: two tools at once are then the user's own care.
    fcntl = None

if sys.version_info < (3, 11):  # noqa: UP036 (nothing has checked it before this)
    raise SystemExit(
        "This needs Python 3.11 or newer; this is {}.{}.".format(*sys.version_info)
    )

ROOT = Path(__file__).resolve().parent.parent
BACKENDS = ("tensorflow", "jax", "torch")
STAMP = "keras_genai.json"
CUDA_NOTE = """\
Note: pip finds only PyTorch's CUDA build here: several gigabytes, of use on a machine
with an NVIDIA GPU alone. For the small CPU build press Ctrl-C and start again with
  PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu"""


def _tensorflow() -> str:
    """TensorFlow's build without CUDA, where it is a package of its own."""
    linux = sys.platform == "linux" and platform.machine() == "x86_64"
    return "tensorflow-cpu==2.21.0" if linux else "tensorflow==2.21.0"


# In the order of installation. PyTorch goes first and pinned: the version whose CPU
# build is known to be found (a later one may mean gigabytes of CUDA).
GROUPS = {
    "torch": ("torch==2.13.0",),
    "tensorflow": (_tensorflow(),),
    "jax": ("jax==0.10.2",),
    "keras": ("keras==3.15.1", "numpy"),
    "pictures": ("pillow", "matplotlib"),
    "logs": ("tensorboard",),
    "onnx": ("onnx", "onnxruntime", "onnxscript", "tf2onnx"),
    "tutorials": ("jupytext", "nbclient", "ipykernel", "scikit-learn"),
    "weights": ("safetensors",),
    "text": ("tokenizers", "sentencepiece", "sacrebleu"),
    # Whose networks the tests compare with, on random weights.
    "references": ("diffusers==0.42.0", "transformers==5.24.0"),
    "dev": ("pytest", "pytest-timeout", "scipy", "scikit-learn", "ruff==0.17.6"),
}


def prepare(folder: Path, groups: Sequence[str]) -> Path:
    """Make, complete or reuse the environment `folder`.

    Args:
        folder: the environment's folder, such as `ROOT / ".venv"`.
        groups: keys of `GROUPS`. Groups that are there already stay.

    Returns:
        The path of the environment's Python, which has the groups and this package
        (as an editable install).

    Raises:
        SystemExit: with what to do, if the environment cannot be made.
    """
    started = time.monotonic()
    with _lock(folder):
        wanted = {name: GROUPS[name] for name in GROUPS if name in groups}
        if not _missing(folder, wanted) and _works(folder):
            print(f"Environment {folder.name}: ready", flush=True)
            return python_of(folder)
        _make(folder)
        remove_half_installed(site_packages(folder))
        stamp = read_stamp(folder)
        for name in _missing(folder, wanted):
            arguments = wanted.get(name) or ("--no-deps", "--editable", str(ROOT))
            what = " ".join(wanted.get(name) or ("this package",))
            print(f"Environment {folder.name}: installing {what}", flush=True)
            _pip_install(folder, arguments, started)
            stamp[name] = requirement_hash(arguments)
            write_stamp(folder, stamp)
        seconds = time.monotonic() - started
        print(f"Environment {folder.name}: ready after {seconds:.0f} s", flush=True)
    return python_of(folder)


def child_environment(**extra: str) -> dict[str, str]:
    """The variables for a child process: nothing from outside its environment."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if name not in ("PYTHONPATH", "PYTHONHOME")
    }
    # PyTorch's threads wait for each other by spinning, which made a step six times
    # as slow on a machine whose cores had other work too.
    defaults = {"TF_CPP_MIN_LOG_LEVEL": "2", "OMP_WAIT_POLICY": "passive"}
    # As the package sets it, here for programs that import Keras before it.
    defaults["TF_ENABLE_ONEDNN_OPTS"] = "1"
    return {**defaults, **inherited, **extra}


def requirement_hash(arguments: Sequence[str]) -> str:
    """What the stamp holds for a group: it changes with the list of requirements.

    For this package itself it changes with the place of the clone and with
    `pyproject.toml`.
    """
    text = "\n".join(arguments)
    if "--editable" in arguments:
        text += (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_stamp(folder: Path) -> dict[str, str]:
    """The stamp file's content; empty if it is absent or cannot be read."""
    try:
        stamp = json.loads((folder / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def write_stamp(folder: Path, stamp: dict[str, str]) -> None:
    """Replace the stamp file in one step, so that a kill leaves the old or the new."""
    unfinished = folder / f"{STAMP}.part"
    unfinished.write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, folder / STAMP)


def python_of(folder: Path) -> Path:
    """The environment's Python (which need not exist yet)."""
    name = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    return folder / name


def site_packages(folder: Path) -> Path:
    """Where the environment's packages lie."""
    if os.name == "nt":
        return folder / "Lib" / "site-packages"
    return next(iter(sorted(folder.glob("lib/python3*/site-packages"))), folder)


def installed(packages: Path) -> dict[str, str]:
    """Name -> version of the packages that are wholly installed.

    pip writes a package's `RECORD` last, so one without it is half installed.
    """
    found = {}
    for info in packages.glob("*.dist-info"):
        name, _, version = info.name.removesuffix(".dist-info").rpartition("-")
        if (info / "RECORD").is_file():
            found[_normal(name)] = version
    return found


def remove_half_installed(packages: Path) -> None:
    """Make pip see a half-installed package as absent, so that it installs it again.

    What an interrupted upgrade has put aside (folders that begin with `~`) goes too.
    """
    for info in packages.glob("*.dist-info"):
        if not (info / "RECORD").is_file():
            shutil.rmtree(info)
    for aside in packages.glob("~*"):
        shutil.rmtree(aside) if aside.is_dir() else aside.unlink()


def is_satisfied(requirement: str, packages: dict[str, str]) -> bool:
    """Whether `name` or `name==version` is among the installed packages.

    A local build (`2.13.0+cpu`) is that version.
    """
    name, _, version = requirement.partition("==")
    found = packages.get(_normal(name))
    return found is not None and version in ("", found, found.partition("+")[0])


def progress_line(line: str) -> str | None:
    """What to show of a line of pip's output; None for nothing."""
    text = line.strip()
    if match := re.match(r"Collecting ([^\s(]+)", text):
        return f"collecting {match[1]}"
    if match := re.match(r"(?:Downloading|Using cached) (\S+) (\(.*\))$", text):
        file = match[1].rpartition("/")[2]
        # The few kilobytes of metadata beside each package are not worth a line.
        return None if file.endswith(".metadata") else f"downloading {file} {match[2]}"
    if match := re.match(r"Processing (\S+\.whl)", text):
        return f"reading {match[1].rpartition('/')[2]}"
    if text.startswith("Installing collected packages:"):
        return f"installing {text.partition(': ')[2]}"
    return text if text.startswith("ERROR:") else None


def is_cuda_line(line: str) -> bool:
    """Whether a line of pip's output says that a CUDA build is being fetched."""
    return bool(
        re.match(
            r"\s*(Collecting|Downloading|Using cached|Processing) \S*"
            r"(nvidia[-_]|torch-[^/\s]*\+cu\d)",
            line,
        )
    )


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _missing(folder: Path, wanted: dict[str, tuple[str, ...]]) -> list[str]:
    """The groups that are still to be installed; `package` is this package."""
    stamp, packages = read_stamp(folder), installed(site_packages(folder))
    missing = [
        name
        for name, requirements in wanted.items()
        if stamp.get(name) != requirement_hash(requirements)
        or not all(is_satisfied(each, packages) for each in requirements)
    ]
    editable = requirement_hash(("--no-deps", "--editable", str(ROOT)))
    if stamp.get("package") != editable or "keras-genai" not in packages:
        missing.append("package")
    return missing


def _works(folder: Path) -> bool:
    """Whether the environment's Python and its pip start."""
    try:
        done = subprocess.run(
            [str(python_of(folder)), "-P", "-c", "import pip"],
            capture_output=True,
            env=child_environment(),
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0


def _make(folder: Path) -> None:
    """Make the environment, unless a working one of this Python is there."""
    version = "{}.{}".format(*sys.version_info)
    stamp = read_stamp(folder)
    if _works(folder) and stamp.get("python", version) == version:
        write_stamp(folder, {**stamp, "python": version})
        return
    ours = bool(stamp) or (folder / "pyvenv.cfg").exists()
    if folder.exists() and not ours and (not folder.is_dir() or any(folder.iterdir())):
        raise SystemExit(
            f"{folder} is there but is not a virtual environment. Move it away, and "
            "start again."
        )
    print(f"Environment {folder.name}: making it with Python {version}", flush=True)
    # First of all the mark that it is ours: a kill may leave nothing else.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_stamp(folder, {"python": version})
    # The base Python also where this one runs in the environment that is replaced.
    base = getattr(sys, "_base_executable", None) or sys.executable
    done = subprocess.run(
        [base, "-P", "-m", "venv", str(folder)],
        env=child_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not _works(folder):
        raise SystemExit(
            f"{done.stdout}{done.stderr}\nPython could not make the environment "
            f"{folder}. On Debian and Ubuntu `apt install python3-venv` gives what it "
            "needs."
        )


def _pip_install(folder: Path, arguments: Sequence[str], started: float) -> None:
    """Run pip with a line for each package, and a sign of life while it is silent."""
    command = [str(python_of(folder)), "-P", "-m", "pip", "install", "--no-input"]
    command += ["--disable-pip-version-check", "--progress-bar", "off", *arguments]
    log = folder / "pip.log"
    lines: queue.Queue[str | None] = queue.Queue()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=child_environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )

    def read() -> None:
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    told_of_cuda = False
    kept = []
    try:
        while True:
            try:
                line = lines.get(timeout=15)
            except queue.Empty:
                _say("still working", started)
                continue
            if line is None:
                break
            kept.append(line)
            if not told_of_cuda and is_cuda_line(line):
                told_of_cuda = True
                print(CUDA_NOTE, flush=True)
            shown = progress_line(line)
            if shown:
                _say(shown, started)
        status = process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        log.write_text("".join(kept), encoding="utf-8")
    if status:
        raise SystemExit(
            "".join(kept[-15:])
            + f"\npip failed; all it said is in {log}. Nothing is lost: what is "
            "installed stays, and the same command goes on from here. If pip found "
            "no matching version, this Python ({}.{}) may be too new or too old for "
            "it: start the tool with another.".format(*sys.version_info)
        )


def _say(text: str, started: float) -> None:
    print(f"  {time.monotonic() - started:4.0f} s  {text}", flush=True)


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Let one process at a time work on an environment."""
    if fcntl is None:
        yield
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f"{folder.name}.lock", "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Waiting: another tool is making {folder.name}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
