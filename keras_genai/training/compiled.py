"""Compiled functions of a model, run over arrays, and their export."""

import dataclasses

import keras
import numpy as np

from keras_genai import backend
from keras_genai.backend import programs
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_positive
from keras_genai.utils.validation import path, text


@dataclasses.dataclass(frozen=True)
class Range:
    """The values of an input; floats are finite, too.

    Args:
        least: of them; None for no bound.
        most: of them, likewise.
        above: what they are over, likewise.
        default: the value where a SavedModel is given none; None for no default.
    """

    least: int | None = None
    most: int | None = None
    above: int | None = None
    default: float | None = None

    def words(self, finite=False):
        """What it says of a value: "finite and at least 0"."""
        bounds = {"over": self.above, "at least": self.least, "at most": self.most}
        told = [f"{word} {n}" for word, n in bounds.items() if n is not None]
        return " and ".join(["finite", *told] if finite else told)


class CompiledFunctions:
    """The part of a model that runs functions of its weights, and exports them.

    What a model defines: `num_classes`, K of its labels, or None; `unit_name`, what a
    progress bar counts; `export_signatures()`.
    """

    num_classes = None
    unit_name = "image"

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
        return keras.tree.map_structure(backend.to_host, made)

    def compiled_once(self, name, fn, variables):
        """The compiled function that `run_compiled` runs, tensors to tensors.

        It is kept by its name, by the variables, by the attributes of the model and of
        its layers (see `backend.programs.Traits`) and by the shapes of the arguments;
        where one of them is another, it is compiled anew. The last used are kept.
        """
        return programs.compiled_once(self, name, fn, variables, self.run_eagerly)

    @property
    def programs(self):
        """The compiled functions, an `backend.programs.Programs`."""
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
                backend.from_host(a.astype("int32") if a.dtype.kind in "iu" else a)
                for a in (*constants, *number, *rows)
            ]
            yield (
                start,
                count,
                keras.tree.map_structure(backend.to_host, run(*batch)),
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

    def export_assets(self):
        """What lies beside the signatures in a SavedModel: dict name -> bytes.

        The folder's `assets` holds it, such as a tokenizer for its clients.
        """
        return {}

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
