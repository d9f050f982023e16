"""A step of a loop on PyTorch: recorded once, then run again without Python's part.

Of a step of writing with GPT-2 for one prompt, what Python does between the operations
took as long as the operations. `torch.compile` would take longer than most loops do,
and `torch.jit.trace` refuses weights that are trained.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from keras_genai.engine._torch_threefry import Recording

# Their results have sizes that depend on values.
SIZED = ("nonzero", "argwhere", "masked_select", "unique", "_unique2", "where.default")
FRESH = torch.ops.aten.lift_fresh.default
COPY = torch.ops.aten.lift_fresh_copy.default


class Slot:
    """Stands for a tensor that differs from call to call."""

    def __init__(self, number):
        self.number = number


def _replaced(x, kind, change):
    """An argument of an operation with `change` of what is of that kind in it."""
    if isinstance(x, kind):
        return change(x)
    if isinstance(x, list | tuple):
        return type(x)(_replaced(y, kind, change) for y in x)
    return x


def _storage(tensor):
    return tensor.untyped_storage()._cdata


class Recorder(TorchDispatchMode):
    """Writes down each operation: what it is given, and where its results go.

    Args:
        arrays: the step's arguments.

    Attributes:
        program: list of `(operation, arguments, keywords, results)`, slots for tensors.
        failed: why the program is not the step, or None.
    """

    def __init__(self, arrays):
        super().__init__()
        self.program, self.failed = [], None
        self.kept, self.numbers = [], {}  # kept, so that no id is given twice
        self.seen, self.constants = set(), set()  # storages
        for array in arrays:
            self.number(array)

    def number(self, tensor):
        """A tensor's number; a new one has the next."""
        self.kept.append(tensor)
        if _storage(tensor) not in self.constants:  # no view of a weight
            self.seen.add(_storage(tensor))
        return self.numbers.setdefault(id(tensor), len(self.numbers))

    def slot(self, tensor):
        """A tensor's slot; itself, where it is not of the step, such as a weight."""
        if id(tensor) in self.numbers:
            return Slot(self.numbers[id(tensor)])
        if _storage(tensor) in self.seen:
            self.failed = "a tensor of the step came by a way that was not seen"
        self.constants.add(_storage(tensor))
        return tensor

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        del types
        func, name = COPY if func is FRESH else func, func.overloadpacket.__name__
        if name in SIZED or f"{name}.{func._overloadname}" in SIZED:
            self.failed = f"{name} has a size that may change"
        kwargs = kwargs or {}
        given = _replaced(tuple(args), torch.Tensor, self.slot)
        keywords = {k: _replaced(x, torch.Tensor, self.slot) for k, x in kwargs.items()}
        if any(_storage(x) in self.constants for x in _written(func, args, kwargs)):
            self.failed = f"{name} writes into what is no argument"
        made = func(*args, **kwargs)
        if any(made is x for x in args) and not func._schema.is_mutable:
            return made  # a conversion to the type that it has
        results = _replaced(made, torch.Tensor, lambda x: Slot(self.number(x)))
        if not _only_slots(results):
            self.failed = f"{name} looks at a value"
        self.program.append((func, given, keywords, results))
        return made


def _written(func, args, kwargs):
    """The tensors that an operation writes into."""
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            x = args[i] if i < len(args) else kwargs.get(argument.name)
            for tensor in x if isinstance(x, list | tuple) else [x]:
                if tensor is not None:
                    yield tensor


def _only_slots(x):
    return all(map(_only_slots, x)) if isinstance(x, list | tuple) else type(x) is Slot


def _numbers(x):
    found = []
    _replaced(x, Slot, lambda slot: found.append(slot.number))
    return found


class Program:
    """What a `Recorder` wrote down, to be run.

    Args:
        steps: its program.
        size: how many tensors there are, the arguments first.
        outputs: slots of what is returned; constants among them as they are.
    """

    def __init__(self, steps, size, outputs):
        self.size, self.outputs = size, outputs
        last, returned = {}, set(_numbers(outputs))
        for i, (_, given, keywords, results) in enumerate(steps):
            used = _numbers([given, list(keywords.values()), results])
            last.update(dict.fromkeys(used, i))
        gone = [[] for _ in steps]
        for number, i in last.items():
            if number not in returned:
                gone[i].append(number)
        self.steps = []
        for (func, given, keywords, results), after in zip(steps, gone, strict=True):
            flat = not any(isinstance(x, list | tuple) and _numbers(x) for x in given)
            flat = flat and not any(_numbers(x) for x in keywords.values())
            self.steps.append((func, given, keywords, results, flat, after))

    def __call__(self, *arrays):
        tensors = [*arrays, *[None] * (self.size - len(arrays))]

        def filled(slot):
            return tensors[slot.number]

        for func, given, keywords, results, flat, gone in self.steps:
            if flat:
                given = [tensors[x.number] if x.__class__ is Slot else x for x in given]
            else:
                given = _replaced(given, Slot, filled)
                keywords = {k: _replaced(x, Slot, filled) for k, x in keywords.items()}
            made = func(*given, **keywords)
            if results.__class__ is Slot:
                tensors[results.number] = made
            else:
                for slot, tensor in zip(results, made, strict=True):
                    tensors[slot.number] = tensor
            for number in gone:
                tensors[number] = None
        return tuple(_replaced(self.outputs, Slot, filled))


def _recordable(arrays):
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or Recording.on:
        return False
    distinct = len(set(map(id, arrays))) == len(arrays)
    return distinct and all(type(x) is torch.Tensor for x in arrays)


class Replayed:
    """A function of tensors to a tuple of tensors, as a recording of its operations.

    It is recorded at a call for the loop that it is made for, so what it reads beside
    its arguments must be the same in all its calls: as where a graph is traced. What
    cannot be recorded (a value that Python looks at) runs as it is.

    Args:
        fn: the function. It may write into its arguments.
        warm: the number of calls before the recording: a short loop does not repay one.
    """

    def __init__(self, fn, warm=3):
        self.fn, self.warm = fn, warm
        self.program = None

    def __call__(self, *arrays):
        if self.program is not None:
            with torch._C._AutoDispatchBelowAutograd():
                return self.program(*arrays)
        self.warm -= 1
        if self.warm != -1 or not _recordable(arrays):
            return self.fn(*arrays)
        recorder = Recorder(arrays)
        Recording.on = True
        try:
            with torch._C._AutoDispatchBelowAutograd(), recorder:
                made = self.fn(*arrays)
        finally:
            Recording.on = False
        outputs = [recorder.slot(x) for x in made]
        if recorder.failed is None:
            steps, size = recorder.program, len(recorder.numbers)
            self.program = Program(steps, size, outputs)
        return made
