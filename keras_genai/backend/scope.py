"""State scopes that nest."""

import keras
from keras import ops
from keras.src.backend.common.stateless_scope import get_stateless_scope


class Scope(keras.StatelessScope):
    """A `keras.StatelessScope` that nests and remembers which variables changed.

    Keras's own hides the scope around it; this one begins with that scope's values.

    Args:
        pairs: `(variable, value)` pairs that hold inside the scope.
    """

    def __init__(self, pairs=()):
        super().__init__(initialize_variables=False)
        outer = get_stateless_scope()
        if outer is not None:
            self.state_mapping = dict(outer.state_mapping)
        for variable, value in pairs:
            self.state_mapping[id(variable)] = value
        self.updated = {}

    def add_update(self, update):
        variable, value = update
        self.updated[id(variable)] = variable
        self.state_mapping[id(variable)] = value

    def updates(self):
        """The values of `updated`, in the order in which they were first updated.

        A list: JAX sorts a dict by its keys, which are addresses, so a step traced
        with one would be another program each time.
        """
        return [self.state_mapping[key] for key in self.updated]


def with_values(pairs, fn):
    """Runs `fn()` while variables read as other values.

    Args:
        pairs: `(keras.Variable, tensor)` pairs. Gradients flow into the tensors.
            Updates that `fn` makes to variables are dropped.
        fn: function of no arguments.

    Returns:
        What `fn` returns.
    """
    with Scope(pairs):
        return fn()


def rematerialized(fn, *args):
    """See `backend.remat`, where tensors may leave a function by the side.

    The second run must draw what the first drew: it begins with the counters that the
    first began with. Updates are made once, outside.
    """
    start, updated, first = [], [], []

    def run(*args):
        with Scope(start) as scope:
            y = fn(*args)
        if not first:
            first.append(True)
            updated[:] = zip(scope.updated.values(), scope.updates(), strict=True)
        return y

    y = keras.remat(run)(*args)
    start[:] = [(variable, ops.copy(variable.value)) for variable, _ in updated]
    for variable, value in updated:
        variable.assign(value)
    return y
