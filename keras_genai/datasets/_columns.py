"""Files of two columns that users bring: texts with translations, images with captions.

Every fault is told with the number of its line.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

_TOLD = 5  # faults of a file that a message tells, and then their number
SUFFIXES = (".tsv", ".csv", ".txt", ".jsonl")


def two_columns(path, columns, names, named=False):
    """The rows of two columns of a file.

    `.tsv` has tabs between its columns and no quotes, `.csv` commas and quotes, `.txt`
    tabs where its first line has one, else commas; `.jsonl` has an object in each line.
    Empty lines are passed over.

    Args:
        path: of the file, in UTF-8.
        columns: None; or two positions, counted from 0; or two names.
        names: two tuples of names by which the columns are known in a first line, in
            lower case. Where `columns` is None and the first line has no such names, it
            is a row like the others, and there must be two columns.
        named: whether a first line that names the first column alone is refused.

    Returns:
        List of `(line, first, second)`: of the strings, and of `.jsonl`'s second also
        a list of strings.

    Raises:
        ValueError: names the file, and the line of each fault.
        FileNotFoundError: it is not there.
    """
    path = Path(path)
    lines = _lines(path)
    if path.suffix.lower() == ".jsonl":
        rows = _of_objects(path, lines, columns, names)
    else:
        rows = _of_cells(path, _cells(path, lines), columns, names, named)
    if not rows:
        raise ValueError(f"{path} holds no rows.")
    return rows


def refuse_faults(path, faults, what=""):
    """Raises a `ValueError` of the faults of a file, if there are any."""
    if faults:
        more = len(faults) - _TOLD
        told = "; ".join(faults[:_TOLD])
        told += f"; and {more} more" if more > 0 else ""
        raise ValueError(f"{path}: {told}.{what}")


def _lines(path):
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise ValueError(f"{path} is in UTF-16. Save it in UTF-8.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path} is not in UTF-8: line {line} holds the byte "
            f"0x{content[error.start]:02x}. Save it in UTF-8."
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise ValueError(f"{path} is no text: line {line} holds a zero byte.")
    # Not `splitlines`: sentences may hold other characters that it takes for ends.
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def _cells(path, lines):
    """List of `(line, cells)` of the lines that are not empty."""
    suffix = path.suffix.lower()
    first = next((line for line in lines if line.strip()), "")
    if suffix == ".tsv" or (suffix != ".csv" and "\t" in first):
        rows = [
            (i, line.split("\t")) for i, line in enumerate(lines, 1) if line.strip()
        ]
    else:
        reader = csv.reader((f"{line}\n" for line in lines), strict=True)
        rows, before = [], 0
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    rows.append((before + 1, cells))
                before = reader.line_num
        except csv.Error as error:
            raise ValueError(f"{path}: line {before + 1}: {error}.") from error
    return [(line, [cell.strip() for cell in cells]) for line, cells in rows]


def _of_cells(path, rows, columns, names, named):
    if not rows:
        return []
    line, first = rows[0]
    known = [cell.lower() for cell in first]
    if columns is None:
        found = [[i for i, c in enumerate(known) if c in each] for each in names]
        header = all(found)
        if named and found[0] and not found[1]:
            raise ValueError(
                f"{path} has no column {' or '.join(map(repr, names[1]))}: line {line} "
                f"names {', '.join(map(repr, first))}."
            )
        positions = [each[0] for each in found] if header else [0, 1]
        count = len(first) if header else 2
    elif isinstance(columns[0], int):
        header, positions, count = False, list(columns), None
    else:
        header, count = True, len(first)
        absent = [name for name in columns if name.lower() not in known]
        if absent:
            raise ValueError(
                f"{path} has no column {absent[0]!r}: line {line} names "
                f"{', '.join(map(repr, first))}."
            )
        positions = [known.index(name.lower()) for name in columns]
    made, faults = [], []
    for line, cells in rows[1:] if header else rows:
        if count is not None and len(cells) != count:
            faults.append(
                f"line {line} has {_counted(cells)} where {count} are expected"
            )
        elif max(positions) >= len(cells):
            faults.append(
                f"line {line} has {_counted(cells)}, no number {max(positions)}"
            )
        elif not all(cells[i] for i in positions):
            empty = next(i for i in positions if not cells[i])
            faults.append(f"line {line} is empty in column {empty + 1}")
        else:
            made.append((line, *(cells[i] for i in positions)))
    many = any("expected" in fault for fault in faults) and columns is None
    refuse_faults(
        path, faults, " Say which by columns=." if many and not header else ""
    )
    return made


def _counted(cells):
    return "1 column" if len(cells) == 1 else f"{len(cells)} columns"


def _of_objects(path, lines, columns, names):
    made, faults = [], []
    wanted = [(name,) for name in columns] if columns is not None else names
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            faults.append(f"line {number} is no object of JSON")
            continue
        keys = [next((k for k in each if k in row), None) for each in wanted]
        if None in keys:
            lacks = wanted[keys.index(None)]
            faults.append(f"line {number} lacks {lacks[0]!r}")
            continue
        first, second = (row[key] for key in keys)
        several = isinstance(second, list) and second
        texts = second if several else [second]
        if not all(isinstance(x, str) and x.strip() for x in (first, *texts)):
            faults.append(f"line {number} holds no text in {keys[0]!r} or {keys[1]!r}")
        else:
            texts = [text.strip() for text in texts]
            made.append((number, first.strip(), texts if several else texts[0]))
    refuse_faults(path, faults)
    return made
