"""What a diffusion model does with images: varies, mends, inverts and judges them."""

import math

import numpy as np

from keras_genai import backend
from keras_genai.backend import programs, random
from keras_genai.diffusion import likelihood, repaint, samplers
from keras_genai.diffusion.inference import Plan
from keras_genai.diffusion.repaint import check_repaintable, resampled
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_integer, check_positive
from keras_genai.utils.interpolation import check_kind, interpolate
from keras_genai.utils.validation import array, number, text


class Editing:
    """The part of `DDPM` that begins with images; it stands on `Inference`."""

    @checked(images=array(finite=False), strength=number("(0, 1]"))
    def img2img(
        self, images, strength=0.5, seed=0, *, batch_size=64, verbose=0, **options
    ):
        """New images like others: noised part of the way, and cleaned (2108.01073).

        Args:
            images: floats `(N, H, W, C)`.
            strength: share of the steps, in (0, 1]: how far from the images.
            seed: integer >= 0.
            batch_size, verbose: see `generate`.
            **options: the conditions and the sampler's and guidance's arguments of
                `generate`.

        Returns:
            NumPy float32 like `images`.
        """
        given, options, n = self._of_images(images, seed, batch_size, options)
        plan = self.plan(strength=strength, **options)

        def begin(plan, key, count, first, inputs):
            return plan.path.start(self._noise(key, count, first), inputs["images"])

        key = random.key(random.check_seed(seed), "img2img")
        batches = self._walks(
            "img2img", plan, begin, given, n, key, batch_size, verbose
        )
        return np.concatenate(list(batches))

    def _of_images(self, images, seed, batch_size, options):
        """`(inputs, options of the plan, N)` of a call that begins with images."""
        check_positive("batch_size", batch_size)
        n = len(images)
        options = dict(options)
        conditions = {k: options.pop(k, None) for k in ("labels", "vector", "context")}
        if (
            self.conditions.dropout
            and conditions["labels"] is None
            and self.num_classes
        ):
            conditions["labels"] = np.full(n, self.num_classes)  # none
        given, _ = self._given(n, seed, **conditions, draw_labels=False)
        scale = options.pop("guidance_scale", 1.0)
        negative = options.pop("negative", None)
        guided, given = self._with_guidance(given, scale, negative, n)
        given = {**given, "images": self._images(images, n, "images")}
        return given, {**options, "guided": guided}, n

    def _only_conditions(self, name, images, batch_size, given):
        """`(inputs, N)` of a call that takes images and their conditions alone."""
        given, options, n = self._of_images(images, 0, batch_size, given)
        del options["guided"]
        if options:
            raise ValueError(f"{name} does not take {', '.join(sorted(options))}.")
        return given, n

    @checked(images=array(finite=False), mask=array(finite=True))
    def inpaint(
        self,
        images,
        mask,
        seed=0,
        *,
        steps=250,
        jump_length=None,
        resamplings=10,
        batch_size=64,
        **options,
    ):
        """Paints a part of images anew, in keeping with the rest (RePaint, 2201.09865).

        Args:
            images: floats `(N, H, W, C)`; what they hold under the mask is not read.
            mask: booleans, True where to paint: `(H, W)`, `(H, W, 1)` or
                `(N, H, W, 1)`.
            seed: integer >= 0.
            steps: of the sampler.
            jump_length: how many steps at a time are gone back and done again
                (section 4.2); at most `steps`, by default 10 of more than that.
            resamplings: how often each stretch is done; 1 goes back nowhere. The
                network is called about `steps * resamplings` times.
            batch_size: images in one pass.
            **options: see `img2img`; a sampler of one evaluation a step, by default
                `"ddpm"`.

        Returns:
            NumPy float32 like `images`: equal to them outside the mask.
        """
        given, options, n = self._of_images(images, seed, batch_size, options)
        given["mask"] = self._mask(mask, n)
        given["images"] = np.where(given["mask"] > 0, 0.0, given["images"])
        options.setdefault("sampler", "ddpm")
        plan = self.plan(steps=steps, **options)
        check_repaintable(plan.sampler, plan.path)
        jump_length = min(10, steps) if jump_length is None else jump_length
        walk = resampled(plan.path.steps, jump_length, resamplings)
        tables, place = repaint.tables(plan.path, walk), ("inpaint", plan.form)
        numbers = plan.numbers()
        if backend.COMPILES:
            numbers |= _named("repaint", programs.filled(tables))
        else:
            place = (*place, jump_length, resamplings)

        def paint(key, count, first, inputs):
            bound = plan.bound(inputs)
            x = bound.path.start(self._noise(key, count, first))
            x = repaint.repaint(
                bound.sampler,
                _within("repaint", inputs) or tables,
                self._denoise(bound, inputs),
                x,
                inputs["images"],
                inputs["mask"],
                key,
                first,
            )
            mask = inputs["mask"]
            return mask * self._ended(x) + (1.0 - mask) * inputs["images"]

        key = random.key(random.check_seed(seed), "inpaint")
        batches = self._batches(place, paint, given, n, key, batch_size, numbers)
        return np.concatenate(list(batches))

    def _mask(self, mask, n):
        """`(N, H, W, 1)` floats of 0 and 1."""
        mask = np.asarray(mask)
        height, width, _ = self.image_shape
        shapes = ((height, width), (height, width, 1), (n, height, width, 1))
        if mask.shape not in shapes or not np.all((mask == 0) | (mask == 1)):
            raise ValueError(
                f"mask must be booleans of the shape {shapes[0]}, {shapes[1]} or "
                f"{shapes[2]}, True where to paint; got {mask.dtype} of the shape "
                f"{mask.shape}."
            )
        mask = mask[..., None] if mask.ndim == 2 else mask
        return np.broadcast_to(mask, (n, height, width, 1)).astype("float32")

    @checked(images=array(finite=False), spacing=text)
    def invert(self, images, *, steps=None, spacing="trailing", batch_size=64, **given):
        """The noise from which `generate` makes these images (2010.02502, 4.3).

        The deterministic walk of DDIM the other way: `generate(noise=invert(images))`
        with as many steps and the sampler `"ddim"` gives the images back but for the
        error of the steps.

        Args:
            images: floats `(N, H, W, C)`.
            steps, spacing, batch_size: see `generate`.
            **given: the images' conditions: `labels`, `vector`, `context`.

        Returns:
            NumPy float32 like `images`: about standard normal.
        """
        given, n = self._only_conditions("invert", images, batch_size, given)
        steps = self.steps if steps is None else steps
        path = samplers.path(self.schedule, steps, spacing, end="least")
        scale, path = path.prior_std, path.reversed()
        plan = Plan(("invert", steps, spacing), samplers.ddim(path), path)
        given["prior_std"] = np.float32(scale)

        def back(key, count, first, inputs):
            bound = plan.bound(inputs)
            start = bound.path.start(0.0, inputs["images"])
            x = bound.sampler(self._denoise(bound, inputs), start)
            return x / inputs["prior_std"]

        place = ("invert", plan.form)
        batches = self._batches(
            place, back, given, n, (0, 0), batch_size, plan.numbers()
        )
        return np.concatenate(list(batches))

    @checked(a=array(), b=array(), kind=text)
    def interpolate(self, a, b, n=8, *, kind="spherical", steps=None, batch_size=64):
        """Images on the way from one to another, through their noise (2010.02502, 5.3).

        Args:
            a: where it begins: an image `(H, W, C)`.
            b: where it ends, likewise.
            n: images on the way, both ends included, at least 2.
            kind: `"spherical"` or `"linear"`, of the noise that `invert` finds.
            steps: see `generate`.
            batch_size: images in one pass.

        Returns:
            NumPy float32 `(n, H, W, C)`, the first and last about `a` and `b`.
        """
        check_integer("n", n, 2)
        check_kind(kind)
        ends = [self._images(np.asarray(x)[None], 1, "An end") for x in (a, b)]
        ends = self.invert(np.concatenate(ends), steps=steps)
        a, b = ends.reshape(2, -1)
        noise = interpolate(a, b, np.linspace(0.0, 1.0, n)[:, None], kind)
        noise = noise.reshape(n, *self.image_shape).astype("float32")
        labels = self.num_classes and np.full(n, self.num_classes)  # none
        return self.generate(
            noise=noise,
            labels=labels,
            sampler="ddim",
            steps=steps,
            batch_size=batch_size,
        )

    # Likelihood

    @checked(probe=text)
    def log_likelihood(
        self,
        images,
        seed=0,
        *,
        steps=100,
        probe="rademacher",
        probes=1,
        batch_size=64,
        **given,
    ):
        """`log p(x)` by the probability-flow ODE (2011.13456, appendix D.2), in nats.

        A density of continuous data: see `bits_per_dim` for images of 256 levels.

        Args:
            images: floats `(N, H, W, C)`.
            seed: integer >= 0, of the estimator of Hutchinson.
            steps: of the ODE's solver, of four evaluations and gradients each.
            probe: how the divergence is found: `"rademacher"` or `"gaussian"` vectors,
                without a bias, or `"exact"`, with a gradient for each dimension.
            probes: how many vectors.
            batch_size: images in one pass.
            **given: the images' conditions: `labels`, `vector`, `context`.

        Returns:
            NumPy float32 `(N,)`.
        """
        given, n = self._only_conditions("log_likelihood", images, batch_size, given)
        check_positive("steps", steps)
        plan = Plan(("likelihood",), None, None)
        place, numbers = ("likelihood", probe, probes), {}
        if backend.COMPILES:
            numbers = likelihood.inputs(self.schedule, steps, self._likelihood_range())
            numbers = _named("ode", numbers)
        else:
            place = (*place, steps)

        def density(key, count, first, inputs):
            return likelihood.log_likelihood(
                self._denoise(plan, inputs),
                self.schedule,
                inputs["images"],
                steps=steps,
                probe=probe,
                probes=probes,
                key=key,
                first=first,
                t_range=self._likelihood_range(),
                tables=_within("ode", inputs) or None,
            )[0]

        key = random.key(random.check_seed(seed), "likelihood")
        batches = self._batches(place, density, given, n, key, batch_size, numbers)
        return np.concatenate(list(batches))

    def _likelihood_range(self):
        """The schedule's times, but for one where nothing of the data is left."""
        schedule = self.schedule
        low, high = schedule.t_min, schedule.t_max
        if schedule.alpha(high) > 0:
            return low, high
        return low, float(schedule.time(math.log(1e-4) * 2.0))

    @checked()
    def bits_per_dim(self, images, seed=0, *, levels=256, **options):
        """Bits per dimension of images of discrete levels, a bound from above.

        Uniform noise of one level is added to them (1511.01844, section 3.1).

        Args:
            images: floats `(N, H, W, C)` in [-1, 1], of that many levels.
            seed: integer >= 0.
            levels: their number.
            **options: of `log_likelihood`.

        Returns:
            NumPy float32 `(N,)`.
        """
        check_integer("levels", levels, 2)
        images = self._images(images, len(images), "images")
        key = random.key(random.check_seed(seed), "dequantize")
        u = random.uniform(key, images.shape, host=True)
        width = 2.0 / (levels - 1)
        # Each level fills its own interval: the range grows by half a level each way.
        noisy = (images + (u - 0.5) * width).astype("float32")
        nats = self.log_likelihood(noisy, seed, **options)
        return likelihood.bits_per_dim(nats, self.image_shape, levels)


def _named(what, inputs):
    """Inputs under names that tell them from others."""
    return {f"{what}/{name}": x for name, x in inputs.items()}


def _within(what, inputs):
    """Those of the inputs that `_named` has named."""
    start = f"{what}/"
    found = {k: x for k, x in inputs.items() if k.startswith(start)}
    return {k.removeprefix(start): x for k, x in found.items()}
