"""Print the losses of several devices or processes beside one device's.

    python tools/device_table.py
    python tools/device_table.py --backend torch

Trains the twenty golden steps of `tests/gans/test_golden.py` (batch norm, dropout, a
lazy penalty, accumulation, clipping, an average) on one device, and divided in every
way that the backend has: 4 virtual devices and 2 processes on JAX, 2 mirrored replicas
and 2 workers on TensorFlow, 2 processes under torchrun on PyTorch. Then prints each
step's losses and, by way, the largest difference from one device of the losses and of
all else (sums of weights and of the optimizers' state, samples). A difference counts
relative to the value where that is above 1. The test suite asserts the same
(`tests/backend/test_devices.py`).

Makes or reuses `.venv`; `--python` names another environment's Python instead. A few
minutes on two cores.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import _environment as environment

sys.path.insert(0, str(environment.ROOT))

from tests.support.train_on_devices import WAYS, run

JOB = "tests.backend.test_devices:TestTwentySteps"
LOSSES = ("discriminator_loss", "generator_loss")


def train(way: str, backend: str, python: str) -> dict[str, list[float]]:
    """What the twenty steps gave, by name."""
    print(f"  {backend}: {WAYS[backend].get(way, 'one device')}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        result, _ = run(way, [JOB], Path(folder), backend, python)[JOB]
    if isinstance(result, str):
        raise SystemExit(result)
    return {name: numbers for name, (_, numbers) in result.items()}


def difference(got: list[float], reference: list[float]) -> float:
    """The largest difference, relative to values above 1."""
    pairs = zip(got, reference, strict=True)
    return max(abs(a - b) / max(1.0, abs(b)) for a, b in pairs)


def table(rows: list[list[str]], texts: int = 1) -> str:
    """A Markdown table; the first row is its head, the first columns are texts."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * w if i < texts else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join(
        "| "
        + " | ".join(
            cell.ljust(width) if number < texts else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in [rows[0], rule, *rows[1:]]
    )


def losses(results: dict[str, dict]) -> str:
    """Each step's losses, one way beside the other."""
    head = ["step"] + [
        f"{'D' if loss == LOSSES[0] else 'G'}, {title}"
        for loss in LOSSES
        for title in results
    ]
    columns = [result[loss] for loss in LOSSES for result in results.values()]
    rows = zip(*columns, strict=True)
    body = [[str(i), *(f"{x:.7f}" for x in row)] for i, row in enumerate(rows)]
    return table([head, *body])


def main() -> int:
    """Train in every way, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", action="append", choices=environment.BACKENDS)
    parser.add_argument("--python", type=Path, help="the Python to run in")
    options = parser.parse_args()
    python = options.python or environment.prepare(
        environment.ROOT / ".venv", list(environment.GROUPS)
    )
    summary = [["backend", "way", "losses", "all else"]]
    tables = []
    for backend in options.backend or environment.BACKENDS:
        results = {"one device": train("one", backend, str(python))}
        for way, title in WAYS[backend].items():
            results[title] = train(way, backend, str(python))
        one = results["one device"]
        for title, result in list(results.items())[1:]:
            found = {name: difference(result[name], one[name]) for name in one}
            largest = max(found.pop(name) for name in LOSSES)
            row = [backend, title, f"{largest:.1e}", f"{max(found.values()):.1e}"]
            summary.append(row)
        tables.append(f"{backend}\n\n{losses(results)}\n")
    print("\n" + "\n".join(tables))
    print(f"Largest difference from one device\n\n{table(summary, texts=2)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
