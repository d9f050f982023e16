"""Variational autoencoders."""

from keras_genai.vaes.autoencoder_kl import AutoencoderKL
from keras_genai.vaes.gaussian import DiagonalGaussian
from keras_genai.vaes.latent_metrics import ActiveUnits
from keras_genai.vaes.pixelcnn import PixelCNN
from keras_genai.vaes.pixelcnn_network import pixelcnn_network
from keras_genai.vaes.schedules import KLWarmup
from keras_genai.vaes.vae import VAE
from keras_genai.vaes.vqvae import VQVAE
from keras_genai.vaes.vqvae_networks import (
    dvae_decoder,
    dvae_encoder,
    vqvae_decoder,
    vqvae_encoder,
)

__all__ = [
    "VAE",
    "VQVAE",
    "ActiveUnits",
    "AutoencoderKL",
    "DiagonalGaussian",
    "KLWarmup",
    "PixelCNN",
    "dvae_decoder",
    "dvae_encoder",
    "pixelcnn_network",
    "vqvae_decoder",
    "vqvae_encoder",
]
