"""How every model samples and exports: `generate`, compiled functions, signatures."""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_genai.engine import backend_ops, programs, random
from keras_genai.engine.checks import check_labels, check_positive
from keras_genai.utils.arguments import checked
from keras_genai.utils.memory import check_room
from keras_genai.utils.validation import path, text


@dataclasses.dataclass(frozen=True)
class Range:
    """The values of an input; floats are finite, too.

    Args:
        least: of them; None for no bound.
        most: of them, likewise.
        above: what they are over, likewise.
    """

    least: int | None = None
    most: int | None = None
    above: int | None = None

    def words(self, finite=False):
        """What it says of a value: "finite and at least 0"."""
        bounds = {"over": self.above, "at least": self.least, "at most": self.most}
        told = [f"{word} {n}" for word, n in bounds.items() if n is not None]
        return " and ".join(["finite", *told] if finite else told)


class Sampling:
    """The part of `GenerativeModel` that samples, by what a family defines:

    - `draw(key, count, first, labels)`: `count` samples as a tensor, of which sample
      i depends on the key and on its number `first + i` alone;
    - `sampling_variables()`: list of the variables that `draw` reads;
    - `num_classes`: K of the labels, or None for a model without labels;
    - `value_range`: values of black and white in its images;
    - `unit_name`: what a progress bar counts;
    - `numbers`: names of the options of `draw` that it takes as scalar tensors, so that
      another value compiles nothing.
    """

    num_classes = None
    value_range = (-1.0, 1.0)
    unit_name = "image"
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
            labels = ops.convert_to_numpy(
                random.randint(key, (n,), 0, self.num_classes)
            )
        return labels, n

    def with_labels(self, x, labels):
        """What a network is called with: `[x, labels]`, or x of a model without."""
        return x if self.num_classes is None else [x, labels]

    def averaged(self, player):
        """Whether `player` samples with its average."""
        return self.ema is not None and self.ema.follows(self.players[player])

    def run_averaged(self, player, fn):
        """`fn()`, by the average of `player` where one is kept."""
        return self.ema.run(fn) if self.averaged(player) else fn()

    def averaged_variables(self, player):
        """List of the variables that `run_averaged` reads."""
        own = list(self.players[player].variables)
        return own + (self.ema.variables if self.averaged(player) else [])

    def seeded_signature(self):
        """The export of `generate`: `seed` with `labels` or `n` -> `images`."""

        def generate_seeded(seed, last):
            labelled = self.num_classes is not None
            key = random.key(seed, "generate/latents")
            count = ops.shape(last)[0] if labelled else last
            return {"images": self.draw(key, count, 0, last if labelled else None)}

        last = ("n", (), "int32")
        if self.num_classes is not None:
            last = ("labels", (None,), "int32")
        return generate_seeded, [("seed", (), "int32"), last]

    def run_compiled(self, name, fn, variables, *args):
        """Runs a function of tensors, compiled once for each shape and kept.

        Args:
            name: hashable: what the function closes over, beside the model, and what
                tells it from others of the model.
            fn: function of tensors to tensors that reads `variables`.
            variables: list of the Keras variables that it reads.
            *args: its arguments.

        Returns:
            NumPy arrays.
        """
        made = self.compiled_once(name, fn, variables)(*args)
        return keras.tree.map_structure(backend_ops.to_host, made)

    def compiled_once(self, name, fn, variables):
        """The compiled function that `run_compiled` runs, tensors to tensors.

        It is kept by its name, by the variables, by the attributes of the model and of
        its layers (see `engine.programs.Traits`) and by the shapes of the arguments;
        where one of them is another, it is compiled anew. The last used are kept.
        """
        return programs.compiled_once(self, name, fn, variables, self.run_eagerly)

    @property
    def programs(self):
        """The compiled functions, an `engine.programs.Programs`."""
        return programs.of(self)

    def forget_compiled(self):
        """Drops what is compiled, such as before weights become other variables."""
        self.programs.clear()

    def stream(
        self,
        name,
        fn,
        variables,
        arrays,
        size,
        *,
        total=None,
        constants=(),
        numbered=False,
        verbose=0,
    ):
        """Runs a function over arrays in batches of one shape: the last is filled up.

        Args:
            name, fn, variables: see `run_compiled`. `fn` takes the constants, then
                the number of the batch's first row if `numbered`, then the rows.
            arrays: list of NumPy arrays of N rows.
            size: rows in one pass.
            total: N, where there are no arrays.
            constants: arrays that every batch is given.
            numbered: whether `fn` takes the number of the first row.
            verbose: 1 shows a progress bar.

        Returns:
            Iterator of `(start, count, what fn returns)`: NumPy arrays of `size` rows,
            of which the first `count` are those from row `start` on.
        """
        total = len(arrays[0]) if total is None else total
        bar = keras.utils.Progbar(total, verbose=verbose, unit_name=self.unit_name)
        run = self.compiled_once(name, fn, variables)
        for start in range(0, total, size):
            count = min(size, total - start)
            number = [np.array(start, "int32")] if numbered else []
            rows = [
                np.resize(a[start : start + size], (size, *np.shape(a)[1:]))
                for a in arrays
            ]
            batch = [
                ops.convert_to_tensor(a.astype("int32") if a.dtype.kind in "iu" else a)
                for a in (*constants, *number, *rows)
            ]
            yield (
                start,
                count,
                keras.tree.map_structure(backend_ops.to_host, run(*batch)),
            )
            bar.add(count)

    def run_in_batches(self, name, fn, variables, arrays, batch_size, size=None):
        """What `stream` makes of arrays, joined: a NumPy array of N rows.

        `size`, where it is given, are the rows in one pass.
        """
        check_positive("batch_size", batch_size)
        size = size or self.programs.rows(len(arrays[0]), batch_size)
        parts = self.stream(name, fn, variables, arrays, size)
        return np.concatenate([made[:count] for _, count, made in parts])

    def input_ranges(self):
        """Which values inputs of signatures may have: dict name -> `Range`.

        A SavedModel refuses others; an ONNX file, which cannot, does not.
        """
        ranges = {"seed": Range(least=0), "n": Range(least=1)}
        if self.num_classes:
            ranges["labels"] = Range(least=0, most=self.num_classes - 1)
        return ranges

    def export_signatures(self):
        """What `export` writes: dict name -> (function, its inputs).

        The function takes and returns tensors (a dict of them, written in
        `keras.ops`); the inputs are `(name, shape, dtype)`, None for a free size.
        """
        raise NotImplementedError(
            f"{type(self).__name__} must define export_signatures(self)."
        )

    @checked(path=path, format=text, signature=text)
    def export(self, path, overwrite=False, format="tf_saved_model", signature=None):
        """Writes the sampler as a SavedModel that TensorFlow runs alone, or as ONNX.

        Works from every backend. See `export_signatures` for what is in it.

        Args:
            path: folder to make; for ONNX a file that ends in `.onnx`.
            overwrite: whether a SavedModel or ONNX file that stands there may be
                replaced.
            format: `"tf_saved_model"` (all signatures) or `"onnx"` (one).
            signature: for ONNX, the name of the signature to write; by default the
                first.

        Raises:
            ValueError: something stands there already.
            ImportError: a package that the format needs is not installed.
        """
        from keras_genai import export

        if format == "onnx":
            export.export_onnx(self, path, overwrite=overwrite, signature=signature)
        elif format == "tf_saved_model" and signature is None:
            export.export_savedmodel(self, path, overwrite=overwrite)
        else:
            raise ValueError(
                "format must be 'tf_saved_model', which holds every signature, or "
                f"'onnx'; got format={format!r}, signature={signature!r}."
            )
