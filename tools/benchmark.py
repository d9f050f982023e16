"""Measure this package against its peers, side by side, in one run.

    python tools/benchmark.py engine
    python tools/benchmark.py engine --backend jax --repeats 11 --steps 20
    python tools/benchmark.py engine --write         (also into tools/benchmarks.md)
    python tools/benchmark.py gan --quality          (half an hour of training)
    python tools/benchmark.py vae --quality          (likewise)

A comparison is one file of `tools/benchmarks/`. Each of its contenders runs in a
process of its own, which stays up; the contenders take turns, `--steps` training
steps each, `--repeats` rounds, and a ratio is the median over rounds of the ratio
within a round, so that whatever else the machine does meets both sides. Compilation
happens before and is shown apart. Rows that miss the speed rule of
`docs/architecture.md` are printed once more with their cause. Memory is the highest
that the process held: resident memory on a CPU, the device's on a GPU.

Makes or reuses `.venv`; `--python` names another environment's Python instead (one
with GPU builds, say).

A comparison's file defines, importing nothing but the standard library at its top:

    TITLE          what is compared
    CASES          name -> what `build` needs of it, with "divide": how many times
                   fewer steps a round has
    contenders     function (backends) -> dict name -> environment variables
    rows           function (backends, gpu) -> list of the arguments of `Row`
    causes         function (label) -> why that row misses, as far as it is known
    build          function (contender, case) -> a `Bench`-like object (in the worker)
                   with `tasks` (name -> function (steps), which ends when the device
                   has), `device`, `versions`, `compile_seconds`, and optionally
                   `flops` (task -> FLOPs of a step) and `peak` (() -> bytes)
    ROUNDS         optional: task -> the most rounds, of what is slow and only informs
    QUALITY_BACKEND, QUALITY_GROUPS   optional, for `--quality`: its backend where none
                   is asked for, and what it needs beside, of `_environment.py`
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import _environment as environment

FOLDER = Path(__file__).resolve().parent / "benchmarks"
TABLE = FOLDER.with_suffix(".md")
HEAD = """\
# Benchmarks

