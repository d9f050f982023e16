"""What `keras_genai.backend` needs, on JAX."""

# ruff: noqa: F401, F403

from keras_genai.backend.jax.convolution import convolution, transposed_convolution
from keras_genai.backend.jax.core import *
from keras_genai.backend.jax.linear import linear
from keras_genai.backend.jax.trainer import Trainer
