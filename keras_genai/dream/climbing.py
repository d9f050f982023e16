"""The steps of a dream: compiled once for each size, whole or in parts."""

import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.backend import random
from keras_genai.backend.precision import widen
from keras_genai.backend.threefry import is_integer
from keras_genai.dream import ascent
from keras_genai.dream.features import preprocessed
from keras_genai.dream.pictures import check_pictures
from keras_genai.dream.tiles import parts
from keras_genai.utils.validation import integer

STEPS = integer(1, 10**6)  # each is run in turn


class Climbing:
    """The part of `DeepDream` that measures and climbs its objectives."""

    @property
    def features(self):
        return self.__dict__["__features"]

    @property
    def channels(self):
        """C of the pictures."""
        return self.features.channels

    def sampling_variables(self):
        own = [v for objective in self.objectives for v in objective.variables]
        return [*self.features.variables, *own]

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

    def move(self, x, gradient, number, rate, *state):
        """One step along a gradient: `(x, *state)`."""
        if self.normalize:
            gradient = ascent.normalized(gradient)
        direction = ascent.smoothed(gradient, self.smoothing)
        if self.total_variation:
            direction = direction + self.total_variation * ascent.laplacian(x)
        x, state = ascent.climbed(x, direction, state, number, rate, self.climber)
        return (ops.clip(x, -1.0, 1.0), *state)

    def step(self, x, shift, number, rate, *state):
        """One step on whole pictures.

        Args:
            x: `(B, H, W, C)`.
            shift: `(2,)` integers, by which the picture is moved under the network.
            number: of the step, from 0.
            rate: of the step.
            *state: of the optimizer.

        Returns:
            `(value, x, *state)`, the value that of `x` before the step.
        """
        value, gradient = self.gradient(ascent.rolled(x, shift))
        gradient = ascent.rolled(gradient, -shift)
        return (value, *self.move(x, gradient, number, rate, *state))

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

    def climb(self, x, shifts, rate, bar):
        """All steps of an octave from the host, with a progress bar.

        Args:
            x: NumPy float32 `(B, H, W, C)`.
            shifts: NumPy `(steps, 2)`.
            rate: of the steps.
            bar: `keras.utils.Progbar`.

        Returns:
            `(x, values)`: NumPy, and the objective before each step.
        """
        run = self._parts_step if self.is_tiled(*x.shape[1:3]) else self._whole_step
        step = run(x.shape)
        rate = backend.from_host(np.float32(rate))
        state = map(backend.from_host, ascent.start_state(x, self.climber, np))
        x = backend.from_host(x)
        values = []
        for number, shift in enumerate(shifts):
            number = backend.from_host(np.int32(number))
            value, x, *state = step(x, shift, number, rate, *state)
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

        def step(x, shift, number, rate, *state):
            picture = np.roll(backend.to_host(x), shift, (1, 2))
            gradient, total = np.empty_like(picture), 0.0
            for whole, place, inner in pieces:
                piece = np.ascontiguousarray(picture[:, *whole])
                value, found = gradient_of(backend.from_host(piece))
                gradient[:, *place] = backend.to_host(found)[:, *inner]
                total += float(value) / len(pieces)
            gradient = np.roll(gradient, -shift, (1, 2))
            gradient = backend.from_host(gradient)
            return (total, *move(x, gradient, number, rate, *state))

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
            _, *carried = self.step(x, shift, number, self.rate, *state)
            return tuple(carried)

        start = (images, *ascent.start_state(images, self.climber))
        return {"images": ops.fori_loop(0, self.steps, step, start)[0]}
