"""Generative adversarial networks."""

from keras_genai.gans.augment import DiffAugment
from keras_genai.gans.cgan import CGAN, cgan_discriminator, cgan_generator
from keras_genai.gans.dcgan import DCGAN, dcgan_discriminator, dcgan_generator
from keras_genai.gans.gan import GAN

__all__ = [
    "CGAN",
    "DCGAN",
    "GAN",
    "DiffAugment",
    "cgan_discriminator",
    "cgan_generator",
    "dcgan_discriminator",
    "dcgan_generator",
]
