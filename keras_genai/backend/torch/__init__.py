"""What `keras_genai.backend` needs, on PyTorch."""

# ruff: noqa: F401, F403

from keras_genai.backend.torch.convolution import (
    activated,
    convolution,
    depthwise_convolution,
    transposed_convolution,
)
from keras_genai.backend.torch.core import *
from keras_genai.backend.torch.linear import linear, quick_gelu
from keras_genai.backend.torch.memory import keep_freed_memory
from keras_genai.backend.torch.recorder.recording import outside
from keras_genai.backend.torch.threefry import concrete_int, threefry2x32
from keras_genai.backend.torch.trainer import Trainer

keep_freed_memory()
