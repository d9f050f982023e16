"""One set of checks for arguments; `arguments.checked` puts them before a function.

A check is a function `(name, value) -> value`: it returns the value, converted where
NumPy's type would trouble what comes after (`np.int64(8)` becomes 8), or raises a
`ValueError` that names the argument, what was expected and what was given.
"""

import inspect
import operator
from collections.abc import Mapping
from pathlib import Path

import numpy as np

MOST = 2**31 - 1  # indices and counters are 32-bit integers on the device
LARGEST = float(np.finfo("float32").max)  # numbers are computed with as float32
DEEPEST = 10_000  # layers, levels, frames: each is built or run in turn


class Refusal(ValueError):
    """A value that a check does not take: `says` is what it would take."""

    def __init__(self, message, says=None):
        super().__init__(message)
        self.says = says


def refuse(name, says, value):
    """Raises the error of an argument that must be what `says` says."""
    raise Refusal(f"{name} must be {says}; got {shown(value)}.", says)


def shown(value):
    """The value in a few words for a message: an array by its shape and type."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if dtype is not None and isinstance(shape, tuple) and shape:
        return f"an array of the shape {shape} and type {dtype}"
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


# Numbers


def is_integer(value):
    """Whether it is Python's or NumPy's integer, and no bool."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_number(value):
    """Whether it is Python's or NumPy's real number, and no bool."""
    kinds = (int, float, np.integer, np.floating)
    return isinstance(value, kinds) and not isinstance(value, bool)


def integer(least=None, most=MOST):
    """An integer from `least` to `most`, Python's or NumPy's; returns Python's."""
    says = "an integer"
    if least is not None:
        says += f" of at least {least}"
    if most != MOST:
        says += f"{' and' if least is not None else ' of'} at most {most}"

    def check(name, value):
        value = _scalar(value)
        if not is_integer(value) or (least is not None and value < least):
            refuse(name, says, value)
        if value > most:
            refuse(name, says if most != MOST else f"{says}, at most {MOST}", value)
        return int(value)

    return check


def number(interval=""):
    """A finite number, in an interval where one is given; returns Python's.

    Args:
        interval: `"[0, 1)"`, `"(0, 1]"`, `"> 0"`, `">= 0"` ...: as it stands in the
            message.
    """
    inside = _interval(interval)
    says = f"in {interval}" if interval[:1] in ("[", "(") else "a finite number"
    if interval[:2] == "> ":
        says = f"a finite number over {interval[2:]}"
    elif interval[:1] == ">":
        says = f"a finite number {interval}"

    def check(name, value):
        value = _scalar(value)
        # Also false for NaN.
        if not (is_number(value) and -LARGEST <= value <= LARGEST and inside(value)):
            refuse(name, says, value)
        value = value.item() if isinstance(value, np.generic) else value
        return float(value) if abs(value) > 2**53 else value

    return check


def _scalar(value):
    """The number in a NumPy array of no axes; anything else as it is."""
    return value[()] if isinstance(value, np.ndarray) and not value.ndim else value


def _interval(text):
    """The test of a number that an interval's text stands for."""
    if not text:
        return lambda value: True
    if text[0] in ("[", "("):
        low, high = map(float, text[1:-1].split(","))
        above = operator.ge if text[0] == "[" else operator.gt
        below = operator.le if text[-1] == "]" else operator.lt
        return lambda value: above(value, low) and below(value, high)
    sign, bound = text.split()
    compare = {">": operator.gt, ">=": operator.ge}[sign]
    return lambda value: compare(value, float(bound))


def flag(name, value):
    """True or False, Python's or NumPy's; returns Python's."""
    if not isinstance(value, (bool, np.bool_)):
        refuse(name, "True or False", value)
    return bool(value)


# Words and files


def text(name, value):
    """A string that is not empty and holds no NUL."""
    if not isinstance(value, str) or not value or "\0" in value:
        refuse(name, "a string that is not empty", value)
    return value


def word(name, value):
    """A string, empty or not, without NUL."""
    if not isinstance(value, str) or "\0" in value:
        refuse(name, "a string", value)
    return value


def path(name, value):
    """The path of a file or folder, a string or a `Path` that is not empty."""
    whole = isinstance(value, (str, Path)) and str(value) and "\0" not in str(value)
    if not whole:
        refuse(name, "the path of a file or folder, a string or a Path", value)
    return value


