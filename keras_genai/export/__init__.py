"""Export of samplers, from any backend: SavedModel with named signatures, and ONNX."""

from keras_genai.export.onnx import export_onnx
from keras_genai.export.savedmodel import export_savedmodel

__all__ = ["export_onnx", "export_savedmodel"]
