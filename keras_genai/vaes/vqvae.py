"""VQ-VAE: images as a grid of codes from a codebook that is learned (1711.00937).

An encoder makes a small grid of latents, a quantizer replaces each by a code, a
decoder makes the image again. What the codes of an image are likely to be is learned
afterwards by a prior over them, and then the model generates.
"""

import keras
import numpy as np
from keras import ops

from keras_genai.backend.precision import dtype_policy
from keras_genai.layers import GumbelQuantizer
from keras_genai.losses import reconstruction as reconstructions
from keras_genai.losses.reduction import mean_over_samples, per_sample
from keras_genai.training import GenerativeModel
from keras_genai.training.compiled import Range
from keras_genai.training.data import tensors
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import (
    check_image_shape,
    check_images,
    check_labels,
    check_sample_weight,
)
from keras_genai.utils.serialization import PACKAGE, configuration
from keras_genai.utils.validation import (
    array,
    either,
    integer,
    network,
    number,
    text,
    word,
)
from keras_genai.vaes.codes import Perplexity, check_codes, check_temperature
from keras_genai.vaes.pixelcnn import PixelCNN
from keras_genai.vaes.vqvae_networks import (
    dvae_decoder,
    dvae_encoder,
    make_quantizer,
    vqvae_decoder,
    vqvae_encoder,
)