def one_of(*values):
    """One of a few strings, numbers or None, by equality and type."""
    says = "one of " + ", ".join(map(str, values))

    def check(name, value):
        if not any(type(value) is type(v) and value == v for v in values):
            refuse(name, says, value)
        return value

    return check


# Several and others


def either(*checks, says=None):
    """What one of the checks takes; the first that does converts it.

    Args:
        says: for the message; by default the checks' own, joined by "or".
    """

    def check(name, value):
        said = []
        for one in checks:
            try:
                return one(name, value)
            except Refusal as error:
                said.append(error.says)
        return refuse(name, says or " or ".join(dict.fromkeys(said)), value)

    return check


def optional(check):
    """None, or what the check takes."""

    def checked_or_none(name, value):
        return None if value is None else check(name, value)

    return checked_or_none


def tuple_of(check, least=1, length=None, says=None):
    """A tuple of what the check takes, from a tuple, a list or a flat array.

    Args:
        least: fewest entries.
        length: how many entries there must be, or None.
        says: what it must be, for the message.
    """
    number_of = f"of {length}" if length is not None else f"of at least {least}"
    says = says or f"a list {number_of}"

    def entries(name, value):
        if isinstance(value, np.ndarray) and value.ndim == 1:
            value = tuple(value)
        if not isinstance(value, (tuple, list)):
            refuse(name, says, value)
        if len(value) < least or length not in (None, len(value)):
            refuse(name, says, value)
        try:
            return tuple(check(name, entry) for entry in value)
        except Refusal as error:
            each = "" if "numbers" in says else f", each {error.says}"
            return refuse(name, says + each, value)

    return entries


def integers(least=1, length=None, smallest=1):
    """A tuple of integers, such as a shape; returns Python's."""
    says = f"a list of {length} integers" if length else "a list of integers"
    return tuple_of(integer(smallest), least, length, says)


def image_shape(free_sides=False):
    """`(height, width, channels)`, from a tuple or list; returns a tuple of integers.

    What divides the sides is the model's to check.

    Args:
        free_sides: whether the sides may be None.
    """
    says = "(height, width, channels), positive integers"
    side = optional(integer()) if free_sides else integer()

    def check(name, value):
        if not isinstance(value, (tuple, list)) or len(value) != 3:
            refuse(name, says, value)
        try:
            return (*(side(name, n) for n in value[:2]), integer()(name, value[2]))
        except Refusal:
            return refuse(name, says, value)

    return check


def sides(most=MOST):
    """A side, or `(height, width)`; returns the pair."""
    says = "a positive integer, or (height, width)"
    says += f", at most {most}" if most != MOST else ""
    both = tuple_of(integer(1, most), length=2)

    def check(name, value):
        many = isinstance(value, (tuple, list)) or getattr(value, "ndim", 0)
        try:
            return both(name, value if many else (value, value))
        except Refusal:
            return refuse(name, says, value)

    return check


def pair(interval=""):
    """Two finite numbers, the second above the first."""
    inside = f" {interval}" if interval else ""
    says = f"two finite numbers{inside} (low, high) with low < high"
    both = tuple_of(number(interval), length=2, says=says)

    def check(name, value):
        low, high = both(name, value)
        if not low < high:
            refuse(name, says, value)
        return low, high

    return check


def mapping(name, value):
    """A dict whose keys are strings."""
    if not isinstance(value, Mapping) or not all(isinstance(k, str) for k in value):
        refuse(name, "a dict name -> value", value)
    return value


def weights(name, value):
    """A dict of positive numbers by name, not empty."""
    says = "a dict name -> weight, a number over 0"
    mapping(name, value)
    if not value:
        refuse(name, says, value)
    try:
        return {key: number("> 0")(name, weight) for key, weight in value.items()}
    except Refusal:
        return refuse(name, says, value)


def dtype_policy(name, value):
    """A type or policy by its name, or Keras's policy or its configuration."""
    known = isinstance(value, (str, dict)) or hasattr(value, "compute_dtype")
    if inspect.isclass(value) or not known:
        refuse(name, "the name of a type or policy, or a policy of Keras's", value)
    if isinstance(value, dict) and "class_name" not in value:
        refuse(name, "the configuration of a policy of Keras's", value)
    return value


