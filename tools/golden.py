"""Write the golden files of the tests, on one fixed backend.

    KERAS_BACKEND=jax python tools/golden.py            # all of them
    KERAS_BACKEND=jax python tools/golden.py dcgan      # some, by name
    KERAS_BACKEND=torch python tools/golden.py --sign   # the hashes alone

in an environment that has JAX and the test tools (`.venv`, which tools/test.py
makes). They hold losses, samples and sums of weights that every backend must
reproduce, with a hash of the configuration that they follow from. They change only
in a commit that says why. After a change of names, which no number follows from,
`--sign` writes the hashes anew and no number: it computes them, on any backend, and
refuses where one misses the committed by more than the tests allow.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BACKEND = "jax"


def main() -> None:
    """Write the files asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="golden files (default: all)")
    parser.add_argument(
        "--sign", action="store_true", help="write the hashes anew, and no number"
    )
    options = parser.parse_args()
    if not options.sign and os.environ.setdefault("KERAS_BACKEND", BACKEND) != BACKEND:
        raise SystemExit(
            f"Golden files are written on {BACKEND}; KERAS_BACKEND is "
            f"{os.environ['KERAS_BACKEND']!r}. Set it to {BACKEND} or leave it out."
        )
    goldens = find()
    unknown = sorted(set(options.names) - set(goldens))
    if unknown:
        raise SystemExit(
            f"There is no golden file {', '.join(unknown)}; the known are "
            f"{', '.join(sorted(goldens))}."
        )
    for name in options.names or sorted(goldens):
        golden = goldens[name]
        path = golden.path.relative_to(ROOT)
        if options.sign:
            print(f"{path}: {'signed' if golden.sign() else 'as before'}", flush=True)
            continue
        before = golden.path.read_bytes() if golden.path.exists() else None
        golden.write()
        same = golden.path.read_bytes() == before
        print(f"{path}: {'as before' if same else 'written'}")


def find() -> dict:
    """Every golden file, by name: the test modules announce them when imported."""
    sys.path.insert(0, str(ROOT))
    from tests.support import conformance

    folder = ROOT / "tests"
    paths = {*folder.rglob("test_*conformance.py"), *folder.rglob("test_golden.py")}
    for path in sorted(paths):
        name = "_".join(path.relative_to(ROOT).with_suffix("").parts)
        spec = importlib.util.spec_from_file_location(name, path)
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    return conformance.GOLDENS


if __name__ == "__main__":
    main()
