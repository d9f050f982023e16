"""Make the tutorials' notebooks from their sources, and check them.

    python tools/notebooks.py                      every tutorials/NN_name.py
    python tools/notebooks.py 01_dcgan             one of them
    python tools/notebooks.py --check              as before a commit, and in CI
    python tools/notebooks.py --check --backend jax

The source of a tutorial is `tutorials/NN_name.py` in jupytext's percent format; the
notebook beside it is generated: its cells are run from the first to the last and their
output is kept. `--check` writes nothing: it fails when a notebook's text is not that of
its source, or when a cell errs with `KG_FAST=1`, by which a tutorial takes few steps.

Cells run in a copy of the folder, so that no file that they write is left behind.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import _environment as environment

FOLDER = environment.ROOT / "tutorials"
GROUPS = ["tensorflow", "keras", "pictures", "logs", "tutorials"]
START_LINE = re.compile(
    r"WARNING: All log messages before absl|I\d{4} [\d:.]+ +\d+ \S+\.cc:\d+\] "
)
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def main() -> int:
    """Prepare the environment, then run the notebooks in it."""
    options = parse(sys.argv[1:])
    if options.stage == "run":
        return run(FOLDER, options.names, options.check, options.fast)
    try:
        find_sources(FOLDER, options.names)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    backend = options.backend or os.environ.get("KERAS_BACKEND") or "tensorflow"
    if backend not in environment.BACKENDS:
        raise SystemExit(
            f"KERAS_BACKEND must be one of {', '.join(environment.BACKENDS)}; got "
            f"{backend!r}."
        )
    # TensorFlow also where another backend trains: it is what runs a SavedModel.
    python = environment.prepare(environment.ROOT / ".venv", [backend, *GROUPS])
    variables = environment.child_environment(
        KERAS_BACKEND=backend, TF_CPP_MIN_LOG_LEVEL="3"
    )
    command = [str(python), __file__, "--stage", "run", *options.names]
    command += ["--check"] * options.check + ["--fast"] * options.fast
    return subprocess.run(command, env=variables, check=False).returncode


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="such as 01_dcgan")
    parser.add_argument(
        "--check", action="store_true", help="compare and run, write nothing"
    )
    parser.add_argument("--backend", choices=environment.BACKENDS)
    parser.add_argument(
        "--fast", action="store_true", help="few steps (KG_FAST=1), as --check does"
    )
    parser.add_argument("--stage", choices=("run",), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def find_sources(folder: Path, names: list[str]) -> list[Path]:
    """The sources with these names, or all.

    Raises:
        ValueError: for a name that is not there, or a folder without sources.
    """
    found = {path.stem: path for path in sorted(folder.glob("[0-9][0-9]_*.py"))}
    if not found:
        raise ValueError(f"{folder} holds no source of a tutorial (NN_name.py).")
    wanted = [Path(name).stem for name in names] or list(found)
    for name in wanted:
        if name not in found:
            raise ValueError(
                f"There is no tutorial {name!r}. Known: {', '.join(found)}."
            )
    return [found[name] for name in wanted]


def run(folder: Path, names: list[str], check: bool, fast: bool) -> int:
    """Write, or check, the notebooks of these tutorials.

    Returns:
        0, or 1 if one differs from its source or has a cell that errs.
    """
    failed = []
    for source in find_sources(folder, names):
        print(f"{source.stem}", flush=True)
        started = time.monotonic()
        wrong = differences(source) if check else []
        wrong += execute(source, keep=not check, fast=fast or check)
        for line in wrong:
            print(f"  {line}", flush=True)
        seconds = time.monotonic() - started
        print(f"  {'FAILED' if wrong else 'ok'} after {seconds:.0f} s", flush=True)
        failed += [source.stem] if wrong else []
    if failed:
        print(f"Failed: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


def differences(source: Path) -> list[str]:
    """What is wrong with the text of the notebook beside a source."""
    import nbformat

    path = source.with_suffix(".ipynb")
    remedy = f"Run `python tools/notebooks.py {source.stem}` and commit {path.name}."
    if not path.exists():
        return [f"{path.name} is missing. {remedy}"]
    try:
        there = texts(nbformat.read(path, as_version=4))
    except (ValueError, AttributeError) as error:
        return [f"{path.name} is damaged ({error}). {remedy}"]
    wanted = texts(read_source(source))
    for number in range(max(len(wanted), len(there))):
        if wanted[number : number + 1] != there[number : number + 1]:
            return [
                f"{path.name} differs from its source at cell {number + 1}. {remedy}"
            ]
    return []


def texts(notebook) -> list[tuple[str, str]]:
    """(kind, text) of every cell."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def read_source(source: Path):
    """The notebook of a source, without output, the same each time."""
    import jupytext
    from nbformat.notebooknode import from_dict

    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata = from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for number, cell in enumerate(notebook.cells, 1):
        cell.id = f"cell-{number}"
    return notebook


