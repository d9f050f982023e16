"""Samples of the same latents, drawn as the model learns."""

import importlib.util
import io
import re
import sys
import warnings

import keras
import numpy as np

from keras_genai.callbacks.pictures import ANIMATIONS, image_grid, save_animation
from keras_genai.callbacks.runs import check_folder, run_folder, warned
from keras_genai.callbacks.tensorboard import TensorBoard
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_integer
from keras_genai.utils.files import written_beside
from keras_genai.utils.validation import either, flag, integer, text

_FRAMES = 100
_MILLISECONDS = 8000  # of the whole animation, when it has many frames


class ImageGrid(keras.callbacks.Callback):
    """Draws a grid of samples of the same latents every few epochs.

    Writes `epoch-0001.png`, `epoch-0002.png`, ... (`epoch-0000.png` is from before the
    first step) and an animation of them, `samples.webp`, to a folder of this run:
    `<folder>/run-1`, `run-2`, ... A `fit` that begins anew gets the next number, so
    that no run's pictures are overwritten; one that goes on (`kg.callbacks.Resume`,
    or `fit(initial_epoch=...)`) goes on in the last. Every file is written beside its
    place and then moved there.

    In a notebook the grid is shown under the cell and replaced by the next. With a
    `kg.callbacks.TensorBoard` in the same `fit`, in any order, the grid is also on
    TensorBoard's page of images.

    Args:
        folder: where the runs' folders are made.
        every: epochs between two grids. The last epoch is drawn too.
        n: number of samples; 16, or the number of labels.
        labels: for a model with labels, the label of each sample, `(n,)`; by default
            drawn from the seed.
        seed: integer >= 0, of the latents.
        columns, scale: see `kg.callbacks.image_grid`.
        animation: `True` or `"webp"`, `"gif"`, `"apng"`, or False for none. It is
            written at the end of `fit`, and now and then before. Of more than 100
            grids it shows 100.
        inline: `"auto"` shows the grid in a notebook, False does not.
        batch_size: images that the model makes in one pass.
        **options: of the model's own `generate`, such as a diffusion model's
            `num_steps=20, guidance_scale=2.0`.

    Attributes:
        run_folder: the folder of the present run, once `fit` has begun.

    Raises:
        ImportError: Pillow is not installed.
        ValueError: for a wrong argument, or, before the first step of training, a
            folder that cannot be written or a model that does not make images.

    Example:

    ```python
    model.fit(images, epochs=20, callbacks=[kg.callbacks.ImageGrid("logs", n=25)])
    ```
    """

    @checked(
        every=integer(1),
        columns=integer(1),
        scale=integer(1),
        animation=either(flag, text),
        inline=either(flag, text),
    )
    def __init__(
        self,
        folder,
        every=1,
        n=None,
        labels=None,
        seed=0,
        columns=None,
        scale=None,
        animation=True,
        inline="auto",
        batch_size=64,
        **options,
    ):
        super().__init__()
        if importlib.util.find_spec("PIL") is None:
            raise ImportError(
                "kg.callbacks.ImageGrid draws with Pillow, which is not installed "
                "here. Run `pip install pillow`."
            )
        check_integer("every", every)
        if animation not in (True, False, *ANIMATIONS):
            raise ValueError(
                f"animation must be True, False, 'webp', 'gif' or 'apng'; got "
                f"{animation!r}."
            )
        if inline not in ("auto", True, False):
            raise ValueError(f"inline must be 'auto' or False; got {inline!r}.")
        if n is None:
            n = 16 if labels is None else len(labels)
        self.folder = folder
        self.every = every
        self.seed = seed
        self.columns = columns
        self.scale = scale
        self.suffix = "webp" if animation is True else animation
        self.inline = inline
        self.run_folder = None
        self._arguments = {"n": n, "seed": seed, "batch_size": batch_size, **options}
        if labels is not None:
            self._arguments["labels"] = np.asarray(labels)

    # What Keras calls

    def on_train_begin(self, logs=None):
        self.run_folder = None
        self._begun = False
        check_folder(self.folder)

    def on_epoch_begin(self, epoch, logs=None):
        if self._begun:
            return
        # Only here is it known with which epoch this fit begins.
        self._begun = True
        grid = self._draw()
        self.run_folder = run_folder(self, self.folder, epoch)
        self._display = None
        self._drawn = self._animated = self._epoch = epoch
        if epoch == 0:
            self._show(grid, 0)

    def on_epoch_end(self, epoch, logs=None):
        self._epoch = epoch + 1
        if self._epoch % self.every == 0:
            self._show(self._draw(), self._epoch)
            # Each time that there are a tenth more, so that the work stays in
            # proportion to the run.
            if self._drawn >= 1.1 * self._animated + self.every:
                self._animate()

    def on_train_end(self, logs=None):
        if not self._begun:  # a run that was done before
            return
        if self._drawn < self._epoch:
            self._show(self._draw(), self._epoch)
        self._animate()

    # Drawing

    def _draw(self):
        images = self.model.generate(**self._arguments)
        if not isinstance(images, np.ndarray) or images.ndim != 4:
            raise ValueError(
                f"ImageGrid draws models whose generate() makes images (N, H, W, C); "
                f"{type(self.model).__name__} does not."
            )
        value_range = getattr(self.model, "value_range", (-1.0, 1.0))
        grid = image_grid(images, self.columns, self.scale, value_range=value_range)
        if self.suffix and max(grid.shape) > ANIMATIONS[self.suffix][1]:
            raise ValueError(
                f"A grid of {grid.shape[1]} by {grid.shape[0]} pixels is too large for "
                f"an animation in {self.suffix}. Draw fewer samples, or give "
                "animation='apng' or False."
            )
        return grid

    def _show(self, grid, epoch):
        """Writes a grid to its file, to TensorBoard and into the notebook."""
        self._drawn = epoch
        if self.run_folder is None:
            return
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(grid).save(file, "PNG")
        png = file.getvalue()
        with warned("The picture is left out"):
            with written_beside(self.run_folder / f"epoch-{epoch:04d}.png") as beside:
                beside.write_bytes(png)
        for board in TensorBoard.of_this_fit(self):
            board.add_image("samples", png, grid.shape)
        if self.inline and _in_notebook():
            self._display = _show_inline(png, self._display)

    def _animate(self):
        """Writes the animation of all grids of this run up to now."""
        self._animated = self._drawn
        if not self.suffix or self.run_folder is None:
            return
        paths = {
            int(match[1]): path
            for path in self.run_folder.iterdir()
            if (match := re.fullmatch(r"epoch-(\d+)\.png", path.name))
        }
        epochs = sorted(epoch for epoch in paths if epoch <= self._drawn)
        if len(epochs) > _FRAMES:
            places = np.linspace(0, len(epochs) - 1, _FRAMES).round().astype(int)
            epochs = [epochs[place] for place in places]
        frames = [self._frame(paths[epoch]) for epoch in epochs]
        frames = [frame for frame in frames if frame is not None]
        # A run that was resumed with another n has grids of another size.
        frames = [frame for frame in frames if frame.shape == frames[-1].shape]
        if not frames:
            return
        pause = min(500, _MILLISECONDS // len(frames))
        path = self.run_folder / f"samples.{self.suffix}"
        with warned("The animation is left out"):
            save_animation(path, frames, pause, last=2000)  # the last one stays

    def _frame(self, path):
        """The pixels of an earlier grid; None, with a warning, where it is damaged."""
        from PIL import Image

        try:
            if not path.is_file():  # not even opened: to read a pipe would wait
                raise OSError("it is no file")
            with Image.open(path, formats=["PNG"]) as picture:
                return np.asarray(picture.convert("RGB"))
        except Exception as error:  # Pillow raises many kinds
            warnings.warn(
                f"{path} is damaged ({error}); it is left out of the animation.",
                stacklevel=2,
            )
            return None


def _in_notebook():
    """Whether a kernel of Jupyter (or Colab) runs this."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None


def _show_inline(png, display):
    from IPython import display as ipython

    picture = ipython.Image(data=png, format="png")
    if display is None:
        return ipython.display(picture, display_id=True)
    display.update(picture)
    return display
