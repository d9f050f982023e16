"""AutoencoderKL: the first stage of latent diffusion (2112.10752, section 3.1).

An image autoencoder whose code is a small image of Gaussian latents, held loosely to
N(0, I) by a tiny weight on the KL divergence. It trains on the absolute error, a
perceptual distance and a patch discriminator whose weight balances its gradient
against the reconstruction's (2012.09841, equation 7).
"""

import keras
import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.backend import random
from keras_genai.backend.precision import dtype_policy, widen
from keras_genai.losses import adversarial
from keras_genai.losses.perceptual import perceptual_distance
from keras_genai.losses.reduction import mean_over_samples
from keras_genai.training import GenerativeModel
from keras_genai.training.data import tensors
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import (
    check_image_shape,
    check_images,
    check_labels,
    check_positive,
    check_sample_weight,
)
from keras_genai.utils.serialization import PACKAGE, configuration
from keras_genai.utils.validation import (
    array,
    flag,
    integer,
    integers,
    network,
    number,
    text,
    tuple_of,
)
from keras_genai.vaes.gaussian import DiagonalGaussian
from keras_genai.vaes.kl_networks import (
    LogVariance,
    kl_decoder,
    kl_encoder,
    patch_discriminator,
)
from keras_genai.vaes.tiling import tiled
from keras_genai.weights.pretrained import Pretrained

RECONSTRUCTIONS = {"l1": ops.absolute, "l2": ops.square}


