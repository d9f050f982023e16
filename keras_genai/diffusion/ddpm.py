"""DDPM: a denoising diffusion model, trained by `fit()`.

Denoising diffusion probabilistic models (2006.11239) with what came after as
arguments: the schedule, what the network predicts, the weight of its error, a learned
variance (2102.09672), conditions that are left out at times for classifier-free
guidance (2207.12598), flows (2209.03003) and EDM (2206.00364).
"""

import math

import keras
import numpy as np
from keras import ops
from keras.src.models.functional import Functional

from keras_genai import backend
from keras_genai.backend import random
from keras_genai.backend.precision import dtype_policy
from keras_genai.diffusion import (
    editing,
    likelihood,
    samplers,
    schedules,
    signatures,
)
from keras_genai.diffusion.conditions import Conditions
from keras_genai.diffusion.denoiser import (
    WEIGHTINGS,
    Denoiser,
    logit_normal_times,
    lognormal_times,
    uniform_times,
)
from keras_genai.diffusion.editing import checked_images
from keras_genai.diffusion.sampling_loop import (
    plain_spacing,
    sampling_inputs,
    sampling_loop,
)
from keras_genai.diffusion.unet import UNet
from keras_genai.layers.initializers import Zeros
from keras_genai.losses.reduction import mean_over_samples, weighted_mean
from keras_genai.training import GenerativeModel
from keras_genai.training.compiled import Range
from keras_genai.training.data import tensors
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import (
    check_image_shape,
    check_images,
    check_positive,
    check_sample_weight,
)
from keras_genai.utils.serialization import PACKAGE, configuration
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
    tuple_of,
)
from keras_genai.weights.pretrained import Pretrained

TIME_SAMPLINGS = ("uniform", "lognormal", "logit_normal")
VARIANCES = ("small", "large", "learned")
_LENGTH_AND_WIDTH = (
    "(length, dimensions), integers of at least 1, or None for any length"
)
# Equal parts of the training's times, in per cent: `evaluate` shows the loss of each.
_PARTS = ("loss_0_25", "loss_25_50", "loss_50_75", "loss_75_100")


