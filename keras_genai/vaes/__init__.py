"""Variational autoencoders."""

from keras_genai.vaes.autoencoder_kl import AutoencoderKL
from keras_genai.vaes.posterior import DiagonalGaussian

__all__ = ["AutoencoderKL", "DiagonalGaussian"]
