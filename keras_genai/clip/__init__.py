"""CLIP and SigLIP: a joint space of images and texts (2103.00020, 2303.15343)."""

from keras_genai.clip.clip import CLIP
from keras_genai.clip.resnet import ResNetTower
from keras_genai.clip.towers import ImageTower, TextTower

__all__ = ["CLIP", "ImageTower", "ResNetTower", "TextTower"]
