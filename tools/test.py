"""Run every test on every backend, and count.

    python tools/test.py
    python tools/test.py --backend jax
    python tools/test.py --backend torch tests/gans -k projection
    python tools/test.py --quick
    python tools/test.py --thorough
    python tools/test.py --profile

Makes or reuses `.venv` with all three backends, then runs: ruff; `pytest` for each
backend, the largest folders of tests in processes of their own; a training run in
`.venv-torch`, where no other backend can be imported; and one where nothing is
installed but this package's wheel with JAX; and the tutorials, shortened. With
arguments for pytest, only those tests. `--quick` runs what takes minutes: ruff and
the tests on PyTorch that start no process and are not slow. Ends with one line such as
`412 passed, 0 failed, 3 skipped`, summed over all runs; the exit status is 0 only if
nothing failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import _environment as environment
import _profile as profile

ROOT = environment.ROOT
# Where one backend is installed and no other, and what that takes. (JAX alone is what
# `wheel_check.py` installs.)
SINGLE_BACKEND = {"torch": ("torch", "keras")}
# Folders of tests that have a process of their own, or one for two; the others share
# one. A process keeps what it compiled: all tests in one need more maps of memory than
# Linux gives, and more memory than a small machine has. Those that start processes are
# together, from all folders: what they start serves them all.
LARGE_FOLDERS = (("diffusion",), ("transformers",), ("vaes",), ("gans", "layers"))
# Most of JAX's time goes into compiling thousands of tiny programs, each of which runs
# a few times: half of it without the costly passes. (Of level 0 some are wrong: NaN.)
QUICK_COMPILATION = (
    "--xla_backend_optimization_level=1",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false",
)
# pytest's options that read what its cache of the last run holds.
CACHE_OPTIONS = {"--lf", "--last-failed", "--ff", "--failed-first", "--nf"}
CACHE_OPTIONS |= {"--new-first", "--sw", "--stepwise"}


@dataclass(frozen=True)
class Counts:
    """How many tests ended in which way; an error counts as failed."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.passed + other.passed,
            self.failed + other.failed,
            self.skipped + other.skipped,
        )

    def __str__(self) -> str:
        text = f"{self.passed} passed, {self.failed} failed"
        return f"{text}, {self.skipped} skipped" if self.skipped else text


@dataclass(frozen=True)
class Step:
    """One process to run, and how its outcome is counted from its exit status."""

    title: str
    command: list[str]
    count: Callable[[int], Counts]
    variables: dict[str, str]
    # What the profile calls it, where it has no report of single tests.
    report: Path | None = None
    file: str = "(other steps)"


@dataclass(frozen=True)
class Ended:
    """How a step ended: exit status, seconds on the clock and of the processors."""

    status: int
    seconds: float
    process_seconds: float
    output: str


def main() -> int:
    """Prepare the environments, run the steps, print the counts."""
    options, pytest_arguments = parse(sys.argv[1:])
    backends = list(environment.BACKENDS)
    if options.quick or options.backend:
        backends = [options.backend or "torch"]
    started = time.monotonic()
    try:
        python = environment.prepare(ROOT / ".venv", list(environment.GROUPS))
        alone = {}
        if not pytest_arguments and not options.quick:
            for backend in [name for name in backends if name in SINGLE_BACKEND]:
                alone[backend] = environment.prepare(
                    ROOT / f".venv-{backend}", SINGLE_BACKEND[backend]
                )
        if options.with_data:
            fetch_data(python)
    except SystemExit as stopped:
        print(f"\n{stopped}\n{Counts(failed=1)}")
        return 1
    with tempfile.TemporaryDirectory() as folder:
        steps = []
        if not pytest_arguments:
            steps += ruff_steps(python)
        steps += [
            pytest_step(python, backend, what, arguments, Path(folder), options)
            for what, arguments in parts(pytest_arguments, options.quick)
            for backend in backends
        ]
        if not pytest_arguments and not options.quick:
            steps += [single_backend_step(alone[name], name) for name in alone]
            if "jax" in backends:
                steps.append(wheel_step(python))
            steps += notebook_steps(python, backends, Path(folder), options)
        total, spent = Counts(), []
        for step, ended in run(steps, options.jobs):
            total += tell(step, ended)
            if options.profile:
                spent += spent_in(step, ended.process_seconds)
        if options.profile:
            print(f"\n{profile.tables(spent)}")
            for complaint in profile.over_the_limit(spent):
                print(complaint)
                total += Counts(failed=1)
    print(f"\nAll steps: {time.monotonic() - started:.0f} s\n{total}", flush=True)
    return 1 if total.failed else 0


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this tool, and what is left for pytest."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s [options] [pytest arguments]",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--backend", choices=environment.BACKENDS, help="only this backend"
    )
    parser.add_argument(
        "--with-data", action="store_true", help="first fetch the data tests can use"
    )
    parser.add_argument(
        "--thorough",
        action="store_true",
        help="also what a run leaves out or does once: twenty kills, every way to "
        "divide a training, every check on every backend",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="only ruff and the quick tests on one backend (default: torch)",
    )
    parser.add_argument(
        "--profile",
        action="store_true",
        help="tell where the time goes, by family, backend, file and check; fail where "
        "a family costs more than it may",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(2, os.cpu_count() or 1),
        metavar="N",
        help="run N steps at a time, each with its share of the cores (default: "
        "%(default)s; with 1 their output comes as it is made)",
    )
    options, rest = parser.parse_known_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1; got {options.jobs}")
    if options.quick and options.thorough:
        parser.error("--quick and --thorough are opposites.")
    return options, [argument for argument in rest if argument != "--"]