def function(name, value):
    """Anything that can be called but a class."""
    if not callable(value) or inspect.isclass(value):
        refuse(name, "a function", value)
    return value


def features_of(name, value):
    """A Keras model or a function, from images to features."""
    if not callable(value) or inspect.isclass(value):
        refuse(name, "a Keras model or a function, from images to features", value)
    return value


def having(methods, says):
    """An object, no class, that has every one of these methods or attributes.

    Args:
        methods: names, parted by spaces.
        says: what such an object is, for the message.
    """
    names = methods.split()

    def check(name, value):
        if inspect.isclass(value) or not all(hasattr(value, n) for n in names):
            refuse(name, says, value)
        return value

    return check


network = having("variables call get_config", "a Keras model or layer")


def metrics_of(name, value):
    """A metric of `kg.metrics`, or an iterable of such; several become a list."""
    single = hasattr(value, "add_generated") or not hasattr(value, "__iter__")
    single = single or isinstance(value, (str, bytes, np.ndarray))
    several = [value] if single else list(value)
    for one in several:
        if inspect.isclass(one) or not hasattr(one, "add_generated"):
            refuse(name, "kg.metrics objects, one or a list", value)
    return value if single else several


def texts(name, value):
    """Strings, in a list, a tuple or an array; one string alone is refused."""
    flat = value.tolist() if isinstance(value, np.ndarray) else value
    listed = isinstance(flat, (list, tuple)) and all(isinstance(x, str) for x in flat)
    if not listed or not len(flat):
        refuse(name, "a list of at least one string", value)
    return value


def prompts(name, value):
    """Texts, or the token ids of some, none empty: strings, lists, or an array.

    Whether the ids are in the vocabulary is the model's to check.
    """
    says = "strings, lists of token ids, or an integer array (N, T), none of them empty"
    if isinstance(value, str):
        return value
    if hasattr(value, "dtype"):
        return array((1, 2), "iu", says=says)(name, value)
    if not isinstance(value, (list, tuple)) or not value:
        refuse(name, says, value)
    if not all(isinstance(x, str) for x in value) and not all(map(is_integer, value)):
        if not all(_ids(row) and len(row) for row in value):
            refuse(name, says, value)
    return value


def token_rows(name, value):
    """Token ids, one text's or several: an integer array, a list, a list of lists.

    Any of them may be empty.
    """
    listed = isinstance(value, (list, tuple)) or hasattr(value, "tolist")
    rows = value.tolist() if listed and hasattr(value, "tolist") else value
    if not isinstance(rows, (list, tuple)) or not (
        all(map(is_integer, rows)) or all(map(_ids, rows))
    ):
        refuse(name, "token ids: integers (T,) or (N, T), or a list of lists", value)
    return value


def _ids(row):
    """Whether it is a list of token ids, or an array of them."""
    row = row.tolist() if hasattr(row, "tolist") else row
    return isinstance(row, (list, tuple)) and all(map(is_integer, row))


# Training


def data(name, value):
    """What `fit` takes: arrays, a list or dict of them, or an object that yields them.

    Its shapes and values are the model's to check.
    """
    says = "an array of data, or a data set that yields batches"
    if isinstance(value, (list, tuple, dict)):
        given = not value or _numbers_of_one_shape(value)
        if not value or not given:
            refuse(name, f"{says}, not empty and of one shape", value)
    elif hasattr(value, "dtype") and hasattr(value, "shape"):
        array(finite=False, says=says, empty=True)(name, value)
    elif isinstance(value, (str, bytes)) or not any(
        # The last: of Keras's adapters, as validation data come on TensorFlow.
        hasattr(value, name)
        for name in ("__iter__", "__getitem__", "get_numpy_iterator")
    ):
        refuse(name, says, value)
    elif inspect.isclass(value):
        refuse(name, says, value)
    return value


data.always = True  # also where it is the default, None


def _numbers_of_one_shape(value):
    """False for a list of plain numbers that makes no array of a type of numbers."""
    if isinstance(value, dict) or not isinstance(
        value[0], (int, float, complex, list, type(None))
    ):
        return True
    try:
        made = np.asarray(value)
    except ValueError:
        return False
    return made.dtype.kind in "fiubU"


