"""Callbacks: resuming, samples as pictures, TensorBoard, metrics, learning rates."""

from keras_genai.callbacks.evaluate import Evaluate
from keras_genai.callbacks.learning_rate import LearningRateScheduler
from keras_genai.callbacks.pictures import (
    image_grid,
    read_settings,
    save_animation,
    save_image,
)
from keras_genai.callbacks.resume import Resume
from keras_genai.callbacks.retrieval import Retrieval
from keras_genai.callbacks.samples import ImageGrid
from keras_genai.callbacks.tensorboard import TensorBoard
from keras_genai.callbacks.translations import Translations

__all__ = [
    "Evaluate",
    "ImageGrid",
    "LearningRateScheduler",
    "Resume",
    "Retrieval",
    "TensorBoard",
    "Translations",
    "image_grid",
    "read_settings",
    "save_animation",
    "save_image",
]
