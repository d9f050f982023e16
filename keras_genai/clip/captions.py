"""Pairs as CLIP trains on them: checks, equal captions, whether it learns."""

import warnings

import keras
import numpy as np
from keras import ops

from keras_genai.backend import random
from keras_genai.training.captions import check_names, rows_of
from keras_genai.utils.checks import check_images, check_sample_weight, check_tokens
from keras_genai.utils.validation import is_integer

FEWEST = 50  # steps, until an epoch's loss says something: rates begin low
NEAR = 0.01  # of the loss to that of chance


# Checks


def check(model, x, condition, weight):
    """Refuses data that `CLIP` cannot train on: see `Model.check_data`."""
    if condition is not None:
        raise ValueError(
            "CLIP takes no labels: give fit({'images': ..., 'captions': ...}) the "
            "pairs alone."
        )
    check_names(model, x)
    images, tokens = x["images"], x["tokens"]
    count = len(images)
    check_images_of(model, images)
    tokens = rows_of(tokens, count)
    check_tokens_of(model, tokens)
    check_sample_weight(weight, count)
    if model.loss_name == "softmax" and count > 1 and len(tokens) == count:
        if (tokens == tokens[:1]).all():
            raise ValueError(
                f"All {count} captions are equal: there is nothing to tell apart."
            )


def check_images_of(model, images):
    """Refuses images of another size, type or range, and says how to mend them."""
    shape = np.shape(images)
    if len(shape) == 4 and shape[1:] != model.image_shape:
        height, width, channels = model.image_shape
        raise ValueError(
            f"Images must have the shape (N, {height}, {width}, {channels}); got "
            f"{shape}. "
            + (
                "Resize them: keras.ops.image.resize(images, "
                f"({height}, {width}), antialias=True)."
                if shape[3] == channels
                else f"They must have {channels} channels, last."
            )
        )
    check_images(images, model.image_shape)


def check_tokens_of(model, tokens):
    """Refuses token ids that the text tower does not take, or cannot pool."""
    check_tokens(tokens, model.vocabulary_size, model.max_sequence_length)
    if hasattr(model.text_tower, "check_ends"):
        model.text_tower.check_ends(tokens)


def check_batches(model, x, y=None, batch_size=None, *args, **kwargs):
    """Refuses arrays of which `fit`, so called, makes a batch of one pair."""
    del y, args, kwargs
    if isinstance(x, dict) and "images" in x:
        count, size = len(x["images"]), 32 if batch_size is None else batch_size
        if is_integer(size) and size > 0 and 1 in (count, size, count % size):
            check_count(model, 1, f": batch_size={size} of {count} pairs")


def check_count(model, count, why=""):
    """Refuses a batch of one pair, of which the softmax learns nothing."""
    if count == 1 and model.loss_name == "softmax":
        raise ValueError(
            f"A batch must have two pairs or more; got one{why}. Its softmax loss "
            "is 0: there is nothing to tell it from. Give another batch_size, or "
            "leave a pair out."
        )


# In a step


def digests(tokens):
    """A digest of each row of ids, `(B, T)` -> `(B, 4)`: numbers in [0, 2^16).

    Two sums of 32 bits with odd random factors: other rows have the same with a chance
    of about 2^-60. In halves, since float32 holds those exactly, and floats alone are
    summed over devices.
    """
    halves = []
    for i in range(2):
        key = random.key(0, f"captions/{i}")
        words = random.bits(key, (tokens.shape[1], 1), host=True)[:, 0]
        total = ops.sum(tokens * ops.convert_to_tensor(words | 1), axis=1)
        low = ops.bitwise_and(total, 0xFFFF)
        high = ops.bitwise_and(ops.right_shift(total, 16), 0xFFFF)
        halves += [low, high]
    return ops.cast(ops.stack(halves, axis=1), "float32")


def equal_pairs(names):
    """Which other captions are equal: bool `(B, B)`, False on the diagonal.

    Args:
        names: `(B, 4)`, see `digests`.
    """
    same = ops.all(ops.equal(names[:, None], names[None]), axis=-1)
    own = ops.cast(ops.eye(ops.shape(names)[0]), "bool")
    return ops.logical_and(same, ops.logical_not(own))


# Whether anything is learned


class StuckLoss(keras.callbacks.Callback):
    """Warns once where an epoch's loss is that of chance, `log(batch)`."""

    def __init__(self):
        super().__init__()
        self.steps = 0
        self.done = False

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1

    def on_epoch_end(self, epoch, logs=None):
        if self.done or self.steps < FEWEST:
            return
        self.done = True
        chance = float(ops.convert_to_numpy(self.model.mean_so_far("chance")))
        loss = (logs or {}).get("loss")
        if loss is not None and abs(loss - chance) < NEAR * chance:
            warnings.warn(
                f"After {self.steps} steps the epoch's loss, {loss:.4g}, is that "
                f"of chance, log(batch) = {chance:.4g}: nothing is learned yet. Do "
                "images and captions belong together, row by row? Otherwise another "
                "learning rate (warmed up), larger batches, or more epochs.",
                stacklevel=2,
            )