def callbacks_of(name, value):
    """A callback, or a list of such."""
    many = value if isinstance(value, (list, tuple)) else [value]
    for one in many:
        if inspect.isclass(one) or not hasattr(one, "on_epoch_end"):
            refuse(name, "a Keras callback or a list of such", value)
    return value


def class_weights(name, value):
    """A dict of a weight for each class."""
    says = "a dict class -> weight, a number >= 0"
    if not isinstance(value, Mapping) or not value:
        refuse(name, says, value)
    for key, weight in value.items():
        if not is_integer(key) or not is_number(weight) or not weight >= 0:
            refuse(name, says, value)
    return value


def references(name, value):
    """Strings, one for each translation; or several lists of such."""
    value = list(value) if isinstance(value, np.ndarray) and value.ndim else value
    if isinstance(value, (list, tuple)) and value and not isinstance(value[0], str):
        for part in value:
            texts(name, part)
        return value
    return texts(name, value)


def lines(name, value):
    """One string, or an iterable of strings: a list, a dict's values, a generator."""
    says = "a string, or an iterable of at least one string"
    if isinstance(value, (list, tuple, np.ndarray)):
        return texts(name, value)
    wrong = isinstance(value, (bytes, dict)) or inspect.isclass(value) or not value
    if wrong or not hasattr(value, "__iter__"):
        refuse(name, says, value)
    return value


def strings(name, value):
    """Strings that are not empty, in a list or a tuple, which may be; a list."""
    return list(tuple_of(text, least=0, says="a list of strings")(name, value))


# Arrays


def array(rank=None, kinds="fiub", finite=True, says=None, empty=False):
    """An array or a list that makes one, of a kind of numbers and a rank.

    Args:
        rank: number of axes, or a tuple of those that may be; None for any but 0.
        kinds: letters of the types: f float, i and u integer, b bool.
        finite: refuse NaN and infinity.
        says: what it must be, for the message.
        empty: whether an axis may be 0.

    Returns:
        A check that returns an array as it is, and a list as a NumPy array.
    """
    kind = "numbers" if "f" in kinds else "integers"
    ranks = rank if isinstance(rank, tuple) else (rank,)
    axes = "" if rank is None else f" of {' or '.join(map(str, ranks))} axes"
    says = says or f"an array of {kind}{axes}"

    def check(name, value):
        made = value
        if hasattr(value, "dtype") and not isinstance(value, (np.ndarray, np.generic)):
            return _checked_tensor(name, value, says, ranks if rank else None, kinds)
        if not hasattr(value, "dtype") or not hasattr(value, "shape"):
            if isinstance(value, (str, bytes, dict, set)) or callable(value):
                refuse(name, says, value)
            try:
                made = np.asarray(value)
            except (ValueError, TypeError, RuntimeError):
                refuse(name, says, value)
        if len(made.shape) not in ranks if rank is not None else not len(made.shape):
            refuse(name, says, value)
        if 0 in made.shape and not empty:
            refuse(name, f"{says}, not empty", value)
        if _kind(made.dtype) not in kinds:
            refuse(name, says, value)
        if finite and isinstance(made, np.ndarray) and made.dtype.kind == "f":
            if not np.isfinite(made).all():
                refuse(name, f"{says}, finite ones (it holds NaN or infinity)", value)
        return made

    return check


def _checked_tensor(name, value, says, ranks, kinds):
    """A backend's tensor by its type and rank alone; its values may not be known."""
    if _kind(value.dtype) not in kinds:
        refuse(name, says, value)
    rank = getattr(value.shape, "rank", None) or _length(value.shape)
    if ranks is not None and rank is not None and rank not in ranks:
        refuse(name, says, value)
    return value


def _length(shape):
    """How many axes, or None where it is not known (TensorFlow)."""
    try:
        return len(shape)
    except (TypeError, ValueError):
        return None


def _kind(dtype):
    """NumPy's letter of a type of any library; its 16-bit floats are "f" too."""
    name = getattr(dtype, "name", None) or str(dtype).rpartition(".")[2]
    if "float" in name:
        return "f"
    if name.startswith("uint"):
        return "u"
    return "i" if name.startswith("int") else "b" if name.startswith("bool") else "?"
