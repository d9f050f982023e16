"""Variational autoencoders."""

from keras_genai.vaes.pixelcnn import PixelCNN
from keras_genai.vaes.pixelcnn_network import pixelcnn_network
from keras_genai.vaes.vqvae import VQVAE
from keras_genai.vaes.vqvae_networks import (
    dvae_decoder,
    dvae_encoder,
    vqvae_decoder,
    vqvae_encoder,
)

__all__ = [
    "VQVAE",
    "PixelCNN",
    "dvae_decoder",
    "dvae_encoder",
    "pixelcnn_network",
    "vqvae_decoder",
    "vqvae_encoder",
]
