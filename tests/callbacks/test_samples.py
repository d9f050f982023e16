"""Grids of samples: files, animation, notebook, and what is refused."""

import importlib.util
import sys
import types

import keras
import numpy as np
import pytest
from PIL import Image

import keras_genai as kg
from tests.support.short_run import build, fit

pytestmark = pytest.mark.in_turn


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_the_files_of_a_run(tmp_path):
    labels = [0, 1, 2, 0, 1, 2]
    grids = kg.callbacks.ImageGrid(tmp_path, every=2, labels=labels, seed=3, columns=3)
    model = build()
    before = model.generate(labels=labels, seed=3)
    fit([grids], model, epochs=5)
    assert grids.run_folder == tmp_path / "run-1"
    # The last epoch is drawn although it is odd; nothing is left over.
    files = [f"epoch-{n:04d}.png" for n in (0, 2, 4, 5)] + ["samples.webp"]
    assert names(tmp_path / "run-1") == files
    after = model.generate(labels=labels, seed=3)
    for name, images in ((files[0], before), (files[3], after)):
        wanted = kg.callbacks.image_grid(images, columns=3)
        np.testing.assert_array_equal(pixels(tmp_path / "run-1" / name), wanted)
    with Image.open(tmp_path / "run-1" / "samples.webp") as animation:
        assert animation.n_frames == 4
        assert animation.size == (3 * 66 + 2, 2 * 66 + 2)
    # Another run has a folder of its own.
    stamp = (tmp_path / "run-1" / files[0]).stat().st_mtime_ns
    fit([grids], epochs=1)
    assert grids.run_folder == tmp_path / "run-2"
    assert (tmp_path / "run-1" / files[0]).stat().st_mtime_ns == stamp


@pytest.mark.parametrize("stop", [(0, 2), (2, 1)])
def test_a_run_that_goes_on_goes_on_in_its_folder(tmp_path, stop):
    def callbacks():
        return [
            kg.callbacks.ImageGrid(tmp_path / "logs", n=4, animation="gif"),
            kg.callbacks.Resume(tmp_path / "resume.npz", every=1),
        ]

    fit(callbacks(), epochs=3, stop=stop)
    model = fit(callbacks(), epochs=3)
    fit(callbacks(), epochs=3)  # once more: it is done, there is nothing to draw
    assert names(tmp_path / "logs") == ["run-1"]
    folder = tmp_path / "logs" / "run-1"
    pictures = [f"epoch-{n:04d}.png" for n in range(4)]
    assert names(folder) == [*pictures, "samples.gif"]
    wanted = kg.callbacks.image_grid(model.generate(4, seed=0))
    np.testing.assert_array_equal(pixels(folder / pictures[-1]), wanted)
    # Grey levels are exact in these formats.
    with Image.open(folder / "samples.gif") as animation:
        animation.seek(animation.n_frames - 1)
        np.testing.assert_array_equal(np.asarray(animation.convert("RGB")), wanted)


def test_the_pictures_do_not_change_the_training(tmp_path):
    plain = fit([])
    drawn = fit([kg.callbacks.ImageGrid(tmp_path)])
    for ours, theirs in zip(drawn.variables, plain.variables, strict=True):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(theirs)
        )


def test_a_long_run_has_an_animation_of_a_hundred(tmp_path):
    grids = kg.callbacks.ImageGrid(tmp_path, animation="apng")
    grids.run_folder, grids._drawn = tmp_path, 249  # as after 249 epochs
    for epoch in range(250):
        Image.new("RGB", (4, 4), (epoch, 0, 0)).save(
            tmp_path / f"epoch-{epoch:04d}.png"
        )
    grids._animate()
    with Image.open(tmp_path / "samples.apng") as animation:
        assert animation.n_frames == 100
        assert animation.convert("RGB").getpixel((0, 0)) == (0, 0, 0)
        animation.seek(99)
        assert animation.convert("RGB").getpixel((0, 0)) == (249, 0, 0)


def test_in_a_notebook_one_display_is_updated(tmp_path, monkeypatch):
    shown = []

    class Handle:
        def update(self, picture):
            shown.append(("update", picture))

    def display(picture, display_id=None):
        shown.append(("display", picture))
        return Handle()

    ipython = types.ModuleType("IPython")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    ipython.display = types.SimpleNamespace(
        Image=lambda data, format: data, display=display
    )
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    fit([kg.callbacks.ImageGrid(tmp_path, n=2)])
    assert [how for how, _ in shown] == ["display", "update", "update"]
    assert shown[2][1] == (tmp_path / "run-1" / "epoch-0002.png").read_bytes()
    fit([kg.callbacks.ImageGrid(tmp_path, n=2, inline=False)])
    ipython.get_ipython = lambda: None  # IPython without a kernel: a terminal
    fit([kg.callbacks.ImageGrid(tmp_path, n=2)])
    assert len(shown) == 3


def test_what_is_refused(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("mine")
    model = build()
    before = [keras.ops.convert_to_numpy(v) for v in model.variables]
    for options, message in (
        ({"folder": file}, "file cannot be written"),
        ({"folder": tmp_path, "labels": [0, 7]}, "Labels must lie"),
        ({"folder": tmp_path, "n": 0}, "n must be"),
        ({"folder": tmp_path, "n": 300, "columns": 300}, "too large .* webp"),
    ):
        with pytest.raises(ValueError, match=message):
            fit([kg.callbacks.ImageGrid(**options)], model)
    for ours, theirs in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(ours), theirs)
    assert names(tmp_path) == ["file"]
    for options, message in (
        ({"every": 0}, "every must be"),
        ({"animation": "mp4"}, "animation must be"),
        ({"inline": "yes"}, "inline must be"),
    ):
        with pytest.raises(ValueError, match=message):
            kg.callbacks.ImageGrid(tmp_path, **options)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "PIL" else find(name, *rest),
    )
    with pytest.raises(ImportError, match="pip install pillow"):
        kg.callbacks.ImageGrid(tmp_path)
