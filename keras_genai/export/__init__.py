"""Export of samplers: SavedModel with named signatures, from any backend."""

from keras_genai.export.savedmodel import export_savedmodel

__all__ = ["export_savedmodel"]
