"""Export as ONNX: what is refused. What a file gives: `tests/support/processes.py`."""

import importlib.util

import pytest

import keras_genai as kg

pytestmark = pytest.mark.in_turn


def test_what_stands_there_is_not_replaced(tmp_path):
    model = kg.DCGAN((8, 8, 1), 4, base_filters=4)
    path = tmp_path / "net.onnx"
    path.write_text("mine")
    with pytest.raises(ValueError, match="nothing was written"):
        model.export(path, format="onnx")
    assert path.read_text() == "mine"
    with pytest.raises(ValueError, match="ends in .onnx"):
        model.export(tmp_path / "net", format="onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        model.export(tmp_path / "folder.onnx", format="onnx", overwrite=True)
    with pytest.raises(
        ValueError, match="no signature 'sample'; it has 'decode', 'generate'"
    ):
        model.export(tmp_path / "x.onnx", format="onnx", signature="sample")
    with pytest.raises(ValueError, match="format must be"):
        model.export(tmp_path / "x", format="tflite")
    assert {p.name for p in tmp_path.iterdir()} == {"net.onnx", "folder.onnx"}


def test_an_absent_package_is_named(tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "onnx" else find(name, *rest),
    )
    model = kg.DCGAN((8, 8, 1), 4, base_filters=4)
    with pytest.raises(ImportError, match="pip install onnx "):
        model.export(tmp_path / "x.onnx", format="onnx")
    assert not list(tmp_path.iterdir())
