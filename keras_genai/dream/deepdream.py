"""DeepDream (Mordvintsev, Olah and Tyka, 2015): a picture of what a network sees in it.

The picture is moved uphill on what some layers say of it, first small and then larger
(octaves): at each size only the detail that the dream has added is carried on, and put
back onto the picture, whose own detail is not lost that way. The picture is moved
around its edge before each step (jitter), so that no grid of the network is seen.
"""

import keras
import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.backend import random
from keras_genai.backend.precision import widen
from keras_genai.dream import ascent
from keras_genai.dream.features import features_of, find, network_of, preprocessed
from keras_genai.dream.objectives import Layer, Objective
from keras_genai.dream.pictures import check_pictures, resize, with_colours_of
from keras_genai.dream.tiles import check_tiles, parts
from keras_genai.training.generation import Sampling
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_positive
from keras_genai.utils.serialization import PACKAGE, Saving, deserialized
from keras_genai.utils.validation import (
    array,
    integer,
    integers,
    is_integer,
    mapping,
    number,
    optional,
    text,
)

STEPS = integer(1, 10**6)  # each is run in turn


@keras.saving.register_keras_serializable(PACKAGE)
class DeepDream(Sampling, Saving, keras.Model):
    """Dreams of a convolutional network.

    The network is any functional or sequential Keras model of images, one of
    `keras.applications` or a backbone of keras-hub among them, or a `kg.CNN`. It is
    not changed. Where it takes other values than [-1, 1], `preprocess` makes them.

    Each step moves the picture by `step_size` times the gradient, which is divided by
    its root mean square, blurred, and joined by `total_variation` times the Laplacian:

        x <- clip(x + step_size (blur(g / rms(g)) + total_variation lap(x)))

    Args:
        model: the network.
        layers: dict name of a layer -> weight: `kg.dream.Layer` of each.
        objectives: an objective of `kg.dream`, or a list of them, in place of `layers`
            or beside them: `Layer`, `Channel`, `Neuron`, `Direction`, `Logit`,
            `Guided`, `Content`, `Style`.
        octaves: number of sizes, at least 1.
        octave_scale: of two that follow each other, above 1.
        steps: of each octave, at least 1.
        step_size: of each step, positive; 0.02 is one part in a hundred of the range.
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
        step_size=number("> 0"),
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
        step_size=0.02,
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
        self.step_size = step_size
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
        self.__dict__["__features"] = features_of(self.network, found)
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

    @checked(steps=STEPS, step_size=number("> 0"))
    def dream(
        self, images, *, octaves=None, steps=None, step_size=None, seed=None, verbose=1
    ):
        """Pictures with what the network sees in them.

        Args:
            images: `(H, W, C)` or `(B, H, W, C)` in [-1, 1], of any size that the
                layers leave a place of.
            octaves, steps, step_size, seed: in place of the model's own. The same seed
                gives the same dream on every backend.
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
        step_size = self.step_size if step_size is None else step_size
        check_positive("steps", steps)
        _check_positive("step_size", step_size)
        seed = self.seed if seed is None else random.check_seed(seed)
        bar = keras.utils.Progbar(len(sizes) * steps, verbose=verbose, unit_name="step")
        history, detail = [], None
        for octave, size in enumerate(sizes):
            base = x if size == x.shape[1:3] else resize(x, *size)
            start = base
            if detail is not None:  # what was dreamt, put back onto the picture
                start = np.clip(base + resize(detail, *size), -1.0, 1.0)
            shifts = self.shifts(seed, octave, steps)
            made, values = self.climb(start, shifts, step_size, bar)
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
            "step_size": self.step_size,
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

    # Gradient ascent

    @property
    def features(self):
        return self.__dict__["__features"]

    def _prepared(self, x):
        return preprocessed(x, self.preprocess, self.network.compute_dtype)

    def seen(self, image, place):
        """The output of one objective's layer for a picture of the user's."""
        x, _ = check_pictures(image, self.channels, "image")
        self.features.check_size(*x.shape[1:3], "The objective's picture")
        with backend.without_gradients():
            return self.features(self._prepared(backend.from_host(x)))[place]

    def call(self, images):
        """The sum of the weighted objectives, `(B,)`, of pictures in [-1, 1]."""
        outputs = self.features(self._prepared(images))
        total = 0.0
        for objective, output in zip(self.objectives, outputs, strict=True):
            total = total + objective.weight * objective(output)
        return total

    def measure(self, images):
        """What is climbed, of pictures as they are.

        Args:
            images: `(H, W, C)` or `(B, H, W, C)` in [-1, 1].

        Returns:
            NumPy float32: a number for each picture.
        """
        x, one = check_pictures(images, self.channels)
        self.features.check_size(*x.shape[1:3])
        values = self.run_compiled(
            f"measure/{x.shape}", self.call, self.sampling_variables(), x
        )
        return values[0] if one else values

    # One step

    def gradient(self, x):
        """The mean of the objectives of pictures, and each one's gradient."""
        value, gradient = backend.value_and_gradient(lambda x: ops.sum(self(x)), x)
        return value / ops.cast(ops.shape(x)[0], value.dtype), widen(gradient)

    def move(self, x, gradient, number, step_size, *state):
        """One step along a gradient: `(x, *state)`."""
        if self.normalize:
            gradient = ascent.normalized(gradient)
        direction = ascent.smoothed(gradient, self.smoothing)
        if self.total_variation:
            direction = direction + self.total_variation * ascent.laplacian(x)
        x, state = ascent.climbed(x, direction, state, number, step_size, self.climber)
        return (ops.clip(x, -1.0, 1.0), *state)

    def step(self, x, shift, number, step_size, *state):
        """One step on whole pictures.

        Args:
            x: `(B, H, W, C)`.
            shift: `(2,)` integers, by which the picture is moved under the network.
            number: of the step, from 0.
            step_size: of the step.
            *state: of the optimizer.

        Returns:
            `(value, x, *state)`, the value that of `x` before the step.
        """
        value, gradient = self.gradient(ascent.rolled(x, shift))
        gradient = ascent.rolled(gradient, -shift)
        return (value, *self.move(x, gradient, number, step_size, *state))

    # An octave

    def shifts(self, seed, octave, steps):
        """The jitter of an octave, `(steps, 2)` integers."""
        key = random.key(seed, f"dream/jitter/{octave}")
        bounds, host = (-self.jitter, self.jitter + 1), is_integer(seed)
        return random.randint(key, (steps, 2), *bounds, host=host)

    def is_tiled(self, height, width):
        """Whether pictures of that size are climbed in parts."""
        return self.tile is not None and max(height, width) > self.tile

    def check_size(self, height, width, what):
        """Refuses a size that the network cannot take, whole or in parts."""
        if self.is_tiled(height, width):
            places = [type(o).__name__ for o in self.objectives if not o.local]
            if places:
                raise ValueError(
                    f"{what} is {height}x{width} and would be climbed in parts of "
                    f"{self.tile}, but {' and '.join(places)} looks at the whole: give "
                    "tile=None, or a smaller picture."
                )
            height, width = min(height, self.tile), min(width, self.tile)
        self.features.check_size(height, width, what)

    def climb(self, x, shifts, step_size, bar):
        """All steps of an octave from the host, with a progress bar.

        Args:
            x: NumPy float32 `(B, H, W, C)`.
            shifts: NumPy `(steps, 2)`.
            step_size: of the steps.
            bar: `keras.utils.Progbar`.

        Returns:
            `(x, values)`: NumPy, and the objective before each step.
        """
        run = self._parts_step if self.is_tiled(*x.shape[1:3]) else self._whole_step
        step = run(x.shape)
        step_size = backend.from_host(np.float32(step_size))
        state = map(backend.from_host, ascent.start_state(x, self.climber, np))
        x = backend.from_host(x)
        values = []
        for i, shift in enumerate(shifts):
            at = backend.from_host(np.int32(i))
            value, x, *state = step(x, shift, at, step_size, *state)
            values.append(float(value))
            bar.add(1, [("objective", values[-1])])
        return backend.to_host(x), values

    def _compiled(self, name, fn, shape):
        size = "x".join(map(str, shape))
        return self.compiled_once(f"{name}/{size}", fn, self.sampling_variables())

    def _whole_step(self, shape):
        step = self._compiled("step", self.step, shape)
        return lambda x, shift, *rest: step(x, backend.from_host(shift), *rest)

    def _parts_step(self, shape):
        """The same step with the gradient of one part after the other."""
        pieces = parts(*shape[1:3], self.tile, self.tile_overlap)
        (rows, columns), *_ = pieces[0]
        part = (shape[0], rows.stop, columns.stop, shape[3])
        gradient_of = self._compiled("part", self.gradient, part)
        move = self._compiled("move", self.move, shape)

        def step(x, shift, number, step_size, *state):
            picture = np.roll(backend.to_host(x), shift, (1, 2))
            gradient, total = np.empty_like(picture), 0.0
            for whole, place, inner in pieces:
                piece = np.ascontiguousarray(picture[:, *whole])
                value, found = gradient_of(backend.from_host(piece))
                gradient[:, *place] = backend.to_host(found)[:, *inner]
                total += float(value) / len(pieces)
            gradient = np.roll(gradient, -shift, (1, 2))
            gradient = backend.from_host(gradient)
            return (total, *move(x, gradient, number, step_size, *state))

        return step

    def octave(self, images, seed):
        """All steps of one octave in one graph: the exported signature.

        Args:
            images: `(B, H, W, C)`.
            seed: integer scalar.

        Returns:
            Dict of `images`, like them.
        """
        shifts = self.shifts(seed, 0, self.steps)  # (steps, 2)

        def step(number, carried):
            x, *state = carried
            shift = ops.take(shifts, number, axis=0)
            _, *carried = self.step(x, shift, number, self.step_size, *state)
            return tuple(carried)

        start = (images, *ascent.start_state(images, self.climber))
        return {"images": ops.fori_loop(0, self.steps, step, start)[0]}


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
