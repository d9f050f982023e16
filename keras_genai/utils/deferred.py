"""Models that are made without their weights, for those that come from a file.

Shapes are then known before anything is allocated or drawn, so that a file can be
compared with them first, and what a file holds is not drawn in vain.
"""

import contextlib
import threading

import keras
from keras import ops
from keras.src.backend.common import global_state

_local = threading.local()
_WAITING = "uninitialized_variables"  # where Keras notes variables without values


def is_deferring():
    """Whether weights that are made now get no values yet."""
    return getattr(_local, "depth", 0) > 0


@contextlib.contextmanager
def deferred():
    """A context in which new variables have shapes and no values.

    Yields:
        List that holds them afterwards: see `finish`.
    """
    variables = []
    others = global_state.get_global_attribute(_WAITING)
    global_state.set_global_attribute(_WAITING, [])
    _local.depth = getattr(_local, "depth", 0) + 1
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield variables
    finally:
        _local.depth -= 1
        variables += global_state.get_global_attribute(_WAITING) or []
        global_state.set_global_attribute(_WAITING, others)


def fill(variable, array):
    """Gives a variable its value, whether it has one or not.

    Args:
        variable: `keras.Variable`.
        array: of its shape.
    """
    if variable._value is not None:
        variable.assign(array)
        return
    variable._initializer = lambda shape, dtype=None: ops.convert_to_tensor(
        array, dtype
    )
    variable._deferred_initialize()


def finish(variables):
    """Draws the initial values of those variables that have none yet."""
    for variable in variables:
        if variable._value is None:
            variable._deferred_initialize()