@keras.saving.register_keras_serializable(PACKAGE)
class AutoencoderKL(Pretrained, GenerativeModel):
    """The KL autoencoder of latent diffusion, weight for weight.

    The default arguments make the network of Stable Diffusion 1.x; `from_pretrained`
    reads its published weights. `encode`, `decode` and `reconstruct` take images of
    any size whose sides the halvings divide (8 for four levels).

    `fit(images)` minimises, with the first line summed over pixels and channels,

        nll = (|x - x'| + perceptual(x, x')) / exp(s) + s
        loss = nll + kl_weight KL(q(z|x) || N(0, I)) + d discriminator_weight (-D(x'))

    divided by H W C (Adam does not see that; half precision overflows without), with
    s the log variance of the reconstruction and d the ratio of the norms of the
    gradients of nll and of -D by the kernel of the decoder's last layer (2012.09841,
    equation 7). From the step `discriminator_start` on, the patch discriminator D
    learns by the hinge loss. The logs show the means over pixels of the error
    (`reconstruction`), the perceptual distance, the KL in nats of an image, -D
    (`adversarial`) and `d discriminator_weight`.

    Published weights (`from_pretrained`, `save_pretrained`): diffusers'
    `AutoencoderKL`, `subfolder="vae"` of a Stable Diffusion pipeline. Its encoder and
    decoder are written.

    Args:
        image_shape: `(H, W, C)` of the images of `fit` and `generate`; H and W
            divisible by `2 ** (len(block_channels) - 1)`.
        latent_channels: channels of the latents.
        block_channels: channels of each level; between two the sides are halved.
        layers_per_block: residual blocks of a level.
        groups: of the group normalizations; it must divide every number of channels.
        attention: whether the positions attend to each other at the smallest level.
        quant_conv: whether 1 x 1 convolutions end the encoder and begin the decoder
            (Stable Diffusion 1 and 2; not 3).
        scaling_factor: what a diffusion model multiplies latents by. `encode` and
            `decode` do not apply it.
        shift_factor: what it subtracts from them before, or None.
        force_upcast: whether encoder and decoder are held and computed in float32 where
            the model's type is float16, in which those of Stable Diffusion XL overflow
            and give black images. Published configurations say so by default.
        reconstruction: `"l1"`, the absolute error, or `"l2"`, the squared one.
        perceptual: a built Keras network from images `(B, H, W, C)` in [-1, 1] to a
            feature map `(B, h, w, K)` or a list of them, such as
            `keras.Model(cnn.input, [cnn.get_layer(n).output for n in names])`, or None
            for no perceptual loss. It does not train: its `trainable` is set to False.
        perceptual_weight: its factor.
        perceptual_channels: list over its outputs of weights `(K,)` of the channels
            (LPIPS's learned ones), or None for ones.
        kl_weight: factor of the KL divergence.
        log_variance: s, its first value.
        learn_log_variance: whether s trains (in the published training it does not).
        discriminator_weight: factor of the adversarial loss; 0 for no discriminator.
        discriminator_start: the step from which it takes part.
        discriminator_filters: width of the discriminator.
        discriminator_layers: its layers of stride 2. Three see images of at least 24
            pixels, two of 12, one of 6.
        seed: integer >= 0: initial weights, noise and shuffling follow from it.

    Raises:
        ValueError: for an argument out of range, before any work.

    Example:

    ```python
    model = kg.AutoencoderKL(image_shape=(32, 32, 3), block_channels=(32, 64, 64))
    model.compile()
    model.fit(images, batch_size=16, epochs=10)       # images in [-1, 1]
    latents = model.encode(images).mode()             # (N, 8, 8, 4)
    again = model.decode(latents)                     # (N, 32, 32, 3)
    ```
    """

    weights_module = "autoencoder_kl"

    @checked(
        block_channels=integers(0),
        attention=flag,
        scaling_factor=number("> 0"),
        shift_factor=number(),
        force_upcast=flag,
        reconstruction=text,
        perceptual=network,
        perceptual_weight=number(">= 0"),
        perceptual_channels=tuple_of(array(1)),
        kl_weight=number(">= 0"),
        log_variance=number(),
        discriminator_weight=number(">= 0"),
        discriminator_start=integer(0),
    )
    def __init__(
        self,
        image_shape=(256, 256, 3),
        *,
        latent_channels=4,
        block_channels=(128, 256, 512, 512),
        layers_per_block=2,
        groups=32,
        attention=True,
        quant_conv=True,
        scaling_factor=0.18215,
        shift_factor=None,
        force_upcast=False,
        reconstruction="l1",
        perceptual=None,
        perceptual_weight=1.0,
        perceptual_channels=None,
        kl_weight=1e-6,
        log_variance=0.0,
        learn_log_variance=False,
        discriminator_weight=0.5,
        discriminator_start=50_001,
        discriminator_filters=64,
        discriminator_layers=3,
        seed=0,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        arguments = {
            "image_shape": tuple(image_shape),
            "latent_channels": latent_channels,
            "block_channels": tuple(block_channels),
            "layers_per_block": layers_per_block,
            "groups": groups,
            "attention": attention,
            "quant_conv": quant_conv,
            "scaling_factor": scaling_factor,
            "shift_factor": shift_factor,
            "force_upcast": force_upcast,
            "reconstruction": reconstruction,
            "perceptual_weight": perceptual_weight,
            "perceptual_channels": perceptual_channels,
            "kl_weight": kl_weight,
            "log_variance": log_variance,
            "learn_log_variance": learn_log_variance,
            "discriminator_weight": discriminator_weight,
            "discriminator_start": discriminator_start,
            "discriminator_filters": discriminator_filters,
            "discriminator_layers": discriminator_layers,
        }
        for argument, value in arguments.items():
            setattr(self, argument, value)
        self._arguments = tuple(arguments)
        self._check_arguments(perceptual)
        self._size = float(np.prod(image_shape))
        network = {
            "channels": image_shape[-1],
            "latent_channels": latent_channels,
            "block_channels": tuple(block_channels),
            "layers_per_block": layers_per_block,
            "groups": groups,
            "attention": attention,
            "quant_conv": quant_conv,
            "seed": seed,
        }
        upcast = force_upcast and self.compute_dtype == "float16"
        with dtype_policy("float32" if upcast else kwargs.get("dtype")):
            self.encoder = kl_encoder(**network)
            self.decoder = kl_decoder(**network)
        with dtype_policy(kwargs.get("dtype")):
            self.noise_scale = LogVariance(
                log_variance, learn_log_variance, name="log_variance"
            )
            self.discriminator = None
            if discriminator_weight:
                self.discriminator = patch_discriminator(
                    image_shape[-1], discriminator_filters, discriminator_layers, seed
                )
        self._last = self.decoder.get_layer("conv_out")
        # Not tracked: the layers are the decoder's.
        self.__dict__["_decode_in_two"] = keras.Model(
            self.decoder.input, [self._last.input, self._last.output]
        )
        if perceptual is not None:
            self._check_perceptual(perceptual)
            perceptual.trainable = False
        self.perceptual = perceptual
        players = ["autoencoder"] + ["discriminator"] * bool(discriminator_weight)
        metrics = ["reconstruction", "kl"]
        metrics += ["perceptual"] * (perceptual is not None)
        metrics += ["adversarial", "adaptive_weight"] * bool(discriminator_weight)
        self.set_players(
            *players,
            networks={"autoencoder": ("encoder", "decoder", "noise_scale")},
            metrics=metrics,
        )

    # Training

    def default_optimizer(self, player):
        """Adam at 4.5e-6 for each image of a batch of 12, betas 0.5 and 0.9.

        The published training of the factor 8 model (2112.10752, its configurations).
        """
        del player
        return keras.optimizers.Adam(12 * 4.5e-6, beta_1=0.5, beta_2=0.9)

    def posterior(self, images, training=False):
        """`q(z | x)` of a tensor of images: a `DiagonalGaussian` of tensors."""
        moments = self.encoder(images, training=training)
        return DiagonalGaussian.from_moments(widen(moments))

    def _reconstruction(self, x, fake, weight):
        """The error with the perceptual distance: a sum over pixels, not yet scaled."""
        errors = RECONSTRUCTIONS[self.reconstruction](widen(x) - fake)  # (B, H, W, C)
        mean = mean_over_samples(errors, weight)
        self.track("reconstruction", ops.stop_gradient(mean))
        if self.perceptual is not None:
            distance = perceptual_distance(
                self.perceptual(x, training=False),
                self.perceptual(ops.cast(fake, x.dtype), training=False),
                self.perceptual_channels,
            )
            distance = mean_over_samples(distance, weight)
            self.track("perceptual", ops.stop_gradient(distance))
            mean = mean + self.perceptual_weight * distance
        return self._size * mean

    def _negative_log_likelihood(self, error):
        """Laplace's or Gauss's, of the scaled error, in nats up to a constant."""
        s = self.noise_scale.value
        return error * ops.exp(-s) + self._size * s

    def _adversarial(self, fake, weight, training=True):
        # The discriminator's batch statistics are its own phase's.
        logits = backend.with_values(
            (), lambda: self.discriminator(fake, training=training)
        )
        return adversarial.critic_generator(logits, weight=weight)

    def autoencoder_loss(self, x, weight=None):
        """The loss of encoder and decoder on a batch, a scalar.

        Args:
            x: images `(B, H, W, C)`, a tensor.
            weight: `(B,)`, or None.
        """
        posterior = self.posterior(x, training=True)
        noise = self.noise.normal("posterior", ops.shape(posterior.mean))
        latents = posterior.sample(noise=ops.cast(noise, posterior.mean.dtype))
        features, fake = self._decode_in_two(latents, training=True)
        fake = widen(fake)
        kl = mean_over_samples(posterior.kl(), weight)
        self.track("kl", ops.stop_gradient(kl))
        # What follows the decoder is differentiated once, by its output: the balance
        # needs both gradients apart, and the losses' own backward pass only their sum.
        error, by_error = _value_and_gradient(
            lambda fake: self._reconstruction(x, fake, weight), fake
        )
        loss = self._negative_log_likelihood(_standing_for(error, by_error, fake))
        loss = loss + self.kl_weight * kl
        if self.discriminator is None:
            return loss / self._size

        def adversarial_loss():
            # Times the number of pixels, for half precision: means have tiny gradients.
            judged, by_judged = _value_and_gradient(
                lambda fake: self._size * self._adversarial(fake, weight), fake
            )
            judged, by_judged = judged / self._size, by_judged / self._size
            balance = self.adaptive_weight(
                features, by_error * ops.exp(-self.noise_scale.value), by_judged
            )
            return judged, by_judged, balance

        judged, by_judged, balance = self._from_start(
            adversarial_loss,
            lambda: (ops.zeros(()), ops.zeros_like(fake), ops.zeros(())),
        )
        self.track("adversarial", judged)
        self.track("adaptive_weight", balance)
        loss = loss + balance * _standing_for(judged, by_judged, fake)
        return loss / self._size

    def adaptive_weight(self, features, by_error, by_judged):
        """`discriminator_weight` times lambda of 2012.09841, equation 7; a constant.

        Args:
            features: what the decoder's last layer is given.
            by_error: gradient of the reconstruction's loss by the images.
            by_judged: gradient of the adversarial loss by the images.

        Returns:
            Scalar in [0, 1e4 discriminator_weight].
        """
        features = ops.stop_gradient(features)
        kernel = self._last.kernel

        def norm_by_kernel(by_images):
            # In sum 1000, so that half precision neither loses it nor overflows.
            size = ops.sum(ops.absolute(by_images)) / 1e3
            size = ops.where(size > 0.0, size, ops.ones_like(size))
            unit = ops.stop_gradient(by_images / size)

            def product(value):
                images = backend.with_values(
                    [(kernel, value)], lambda: self._last(features)
                )
                return ops.sum(unit * widen(images))

            _, gradient = backend.value_and_gradient(product, kernel.value)
            gradient = size * gradient
            share = backend.replicas.share()
            (gradient,) = backend.replicas.total(
                [gradient if share is None else share * gradient]
            )
            return ops.sqrt(ops.sum(ops.square(gradient)))

        ratio = norm_by_kernel(by_error) / (norm_by_kernel(by_judged) + 1e-4)
        ratio = ops.clip(ratio, 0.0, 1e4)
        return ops.stop_gradient(self.discriminator_weight * ratio)

    def discriminator_loss(self, real, fake, weight=None, training=True):
        """The hinge loss of the discriminator, a scalar."""
        return adversarial.hinge_discriminator(
            self.discriminator(real, training=training),
            self.discriminator(fake, training=training),
            weight=weight,
        )

    def _from_start(self, fn, otherwise):
        """`fn()` from the step `discriminator_start` on, `otherwise()` before."""
        if self.discriminator_start == 0:
            return fn()
        step = self.noise.step.value
        if backend.replicas.share() is None:
            return backend.cond(step >= self.discriminator_start, fn, otherwise)
        # Replicas meet in its sums, which a branch forbids: its weight is 0 before.
        active = ops.cast(step >= self.discriminator_start, "float32")
        return keras.tree.map_structure(lambda x: active * x, fn())

    def train_step(self, data):
        x, _, weight = tensors(data)
        self.minimize("autoencoder", self.autoencoder_loss, x, weight)
        if self.discriminator is None:
            return

        def loss_fn(x, weight):
            with backend.without_gradients():
                posterior = backend.with_values((), lambda: self.posterior(x))
                noise = self.noise.normal(
                    "posterior/discriminator", ops.shape(posterior.mean)
                )
                fake = self.decoder(
                    posterior.sample(noise=ops.cast(noise, posterior.mean.dtype))
                )
            fake = ops.stop_gradient(widen(fake))
            return self.discriminator_loss(x, fake, weight)

        def turn():
            return self.minimize("discriminator", loss_fn, x, weight)

        self._from_start(turn, lambda: ops.zeros(()))

    def test_step(self, data):
        x, _, weight = tensors(data)
        posterior = self.posterior(x)
        # Whatever the training has drawn, and however the data is cut into batches.
        noise = random.normal(
            random.key(self.seed, "evaluate/posterior"),
            ops.shape(posterior.mean),
            offset=self.samples_seen() + backend.replicas.offset(),
        )
        fake = widen(self.decoder(posterior.sample(noise=noise)))
        kl = mean_over_samples(posterior.kl(), weight)
        error = self._reconstruction(x, fake, weight)
        loss = self._negative_log_likelihood(error) + self.kl_weight * kl
        if self.discriminator is not None:
            judged = self._adversarial(fake, weight, training=False)
            self.track("adversarial", judged)
            self.track("adaptive_weight", ops.zeros(()))
            self.track("discriminator", self.discriminator_loss(x, fake, weight, False))
        self.track("kl", kl)
        self.track("autoencoder", loss / self._size)

    # Configuration

    def get_config(self):
        weights = self.perceptual_channels
        return {
            **configuration(self, self._arguments, ["perceptual"]),
            "perceptual_channels": weights
            and [np.asarray(w, "float64").tolist() for w in weights],
        }

    # Checks

    def _check_arguments(self, perceptual):
        if not self.block_channels:
            raise ValueError("block_channels must name at least one level; got ().")
        for channels in self.block_channels:
            if channels % self.groups:
                raise ValueError(
                    f"groups must divide every number of block_channels; {self.groups} "
                    f"does not divide {channels}."
                )
        self.check_sides(check_image_shape(self.image_shape)[:2], "image_shape")
        if self.discriminator_weight:
            self._check_discriminated()
        if perceptual is not None:
            made = isinstance(perceptual, keras.layers.Layer)
            if not made or not perceptual.built:
                raise ValueError(
                    "perceptual must be a built Keras network, such as keras.Model("
                    "inputs, features), or None; got "
                    f"{'one that is not built' if made else repr(perceptual)}."
                )
        if self.reconstruction not in RECONSTRUCTIONS:
            raise ValueError(
                f"reconstruction must be one of {', '.join(RECONSTRUCTIONS)}; got "
                f"{self.reconstruction!r}."
            )
        if self.perceptual_channels is not None and perceptual is None:
            raise ValueError("perceptual_channels needs perceptual, a network.")

    @staticmethod
    def discriminator_for(image_shape):
        """The arguments of the largest default discriminator that fits images."""
        layers = most_layers(image_shape)
        if layers:
            return {"discriminator_layers": layers}
        return {"discriminator_weight": 0.0}

    def _check_discriminated(self):
        """Refuses images of which the patch discriminator leaves nothing."""
        layers = most_layers(self.image_shape, self.discriminator_layers)
        if layers < self.discriminator_layers:
            raise ValueError(
                f"discriminator_layers={self.discriminator_layers} leaves no patch of "
                f"images of image_shape {self.image_shape}: "
                + (
                    f"give at most {layers}, "
                    if layers
                    else "their sides must be at least 6; give larger ones, "
                )
                + "or discriminator_weight=0.0 for no discriminator."
            )

    def _check_perceptual(self, perceptual):
        made = perceptual(keras.KerasTensor((None, *self.image_shape)))
        made = made if isinstance(made, (list, tuple)) else [made]
        if any(len(f.shape) != 4 for f in made):
            raise ValueError(
                "perceptual must return feature maps (B, h, w, K); it returns "
                f"{', '.join(str(tuple(f.shape)) for f in made)}. Take outputs before "
                "pooling and flattening."
            )
        weights = self.perceptual_channels
        if weights is not None and [np.shape(w) for w in weights] != [
            (f.shape[-1],) for f in made
        ]:
            raise ValueError(
                "perceptual_channels must hold one weight for each channel of each "
                f"feature map, {[f.shape[-1] for f in made]}; got "
                f"{[np.shape(w) for w in weights]}."
            )

    def check_data(self, x, condition, weight):
        check_images(x, self.image_shape)
        check_labels(condition, None, len(x), type(self).__name__)
        check_sample_weight(weight, len(x))

    # Latents and images

    @property
    def factor(self):
        """How many pixels of a side one latent stands for."""
        return 2 ** (len(self.block_channels) - 1)

    @property
    def latent_shape(self):
        """`(h, w, L)` of the latents of an image of `image_shape`."""
        height, width, _ = self.image_shape
        return height // self.factor, width // self.factor, self.latent_channels

    def check_sides(self, sides, name="The images"):
        """Refuses sides that the halvings do not divide."""
        if any(side % self.factor for side in sides):
            raise ValueError(
                f"{name} must have height and width divisible by {self.factor}, which "
                f"{len(self.block_channels)} block_channels halve "
                f"{len(self.block_channels) - 1} times; got {tuple(sides)}. Crop or "
                "pad them."
            )

    # Encoding and decoding

    @checked(tile=integer(1), overlap=number("[0, 1)"))
    def encode(self, images, batch_size=8, tile=None, overlap=0.25):
        """The posterior of images.

        Args:
            images: NumPy floats `(N, H, W, C)` in [-1, 1], of any size whose sides
                `factor` divides.
            batch_size: images in one pass.
            tile: side in pixels of the tiles in which larger images are encoded, so
                that memory does not grow with their size, or None for the whole at
                once. Each tile is normalised and attends within itself: a blend of
                tiles is near what the whole gives, not equal to it.
            overlap: least share of a tile that its neighbour overlaps, in [0, 1).

        Returns:
            `DiagonalGaussian` of NumPy float32 arrays `(N, H / factor, W / factor, L)`:
            `.sample(seed)`, `.mode()`, `.kl()`, `.mean`, `.log_variance`.

        Raises:
            ValueError: for images or an argument that do not fit.
        """
        images = _floats(images, self.image_shape[-1], "Images")
        self.check_sides(images.shape[1:3])
        tile, overlap = self._tile(tile, overlap)
        moments = self._run(
            "encode",
            lambda images: widen(self.encoder(images)),
            self.encoder,
            images,
            batch_size,
            tile and (2 * self.latent_channels, tile, overlap, self.factor, 1),
        )
        return DiagonalGaussian.from_moments(moments)

    @checked(latents=array(4), tile=integer(1), overlap=number("[0, 1)"))
    def decode(self, latents, batch_size=8, tile=None, overlap=0.25):
        """Images of latents, unscaled: as `encode` gives them.

        Args:
            latents: NumPy floats `(N, h, w, L)`. Those of a diffusion model are divided
                by `scaling_factor` first.
            batch_size: images in one pass.
            tile, overlap: see `encode`; in pixels, too.

        Returns:
            NumPy float32 `(N, h factor, w factor, C)`: near [-1, 1], not clipped.

        Raises:
            ValueError: for latents or an argument that do not fit.
        """
        latents = _floats(latents, self.latent_channels, "Latents")
        tile, overlap = self._tile(tile, overlap)
        return self._run(
            "decode",
            lambda latents: widen(self.decoder(latents)),
            self.decoder,
            latents,
            batch_size,
            tile and (self.image_shape[-1], tile, overlap, 1, self.factor),
        )

    @checked()
    def reconstruct(self, images, seed=None, **options):
        """Images decoded from their own latents.

        Args:
            images: see `encode`.
            seed: integer: sample the latents; by default they are the mode.
            **options: of `encode` and `decode`: `batch_size`, `tile`, `overlap`.

        Returns:
            NumPy float32 like `images`.
        """
        posterior = self.encode(images, **options)
        latents = posterior.mode() if seed is None else posterior.sample(seed)
        return self.decode(latents, **options)

    def _tile(self, tile, overlap):
        """The arguments in latents."""
        if tile is None:
            return None, None
        check_positive("tile", tile)
        if tile % self.factor:
            raise ValueError(
                f"tile must be a number of pixels divisible by {self.factor}; got "
                f"{tile}."
            )
        if not 0.0 <= overlap < 1.0:
            raise ValueError(f"overlap must be in [0, 1); got {overlap!r}.")
        tile = tile // self.factor
        return tile, int(tile * overlap)

    def _run(self, name, fn, network, x, batch_size, tiling):
        """Runs a network over images, or over the tiles of each of their places."""

        def run(part):
            variables = network.variables
            return self.run_in_batches(name, fn, variables, [part], batch_size)

        return tiled(run, x, *tiling) if tiling else run(x)

    def call(self, images, training=False):
        """Reconstructions of images `(B, H, W, C)`, by the mode of their latents."""
        latents = self.posterior(images, training=training).mode()
        return widen(self.decoder(latents, training=training))

    # Sampling and export

    def sampling_variables(self):
        return list(self.decoder.variables)

    def draw(self, key, count, first, labels=None):
        """Images decoded from N(0, I), clipped to [-1, 1].

        With a KL weight as small as the published one, N(0, I) is far from where the
        images' latents lie: samples worth looking at come from a diffusion model of
        the latents.
        """
        del labels
        latents = random.normal(key, (count, *self.latent_shape), offset=first)
        return ops.clip(widen(self.decoder(latents, training=False)), -1.0, 1.0)

    def export_signatures(self):
        """What `export` writes: name -> (function, its inputs); the first serves.

        Sides are free in all but `generate`. As ONNX that alone leaves from PyTorch,
        whose exporter does not follow free sides through the halvings.
        """
        images = ("images", (None, None, None, self.image_shape[-1]), "float32")
        latents = ("latents", (None, None, None, self.latent_channels), "float32")

        def encode(images):
            posterior = self.posterior(images)
            return {
                "mean": posterior.mean,
                "log_variance": posterior.log_variance,
            }

        return {
            "reconstruct": (lambda images: {"reconstruction": self(images)}, [images]),
            "encode": (encode, [images]),
            "decode": (
                lambda latents: {"images": widen(self.decoder(latents))},
                [latents],
            ),
            "generate": self.seeded_signature(),
        }


def _value_and_gradient(loss_fn, x):
    """A part's loss, and the gradient by x of the whole batch's, over its share.

    The statistics of a batch lie in the losses of all parts: these add up to the
    whole's by their shares, before they are differentiated.
    """
    share = backend.replicas.share()
    if share is None:
        return backend.value_and_gradient(loss_fn, x)
    value, gradient = backend.value_and_gradient(lambda x: share * loss_fn(x), x)
    return value / share, gradient / share


def _standing_for(value, gradient, x):
    """A value known as a constant, that has this gradient by `x`."""
    return value + ops.sum(gradient * (x - ops.stop_gradient(x)))


def most_layers(image_shape, layers=3):
    """How many strided layers of so many a `patch_discriminator` of images may have.

    0 where even one leaves no patch: see its convolutions of 4 x 4, padded by 1.
    """
    for count in range(layers, 0, -1):
        side = min(image_shape[:2])
        for _ in range(count):
            side = (side - 2) // 2 + 1
        if side > 2:
            return count
    return 0


def _floats(x, channels, what):
    """Images or latents as NumPy, checked."""
    x = ops.convert_to_numpy(x) if ops.is_tensor(x) else np.asarray(x)
    if x.ndim != 4 or x.shape[-1] != channels or 0 in x.shape:
        raise ValueError(
            f"{what} must have the shape (N, height, width, {channels}), channels "
            f"last; got {x.shape}."
        )
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(
            f"{what} must be floats; got the type {x.dtype}."
            + (
                " Scale 8-bit images by images.astype('float32') / 127.5 - 1."
                if what == "Images"
                else ""
            )
        )
    return x.astype(keras.config.floatx(), copy=False)
