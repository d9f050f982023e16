"""Notebooks are made from their sources and checked against them."""

import json

import pytest

from tests.test_tools import tool

pytestmark = pytest.mark.once

for package in ("jupytext", "nbclient", "ipykernel"):
    pytest.importorskip(package)

notebooks = tool("notebooks")

SOURCE = """\
# %% [markdown]
# # A title
#
# and $x^2$.

# %%
import os
import pathlib

backend = os.environ["KERAS_BACKEND"]
fast = os.environ.get("KG_FAST") == "1"
pathlib.Path("left_behind.txt").write_text(pathlib.Path("data/given.txt").read_text())
print(f"on {backend}, fast: {fast}")

# %%
from IPython.display import Image, display
import base64

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGP4DwABAQEANl9ngAAAAA"
    "BJRU5ErkJggg=="
)
handle = display(Image(data=PNG, format="png"), display_id=True)
handle.update(Image(data=PNG, format="png"))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    made = tmp_path / "tutorials"
    (made / "data").mkdir(parents=True)
    (made / "data" / "given.txt").write_text("given")
    (made / "01_tiny.py").write_text(SOURCE)
    return made


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.processes
def test_made_checked_and_nothing_left_behind(folder, capsys):
    assert notebooks.run(folder, [], check=True, fast=False) == 1
    assert "01_tiny.ipynb is missing" in capsys.readouterr().out
    assert notebooks.run(folder, ["01_tiny"], check=False, fast=False) == 0
    assert "cell 2/3" in capsys.readouterr().out
    assert names(folder) == ["01_tiny.ipynb", "01_tiny.py", "data"]
    path = folder / "01_tiny.ipynb"
    first = path.read_bytes()
    made = json.loads(first)
    title, text, picture = made["cells"]
    assert title["cell_type"] == "markdown"
    assert "".join(title["source"]) == "# A title\n\nand $x^2$."
    assert text["outputs"][0]["text"] == ["on jax, fast: False\n"]
    assert "image/png" in picture["outputs"][0]["data"]
    assert len(picture["outputs"]) == 1
    assert [cell["metadata"] for cell in made["cells"]] == [{}, {}, {}]

    assert notebooks.run(folder, [], check=True, fast=False) == 0
    assert path.read_bytes() == first
    source = folder / "01_tiny.py"
    source.write_text(SOURCE.replace("and $x^2$", "and $x^3$"))
    capsys.readouterr()
    assert notebooks.run(folder, [], check=True, fast=False) == 1
    assert "differs from its source at cell 1" in capsys.readouterr().out
    source.write_text(SOURCE)
    assert notebooks.run(folder, [], check=False, fast=False) == 0
    assert path.read_bytes() == first  # nothing in it is of the moment


@pytest.mark.processes
def test_a_cell_that_errs(folder, capsys):
    (folder / "02_errs.py").write_text("# %%\nx = 1\n\n# %%\nx / 0\n")
    assert notebooks.run(folder, ["02_errs.py"], check=False, fast=True) == 1
    said = capsys.readouterr().out
    assert "cell 2 errs" in said and "ZeroDivisionError" in said
    assert "Failed: 02_errs" in said
    assert names(folder) == ["01_tiny.py", "02_errs.py", "data"]


def test_an_unknown_name(folder, tmp_path):
    with pytest.raises(ValueError, match="no tutorial '03_x'. Known: 01_tiny"):
        notebooks.find_sources(folder, ["03_x"])
    with pytest.raises(ValueError, match="no source"):
        notebooks.find_sources(tmp_path, [])
