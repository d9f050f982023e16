"""Compiled functions: by all that they depend on, and the last used of them alone."""

import collections
import dataclasses
import functools
import gc
import math
import threading

import keras
import numpy as np

from keras_genai.backend import primitives

KEPT = 16  # programs of a model: a server that is asked for anything stays as large
EXACT = 2  # counts of rows that are compiled as they are, before the powers of two
SHORTEST = 32  # tokens: shorter rows are filled up to as many
PLENTY = 8  # shapes of a kind of call, after which those that there are serve others
ROWS = 64  # of a table: shorter ones are filled up to as many


class Programs:
    """The compiled functions of a model that were used last.

    Several threads may use it. Two that ask for the same function at once may both make
    it, and both get one that is right.

    Args:
        size: how many are kept.
    """

    def __init__(self, size=KEPT):
        self.size = size
        self._kept = collections.OrderedDict()
        self._counts = {}  # an ordered set
        self._shapes = {}  # kind -> list of shapes
        self._lock = threading.Lock()

    def __len__(self):
        return len(self._kept)

    def values(self):
        """List of the functions."""
        with self._lock:
            return [program for program, _ in self._kept.values()]

    def get(self, key, held, make):
        """The function of a key; made, where it is not kept.

        Args:
            key: hashable: all that the function depends on.
            held: what the key names by its `id`, which must live as long as the key.
            make: function of no arguments that makes it.
        """
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key][0]
        made = make()
        dropped = []
        with self._lock:
            program, _ = self._kept.setdefault(key, (made, held))
            self._kept.move_to_end(key)
            while len(self._kept) > self.size:
                dropped.append(self._kept.popitem(last=False))
        if dropped and primitives.GRAPHS_ARE_CYCLES:
            dropped.clear()
            gc.collect()
        return program

    def clear(self):
        """Forgets all: what they close over is no longer the model's."""
        with self._lock:
            self._kept.clear()
            self._shapes.clear()

    def rows(self, count, most):
        """How many rows a pass has that `count` of them are asked of.

        A program is compiled for each number of rows. The first counts that a model is
        asked for get their own, since most programs ask for one or two; all further
        ones, where it compiles at all, the next power of two: rows are filled up, which
        costs time in each call, but a few programs serve any count.

        Args:
            count: at least 1.
            most: rows in one pass at most.
        """
        if count >= most:
            return most
        if not primitives.COMPILES:
            return count
        with self._lock:
            if len(self._counts) < EXACT:
                self._counts[count] = None
            if count in self._counts:
                return count
        return min(2 ** (count - 1).bit_length(), most)

    def shape(self, kind, rows, lengths, most_rows, most):
        """Rows and lengths of a program that serves a call: a tuple of integers.

        Where the backend compiles, lengths become powers of two and rows those of
        `rows`. After a few shapes of a kind, a call takes the smallest of those that
        hold it; a shape that is larger than all of them holds them all.

        Args:
            kind: hashable: all else that a program of the call depends on.
            rows: how many are asked for.
            lengths: tuple of the numbers of tokens that are asked for.
            most_rows: rows in one pass at most.
            most: the most tokens of each of the lengths.
        """
        wanted = (self.rows(rows, most_rows), *lengths)
        if not primitives.COMPILES:
            return wanted
        limits = (most_rows, *most)
        lengths = [max(SHORTEST, 2 ** (n - 1).bit_length()) for n in lengths]
        wanted = tuple(map(min, (wanted[0], *lengths), limits))
        with self._lock:
            known = self._shapes.setdefault(kind, [])
            within = [shape for shape in known if _holds(limits, shape)]
            if wanted in known:
                return wanted
            if len(within) >= PLENTY:
                fitting = [shape for shape in within if _holds(shape, wanted)]
                if fitting:
                    return min(fitting, key=math.prod)
                wanted = tuple(map(max, wanted, *within))
            known.append(wanted)
        return wanted


def _holds(large, small):
    """Whether no size of a shape is over that of another."""
    return all(a >= b for a, b in zip(large, small, strict=True))


# What changes without changing what a layer or a model computes.
_APART = {
    "built",
    "compiled",
    "history",
    "loss",
    "optimizer",
    "predict_function",
    "steps_per_execution",
    "stop_evaluating",
    "stop_predicting",
    "stop_training",
    "test_function",
    "train_function",
    "training",  # of a module of PyTorch
}
_PLAIN = {str, bytes, type(None), type(Ellipsis)}
_NUMBERS = {bool, int, float, complex}
_LONGEST = 256  # of a collection or array that is compared by its values


