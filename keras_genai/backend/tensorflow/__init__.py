"""What `keras_genai.backend` needs, on TensorFlow."""

# ruff: noqa: F401, F403

from keras_genai.backend.tensorflow.core import *
from keras_genai.backend.tensorflow.kernels import (
    argmax,
    attention,
    batch_normalization,
    cross_entropy,
    gelu,
    group_normalization,
    leaky_relu,
    linear,
    write,
)
from keras_genai.backend.tensorflow.optimizers import apply_gradients
from keras_genai.backend.tensorflow.trainer import Trainer, feed
