"""Training and sampling: what every model of the package is made of."""

from keras_genai.training.ema import EMA
from keras_genai.training.generation import GenerativeModel
from keras_genai.training.model import Model

__all__ = ["EMA", "GenerativeModel", "Model"]
