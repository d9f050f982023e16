"""The public surface: every public name with its signature, in one file.

    KERAS_BACKEND=torch python tools/surface.py            tell what has changed
    KERAS_BACKEND=torch python tools/surface.py --write    and write it down

The file is `tests/surface.txt`. A test compares it, so that a name or an argument never
changes unseen; a change of it belongs into the CHANGELOG.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import sys
from pathlib import Path
from types import ModuleType

PATH = Path(__file__).resolve().parent.parent / "tests" / "surface.txt"
PACKAGE = "keras_genai"


def surface() -> str:
    """The text: a line for each function, class, method and property."""
    import keras_genai

    lines: list[str] = []
    first: dict[int, str] = {}  # where a class is told of
    modules = [keras_genai]
    modules += [
        found
        for name in keras_genai.__all__
        if isinstance(found := getattr(keras_genai, name), ModuleType)
    ]
    public = {
        value
        for module in modules
        for name in _public(module)
        if inspect.isclass(value := getattr(module, name))
    }
    for module in modules:
        prefix = "kg" if module is keras_genai else _prefix(module, keras_genai)
        for name in sorted(_public(module)):
            value = getattr(module, name)
            known = first.setdefault(id(value), f"{prefix}.{name}")
            if isinstance(value, ModuleType):
                continue
            if inspect.isclass(value) and known != f"{prefix}.{name}":
                lines.append(f"{prefix}.{name} is {known}")
            else:
                lines += _of(f"{prefix}.{name}", value, public)
    return "\n".join(lines) + "\n"


def _prefix(module, package):
    names = [n for n in package.__all__ if getattr(package, n) is module]
    return f"kg.{names[0]}"


def _public(module):
    """The names that a module gives away."""
    known = getattr(module, "__all__", None)
    if known is not None:
        return known
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (callable(value) or not isinstance(value, ModuleType))
        and getattr(value, "__module__", PACKAGE).startswith(PACKAGE)
    ]


def _of(name, value, public):
    """The lines of one name; a class with what is not told of at another class."""
    if not inspect.isclass(value):
        return [f"{name}{_signature(value)}" if callable(value) else name]
    bases = [base.__name__ for base in value.__mro__[1:] if base in public]
    lines = [f"{name}{_signature(value)}{' : ' if bases else ''}{', '.join(bases)}"]
    for method, found in sorted(_members(value, public).items()):
        bound = getattr(found, "__func__", found)  # of a class method
        if isinstance(found, property):
            lines.append(f"    .{method}")
        elif inspect.isfunction(bound):
            lines.append(f"    .{method}{_signature(bound)}")
    return lines


def _members(value, public):
    """The public members of a class and of those of its bases that are not public."""
    members = {}
    for base in value.__mro__:
        ours = base.__module__.startswith(PACKAGE)
        if ours and (base is value or base not in public):
            for name, found in vars(base).items():
                if not name.startswith("_"):
                    members.setdefault(name, found)
    return members


def _signature(function):
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return "(...)"
    parameters = [
        each.replace(annotation=inspect.Parameter.empty, default=_default(each))
        for each in signature.parameters.values()
        if each.name not in ("self", "cls")
    ]
    return str(inspect.Signature(parameters))


class _Shown:
    """A default as it stands in the text: without addresses, which change."""

    def __init__(self, text):
        self.text = text

    def __repr__(self):
        return self.text


def _default(parameter):
    value = parameter.default
    if value is inspect.Parameter.empty:
        return value
    if inspect.isroutine(value) or inspect.isclass(value):
        return _Shown(value.__qualname__)
    text = repr(value)
    return _Shown(type(value).__name__ + "()") if " at 0x" in text else _Shown(text)


def changes() -> str:
    """What differs from the file, as a diff; empty where nothing does."""
    old = PATH.read_text() if PATH.is_file() else ""
    lines = difflib.unified_diff(
        old.splitlines(), surface().splitlines(), "surface.txt", "now", "", "", 0, ""
    )
    return "\n".join(lines)


def main() -> int:
    """Tell what has changed; with `--write` write it down."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--write", action="store_true", help="write the file anew")
    options = parser.parse_args()
    text = changes()
    print(text or "Nothing has changed.")
    if options.write:
        PATH.write_text(surface())
    return 1 if text and not options.write else 0


if __name__ == "__main__":
    sys.exit(main())
