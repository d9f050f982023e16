"""The sampling loop: a sampler's steps over the denoiser of a model, in batches."""

import dataclasses
import inspect
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.backend import programs, random
from keras_genai.diffusion import guidance, samplers
from keras_genai.diffusion.conditions import NAMES
from keras_genai.diffusion.denoiser import split
from keras_genai.diffusion.repaint import blended, repaint
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_positive
from keras_genai.utils.validation import (
    array,
    either,
    flag,
    function,
    integer,
    mapping,
    number,
    optional,
    pair,
    text,
)

# Arguments of `generate` and its kin that are inputs of the loop.
INPUTS = (*NAMES, "guidance_scale", "image_guidance_scale", "negative")


@dataclasses.dataclass(frozen=True, eq=False)
class SamplingLoop:
    """All steps of `generate`, `img2img` or `inpaint`: one compiled function.

    Its inputs are a dict of arrays:

    - the conditions `labels`, `vector`, `context`, `image`, and with guidance
      `guidance_scale` and `negative_labels`, ..., and `image_guidance_scale`;
    - `noise` to begin with, by default drawn from the key;
    - `images` of `img2img`, to which the noise is added;
    - `known`, `mask` and `latent_mask` of `inpaint`.

    Where functions are compiled, the numbers of the sampler and of guidance are inputs
    too, so that one function serves all loops of the same `form`.

    Args:
        model: the `DDPM`.
        sampler: a `Sampler`.
        grid: the `TimeGrid` that the sampler was made for.
        begin: alpha, sigma and the prior's standard deviation at the first node.
        guided: whether there is classifier-free guidance.
        interval, rescale: see `guidance.classifier_free`.
        repaint: of `repaint.tables`, for `inpaint`.
        blend: of `repaint.blend_tables`, likewise.
        image_shape: `(H, W, C)` of the images.
        decode: whether images are made of the latents at the end, or they are returned.
    """

    model: Any
    sampler: samplers.Sampler
    grid: samplers.TimeGrid
    begin: tuple
    guided: bool = False
    interval: tuple | None = None
    rescale: float = 0.0
    repaint: dict | None = None
    blend: dict | None = None
    image_shape: tuple = ()
    decode: bool = True

    @property
    def latent_shape(self):
        """`(h, w, c)` of what is denoised."""
        return tuple(self.model.latent_shape(self.image_shape))

    @property
    def form(self):
        """Hashable: what the compiled function depends on, beside model and inputs."""
        options = self.guided, self.interval is None, self.rescale == 0
        form = options, self.repaint is None, self.blend is None, self.latent_shape
        form = *form, self.decode
        if backend.COMPILES:
            return self.sampler.form, *form
        tables = {**(self.repaint or {}), **(self.blend or {})}
        constants = self.begin, self.interval, self.rescale
        tables = tuple(table.tobytes() for table in tables.values())
        return self.sampler.key, *form, constants, tables

    def numbers(self):
        """The numbers that are inputs: a dict of NumPy arrays; none where constants."""
        if not backend.COMPILES:
            return {}
        numbers = {"begin": np.array(self.begin, "float32")}
        if self.guided and self.interval is not None:
            numbers["interval"] = np.array(self.interval, "float32")
        if self.guided and self.rescale:
            numbers["rescale"] = np.array(self.rescale, "float32")
        if self.repaint is not None:
            numbers["repaint"] = programs.filled(self.repaint)
        if self.blend is not None:
            numbers["blend"] = programs.filled(self.blend)
        return {"loop": {**numbers, "sampler": self.sampler.tables()}}

    def bound(self, inputs):
        """The loop with the numbers among the inputs in the place of its own."""
        if "loop" not in inputs:
            return self
        given = inputs["loop"]
        interval = given.get("interval")
        return dataclasses.replace(
            self,
            sampler=self.sampler.bound(given["sampler"]),
            begin=(given["begin"][0], given["begin"][1], given["begin"][2]),
            interval=interval if interval is None else (interval[0], interval[1]),
            rescale=given.get("rescale", 0.0),
            repaint=given.get("repaint"),
            blend=given.get("blend"),
        )

    # In the graph

    def sample(self, key, count, first, inputs):
        """Images as a tensor `(count, H, W, C)`; see `in_batches`."""
        return self.judged(key, count, first, inputs)[0]

    def judged(self, key, count, first, inputs):
        """Images, and `(count, 2)`: whether x at the last node and they are finite."""
        loop = self.bound(inputs)
        return loop.finished(loop.latents(key, count, first, inputs), inputs)

    def latents(self, key, count, first, inputs):
        """x at the last node."""
        start = self.noise(key, count, first, inputs)
        x = self.start(start, inputs)
        noise = samplers.keyed_noise(key, first)
        if self.repaint is None:
            after = self.after(self.held(start, inputs), inputs)
            return self.sampler(self.denoiser(inputs), x, noise, after)
        return repaint(
            self.sampler,
            self.repaint,
            self.denoiser(inputs),
            x,
            self.model.to_latents(inputs["known"]),
            inputs["latent_mask"],
            key,
            first,
        )

    def held(self, noise, inputs):
        """What `after` holds x to: `(latents, noise)`, or `()` without a `blend`."""
        if self.blend is None:
            return ()
        return self.model.to_latents(inputs["known"]), noise

    def after(self, held, inputs):
        """The function `(i, x) -> x` after each evaluation, or None."""
        if self.blend is None:
            return None
        latents, noise = held
        return blended(self.blend, latents, inputs["latent_mask"], noise)

    def noise(self, key, count, first, inputs):
        """What is given, or drawn."""
        if "noise" in inputs:
            return inputs["noise"]
        shape = (count, *self.latent_shape)
        return random.normal(random.subkey(key, "x"), shape, offset=first)

    def start(self, noise, inputs):
        """x at the first node: noise, or noised images."""
        if "images" not in inputs:
            return self.begin[2] * noise
        return self.noised(self.model.to_latents(inputs["images"]), noise)

    def noised(self, x_0, noise):
        """Clean samples with noise, at the first node."""
        return self.begin[0] * x_0 + self.begin[1] * noise

    def denoiser(self, inputs):
        """The denoiser `(x, t) -> x_0` under the conditions and guidance given."""
        model = self.model
        if not self.guided:
            return conditioned(model, inputs)
        condition = model.conditions_of(_named(model, inputs))
        negative = _named(model, inputs, "negative_")
        if negative and "image" in inputs and "image" not in negative:
            negative["image"] = inputs["image"]  # what `inpaint` made
        null = (
            model.conditions_of(negative)
            if negative
            else model.null_conditions(condition)
        )
        image_scale = inputs.get("image_guidance_scale")
        return guidance.classifier_free(
            model.denoiser(),
            condition,
            null,
            inputs["guidance_scale"],
            self.interval,
            self.rescale,
            None if image_scale is None else model.conditions.without_image(null),
            image_scale,
        )

    def images(self, x):
        """The images of x at the last node, or its latents: see `decode`."""
        clip = self.model.clip
        x = x if clip is None else ops.clip(x, -clip, clip)
        return self.model.from_latents(x) if self.decode else x

    def finished(self, x, inputs):
        """See `judged`, of x at the last node."""
        images = self.images(x)
        finite = ops.stack([_finite(x), _finite(images)], axis=1)
        if "mask" in inputs:
            images = ops.where(inputs["mask"] > 0, images, inputs["known"])
        return images, finite

    # Over NumPy arrays

    def batches(self, name, inputs, n, key, batch_size, verbose=0, callback=None):
        """Iterator of the images as NumPy arrays, n in all.

        Args:
            name: of the call.
            inputs: dict of NumPy arrays, a row for each sample or a scalar.
            n, key, batch_size: see `in_batches`.
            verbose: 1 drives the steps from Python, with a progress bar of them.
            callback: function `(done, total, first, preview)`, called after each
                evaluation of the network, `done` of `total`, of the samples from number
                `first` on: `preview()` gives the x_0 that it was led to as NumPy
                images. The steps are then driven from Python, too.
        """
        self._check_sides(inputs)
        inputs = {**inputs, **self.numbers()}
        if verbose or callback is not None:
            made = self._stepped(inputs, n, key, batch_size, verbose, callback)
        else:
            name = (name, self.form)
            made = in_batches(self.model, name, self.judged, inputs, n, key, batch_size)
        return self._finite(made, inputs)

    def _check_sides(self, inputs):
        """Refuses a condition image that has not the sides of x."""
        sides = self.latent_shape[:2]
        for name in ("image", "negative_image"):
            if name in inputs and inputs[name].shape[1:3] != sides:
                raise ValueError(
                    f"The condition 'image' must have the sides of what is denoised, "
                    f"{sides}; got the shape {inputs[name].shape}."
                )

    def _finite(self, batches, inputs):
        """The images of batches, where all numbers are finite."""
        for images, finite in batches:
            if not finite.all():
                part = self._not_finite(finite, inputs)
                raise FloatingPointError(
                    f"{type(self.model).__name__} drew numbers that are not finite: "
                    f"{part} gave them, in {np.sum(~finite.all(axis=1))} of "
                    f"{len(finite)} samples. In float16 what is over 65,504 is "
                    "infinite: compute that part in float32 or bfloat16; in float32, "
                    "look for weights that are not finite or a step that diverged."
                )
            yield images

    def _not_finite(self, finite, inputs):
        """The name of the first part whose numbers are not finite."""
        if finite[:, 0].all():
            return "from_latents, the decoder of the latents,"
        conditions = self.model.conditions_of(
            {k: backend.from_host(v) for k, v in _named(self.model, inputs).items()}
        )
        for name, value in conditions.items():
            if not np.isfinite(backend.to_host(value)).all():
                return f"conditions_of, the encoder of the condition {name!r},"
        return "the network, or a step of the sampler with its numbers,"

    def _stepped(self, inputs, n, key, batch_size, verbose, callback):
        model, size = self.model, self.model.programs.rows(n, batch_size)
        count = self.sampler.evaluations * -(-n // size)
        bar = keras.utils.Progbar(count, verbose=verbose, unit_name="evaluation")

        def start(key, first, inputs):
            loop = self.bound(inputs)
            noise = loop.noise((key[0], key[1]), size, first, inputs)
            return loop.start(noise, inputs), loop.held(noise, inputs)

        def step(i, key, first, state, inputs, held):
            loop, noise, seen = self.bound(inputs), samplers.keyed_noise(key, first), []
            denoise = loop.denoiser(inputs)

            def noting(x, t):
                made = denoise(x, t)
                seen[:] = [split(made)[0]]
                return made

            state = loop.sampler.step(noting, i, state, noise)
            after = loop.after(held, inputs)
            state = state if after is None else (after(i, state[0]), *state[1:])
            return state, seen[0]

        def finish(x, inputs):
            return self.bound(inputs).finished(x, inputs)

        def compiled(name, fn):
            name = (name, self.form, size)
            return model.compiled_once(name, fn, model.sampling_variables())

        start, finish = compiled("start", start), compiled("finish", finish)
        step = compiled("step", step)
        done, number, batch = 0, 0, {}

        def preview(x_0):
            made, _ = finish(x_0, batch)
            return backend.to_host(made)[: n - number]

        def run(i, key, first, state, *inputs):
            nonlocal done
            state, x_0 = step(i, key, first, state, *inputs)
            done += 1
            if callback is not None:
                callback(done, count, number, lambda: preview(x_0))
            return state

        run = samplers.driven(self.sampler, run)
        words = backend.from_host(np.array(key, "int32"))
        for number in range(0, n, size):
            batch = _tensors(inputs, number, size)
            x, held = start(words, backend.from_host(np.array(number, "int32")), batch)
            x = run(x, batch, held, key=key, first=number, bar=bar)
            yield _on_host(finish(x, batch), n - number)


def _finite(x):
    """`(B,)`: whether all numbers of each sample are finite."""
    return ops.all(ops.isfinite(x), axis=tuple(range(1, len(x.shape))))


def plain_spacing(spacing):
    """The arguments of `samplers.time_grid` of a spacing, its name or such a dict."""
    if isinstance(spacing, str):
        return {"spacing": spacing}
    known = set(inspect.signature(samplers.time_grid).parameters)
    known -= {"schedule", "num_steps"}
    unknown = sorted(set(spacing) - known)
    if unknown:
        raise ValueError(
            f"spacing has no {', '.join(unknown)}; as a dict it holds arguments of "
            f"kg.samplers.time_grid: {', '.join(sorted(known))}."
        )
    return dict(spacing)


@checked(
    sampler=either(text, function),
    spacing=either(text, mapping),
    sampler_options=mapping,
    guidance_interval=pair(">= 0"),
    guidance_rescale=number("[0, 1]"),
    strength=number("(0, 1]"),
    height=integer(1),
    width=integer(1),
    decode=flag,
)
def sampling_loop(
    model,
    sampler=None,
    num_steps=None,
    spacing=None,
    sampler_options=None,
    guided=False,
    guidance_interval=None,
    guidance_rescale=0.0,
    strength=1.0,
    height=None,
    width=None,
    decode=True,
):
    """The `SamplingLoop` of a model; see `DDPM.generate` and `DDPM.img2img`.

    Raises:
        ValueError: for arguments that do not fit each other or the schedule.
    """
    own = sampler in (None, model.sampler)
    sampler = model.sampler if sampler is None else sampler
    make = samplers.get(sampler)
    if sampler_options is None and own:
        sampler_options = model.sampler_options
    options = dict(sampler_options or {})
    if sampler == "ddpm":
        options.setdefault("variance", model.variance)
    if spacing is None and (own or sampler != "lcm"):
        spacing = model.spacing
    spacing = plain_spacing(spacing or {})
    spacing.setdefault("spacing", "lcm" if sampler == "lcm" else "trailing")
    grid = model.time_grid(model.num_steps if num_steps is None else num_steps, spacing)
    if strength != 1.0:
        grid = grid.last(strength)
    try:
        made = make(grid, **options)
    except TypeError as error:
        raise ValueError(
            f"The sampler {sampler!r} does not take sampler_options="
            f"{dict(sampler_options)!r}: {error}."
        ) from None
    if not callable(made):
        raise ValueError(
            f"sampler must make a Sampler of a time grid; {sampler!r} made {made!r}."
        )
    interval = guidance_interval and tuple(guidance_interval)
    if guided:
        guidance.check_interval(interval)
        guidance.check_rescale(guidance_rescale)
    return SamplingLoop(
        model,
        made,
        grid,
        grid.begin,
        guided,
        interval,
        guidance_rescale,
        image_shape=sized(model.image_shape, height, width),
        decode=decode,
    )


def sized(image_shape, height=None, width=None):
    """`(H, W, C)` with other sides, where they are given."""
    own = image_shape
    return height or own[0], width or own[1], own[2]


# `seed` and `n` have been checked; the others may come among the **options of a call.
@checked(
    n=None,
    seed=None,
    vector=array(2),
    context=array(3),
    image=array(4),
    guidance_scale=either(number(), array(1)),
    image_guidance_scale=either(number(), array(1)),
    negative=optional(mapping),
)
def sampling_inputs(
    model,
    n,
    seed,
    *,
    labels=None,
    vector=None,
    context=None,
    image=None,
    guidance_scale=1.0,
    image_guidance_scale=None,
    negative=None,
    draw_labels=True,
    own=(),
):
    """Conditions and guidance as NumPy arrays, checked, and whether there is guidance.

    Args:
        model: the `DDPM`.
        n: number of samples; None takes that of the conditions.
        seed: of the labels that are drawn.
        labels, vector, context, image: see `DDPM.generate`.
        guidance_scale, image_guidance_scale, negative: likewise.
        draw_labels: whether labels are drawn where none are given; if not, they are
            those of no label, where the model knows that.
        own: names of the conditions that the call makes itself.

    Returns:
        `(inputs, n, guided)`: a dict of arrays, an integer and a bool.
    """
    conditions = model.conditions
    pairs = {"labels": labels, "vector": vector, "context": context, "image": image}
    given = {k: np.asarray(v) for k, v in pairs.items() if v is not None}
    for array_ in given.values():
        n = len(array_) if n is None else n
    check_positive("n", n)
    if model.num_classes and "labels" not in given:
        if draw_labels:
            key = random.key(seed, "generate/labels")
            given["labels"] = random.randint(key, (n,), 0, model.num_classes, host=True)
        elif conditions.dropout:
            given["labels"] = np.full(n, model.num_classes)
    conditions.check(given, n, null=True, own=own)

    scale = _scale("guidance_scale", guidance_scale, n)
    inputs = {**given, "guidance_scale": scale}
    if image_guidance_scale is not None:
        if not conditions.image_dropout:
            raise ValueError(
                "image_guidance_scale compares with the network's answer without the "
                "condition image: it needs a model with concat_channels= and with "
                f"image_dropout above 0 in its training; this one has concat_channels="
                f"{conditions.concat_channels} and image_dropout="
                f"{conditions.image_dropout}."
            )
        image_scale = _scale("image_guidance_scale", image_guidance_scale, n)
        inputs["image_guidance_scale"] = image_scale
    elif negative is None and np.all(scale == 1.0):
        return given, n, False
    if not conditions or not conditions.dropout:
        raise ValueError(
            "Guidance compares with the network's answer without a condition: it "
            "needs a model with conditions (num_classes=, vector_dim=, "
            "context_shape=) and with condition_dropout above 0 in its training; "
            f"this one has {', '.join(conditions.shapes) or 'no conditions'} "
            f"and condition_dropout={conditions.dropout}."
        )
    if negative is not None:
        negative = {k: np.asarray(v) for k, v in negative.items()}
        if "image" in given:
            negative.setdefault("image", given["image"])
        try:
            conditions.check(negative, n, null=True, own=own)
        except ValueError as error:
            raise ValueError(f"negative: {error}") from None
        inputs |= {f"negative_{k}": v for k, v in negative.items()}
    return inputs, n, True


def _scale(name, value, n):
    """A guidance scale as float32, a number or one for each of n samples."""
    scale = np.asarray(value, "float32")
    if scale.ndim > 1 or (scale.ndim and len(scale) != n):
        raise ValueError(
            f"{name} must be a number, or {n} of them; got the shape {scale.shape}."
        )
    return scale


def conditioned(model, inputs, clip="default"):
    """The denoiser `(x, t) -> x_0` under the conditions among the inputs."""
    denoise = model.denoiser(clip=clip)
    condition = model.conditions_of(_named(model, inputs))
    return (lambda x, t: denoise(x, t, condition)) if condition else denoise


def _named(model, inputs, prefix=""):
    """The conditions among the inputs: dict name -> array."""
    names = [name for name in model.conditions.shapes if prefix + name in inputs]
    return {name: inputs[prefix + name] for name in names}


def in_batches(model, name, fn, inputs, n, key, batch_size):
    """Runs a function over samples in batches: an iterator of what it makes, in NumPy.

    Args:
        model: the `DDPM`; it keeps the compiled function.
        name: hashable: what the function closes over, and what tells it from others.
        fn: function `(key, count, first, inputs)` of tensors: of `count` samples, of
            which the first has the number `first`; to a tensor or a tuple of them.
        inputs: dict of NumPy arrays: a row for each sample, or a scalar; or a dict of
            arrays that are the same for all samples.
        n: number of samples.
        key: pair of words of `backend.random.key`.
        batch_size: samples in one pass.
    """
    size = model.programs.rows(n, batch_size)

    def run(key, first, inputs):
        return fn((key[0], key[1]), size, first, inputs)

    run = model.compiled_once((name, size), run, model.sampling_variables())
    words = backend.from_host(np.array(key, "int32"))
    for first in range(0, n, size):
        batch = _tensors(inputs, first, size)
        made = run(words, backend.from_host(np.array(first, "int32")), batch)
        yield _on_host(made, n - first)


def _on_host(made, count):
    """The first `count` rows of a tensor, or of each of a tuple, as NumPy."""
    if isinstance(made, (tuple, list)):
        return tuple(_on_host(one, count) for one in made)
    return backend.to_host(made)[:count]


def _tensors(inputs, first, size):
    """The inputs of `size` samples as tensors: at the end rows are filled up."""
    rows = {
        name: np.resize(x[first : first + size], (size, *x.shape[1:]))
        for name, x in inputs.items()
        if not isinstance(x, dict) and x.ndim
    }
    return keras.tree.map_structure(
        lambda x: backend.from_host(x.astype("int32") if x.dtype.kind in "iu" else x),
        {**inputs, **rows},
    )
