"""How a diffusion model samples: walks along a path, in batches, and their export."""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.backend import random
from keras_genai.diffusion import guidance, samplers
from keras_genai.diffusion.denoiser import split
from keras_genai.training.compiled import Range
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_positive
from keras_genai.utils.validation import (
    array,
    either,
    function,
    mapping,
    number,
    optional,
    pair,
    text,
)


@dataclasses.dataclass(frozen=True)
class Plan:
    """All of a walk that is fixed when it is compiled.

    Args:
        key: what tells it from others: hashable.
        sampler: a `Sampler`.
        path: the `Path` it was made for.
        guided: whether there is classifier-free guidance.
        interval, rescale: see `guidance.classifier_free`.
        clip: of the denoiser.

    Where functions are compiled, the plan's numbers are inputs of them, so that one
    serves all plans of the same `form`.
    """

    key: tuple
    sampler: samplers.Sampler
    path: samplers.Path
    guided: bool = False
    interval: tuple | None = None
    rescale: float = 0.0
    clip: float | None = None

    @property
    def form(self):
        """Hashable: what a compiled trajectory depends on."""
        if not backend.COMPILES:
            return self.key
        options = self.guided, self.interval is None, self.rescale == 0, self.clip
        return self.sampler.form, *options

    def numbers(self):
        """The inputs of a compiled trajectory: dict name -> NumPy array."""
        if not backend.COMPILES:
            return {}
        path = self.path
        begin = [path.alphas[0], path.sigmas[0], path.prior_std]
        numbers = {"walk/begin": np.array(begin, "float32")}
        for name, table in self.sampler.tables().items():
            numbers[f"walk/{name}"] = table
        if self.guided and self.interval is not None:
            numbers["walk/interval"] = np.array(self.interval, "float32")
        if self.guided and self.rescale:
            numbers["walk/rescale"] = np.array(self.rescale, "float32")
        return numbers

    def bound(self, inputs):
        """The plan with the numbers that are among its inputs; itself without."""
        given = {
            name.removeprefix("walk/"): x
            for name, x in inputs.items()
            if name.startswith("walk/")
        }
        if not given:
            return self
        interval = given.pop("interval", None)
        return dataclasses.replace(
            self,
            path=_Start(given.pop("begin")),
            interval=interval if interval is None else (interval[0], interval[1]),
            rescale=given.pop("rescale", 0.0),
            sampler=self.sampler.bound(given),
        )


class _Start:
    """The begin of a path, of tensors."""

    def __init__(self, numbers):
        self.alpha, self.sigma, self.prior_std = numbers[0], numbers[1], numbers[2]

    def start(self, noise, x_0=None):
        """See `Path.start`."""
        if x_0 is None:
            return self.prior_std * noise
        return self.alpha * x_0 + self.sigma * noise


