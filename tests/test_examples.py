"""Examples in docstrings and tutorials: valid Python, with names that there are.

The README's are run (`test_readme.py`), and the tutorials, shortened (`tools/test.py`).
"""

import ast
import inspect
import re
import textwrap
from pathlib import Path

import pytest

import keras_genai as kg

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```", re.M | re.S)
SOURCES = [*(ROOT / "keras_genai").rglob("*.py"), *(ROOT / "tutorials").glob("*.py")]


def examples(path):
    """The code of a file's docstrings, or a tutorial's own."""
    text = path.read_text("utf-8")
    if path.parent.name == "tutorials":
        return [text]
    return [textwrap.dedent(block) for _, block in BLOCK.findall(text)]


def public(node):
    """What `kg.a.b` is; None for anything else."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id != "kg":
        return None
    found = kg
    for name in reversed(names):
        found = getattr(found, name)
    return found


def keywords(called):
    """The keywords that a function or class takes; None where it takes any."""
    bases = called.__mro__ if inspect.isclass(called) else [called]
    names = set()
    for base in bases:
        function = vars(base).get("__init__") if inspect.isclass(called) else base
        if function is None:
            continue
        parameters = inspect.signature(function).parameters.values()
        names |= {p.name for p in parameters}
        open_ended = any(p.kind == p.VAR_KEYWORD for p in parameters)
        if open_ended and not inspect.isclass(called):
            return None
        if open_ended and "kwargs" not in {p.name for p in parameters}:
            return None  # `**options`, of something else
    return names


def unknown(tree):
    """The keywords in calls of `kg` that the callee does not take."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (called := public(node.func)) is not None:
            known = keywords(called)
            given = [k.arg for k in node.keywords if k.arg]
            yield from (k for k in given if known is not None and k not in known)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_examples_are_python_with_known_names(path):
    for code in examples(path):
        tree = ast.parse(code)
        assert not list(unknown(tree)), code


def test_an_unknown_name_is_seen():
    assert list(unknown(ast.parse("kg.GPT(heads=2, num_layers=1)"))) == ["heads"]
