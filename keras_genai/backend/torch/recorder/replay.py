"""A step on PyTorch: recorded once, then run again without Python's part.

Of a step of writing with GPT-2 for one prompt, what Python does between the operations
took as long as the operations; of a small VAE's training step a third.
`torch.compile` would take longer than most loops do, and `torch.jit.trace` refuses
weights that are trained.
"""

import contextlib

import numpy as np
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from keras_genai.backend.torch.recorder.recording import recording

# Private: see `recorder`.
BELOW_AUTOGRAD = torch._C._AutoDispatchBelowAutograd
OPERATION = torch._ops.OpOverload
# Their results have sizes that depend on values.
SIZED = ("nonzero", "argwhere", "masked_select", "unique", "_unique2", "where.default")
FRESH = torch.ops.aten.lift_fresh.default
COPY = torch.ops.aten.lift_fresh_copy.default
VALUE = torch.ops.aten._local_scalar_dense.default
# Of a loop of steps each step is recorded: the loop's own recording is for that.
LONGEST = 20_000
SAME = (torch.ops.aten.detach.default, torch.ops.aten.alias.default)


class Slot:
    """Stands for a tensor that differs from call to call."""

    def __init__(self, number):
        self.number = number

    def __eq__(self, other):
        return isinstance(other, Slot) and self.number == other.number

    __hash__ = None


def _replaced(x, kind, change):
    """An argument of an operation with `change` of what is of that kind in it."""
    if isinstance(x, kind):
        return change(x)
    if isinstance(x, list | tuple):
        return type(x)(_replaced(y, kind, change) for y in x)
    return x


def storage(tensor):
    """What tells whether two tensors share their memory."""
    return tensor.untyped_storage()._cdata


def place(x):
    """What is the same of two tensors that are the same part of the same memory."""
    form = x.storage_offset(), tuple(x.shape), x.stride(), x.dtype
    return storage(x), *form, x.is_conj(), x.is_neg()


class Recorder(TorchDispatchMode):
    """Writes down each operation: what it is given, and where its results go.

    Args:
        arrays: the step's arguments, no two of them the same.
        owned: storages of weights that the step may write into.

    Attributes:
        program: list of `(operation, arguments, keywords, results)`, slots for tensors.
        failed: why the program is not the step, or None.
    """

    def __init__(self, arrays, owned=()):
        super().__init__()
        self.program, self.failed = [], None
        self.numbers, self.references = {}, {}
        self.owned, self.written = frozenset(owned), set()  # storages, as are the next
        self.seen, self.constants = set(), set()
        for array in arrays:
            self.number(array)

    def _refer(self, tensor):
        """A tensor's storage, whose name is given to no other from now on."""
        name = storage(tensor)
        if name not in self.references:
            self.references[name] = StorageWeakRef(tensor.untyped_storage())
        return name

    def number(self, tensor):
        """A tensor's number; a new one has the next."""
        if self._refer(tensor) not in self.constants:  # no view of a weight
            self.seen.add(storage(tensor))
        return self.numbers.setdefault(place(tensor), len(self.numbers))

    def slot(self, tensor):
        """A tensor's slot; itself, where it is not of the step, such as a weight."""
        number = self.numbers.get(place(tensor))
        if number is not None:
            return Slot(number)
        if self._refer(tensor) in self.seen:
            self.failed = "a tensor of the step came by a way that was not seen"
        self.constants.add(storage(tensor))
        return tensor.detach()

    def _slots(self, args, kwargs):
        given = _replaced(tuple(args), torch.Tensor, self.slot)
        return given, {
            name: _replaced(x, torch.Tensor, self.slot) for name, x in kwargs.items()
        }

    def _write_down(self, func, given, keywords, made):
        if len(self.program) == LONGEST:
            self.failed = "it takes too many operations"
            self.program.clear()
        results = _replaced(made, torch.Tensor, lambda x: Slot(self.number(x)))
        self.program.append((func, given, keywords, results))
        return results

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        del types
        kwargs = kwargs or {}
        self._check(func, args, kwargs)
        if self.failed is not None:
            return func(*args, **kwargs)
        func = COPY if func is FRESH else func
        given, keywords = self._slots(args, kwargs)
        for tensor in _written(func, args, kwargs):
            self.written.add(storage(tensor))
            if storage(tensor) in self.constants - self.owned:
                self.failed = f"{func} writes into what is no argument"
        made = func(*args, **kwargs)
        if any(made is x for x in args) and not func._schema.is_mutable:
            return made  # a conversion to the type that it has
        if func.is_view and not _numbers([given, list(keywords.values())]):
            return made  # a part of a weight, which stays where it is
        if func is VALUE and self._is_number(given[0], args[0]):
            return made
        if not all(map(_is_dense, _tensors(made))):
            self.failed = f"{func} makes a tensor that is not dense"
        elif func in SAME:
            self.number(made)
        elif not _only_slots(self._write_down(func, given, keywords, made)):
            self.failed = f"{func} looks at a value"
        return made

    def _check(self, func, args, kwargs):
        """Notes what of an operation cannot be recorded."""
        name = func.overloadpacket.__name__
        masks = name == "index" and any(
            x.dtype is torch.bool for x in _tensors(args[1])
        )
        if masks or name in SIZED or f"{name}.{func._overloadname}" in SIZED:
            self.failed = f"{func} has a size that may change"
        if not all(map(_is_dense, _tensors([args, list(kwargs.values())]))):
            self.failed = f"{func} takes a tensor that is not dense"

    def _is_number(self, slot, tensor):
        """Whether it is a number of Python's that was made a tensor, and no more."""
        fresh = {r.number for f, _, _, r in self.program if f is COPY}
        known = isinstance(slot, Slot) and slot.number in fresh
        return known and storage(tensor) not in self.written

    def call(self, function, args, kwargs):
        """See `_torch_recording.outside`."""
        if self.failed is not None:
            return function(*args, **kwargs)
        with _unrecorded():
            given, keywords = self._slots(args, kwargs)
            made = function(*args, **kwargs)
            self._write_down(function, given, keywords, made)
        return made

    def finished(self, made):
        """The recording as a program, without what has no effect.

        Args:
            made: list of the tensors that the step returned.
        """
        with _unrecorded():
            outputs = [self.slot(x) for x in made]
        storages = {number: place[0] for place, number in self.numbers.items()}
        constants, needed, program = {}, set(_numbers(outputs)), []
        for func, given, _, results in self.program:
            if func is COPY and storages[results.number] not in self.written:
                constants[results.number] = given[0]

        def filled(x):
            return _replaced(x, Slot, lambda slot: constants.get(slot.number, slot))

        for func, given, keywords, results in reversed(self.program):
            made = set(_numbers(results))
            if _has_effect(func) or needed & made - constants.keys():
                given = filled(given)
                keywords = {name: filled(x) for name, x in keywords.items()}
                needed.update(_numbers([given, list(keywords.values())]))
                program.append((func, given, keywords, results))
        return Program(program[::-1], len(self.numbers), filled(outputs))