@keras.saving.register_keras_serializable(PACKAGE)
class VQVAE(GenerativeModel):
    """The vector-quantized autoencoder (1711.00937) and its relatives.

    `fit(images)` trains encoder, codebook and decoder; the logs show `loss`,
    `reconstruction`, the quantizer's own loss (`commitment` or `kl`) and the codebook's
    `perplexity`: by how many codes, were they equally frequent, an epoch's or an
    evaluation's codes would be as hard to guess. `fit_prior(images, labels)` then
    trains a `PixelCNN` on the codes, and `generate` draws from it.

    Args:
        image_shape: `(H, W, C)`, C from 1 to 4; the default networks need sides that
            divide by `2 ** num_downsamples`.
        quantizer: `"vector"` (1711.00937), `"residual"` (2107.03312), `"finite_scalar"`
            (2309.15505) or `"gumbel"` (DALL-E's discrete VAE, 2102.12092, with its
            networks), or a layer of `kg.layers`, such as
            `kg.layers.VectorQuantizer(512, 64, normalize=True)`.
        codebook_size: number of codes of a quantizer that is made by name; for
            `"finite_scalar"` a size of the paper's table.
        latent_dim: size of a code of a quantizer that is made by name.
            (`"finite_scalar"` has its own.)
        filters: channels of the default networks' layers (the paper: 256).
        residual_filters: those inside a residual block, if they are others.
        num_downsamples: how often the default networks halve the sides (the paper: 2).
        encoder: a network of your own: images -> latents `(B, h, w, channels)` of as
            many channels as the quantizer takes.
        decoder: a network of your own: codes `(B, h, w, latent_dim)` -> images, or
            what `reconstruction` makes images of.
        reconstruction: `"squared"` (the paper), `"absolute"`, or `"logit_laplace"`
            (2102.12092, where the decoder makes 2C channels). Means over pixels.
        prior: a `PixelCNN` of the shape `code_shape` over `codebook_size` values, or
            another model that draws such codes. `fit_prior` makes one where it is None.
        seed: integer >= 0: initial weights, noise and shuffling follow from it.

    Attributes:
        code_shape: `(h, w)`, or `(h, w, stages)`: the shape of an image's codes.
        codebook_size: number of values of a code.
        prior: the model of the codes, or None; may be set.

    Raises:
        ValueError: for an argument out of range, before any work.

    Example:

    ```python
    import keras_genai as kg

    (images, labels), _ = kg.datasets.load("fashion_mnist")
    model = kg.VQVAE((28, 28, 1), codebook_size=128, filters=64)
    model.compile()                                  # Adam(2e-4)
    model.fit(images, batch_size=64, epochs=5)
    codes = model.encode_indices(images[:8])         # int32 (8, 7, 7)
    model.fit_prior(images, labels, batch_size=64, epochs=10)
    samples = model.generate(labels=[9] * 8)         # (8, 28, 28, 1): ankle boots
    ```
    """

    @checked(reconstruction=text, quantizer=either(word, network), filters=integer(1))
    def __init__(
        self,
        image_shape,
        quantizer="vector",
        codebook_size=512,
        latent_dim=64,
        *,
        filters=256,
        residual_filters=None,
        num_downsamples=2,
        encoder=None,
        decoder=None,
        reconstruction="squared",
        prior=None,
        seed=0,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        own = {"encoder": encoder, "decoder": decoder}
        factor = (
            1 if encoder is not None and decoder is not None else 2**num_downsamples
        )
        self.image_shape = check_image_shape(
            image_shape,
            factor,
            4,
            "Give other num_downsamples=, or networks of your own.",
        )
        self.quantizer_name = quantizer if isinstance(quantizer, str) else None
        self.sizes = (codebook_size, latent_dim)
        self.filters = filters
        self.residual_filters = residual_filters
        self.num_downsamples = num_downsamples
        self.reconstruction = reconstruction
        self.objective = reconstructions.get(reconstruction)
        self._own = [name for name, network in own.items() if network is not None]
        self.quantizer = make_quantizer(quantizer, codebook_size, latent_dim, seed)
        with dtype_policy(kwargs.get("dtype")):
            self.encoder = encoder or self._default_encoder()
            grid = self._check_encoder()
            self.decoder = decoder or self._default_decoder(grid)
        self._check_decoder(grid)
        stages = self.quantizer.stages
        self.code_shape = grid if stages is None else (*grid, stages)
        self.codebook_size = self.quantizer.codebook_size
        self.perplexity = Perplexity(self.codebook_size, stages, name="perplexity")
        loss_name = self.quantizer.loss_name
        self.set_players(
            "autoencoder",
            networks={"autoencoder": ("encoder", "quantizer", "decoder")},
            metrics=["reconstruction", *([loss_name] if loss_name else [])]
            + [self.perplexity],
        )
        self.prior = self._fitting(prior)

    # Parts

    def _is_dvae(self):
        return isinstance(self.quantizer, GumbelQuantizer)

    def _default_encoder(self):
        channels = self.quantizer.channels
        sizes = {
            "filters": self.filters,
            "num_downsamples": self.num_downsamples,
            "seed": self.seed,
        }
        if self._is_dvae():
            return dvae_encoder(self.image_shape, channels, **sizes)
        sizes["residual_filters"] = self.residual_filters
        return vqvae_encoder(self.image_shape, channels, **sizes)

    def _default_decoder(self, grid):
        channels = self.image_shape[-1] * self.objective.parameters
        shape = (*grid, self.quantizer.latent_dim)
        sizes = {
            "filters": self.filters,
            "num_downsamples": self.num_downsamples,
            "seed": self.seed,
        }
        if self._is_dvae():
            return dvae_decoder(shape, channels, **sizes)
        sizes["residual_filters"] = self.residual_filters
        return vqvae_decoder(shape, channels, **sizes)

    def _check_encoder(self):
        """The grid `(h, w)` that the encoder makes."""
        made = self.encoder(keras.KerasTensor((None, *self.image_shape))).shape
        if len(made) != 4 or made[-1] != self.quantizer.channels or None in made[1:]:
            raise ValueError(
                f"The encoder must make latents (B, h, w, {self.quantizer.channels}), "
                f"which {type(self.quantizer).__name__} takes; it makes {tuple(made)}."
            )
        return tuple(made[1:3])

    def _check_decoder(self, grid):
        codes = keras.KerasTensor((None, *grid, self.quantizer.latent_dim))
        made = tuple(self.decoder(codes).shape[1:])
        height, width, channels = self.image_shape
        wanted = (height, width, channels * self.objective.parameters)
        if made != wanted:
            raise ValueError(
                f"The decoder must make {wanted} of codes {tuple(codes.shape[1:])} "
                f"for image_shape {self.image_shape} and reconstruction "
                f"{self.reconstruction!r}; it makes {made}."
            )

    def _fitting(self, prior):
        """The prior, or None; refuses one of other codes."""
        found = [getattr(prior, name, None) for name in ("shape", "vocabulary_size")]
        wanted = [self.code_shape, self.codebook_size]
        if prior is not None and found != wanted:
            raise ValueError(
                "The prior must be of this model's codes: kg.PixelCNN("
                f"{wanted[0]}, {wanted[1]}); got one of the shape {found[0]} with "
                f"{found[1]} values."
            )
        return prior

    @property
    def num_classes(self):
        """K of the prior's labels, or None."""
        # Where it is asked for, and not where the prior is set, it is checked.
        prior = self._fitting(self.prior)
        return None if prior is None else prior.num_classes

    # Training

    def check_data(self, x, condition, weight):
        check_images(x, self.image_shape)
        check_labels(
            condition,
            None,
            len(x),
            f"{type(self).__name__}.fit",
            "It trains on images alone; the prior takes labels: fit_prior(x, labels).",
        )
        check_sample_weight(weight, len(x))

    def default_optimizer(self, player):
        """Adam(2e-4) (1711.00937, section 4.1)."""
        del player
        return keras.optimizers.Adam(2e-4)

    def autoencoder_loss(self, images, weight, training):
        """1711.00937, equation 3, with the quantizer's own loss; a scalar."""
        latents = self.encoder(images, training=training)  # (B, h, w, channels)
        codes, indices, own = self.quantizer(latents, training=training)
        output = self.decoder(codes, training=training)
        error = per_sample(self.objective.loss(images, output))  # (B,)
        self.perplexity.update_state(ops.stop_gradient(indices), weight)
        own_loss = mean_over_samples(own, weight)
        error = mean_over_samples(error, weight)
        self.track("reconstruction", ops.stop_gradient(error))
        if self.quantizer.loss_name:
            self.track(self.quantizer.loss_name, ops.stop_gradient(own_loss))
        return error + own_loss

    def train_step(self, data):
        images, _, weight = tensors(data)
        self.minimize(
            "autoencoder",
            lambda *data: self.autoencoder_loss(*data, True),
            images,
            weight,
        )

    def test_step(self, data):
        images, _, weight = tensors(data)
        loss = self.autoencoder_loss(images, weight, False)
        self.track("autoencoder", loss)

    @checked(prior=network)
    def fit_prior(
        self, x, y=None, *, prior=None, optimizer=None, encode_batch_size=256, **kwargs
    ):
        """Trains the prior on the codes of images; `fit` comes first.

        The same as `prior.fit(model.encode_indices(x), y)`, with a `PixelCNN` made and
        compiled where there is none.

        Args:
            x: images `(N, H, W, C)`.
            y: labels `(N,)` for a prior with classes. A prior that is made here has
                `max(y) + 1` of them.
            prior: the prior to train, in the place of the present one.
            optimizer: of a prior that is not compiled; by default the prior's own.
            encode_batch_size: images in one pass of the encoder.
            **kwargs: of the prior's `fit`: `batch_size`, `epochs`, `callbacks`,
                `validation_split`, ...

        Returns:
            `keras.callbacks.History` of the prior.
        """
        codes = self.encode_indices(x, batch_size=encode_batch_size)
        prior = self._fitting(self.prior if prior is None else prior)
        if prior is None:
            classes = None if y is None else int(np.max(y)) + 1
            prior = PixelCNN(
                self.code_shape, self.codebook_size, classes, seed=self.seed
            )
        self.prior = prior
        if not self.prior.compiled:
            self.prior.compile(optimizer)
        elif optimizer is not None:
            raise ValueError(
                "The prior is compiled already, with its optimizer: leave optimizer= "
                "out, or call prior.compile(optimizer)."
            )
        return self.prior.fit(codes, y, **kwargs)

    # Configuration

    def get_config(self):
        names = (
            "image_shape",
            "filters",
            "residual_filters",
            "num_downsamples",
            "reconstruction",
        )
        serialize = keras.saving.serialize_keras_object
        return {
            **configuration(self, names, ["prior", *self._own]),
            "quantizer": self.quantizer_name or serialize(self.quantizer),
            "codebook_size": self.sizes[0],
            "latent_dim": self.sizes[1],
        }

    # Images of codes

    def call(self, images, training=False):
        """The images through the codes and back, in [-1, 1]."""
        codes = self.quantizer(self.encoder(images, training=training))[0]
        return self.objective.images(self.decoder(codes, training=training))

    def _indices(self, images):
        return self.quantizer(self.encoder(images, training=False))[1]

    def _images(self, indices):
        codes = self.quantizer.lookup(indices)
        return self.objective.images(self.decoder(codes, training=False))

    def _run(self, name, fn, array, batch_size):
        parts = (self.encoder, self.quantizer, self.decoder)
        variables = [v for part in parts for v in part.variables]
        return self.run_in_batches(name, fn, variables, [array], batch_size)

    @checked()
    def encode(self, images, batch_size=256):
        """Images `(N, H, W, C)` to their codes' vectors `(N, h, w, latent_dim)`."""
        images = self._checked(images)

        def run(images):
            return self.quantizer(self.encoder(images, training=False))[0]

        return self._run("encode", run, images, batch_size)

    @checked(codes=array(empty=True))
    def decode(self, codes, batch_size=256):
        """Vectors of codes `(N, h, w, latent_dim)` to images in [-1, 1]."""
        codes = np.asarray(codes)
        wanted = (*self.code_shape[:2], self.quantizer.latent_dim)
        if codes.ndim != 4 or codes.shape[1:] != wanted or len(codes) == 0:
            raise ValueError(
                f"Codes must have the shape (N, {', '.join(map(str, wanted))}); got "
                f"{codes.shape}. For indices there is decode_indices."
            )

        def run(codes):
            return self.objective.images(self.decoder(codes, training=False))

        return self._run("decode", run, codes.astype(keras.config.floatx()), batch_size)

    @checked()
    def reconstruct(self, images, batch_size=256):
        """Images through their codes and back, `(N, H, W, C)` in [-1, 1]."""
        images = self._checked(images)
        return self._run("reconstruct", lambda x: self(x), images, batch_size)

    @checked()
    def encode_indices(self, images, batch_size=256):
        """Images `(N, H, W, C)` to the indices of their codes.

        Returns:
            NumPy int32 `(N, h, w)`, or `(N, h, w, stages)`, in [0, codebook_size).
        """
        images = self._checked(images)
        return self._run("encode_indices", self._indices, images, batch_size)

    @checked(indices=array(empty=True))
    def decode_indices(self, indices, batch_size=256):
        """Indices of codes to images `(N, H, W, C)` in [-1, 1].

        Args:
            indices: integers `(N, *code_shape)`. Of a residual quantizer's the first
                stages alone will do, for a coarser image.
            batch_size: images in one pass.

        Raises:
            ValueError: for indices of another shape or type, or out of range.
        """
        indices = np.asarray(indices)
        shape = self.code_shape
        if self.quantizer.stages and indices.ndim == 4:
            shape = (*shape[:2], min(max(indices.shape[-1], 1), shape[2]))
        check_codes(indices, shape, self.codebook_size, "Indices")
        name = f"decode_indices/{shape[2:]}"
        return self._run(name, self._images, indices, batch_size)

    def _checked(self, images):
        images = np.asarray(images)
        check_images(images, self.image_shape)
        return images.astype(keras.config.floatx())

    # Sampling

    numbers = ("temperature",)

    @checked(temperature=number("> 0"))
    def generate_batches(self, n=None, seed=0, *, temperature=1.0, **kwargs):
        """See `GenerativeModel.generate_batches`.

        Args:
            temperature: over 0; under 1 the more probable codes come more often.
        """
        if self.prior is None:
            raise ValueError(
                f"This {type(self).__name__} has no prior over its codes, so that it "
                "cannot generate yet. After fit(images), call fit_prior(images), or "
                "fit_prior(images, labels) to ask for classes; or set model.prior = "
                f"kg.PixelCNN({self.code_shape}, {self.codebook_size}) and train that."
            )
        check_temperature(temperature)
        return super().generate_batches(n, seed, temperature=temperature, **kwargs)

    def sampling_variables(self):
        own = [*self.quantizer.variables, *self.decoder.variables]
        return own + self.prior.sampling_variables()

    def draw(self, key, count, first, labels=None, temperature=1.0):
        return self._images(
            self.prior.draw(key, count, first, labels, temperature=temperature)
        )

    def input_ranges(self):
        indices = Range(least=0, most=self.codebook_size - 1)
        return {**super().input_ranges(), "indices": indices}

    def export_signatures(self):
        """What `export` writes: name -> (function, its inputs); the first serves.

        `generate` (`seed` with `n` or `labels` -> `images`) where there is a prior,
        `reconstruct` (`images` -> `reconstruction`), `encode` (`images` -> `indices`)
        and `decode` (`indices` -> `images`).
        """
        images = [("images", (None, *self.image_shape), "float32")]
        indices = [("indices", (None, *self.code_shape), "int32")]
        generate = {} if self.prior is None else {"generate": self.seeded_signature()}
        return {
            **generate,
            "reconstruct": (lambda images: {"reconstruction": self(images)}, images),
            "encode": (lambda images: {"indices": self._indices(images)}, images),
            "decode": (lambda indices: {"images": self._images(indices)}, indices),
        }
