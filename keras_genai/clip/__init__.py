"""CLIP and SigLIP: a joint space of images and texts (2103.00020, 2303.15343)."""

from keras_genai.clip.classifier import ImageClassifier
from keras_genai.clip.clip import CLIP
from keras_genai.clip.index import Index
from keras_genai.clip.packaged import emoji
from keras_genai.clip.probe import LinearProbe
from keras_genai.clip.resnet import ResNetTower
from keras_genai.clip.towers import ImageTower, TextTower
from keras_genai.clip.zero_shot import ZeroShotClassifier

__all__ = [
    "CLIP",
    "ImageClassifier",
    "ImageTower",
    "Index",
    "LinearProbe",
    "ResNetTower",
    "TextTower",
    "ZeroShotClassifier",
    "emoji",
]
