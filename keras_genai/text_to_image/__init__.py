"""Text to image: latent diffusion with a text encoder (2112.10752)."""

from keras_genai.text_to_image.latent_diffusion import LatentDiffusion
from keras_genai.text_to_image.pretrained import emoji

__all__ = ["LatentDiffusion", "emoji"]
