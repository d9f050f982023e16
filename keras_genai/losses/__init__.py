"""Losses as pure functions: tensors in, one scalar out.

They draw no noise, hold no state and step no optimizer, so that each is a line of a
paper. `adversarial.get(name)` gives the two players' objectives, `penalties.get(name)`
a penalty on a critic's gradient; `elbo` holds the bounds of variational autoencoders,
`contrastive` the losses of pairs.
"""

from keras_genai.losses import (
    adversarial,
    contrastive,
    elbo,
    penalties,
    reconstruction,
)
from keras_genai.losses.adversarial import Adversarial
from keras_genai.losses.contrastive import clip_loss, siglip_loss
from keras_genai.losses.penalties import dragan, r1, r2, wgan_gp
from keras_genai.losses.perceptual import perceptual_distance

__all__ = [
    "Adversarial",
    "adversarial",
    "clip_loss",
    "contrastive",
    "dragan",
    "elbo",
    "penalties",
    "perceptual_distance",
    "r1",
    "r2",
    "reconstruction",
    "siglip_loss",
    "wgan_gp",
]
