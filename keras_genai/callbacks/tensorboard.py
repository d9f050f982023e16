"""Scalars, images, text and histograms for TensorBoard, without TensorFlow."""

import errno
import importlib.util
import io
import json
import os
import socket
import time
import weakref

import keras
import numpy as np

from keras_genai import backend
from keras_genai.callbacks.runs import check_folder, run_folder, warned
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_integer
from keras_genai.utils.files import os_error
from keras_genai.utils.validation import integer

_BOARDS = weakref.WeakSet()


class TensorBoard(keras.callbacks.Callback):
    """Writes what `tensorboard --logdir <folder>` shows, on every backend.

    At the end of every epoch: each loss and metric of the logs (also those of the
    validation and of `kg.callbacks.Evaluate`, when that stands before this callback)
    and the learning rate of each player. At the beginning: the model's configuration
    and its compile arguments, as text. `kg.callbacks.ImageGrid` in the same `fit` adds
    its grids. The horizontal axis is the number of training steps.

    Each run has a folder: `<folder>/run-1`, `run-2`, ... A `fit` that begins anew gets
    the next number; one that goes on (`kg.callbacks.Resume`, or
    `fit(initial_epoch=...)`) goes on in the last at its step, and what a killed run
    had written after that step is hidden by TensorBoard. TensorFlow is not needed.

    Args:
        folder: where the runs' folders are made.
        every: write the losses after so many batches too; None writes them by epoch.
            They are means over the epoch so far, as the progress bar shows.
        histograms: epochs between two histograms of every weight (of the averaged
            weights where an average is kept); 0 writes none.

    Attributes:
        run_folder: the folder of the present run, once `fit` has begun.

    Raises:
        ImportError: tensorboard is not installed.
        ValueError: for a wrong argument, or, before training, a folder that cannot be
            written.

    Example:

    ```python
    model.fit(images, epochs=20, callbacks=[
        kg.callbacks.ImageGrid("logs"), kg.callbacks.TensorBoard("logs")])
    ```
    """

    @checked(every=integer(1), histograms=integer(0))
    def __init__(self, folder, every=None, histograms=0):
        super().__init__()
        if importlib.util.find_spec("tensorboard") is None:
            raise ImportError(
                "kg.callbacks.TensorBoard needs the package tensorboard, which is not "
                "installed here. Run `pip install tensorboard`."
            )
        if every is not None:
            check_integer("every", every)
        check_integer("histograms", histograms, 0)
        self.folder = folder
        self.every = every
        self.histograms = histograms
        self.run_folder = None
        self._file = None
        # Keras may then go on training while the batches' callbacks wait.
        self.async_safe = every is None
        _BOARDS.add(self)

    @classmethod
    def of_this_fit(cls, callback):
        """The `TensorBoard`s that stand beside a callback in the same `fit`."""
        return [b for b in _BOARDS if b._params_of_fit() is callback.params]

    def _params_of_fit(self):
        # Keras hands one and the same dict to every callback of a fit.
        return self.params if self.params is not None else object()

    # What Keras calls

    def on_train_begin(self, logs=None):
        self._file = None
        self.run_folder = None
        self._waiting = []
        check_folder(self.folder)

    def on_epoch_begin(self, epoch, logs=None):
        if self._file is None and backend.is_main_process():
            # Only here are epoch and step known: another callback may have resumed.
            self._open(epoch)

    def on_train_batch_end(self, batch, logs=None):
        if self.every is None or self._file is None:
            return
        done = batch + 1
        due = done // self.every > self._batches // self.every
        self._batches = done
        # A batch that was done before the run was resumed takes no step.
        if due and self._step() > self._written:
            self._written = self._step()
            self._scalars({f"batch/{name}": value for name, value in logs.items()})

    def on_epoch_end(self, epoch, logs=None):
        if self._file is None:
            return
        self._batches = 0
        scalars = {
            f"{_group(name)}/{name}": value
            for name, value in (logs or {}).items()
            if not name.endswith("learning_rate")
        }
        for name, optimizer in self.model.optimizers.items():
            scalars[f"learning_rate/{name}"] = backend.to_host(optimizer.learning_rate)
        self._scalars(scalars)
        if self.histograms and (epoch + 1) % self.histograms == 0:
            self._add(*(_histogram(*weight) for weight in self._weights()))

    # Writing

    def add_image(self, tag, png, shape):
        """Adds an image at the present step.

        Args:
            tag: its name.
            png: the bytes of a PNG file.
            shape: `(height, width, channels)`.
        """
        from tensorboard.compat.proto import summary_pb2

        if self._file is None:
            self._waiting.append((tag, png, shape))
            return
        height, width, channels = shape
        image = summary_pb2.Summary.Image(
            height=height, width=width, colorspace=channels, encoded_image_string=png
        )
        self._add(summary_pb2.Summary.Value(tag=tag, image=image))

    def _open(self, epoch):
        from tensorboard.compat.proto import event_pb2

        self.run_folder = run_folder(self, self.folder, epoch)
        # The name that TensorBoard looks for. Its own EventFileWriter would import
        # TensorFlow where that is installed.
        name = f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self._file = self.run_folder / f"{name}.{os.getpid()}"
        self._batches = 0
        self._written = self._step()
        self._write(event_pb2.Event(file_version="brain.Event:2"))
        # TensorBoard hides what lies at this step or later in files before this one.
        start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
        self._write(event_pb2.Event(session_log=start, step=self._written + 1))
        if self._written == 0 or epoch == 0:
            self._add(_text("model", _describe(self.model)))
        for image in self._waiting:
            self.add_image(*image)

    def _step(self):
        return int(backend.to_host(self.model.noise.step.value))

    def _scalars(self, values):
        from tensorboard.compat.proto import summary_pb2

        self._add(
            *(
                summary_pb2.Summary.Value(tag=tag, simple_value=float(value))
                for tag, value in values.items()
            )
        )

    def _add(self, *values):
        """Writes values at the present step."""
        from tensorboard.compat.proto import event_pb2, summary_pb2

        summary = summary_pb2.Summary(value=values)
        self._write(event_pb2.Event(step=self._step(), summary=summary))

    def _write(self, event):
        from tensorboard.summary.writer.record_writer import RecordWriter

        event.wall_time = time.time()
        # Closed each time: a kill loses nothing, and nothing stays open after it.
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        with warned("The log is left out"), open(self._file, "ab", 0) as file:
            end = file.tell()
            try:
                if file.write(record.getbuffer()) < record.tell():
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                file.truncate(end)  # half a record hides those after it
                raise os_error(
                    error, f"{self._file} could not be written: {error.strerror}"
                ) from error

    def _weights(self):
        """(name, value) of every weight, averaged where there is an average."""
        for player, network in self.model.players.items():
            averaged = self.model.averaged(player)
            values = self.model.ema.shadow if averaged else network.variables
            for variable, value in zip(network.variables, values, strict=True):
                if keras.backend.is_float_dtype(variable.dtype):
                    value = backend.to_host(value.value).astype("float64")
                    yield f"weights/{player}/{variable.path}", value


