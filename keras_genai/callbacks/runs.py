"""Where the files of a run lie, so that no run overwrites another's."""

import contextlib
import pathlib
import re
import warnings

from keras_genai import backend
from keras_genai.utils.files import check_writable

_NAME = "keras_genai run folders"


@contextlib.contextmanager
def warned(what):
    """An `OSError` while a picture or a log is written becomes a warning.

    A full disk must not end a training; what cannot be done without (a stored run, the
    best model) raises.
    """
    try:
        yield
    except OSError as error:
        warnings.warn(f"{error}. {what}; training goes on.", stacklevel=4)


def check_folder(folder):
    """Makes a folder and raises a `ValueError` if no file can be written in it."""
    if backend.is_main_process():
        check_writable(folder)


def run_folder(callback, folder, epoch):
    """The folder of this run in `folder`: `run-1`, `run-2`, ...

    A `fit` that begins at its first epoch gets the next number; one that goes on
    (`kg.callbacks.Resume`, or `initial_epoch`) gets the highest that is there. Every
    callback of one `fit` gets the same.

    Args:
        callback: the callback that asks, after `on_train_begin` of all callbacks.
        folder: what the user gave.
        epoch: the first epoch of this `fit`.

    Returns:
        The folder, made; None in all processes of a run but the one that writes.
    """
    if not backend.is_main_process():
        return None
    folder = pathlib.Path(folder)
    # Keras hands one and the same dict to every callback of a fit.
    chosen = callback.params.setdefault(_NAME, {})
    key = folder.resolve()
    if key not in chosen:
        found = [re.fullmatch(r"run-(\d+)", path.name) for path in folder.iterdir()]
        last = max((int(match[1]) for match in found if match), default=0)
        goes_on = epoch > 0 or callback.model.resumed
        chosen[key] = folder / f"run-{max(last, 1) if goes_on else last + 1}"
        check_folder(chosen[key])
    return chosen[key]
