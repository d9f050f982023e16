"""One caption of an image that has several, drawn anew in each epoch."""

import numpy as np

from keras_genai.backend import random


class Captions:
    """The captions of images: a string, or several, for each.

    Args:
        texts: list of strings, or of lists of strings.
        seed: integer that the draws are keyed by.
    """

    def __init__(self, texts, seed):
        self.texts = [(t,) if isinstance(t, str) else tuple(t) for t in texts]
        self.seed = seed
        self._draws = (None, None)

    def of(self, rows, epoch):
        """Those of some images in an epoch, an array of strings."""
        return np.array([self._one(row, epoch) for row in rows])

    def _one(self, row, epoch):
        texts = self.texts[row]
        if len(texts) == 1:
            return texts[0]
        known = self._draws  # one read: another thread may replace them
        if known[0] != epoch:
            key = random.key(self.seed, "captions", epoch)
            draws = random.uniform(key, (len(self.texts),), dtype="float32", host=True)
            known = self._draws = (epoch, draws)
        return texts[min(int(known[1][row] * len(texts)), len(texts) - 1)]
