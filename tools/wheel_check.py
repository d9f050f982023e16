"""Build the wheel, install it into a new environment with one extra, and use it.

    python tools/wheel_check.py

What a user gets from `pip install "keras-genai[jax]"`: the wheel holds the data, the
notices and the mark of a typed package; `python -m keras_genai` runs; and the checks
of `single_backend_check.py` pass where nothing but the extra is installed. The new
environment lies in a temporary folder and knows nothing of the clone.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import _environment as environment

BACKEND = "jax"
NEEDED = (
    "keras_genai/py.typed",
    "keras_genai/datasets/NOTICE.md",
    "keras_genai/datasets/fashion_mnist.npz",
)
NOT_WANTED = ("tests/", "tools/", "tutorials/")


def main() -> None:
    """Run the checks; what fails ends the process with another status than 0."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build = [sys.executable, "-P", "-m", "pip", "wheel", "--no-deps", "--quiet"]
        call([*build, "--wheel-dir", str(folder), str(environment.ROOT)], folder)
        (wheel,) = folder.glob("keras_genai-*.whl")
        check_content(wheel)
        call([sys.executable, "-P", "-m", "venv", str(folder / "new")], folder)
        python = str(environment.python_of(folder / "new"))
        install = [
            python,
            "-P",
            "-m",
            "pip",
            "install",
            "--quiet",
            f"{wheel}[{BACKEND}]",
        ]
        call(install, folder)
        call([python, "-P", "-m", "keras_genai"], folder)
        check = environment.ROOT / "tools" / "single_backend_check.py"
        call([python, str(check)], folder)
    print("The wheel works where nothing but it and its extra are installed")


def call(command: list[str], folder: Path) -> None:
    """Run a command outside the clone."""
    variables = environment.child_environment(KERAS_BACKEND=BACKEND)
    subprocess.run(command, cwd=folder, env=variables, check=True)


def check_content(wheel: Path) -> None:
    """The wheel holds what is needed and nothing of the clone's other folders."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    missing = [name for name in NEEDED if name not in names]
    assert not missing, f"not in the wheel: {missing}"
    extra = [name for name in names if name.startswith(NOT_WANTED)]
    assert not extra, f"should not be in the wheel: {extra}"
    size = wheel.stat().st_size / 2**20
    print(f"{wheel.name}: {len(names)} files, {size:.1f} MiB", flush=True)


if __name__ == "__main__":
    main()
