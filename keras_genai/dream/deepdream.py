"""DeepDream (Mordvintsev, Olah and Tyka, 2015): a picture of what a network sees in it.

The picture is moved uphill on what some layers say of it, first small and then larger
(octaves): at each size only the detail that the dream has added is carried on, and put
back onto the picture, whose own detail is not lost that way. The picture is moved
around its edge before each step (jitter), so that no grid of the network is seen.
"""

import keras
import numpy as np

from keras_genai.backend import random
from keras_genai.dream import ascent
from keras_genai.dream.climbing import STEPS, Climbing
from keras_genai.dream.features import Features, find, network_of
from keras_genai.dream.objectives import Layer, Objective
from keras_genai.dream.pictures import check_pictures, resize, with_colours_of
from keras_genai.dream.tiles import check_tiles
from keras_genai.training.generation import Sampling
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_positive
from keras_genai.utils.serialization import PACKAGE, Saving, deserialized
from keras_genai.utils.validation import (
    array,
    integer,
    integers,
    mapping,
    number,
    optional,
    text,
)


@keras.saving.register_keras_serializable(PACKAGE)
class DeepDream(Climbing, Sampling, Saving, keras.Model):
    """Dreams of a convolutional network.

    The network is any functional or sequential Keras model of images, one of
    `keras.applications` or a backbone of keras-hub among them, or a `kg.CNN`. It is
    not changed. Where it takes other values than [-1, 1], `preprocess` makes them.

    Each step moves the picture by `rate` times the gradient, which is divided by its
    root mean square, blurred, and joined by `total_variation` times the Laplacian:

        x <- clip(x + rate (blur(g / rms(g)) + total_variation lap(x)))

    Args:
        model: the network.
        layers: dict name of a layer -> weight: `kg.dream.Layer` of each.
        objectives: an objective of `kg.dream`, or a list of them, in place of `layers`
            or beside them: `Layer`, `Channel`, `Neuron`, `Direction`, `Logit`,
            `Guided`, `Content`, `Style`.
        octaves: number of sizes, at least 1.
        octave_scale: of two that follow each other, above 1.
        steps: of each octave, at least 1.
        rate: of each step, positive; 0.02 is one part in a hundred of the range.
        optimizer: `"step"`, as above, or `"adam"`, which climbs by Adam (1412.6980).
        jitter: the most pixels that the picture is moved in each direction.
        smoothing: deviation of the blur in pixels; 0 is none.
        total_variation: at least 0; the more, the smoother.
        normalize: False takes the gradient as it is.
        keep_colors: whether the dream keeps the picture's colours and changes its
            brightness alone.
        tile: side of the parts in which larger pictures are climbed; the memory is
            that of one part, whatever the picture. None takes every picture whole.
        tile_overlap: pixels that two parts share; the network's window at least, for
            parts that join without seams.
        preprocess: function or layer, images in [-1, 1] -> what the network takes.
        seed: integer >= 0, of the jitter, which is the same on every backend.

    Attributes:
        history: of the last dream: a list for each octave, from small to large, of
            what was climbed before each step, the mean over the pictures.

    Raises:
        ValueError: for an argument out of range, a layer that is not there (the
            nearest names are offered) or has no places, a channel out of range.

    Example:

    ```python
    import keras_genai as kg

    cnn = kg.CNN.from_pretrained("fashion_mnist")
    _, (images, _) = kg.datasets.load("fashion_mnist")
    dreamer = kg.DeepDream(cnn, layers={"conv_2": 1.0}, octaves=2, jitter=2)
    dreams = dreamer.dream(images[:8])       # (8, 28, 28, 1) in [-1, 1]
    ```
    """

    @checked(
        octave_scale=number("> 1"),
        steps=STEPS,
        rate=number("> 0"),
        optimizer=text,
        jitter=integer(0),
        smoothing=number(">= 0"),
        total_variation=number(">= 0"),
        tile=optional(integer(1)),
        layers=mapping,
        tile_overlap=integer(0),
    )
    def __init__(
        self,
        model,
        layers=None,
        objectives=None,
        *,
        octaves=4,
        octave_scale=1.4,
        steps=10,
        rate=0.02,
        optimizer="step",
        jitter=8,
        smoothing=0.5,
        total_variation=0.0,
        normalize=True,
        keep_colors=False,
        tile=512,
        tile_overlap=128,
        preprocess=None,
        seed=0,
        name=None,
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        if optimizer not in ascent.OPTIMIZERS:
            raise ValueError(
                f"optimizer must be one of {ascent.OPTIMIZERS}; got {optimizer!r}."
            )
        check_tiles(tile, tile_overlap)
        self.network = network_of(model)
        self.octaves = octaves
        self.octave_scale = octave_scale
        self.steps = steps
        self.rate = rate
        self.climber = optimizer
        self.jitter = jitter
        self.smoothing = smoothing
        self.total_variation = total_variation
        self.normalize = bool(normalize)
        self.keep_colors = bool(keep_colors)
        self.tile = tile
        self.tile_overlap = tile_overlap
        self.preprocess = preprocess
        self.seed = random.check_seed(seed)
        self.history = []
        self.objectives = _objectives(layers, objectives)
        found = []
        for objective in self.objectives:
            output = find(self.network, objective.layer, objective.spatial)
            objective.check(tuple(output.shape))
            found.append(output)
        # Not tracked: its layers are the network's own.
        self.__dict__["__features"] = Features(self.network, found)
        self.built = True
        if self.keep_colors and self.channels != 3:
            raise ValueError(
                "keep_colors=True needs a network of pictures with 3 channels; this "
                f"one's have {self.channels}."
            )
        for place, objective in enumerate(self.objectives):
            objective.prepare(lambda image, at=place: self.seen(image, at))

    @property
    def channels(self):
        """C of the pictures."""
        return self.features.channels

    def sampling_variables(self):
        own = [v for objective in self.objectives for v in objective.variables]
        return [*self.features.variables, *own]

    # Dreaming

    def sizes(self, height, width, octaves=None):
        """The sizes `(height, width)` of the octaves of a picture, from the smallest.

        Raises:
            ValueError: the smallest leaves the network's layers no place.
        """
        octaves = self.octaves if octaves is None else octaves
        check_positive("octaves", octaves)
        scales = [self.octave_scale**-k for k in reversed(range(octaves))]
        sizes = [(round(height * s), round(width * s)) for s in scales]
        what = "The picture" if octaves == 1 else f"The smallest of {octaves} octaves"
        for size in sizes:
            self.check_size(*size, what)
        return sizes

    @checked(steps=STEPS, rate=number("> 0"))
    def dream(
        self, images, *, octaves=None, steps=None, rate=None, seed=None, verbose=1
    ):
        """Pictures with what the network sees in them.

        Args:
            images: `(H, W, C)` or `(B, H, W, C)` in [-1, 1], of any size that the
                layers leave a place of.
            octaves, steps, rate, seed: in place of the model's own. The same seed gives
                the same dream on every backend.
            verbose: 1 shows a progress bar.

        Returns:
            NumPy float32 like `images`, in [-1, 1].

        Raises:
            ValueError: for pictures of another rank, range or number of channels, or
                too small.
        """
        x, one = check_pictures(images, self.channels)
        sizes = self.sizes(*x.shape[1:3], octaves)
        steps = self.steps if steps is None else steps
        rate = self.rate if rate is None else rate
        check_positive("steps", steps)
        _check_positive("rate", rate)
        seed = self.seed if seed is None else random.check_seed(seed)
        bar = keras.utils.Progbar(len(sizes) * steps, verbose=verbose, unit_name="step")
        history, detail = [], None
        for octave, size in enumerate(sizes):
            base = x if size == x.shape[1:3] else resize(x, *size)
            start = base
            if detail is not None:  # what was dreamt, put back onto the picture
                start = np.clip(base + resize(detail, *size), -1.0, 1.0)
            shifts = self.shifts(seed, octave, steps)
            made, values = self.climb(start, shifts, rate, bar)
            history.append(values)
            detail = made - base
        self.history = history
        if self.keep_colors:
            made = with_colours_of(made, x)
        return made[0] if one else made

    @checked(size=integers(length=2))
    def generate(self, n=1, seed=0, *, size=(224, 224), verbose=0, **options):
        """Dreams out of faint noise.

        Args:
            n: how many.
            seed: integer >= 0.
            size: `(height, width)`.
            verbose, **options: see `dream`.

        Returns:
            NumPy float32 `(n, height, width, C)`.
        """
        check_positive("n", n)
        key = random.key(random.check_seed(seed), "dream/noise")
        noise = random.normal(key, (n, *size, self.channels), 0.0, 0.1, host=True)
        noise = np.clip(noise, -1.0, 1.0)
        return self.dream(noise, seed=seed, verbose=verbose, **options)

    @checked(image=array(3, finite=False), factor=number("> 1"))
    def zoom(self, image, frames=30, factor=1.04, *, seed=None, verbose=1, **options):
        """A fall into a dream: each frame is the dream of the middle of the last.

        Args:
            image: `(H, W, C)` in [-1, 1].
            frames: how many, at least 1.
            factor: how much larger the middle is shown in the next, at least 1.
            seed, **options: see `dream`; each frame has its own jitter.
            verbose: 1 shows a progress bar of the frames.

        Returns:
            NumPy float32 `(frames, H, W, C)`: `kg.callbacks.save_animation(path,
            frames)` writes them.
        """
        check_positive("frames", frames)
        if not factor >= 1.0:
            raise ValueError(f"factor must be at least 1; got {factor!r}.")
        x, one = check_pictures(image, self.channels, "image")
        if not one:
            raise ValueError(f"zoom takes one picture (H, W, C); got {x.shape}.")
        height, width = x.shape[1:3]
        edge = (height - height / factor) / 2, (width - width / factor) / 2
        box = (*edge, height - edge[0], width - edge[1])
        seed = self.seed if seed is None else random.check_seed(seed)
        bar = keras.utils.Progbar(frames, verbose=verbose, unit_name="frame")
        made = []
        for frame in range(frames):
            x = self.dream(x, seed=seed + frame, verbose=0, **options)
            made.append(x[0])
            x = np.clip(resize(x, height, width, box), -1.0, 1.0)
            bar.add(1)
        return np.stack(made)

    # Serving and saving

    def export_signatures(self):
        """`octave`: `images` `(B, H, W, C)` in [-1, 1] and `seed` -> `images`.

        All steps of one octave at the size of the pictures, as `dream(octaves=1)`.
        """
        shape = (None, *self.features.size, self.channels)
        inputs = [("images", shape, "float32"), ("seed", (), "int32")]
        return {"octave": (self.octave, inputs)}

    def get_config(self):
        def serialized(item):
            return keras.saving.serialize_keras_object(item)

        return {
            "model": serialized(self.network),
            "objectives": [serialized(item) for item in self.objectives],
            "octaves": self.octaves,
            "octave_scale": self.octave_scale,
            "steps": self.steps,
            "rate": self.rate,
            "optimizer": self.climber,
            "jitter": self.jitter,
            "smoothing": self.smoothing,
            "total_variation": self.total_variation,
            "normalize": self.normalize,
            "keep_colors": self.keep_colors,
            "tile": self.tile,
            "tile_overlap": self.tile_overlap,
            "preprocess": self.preprocess and serialized(self.preprocess),
            "seed": self.seed,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**deserialized(config))


def _check_positive(name, value):
    if not value > 0:
        raise ValueError(f"{name} must be positive; got {value!r}.")


def _objectives(layers, objectives):
    """The list of the objectives that both arguments name."""
    if objectives is not None:
        many = isinstance(objectives, (list, tuple))
        objectives = list(objectives) if many else [objectives]
    if not layers and not objectives:
        raise ValueError(
            "Say what is to be climbed: layers={name: weight}, or objectives=[...] of "
            "kg.dream."
        )
    found = [Layer(name, weight) for name, weight in (layers or {}).items()]
    found += objectives or []
    for item in found:
        if not isinstance(item, Objective):
            raise ValueError(
                "objectives must be of kg.dream, such as kg.dream.Channel('conv_1', "
                f"5); got {item!r}."
            )
    return found
