"""How an image autoencoder is used: encoding, decoding, sampling, files."""

import keras
import numpy as np
from keras import ops

from keras_genai.backend import random
from keras_genai.backend.precision import widen
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_positive
from keras_genai.utils.validation import array, integer, number
from keras_genai.vaes.posterior import DiagonalGaussian
from keras_genai.vaes.tiling import tiled


class LatentImages:
    """The part of `AutoencoderKL` that does not train.

    It reads the attributes `encoder`, `decoder`, `image_shape`, `latent_channels` and
    `block_channels`, and `posterior(images)`.
    """

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
