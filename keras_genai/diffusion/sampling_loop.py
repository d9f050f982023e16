"""The sampling loop: a sampler's steps over the denoiser of a model, in batches."""

import dataclasses
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.backend import programs, random
from keras_genai.diffusion import guidance, samplers
from keras_genai.diffusion.denoiser import split
from keras_genai.diffusion.repaint import repaint
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_positive
from keras_genai.utils.validation import (
    array,
    either,
    flag,
    function,
    integers,
    mapping,
    number,
    optional,
    pair,
    text,
)

# Arguments of `generate` and its kin that are inputs of the loop.
INPUTS = ("labels", "vector", "context", "guidance_scale", "negative")


@dataclasses.dataclass(frozen=True, eq=False)
class SamplingLoop:
    """All steps of `generate`, `img2img` or `inpaint`: one compiled function.

    Its inputs are a dict of arrays:

    - the conditions `labels`, `vector`, `context`, and with guidance `guidance_scale`
      and `negative_labels`, ...;
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
        image_shape: `(H, W, C)` of the images; None for the model's own.
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
    image_shape: tuple | None = None
    decode: bool = True

    @property
    def latent_shape(self):
        """`(h, w, c)` of what is denoised."""
        return self.model.latent_shape(self.image_shape or self.model.image_shape)

    @property
    def form(self):
        """Hashable: what the compiled function depends on, beside model and inputs."""
        options = self.guided, self.interval is None, self.rescale == 0
        form = options, self.repaint is None, self.latent_shape, self.decode
        if backend.COMPILES:
            return self.sampler.form, *form
        tables = {} if self.repaint is None else self.repaint
        constants = self.begin, self.interval, self.rescale
        repaint = tuple(table.tobytes() for table in tables.values())
        return self.sampler.key, *form, constants, repaint

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
        )

    # In the graph

    def sample(self, key, count, first, inputs):
        """Images as a tensor `(count, H, W, C)`; see `in_batches`."""
        loop = self.bound(inputs)
        x = loop.start(key, count, first, inputs)
        if loop.repaint is not None:
            return loop._painted(x, key, first, inputs)
        noise = samplers.keyed_noise(key, first)
        return loop.images(loop.sampler(loop.denoiser(inputs), x, noise))

    def start(self, key, count, first, inputs):
        """x at the first node: noise, or noised images."""
        noise = inputs.get("noise")
        if noise is None:
            shape = (count, *self.latent_shape)
            noise = random.normal(random.subkey(key, "x"), shape, offset=first)
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
        return guidance.classifier_free(
            model.denoiser(),
            condition,
            model.conditions_of(negative)
            if negative
            else model.null_conditions(condition),
            inputs["guidance_scale"],
            self.interval,
            self.rescale,
        )

    def images(self, x):
        """The images of x at the last node, or its latents: see `decode`."""
        clip = self.model.clip
        x = x if clip is None else ops.clip(x, -clip, clip)
        return self.model.from_latents(x) if self.decode else x

    def _painted(self, x, key, first, inputs):
        known, mask = inputs["known"], inputs["mask"]
        x = repaint(
            self.sampler,
            self.repaint,
            self.denoiser(inputs),
            x,
            self.model.to_latents(known),
            inputs["latent_mask"],
            key,
            first,
        )
        return mask * self.images(x) + (1.0 - mask) * known

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
        inputs = {**inputs, **self.numbers()}
        if verbose or callback is not None:
            return self._stepped(inputs, n, key, batch_size, verbose, callback)
        name = (name, self.form)
        return in_batches(self.model, name, self.sample, inputs, n, key, batch_size)

    def _stepped(self, inputs, n, key, batch_size, verbose, callback):
        model, size = self.model, self.model.programs.rows(n, batch_size)
        count = self.sampler.evaluations * -(-n // size)
        bar = keras.utils.Progbar(count, verbose=verbose, unit_name="evaluation")

        def start(key, first, inputs):
            return self.bound(inputs).start((key[0], key[1]), size, first, inputs)

        def step(i, key, first, state, inputs):
            loop, noise, seen = self.bound(inputs), samplers.keyed_noise(key, first), []
            denoise = loop.denoiser(inputs)

            def noting(x, t):
                made = denoise(x, t)
                seen[:] = [split(made)[0]]
                return made

            return loop.sampler.step(noting, i, state, noise), seen[0]

        def compiled(name, fn):
            name = (name, self.form, size)
            return model.compiled_once(name, fn, model.sampling_variables())

        start, images = compiled("start", start), compiled("images", self.images)
        step = compiled("step", step)
        done, number = 0, 0

        def run(i, key, first, state, inputs):
            nonlocal done
            state, x_0 = step(i, key, first, state, inputs)
            done += 1
            if callback is not None:
                rows = min(size, n - number)
                callback(
                    done, count, number, lambda: backend.to_host(images(x_0))[:rows]
                )
            return state

        run = samplers.driven(self.sampler, run)
        words = backend.from_host(np.array(key, "int32"))
        for number in range(0, n, size):
            batch = _tensors(inputs, number, size)
            x = start(words, backend.from_host(np.array(number, "int32")), batch)
            x = run(x, batch, key=key, first=number, bar=bar)
            yield backend.to_host(images(x))[: n - number]


@checked(
    sampler=either(text, function),
    spacing=text,
    sampler_options=mapping,
    guidance_interval=pair(">= 0"),
    guidance_rescale=number("[0, 1]"),
    strength=number("(0, 1]"),
    size=integers(length=2),
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
    size=None,
    decode=True,
):
    """The `SamplingLoop` of a model; see `DDPM.generate` and `DDPM.img2img`.

    Raises:
        ValueError: for arguments that do not fit each other or the schedule.
    """
    sampler = model.sampler if sampler is None else sampler
    make = samplers.get(sampler)
    options = dict(sampler_options or {})
    if sampler == "ddpm":
        options.setdefault("variance", model.variance)
    grid = model.time_grid(
        model.num_steps if num_steps is None else num_steps,
        spacing or ("lcm" if sampler == "lcm" else "trailing"),
    )
    if strength != 1.0:
        grid = grid.last(strength)
    try:
        made = make(grid, **options)
    except TypeError as error:
        raise ValueError(
            f"The sampler {sampler!r} does not take sampler_options="
            f"{sampler_options!r}: {error}."
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
        image_shape=size and (*size, model.image_shape[-1]),
        decode=decode,
    )


# `seed` and `n` have been checked; the others may come among the **options of a call.
@checked(
    n=None,
    seed=None,
    vector=array(2),
    context=array(3),
    guidance_scale=either(number(), array(1)),
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
    guidance_scale=1.0,
    negative=None,
    draw_labels=True,
):
    """Conditions and guidance as NumPy arrays, checked, and whether there is guidance.

    Args:
        model: the `DDPM`.
        n: number of samples; None takes that of the conditions.
        seed: of the labels that are drawn.
        labels, vector, context, guidance_scale, negative: see `DDPM.generate`.
        draw_labels: whether labels are drawn where none are given; if not, they are
            those of no label, where the model knows that.

    Returns:
        `(inputs, n, guided)`: a dict of arrays, an integer and a bool.
    """
    conditions = model.conditions
    pairs = {"labels": labels, "vector": vector, "context": context}
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
    conditions.check(given, n, null=True)

    scale = np.asarray(guidance_scale, "float32")
    if scale.ndim > 1 or (scale.ndim and len(scale) != n):
        raise ValueError(
            f"guidance_scale must be a number, or {n} of them; got the shape "
            f"{scale.shape}."
        )
    if negative is None and np.all(scale == 1.0):
        return given, n, False
    if not conditions or not conditions.dropout:
        raise ValueError(
            "Guidance compares with the network's answer without a condition: it "
            "needs a model with conditions (num_classes=, vector_dim= or "
            "context_shape=) and with condition_dropout above 0 in its training; "
            f"this one has {', '.join(conditions.shapes) or 'no conditions'} "
            f"and condition_dropout={conditions.dropout}."
        )
    inputs = {**given, "guidance_scale": scale}
    if negative is not None:
        negative = {k: np.asarray(v) for k, v in negative.items()}
        try:
            conditions.check(negative, n, null=True)
        except ValueError as error:
            raise ValueError(f"negative: {error}") from None
        inputs |= {f"negative_{k}": v for k, v in negative.items()}
    return inputs, n, True


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
    """Runs a function over samples in batches: an iterator of NumPy arrays.

    Args:
        model: the `DDPM`; it keeps the compiled function.
        name: hashable: what the function closes over, and what tells it from others.
        fn: function `(key, count, first, inputs)` of tensors: of `count` samples, of
            which the first has the number `first`.
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
        yield backend.to_host(made)[: n - first]


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