def execute(source: Path, keep: bool, fast: bool) -> list[str]:
    """Run the cells of a source; write the notebook if all went well and `keep`.

    Returns:
        What went wrong, as lines.
    """
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    notebook = read_source(source)
    with tempfile.TemporaryDirectory() as made:
        work, private = Path(made) / source.parent.name, Path(made) / "jupyter"
        shutil.copytree(
            source.parent, work, ignore=shutil.ignore_patterns("logs", ".*", "*.ipynb")
        )
        progress = Progress(notebook)
        client = NotebookClient(
            notebook,
            timeout=None,
            kernel_name="python3",
            resources={"metadata": {"path": str(work)}},
            record_timing=False,
            coalesce_streams=True,
            on_cell_start=progress.start,
            on_cell_executed=progress.end,
        )
        # The user's own kernels, settings and history are left alone.
        variables = {
            "JUPYTER_DATA_DIR": str(private),
            "JUPYTER_RUNTIME_DIR": str(private / "runtime"),
            "JUPYTER_CONFIG_DIR": str(private / "config"),
            "IPYTHONDIR": str(private / "ipython"),
            "KG_FAST": "1" if fast else "",
        }
        before = dict(os.environ)
        os.environ.update(variables)
        try:
            client.execute()
        except CellExecutionError as error:
            return [f"cell {progress.number} errs:", *str(error).strip().splitlines()]
        except DeadKernelError:
            return [f"cell {progress.number}: the kernel died (was memory short?)"]
        finally:
            os.environ.clear()
            os.environ.update(before)
    if keep:
        for cell in notebook.cells:
            cell.metadata.pop("execution", None)
            remove_start_lines(cell)
        path = source.with_suffix(".ipynb")
        unfinished = path.with_name(f".{path.name}.part")
        try:
            nbformat.write(notebook, unfinished)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        print(f"  wrote {path.name}, {path.stat().st_size / 1024:.0f} KiB", flush=True)
    return []


def remove_start_lines(cell) -> None:
    """Drop what TensorFlow's C++ part says when it starts, which no variable hides."""
    outputs = cell.get("outputs", [])
    for output in outputs:
        if output.get("name") == "stderr":
            lines = output["text"].splitlines(keepends=True)
            output["text"] = "".join(x for x in lines if not START_LINE.match(x))
    empty = [o for o in outputs if o.get("name") == "stderr" and not o["text"]]
    if empty:
        cell["outputs"] = [output for output in outputs if output not in empty]


class Progress:
    """A line for each cell: its number, its first words and its seconds."""

    def __init__(self, notebook):
        self.total = len(notebook.cells)
        self.number = 0

    def start(self, cell, cell_index):
        self.number = cell_index + 1
        self.started = time.monotonic()

    def end(self, cell, cell_index, execute_reply=None):
        seconds = time.monotonic() - self.started
        first = cell.source.strip().partition("\n")[0][:50]
        print(
            f"  cell {cell_index + 1}/{self.total}  {seconds:5.1f} s  {first}",
            flush=True,
        )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
