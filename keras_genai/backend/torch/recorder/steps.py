"""Steps on PyTorch that are called again and again, recorded for arguments of a shape.

Where Keras's Python and autograd's bookkeeping take a third of a small model's step,
running its operations again takes little more than the operations.
"""

import keras
import numpy as np
import torch
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from keras_genai.backend.torch.recorder.recording import recording
from keras_genai.backend.torch.recorder.replay import (
    BELOW_AUTOGRAD,
    place,
    recorded,
    storage,
)

# Calls before the first recording: the last batch of an epoch is no reason for one.
WARM = 3
KINDS = 16  # of arguments that are recorded: more of them come each only a few times


class Recordings:
    """A function of tensors that is run from recordings of its operations.

    Each kind of arguments (shapes and dtypes) is recorded twice: the two must be alike,
    which Python's own changes from call to call are not, and then it is run from the
    recording. What cannot be recorded, such as a function that looks at a value, runs
    as it is. As where a function is compiled, what Python does beside the operations
    is done while recording only.

    Args:
        fn: the function, of tensors in any structure, to tensors likewise.
        variables: function of no arguments, to the Keras variables that `fn` reads.
        writes: whether it may write into them.

    Attributes:
        programs: dict kind -> what is run for it.
        failed: dict kind -> why there is no program.
    """

    def __init__(self, fn, variables, writes=False):
        self.fn, self.variables, self.writes = fn, variables, writes
        self.forget()

    def forget(self):
        """Drops what was recorded."""
        self.calls, self.first, self.programs, self.failed = {}, {}, {}, {}

    def __call__(self, *args, also=()):
        """`fn(*args)`; `also` is hashable: what else the recording is for."""
        args = keras.tree.map_structure(_tensor, args)
        leaves = keras.tree.flatten(args)
        arrays = {place(x): x for x in leaves if isinstance(x, torch.Tensor)}
        if not _recordable(leaves, arrays.values()):
            return self.fn(*args)
        kind = also, _form(args, leaves, list(arrays))
        program = self.programs.get(kind)  # which another thread may forget
        if program is not None:
            if program.holds():
                return program(*arrays.values())
            self.forget()
        calls = self.calls[kind] = self.calls.get(kind, 0) + 1
        if calls <= WARM or kind in self.failed or len(self.programs) >= KINDS:
            return self.fn(*args)
        return self._recorded(kind, args, arrays.values())

    def _recorded(self, kind, args, arrays):
        """Runs and records; the second recording decides."""
        variables = self.variables()
        owned = [storage(v.value) for v in variables if self.writes]
        with recorded(arrays, owned) as recorder:
            result = self.fn(*args)
        made = keras.tree.flatten(result)
        if not all(isinstance(x, torch.Tensor) for x in made):
            recorder.failed = "a result is no tensor"
        if recorder.failed is None:
            program = _Held(recorder.finished(made), result, variables)
        if recorder.failed is None:
            before = self.first.pop(kind, None)
            if before is None:
                self.first[kind] = program
            elif before.program.is_like(program.program):
                self.programs[kind] = program
            else:
                recorder.failed = "it differs from call to call"
        if recorder.failed is not None:
            self.failed[kind] = recorder.failed
        return result


class Steps(Recordings):
    """A step `fn(data) -> dict of tensors` of a model, that trains it or judges it.

    Args:
        model: the model, compiled.
        fn: its step, as Python.
    """

    def __init__(self, model, fn):
        super().__init__(fn, lambda: _variables(model), writes=True)
        self.model = model
        self.asked = set()  # schedules, as `(interval, phase)`
        self.now = None

    def is_due(self, interval, phase):
        """Whether a schedule is due in the step that runs; None outside of a step."""
        if self.now is None:
            return None
        self.asked.add((interval, phase))
        return self.now % interval == phase

    def __call__(self, data):
        step = self.model.noise.step.value
        if step.device.type != "cpu" or torch.compiler.is_compiling():
            return self.fn(data)
        now = self.now = int(step)
        try:
            return super().__call__(
                data, also=tuple((i, p, now % i == p) for i, p in sorted(self.asked))
            )
        finally:
            self.now = None


class _Held:
    """A program with the form of its result, and the weights that it knows."""

    def __init__(self, program, result, variables):
        self.program = program
        self.form = keras.tree.map_structure(lambda _: 0, result)
        self.held = [(v, v._value) for v in variables]

    def holds(self):
        """Whether the weights are where they were."""
        return all(v._value is value for v, value in self.held)

    def __call__(self, *arrays):
        with BELOW_AUTOGRAD():
            made = self.program(*arrays)
        return keras.tree.pack_sequence_as(self.form, made)


def _tensor(x):
    """An argument as the tensor that the function would make of it."""
    return keras.ops.convert_to_tensor(x) if isinstance(x, np.ndarray) else x


def _recordable(leaves, arrays):
    """Whether it is of one process, on a CPU, and no one else listens."""
    return (
        not torch.compiler.is_compiling()
        and not (
            torch.distributed.is_available() and torch.distributed.is_initialized()
        )
        and not _get_current_dispatch_mode_stack()
        and recording.recorder is None
        and all(x.device.type == "cpu" and type(x) is torch.Tensor for x in arrays)
        and not any(x.requires_grad for x in arrays)
        and all(x is None or isinstance(x, torch.Tensor) for x in leaves)
    )


def _form(args, leaves, places):
    """What arguments have in common with those of the same program."""
    parts = tuple(
        x
        if x is None
        else (places.index(place(x)), tuple(x.shape), x.stride(), x.dtype)
        for x in leaves
    )
    return repr(keras.tree.map_structure(lambda _: 0, args)), parts


def _variables(model):
    """All that a step may write into."""
    optimizer = () if model.optimizer is None else model.optimizer.variables
    found = [*model.variables, *model.metrics_variables, *optimizer]
    return list({id(v): v for v in found}.values())
