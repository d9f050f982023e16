"""Going on exactly where a run was cut off."""

import hashlib
import json
import os
import pathlib
import time
import warnings

import keras
import numpy as np

from keras_genai import backend
from keras_genai.callbacks.runs import check_folder
from keras_genai.utils.archives import DAMAGED, opened_arrays
from keras_genai.utils.arguments import EPOCHS, checked
from keras_genai.utils.files import written_beside
from keras_genai.utils.validation import MOST, integer, number, path

_VERSION = 2
_CLIPS = ("clipnorm", "clipvalue", "global_clipnorm")


class Resume(keras.callbacks.Callback):
    """Stores a run as it goes, and goes on from what is stored.

    Give it to `fit` and run the same program again after a crash, a kill or a
    closed notebook: training goes on in the middle of the epoch, and ends with the
    weights of the run that was never cut off, to the bit on the same backend and
    machine. Every variable is stored (weights, averages, optimizers, metrics, noise)
    with the epoch and the batch. That holds for data in arrays, whose order follows
    from the seed, for `kg.datasets.folder(lazy=True)`, and for a
    `keras.utils.PyDataset` that gives the same batch for the same index, in the epoch
    that its method `set_epoch`, if it has one, was told. A batch that was already
    trained on is not trained on again.

    The file is written beside its place and then moved there, so that a kill while
    writing leaves the file before it. A state with a value that is not finite is
    never written; a warning names the variable.

    What must be the same is stored too: the model's arguments (seed, losses, penalties,
    sizes), the optimizers' classes and settings, the batch size and the data, of arrays
    a digest (beyond 256 MB of evenly spaced samples, 64 MB of them). The learning rate
    and the clipping of gradients may change, as they must after a loss that was not
    finite: a rate that `compile` was given anew is kept, and said, and one that is as
    it was goes on from where a callback had brought it.

    Args:
        path: the file, such as `"logs/resume.npz"`; folders are made.
        every: store after so many batches, besides the end of every epoch. None:
            when `seconds` have passed.
        seconds: seconds between two writes within an epoch, when `every` is None.
        data: string or integer that stands for the data in place of a digest: for data
            that are no arrays (a `PyDataset`, a generator), which cannot be read twice.

    Raises:
        ValueError: when training begins, for a folder that cannot be written, a file
            that is damaged or one that belongs to another model, other optimizers or
            other data; before a write, when another run has written there meanwhile.
            The file is left as it is.
        OSError: it cannot be written (a full disk); names the file, and the one before
            it is whole.

    Example:

    ```python
    model.fit(images, epochs=100, callbacks=[kg.callbacks.Resume("logs/run.npz")])
    ```
    """

    @checked(path=path, every=integer(1), seconds=number("> 0"))
    def __init__(self, path, every=None, seconds=60.0, data=None):
        super().__init__()
        self.path = pathlib.Path(path)
        self.every = every
        self.seconds = seconds
        if data is not None and type(data) not in (str, int):
            raise ValueError(f"data must be a string or an integer; got {data!r}.")
        self.data = data
        self._own = self._rates = self._stamp = self._pending = None

    def _variables(self):
        """All that is stored as arrays: the learning rates are stored by name."""
        model = self.model
        found = [
            *model.variables,
            *model.optimizer.variables,
            *model.metrics_variables,
        ]
        rates = {id(rate) for rate in self._rate_variables().values()}
        return [v for v in found if id(v) not in rates]

    def _rate_variables(self):
        """Player -> its learning rate where that is a number, not a schedule."""
        rates = {n: _inner(o)._learning_rate for n, o in self.model.optimizers.items()}
        return {n: r for n, r in rates.items() if isinstance(r, keras.Variable)}

    def _fingerprint(self):
        """What must be the same for a stored run to be this run."""
        model = self.model
        found = {
            "version": _VERSION,
            "model": type(model).__name__,
            "seed": model.seed,
            "batches per epoch": self.params.get("steps"),
            **_of_data(model.fit_data, self.data),
        }
        for name, value in _plain(model.get_config()).items():
            found.setdefault(name, _short(value))
        for name, optimizer in model.optimizers.items():
            for key, value in _of_optimizer(optimizer).items():
                found[f"{name}'s {key}"] = value
        found["variables"] = [[list(v.shape), str(v.dtype)] for v in self._variables()]
        return json.loads(json.dumps(found))

    def _check_same(self, stored):
        own = self._own
        names = [n for n in (*own, *stored) if own.get(n) != stored.get(n)]
        if not names:
            return
        name = names[0]
        detail = f"its {name} is {stored.get(name)!r}, here {own.get(name)!r}"
        if name == "version":
            detail = "another version of keras_genai wrote it"
        if name == "variables":
            detail = "its variables have other shapes or types"
        raise ValueError(
            f"{self.path} belongs to another run: {detail}. Build the model, the data "
            "and the optimizers as in that run, or give Resume another path to start "
            "anew."
        )

    # Reading

    def on_train_begin(self, logs=None):
        self._epoch = 0
        self._written = time.monotonic()
        self._pending = self._stamp = None
        self._warned = False
        self._own = self._fingerprint()
        self._rates = {n: float(r) for n, r in self._rate_numbers().items()}
        check_folder(self.path.parent)
        if not self.path.exists():
            return
        self._stamp = _stamp(self.path)
        meta, arrays = _read(self.path)
        self._check_same(meta["fingerprint"])
        epoch, batch = meta["epoch"], meta["batch"]
        said = self._choose_rates(meta["rates"])
        self._restore(arrays)
        self.model.stored_at(self.path)
        self.model.resume_at(epoch, batch)
        if batch:
            self._pending = arrays
        print(f"Resuming from {self.path}: epoch {epoch + 1}, batch {batch}.{said}")

    def _rate_numbers(self):
        rates = self._rate_variables()
        return {n: backend.to_host(rate.value) for n, rate in rates.items()}

    def _choose_rates(self, stored):
        """Which rates training goes on with; what is to be said of them."""
        said = ""
        self._going_on = {}
        for name, compiled in self._rates.items():
            there = stored.get(name)
            if there is None:
                said += f" The {name}'s learning rate is {compiled:g}, no schedule."
            elif compiled in there:
                # As it was: from where a callback had brought it.
                self._rates[name], self._going_on[name] = there
            else:
                said += (
                    f" The {name}'s learning rate is {compiled:g}, as compiled; in the "
                    f"file it is {there[1]:g}."
                )
        for name in sorted(set(stored) - set(self._rates)):
            said += (
                f" The {name}'s learning rate is the schedule, as compiled; in the "
                f"file it is {stored[name][1]:g}."
            )
        return said

    def _restore(self, arrays):
        for variable, array in zip(self._variables(), arrays, strict=True):
            variable.assign(array)
        rates = self._rate_variables()
        for name, compiled in self._rates.items():
            rates[name].assign(self._going_on.get(name, compiled))

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
        if batch == 0 or self.model.passes_over:
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
        if not backend.is_main_process():
            return
        variables = self._variables()
        arrays = [backend.to_host(v.value) for v in variables]
        wrong = [v.path for v, a in zip(variables, arrays, strict=True) if _wild(a)]
        if wrong:
            if not self._warned:
                self._warned = True
                warnings.warn(
                    f"{self.path} is not written any more: {wrong[0]} holds values "
                    f"that are not finite ({len(wrong)} variables in all). What was "
                    "stored before is whole.",
                    stacklevel=2,
                )
            return
        self._own = self._own or self._fingerprint()
        now = _stamp(self.path)
        if now not in (None, self._stamp):  # written by another run meanwhile
            self._check_same(_read_meta(self.path)["fingerprint"])
        rates = {n: float(rate) for n, rate in self._rate_numbers().items()}
        compiled = self._rates or rates
        meta = {
            "fingerprint": self._own,
            "rates": {n: [compiled[n], rate] for n, rate in rates.items()},
            "epoch": epoch,
            "batch": batch,
        }
        _write(self.path, meta, arrays)
        self._stamp = _stamp(self.path)
        self.model.stored_at(self.path)


