"""Where the files of a run lie, so that no run overwrites another's."""

import os
import pathlib
import re

from keras_genai import engine

_NAME = "keras_genai run folders"


def check_folder(folder):
    """Makes a folder and raises a `ValueError` if no file can be written in it."""
    folder = pathlib.Path(folder)
    if not engine.is_main_process():
        return
    probe = folder / f".{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"keras_genai")
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f"{folder} cannot be written ({error}). Give a folder that can, or free "
            "some space."
        ) from error


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
    if not engine.is_main_process():
        return None
    folder = pathlib.Path(folder)
    # Keras hands one and the same dict to every callback of a fit.
    chosen = callback.params.setdefault(_NAME, {})
    key = folder.resolve()
    if key not in chosen:
        found = [re.fullmatch(r"run-(\d+)", path.name) for path in folder.iterdir()]
        last = max((int(match[1]) for match in found if match), default=0)
        goes_on = epoch > 0 or callback.model._initial_epoch is not None
        chosen[key] = folder / f"run-{max(last, 1) if goes_on else last + 1}"
        check_folder(chosen[key])
    return chosen[key]
