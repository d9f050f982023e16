"""What a network sees: the CNN, DeepDream, and pictures of features."""

from keras_genai.dream.cnn import CNN, cnn_network
from keras_genai.dream.deepdream import DeepDream
from keras_genai.dream.objectives import (
    Channel,
    Content,
    Direction,
    Guided,
    Layer,
    Logit,
    Neuron,
    Objective,
    Style,
)

__all__ = [
    "CNN",
    "Channel",
    "Content",
    "DeepDream",
    "Direction",
    "Guided",
    "Layer",
    "Logit",
    "Neuron",
    "Objective",
    "Style",
    "cnn_network",
]