class Inference:
    """The part of `DDPM` that samples.

    It reads `schedule`, `conditions`, `image_shape`, `sampler`, `steps`, `variance`,
    `clip` and `denoiser(clip=)`.
    """

    @checked(
        sampler=either(text, function),
        spacing=text,
        sampler_options=mapping,
        guidance_interval=pair(">= 0"),
        guidance_rescale=number("[0, 1]"),
        strength=number("(0, 1]"),
    )
    def plan(
        self,
        sampler=None,
        steps=None,
        spacing=None,
        sampler_options=None,
        guided=False,
        guidance_interval=None,
        guidance_rescale=0.0,
        strength=1.0,
    ):
        """The `Plan` of these arguments; see `generate`."""
        sampler = self.sampler if sampler is None else sampler
        steps = self.steps if steps is None else steps
        make = samplers.get(sampler)
        spacing = spacing or ("lcm" if sampler == "lcm" else "trailing")
        options = dict(sampler_options or {})
        if sampler == "ddpm":
            options.setdefault("variance", self.variance)
        path = samplers.path(self.schedule, steps, spacing)
        if strength != 1.0:
            path = path.last(strength)
        try:
            walk = make(path, **options)
        except TypeError as error:
            raise ValueError(
                f"The sampler {sampler!r} does not take sampler_options="
                f"{sampler_options!r}: {error}."
            ) from None
        if not callable(walk):
            raise ValueError(
                f"sampler must make a Sampler of a path; {sampler!r} made {walk!r}."
            )
        interval = guidance_interval and tuple(guidance_interval)
        if guided:
            guidance.check_interval(interval)
            guidance.check_rescale(guidance_rescale)
        key = sampler, steps, spacing, strength, tuple(sorted(options.items()))
        key += guided, interval, guidance_rescale, self.clip
        return Plan(key, walk, path, guided, interval, guidance_rescale, self.clip)

    # Sampling

    @checked(
        sampler=either(text, function),
        spacing=text,
        sampler_options=mapping,
        guidance_scale=either(number(), array(1)),
        guidance_interval=pair(">= 0"),
        guidance_rescale=number("[0, 1]"),
        negative=mapping,
        noise=array(4),
        vector=array(2),
        context=array(3),
    )
    def generate(
        self,
        n=None,
        seed=0,
        *,
        labels=None,
        vector=None,
        context=None,
        sampler=None,
        steps=None,
        spacing=None,
        sampler_options=None,
        guidance_scale=1.0,
        guidance_interval=None,
        guidance_rescale=0.0,
        negative=None,
        noise=None,
        batch_size=64,
        verbose=0,
    ):
        """Samples images, from noise to none.

        Sample i depends on the seed and on i alone, not on `batch_size`. All steps are
        one compiled loop; another guidance scale, seed or condition compiles nothing.

        Args:
            n: how many, at least 1; may be left out when a condition is given.
            seed: integer >= 0. The same seed and weights give the same images on
                every backend.
            labels: integers `(n,)` in [0, num_classes), or K for none; by default
                drawn uniformly from the seed, for a model with labels.
            vector: floats `(n, E)`, for a model with vectors.
            context: floats `(n, S, E)`, for a model with sequences.
            sampler: a name in `kg.samplers.NAMES`, or a function path -> `Sampler`; by
                default the model's own.
            steps: of the sampler, at most the training's; by default the model's own.
            spacing: of the steps; see `kg.samplers.path`.
            sampler_options: dict of arguments of the sampler, such as `{"eta": 1.0}`.
            guidance_scale: of classifier-free guidance (2207.12598); 1 is none, more
                follows the condition more closely and varies less.
            guidance_interval: `(t_low, t_high)`: guidance at these times alone
                (2404.07724).
            guidance_rescale: in [0, 1] (2305.08891, section 3.4).
            negative: dict of conditions to be led away from, in the place of none:
                `{"labels": ...}`, as many as there are samples.
            noise: floats `(n, H, W, C)` to begin with, such as `invert` gives; by
                default drawn from the seed.
            batch_size: images in one pass.
            verbose: 1 shows a progress bar of the network's evaluations; the loop is
                then driven from Python.

        Returns:
            NumPy float32 `(n, H, W, C)`, in the range of the training images.

        Raises:
            ValueError: for arguments that do not fit, before any work.
        """
        batches = self.generate_batches(
            n,
            seed,
            labels=labels,
            vector=vector,
            context=context,
            sampler=sampler,
            steps=steps,
            spacing=spacing,
            sampler_options=sampler_options,
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            guidance_rescale=guidance_rescale,
            negative=negative,
            noise=noise,
            batch_size=batch_size,
            verbose=verbose,
        )
        return np.concatenate(list(batches))

    @checked(
        guidance_scale=either(number(), array(1)),
        negative=mapping,
        noise=array(4),
        vector=array(2),
        context=array(3),
    )
    def generate_batches(
        self,
        n=None,
        seed=0,
        *,
        labels=None,
        vector=None,
        context=None,
        guidance_scale=1.0,
        negative=None,
        noise=None,
        batch_size=64,
        verbose=0,
        **options,
    ):
        """What `generate` returns, one batch after the other: an iterator."""
        check_positive("batch_size", batch_size)
        seed = random.check_seed(seed)
        given, n = self._given(n, seed, labels, vector, context, noise)
        guided, given = self._with_guidance(given, guidance_scale, negative, n)
        plan = self.plan(guided=guided, **options)
        if noise is not None:
            given["noise"] = self._images(noise, n, "noise")

        def begin(plan, key, count, first, inputs):
            noise = inputs.get("noise")
            if noise is None:
                noise = self._noise(key, count, first)
            return plan.path.start(noise)

        key = random.key(seed, "generate/latents")
        return self._walks("generate", plan, begin, given, n, key, batch_size, verbose)

    # Also of what `img2img` and its kin are given by name.
    @checked(n=None, seed=None, vector=array(2), context=array(3), noise=array(4))
    def _given(
        self,
        n,
        seed,
        labels=None,
        vector=None,
        context=None,
        noise=None,
        draw_labels=True,
    ):
        """`(conditions, n)`: as NumPy, checked; labels are drawn where none are."""
        pairs = {"labels": labels, "vector": vector, "context": context}
        given = {k: np.asarray(v) for k, v in pairs.items() if v is not None}
        for source in (*given.values(), noise):
            if n is None and source is not None:
                n = len(source)
        check_positive("n", n)
        if draw_labels and self.num_classes and "labels" not in given:
            key = random.key(seed, "generate/labels")
            given["labels"] = random.randint(key, (n,), 0, self.num_classes, host=True)
        self.conditions.check(given, n, null=True)
        return given, n

    @checked(
        guidance_scale=either(number(), array(1)), negative=optional(mapping), n=None
    )
    def _with_guidance(self, given, guidance_scale, negative, n):
        """`(guided, inputs)`: whether there is guidance, and what it is told."""
        scale = np.asarray(guidance_scale, "float32")
        if scale.ndim > 1 or (scale.ndim and len(scale) != n):
            raise ValueError(
                f"guidance_scale must be a number, or {n} of them; got the shape "
                f"{scale.shape}."
            )
        if negative is None and np.all(scale == 1.0):
            return False, given
        if not self.conditions or not self.conditions.dropout:
            raise ValueError(
                "Guidance compares with the network's answer without a condition: it "
                "needs a model with conditions (num_classes=, vector_dim= or "
                "context_shape=) and with condition_dropout above 0 in its training; "
                f"this one has {', '.join(self.conditions.shapes) or 'no conditions'} "
                f"and condition_dropout={self.conditions.dropout}."
            )
        inputs = {**given, "guidance_scale": scale}
        if negative is not None:
            negative = {k: np.asarray(v) for k, v in negative.items()}
            try:
                self.conditions.check(negative, n, null=True)
            except ValueError as error:
                raise ValueError(f"negative: {error}") from None
            inputs |= {f"negative_{k}": v for k, v in negative.items()}
        return True, inputs

    def _images(self, x, n, name):
        """Images or noise like them, as NumPy floats."""
        x = ops.convert_to_numpy(x) if ops.is_tensor(x) else np.asarray(x)
        if x.shape != (n, *self.image_shape) or not np.issubdtype(x.dtype, np.floating):
            raise ValueError(
                f"{name} must be floats of the shape {(n, *self.image_shape)}; got "
                f"{x.dtype} of the shape {x.shape}."
            )
        return x.astype("float32", copy=False)

    def _noise(self, key, count, first):
        shape = (count, *self.image_shape)
        return random.normal(random.subkey(key, "x"), shape, offset=first)

    def _denoise(self, plan, inputs):
        """The denoiser `(x, t) -> x_0` of a plan and its inputs."""
        denoise = self.denoiser(clip=plan.clip)
        condition = {k: inputs[k] for k in self.conditions.shapes}
        if not condition:
            return denoise
        condition = self.conditions.tensors(condition)
        if not plan.guided:
            return lambda x, t: denoise(x, t, condition)
        null = {
            k: ops.cast(inputs.get(f"negative_{k}", v), v.dtype)
            for k, v in self.conditions.null(condition).items()
        }
        return guidance.classifier_free(
            denoise,
            condition,
            null,
            inputs["guidance_scale"],
            plan.interval,
            plan.rescale,
        )

    def _ended(self, x):
        return x if self.clip is None else ops.clip(x, -self.clip, self.clip)

    def _walk(self, plan, x, key, first, inputs):
        """From x at the first node of a path to its end, in the graph."""
        noise = samplers.keyed_noise(key, first)
        return self._ended(plan.sampler(self._denoise(plan, inputs), x, noise))

    def _walks(self, what, plan, begin, given, n, key, batch_size, verbose):
        """Walks from what `begin` gives to the end of a path: see `_batches`."""

        def walk(key, count, first, inputs):
            bound = plan.bound(inputs)
            x = begin(bound, key, count, first, inputs)
            return self._walk(bound, x, key, first, inputs)

        place, numbers = (what, plan.form), plan.numbers()
        if not verbose:
            return self._batches(place, walk, given, n, key, batch_size, numbers)
        return self._shown(place, plan, begin, given, n, key, batch_size, verbose)

    def _batches(self, place, fn, given, n, key, batch_size, numbers=()):
        """Runs a function over samples in batches: an iterator of NumPy arrays.

        Args:
            place: hashable: what the compiled function is kept under.
            fn: function `(key, count, first, inputs)` of tensors.
            given: dict name -> NumPy array, a row for each sample, or a scalar.
            n: number of samples.
            key: pair of words.
            batch_size: samples in one pass.
            numbers: dict name -> NumPy array, further inputs that are the same for all
                samples.
        """
        size = self.programs.rows(n, batch_size)
        scalars, rows = _divided(given)
        scalars |= dict(numbers)

        def run(key, *arrays):
            of_all, (first, *of_each) = arrays[: len(scalars)], arrays[len(scalars) :]
            inputs = dict(zip([*scalars, *rows], [*of_all, *of_each], strict=True))
            return fn((key[0], key[1]), size, first, inputs)

        batches = self.stream(
            (place, size, tuple(scalars), tuple(rows)),
            run,
            self.sampling_variables(),
            list(rows.values()),
            size,
            total=n,
            constants=[np.array(key, "int32"), *scalars.values()],
            numbered=True,
        )
        return (made[:count] for _, count, made in batches)

    def _shown(self, place, plan, begin, given, n, key, batch_size, verbose):
        """The walks of `_walks` driven from Python, with a progress bar."""
        size = self.programs.rows(n, batch_size)
        starts = range(0, n, size)
        count = plan.sampler.evaluations * len(starts)
        bar = keras.utils.Progbar(count, verbose=verbose, unit_name="evaluation")
        scalars, rows = _divided(given)
        scalars |= plan.numbers()
        names = [*scalars, *rows]

        def step(i, key, first, state, *arrays):
            inputs = dict(zip(names, arrays, strict=True))
            bound = plan.bound(inputs)
            noise = samplers.keyed_noise((key[0], key[1]), first)
            return bound.sampler.step(self._denoise(bound, inputs), i, state, noise)

        place = ("stepped", place, tuple(scalars), tuple(rows))
        run = self.compiled_once(place, step, self.sampling_variables())
        for first in starts:
            inputs = scalars | {
                name: np.resize(a[first : first + size], (size, *a.shape[1:]))
                for name, a in rows.items()
            }
            inputs = {k: backend.from_host(a) for k, a in inputs.items()}
            x = begin(plan, key, size, first, inputs)
            walk = samplers.driven(plan.sampler, run)
            x = walk(x, *inputs.values(), key=key, first=first, bar=bar)
            yield backend.to_host(self._ended(x))[: n - first]

    def sampling_variables(self):
        return self.averaged_variables("network")

    # Use as a function, and export

    def call(self, x, t, labels=None, vector=None, context=None, training=False):
        """What the network gives for noisy images x at times t, by the average."""
        given = {"labels": labels, "vector": vector, "context": context}
        given = self.conditions.tensors(
            {k: v for k, v in given.items() if k in self.conditions.shapes}
        )
        return self.denoiser(training).predict(ops.convert_to_tensor(x), t, given)[0]

    def input_ranges(self):
        ranges = {**super().input_ranges(), "guidance_scale": Range()}
        if self.num_classes and self.conditions.dropout:  # K is that of no label
            ranges["labels"] = Range(least=0, most=self.num_classes)
        return ranges

    def export_signatures(self):
        """What `export` writes: name -> (function, its inputs); the first serves.

        - `generate`: `seed`, with the conditions and `guidance_scale`, or `n` ->
          `images`: the whole loop of the model's `sampler` and `steps`. Guidance is in
          it where the model was trained for it.
        - `denoise`: noisy `images`, times `t` and the conditions -> `x_0`.
        """
        conditions = self.conditions.signature()
        guided = bool(self.conditions and self.conditions.dropout)
        plan = self.plan(guided=guided)

        def generate(seed, *arrays):
            inputs = dict(zip([name for name, _, _ in inputs_], arrays, strict=True))
            given = list(inputs.values())
            count = ops.shape(given[0])[0] if conditions else inputs["n"]
            key = random.key(seed, "generate/latents")
            x = plan.path.start(self._noise(key, count, 0))
            return {"images": self._walk(plan, x, key, 0, inputs)}

        inputs_ = [*conditions] if conditions else [("n", (), "int32")]
        if guided:
            inputs_.append(("guidance_scale", (), "float32"))

        plain = dataclasses.replace(plan, guided=False)

        def denoise(images, t, *arrays):
            names = [name for name, _, _ in conditions]
            inputs = dict(zip(names, arrays, strict=True))
            x_0 = self._denoise(plain, inputs)(images, t)
            return {"x_0": split(x_0)[0]}

        noisy = [("images", (None, *self.image_shape), "float32")]
        return {
            "generate": (generate, [("seed", (), "int32"), *inputs_]),
            "denoise": (denoise, [*noisy, ("t", (None,), "float32"), *conditions]),
        }


def _divided(given):
    """`(scalars, rows)`: the inputs of all samples, and those of each; int32 not 64."""
    given = {
        name: array.astype("int32") if array.dtype.kind in "iu" else array
        for name, array in sorted(given.items())
    }
    scalars = {name: array for name, array in given.items() if not array.ndim}
    return scalars, {k: array for k, array in given.items() if k not in scalars}