@contextlib.contextmanager
def _unrecorded():
    """A context in which nothing is written down."""
    recorder, recording.recorder = recording.recorder, None
    try:
        with _disable_current_modes(), torch.no_grad():
            yield
    finally:
        recording.recorder = recorder


@contextlib.contextmanager
def recorded(arrays, owned=()):
    """A context whose operations a new `Recorder` writes down."""
    recorder = recording.recorder = Recorder(arrays, owned)
    try:
        with recorder:
            yield recorder
    finally:
        recording.recorder = None


def _written(func, args, kwargs):
    """The tensors that an operation writes into."""
    for i, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            x = args[i] if i < len(args) else kwargs.get(argument.name)
            for tensor in x if isinstance(x, list | tuple) else [x]:
                if tensor is not None:
                    yield tensor


def _tensors(x):
    """The tensors among arguments."""
    found = []
    _replaced(x, torch.Tensor, found.append)
    return found


def _is_dense(tensor):
    return tensor.layout is torch.strided and not tensor.is_nested


def _has_effect(func):
    """Whether an operation does more than to return its result."""
    if not isinstance(func, OPERATION):
        return True
    return func._schema.is_mutable or torch.Tag.nondeterministic_seeded in func.tags


def _only_slots(x):
    if isinstance(x, list | tuple):
        return all(map(_only_slots, x))
    return x is None or isinstance(x, Slot)  # None: a gradient that is not asked for


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
        self.size, self.outputs, self.written_down = size, outputs, steps
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
            elif results is not None:
                for slot, tensor in zip(results, made, strict=True):
                    if slot is not None:
                        tensors[slot.number] = tensor
            for number in gone:
                tensors[number] = None
        return tuple(_replaced(self.outputs, Slot, filled))

    def is_like(self, other):
        """Whether the other does the same: constants are equal, or the same memory."""
        return _alike(
            [*self.written_down, self.outputs], [*other.written_down, other.outputs]
        )


def _alike(a, b):
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return place(a) == place(b) or (a.dtype == b.dtype and torch.equal(a, b))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_alike(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_alike, a, b))
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and np.array_equal(a, b)
    return bool(a == b)


def _recordable(arrays):
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    if recording.recorder is not None:
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
            with BELOW_AUTOGRAD():
                return self.program(*arrays)
        self.warm -= 1
        if self.warm != -1 or not _recordable(arrays):
            return self.fn(*arrays)
        with BELOW_AUTOGRAD(), recorded(arrays) as recorder:
            made = self.fn(*arrays)
        if recorder.failed is None:
            program = recorder.finished(made)  # which may find a reason not to
            self.program = program if recorder.failed is None else None
        return made
