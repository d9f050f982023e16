"""Metrics of the samples while the model trains, and the best model by one of them."""

import json
import math

import keras

from keras_genai.callbacks.runs import check_folder, run_folder
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_integer
from keras_genai.utils.files import written_beside
from keras_genai.utils.validation import array, integer, text

_LESS_IS_BETTER = ("fid", "kid", "loss", "distance")


class Evaluate(keras.callbacks.Callback):
    """Computes metrics of generated images every few epochs, and keeps the best model.

    At the end of an epoch it calls `kg.metrics.evaluate` and adds the results to the
    epoch's `logs` under the metrics' own names. Callbacks that stand after this one
    (`kg.callbacks.TensorBoard`, Keras's `EarlyStopping`) and the history that `fit`
    returns see them; put it first. The history then has one entry for each time that
    the metrics were computed.

    With `folder`, the model is saved whenever `monitor` is better than ever before in
    this run: `<folder>/run-1/best.keras`, with the value and the epoch beside it in
    `best.json`. A `fit` that begins anew gets the next number; one that goes on
    (`kg.callbacks.Resume`, or `fit(initial_epoch=...)`) goes on from the best value
    of the last. The file is written beside its place and then moved there.

    Args:
        metrics: a metric of `kg.metrics`, or a list of them.
        x: real images `(N, H, W, C)` in the model's range, which the samples are
            compared with: data that the model was not trained on.
        y: for a model with labels, their labels `(N,)`; the samples have the same.
        every: epochs between two evaluations. The metrics of a few thousand images may
            take longer than an epoch.
        n: how many of the real images to take, from the first; by default all. As
            many are generated.
        seed: integer >= 0, of the generated images.
        batch_size: images in one pass.
        folder: where the runs' folders are made, for the best model; None keeps none.
        monitor: name of the result that decides; by default the first.
        mode: `"min"`, `"max"`, or `"auto"`: `"min"` for FID, KID, distances and losses,
            `"max"` for others.

    Attributes:
        best: the best value of `monitor` so far in this run, or None.
        run_folder: the folder of the present run, once `fit` has begun.

    Raises:
        ValueError: for a wrong argument, or, before the first step of training, a
            folder that cannot be written; after the first evaluation if there is no
            result named `monitor`.

    Example:

    ```python
    _, (images, labels) = kg.datasets.load("fashion_mnist")
    fid = kg.callbacks.Evaluate([kg.metrics.FID(extractor)], images, labels, every=5,
                                folder="logs", monitor="fid")
    model.fit(..., callbacks=[fid, kg.callbacks.TensorBoard("logs")])
    best = kg.load_model(fid.run_folder / "best.keras")
    ```
    """

    @checked(
        x=array(4, finite=False),
        y=array((1, 2), finite=False),
        every=integer(1),
        monitor=text,
        mode=text,
    )
    def __init__(
        self,
        metrics,
        x,
        y=None,
        every=1,
        n=None,
        seed=0,
        batch_size=64,
        folder=None,
        monitor=None,
        mode="auto",
    ):
        super().__init__()
        check_integer("every", every)
        check_integer("n", len(x) if n is None else n)
        if n is not None and n > len(x):
            raise ValueError(f"n={n} real images are wanted, but x holds {len(x)}.")
        if y is not None and len(y) != len(x):
            raise ValueError(f"x holds {len(x)} images, but y {len(y)} labels.")
        if mode not in ("auto", "min", "max"):
            raise ValueError(f"mode must be 'auto', 'min' or 'max'; got {mode!r}.")
        self.metrics = (
            list(metrics) if isinstance(metrics, (list, tuple)) else [metrics]
        )
        if not self.metrics:
            raise ValueError("metrics is empty: give a metric of kg.metrics.")
        self.x = x[:n]
        self.y = None if y is None else y[:n]
        self.every = every
        self.folder = folder
        self.monitor = monitor
        self.mode = mode
        self.best = None
        self.run_folder = None
        self._arguments = {"seed": seed, "batch_size": batch_size}

    def on_train_begin(self, logs=None):
        self.best = None
        self.run_folder = None
        self._begun = False
        if self.folder is not None:
            check_folder(self.folder)

    def on_epoch_begin(self, epoch, logs=None):
        if self.folder is None or self._begun:
            return
        # Only here is it known with which epoch this fit begins.
        self._begun = True
        self.run_folder = run_folder(self, self.folder, epoch)
        if self.run_folder is None:
            return
        stored = self.run_folder / "best.json"
        if stored.exists():
            self.best = self._read(stored)

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        from keras_genai import metrics

        results = metrics.evaluate(
            self.model, self.metrics, self.x, self.y, **self._arguments
        )
        results = {name: float(value) for name, value in results.items()}
        name = self.monitor or next(iter(results))
        if name not in results:
            raise ValueError(
                f"monitor={name!r} is none of the results: {', '.join(results)}."
            )
        if logs is not None:
            logs.update(results)
        if self._is_better(name, results[name]):
            self.best = results[name]
            if self.run_folder is not None:
                self._save({"monitor": name, "epoch": epoch + 1, **results})

    def _is_better(self, name, value):
        if math.isnan(value):
            return False
        less = self.mode == "min" or (
            self.mode == "auto" and any(part in name for part in _LESS_IS_BETTER)
        )
        return self.best is None or (value < self.best if less else value > self.best)

    def _save(self, results):
        # The model first: after a kill in between, it is written once more.
        self.model.save(self.run_folder / "best.keras")
        with written_beside(self.run_folder / "best.json") as beside:
            beside.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

    def _read(self, path):
        """The best value of the run that goes on."""
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            name = stored["monitor"]
            value = float(stored[name])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is damaged ({error!r}). Move it away, with best.keras beside "
                "it, to go on without the best value."
            ) from error
        if self.monitor not in (None, name):
            raise ValueError(
                f"The best model in {path.parent} was chosen by {name!r}, this one "
                f"by {self.monitor!r}: give Evaluate another folder."
            )
        return value