# What a run is known by


def _inner(optimizer):
    return getattr(optimizer, "inner_optimizer", optimizer)


def _of_optimizer(optimizer):
    """The class and the settings of an optimizer, but what may change within a run."""
    left_out = ("name", "learning_rate", "inner_optimizer", *_CLIPS)
    inner = _inner(optimizer)
    found = {"optimizer": type(inner).__name__, "wrapped": type(optimizer).__name__}
    settings = {**_plain(optimizer.get_config()), **_plain(inner.get_config())}
    return found | {n: _short(v) for n, v in settings.items() if n not in left_out}


def _of_data(data, named):
    """What is known of the data of a `fit`."""
    if named is None and hasattr(data, "fingerprint"):
        return data.fingerprint()
    return {"kind of data": type(data).__name__, "data": named}


# What Keras numbers by the order in which a process makes its layers.
_NUMBERED = ("name", "keras_history", "input_layers", "output_layers")


def _plain(value):
    """A configuration of JSON's types, without names that differ between processes."""
    if isinstance(value, dict):
        policy = "Policy" in str(value.get("class_name"))
        found = {str(k): _plain(v) for k, v in value.items() if k not in _NUMBERED}
        return {**found, "policy": str(value.get("config"))} if policy else found
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.tolist()]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return type(value).__name__


