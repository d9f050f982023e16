"""How a global batch is divided over devices and processes."""

import dataclasses
import math
import warnings

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

    def batches(self, size, batch_size):
        """How many batches a pass has that can be divided.

        Warns of what is left out of the last.

        Args:
            size: samples in a pass.
            batch_size: samples in a batch.

        Raises:
            ValueError: the batches cannot be divided.
        """
        whole = min(batch_size, size)
        if self.usable(whole) != whole:
            raise ValueError(
                f"A batch of {whole} samples cannot be divided over {self.count} "
                f"{self.kind}: give a batch_size that is "
                + (
                    f"at least {self.count}."
                    if whole < self.count and self.multiple == 1
                    else f"divisible by {max(self.count, self.multiple)}."
                )
            )
        batches = math.ceil(size / batch_size)
        last = size - (batches - 1) * batch_size
        left_out = last - self.usable(last)
        if left_out:
            warnings.warn(
                f"The last batch of a pass has {last} samples, which {self.count} "
                f"{self.kind} cannot share: {left_out} of {size} samples, others in "
                "each pass, are left out.",
                stacklevel=4,
            )
        return batches - (left_out == last)

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
