"""Losses as pure functions: tensors in, one scalar out.

They draw no noise, hold no state and step no optimizer, so that each is a line of a
paper. `adversarial.get(name)` gives the two players' objectives, `penalties.get(name)`
a penalty on a critic's gradient.
"""

from keras_genai.losses import adversarial, penalties, reconstruction
from keras_genai.losses.adversarial import Adversarial
from keras_genai.losses.penalties import dragan, r1, r2, wgan_gp

__all__ = [
    "Adversarial",
    "adversarial",
    "dragan",
    "penalties",
    "r1",
    "r2",
    "reconstruction",
    "wgan_gp",
]
