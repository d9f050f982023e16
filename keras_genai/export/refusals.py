"""What a SavedModel refuses: the values that the Python model refuses, by name."""

import functools
import inspect


def refusing(fn, inputs, ranges):
    """A signature's function that looks at its inputs first.

    Args:
        fn: function of tensors, in the order of `inputs`.
        inputs: list of `(name, shape, dtype)`: see `export_signatures`.
        ranges: dict name -> `training.compiled.Range`.

    Returns:
        The same function; where an input is outside its range, or has not as many rows
        as the others, it ends in an `InvalidArgumentError` that names the input.
    """
    import tensorflow as tf

    @functools.wraps(fn)
    def run(*args):
        given = dict(zip([name for name, _, _ in inputs], args, strict=True))
        batched = [name for name, shape, _ in inputs if shape and shape[0] is None]
        checks = [*_rows(given, batched), *_values(given, ranges)]
        with tf.control_dependencies(checks):
            return fn(*map(tf.identity, args))

    run.__signature__ = _signature(inputs, ranges)  # read by tf.function
    return run


def _signature(inputs, ranges):
    """The inputs, those with a default as such."""
    import tensorflow as tf

    parameters = []
    for name, _, dtype in inputs:
        default = ranges[name].default if name in ranges else None
        default = inspect.Parameter.empty if default is None else default
        if default is not inspect.Parameter.empty:
            default = tf.constant(default, dtype)
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters.append(inspect.Parameter(name, kind, default=default))
    return inspect.Signature(parameters)


def _rows(given, batched):
    """Assertions that all have as many rows as the first."""
    import tensorflow as tf

    for name in batched[1:]:
        first = tf.shape(given[batched[0]])[0]
        count = tf.shape(given[name])[0]
        told = [f"{name} must have as many rows as {batched[0]}; they have"]
        yield tf.debugging.Assert(tf.equal(first, count), [*told, count, first])


def _values(given, ranges):
    """Assertions about the values."""
    import tensorflow as tf

    for name in given.keys() & ranges.keys():
        x, range_ = given[name], ranges[name]
        right = [tf.math.is_finite(x)] if x.dtype.is_floating else []
        if range_.above is not None:
            right.append(x > range_.above)
        if range_.least is not None:
            right.append(x >= range_.least)
        if range_.most is not None:
            right.append(x <= range_.most)
        right = tf.reduce_all([tf.reduce_all(part) for part in right])
        told = f"{name} must be {range_.words(x.dtype.is_floating)}; got"
        yield tf.debugging.Assert(right, [told, x], summarize=8)
    if given.keys() >= {"tokens", "lengths"}:
        width = tf.shape(given["tokens"])[1]
        told = [
            "lengths must be at most the number of tokens in a row,",
            width,
            "; got",
        ]
        right = tf.reduce_all(given["lengths"] <= width)
        yield tf.debugging.Assert(right, [*told, given["lengths"]], summarize=8)
