"""Weights that move with the training step."""

import keras
from keras import ops

from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_positive
from keras_genai.utils.serialization import PACKAGE
from keras_genai.utils.validation import number


@keras.saving.register_keras_serializable(PACKAGE)
class KLWarmup(keras.optimizers.schedules.LearningRateSchedule):
    """Rises in a line from `start` to `end` in the first `steps` steps, and stays.

    For `VAE(beta=...)`: the KL comes in slowly (1602.02282, section 2.3, where beta
    rises from 0 to 1). For `VAE(capacity=...)`: C rises to its end (1804.03599,
    section 5, where it is 25 nats after 100,000 steps).

    Args:
        steps: training steps, at least 1.
        end: value from then on.
        start: value at the first step.

    Example:

    ```python
    model = kg.VAE(beta=kg.vaes.KLWarmup(2_000))
    model = kg.VAE(beta=100.0, capacity=kg.vaes.KLWarmup(100_000, end=25.0))
    ```
    """

    @checked(end=number(), start=number())
    def __init__(self, steps, end=1.0, start=0.0):
        super().__init__()
        check_positive("steps", steps)
        for name, value in (("start", start), ("end", end)):
            if not float(value) >= 0.0:
                raise ValueError(f"{name} must not be negative; got {value!r}.")
        self.steps, self.start, self.end = int(steps), float(start), float(end)

    def __call__(self, step):
        share = ops.minimum(ops.cast(step, "float32") / self.steps, 1.0)
        return self.start + (self.end - self.start) * share

    def get_config(self):
        return {"steps": self.steps, "end": self.end, "start": self.start}


def check_weight(name, value):
    """Refuses anything but a number of at least 0 or a schedule.

    Raises:
        ValueError: with what was expected.
    """
    if isinstance(value, keras.optimizers.schedules.LearningRateSchedule):
        return value
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and 0.0 <= value < float("inf")):
        raise ValueError(
            f"{name} must be a number of at least 0, or a schedule of the step such as "
            f"kg.vaes.KLWarmup(2_000); got {value!r}."
        )
    return float(value)
