"""Diffusion: schedules, denoisers, samplers, guidance and likelihood.

Independent parts: a schedule says how much noise there is at a time, a `Denoiser` what
a network's answer means, a sampler the steps from noise to data, and guidance turns a
denoiser into another.
"""

from keras_genai.diffusion import guidance, samplers, schedules
from keras_genai.diffusion.ddpm import DDPM
from keras_genai.diffusion.denoiser import (
    PARAMETERIZATIONS,
    WEIGHTINGS,
    Denoiser,
    convert,
    logit_normal_times,
    lognormal_times,
    loss_weight,
    target,
    uniform_times,
)
from keras_genai.diffusion.dit import DiT
from keras_genai.diffusion.likelihood import bits_per_dim, log_likelihood
from keras_genai.diffusion.unet import UNet

__all__ = [
    "DDPM",
    "PARAMETERIZATIONS",
    "WEIGHTINGS",
    "Denoiser",
    "DiT",
    "UNet",
    "bits_per_dim",
    "convert",
    "guidance",
    "log_likelihood",
    "logit_normal_times",
    "lognormal_times",
    "loss_weight",
    "samplers",
    "schedules",
    "target",
    "uniform_times",
]
