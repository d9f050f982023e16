"""Steps and loops on PyTorch that run from recordings of their operations.

The recorder stands on private parts of PyTorch. Where a version has them no more,
everything runs eagerly instead, and a warning says so once.
"""

import warnings

import torch

try:
    from keras_genai.backend.torch.recorder.replay import Replayed
    from keras_genai.backend.torch.recorder.steps import Recordings, Steps
except (ImportError, AttributeError) as error:
    warnings.warn(
        f"PyTorch {torch.__version__} has other insides than the recorder of "
        f"keras_genai knows ({error}): steps run eagerly, which takes longer.",
        stacklevel=2,
    )
    from keras_genai.backend.torch.recorder.eager import Recordings, Replayed, Steps

__all__ = ["Recordings", "Replayed", "Steps"]
