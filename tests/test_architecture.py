"""The rules that hold the package together, checked on its source."""

import ast
import inspect
import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from keras_genai import backend
from keras_genai.backend import interface

PACKAGE = Path(__file__).resolve().parent.parent / "keras_genai"
BACKENDS = {"tensorflow", "jax", "torch"}
# Family -> those that it may compose, by their public names alone. Those to come stand
# here already: a family above others is made of networks and functions, not trainers.
COMPOSES = {
    "gans": set(),
    "vaes": set(),
    "diffusion": set(),
    "transformers": set(),
    "dream": set(),
    "clip": {"transformers"},
    "tables": {"gans", "vaes", "diffusion", "transformers"},
    "text_to_image": {"clip", "diffusion", "vaes", "transformers"},
}
FAMILIES = set(COMPOSES)
MODULES = sorted(PACKAGE.rglob("*.py"))
PRIMITIVES = [
    name
    for name, fn in vars(interface).items()
    if inspect.isfunction(fn) and not name.startswith("_")
]


def imported_backends(tree):
    """(line, backend, whether inside a function) for each import of a backend."""

    def visit(node, lazy):
        lazy = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for name in imported_names(node):
            backend = name.partition(".")[0]
            if backend in BACKENDS:
                yield node.lineno, backend, lazy
        for child in ast.iter_child_nodes(node):
            yield from visit(child, lazy)

    return list(visit(tree, False))


