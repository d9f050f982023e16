"""A run that `processes.Battery` kills: trains, or goes on, and stores what it made.

Arguments: the battery (`"module:Class"`), the file of Resume, the result, the number
of epochs.
"""

import sys

import keras
import numpy as np

import keras_genai as kg
from tests.support import processes
from tests.support.train_on_devices import find


class Report(keras.callbacks.Callback):
    """Says which batch begins, so that the parent can choose its moment."""

    def on_train_batch_begin(self, batch, logs=None):
        print("batch", batch, flush=True)


def main(battery, path, result, epochs):
    callbacks = [Report(), kg.callbacks.Resume(path, every=2)]
    model = find(battery).runs.fit(int(epochs), callbacks)
    np.savez(result, *processes.state(model))


if __name__ == "__main__":
    main(*sys.argv[1:])
