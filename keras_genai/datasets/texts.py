"""Texts, pairs of sentences, tables and music, as plain Python and NumPy values."""

from __future__ import annotations

import json
import lzma
import os
from pathlib import Path

import numpy as np

from keras_genai.datasets import _files
from keras_genai.datasets._columns import SUFFIXES, two_columns
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import either, integer, optional, refuse, tuple_of
from keras_genai.utils.validation import text as text_check

_TEXTS = ("shakespeare",)
_PAIRS = ("verses",)
_TABLES = ("adult", "flights")


def text(name: str = "shakespeare") -> dict[str, str]:
    """Load works of literature.

    `"shakespeare"`: 37 plays and five works of poetry in modern spelling, 5 million
    characters, all ASCII, inside the package.

    Args:
        name: `"shakespeare"`.

    Returns:
        A dict from each work's title to its text, in the order of the titles.
        `"\\n\\n".join(text().values())` is one long text for a language model.

    Raises:
        ValueError: if the name is not known, or if the file is damaged.

    Example:

    >>> works = text("shakespeare")
    >>> len(works), works["Hamlet"][:25]
    (42, 'HAMLET, PRINCE OF DENMARK')
    """
    if not _files.is_known(name, _TEXTS):
        raise _files.unknown("text", name, _TEXTS, _files.ELSEWHERE)
    return json.loads(lzma.decompress(_files.packaged(f"{name}.json.xz")))


def _columns(name, value):
    """Two columns of a file: positions, counted from 0, or names."""
    says = "two different positions, counted from 0, or two names of columns"
    both = tuple_of(either(integer(0), text_check), length=2, says=says)(name, value)
    if both[0] == both[1] or type(both[0]) is not type(both[1]):
        refuse(name, says, value)
    return both


@checked(name=None, columns=optional(_columns))
def pairs(
    name: str | os.PathLike = "verses",
    columns: tuple[int, int] | tuple[str, str] | None = None,
) -> dict[str, list[str]]:
    """Load pairs of texts, for translation: those of the package, or one's own.

    `"verses"`: the verses of the King James Version (English) and of the
    Reina-Valera of 1909 (Spanish), inside the package; chapters that the two number
    differently are left out.

    A file of one's own has a pair in each line, in UTF-8: a `.tsv` or `.txt` with a tab
    between the two and no quotes, a `.csv` with commas and quotes, or a `.jsonl` with
    an object `{"source": ..., "target": ...}` in each line. A first line that names
    columns `source` and `target` is no pair, and other columns are then passed over.

    Args:
        name: `"verses"`, or the path of a file.
        columns: of a file, which two columns of several: their positions, counted from
            0, or their names in the first line.

    Returns:
        A dict of equally long lists of strings: `source` and `target`; of the verses
        (English, Spanish) also `reference`, the place, such as `"Gen 1:1"`. Spaces
        around a text are taken away.

    Raises:
        ValueError: if the name is not known, or a file is damaged or not in UTF-8, has
            another number of columns or an empty one; tells the lines.
        FileNotFoundError: if there is no such file.

    Example:

    >>> verses = pairs("verses")
    >>> verses["source"][0], verses["reference"][0]
    ('In the beginning God created the heaven and the earth.', 'Gen 1:1')

    ```python
    own = kg.datasets.pairs("own.tsv")
    model.fit({"source": own["source"], "target": own["target"]})
    ```
    """
    if not _files.is_known(name, _PAIRS):
        if not _is_path(name):
            raise _files.unknown("set of pairs", name, _PAIRS, _files.ELSEWHERE)
        rows = two_columns(name, columns, (("source",), ("target",)))
        _, source, target = map(list, zip(*rows, strict=True))
        return {"source": source, "target": target}
    if columns is not None:
        raise ValueError(f"columns is for a file of one's own; {name!r} is not.")
    packed = _files.packaged(f"{name}.tsv.xz")
    rows = [line.split("\t") for line in lzma.decompress(packed).decode().splitlines()]
    reference, source, target = map(list, zip(*rows, strict=True))
    return {"source": source, "target": target, "reference": reference}


def _is_path(name):
    """Whether a name is that of a file, and no misspelt one of the package."""
    if isinstance(name, os.PathLike):
        return True
    if not isinstance(name, str) or not name or "\0" in name:
        return False
    return Path(name).suffix.lower() in SUFFIXES or Path(name).is_file()


def table(name: str) -> dict[str, np.ndarray]:
    """Load a table of mixed columns, for models of tabular data.

    Not in the package: read from the cache folder (`KERAS_GENAI_DATA`, by default
    `~/.keras/keras_genai`), where `python tools/fetch_data.py NAME` puts it.

    - `"adult"`: the census extract of 1994 (Kohavi, 1996), 48,842 people by 15
      columns, of which `income` says whether it is above 50,000 dollars; the column
      `part` is `"train"` or `"test"`, as published. What is unknown is `"?"`.
    - `"flights"`: the 336,776 flights that left New York City in 2013, by 19
      columns; what is unknown is NaN, or an empty string.

    Args:
        name: `"adult"` or `"flights"`.

    Returns:
        A dict from each column's name to a one-dimensional array: float32 or int32
        for numbers, strings, and `datetime64[s]` for times.

    Raises:
        ValueError: if the name is not known, or if the file is damaged.
        FileNotFoundError: if the table has not been fetched; the message says what
            to run.

    Example:

        adult = kg.datasets.table("adult")
        rich = adult["income"] == ">50K"
    """
    if not _files.is_known(name, _TABLES):
        raise _files.unknown("table", name, _TABLES, _files.ELSEWHERE)
    return _fetched(name)


def chorales() -> dict[str, list]:
    """Load Bach's four-part chorales as pitches in time.

    Not in the package: read from the cache folder (`KERAS_GENAI_DATA`, by default
    `~/.keras/keras_genai`), where `python tools/fetch_data.py chorales` puts it.

    Returns:
        A dict of three equally long lists: `pitch`, for each chorale an int16 array
        of shape `(T, 4)`, the MIDI pitch that soprano, alto, tenor and bass sound in
        each sixteenth note (-1 for a rest); `onset`, a bool array of that shape,
        true where a note begins; and `name`, such as `"bwv269"`.

    Raises:
        ValueError: if the file is damaged.
        FileNotFoundError: if they have not been fetched; the message says what to
            run.

    Example:

        music = kg.datasets.chorales()
        soprano = music["pitch"][0][:, 0]
    """
    arrays = _fetched("chorales")
    ends = np.cumsum(arrays["lengths"])[:-1]
    return {
        "pitch": np.split(arrays["pitch"], ends),
        "onset": np.split(arrays["onset"], ends),
        "name": arrays["names"].tolist(),
    }


def _fetched(name):
    arrays = _files.read_cached(name)
    if arrays is None:
        raise _files.unavailable(name)
    return arrays