class Traits:
    """What a traced function takes from objects as a constant, to be compared.

    Numbers, strings, tuples and other plain values count by their values, layers and
    frozen dataclasses by those that they hold, and anything else (a function, a
    variable, a large array) by being the same object. Attributes whose names begin with
    an underscore are of Keras or of this package and are passed over, but for whether
    a layer trains, and in which dtype.

    Args:
        *objects: layers, models, optimizers or plain values.

    Attributes:
        key: hashable: equal where all that was read is.
        held: list of the objects that are in it by their `id`.
    """

    def __init__(self, *objects):
        self.held, self._seen = [], set()
        self.key = tuple([self._read(x) for x in objects])

    def __eq__(self, other):
        return isinstance(other, Traits) and self.key == other.key

    __hash__ = None

    def _read(self, x):
        return _reader(type(x))(self, x)

    def _value(self, x):
        return x

    def _number(self, x):
        return type(x), x  # 1, 1.0 and True are equal

    def _same(self, x):
        self.held.append(x)
        return id(x)

    def _policy(self, x):
        return x.name

    def _array(self, x):
        if x.size > _LONGEST or x.dtype == object:
            return self._same(x)
        return x.shape, x.dtype.str, x.tobytes()

    def _sequence(self, x):
        if len(x) > _LONGEST:
            return self._same(x), len(x)
        return type(x), tuple([_reader(type(item))(self, item) for item in x])

    def _set(self, x):
        if len(x) > _LONGEST:
            return self._same(x), len(x)
        return "set", frozenset([self._read(item) for item in x])

    def _dict(self, x):
        if len(x) > _LONGEST:
            return self._same(x), len(x)
        return "dict", tuple([(self._read(k), self._read(v)) for k, v in x.items()])

    def _optimizer(self, x):
        rate = self._read(vars(x).get("_learning_rate"))
        inner = self._read(vars(x).get("inner_optimizer"))
        return rate, inner, self._object(x)

    def _dataclass(self, x):
        values = vars(x) if hasattr(x, "__dict__") else {}
        names = [field.name for field in dataclasses.fields(x)]
        return type(x), tuple([self._read(values.get(name)) for name in names])

    def _object(self, x):
        if id(x) in self._seen:
            return id(x)
        self._seen.add(id(x))
        return type(x), self._same(x), self._attributes(type(x), vars(x))

    def _layer(self, layer):
        if id(layer) in self._seen:
            return id(layer)
        self._seen.add(id(layer))
        own = vars(layer)
        policy = own.get("_dtype_policy")
        found = [self._same(layer), own.get("_trainable"), policy and policy.name]
        found.append(self._attributes(type(layer), own))
        if "_modules" in own:  # PyTorch keeps layers under their names apart
            found.append(self._attributes(type(layer), own["_modules"]))
        # Those in lists and under private names.
        found += [self._layer(part) for part in own.get("_layers", ())]
        return tuple(found)

    def _attributes(self, kind, values):
        return tuple(
            [
                (name, _reader(type(value))(self, value))
                for name, value in list(values.items())
                if _counts(kind, name)
            ]
        )


@functools.lru_cache(maxsize=4096)
def _reader(kind):
    """The method of `Traits` that reads objects of a class."""
    if kind in _PLAIN:
        return Traits._value
    if kind in _NUMBERS:
        return Traits._number
    for classes, reader in (
        (keras.Variable, Traits._same),
        (keras.layers.Layer, Traits._layer),
        (keras.optimizers.Optimizer, Traits._optimizer),
        (keras.optimizers.schedules.LearningRateSchedule, Traits._object),
        (keras.DTypePolicy, Traits._policy),
        ((list, tuple), Traits._sequence),
        (dict, Traits._dict),
        ((set, frozenset), Traits._set),
        ((np.ndarray, np.generic), Traits._array),
    ):
        if issubclass(kind, classes):
            return reader
    if dataclasses.is_dataclass(kind):
        return Traits._dataclass
    own = kind.__module__.startswith("keras_genai.") and kind.__dictoffset__
    return Traits._object if own else Traits._same


@functools.lru_cache(maxsize=4096)
def _counts(kind, name):
    """Whether an attribute of a class is looked at; none that follows from others."""
    computed = isinstance(getattr(kind, name, None), functools.cached_property)
    return not (name[:1] == "_" or name in _APART or computed)


def compiled_once(owner, name, fn, variables, eager=False):
    """A function of tensors that is compiled for each shape, and kept by its owner.

    Args:
        owner: the model, network or other object that it is a function of; it keeps
            what was compiled, and its attributes are part of the name.
        name: hashable: what the function closes over beside the owner, and what tells
            it from others; layers and models in it count as the owner does.
        fn: the function; it reads `variables`.
        variables: list of Keras variables.
        eager: run it as it is.

    Returns:
        A function with the arguments of `fn`, to call soon: attributes are looked at
        now.
    """
    programs = of(owner)
    others = [x for x in keras.tree.flatten(name) if isinstance(x, keras.layers.Layer)]
    variables, traits = list(variables), Traits(owner, *others)
    key = (name, eager, surroundings(), traits.key, tuple(map(id, variables)))
    held = (traits.held, variables)

    def make():
        return primitives.jit(fn, variables, compiled=not eager)

    def run(*args):
        return programs.get((key, form(args)), held, make)(*args)

    return run


def filled(tables):
    """Tables as inputs of a program that serves others of other numbers of rows.

    Rows are added up to a power of two. A loop that runs to `count` reads none of them.

    Args:
        tables: dict name -> NumPy array of n rows.

    Returns:
        Dict name -> NumPy array, float32 or int32; also `count`, which is n.
    """
    count = len(next(iter(tables.values())))
    more = max(ROWS, 2 ** (count - 1).bit_length()) - count
    made = {"count": np.array(count, "int32")}
    for name, table in tables.items():
        table = np.asarray(table)
        whole = np.concatenate([table, np.repeat(table[-1:], more, axis=0)])
        made[name] = whole.astype("int32" if table.dtype.kind in "iu" else "float32")
    return made


def of(owner):
    """The `Programs` of a model or another object."""
    # Not tracked: it is no layer.
    return vars(owner).setdefault("__jitted", Programs())


def form(args):
    """Hashable: the shapes and dtypes of arguments; what is no array, as it is."""
    found = []
    for x in args:
        if hasattr(x, "shape") and hasattr(x, "dtype"):
            found.append((tuple(x.shape), x.dtype))
        elif isinstance(x, (list, tuple)):
            found.append((type(x), form(x)))
        elif isinstance(x, dict):
            found.append((tuple(x), form(x.values())))
        else:
            found.append((type(x), x))
    return tuple(found)


def surroundings():
    """What is set for all models and taken as a constant by what is traced."""
    return keras.config.floatx(), keras.distribution.distribution()
