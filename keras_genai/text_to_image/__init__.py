"""Text to image: latent diffusion with a text encoder (2112.10752)."""

from keras_genai.text_to_image.latent_diffusion import LatentDiffusion

__all__ = ["LatentDiffusion"]
