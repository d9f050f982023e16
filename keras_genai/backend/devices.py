"""How a global batch is divided over devices and processes."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Devices:
    """How a global batch is divided.

    Args:
        kind: what the devices are called in messages.
        count: how many share a batch.
        multiple: the size of a batch must be a multiple of it.
        process: `(index, count)` of the processes that each bring their own part.
        whole: whether a step sees the whole batch, which the compiler divides; else
            it sees the part of one device.
        even: whether the parts differ by one sample at most; else all have as many as
            the first, until there are no more (TensorFlow).
    """

    kind: str = "devices"
    count: int = 1
    multiple: int = 1
    process: tuple[int, int] = (0, 1)
    whole: bool = False
    even: bool = True

    def usable(self, size):
        """How many samples of a batch of that size can be divided."""
        size -= size % self.multiple
        while size and not self.least(size):
            size -= 1
        return size

    def least(self, size):
        """How many samples of a global batch of that size a step sees at least."""
        if self.whole:
            return size
        if self.even:
            return size // self.count
        return max(0, size - (self.count - 1) * -(-size // self.count))

    def least_of_own(self, size):
        """As `least`, of a batch that this process brings to itself."""
        return size if self.process[1] > 1 else self.least(size)

    def own(self, rows):
        """This process's part of the rows of a global batch; earlier ones get more."""
        index, count = self.process
        return np.array_split(rows[: self.usable(len(rows))], count)[index]