def imported_names(node):
    """The modules that one syntax node imports, by statement or by function."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""] if node.level == 0 else []
    if isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
        called = called.id if isinstance(called, ast.Name) else called
        argument = node.args[0] if node.args else None
        if called in ("import_module", "__import__", "LazyLoader", "LazyModule"):
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                return [argument.value]
    return []


@pytest.mark.once
@pytest.mark.parametrize(
    "source, found",
    [
        ("import torch", [(1, "torch", False)]),
        ("import numpy, jax.numpy as jnp", [(1, "jax", False)]),
        ("from tensorflow.nn import relu", [(1, "tensorflow", False)]),
        ("def f():\n    import torch", [(2, "torch", True)]),
        ("class A:\n    import jax", [(2, "jax", False)]),
        ("if 1:\n    import importlib\n    importlib.import_module('jax.numpy')", 1),
        ("torch = __import__('torch')", 1),
        ("from keras_genai.backend import torch\nfrom .torch import x", []),
        ("from keras import ops\nprint('import torch')", []),
    ],
)
def test_the_search_sees_every_form_of_import(source, found):
    seen = imported_backends(ast.parse(source))
    assert (len(seen) if isinstance(found, int) else seen) == found


@pytest.mark.once
@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.name))
def test_only_its_folder_names_a_backend(path):
    part, *rest = path.relative_to(PACKAGE).parts
    for line, name, lazy in imported_backends(ast.parse(path.read_text("utf-8"))):
        # Converting and exporting exist for another library's files.
        own = part == "backend" and rest[0] == name
        assert own or (part in ("weights", "export") and lazy), (
            f"{path}:{line} imports {name}. A backend is named in its folder of "
            "keras_genai/backend/ alone (weights/ and export/ may import one inside "
            "a function)."
        )


def dependencies():
    """Module -> the modules of the package that it imports, in functions too."""
    names = {
        ".".join((PACKAGE.name, *path.relative_to(PACKAGE).with_suffix("").parts)): path
        for path in MODULES
    }
    names = {n.removesuffix(".__init__"): path for n, path in names.items()}
    found = {}
    for name, path in names.items():
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            for module in imported_names(node):
                aliases = getattr(node, "names", [])
                parts = [f"{module}.{alias.name}" for alias in aliases]
                within = [part for part in parts if part in names]
                if module in names and len(within) < max(1, len(parts)):
                    within.append(module)
                found[name].update(within)
        found[name].discard(name)
    return found


IMPORTS = dependencies()


@pytest.mark.once
def test_no_module_imports_itself_by_way_of_others():
    assert "keras_genai.backend" in IMPORTS["keras_genai.layers.dense"]
    assert "keras_genai.backend.random" in IMPORTS["keras_genai.gans.gan"]
    waiting = IMPORTS
    while True:  # takes away what imports nothing that is left
        done = {n for n, needs in waiting.items() if not needs & waiting.keys()}
        if not done:
            break
        waiting = {n: needs for n, needs in waiting.items() if n not in done}
    assert not waiting, f"a circle of imports among {sorted(waiting)}"


# Lower floors know nothing of higher ones.
FLOORS = ("utils", "backend", "losses", "layers", "metrics", "training", "weights")


@pytest.mark.once
@pytest.mark.parametrize("floor", FLOORS)
def test_floors_stand_on_lower_ones_alone(floor):
    above = {*FLOORS[FLOORS.index(floor) + 1 :], *FAMILIES}
    for name, needs in IMPORTS.items():
        if name.startswith(f"keras_genai.{floor}"):
            wrong = [n for n in sorted(needs) if {*n.split(".")[1:2]} & above]
            assert not wrong, f"{name} imports {wrong}, of a higher floor"


@pytest.mark.parametrize("name", PRIMITIVES)
def test_a_backend_keeps_to_the_interface(name):
    described, own = getattr(interface, name), getattr(backend, name)
    assert str(inspect.signature(own)) == str(inspect.signature(described))
    assert own.__doc__ == described.__doc__ and own.__doc__
    assert own.__module__.startswith("keras_genai.backend")


def wrong_imports(family, tree):
    """What a module of a family imports of other families and may not."""
    for node in ast.walk(tree):
        for module in imported_names(node):
            package, _, name = module.partition(".")
            other, _, inside = name.partition(".")
            names = [alias.name for alias in getattr(node, "names", [])]
            if package == PACKAGE.name and not name:  # from keras_genai import vaes
                yield from (
                    n for n in names if n in FAMILIES - {family} - COMPOSES[family]
                )
            elif package == PACKAGE.name and other in FAMILIES - {family}:
                private = [n for n in names if n.startswith("_")]
                if other not in COMPOSES[family] or inside or private:
                    yield module


@pytest.mark.once
@pytest.mark.parametrize(
    "source, found",
    [
        ("from keras_genai.transformers import GPT", []),
        ("from keras_genai import transformers", []),
        (
            "from keras_genai.transformers.gpt import GPT",
            ["keras_genai.transformers.gpt"],
        ),
        ("from keras_genai.transformers import _x", ["keras_genai.transformers"]),
        ("from keras_genai.vaes import VAE", ["keras_genai.vaes"]),
        ("from keras_genai import vaes", ["vaes"]),
        ("from keras_genai.layers.attention import Attention", []),
    ],
)
def test_the_search_sees_what_clip_may_import(source, found):
    assert list(wrong_imports("clip", ast.parse(source))) == found


@pytest.mark.once
@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.name))
def test_a_family_composes_only_those_of_the_table(path):
    part, *rest = path.relative_to(PACKAGE).parts
    if part in FAMILIES and rest:
        wrong = list(wrong_imports(part, ast.parse(path.read_text("utf-8"))))
        assert not wrong, f"{path} imports {wrong}: see COMPOSES"


def test_the_table_has_no_circle():
    order = []
    while len(order) < len(COMPOSES):
        free = {f for f, of in COMPOSES.items() if f not in order and of <= {*order}}
        assert free, f"a circle among {sorted(FAMILIES - {*order})}"
        order += sorted(free)


@pytest.mark.once
@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.name))
def test_every_public_module_says_what_it_is(path):
    names = path.relative_to(PACKAGE).with_suffix("").parts
    if not any(name.startswith("_") and name != "__init__" for name in names):
        docstring = ast.get_docstring(ast.parse(path.read_text("utf-8")))
        assert docstring, f"{path} has no docstring."


@pytest.mark.processes
def test_the_import_brings_in_no_other_backend():
    # Keras itself imports JAX where it is installed (for Orbax checkpoints), so what
    # counts is what this package adds.
    script = (
        "import sys, keras\n"
        "before = set(sys.modules)\n"
        "import keras_genai\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    backend = keras.backend.backend()
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    added = set(done.stdout.split())
    assert "keras_genai" in added
    assert not added & ({"keras_cv", *BACKENDS} - {backend})
