"""Threefry-2x32 on PyTorch: the block function of `backend.random`, in place.

Eagerly, the generic form spends its time in a hundred small allocations and in
Keras's dispatch.
"""

import torch

from keras_genai.backend.torch.recorder.recording import recording

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA

# PyTorch shares an operation on more words among threads, whose waking takes longer
# than they save; and a block stays in the cache. Of very many words they do save.
BLOCK, WHOLE = 2**15, 2**22


def threefry2x32(key, counter):
    """Args:
        key: pair of words, Python integers in int32 or int32 scalar tensors.
        counter: pair of int32 tensors that broadcast against each other. They are
            not changed.

    Returns:
        Pair of new int32 tensors of the broadcast shape.
    """
    k0, k1 = key
    x0, x1 = torch.broadcast_tensors(*counter)
    schedule = (k0, k1, k0 ^ k1 ^ _PARITY)
    x0 = (x0 + k0).contiguous()
    x1 = (x1 + k1).contiguous()
    if not _is_eager(x0) or not BLOCK < x0.numel() < WHOLE:
        _rounds(x0, x1, torch.empty_like(x1), schedule)
        return x0, x1
    high = torch.empty(BLOCK, dtype=x1.dtype)
    for parts in zip(x0.view(-1).split(BLOCK), x1.view(-1).split(BLOCK), strict=True):
        _rounds(*parts, high[: len(parts[0])], schedule)
    return x0, x1


def _rounds(x0, x1, high, schedule):
    """The twenty rounds, in place; `high` is room for as many words."""
    for group in range(1, 6):
        for distance in _ROTATIONS[(group - 1) % 2]:
            x0.add_(x1)
            # The rotation: the logical shift right (arithmetic and masked), plus
            # the shift left as a wrapping multiple.
            torch.bitwise_right_shift(x1, 32 - distance, out=high)
            high.bitwise_and_((1 << distance) - 1)
            high.add_(x1, alpha=1 << distance).bitwise_xor_(x0)
            x1, high = high, x1
        x0.add_(schedule[group % 3])
        x1.add_(schedule[(group + 1) % 3]).add_(group)


def concrete_int(x):
    """A scalar on the CPU as a Python integer, where that neither waits nor traces.

    The key of a draw is then computed in Python: a fiftieth of the time of scalars.
    """
    return int(x) if _is_eager(x) and recording.recorder is None else x


def _is_eager(x):
    """On the CPU and neither traced nor faked: its sizes and values are known."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return type(x) in (torch.Tensor, torch.nn.Parameter)
