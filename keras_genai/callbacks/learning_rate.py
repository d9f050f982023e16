"""The learning rate of one player by epoch."""

import keras

from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import function, text


class LearningRateScheduler(keras.callbacks.LearningRateScheduler):
    """`keras.callbacks.LearningRateScheduler` for one player, or for all.

    Args:
        schedule: function `(epoch, rate) -> rate`, floats.
        player: name of the player; None sets every player's rate, as Keras's does.
        verbose: 1 prints the rate.

    Example:

    ```python
    kg.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9,
                                       player="discriminator")
    ```
    """

    @checked(schedule=function, player=text)
    def __init__(self, schedule, player=None, verbose=0):
        super().__init__(schedule, verbose=verbose)
        self.player = player

    def on_train_begin(self, logs=None):
        if self.player is not None and self.player not in self.model.optimizers:
            raise ValueError(
                f"player must be one of {', '.join(self.model.optimizers)}; got "
                f"{self.player!r}."
            )

    def on_epoch_begin(self, epoch, logs=None):
        if self.player is None:
            super().on_epoch_begin(epoch, logs)
            return
        optimizer = self.model.optimizers[self.player]
        rate = self._update_optimizer_lr(optimizer, epoch)
        if self.verbose:
            print(f"\nEpoch {epoch + 1}: learning rate of {self.player}: {rate}.")

    def on_epoch_end(self, epoch, logs=None):
        if self.player is None:
            super().on_epoch_end(epoch, logs)
        elif logs is not None:
            rate = self.model.optimizers[self.player].learning_rate
            logs[f"{self.player}_learning_rate"] = float(
                keras.ops.convert_to_numpy(rate)
            )