def _short(value):
    text = json.dumps(value, sort_keys=True)
    if len(text) <= 200:
        return value
    return f"sha256 {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _wild(array):
    """Whether an array holds a value that is not finite."""
    if array.dtype.kind in "biu":
        return False
    # NumPy's own functions know no bfloat16, of kind "V".
    array = array.astype("float32") if array.dtype.kind == "V" else array
    return not np.all(np.isfinite(array))


def _stamp(path):
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


# The file


def _write(path, meta, arrays):
    # Types that NumPy does not know (bfloat16) are stored as their bits.
    plain = [
        a.view(f"uint{8 * a.itemsize}") if a.dtype.kind == "V" else a for a in arrays
    ]
    text = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    with written_beside(path) as beside, open(beside, "wb") as file:
        np.savez(file, meta=text, **{str(i): a for i, a in enumerate(plain)})


def _read(path):
    """The stored run, or a `ValueError` that says what is wrong with the file."""
    try:
        with opened_arrays(path) as file:
            meta = _meta(file)
            kinds = meta["fingerprint"]["variables"]
            arrays = [_array(file, i, *kind) for i, kind in enumerate(kinds)]
    except DAMAGED as error:
        raise _damaged(path, error) from error
    return meta, arrays


def _read_meta(path):
    try:
        with opened_arrays(path) as file:
            return _meta(file)
    except DAMAGED as error:
        raise _damaged(path, error) from error


def _damaged(path, error):
    return ValueError(
        f"{path} is damaged or no file of kg.callbacks.Resume ({error}). It was left "
        "as it is: move it away to start anew."
    )


def _meta(file):
    """What is stored beside the arrays, if it has the form that `Resume` writes."""
    meta = json.loads(file["meta"].tobytes().decode())
    fingerprint, rates = meta["fingerprint"], meta.get("rates")
    if fingerprint.get("version") != _VERSION:
        raise ValueError(
            f"it is of version {fingerprint.get('version')!r}; this keras_genai reads "
            f"{_VERSION}"
        )
    # More epochs than `fit` takes would train nothing, without a word.
    for name, most in (("epoch", EPOCHS), ("batch", MOST)):
        integer(0, most)(f"its {name}", meta[name])
    steps = fingerprint["batches per epoch"]
    if steps is not None and meta["batch"] > steps:
        raise ValueError(f"its batch is {meta['batch']} of {steps}")
    if not isinstance(rates, dict) or not all(
        isinstance(pair, list) and [type(rate) for rate in pair] == [float, float]
        for pair in rates.values()
    ):
        raise ValueError("its learning rates are no pairs of numbers")
    for kind in fingerprint["variables"]:
        shape, dtype = kind
        if not isinstance(dtype, str) or not all(type(n) is int for n in shape):
            raise ValueError(f"one of its variables is {kind!r}")
    return meta


def _array(file, index, shape, dtype):
    """One stored variable, of the shape and type that it is said to have."""
    array = file[str(index)]
    if str(array.dtype) != dtype and array.dtype.kind == "u":
        import ml_dtypes

        kind = getattr(ml_dtypes, dtype, None)
        if isinstance(kind, type) and np.dtype(kind).itemsize == array.itemsize:
            array = array.view(np.dtype(kind))
    if str(array.dtype) != dtype or list(array.shape) != shape:
        raise ValueError(
            f"variable {index} is {array.dtype} {list(array.shape)}, not {dtype} "
            f"{shape}"
        )
    if _wild(array):
        raise ValueError(f"variable {index} holds values that are not finite")
    return array