@keras.saving.register_keras_serializable(PACKAGE)
class DDPM(Pretrained, GenerativeModel):
    """A diffusion model of images (2006.11239), or of latents.

    `fit(images)` minimises, over times t and noise eps, the weighted squared error of
    what the network predicts of `x_t = alpha(t) x_0 + sigma(t) eps` (equation 14);
    `generate` goes from noise to images by any sampler of `kg.samplers`.

    The condition `y` of `fit(images, y)` is what the arguments name: integer labels
    (`num_classes`), vectors (`vector_dim`), sequences (`context_shape`), images joined
    to x (`concat_channels`), or a dict of several of them, with the keys `"labels"`,
    `"vector"`, `"context"` and `"image"`.

    Published weights (`from_pretrained`, `save_pretrained`): a U-Net with its
    `scheduler_config.json`, in one folder or in a pipeline's `unet` and `scheduler`,
    such as `"google/ddpm-cifar10-32"`. The scheduler's settings become the model's:
    `sampler`, `sampler_options`, `spacing`, `round_times`. No average is kept unless
    `ema_decay` is given, since it is a second copy of the network. What is written is
    the network that samples, as diffusers' `DDPMPipeline` and `DDIMPipeline` read it.

    Args:
        network: a built Keras model, called as `network(x, t)`, with the keywords
            `labels=`, `vector=`, `context=` of its conditions (a functional model: with
            the list of its inputs in that order) -> prediction `(B, H, W, C)`, or 2C
            channels with a learned variance. x is `(B, H, W, C)`, t float `(B,)`. By
            default a `kg.UNet` of 64, 128 and 128 channels that attends at its
            middle level.
        schedule: a schedule of `kg.schedules`, or its name: `"linear"`,
            `"scaled_linear"`, `"cosine"`, `"sigmoid"` (1,000 times), `"karras"`,
            `"exponential"`, `"rectified_flow"`.
        parameterization: what the network predicts: `"epsilon"`, `"x0"`, `"v"`,
            `"flow"` or `"edm"`.
        image_shape: `(H, W, C)`; by default the network's own `image_shape`.
        num_classes: K of the labels; K itself is the label of an image without one. By
            default the network's own `num_classes`.
        vector_dim: E of the condition vectors `(B, E)`.
        context_shape: `(S, E)` of the condition sequences; S may be None.
        concat_channels: channels of the condition image `(B, h, w, C')`, of x's sides,
            which is joined to x's channels: the mask and what is known of Stable
            Diffusion's inpainting (C' = C + 1), the small image of an upscaler, the
            image of InstructPix2Pix (2211.09800). The network takes C + C' channels.
        condition_dropout: rate at which labels, vector and sequence are left out of the
            training together, in [0, 1): guidance needs it above 0. By default 0.1
            where there are conditions, and the network has a row for K.
        image_dropout: rate at which the condition image is left out, in [0, 1), half
            of the times that the others are (2211.09800, section 3.2.1):
            `image_guidance_scale` needs it above 0. An image left out is zeros.
        null_condition: what stands for a vector or a sequence left out: a dict with the
            keys `"vector"`, floats `(E,)`, and `"context"`, `(S, E)`, such as an
            encoded empty text; by default zeros. A label left out is K. It is a weight
            of the model: `model.null_condition["context"].assign(...)` changes it.
        weighting: of the squared error: `"uniform"`, `"min_snr"`, `"edm"` or
            `"sigmoid"`.
        time_sampling: of the training: `"uniform"`; `"lognormal"`, of sigma / alpha
            (2206.00364, table 1); or `"logit_normal"`, of a flow (2403.03206).
        variance: of a step of the sampler `"ddpm"`: `"small"`, `"large"`, or
            `"learned"`: the network then gives 2C channels.
        clip: while sampling, x_0 is clipped to `[-clip, clip]` and the noise is that
            which belongs to it (2105.05233's code), and images of `fit` must lie there.
            None for data of any range, such as latents.
        sigma_data: standard deviation of the data, for `"edm"`.
        time_scale: the network is given `time_scale t`; by default 1 where the times
            are integers, 1,000 where they lie in [0, 1].
        sampler: of `generate` and of what `export` writes: a name in
            `kg.samplers.NAMES`.
        num_steps: of that sampler.
        sampler_options: dict of that sampler's arguments, such as `{"eta": 1.0}`.
        spacing: of the steps: a spacing of `kg.samplers.time_grid`, or a dict of its
            arguments, such as `{"spacing": "leading", "offset": 1, "end": "least"}`; by
            default `"trailing"`, and `"lcm"` of that sampler.
        round_times: whether the network is handed the nearest integers of the times.
        ema_decay: decay of the average of the network that samples, or None.
        seed: integer >= 0.

    Raises:
        ValueError: for arguments that do not fit each other, before any work.

    Example:

    ```python
    model = kg.DDPM(image_shape=(28, 28, 1), num_classes=10)
    model.compile()                                     # Adam(2e-4), clipped
    model.fit(images, labels, batch_size=64, epochs=10)
    model.generate(labels=[3, 3, 7], guidance_scale=2.0, num_steps=50, seed=0)
    model.export("served/ddpm")                         # the whole loop, one SavedModel
    ```
    """

    weights_module = "ddpm"
    network_class = UNet  # of published folders, as the schedule
    schedule_class = schedules.Discrete

    @checked(
        parameterization=text,
        context_shape=tuple_of(optional(integer(1)), length=2, says=_LENGTH_AND_WIDTH),
        concat_channels=integer(1),
        condition_dropout=number("[0, 1)"),
        image_dropout=number("[0, 1)"),
        null_condition=mapping,
        weighting=text,
        time_sampling=text,
        variance=text,
        clip=optional(number("> 0")),
        time_scale=number("> 0"),
        sampler=either(text, function),
        sampler_options=mapping,
        spacing=either(text, mapping),
        round_times=flag,
    )
    def __init__(
        self,
        network=None,
        schedule="linear",
        parameterization="epsilon",
        *,
        image_shape=None,
        num_classes=None,
        vector_dim=None,
        context_shape=None,
        concat_channels=None,
        condition_dropout=None,
        image_dropout=0.0,
        null_condition=None,
        weighting="uniform",
        time_sampling="uniform",
        variance="small",
        clip=1.0,
        sigma_data=0.5,
        time_scale=None,
        sampler="ddim",
        num_steps=50,
        sampler_options=None,
        spacing=None,
        round_times=False,
        ema_decay=0.9999,
        seed=0,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        self.compose()
        self.schedule = schedules.get(schedule)
        if num_classes is None:
            num_classes = getattr(network, "num_classes", None)
        _check_taken(network, vector_dim, context_shape)
        self.image_shape = _image_shape(image_shape, network, concat_channels)
        self.conditions = Conditions(
            num_classes,
            vector_dim,
            context_shape,
            _dropout(condition_dropout, num_classes, network),
            concat_channels,
            image_dropout,
        )
        self.num_classes = num_classes
        self.concat_channels = concat_channels
        self.null_condition = self._null_variables(null_condition)
        _check_choices(self.schedule, weighting, time_sampling, variance, clip)
        samplers.get(sampler)
        check_positive("num_steps", num_steps)
        self.parameterization = parameterization
        self.weighting = weighting
        self.time_sampling = time_sampling
        self.variance = variance
        self.clip = clip
        self.sigma_data = sigma_data
        self.time_scale = time_scale or _time_scale(self.schedule)
        self.sampler = sampler
        self.num_steps = num_steps
        self.sampler_options = dict(sampler_options or {})
        self.spacing = spacing if spacing is None else plain_spacing(spacing)
        self.round_times = round_times
        self.ema_decay = ema_decay
        self.denoiser()  # refuses what does not fit the schedule
        self._own = [] if network is None else ["network"]
        with dtype_policy(kwargs.get("dtype")):
            self.network = network or self._default_network()
        self._check_network()
        sampling_loop(self, sampler, num_steps)  # refuses a sampler that does not fit
        parts = self.trained_parts()
        self.set_players(
            "network",
            networks={"network": parts} if len(parts) > 1 else None,
            ema="network",
            ema_decay=ema_decay,
            metrics=list(_PARTS),
        )

    @property
    def learned_variance(self):
        """Whether the network gives the variance of a step beside its mean."""
        return self.variance == "learned"

    def _default_network(self):
        *sides, channels = self.latent_shape(self.image_shape)
        return UNet(
            (*sides, channels + (self.concat_channels or 0)),
            out_channels=2 * channels if self.learned_variance else channels,
            block_channels=(64, 128, 128),
            attention=(False, True, False),
            **self.conditions.network_arguments(),
            seed=self.seed,
        )

    def _check_network(self):
        height, width, channels = self.latent_shape(self.image_shape)
        x = keras.KerasTensor((None, height, width, channels))
        t = keras.KerasTensor((None,))
        conditions = self.conditions.keras_tensors((height, width))
        made = self.prediction(x, t, conditions)
        wanted = (height, width, channels * (2 if self.learned_variance else 1))
        if tuple(made.shape[1:]) != wanted:
            raise ValueError(
                f"The network must give {wanted} for image_shape {self.image_shape}"
                f"{' and a learned variance' if self.learned_variance else ''}; it "
                f"gives {tuple(made.shape[1:])}."
            )

    def check_data(self, x, condition, weight):
        if self.clip is None:
            _check_floats(x, self.image_shape)
        else:
            check_images(x, self.image_shape, (-self.clip, self.clip))
        self.check_conditions(condition, len(x))
        check_sample_weight(weight, len(x))

    # A model that composes others, such as one of an autoencoder's latents, overrides
    # these; here they change nothing.

    def compose(self):
        """Sets the parts that are other models, before the network is made."""

    def trained_parts(self):
        """Names of the attributes that train, and are averaged, as one player."""
        return ("network",)

    def to_latents(self, x):
        """Images `(B, H, W, C)` as what the network denoises: a tensor, `latent_shape`.

        In training and in `img2img`, `inpaint`, `invert` and `log_likelihood`; no
        gradient goes through it.
        """
        return x

    def from_latents(self, z):
        """The images `(B, H, W, C)` of latents, of `generate` and its kin."""
        return z

    def latent_shape(self, image_shape):
        """`(h, w, c)` of the latents of images `(H, W, C)`."""
        return image_shape

    def conditions_of(self, y):
        """The network's conditions: a dict of tensors, `{}` for none.

        Args:
            y: what `fit` is given, as tensors; or a dict with the keys `"labels"`,
                `"vector"`, `"context"` and `"image"`, of what `generate` is given.
        """
        return self.conditions.tensors(self.conditions.named(y))

    def null_conditions(self, conditions):
        """The conditions of images without any: label K, and `null_condition`.

        The condition image, which says what is to be changed, stays as it is.

        Args:
            conditions: dict of tensors, of `conditions_of`.

        Returns:
            Dict like `conditions`.
        """
        return self.conditions.null(conditions, self.null_condition)

    def check_conditions(self, y, count):
        """Refuses a `y` of `fit`, NumPy arrays, that does not fit `count` images."""
        self.conditions.check(self.conditions.named(y), count)

    def time_grid(self, num_steps, spacing):
        """The `TimeGrid` of so many steps.

        Args:
            num_steps: how many.
            spacing: a spacing of `kg.samplers.time_grid`, or a dict of its arguments.
        """
        return samplers.time_grid(self.schedule, num_steps, **plain_spacing(spacing))

    def _null_variables(self, given):
        """The null of the vector and the context: dict name -> weight of the model."""
        values = self.conditions.check_null(given)
        variables = {}
        for name, shape in self.conditions.fixed_shapes.items():
            variables[name] = self.add_weight(
                name=f"null_{name}",
                shape=shape,
                dtype="float32",
                initializer=Zeros(),
                trainable=False,
            )
            if name in values:
                variables[name].assign(values[name])
        return variables

    def save_own_variables(self, store):
        super().save_own_variables(store)
        for name, variable in self.null_condition.items():
            store[f"null_{name}"] = backend.to_host(variable)

    def load_own_variables(self, store):
        super().load_own_variables(store)
        for name, variable in self.null_condition.items():
            if f"null_{name}" in store:  # else a file from before it was a weight
                variable.assign(store[f"null_{name}"])

    # Training

    def default_optimizer(self, player):
        """Adam(2e-4), gradients clipped to the norm 1 (2006.11239, its code)."""
        del player
        return keras.optimizers.Adam(2e-4, global_clipnorm=1.0)

    def prediction(self, x, t, condition, training=False):
        """What the network gives, in whatever parameterization: `(B, H, W, C)`."""
        condition = dict(condition or {})
        image = condition.pop("image", None)
        if image is not None:
            x = ops.concatenate([x, ops.cast(image, x.dtype)], axis=-1)
        if isinstance(self.network, Functional):
            return self.network([x, t, *condition.values()], training=training)
        return self.network(x, t, **condition, training=training)

    def denoiser(self, training=False, clip="default"):
        """The model as a function `denoise(x, t, condition) -> x_0`: a `Denoiser`.

        Args:
            training: whether the network is called in training, with its own weights,
                or with their average where one is kept.
            clip: by default the model's own.
        """

        def network(x, t, condition=None):
            if training:
                return self.prediction(x, t, condition, training)
            return self.run_averaged(
                "network", lambda: self.prediction(x, t, condition)
            )

        return Denoiser(
            network,
            self.schedule,
            self.parameterization,
            clip=self.clip if clip == "default" else clip,
            learned_variance=self.learned_variance,
            sigma_data=self.sigma_data,
            time_scale=self.time_scale,
            round_times=self.round_times,
        )

    def _times(self, u):
        """Times to train at, of uniform `u` `(B,)`."""
        if self.time_sampling == "uniform":
            return uniform_times(self.schedule, u)
        u = ops.clip(u, 1e-6, 1.0 - 1e-6)  # at 0 and 1 the normal one is infinite
        z = math.sqrt(2.0) * ops.erfinv(2.0 * u - 1.0)
        if self.time_sampling == "lognormal":
            return lognormal_times(self.schedule, z)
        return logit_normal_times(self.schedule, z)

    def losses(self, x, condition, t, noise, training):
        """The loss of each sample `(B,)`; see `Denoiser.loss`."""
        return self.denoiser(training).loss(
            x, noise, t, condition or None, weighting=self.weighting
        )

    def batch_of(self, data, training):
        """Latents, conditions and weights of a batch, tensors.

        Args:
            data: the triple that a step is given.
            training: whether it is a step of training, which may draw noise.
        """
        images, y, weight = data
        images, _, weight = tensors((images, None, weight))
        return ops.stop_gradient(self.to_latents(images)), self.conditions_of(y), weight

    def train_step(self, data):
        x, condition, weight = self.batch_of(data, training=True)
        batch = ops.shape(x)[0]
        u = self.noise.uniform("times", (batch,))
        noise = self.noise.normal("noise", ops.shape(x))
        condition = self._dropped(condition, batch)
        t = self._times(u)

        def loss(x, condition, t, u, noise, weight):
            losses = self.losses(x, condition, t, noise, training=True)
            self._track_parts(u, ops.stop_gradient(losses), weight)
            return mean_over_samples(losses, weight)

        self.minimize("network", loss, x, condition, t, u, noise, weight)

    def _dropped(self, condition, batch):
        """The conditions of a training batch, left out at times."""
        conditions, u = self.conditions, None
        if not condition or not (conditions.dropout or conditions.image_dropout):
            return condition
        keep = self.noise.bernoulli("keep", (batch,), 1.0 - conditions.dropout)
        if conditions.image_dropout:
            u = self.noise.uniform("keep image", (batch,))
        return conditions.dropped(condition, keep, self.null_conditions(condition), u)

    def _track_parts(self, u, losses, weight):
        """The losses of the samples whose time lies in each part."""
        for k, name in enumerate(_PARTS):
            inside = ops.equal(ops.floor(u * len(_PARTS)), float(k))
            inside = ops.cast(inside, losses.dtype)  # (B,)
            if weight is not None:
                inside = inside * ops.cast(weight, losses.dtype)
            self.track(name, weighted_mean(losses, inside), ops.sum(inside))

    def test_step(self, data):
        """Each sample at one time of each part of the training's times."""
        x, condition, weight = self.batch_of(data, training=False)
        batch = ops.shape(x)[0]
        first = self.samples_seen() + backend.replicas.offset()
        whole = 0.0
        for k, name in enumerate(_PARTS):
            key = random.key(self.seed, f"evaluate/{name}")
            u = random.uniform(random.subkey(key, "times"), (batch,), offset=first)
            noise = random.normal(
                random.subkey(key, "noise"), ops.shape(x), offset=first
            )
            t = self._times((k + u) / len(_PARTS))
            losses = self.losses(x, condition, t, noise, training=False)
            loss = mean_over_samples(losses, weight)
            self.track(name, loss)
            whole = whole + loss / len(_PARTS)
        self.track("network", whole)

    # Sampling

    @checked(
        sampler=either(text, function),
        spacing=either(text, mapping),
        sampler_options=mapping,
        guidance_scale=either(number(), array(1)),
        guidance_interval=pair(">= 0"),
        guidance_rescale=number("[0, 1]"),
        image_guidance_scale=either(number(), array(1)),
        negative=mapping,
        noise=array(4),
        height=integer(1),
        width=integer(1),
        callback=function,
        vector=array(2),
        context=array(3),
        image=array(4),
    )
    def generate(
        self,
        n=None,
        seed=0,
        *,
        labels=None,
        vector=None,
        context=None,
        image=None,
        sampler=None,
        num_steps=None,
        spacing=None,
        sampler_options=None,
        guidance_scale=1.0,
        guidance_interval=None,
        guidance_rescale=0.0,
        image_guidance_scale=None,
        negative=None,
        noise=None,
        height=None,
        width=None,
        callback=None,
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
            image: floats `(n, h, w, C')` of the sides of x, for a model with
                `concat_channels`.
            sampler: a name in `kg.samplers.NAMES`, or a function time grid ->
                `Sampler`; by default the model's own.
            num_steps: of the sampler, at most the training's; by default the model's
                own.
            spacing: of the steps: a spacing of `kg.samplers.time_grid`, or a dict of
                its arguments; by default the model's own.
            sampler_options: dict of arguments of the sampler, such as `{"eta": 1.0}`;
                by default the model's own, for its own sampler.
            guidance_scale: of classifier-free guidance (2207.12598); 1 is none, more
                follows the condition more closely and varies less.
            guidance_interval: `(t_low, t_high)`: guidance at these times alone
                (2404.07724).
            guidance_rescale: in [0, 1] (2305.08891, section 3.4).
            image_guidance_scale: of guidance towards the condition image (2211.09800,
                equation 3), with a third call of the network; None is none.
            negative: dict of conditions to guide away from, in place of the null
                condition: `{"labels": ...}`, as many as there are samples.
            noise: floats `(n, H, W, C)` to begin with, such as `invert` gives; by
                default drawn from the seed.
            height, width: of the images, for a network that takes other sizes than its
                own, such as `kg.UNet`; by default those of `image_shape`.
            callback: function `(done, total, first, preview)`, called after each
                evaluation of the network, `done` of `total`, for the samples from
                number `first` on; `preview()` gives the images that it foresees. The
                loop is then driven from Python.
            batch_size: images in one pass.
            verbose: 1 shows a progress bar of the network's evaluations; the loop is
                then driven from Python.

        Returns:
            NumPy float32 `(n, H, W, C)`, in the range of the training images.

        Raises:
            ValueError: for arguments that do not fit, before any work.
            FloatingPointError: for numbers that are not finite; names the part that
                made them.
        """
        batches = self.generate_batches(
            n,
            seed,
            labels=labels,
            vector=vector,
            context=context,
            image=image,
            sampler=sampler,
            num_steps=num_steps,
            spacing=spacing,
            sampler_options=sampler_options,
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            guidance_rescale=guidance_rescale,
            image_guidance_scale=image_guidance_scale,
            negative=negative,
            noise=noise,
            height=height,
            width=width,
            callback=callback,
            batch_size=batch_size,
            verbose=verbose,
        )
        return np.concatenate(list(batches))

    @checked(
        guidance_scale=either(number(), array(1)),
        image_guidance_scale=either(number(), array(1)),
        negative=mapping,
        noise=array(4),
        callback=function,
        vector=array(2),
        context=array(3),
        image=array(4),
    )
    def generate_batches(
        self,
        n=None,
        seed=0,
        *,
        labels=None,
        vector=None,
        context=None,
        image=None,
        guidance_scale=1.0,
        image_guidance_scale=None,
        negative=None,
        noise=None,
        callback=None,
        batch_size=64,
        verbose=0,
        **options,
    ):
        """What `generate` returns, one batch after the other: an iterator."""
        if n is None and noise is not None:
            n = len(noise)
        inputs, n, guided = sampling_inputs(
            self,
            n,
            seed,
            labels=labels,
            vector=vector,
            context=context,
            image=image,
            guidance_scale=guidance_scale,
            image_guidance_scale=image_guidance_scale,
            negative=negative,
        )
        loop = sampling_loop(self, guided=guided, **options)
        if noise is not None:
            inputs["noise"] = checked_images(noise, n, loop.latent_shape, "noise")
        key = random.key(seed, "generate/latents")
        return loop.batches("generate", inputs, n, key, batch_size, verbose, callback)

    # Images

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
                `generate`; `height` and `width` where the images have other sides than
                `image_shape`.

        Returns:
            NumPy float32 like `images`.
        """
        return editing.img2img(
            self, images, strength, seed, batch_size, verbose, options
        )

    @checked(
        images=array(finite=False),
        mask=array(finite=True),
        method=text,
        strength=number("(0, 1]"),
    )
    def inpaint(
        self,
        images,
        mask,
        seed=0,
        *,
        method=None,
        strength=1.0,
        num_steps=None,
        jump_length=None,
        resamplings=None,
        batch_size=64,
        verbose=0,
        **options,
    ):
        """Paints a part of images anew, in keeping with the rest.

        Three methods:

        - `"repaint"` (2201.09865): steps are gone back and done again, so that what is
          painted fits what is known. What the images hold under the mask is not read.
        - `"blended"` (2206.02779): after each step of any sampler what is known is put
          in its place, as noisy as x.
        - `"concat"`: the network itself takes the mask and what is known beside x, such
          as Stable Diffusion's for inpainting; its `concat_channels` is C + 1.

        Args:
            images: floats `(N, H, W, C)`.
            mask: booleans, True where to paint: `(H, W)`, `(H, W, 1)` or
                `(N, H, W, 1)`. Of latents, those are painted of which any pixel is
                (`"repaint"`), or the first pixel (the others, as diffusers has it).
            seed: integer >= 0.
            method: by default `"concat"` where the network takes the mask, else
                `"repaint"`.
            strength: share of the steps, in (0, 1]: below 1, what is painted begins
                with the images, noised.
            num_steps: of the sampler; by default 250 of `"repaint"`, else the model's.
            jump_length: of `"repaint"`: how many steps at a time are gone back and done
                again (section 4.2); at most `num_steps`, by default 10 of more than
                that.
            resamplings: of `"repaint"`: how often each stretch is done, by default 10;
                1 goes back nowhere. The network is called about
                `num_steps * resamplings` times.
            batch_size, verbose: see `generate`; `"repaint"` shows no progress.
            **options: see `img2img`. `"repaint"` takes a sampler of one evaluation a
                step, by default `"ddpm"`.

        Returns:
            NumPy float32 like `images`: equal to them outside the mask.

        Raises:
            ValueError: for arguments that do not fit, before any work.
            FloatingPointError: see `generate`.
        """
        options["num_steps"] = num_steps
        return editing.inpaint(
            self,
            images,
            mask,
            seed,
            method,
            strength,
            jump_length,
            resamplings,
            batch_size,
            verbose,
            options,
        )

    @checked(images=array(finite=False), spacing=either(text, mapping))
    def invert(self, images, *, num_steps=None, spacing=None, batch_size=64, **given):
        """The noise from which `generate` makes these images (2010.02502, 4.3).

        DDIM's deterministic steps the other way: `generate(noise=invert(images))`
        with as many steps and the sampler `"ddim"` gives the images back but for the
        error of the steps.

        Args:
            images: floats `(N, H, W, C)`.
            num_steps, spacing, batch_size: see `generate`.
            **given: the images' conditions: `labels`, `vector`, `context`, `image`; and
                `height` and `width`, see `img2img`.

        Returns:
            NumPy float32 like `images`: about standard normal.
        """
        return editing.invert(self, images, num_steps, spacing, batch_size, given)

    @checked(a=array(), b=array(), kind=text)
    def interpolate(
        self, a, b, n=8, *, kind="spherical", num_steps=None, batch_size=64
    ):
        """Images on the way from one to another, through their noise (2010.02502, 5.3).

        Args:
            a: where it begins: an image `(H, W, C)`.
            b: where it ends, likewise.
            n: images on the way, both ends included, at least 2.
            kind: `"spherical"` or `"linear"`, of the noise that `invert` finds.
            num_steps: see `generate`.
            batch_size: images in one pass.

        Returns:
            NumPy float32 `(n, H, W, C)`, the first and last about `a` and `b`.
        """
        return editing.interpolated(self, a, b, n, kind, num_steps, batch_size)

    @checked(probe=text)
    def log_likelihood(
        self,
        images,
        seed=0,
        *,
        num_steps=100,
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
            num_steps: of the ODE's solver, of four evaluations and gradients each.
            probe: how the divergence is found: `"rademacher"` or `"gaussian"` vectors,
                without a bias, or `"exact"`, with a gradient for each dimension.
            probes: how many vectors.
            batch_size: images in one pass.
            **given: the images' conditions: `labels`, `vector`, `context`.

        Returns:
            NumPy float32 `(N,)`.
        """
        return likelihood.of_images(
            self, images, seed, num_steps, probe, probes, batch_size, given
        )

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
        return likelihood.bits_of_images(self, images, seed, levels, options)

    # Use as a function, and export

    def sampling_variables(self):
        """The network's, and those of the layers that a composing model holds."""
        own = {id(self.network), id(self.ema)}
        others = [layer.variables for layer in self.layers if id(layer) not in own]
        others.append(list(self.null_condition.values()))
        return sum(others, self.averaged_variables("network"))

    def call(
        self,
        x,
        t,
        labels=None,
        vector=None,
        context=None,
        image=None,
        training=False,
    ):
        """What the network gives for noisy images x at times t, by the average."""
        given = {"labels": labels, "vector": vector, "context": context, "image": image}
        given = self.conditions.tensors(
            {k: v for k, v in given.items() if k in self.conditions.shapes}
        )
        return self.denoiser(training).predict(ops.convert_to_tensor(x), t, given)[0]

    def input_ranges(self):
        ranges = {**super().input_ranges(), "guidance_scale": Range(default=1.0)}
        if self.num_classes and self.conditions.dropout:  # K is that of no label
            ranges["labels"] = Range(least=0, most=self.num_classes)
        return ranges

    def export_signatures(self):
        """What `export` writes: name -> (function, its inputs); the first serves.

        - `generate`: `seed`, with the conditions and `guidance_scale`, or `n` ->
          `images`: the whole loop of the model's `sampler` and `num_steps`. Guidance is
          in it where the model was trained for it.
        - `denoise`: noisy `images`, times `t` and the conditions -> `x_0`.
        """
        return signatures.export_signatures(self)

    # Configuration

    def get_config(self):
        names = (
            "parameterization",
            "image_shape",
            "num_classes",
            "weighting",
            "time_sampling",
            "variance",
            "clip",
            "sigma_data",
            "time_scale",
            "sampler",
            "num_steps",
            "round_times",
            "ema_decay",
            "concat_channels",
        )
        return {
            **configuration(self, names, self._own),
            "schedule": self.schedule.get_config(),
            "vector_dim": self.conditions.vector_dim,
            "context_shape": self.conditions.context_shape,
            "condition_dropout": self.conditions.dropout,
            "image_dropout": self.conditions.image_dropout,
            "sampler_options": dict(self.sampler_options),
            "spacing": self.spacing and dict(self.spacing),
        }


def _image_shape(given, network, concat_channels):
    if given is not None:
        return check_image_shape(given)
    shape = getattr(network, "image_shape", None)
    if shape is None and isinstance(network, Functional):
        shape = network.inputs[0].shape[1:]
    if shape is not None and concat_channels:
        shape = (*shape[:-1], shape[-1] - concat_channels)
    return check_image_shape(shape)


def _check_taken(network, vector_dim, context_shape):
    """Refuses what is not said, or said otherwise, of the network's conditions."""
    for name, argument, given, example in (
        ("context", "context_shape", context_shape and context_shape[-1], "(77, {})"),
        ("vector", "vector_dim", vector_dim, "{}"),
    ):
        taken = getattr(network, f"{name}_dim", None)
        if taken is not None and given != taken:
            said = "none was said" if given is None else f"{argument} says {given}"
            raise ValueError(
                f"This network takes a {name} of {taken} dimensions, and {said}: give "
                f"{argument}={example.format(taken)}."
            )


def _dropout(given, num_classes, network):
    """The rate of `condition_dropout`, checked against the network's table."""
    null_class = num_classes is None or getattr(network, "null_class", True)
    if given and not null_class:
        raise ValueError(
            f"condition_dropout={given!r} needs a network that knows the label "
            f"{num_classes}, of an image without one: make it with null_class=True."
        )
    return 0.1 * null_class if given is None else given


def _check_choices(schedule, weighting, time_sampling, variance, clip):
    for name, value, known in (
        ("weighting", weighting, WEIGHTINGS),
        ("time_sampling", time_sampling, TIME_SAMPLINGS),
        ("variance", variance, VARIANCES),
    ):
        if value not in known:
            raise ValueError(
                f"unknown {name} {value!r}; expected one of {', '.join(known)}."
            )
    flow = isinstance(schedule, schedules.RectifiedFlow)
    if time_sampling == "logit_normal" and not flow:
        raise ValueError(
            "time_sampling='logit_normal' draws times of schedule='rectified_flow'; "
            f"got {type(schedule).__name__}."
        )
    if time_sampling == "lognormal" and isinstance(schedule, schedules.Discrete):
        raise ValueError(
            "time_sampling='lognormal' draws times between a Discrete schedule's: "
            "take a continuous one, such as schedule='karras' or "
            "kg.schedules.Continuous('linear')."
        )
    if clip is not None and (isinstance(clip, bool) or not clip > 0):
        raise ValueError(f"clip must be a number above 0 or None; got {clip!r}.")


def _time_scale(schedule):
    """What makes the network's times run to about 1,000."""
    return 1000.0 if schedule.t_max <= 1 else 1.0


def _check_floats(x, shape):
    """Latents: floats of the right shape, of any range."""
    if np.ndim(x) != 4 or tuple(np.shape(x)[1:]) != shape or len(x) == 0:
        raise ValueError(
            f"The data must have the shape (N, {', '.join(map(str, shape))}); got "
            f"{np.shape(x)}."
        )
    if not np.issubdtype(x.dtype, np.floating) or not np.all(np.isfinite(x)):
        raise ValueError(f"The data must be finite floats; got the type {x.dtype}.")