def _group(name):
    """The part of TensorBoard's page on which a log is shown."""
    if name.startswith("val_"):
        return "validation"
    return "loss" if name.endswith("loss") else "metrics"


def _describe(model):
    """Markdown: the configuration of the model and of its training."""
    parts = {"Model": model.get_config(), "Training": model.get_compile_config()}
    lines = []
    for title, config in parts.items():
        text = json.dumps(config, indent=2, default=str)
        lines += [f"## {title}: {type(model).__name__}", "", "```", text, "```", ""]
    return "\n".join(lines)


def _text(tag, text):
    from tensorboard.compat.proto import summary_pb2, tensor_pb2, types_pb2

    tensor = tensor_pb2.TensorProto(
        dtype=types_pb2.DT_STRING, string_val=[text.encode()]
    )
    kind = summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
    metadata = summary_pb2.SummaryMetadata(plugin_data=kind)
    return summary_pb2.Summary.Value(tag=tag, tensor=tensor, metadata=metadata)


def _histogram(tag, value):
    from tensorboard.compat.proto import histogram_pb2, summary_pb2

    value = value[np.isfinite(value)]
    counts, edges = np.histogram(value, bins=30)
    histogram = histogram_pb2.HistogramProto(
        min=value.min(initial=0.0),
        max=value.max(initial=0.0),
        num=value.size,
        sum=value.sum(),
        sum_squares=np.square(value).sum(),
        bucket_limit=edges[1:],
        bucket=counts,
    )
    return summary_pb2.Summary.Value(tag=tag, histo=histogram)
