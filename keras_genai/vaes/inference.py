"""What a trained VAE is asked: codes, images, paths between them, likelihoods."""

import math

import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.backend import random
from keras_genai.losses import elbo
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_images, check_integer, check_positive
from keras_genai.utils.interpolation import check_kind, interpolate
from keras_genai.utils.validation import array, integer, pair, text
from keras_genai.vaes.likelihoods import LEVELS

_LABELS = array((0, 1, 2), finite=False)  # one is for all


class Inference:
    """The part of `VAE` that works with a trained model."""

    # From arrays to arrays, in batches

    def _stream(self, name, fn, arrays, batch_size, verbose=0):
        """Runs a function over arrays in batches: see `stream`.

        Args:
            name, fn, verbose: see `stream`; `fn` takes the number of the first row.
            arrays: list of NumPy arrays of the same length; the last may be None.
            batch_size: samples in one pass.
        """
        check_positive("batch_size", batch_size)
        arrays = [a for a in arrays if a is not None]
        size = self.programs.rows(len(arrays[0]), batch_size)
        return self.stream(
            name, fn, self.variables, arrays, size, numbered=True, verbose=verbose
        )

    def _whole(self, *args, **kwargs):
        """What `_stream` makes, joined: a list of arrays."""
        parts = [
            [a[:count] for a in results]
            for _, count, results in self._stream(*args, **kwargs)
        ]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]

    def _images(self, x):
        """Images as the model takes them, checked."""
        x = np.asarray(x)
        check_images(x, self.image_shape, self.value_range)
        return x.astype("float32", copy=False)

    def _labels(self, labels, count):
        """The labels of `count` samples, checked; one label is for all of them."""
        if labels is None or self.num_classes is None:
            self._check_labels(labels, count)
            return None
        labels = np.asarray(labels)
        if labels.ndim == 0:
            labels = np.full(count, labels)
        self._check_labels(labels, count)
        return labels.reshape(-1).astype("int32")

    def _one_encode(self, first, x, labels=None):
        del first
        return self._moments(x, labels)

    def _one_decode(self, first, z, labels=None):
        del first
        return (self.likelihood.mean(self._decode(z, labels)),)

    # Codes and images

    @checked(x=array(finite=False), labels=_LABELS)
    def encode(self, x, labels=None, batch_size=256, verbose=0):
        """The Gaussian q(z|x) of each image.

        Args:
            x: images `(N, H, W, C)`, in the range of the training images.
            labels: integers `(N,)`, or one for all; for a model with labels.
            batch_size: images in one pass.
            verbose: 1 shows a progress bar.

        Returns:
            `(mean, log_variance)`, NumPy float32 `(N, latent_dim)`.

        Example:

        ```python
        codes, _ = model.encode(images)
        ```
        """
        x = self._images(x)
        arrays = [x, self._labels(labels, len(x))]
        return tuple(
            self._whole("encode", self._one_encode, arrays, batch_size, verbose)
        )

    @checked(z=array(), labels=_LABELS)
    def decode(self, z, labels=None, batch_size=256, verbose=0):
        """The mean image of p(x|z) of each latent vector.

        Args:
            z: `(N, latent_dim)`.
            labels, batch_size, verbose: see `encode`.

        Returns:
            NumPy float32 `(N, H, W, C)`.
        """
        z = np.asarray(z, "float32")
        if z.ndim != 2 or z.shape[1] != self.latent_dim or not len(z):
            raise ValueError(
                f"z must be latents of the shape (N, {self.latent_dim}); got {z.shape}."
            )
        arrays = [z, self._labels(labels, len(z))]
        return self._whole("decode", self._one_decode, arrays, batch_size, verbose)[0]

    @checked(x=array(finite=False), labels=_LABELS)
    def reconstruct(self, x, labels=None, batch_size=256, verbose=0):
        """Each image through its code's mean and back, `(N, H, W, C)`: see `encode`."""
        mean, _ = self.encode(x, labels, batch_size, verbose)
        return self.decode(mean, labels, batch_size, verbose)

    def call(self, x, labels=None, training=False):
        """Reconstructions `(B, H, W, C)`, so that `predict` gives them.

        With labels: `model.predict([images, labels])`.
        """
        if isinstance(x, (list, tuple)):
            x, labels = x
        mean, _ = self._moments(x, labels, training)
        return self.likelihood.mean(self._decode(mean, labels, training))

    def _codes(self, x, labels):
        """Latents `(n, D)` of images or latents, and whether there was one alone."""
        x = np.asarray(x)
        image, latent = len(self.image_shape), (self.latent_dim,)
        if x.shape[-image:] == self.image_shape and x.ndim in (image, image + 1):
            alone = x.ndim == image
            return self.encode(x[None] if alone else x, labels)[0], alone
        if x.shape[-1:] == latent and x.ndim in (1, 2):
            return np.atleast_2d(x).astype("float32"), x.ndim == 1
        raise ValueError(
            f"Give images {self.image_shape} or latents {latent}, one or a batch of "
            f"them; got the shape {x.shape}."
        )

    def _paths(self, z, labels, alone):
        """Images of paths `(n, steps, D)`: `(n, steps, H, W, C)`, or of the one."""
        n, steps, _ = z.shape
        if labels is not None:
            labels = np.repeat(self._labels(labels, n), steps)
        images = self.decode(z.reshape(n * steps, -1), labels)
        images = images.reshape(n, steps, *images.shape[1:])
        return images[0] if alone else images

    @checked(a=array(), b=array(), kind=text, labels=_LABELS)
    def interpolate(self, a, b, steps=8, kind="spherical", labels=None):
        """Images on the way from one to another, through the latents.

        Args:
            a: where it begins: an image, a batch of them, or latents.
            b: where it ends, likewise.
            steps: images on the way, both ends included, at least 2.
            kind: `"spherical"`, along a great circle with the length between
                (1609.04468, section 2.1), or `"linear"`.
            labels: see `encode`.

        Returns:
            NumPy float32 `(steps, H, W, C)`, or `(n, steps, H, W, C)` of a batch.
        """
        check_integer("steps", steps, 2)
        check_kind(kind)
        (a, alone), (b, _) = self._codes(a, labels), self._codes(b, labels)
        if a.shape != b.shape:
            raise ValueError(
                f"Both ends must be as many; got {len(a)} and {len(b)} of them."
            )
        t = np.linspace(0.0, 1.0, steps)[None, :, None]  # (1, steps, 1)
        path = interpolate(a[:, None], b[:, None], t, kind)
        return self._paths(path, labels, alone)

    @checked(
        x=array(finite=False), dimension=integer(0), values=array(1), labels=_LABELS
    )
    def traverse(self, x, dimension, values=None, labels=None):
        """Images of one latent swept, the others as they are.

        Args:
            x: an image, a batch of them, or latents.
            dimension: which latent, in [0, latent_dim).
            values: what it takes, by default 9 from -3 to 3.
            labels: see `encode`.

        Returns:
            NumPy float32 `(values, H, W, C)`, or `(n, values, H, W, C)` of a batch.
        """
        if not 0 <= dimension < self.latent_dim:
            raise ValueError(
                f"dimension must lie in [0, {self.latent_dim}); got {dimension!r}."
            )
        values = np.linspace(-3.0, 3.0, 9) if values is None else np.asarray(values)
        z, alone = self._codes(x, labels)
        path = np.repeat(z[:, None], len(values), axis=1)  # (n, values, D)
        path[:, :, dimension] = values
        return self._paths(path, labels, alone)

    # Likelihood

    @checked(x=array(finite=False), labels=_LABELS)
    def log_likelihood(
        self,
        x,
        labels=None,
        importance_samples=5000,
        batch_size=16,
        chunk=256,
        seed=0,
        verbose=0,
    ):
        """`log p(x)` of each image, estimated from below by L_k (1509.00519, eq. 8).

        `log 1/k sum_i p(x, z_i) / q(z_i|x)`, by chunks of latents of which only the
        logarithm of the sum is kept: memory does not grow with k. The draws are
        numbered by image and latent, so that the result does not depend on
        `batch_size` and `chunk`, and k latents begin with those of a smaller k.

        Args:
            x: images `(N, H, W, C)`.
            labels: see `encode`.
            importance_samples: k.
            batch_size: images in one pass.
            chunk: latents of each image in one pass.
            seed: integer >= 0, of the latents.
            verbose: 1 shows a progress bar.

        Returns:
            NumPy float64 `(N,)`, in nats. For a model with `binarize="dynamic"`, of
            the binary images that `evaluate` sees.

        Example:

        ```python
        nll = -model.log_likelihood(test_images, verbose=1).mean()
        ```
        """
        return self._density(
            self._images(x),
            self._labels(labels, len(x)),
            importance_samples,
            batch_size,
            chunk,
            seed,
            verbose,
        )

    def _density(
        self,
        x,
        labels,
        importance_samples,
        batch_size=16,
        chunk=256,
        seed=0,
        verbose=0,
    ):
        """`log_likelihood` of images that are not checked."""
        check_positive("importance_samples", importance_samples)
        check_positive("chunk", chunk)
        size = importance_samples
        if backend.COMPILES:  # a few programs serve any number
            size = 2 ** (importance_samples - 1).bit_length()
        chunk = min(chunk, size)
        width = self.latent_dim + self.latent_dim % 2  # noise is drawn in pairs
        words = np.array(random.key(seed, "log_likelihood/latents"), "int32")

        def encode(first, x, labels=None):
            x = self._observed(x, first)
            return (x, *self._moments(x, labels))

        def weigh(key, first, start, total, x, mean, log_variance, labels=None):
            noise = random.normal(
                (key[0], key[1]),
                (ops.shape(x)[0], chunk, width),
                offset=first,
                skip=start * width,
            )[..., : self.latent_dim]
            q = ops.expand_dims(mean, 1), ops.expand_dims(log_variance, 1)
            z = q[0] + ops.exp(0.5 * q[1]) * noise  # (B, chunk, D)
            log_likelihood = self._log_likelihood(x, z, labels)
            log_weights = elbo.log_weights(log_likelihood, z, *q)  # (B, chunk)
            asked = ops.arange(chunk, dtype="int32") < total - start
            lowest = ops.full_like(log_weights, -math.inf)
            log_weights = ops.where(asked, log_weights, lowest)
            return ops.logsumexp(log_weights, axis=-1)  # (B,)

        def number(value):
            return np.array(value, "int32")

        found = np.empty(len(x), "float64")
        arrays, words = [x, labels], backend.from_host(words)
        for begin, count, results in self._stream(
            "observe", encode, arrays, batch_size, verbose
        ):
            batch = [backend.from_host(part) for part in results]
            if labels is not None:
                of_class = labels[begin : begin + batch_size]
                batch.append(backend.from_host(np.resize(of_class, len(batch[0]))))
            total = np.full(len(results[0]), -np.inf)
            for start in range(0, importance_samples, chunk):
                part = self.run_compiled(
                    f"weigh/{chunk}",
                    weigh,
                    self.variables,
                    words,
                    *map(number, (begin, start, importance_samples)),
                    *batch,
                )
                total = np.logaddexp(total, part)
            found[begin : begin + count] = total[:count]
        return found - math.log(importance_samples)

    @checked(x=array(finite=False), value_range=pair(), labels=_LABELS)
    def bits_per_dim(
        self,
        x,
        labels=None,
        importance_samples=128,
        value_range=(-1.0, 1.0),
        dequantize=True,
        **kwargs,
    ):
        """`-log2 P(x)` of 8-bit images for each of their H W C values.

        For `"discretized_logistic"`, whose P is one of levels, `-log p / (H W C log
        2)`. For `"gaussian"`, a density, uniform noise as wide as a level is added
        (1511.01844, section 3.1) and log of that width, `log2 127.5 = 6.99` bits on
        [-1, 1], counted for each value.

        Args:
            x: images of 256 levels, `(N, H, W, C)`.
            labels, importance_samples: see `log_likelihood`.
            value_range: that of black and white.
            dequantize: False for a `"gaussian"` whose images already have their noise,
                `(level + noise) / 256` put into `value_range`: a level is then 1/256
                of it, not 1/255.
            **kwargs: see `log_likelihood`.

        Returns:
            NumPy float64 `(N,)`, each from above.

        Raises:
            ValueError: for `"bernoulli"`, and for images that are not of 256 levels.
        """
        if self.likelihood_name == "bernoulli":
            raise ValueError(
                "bits_per_dim has no meaning for likelihood='bernoulli', which models "
                "black and white, not 256 levels: use log_likelihood, or 'gaussian' "
                "or 'discretized_logistic'."
            )
        x = self._images(x)
        low, high = value_range
        discrete = self.likelihood_name == "discretized_logistic"
        if discrete or dequantize:
            levels = (x - low) * ((LEVELS - 1) / (high - low))
            if np.abs(levels - np.round(levels)).max() > 0.01:
                raise ValueError(
                    f"bits_per_dim wants images of {LEVELS} levels in "
                    f"[{low:g}, {high:g}]; got values between the levels."
                )
        per_level = 0.0  # log of a level's width
        if not discrete:
            per_level = math.log((high - low) / (LEVELS - dequantize))
            if dequantize:
                key = random.key(kwargs.get("seed", 0), "bits_per_dim/noise")
                noise = random.uniform(key, x.shape, -0.5, 0.5, host=True)
                x = x + noise * ((high - low) / (LEVELS - 1))
        labels = self._labels(labels, len(x))
        nats = self._density(x, labels, importance_samples, **kwargs)
        size = math.prod(self.image_shape)
        return -(nats / size + per_level) / math.log(2.0)
