"""Group normalization through the backend's fused kernel."""

import keras
from keras import ops

from keras_genai import backend
from keras_genai.backend.precision import widen
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_positive
from keras_genai.utils.serialization import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class GroupNormalization(keras.layers.Layer):
    """Group normalization over the last axis (Wu and He, 1803.08494).

    Each sample's channels are divided into groups of neighbours; every group is
    normalised by its mean and variance over its channels and all positions. The
    mathematics of `keras.layers.GroupNormalization`, in the fastest form of each
    backend, and in float32 under mixed precision.

    Args:
        groups: number of groups; it must divide the channels.
        epsilon: added to the variance, over 0.

    Raises:
        ValueError: `groups` does not divide the channels.

    Example:

    ```python
    y = GroupNormalization(groups=32)(x)              # (B, ..., C) -> (B, ..., C)
    ```
    """

    @checked()
    def __init__(self, groups=32, epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        check_positive("groups", groups)
        if not epsilon > 0.0:
            raise ValueError(f"epsilon must be over 0; got {epsilon!r}.")
        self.groups = groups
        self.epsilon = epsilon

    def build(self, input_shape):
        channels = input_shape[-1]
        if channels % self.groups:
            raise ValueError(
                f"groups must divide the channels: {self.groups} does not divide "
                f"{channels}."
            )
        for name, initial in (("gamma", "ones"), ("beta", "zeros")):
            weight = self.add_weight(
                name=name, shape=(channels,), initializer=initial, autocast=False
            )
            setattr(self, name, weight)
        self.built = True

    def call(self, inputs):
        y = backend.group_normalization(
            widen(inputs),
            self.groups,
            widen(self.gamma.value),
            widen(self.beta.value),
            self.epsilon,
        )
        return ops.cast(y, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "groups": self.groups,
            "epsilon": self.epsilon,
        }
