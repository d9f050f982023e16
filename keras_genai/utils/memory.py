"""The machine's memory: what could never be held is refused before it is made."""

import math
import os

from keras_genai.utils.validation import is_integer, shown

# A weight lies in memory with its gradient and the optimizer's two averages.
COPIES = 4


# A backend's words for it, where it raises no MemoryError.
WORDS = ("can't allocate", "out of memory", "RESOURCE_EXHAUSTED", "OOM when")


class TooLarge(ValueError):
    """An array that the machine's memory could never hold; `said` is what of it."""

    def __init__(self, said, message=None):
        super().__init__(message or said)
        self.said = said


def is_shortage(error):
    """Whether an error says that the memory does not suffice."""
    if isinstance(error, (MemoryError, TooLarge)):
        return True
    return not isinstance(error, ValueError) and any(w in str(error) for w in WORDS)


def memory():
    """Bytes of memory of this machine, or of the limit set for this process."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        import resource
    except ImportError:  # Windows
        return total
    limits = [
        resource.getrlimit(k)[0] for k in (resource.RLIMIT_AS, resource.RLIMIT_DATA)
    ]
    return min([total, *(n for n in limits if n != resource.RLIM_INFINITY)])


def check_room(name, count, each, of):
    """Refuses a number of things that the machine's memory could never hold.

    Args:
        name: the argument.
        count: how many.
        each: numbers in one.
        of: what they are, for the message.
    """
    taken = count * each * 4
    if taken > memory():
        raise ValueError(
            f"{name} must leave room in memory; got {count}: {count} {of} take "
            f"{taken / 2**30:.4g} GB, and this machine has {memory() / 2**30:.4g}."
        )


def check_weight(shape):
    """Refuses the shape of a weight that could never be made and trained."""
    taken = COPIES * 4 * math.prod(map(int, shape))
    if taken > memory():
        raise TooLarge(
            f"a weight of the shape {tuple(shape)} takes {taken / 2**30:.4g} GB with "
            f"its gradient and averages, and this machine has {memory() / 2**30:.4g}"
        )


def largest(given, error):
    """The error of a call that ran out of memory: it names the largest size.

    Args:
        given: dict argument -> value.
        error: what was raised.
    """

    def size(value):
        if isinstance(value, (tuple, list)):
            return max(map(size, value), default=0)
        return value if is_integer(value) else 0

    name = max(given, key=lambda name: size(given[name]), default=None)
    said = getattr(error, "said", "it does not fit into memory")
    if name is None or not size(given[name]):
        return TooLarge(said, f"Too large for this machine: {said}.")
    message = f"{name} must be smaller; got {shown(given[name])}: {said}."
    return TooLarge(said, message)
