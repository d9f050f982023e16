"""Ctrl-C while a model trains: between two steps, and never lost.

Python raises `KeyboardInterrupt` wherever the main thread happens to be. In the middle
of a step that leaves a model of which some weights have moved and others not; on JAX,
whose step takes the memory of the state that it is given, none at all. And where an
exception is caught or cannot leave (Keras's `pythonify_logs` has a bare `except`, so
have finalizers), the interrupt is lost and training goes on.

So `fit` and its kin have a handler of their own. It raises at once, but for functions
that are marked as `whole`: after those. What was raised once and did not arrive is
raised again, at the next step or at the end.
"""

import signal
import threading
import time

# Codes of functions that are not left in the middle -> whether a second Ctrl-C may.
_WHOLE = {}
_IMPATIENT = 5.0  # seconds after which a second Ctrl-C leaves a step in the middle
_LEAVING = 1.0  # seconds after a raised interrupt that further ones do not disturb

_asked = None  # when an interrupt came that has not yet arrived
_raised = None  # when it was raised


def whole(fn, forcible=True):
    """Marks a function that an interrupt does not leave in the middle.

    Args:
        fn: Python function.
        forcible: whether a second Ctrl-C, some seconds after the first, may.

    Returns:
        `fn`.
    """
    _WHOLE[fn.__code__] = forcible
    return fn


def check():
    """Raises the `KeyboardInterrupt` that came while something was `whole`."""
    if _asked is not None and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


def stepped(step):
    """A step that an interrupt leaves before it begins or when it is done."""

    def function(*args):
        check()
        result = _run(step, args)
        check()
        return result

    return function


def _run(step, args):
    return step(*args)


whole(_run)


def _handle(signum, frame):
    global _asked, _raised
    now = time.monotonic()
    first, _asked = _asked, _asked or now
    impatient = first is not None and now - first > _IMPATIENT
    codes = []
    while frame is not None:
        codes.append(frame.f_code)
        frame = frame.f_back
    if codes[0] in _OWN or not all(
        impatient and _WHOLE[code] for code in codes if code in _WHOLE
    ):
        return
    if _raised is None or now - _raised > _LEAVING:
        _raised = now
        raise KeyboardInterrupt


class guarded:
    """A context in which Ctrl-C is looked after as this file says.

    Only where Python's own handler is in place and in the main thread, to which
    signals come; inside another such context it does nothing.
    """

    def __enter__(self):
        global _asked, _raised
        self.before = None
        if (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        ):
            _asked = _raised = None
            self.before = signal.signal(signal.SIGINT, _handle)

    def __exit__(self, kind, error, traceback):
        global _asked
        if self.before is None:
            return
        signal.signal(signal.SIGINT, self.before)
        asked, _asked = _asked, None
        if asked is not None and kind is not KeyboardInterrupt:
            raise KeyboardInterrupt


class settled(guarded):
    """The same, and the model is whole at the end, whatever ended it.

    Args:
        model: it has a method `settle`.
    """

    def __init__(self, model):
        self.model = model

    def __exit__(self, kind, error, traceback):
        try:
            self.model.settle()
        finally:
            super().__exit__(kind, error, traceback)


_OWN = {
    fn.__code__
    for holder in (guarded, settled)
    for fn in vars(holder).values()
    if hasattr(fn, "__code__")
}
