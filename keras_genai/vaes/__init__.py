"""Variational autoencoders."""

from keras_genai.vaes.active_units import ActiveUnits
from keras_genai.vaes.autoencoder_kl import AutoencoderKL
from keras_genai.vaes.posterior import DiagonalGaussian
from keras_genai.vaes.schedules import KLWarmup
from keras_genai.vaes.vae import VAE

__all__ = ["VAE", "ActiveUnits", "AutoencoderKL", "DiagonalGaussian", "KLWarmup"]