def fetch_data(python: Path) -> None:
    """Fetch the data that is not in the package."""
    tool = ROOT / "tools" / "fetch_data.py"
    if not tool.exists():
        print("No test of this version needs data from outside the package.")
        return
    done = subprocess.run(
        [str(python), str(tool), "--all"],
        cwd=ROOT,
        env=environment.child_environment(),
        check=False,
    )
    if done.returncode:
        raise SystemExit("The data could not be fetched.")


def ruff_steps(python: Path) -> list[Step]:
    """The linter and the formatter's check."""
    return [
        Step(
            " ".join(["ruff", *arguments]),
            [str(python), "-P", "-m", "ruff", *arguments],
            count_status,
            {},
        )
        for arguments in (["check", "."], ["format", "--check", "."])
    ]


def parts(arguments: list[str], quick: bool = False) -> list[tuple[str, list[str]]]:
    """What to call each run of pytest on a backend, and its arguments."""
    quickly = "not processes and not slow"
    if arguments:
        return [("pytest", [*(["-m", quickly] if quick else []), *arguments])]
    large = [[f"tests/{name}" for name in names] for names in LARGE_FOLDERS]
    rest = [f"--ignore={folder}" for folders in large for folder in folders]
    named = [(" and ".join(folders), folders) for folders in large]
    # The longest first, so that nobody waits for it at the end.
    named.insert(0, ("the other tests", ["tests", *rest]))
    if quick:
        return [(what, [*folders, "-m", quickly]) for what, folders in named]
    alone = [(what, [*folders, "-m", "not processes"]) for what, folders in named]
    return [("tests with processes", ["tests", "-m", "processes"]), *alone]


def pytest_step(
    python: Path,
    backend: str,
    what: str,
    arguments: list[str],
    folder: Path,
    options: argparse.Namespace,
) -> Step:
    """The tests that the arguments choose, on one backend."""
    report = folder / f"{backend} {what.replace('/', ' ')}.xml"
    command = [str(python), "-m", "pytest", "-q", "-rs", "--durations=10"]
    command += ["--durations-min=5", f"--junitxml={report}"]
    # Backends that run at once would write over each other's cache.
    if not CACHE_OPTIONS.intersection(arguments):
        command += ["-p", "no:cacheprovider"]
    variables = {"KERAS_BACKEND": backend, "MPLBACKEND": "Agg"}
    variables |= compiling(folder, options.jobs)
    if options.thorough:
        variables["KG_THOROUGH"] = "1"
    return Step(
        f"{what} on {backend}",
        command + arguments,
        lambda status: count_report(report, status),
        variables,
        report,
    )


