"""What a network sees: the CNN, DeepDream, and pictures of features."""

from keras_genai.dream.cnn import CNN, cnn_network
from keras_genai.dream.deepdream import DeepDream
from keras_genai.dream.explanation import grad_cam, occlusion, saliency
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
from keras_genai.dream.pretrained import ColourScale, imagenet_classes, load
from keras_genai.dream.style import style_transfer
from keras_genai.dream.visualization import (
    feature_grid,
    feature_maps,
    rank_channels,
    visualize,
)

__all__ = [
    "CNN",
    "Channel",
    "ColourScale",
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
    "feature_grid",
    "feature_maps",
    "grad_cam",
    "imagenet_classes",
    "load",
    "occlusion",
    "rank_channels",
    "saliency",
    "style_transfer",
    "visualize",
]
