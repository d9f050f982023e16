"""Whether operations of PyTorch are being recorded, and by whom."""

import threading

import torch


class _Recording(threading.local):
    """The recorder at work, or None: while there is one, no value may be looked at."""

    recorder = None


recording = _Recording()  # of this thread: others go on


def outside(function, *args, **kwargs):
    """A function of tensors that a recording takes as one operation, run as it is.

    It may look at values, and is called anew each time the recording is run.

    Args:
        function: of tensors, also in lists, and of other arguments that are the same
            each time; it returns a tensor, a tuple of them, or None.
    """
    recorder = recording.recorder
    if recorder is None or (
        torch.is_grad_enabled() and _learns([*args, *kwargs.values()])
    ):
        return function(*args, **kwargs)
    return recorder.call(function, args, kwargs)


def _learns(x):
    if isinstance(x, list | tuple):
        return any(map(_learns, x))
    return isinstance(x, torch.Tensor) and x.requires_grad
