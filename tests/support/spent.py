"""Process-seconds of a test: its own, and what others spend for it.

A process that many tests share (a worker, the processes of a way to divide a training)
says what it spent for each. Its start, and what else it spends, is no test's.
"""

import contextlib
import os
import time

_told = _shared = 0.0


def seconds():
    """Of this process, of its children that have ended, and what `tell` was told."""
    children = sum(os.times()[2:4])
    return time.process_time() + children - _shared + _told


def tell(spent):
    """Adds what a shared process has spent for the present test."""
    global _told
    _told += spent


@contextlib.contextmanager
def shared():
    """Around the wait for the end of processes that several tests share."""
    global _shared
    before = sum(os.times()[2:4])
    try:
        yield
    finally:
        _shared += sum(os.times()[2:4]) - before
