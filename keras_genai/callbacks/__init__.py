"""Callbacks: resuming a run, and one player's learning rate."""

from keras_genai.callbacks.learning_rate import LearningRateScheduler
from keras_genai.callbacks.resume import Resume

__all__ = ["LearningRateScheduler", "Resume"]
