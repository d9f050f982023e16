"""Generative models as Keras 3 models that train with `model.fit()`.

Written once in `keras.ops`: the same numbers on TensorFlow, JAX and PyTorch. Set
`KERAS_BACKEND` before the first import.
"""

from keras_genai import backend  # isort: skip (before anything imports Keras)
from keras_genai import (
    callbacks,
    clip,
    datasets,
    diffusion,
    dream,
    gans,
    layers,
    losses,
    metrics,
    text_to_image,
    transformers,
    vaes,
)
from keras_genai.clip import CLIP
from keras_genai.diffusion import DDPM, DiT, UNet, guidance, samplers, schedules
from keras_genai.dream import CNN, DeepDream
from keras_genai.gans import CGAN, DCGAN
from keras_genai.text_to_image import LatentDiffusion
from keras_genai.training import EMA, GenerativeModel, Model
from keras_genai.transformers import BERT, GPT, Tokenizer, Translator, ViT
from keras_genai.utils.serialization import load_model
from keras_genai.vaes import VAE, VQVAE, AutoencoderKL, PixelCNN

__version__ = "0.1.0.dev0"

__all__ = [
    "AutoencoderKL",
    "BERT",
    "CGAN",
    "CLIP",
    "CNN",
    "DCGAN",
    "DDPM",
    "DeepDream",
    "DiT",
    "EMA",
    "GPT",
    "GenerativeModel",
    "LatentDiffusion",
    "Model",
    "PixelCNN",
    "Tokenizer",
    "Translator",
    "UNet",
    "VAE",
    "VQVAE",
    "ViT",
    "backend",
    "callbacks",
    "clip",
    "datasets",
    "diffusion",
    "dream",
    "gans",
    "guidance",
    "layers",
    "load_model",
    "losses",
    "metrics",
    "samplers",
    "schedules",
    "text_to_image",
    "transformers",
    "vaes",
]
