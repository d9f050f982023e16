"""Going on exactly where a run was cut off."""

import json
import pathlib
import time
import zipfile

import keras
import numpy as np

from keras_genai import engine
from keras_genai.engine.checks import check_integer
from keras_genai.utils.arguments import checked
from keras_genai.utils.files import written_beside
from keras_genai.utils.validation import integer, number, path

_VERSION = 1


class Resume(keras.callbacks.Callback):
    """Stores a run as it goes, and goes on from what is stored.

    Give it to `fit` and run the same program again after a crash, a kill or a
    closed notebook: training goes on in the middle of the epoch, and ends with the
    weights of the run that was never cut off, to the bit on the same backend and
    machine. Every variable is stored (weights, averages, optimizers, metrics, noise)
    with the epoch and the batch. That holds for data in arrays, whose order follows
    from the seed, and for a `keras.utils.PyDataset` that gives the same batch for
    the same index. A batch that was already trained on is not trained on again.

    The file is written beside its place and then moved there, so that a kill while
    writing leaves the file before it. A state with a value that is not finite is
    never written.

    Args:
        path: the file, such as `"logs/resume.npz"`; folders are made.
        every: store after so many batches, besides the end of every epoch. None:
            when `seconds` have passed.
        seconds: seconds between two writes within an epoch, when `every` is None.

    Raises:
        ValueError: when training begins, for a file that is damaged or that belongs
            to another model or other data. The file is left as it is.

    Example:

    ```python
    model.fit(images, epochs=100, callbacks=[kg.callbacks.Resume("logs/run.npz")])
    ```
    """

    @checked(path=path, every=integer(1), seconds=number("> 0"))
    def __init__(self, path, every=None, seconds=60.0):
        super().__init__()
        self.path = pathlib.Path(path)
        if every is not None:
            check_integer("every", every)
        if not seconds > 0:
            raise ValueError(f"seconds must be positive; got {seconds!r}.")
        self.every = every
        self.seconds = seconds
        self._pending = None

    def _variables(self):
        model = self.model
        return [
            *model.variables,
            *model.optimizer.variables,
            *model.metrics_variables,
        ]

    def _fingerprint(self):
        """What must be the same for a stored run to be this run."""
        return {
            "version": _VERSION,
            "model": type(self.model).__name__,
            "seed": self.model.seed,
            "batches per epoch": self.params.get("steps"),
            "variables": [[list(v.shape), str(v.dtype)] for v in self._variables()],
        }

    # Reading

    def on_train_begin(self, logs=None):
        self._epoch = 0
        self._written = time.monotonic()
        self._pending = None
        if not self.path.exists():
            if engine.is_main_process():
                self.path.parent.mkdir(parents=True, exist_ok=True)
            return
        meta, arrays = _read(self.path)
        stored, own = meta["fingerprint"], self._fingerprint()
        for name, value in own.items():
            if stored.get(name) != value:
                detail = (
                    "its variables have other shapes"
                    if name == "variables"
                    else f"its {name} is {stored.get(name)!r}, here {value!r}"
                )
                raise ValueError(
                    f"{self.path} belongs to another run: {detail}. Build the model, "
                    "the data and the batch size as in that run, or give Resume "
                    "another path to start anew."
                )
        epoch, batch = meta["epoch"], meta["batch"]
        self._restore(arrays)
        # Keras's own hook for callbacks that resume.
        self.model._initial_epoch = epoch
        if batch:
            self.model._skip = batch // self.model.steps_per_execution
            self._pending = arrays
        print(f"Resuming from {self.path}: epoch {epoch + 1}, batch {batch}.")

    def _restore(self, arrays):
        for variable, array in zip(self._variables(), arrays, strict=True):
            variable.assign(array)

    # Writing

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        # Before batch k, k batches are done. Here and not after a batch, so that
        # Keras may go on handing finished batches to its callbacks in the background.
        if self._pending is not None:
            # Once more, after the metrics were reset and the other callbacks have
            # begun an epoch that had long begun.
            self._restore(self._pending)
            self._pending = None
        if batch == 0 or self.model._skip:
            return
        due = (
            time.monotonic() - self._written >= self.seconds
            if self.every is None
            else batch % self.every == 0
        )
        if due:
            self._write(self._epoch, batch)

    def on_epoch_end(self, epoch, logs=None):
        self._write(epoch + 1, 0)

    def _write(self, epoch, batch):
        self._written = time.monotonic()
        if not engine.is_main_process():
            return
        arrays = [engine.to_host(v.value) for v in self._variables()]
        if not all(np.all(np.isfinite(a)) for a in arrays if a.dtype.kind == "f"):
            return
        meta = {"fingerprint": self._fingerprint(), "epoch": epoch, "batch": batch}
        _write(self.path, meta, arrays)


def _write(path, meta, arrays):
    # Types that NumPy does not know (bfloat16) are stored as their bits.
    plain = [
        a.view(f"uint{8 * a.itemsize}") if a.dtype.kind == "V" else a for a in arrays
    ]
    meta = {**meta, "count": len(arrays)}
    text = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    with written_beside(path) as beside, open(beside, "wb") as file:
        np.savez(file, meta=text, **{str(i): a for i, a in enumerate(plain)})


def _read(path):
    """The stored run, or a `ValueError` that says what is wrong with the file."""
    try:
        # Opened here: NumPy leaves a file open that it cannot read.
        with open(path, "rb") as opened, np.load(opened, allow_pickle=False) as file:
            meta = json.loads(file["meta"].tobytes().decode())
            arrays = [file[str(i)] for i in range(meta["count"])]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} is damaged or no file of kg.callbacks.Resume ({error}). It was "
            "left as it is: move it away to start anew."
        ) from error
    dtypes = [dtype for _, dtype in meta["fingerprint"]["variables"]]
    return meta, [
        a.view(_bits(d)) if str(a.dtype) != d and a.dtype.kind == "u" else a
        for a, d in zip(arrays, dtypes, strict=True)
    ]


def _bits(dtype):
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, dtype))
