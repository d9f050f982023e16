"""A worker that runs SavedModels where only TensorFlow can be imported.

It answers each line of JSON, `{"folder", "calls", "arrays"}`, with one: `calls` are
names of signatures, whose inputs are in the file `arrays` under `"<number>/<name>"`;
the outputs are stored in its place, and the answer names the signatures of the model,
or says what went wrong.

`import tensorflow` itself imports Keras and JAX where they are installed: here they
look as if they were not.
"""

import sys

from answering import answer_each_line, answers

HIDDEN = ("keras", "keras_genai", "tf_keras", "jax", "torch")


class Without:
    """A finder of modules that does not find the hidden."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HIDDEN:
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


def serve(folder, calls, arrays):
    """Calls signatures of a SavedModel; returns the names that it has."""
    import numpy as np
    import tensorflow as tf

    model = tf.saved_model.load(folder)
    with np.load(arrays) as stored:
        inputs = dict(stored)
    outputs = {}
    for number, name in enumerate(calls):
        own = {
            key.partition("/")[2]: tf.constant(value)
            for key, value in inputs.items()
            if key.startswith(f"{number}/")
        }
        for key, value in model.signatures[name](**own).items():
            array = value.numpy()
            # Strings as bytes of one length: no pickle.
            plain = np.array(array.tolist()) if array.dtype == object else array
            outputs[f"{number}/{key}"] = plain
    loaded = {name.partition(".")[0] for name in sys.modules} & set(HIDDEN)
    assert not loaded, f"imported beside TensorFlow: {sorted(loaded)}"
    np.savez(arrays, **outputs)
    return sorted(model.signatures)


def main():
    file = answers()
    sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
    import tensorflow  # noqa: F401  (while the first request is prepared)

    answer_each_line(file, lambda request: {"signatures": serve(**request)})


if __name__ == "__main__":
    main()
