"""What stands for the recorder where PyTorch has not what it needs: eager calls."""


class Recordings:
    """See `keras_genai.backend.torch.recorder.steps.Recordings`; it records nothing."""

    def __init__(self, fn, variables, writes=False):
        self.fn, self.programs, self.failed = fn, {}, {}

    def forget(self):
        """There is nothing to forget."""

    def __call__(self, *args, also=()):
        return self.fn(*args)


class Steps(Recordings):
    """See `keras_genai.backend.torch.recorder.steps.Steps`."""

    def __init__(self, model, fn):
        super().__init__(fn, None)

    def is_due(self, interval, phase):
        """Known when the branch asks: nothing is recorded."""


def Replayed(fn):
    """The function itself."""
    return fn