Made by `python tools/benchmark.py <comparison> --write`, which replaces the section
of that comparison and device. A time ratio is the median over rounds of contender
over reference, both measured in turn in one run (in brackets the quartiles); under 1
the contender is faster. "Wanted" is the speed rule of the project.
"""


@dataclass(frozen=True)
class Row:
    """One line of the table: a contender against a reference.

    Args:
        label: what the reader sees.
        task: which of the worker's tasks.
        over: contender, or a tuple of which the fastest counts.
        under: the reference.
        wanted: the highest time ratio that keeps the rule; None only informs.
    """

    label: str
    task: str
    over: str | tuple[str, ...]
    under: str
    wanted: float | None = None


@dataclass(frozen=True)
class Result:
    """What a row measured. Times are seconds of one step, memory is in bytes."""

    row: Row
    winner: str
    seconds: float
    reference: float
    ratio: float
    quartiles: tuple[float, float]
    memory: float | None
    compile_seconds: float | None
    share: float | None = None

    @property
    def missed(self) -> bool:
        return self.row.wanted is not None and self.ratio > self.row.wanted


# The measuring side -------------------------------------------------------------


class Worker:
    """One contender in its process, asked over pipes.

    Args:
        command: the process; it answers each line of JSON with one.
        variables: its environment.
    """

    def __init__(self, command: list[str], variables: dict[str, str]):
        self.process = subprocess.Popen(
            command,
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.facts = self._answer()

    def run(self, task: str, steps: int) -> dict:
        """Run the steps; `{"seconds": of one step, "peak": bytes so far}`."""
        self.process.stdin.write(json.dumps({"task": task, "steps": steps}) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self.process.stdin.close()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.process.stdout.close()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        self.process.stdin.close()
        self.process.stdout.close()
        raise SystemExit(
            f"A benchmark process ended with status {self.process.wait()}: "
            f"{' '.join(self.process.args)}"
        )


def measure(workers: dict[str, Worker], tasks: dict[str, int], steps: int):
    """Let the contenders take turns.

    Args:
        workers: name -> its process.
        tasks: name -> the number of rounds.
        steps: the steps in a round.

    Returns:
        `(seconds, peaks)`: dicts of (contender, task) to the seconds of a step in
        each round, and to the bytes of its peak by the end of the task.
    """
    seconds, peaks = {}, {}
    for task, rounds in tasks.items():
        present = [n for n, worker in workers.items() if task in worker.facts["tasks"]]
        for name in present:  # once without counting: caches, clocks, queues
            workers[name].run(task, max(1, steps // 2))
        for number in range(rounds):
            # The first after a pause may have it better or worse: take turns in that.
            turn = number % max(1, len(present))
            for name in present[turn:] + present[:turn]:
                answer = workers[name].run(task, steps)
                seconds.setdefault((name, task), []).append(answer["seconds"])
                peaks[name, task] = answer["peak"]
            print(f"  {task}: round {number + 1} of {rounds}", end="\r", flush=True)
        print(" " * 60, end="\r")
    return seconds, peaks


def compare(
    row: Row,
    seconds: dict[tuple[str, str], list[float]],
    peaks: dict[tuple[str, str], float],
    facts: dict[str, dict],
) -> Result | None:
    """A row's result, or None where one side is absent or on another device."""
    names = row.over if isinstance(row.over, tuple) else (row.over,)
    if (row.under, row.task) not in seconds:
        return None
    device = facts[row.under]["device"]
    names = [n for n in names if (n, row.task) in seconds]
    names = [n for n in names if facts[n]["device"] == device]
    if not names:
        return None
    winner = min(names, key=lambda n: statistics.median(seconds[n, row.task]))
    reference = seconds[row.under, row.task]
    own = seconds[winner, row.task]
    ratios = [a / b for a, b in zip(own, reference, strict=True)]
    peak = [peaks.get((n, row.task)) for n in (winner, row.under)]
    rate = max((f.get("matrix_rate") or 0.0) for f in facts.values())
    flops = facts[winner].get("flops", {}).get(row.task)
    middle = statistics.median(own)
    return Result(
        row=row,
        winner=winner,
        seconds=middle,
        reference=statistics.median(reference),
        ratio=statistics.median(ratios),
        quartiles=quartiles(ratios),
        memory=peak[0] / peak[1] if all(peak) else None,
        compile_seconds=facts[winner].get("compile_seconds"),
        share=flops / middle / rate if flops and rate else None,
    )


def quartiles(values: list[float]) -> tuple[float, float]:
    """The first and the third; of fewer than three values the extremes."""
    if len(values) < 3:
        return min(values), max(values)
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, third


