"""Models that generate."""

import keras
import numpy as np
from keras import ops

from keras_genai.backend import random
from keras_genai.training.compiled import CompiledFunctions
from keras_genai.training.model import Model
from keras_genai.utils.arguments import check_known, checked, names_of
from keras_genai.utils.checks import check_labels, check_positive
from keras_genai.utils.memory import check_room


class Sampling(CompiledFunctions):
    """The part of a model that samples, by what a family defines:

    - `draw(key, count, first, labels)`: `count` samples as a tensor, of which sample
      i depends on the key and on its number `first + i` alone;
    - `sampling_variables()`: list of the variables that `draw` reads;
    - `value_range`: values of black and white in its images;
    - `numbers`: names of the options of `draw` that it takes as scalar tensors, so that
      another value compiles nothing.
    """

    value_range = (-1.0, 1.0)
    numbers = ()

    def draw(self, key, count, first, labels=None):
        raise NotImplementedError(f"{type(self).__name__} must define draw().")

    def sampling_variables(self):
        return list(self.variables)

    @checked()
    def generate(
        self, n=None, seed=0, *, labels=None, batch_size=64, verbose=0, **options
    ):
        """Samples images.

        Sample i depends on the seed and on i alone, not on `batch_size`:
        `generate(16, seed=0)[:8]` equals `generate(8, seed=0)`.

        Args:
            n: how many, at least 1; may be left out when labels are given.
            seed: integer >= 0. The same seed and weights give the same images on
                every backend.
            labels: integers `(n,)` in [0, num_classes), for a model with labels; by
                default drawn uniformly from the seed.
            batch_size: images in one pass.
            verbose: 1 shows a progress bar.
            **options: the model's own, named at its class.

        Returns:
            NumPy float32 `(n, H, W, C)`, in the range of the training images.
        """
        if n is not None:  # joined at the end: twice their size
            shape = tuple(
                getattr(self, "image_shape", None) or getattr(self, "shape", ())
            )
            size = 2 * int(np.prod(shape))
            check_room("n", n, size, f"samples of the shape {shape}")
        batches = self.generate_batches(
            n, seed, labels=labels, batch_size=batch_size, **options
        )
        total = len(labels) if n is None else n
        bar = keras.utils.Progbar(total, verbose=verbose, unit_name=self.unit_name)
        images = []
        for batch in batches:
            images.append(batch)
            bar.add(len(batch))
        return np.concatenate(images)

    @checked()
    def generate_batches(
        self, n=None, seed=0, *, labels=None, batch_size=64, **options
    ):
        """What `generate` returns, one batch after the other.

        Args:
            n, seed, labels, batch_size, options: see `generate`.

        Returns:
            Iterator of NumPy float32 arrays `(b, H, W, C)`, b at most `batch_size`.
        """
        seed = random.check_seed(seed)
        for name in options:
            known = names_of(self.generate) + names_of(self.draw)
            check_known(name, known, f"{type(self).__name__}.generate")
        labels, n = self._labels_to_draw(n, seed, labels)
        check_positive("batch_size", batch_size)
        size = self.programs.rows(n, batch_size)
        key = np.array(random.key(seed, "generate/latents"), "int32")

        numbers = {k: np.float32(options.pop(k)) for k in self.numbers if k in options}

        def draw(key, *arrays):
            given = dict(zip(numbers, arrays[: len(numbers)], strict=True))
            first, labels = (*arrays[len(numbers) :], None)[:2]
            return self.draw((key[0], key[1]), size, first, labels, **given, **options)

        name = ("generate", size, tuple(numbers), labels is None)
        batches = self.stream(
            (*name, repr(sorted(options.items()))),
            draw,
            self.sampling_variables(),
            [] if labels is None else [labels],
            size,
            total=n,
            constants=[key, *numbers.values()],
            numbered=True,
        )
        return (images[:count] for _, count, images in batches)

    def _labels_to_draw(self, n, seed, labels):
        """The labels, given or drawn (None for a model without), and their number."""
        if n is None and labels is not None:
            n = len(labels)
        if n is None:
            raise ValueError(
                "n must be an integer of at least 1, or labels given; got None."
            )
        check_positive("n", n)
        if labels is not None:
            labels = np.asarray(labels)
            check_labels(labels, self.num_classes, n, type(self).__name__)
            labels = labels.reshape(-1)
        elif self.num_classes is not None:
            key = random.key(seed, "generate/labels")
            labels = random.randint(key, (n,), 0, self.num_classes, host=True)
        return labels, n

    def seeded_signature(self):
        """The export of `generate`: `seed` with `labels` or `n` -> `images`."""

        def generate(seed, last):
            labelled = self.num_classes is not None
            key = random.key(seed, "generate/latents")
            count = ops.shape(last)[0] if labelled else last
            return {"images": self.draw(key, count, 0, last if labelled else None)}

        last = ("n", (), "int32")
        if self.num_classes is not None:
            last = ("labels", (None,), "int32")
        return generate, [("seed", (), "int32"), last]


class GenerativeModel(Sampling, Model):
    """A `Model` that samples: see `Model` for training, `Sampling` for the rest."""
