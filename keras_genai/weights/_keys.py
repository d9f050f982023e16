"""The keys of a published configuration: what each may hold, and its default.

A reader declares a table, key -> `(default, kind)`. The default is that of the class
that writes the file, which leaves keys out; `read` refuses a value of another kind by
its name, before anything is made of it. Sizes have a limit that the weights' header
sets, so that no configuration asks for more than its weights can hold.
"""

import dataclasses
import warnings
from collections.abc import Callable

LARGEST = 2**24  # of a size that no header bounds, such as a context
DEPTH, WIDTH = "depth", "width"
NETWORK = "this network"


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a value must be.

    Args:
        says: the words of a message, after "must be".
        fits: function of a value: whether it is one.
        bound: `DEPTH` for a number of layers, `WIDTH` for the length of an axis of a
            tensor, else None.
    """

    says: str
    fits: Callable
    bound: str | None = None

    def __or__(self, other):
        return Kind(
            f"{self.says} or {other.says}",
            lambda value: self.fits(value) or other.fits(value),
            self.bound or other.bound,
        )


def _whole(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 1e300  # finite, and a float


ANY = Kind("anything", lambda value: True)
NULL = Kind("None", lambda value: value is None)
FLAG = Kind("True or False", lambda value: isinstance(value, bool))
TEXT = Kind("a string", lambda value: isinstance(value, str))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))
TOKEN = Kind("a token id, an integer", _whole)
COUNT = Kind(
    f"a positive integer of at most {LARGEST}",
    lambda value: _whole(value) and 0 < value <= LARGEST,
)
LAYERS = Kind("a positive integer", lambda v: _whole(v) and v > 0, DEPTH)
SIZE = Kind("a positive integer", lambda v: _whole(v) and v > 0, WIDTH)
NUMBER = Kind("a finite number", _number)
POSITIVE = Kind("a number above 0", lambda v: _number(v) and v > 0)
RATE = Kind("a rate in [0, 1)", lambda v: _number(v) and 0 <= v < 1)


def one_of(*values):
    """One of some plain values; 1 is not True."""

    def fits(value):
        return any(
            isinstance(value, bool) == isinstance(known, bool) and value == known
            for known in values
        )

    return Kind(" or ".join(map(repr, values)), fits)


def list_of(kind, least=1):
    """A list of values of one kind."""

    def fits(value):
        values = isinstance(value, (list, tuple))
        return values and len(value) >= least and all(map(kind.fits, value))

    return Kind(f"a list of {kind.says}", fits, kind.bound)


# Labels of classes, by their numbers.
LABELS = Kind("an object of labels", lambda v: isinstance(v, dict) and len(v) > 0)
TOKENS = TOKEN | list_of(TOKEN)


def read(config, path, keys, kinds=None, *, strict=False, aliases=None, of=NETWORK):
    """The values of a configuration's keys, those that are left out by default.

    Args:
        config: the content of the file, a dict.
        path: of the file, for messages.
        keys: dict key -> `(default, Kind)`.
        kinds: dict name -> (shape, dtype) of the weights' tensors, which bound the
            sizes; None for no such bound.
        strict: whether other keys are refused, but for those that begin with `_`.
        aliases: dict name -> key of other names that the class has for keys.
        of: what the file should be of, for messages.

    Returns:
        Dict of the values of all `keys`.

    Raises:
        ValueError: names every key that holds what it may not.
    """
    wrong, limits = [], limits_of(kinds)
    for name, key in (aliases or {}).items():
        if name in config and key not in config:
            config = {**config, key: config[name]}
    if strict:
        known = {*keys, *(aliases or {})}
        others = sorted(k for k in config if k not in known and not k.startswith("_"))
        wrong += [f"{key}={short(config[key])} is not known" for key in others]
    values = {}
    for key, (default, kind) in keys.items():
        value = values[key] = config.get(key, default)
        absent = "" if key in config else ", where it is left out"
        if not kind.fits(value):
            wrong.append(f"{key} must be {kind.says}; it is {short(value)}{absent}")
        elif kind.bound is not None:
            limit, what = limits[kind.bound]
            if _most(value, kind.bound) > limit:
                wrong.append(
                    f"{key} must be at most {limit}, {what}; it is "
                    f"{short(value)}{absent}"
                )
    refuse(path, wrong, of)
    return values


def limits_of(kinds):
    """What a weights' header allows: dict bound -> (number, words)."""
    if kinds is None:
        return dict.fromkeys((DEPTH, WIDTH), (LARGEST, "a sane size"))
    axes = [n for shape, _ in kinds.values() for n in shape]
    return {
        DEPTH: (len(kinds), "the number of the weights' tensors"),
        WIDTH: (max(axes, default=0), "the longest axis of the weights' tensors"),
    }


def _most(value, bound):
    """The largest of a list's numbers; of layers, their sum."""
    if isinstance(value, (list, tuple)):
        numbers = [_most(item, bound) for item in value]
        return (sum if bound == DEPTH else max)(numbers) if numbers else 0
    return value if _whole(value) else 0


def refuse(path, wrong, of=NETWORK):
    """Raises a `ValueError` that lists what is wrong with a file, if anything is."""
    if wrong:
        raise ValueError(f"{path} is not of {of}: {'; '.join(wrong)}.")


def pass_over(path, config, keys, instead):
    """Warns of what a file says and the model has not.

    Args:
        path: of the file.
        config: dict that holds the keys.
        keys: those that are passed over.
        instead: what holds instead, or what to do.
    """
    named = ", ".join(f"{key}={short(config[key])}" for key in keys)
    warnings.warn(
        f"{path} says {named}, which is passed over: {instead}.", stacklevel=2
    )


def short(value, most=60):
    """A value as a message shows it."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