def compiling(folder: Path, jobs: int) -> dict[str, str]:
    """The variables by which a process compiles quickly, and has its share of cores.

    Args:
        folder: of the run.
        jobs: steps at a time.
    """
    # Tests build the same small models again and again: XLA compiles each once.
    variables = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "jax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    flags = [os.environ.get("XLA_FLAGS", ""), *QUICK_COMPILATION]
    if jobs > 1:
        threads = max(1, (os.cpu_count() or 1) // jobs)
        variables |= thread_limits(threads)
        flags += ["--xla_cpu_multi_thread_eigen=false"] * (threads == 1)
    return {**variables, "XLA_FLAGS": " ".join(flags).strip()}


def single_backend_step(python: Path, backend: str) -> Step:
    """A short training run where no other backend is installed."""
    return Step(
        f"{backend} alone, in .venv-{backend}",
        [str(python), str(ROOT / "tools" / "single_backend_check.py")],
        count_status,
        {"KERAS_BACKEND": backend},
    )


def wheel_step(python: Path) -> Step:
    """The wheel in a new environment, with JAX alone."""
    command = [str(python), str(ROOT / "tools" / "wheel_check.py")]
    return Step("the wheel, with jax alone", command, count_status, {})


def notebook_steps(
    python: Path, backends: list[str], folder: Path, options: argparse.Namespace
) -> list[Step]:
    """Every tutorial, shortened, on one backend each, in turn over the tutorials.

    But for two: DDPM's many loops cost TensorFlow twice as much as PyTorch.
    """
    swapped = {"04_ddpm": "torch", "09_vit": "tensorflow"}
    steps, variables = [], compiling(folder, options.jobs)
    for number, source in enumerate(sorted((ROOT / "tutorials").glob("[0-9]*.py"))):
        backend = environment.BACKENDS[number % len(environment.BACKENDS)]
        backend = swapped.get(source.stem, backend)
        if backend in backends:
            command = [str(python), str(ROOT / "tools" / "notebooks.py"), source.stem]
            command += ["--check", "--backend", backend]
            title = f"tutorial {source.stem} on {backend}"
            steps.append(
                Step(title, command, count_status, variables, file=source.name)
            )
    return steps


def thread_limits(threads: int) -> dict[str, str]:
    """The variables that hold each backend to so many threads."""
    return {
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": str(threads),
    }


def run(steps: list[Step], jobs: int) -> Iterator[tuple[Step, Ended]]:
    """Run the steps, at most `jobs` at a time.

    One at a time, a step's output comes as it is made; several at a time, whole and
    in the order of the steps.
    """
    with ThreadPoolExecutor(jobs) as pool:
        # The plain map runs a step only once the one before has been told of.
        each = map if jobs == 1 else pool.map
        ended = each(lambda step: run_step(step, show_at_once=jobs == 1), steps)
        for step, end in zip(steps, ended, strict=True):
            if jobs > 1:
                print(f"\n=== {step.title}\n{end.output}", end="")
            yield step, end


def tell(step: Step, ended: Ended) -> Counts:
    """Print how a step ended; what it counted."""
    counts = step.count(ended.status)
    print(
        f"{step.title}: {counts} in {ended.seconds:.0f} s "
        f"({ended.process_seconds:.0f} process-seconds)",
        flush=True,
    )
    return counts


def spent_in(step: Step, seconds: float) -> list[profile.Spent]:
    """Where the process-seconds of a step went."""
    backend = step.variables.get("KERAS_BACKEND", "no tests")
    if step.report is not None:
        return profile.of_report(step.report, backend, seconds)
    return [profile.Spent("no tests", step.file, step.file, seconds)]


def run_step(step: Step, show_at_once: bool) -> Ended:
    """Run one step."""
    mark = "\n===" if show_at_once else "Started:"
    print(f"{mark} {step.title}", flush=True)
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            step.command,
            cwd=ROOT,
            env=environment.child_environment(**step.variables),
            stdout=None if show_at_once else output,
            stderr=None if show_at_once else subprocess.STDOUT,
        )
        status, process_seconds = wait(child)
        output.seek(0)
        text = output.read().decode(errors="replace")
    return Ended(status, time.monotonic() - started, process_seconds, text)


def wait(child: subprocess.Popen) -> tuple[int, float]:
    """Wait for a process; its exit status and its process-seconds, 0.0 on Windows."""
    try:
        if not hasattr(os, "wait4"):
            return child.wait(), 0.0
        _, status, used = os.wait4(child.pid, 0)
    except BaseException:
        child.kill()
        raise
    child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode, used.ru_utime + used.ru_stime


def count_status(status: int) -> Counts:
    """A process that is one check: passed if its exit status is 0."""
    return Counts(failed=1) if status else Counts(passed=1)


def count_report(report: Path, status: int) -> Counts:
    """Count the tests in pytest's JUnit report.

    A run that leaves no report, or that ends badly after all its tests passed, has
    failed once more than its report says.
    """
    try:
        cases = ET.parse(report).getroot().iter("testcase")
        outcomes = {}
        for case in cases:
            # A test that passes or fails and then fails to clean up is there twice;
            # the worse outcome counts, which is also the first in the alphabet.
            name = (case.get("classname"), case.get("name"))
            outcomes[name] = min(outcomes.get(name, "skipped"), outcome(case))
    except (OSError, ET.ParseError):
        print(f"pytest ended with status {status} and without a report.")
        return Counts(failed=1)
    found = list(outcomes.values())
    counts = Counts(*(found.count(each) for each in ("passed", "failed", "skipped")))
    if status and not counts.failed:
        why = "no test was chosen" if status == 5 else f"exit status {status}"
        print(f"pytest failed although no test did: {why}.")
        counts += Counts(failed=1)
    return counts


def outcome(case: ET.Element) -> str:
    """How one test case of a JUnit report ended."""
    tags = {child.tag for child in case}
    if tags & {"failure", "error"}:
        return "failed"
    return "skipped" if "skipped" in tags else "passed"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
