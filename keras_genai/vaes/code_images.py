"""How an autoencoder of codes is used: encoding, decoding, sampling, what is served."""

import keras
import numpy as np

from keras_genai.training.inference import Range
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_images
from keras_genai.utils.validation import array, number
from keras_genai.vaes.codes import check_codes, check_temperature


class CodeImages:
    """The part of `VQVAE` that does not train.

    It reads the attributes `encoder`, `quantizer`, `decoder`, `objective`, `prior`,
    `image_shape`, `code_shape` and `codebook_size`.
    """

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