def load(name: str):
    """A comparison's file as a module."""
    path = FOLDER / f"{name}.py"
    if not path.is_file():
        known = sorted(p.stem for p in FOLDER.glob("[!_]*.py"))
        raise SystemExit(f"No comparison {name!r}; there are: {', '.join(known)}.")
    spec = importlib.util.spec_from_file_location(f"keras_genai_{name}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# The table ----------------------------------------------------------------------


def table(results: list[Result]) -> str:
    """The rows as Markdown."""
    head = [
        "comparison",
        "time ratio",
        "wanted",
        "ms a step",
        "reference",
        "peak memory ratio",
        "first call, s",
        "of the matrix rate",
    ]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for result in results:
        low, high = result.quartiles
        fastest = isinstance(result.row.over, tuple)
        lines.append(
            [
                result.row.label + (f" ({result.winner})" if fastest else ""),
                f"{result.ratio:.2f} ({low:.2f}-{high:.2f})"
                + (" **missed**" if result.missed else ""),
                "" if result.row.wanted is None else f"{result.row.wanted:.2f}",
                f"{1e3 * result.seconds:.1f}",
                f"{1e3 * result.reference:.1f}",
                "" if result.memory is None else f"{result.memory:.2f}",
                ""
                if result.compile_seconds is None
                else f"{result.compile_seconds:.1f}",
                "" if result.share is None else f"{result.share:.0%}",
            ]
        )
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def misses(results: list[Result], causes) -> str:
    """The rows that miss the rule, with their cause; one sentence if none does."""
    lines = [
        f"| {r.row.label} | {r.ratio:.2f} | {r.row.wanted:.2f} | "
        f"{causes(r.row.label) or 'not known yet'} |"
        for r in results
        if r.missed
    ]
    if not lines:
        return "No row misses the speed rule."
    return "\n".join(
        ["| missed | ratio | wanted | cause |", "|---|---:|---:|---|", *lines]
    )


def section(key: str, title: str, facts: str, parts: list[str]) -> str:
    """One comparison's part of the page, between marks that `put` finds."""
    body = "\n\n".join([f"## {title}", facts, *parts])
    return f"<!-- {key} -->\n{body}\n<!-- end {key} -->\n"


def put(page: str, key: str, text: str) -> str:
    """The page with that section replaced, or added at the end."""
    pattern = rf"<!-- {re.escape(key)} -->\n.*?<!-- end {re.escape(key)} -->\n"
    if re.search(pattern, page, re.DOTALL):
        return re.sub(pattern, lambda _: text, page, count=1, flags=re.DOTALL)
    return f"{(page or HEAD).rstrip()}\n\n{text}"


def machine() -> str:
    """The processor, its cores and the memory of this machine."""
    model, memory = platform.processor() or platform.machine(), None
    try:
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        model = found[1] if found else model
        found = re.search(r"MemTotal:\s*(\d+) kB", Path("/proc/meminfo").read_text())
        memory = int(found[1]) / 2**20 if found else None
    except OSError:
        pass
    text = f"{model}, {os.cpu_count()} cores"
    return text if memory is None else f"{text}, {memory:.0f} GiB"


def describe(facts: list[dict], rounds: int, steps: int) -> str:
    """Versions, machine, date and method, in two sentences."""
    versions = {k: v for each in facts for k, v in each["versions"].items()}
    devices = sorted({each["device"] for each in facts} - {"cpu"})
    listed = ", ".join(f"{k} {v}" for k, v in sorted(versions.items()))
    return (
        f"{datetime.date.today().isoformat()}; {'; '.join([*devices, machine()])}; "
        f"Python {platform.python_version()}, {listed}. {rounds} rounds of {steps} "
        "steps each; load average before "
        f"{os.getloadavg()[0] if hasattr(os, 'getloadavg') else 0:.1f}."
    )


# The command --------------------------------------------------------------------


def main() -> int:
    """Start the workers of each case, measure, print and write."""
    options = parse(sys.argv[1:])
    comparison = load(options.comparison)
    if options.worker:
        sys.path.insert(0, str(environment.ROOT))  # this clone is what is measured
        return serve(comparison, options.worker, comparison.CASES[options.case[0]])
    if options.quality:
        return judge_quality(options)
    if not hasattr(comparison, "CASES"):
        raise SystemExit(
            f"{options.comparison!r} measures quality, not time: give --quality."
        )
    cases = options.case or list(comparison.CASES)
    if unknown := sorted(set(cases) - set(comparison.CASES)):
        raise SystemExit(
            f"--case must be of {', '.join(comparison.CASES)}; got {unknown[0]!r}."
        )
    backends = options.backend or list(environment.BACKENDS)
    python = options.python or environment.prepare(
        environment.ROOT / ".venv", [*environment.BACKENDS, "keras", "dev"]
    )
    description, everything, devices = None, [], set()
    parts = []
    for case in cases:
        found = run_case(comparison, case, python, backends, options)
        facts, results = found
        devices |= {each["device"] for each in facts}
        description = description or describe(facts, options.repeats, options.steps)
        everything += results
        parts += [f"### {case}", table(results), misses(results, comparison.causes)]
        print(f"\n{case}\n\n{parts[-2]}\n\n{parts[-1]}\n", flush=True)
    print(description)
    if options.write:
        key = f"{options.comparison} on {', '.join(sorted(devices))}"
        page = TABLE.read_text("utf-8") if TABLE.is_file() else HEAD
        title = f"{comparison.TITLE} ({', '.join(sorted(devices))})"
        page = put(page, key, section(key, title, description, parts))
        TABLE.write_text(page, encoding="utf-8")
        print(f"Written: {TABLE.relative_to(environment.ROOT)}")
    return 0


def judge_quality(options) -> int:
    """Run a comparison's own program, which trains and judges: one for each backend."""
    program = FOLDER / f"{options.comparison}.py"
    comparison = load(options.comparison)
    more = getattr(comparison, "QUALITY_GROUPS", ())
    default = getattr(comparison, "QUALITY_BACKEND", "tensorflow")
    for backend in options.backend or [default]:
        python = options.python or environment.prepare(
            environment.ROOT / ".venv", [backend, "keras", "pictures", *more]
        )
        variables = environment.child_environment(KERAS_BACKEND=backend)
        done = subprocess.run([str(python), str(program)], env=variables, check=False)
        if done.returncode:
            return done.returncode
    return 0


def run_case(comparison, case: str, python, backends: list[str], options):
    """One case: its workers' facts, and its results."""
    steps = max(1, options.steps // comparison.CASES[case].get("divide", 1))
    workers = {}
    try:
        for name, variables in comparison.contenders(backends).items():
            if options.only and not re.search(options.only, name):
                continue
            print(f"  {case}: starting {name}", flush=True)
            command = [str(python), __file__, options.comparison]
            command += ["--worker", name, "--case", case]
            workers[name] = Worker(command, environment.child_environment(**variables))
        facts = {name: worker.facts for name, worker in workers.items()}
        tasks = dict.fromkeys(t for each in facts.values() for t in each["tasks"])
        most = getattr(comparison, "ROUNDS", {})
        rounds = {t: min(options.repeats, most.get(t, options.repeats)) for t in tasks}
        seconds, peaks = measure(workers, rounds, steps)
    finally:
        for worker in workers.values():
            worker.close()
    gpu = any(each["device"] != "cpu" for each in facts.values())
    rows = [Row(**each) for each in comparison.rows(backends, gpu)]
    results = [compare(row, seconds, peaks, facts) for row in rows]
    return list(facts.values()), [result for result in results if result]


def serve(comparison, name: str, case: dict) -> int:
    """The worker's side: build, say what there is, run what is asked for."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not come between the answers

    def answer(message):
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    bench = comparison.build(name, case)
    answer(
        {
            "tasks": list(bench.tasks),
            "device": bench.device,
            "versions": bench.versions,
            "compile_seconds": bench.compile_seconds,
            "flops": getattr(bench, "flops", {}),
            "matrix_rate": getattr(bench, "matrix_rate", None),
            "note": getattr(bench, "note", None),
        }
    )
    for line in sys.stdin:
        asked = json.loads(line)
        started = time.perf_counter()
        bench.tasks[asked["task"]](asked["steps"])
        spent = time.perf_counter() - started
        answer({"seconds": spent / asked["steps"], "peak": bench.peak()})
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "comparison", help="a file of tools/benchmarks/, such as engine"
    )
    parser.add_argument("--backend", action="append", choices=environment.BACKENDS)
    parser.add_argument("--repeats", type=int, default=9, help="rounds")
    parser.add_argument("--steps", type=int, default=20, help="steps in a round")
    parser.add_argument("--case", action="append", help="only this case")
    parser.add_argument("--only", metavar="REGEX", help="only contenders that match")
    parser.add_argument("--python", type=Path, help="the Python to run in")
    parser.add_argument(
        "--write", action="store_true", help="write the table to tools/benchmarks.md"
    )
    parser.add_argument(
        "--quality", action="store_true", help="train long and judge the samples"
    )
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    for name in ("repeats", "steps"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1; got {getattr(options, name)}")
    return options


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
