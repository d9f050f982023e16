"""Runs a SavedModel where only TensorFlow can be imported.

Arguments: the request, a JSON file: the folder, then calls of signatures with their
inputs; the answers are stored beside it. `import tensorflow` itself imports Keras
and JAX where they are installed: here they look as if they were not.
"""

import json
import sys

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


def main(request):
    sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
    import numpy as np
    import tensorflow as tf

    with open(request, encoding="utf-8") as file:
        folder, calls = json.load(file)
    model = tf.saved_model.load(folder)
    answers = {"signatures": sorted(model.signatures)}
    for number, (name, inputs) in enumerate(calls):
        values = {
            key: tf.constant(np.array(value, dtype))
            for key, (value, dtype) in inputs.items()
        }
        (made,) = model.signatures[name](**values).values()
        answers[str(number)] = made.numpy()
    loaded = {name.partition(".")[0] for name in sys.modules} & set(HIDDEN)
    assert not loaded, f"imported beside TensorFlow: {sorted(loaded)}"
    np.savez(request + ".npz", **answers)


if __name__ == "__main__":
    main(sys.argv[1])
