"""What a trained VAE tells of images: latents, images, interpolations, likelihoods.

The functions behind `VAE.encode`, `decode`, `interpolate`, `traverse`,
`log_likelihood` and `bits_per_dim`, where arguments and results are described.
"""

import math

import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.backend import random
from keras_genai.losses import elbo
from keras_genai.utils import interpolation
from keras_genai.utils.checks import check_images, check_integer, check_positive
from keras_genai.vaes.gaussian import DiagonalGaussian
from keras_genai.vaes.likelihoods import LEVELS


def encode(model, x, labels, batch_size, verbose):
    """See `VAE.encode`."""
    x = _images(model, x)
    arrays = [x, _labels(model, labels, len(x))]

    def moments(first, x, labels=None):
        del first
        return model._moments(x, labels)

    return DiagonalGaussian(
        *_whole(model, "encode", moments, arrays, batch_size, verbose)
    )


def decode(model, z, labels, batch_size, verbose):
    """See `VAE.decode`."""
    z = np.asarray(z, "float32")
    if z.ndim != 2 or z.shape[1] != model.latent_dim or not len(z):
        raise ValueError(
            f"z must be latents of the shape (N, {model.latent_dim}); got {z.shape}."
        )
    arrays = [z, _labels(model, labels, len(z))]

    def images(first, z, labels=None):
        del first
        return (model.likelihood.mean(model._decode(z, labels)),)

    return _whole(model, "decode", images, arrays, batch_size, verbose)[0]


def interpolate(model, a, b, n, kind, labels):
    """See `VAE.interpolate`."""
    check_integer("n", n, 2)
    interpolation.check_kind(kind)
    (a, alone), (b, _) = _codes(model, a, labels), _codes(model, b, labels)
    if a.shape != b.shape:
        raise ValueError(
            f"a and b must hold equally many images or latents; got {len(a)} and "
            f"{len(b)}."
        )
    t = np.linspace(0.0, 1.0, n)[None, :, None]  # (1, n, 1)
    path = interpolation.interpolate(a[:, None], b[:, None], t, kind)
    return _images_of_paths(model, path, labels, alone)


def traverse(model, x, dimension, values, labels):
    """See `VAE.traverse`."""
    if not 0 <= dimension < model.latent_dim:
        raise ValueError(
            f"dimension must lie in [0, {model.latent_dim}); got {dimension!r}."
        )
    values = np.linspace(-3.0, 3.0, 9) if values is None else np.asarray(values)
    z, alone = _codes(model, x, labels)
    path = np.repeat(z[:, None], len(values), axis=1)  # (B, values, D)
    path[:, :, dimension] = values
    return _images_of_paths(model, path, labels, alone)


def log_likelihood(
    model, x, labels, importance_samples, batch_size, chunk, seed, verbose
):
    """See `VAE.log_likelihood`."""
    x, labels = _images(model, x), _labels(model, labels, len(x))
    return _density(
        model, x, labels, importance_samples, batch_size, chunk, seed, verbose
    )


def _density(
    model, x, labels, importance_samples, batch_size=16, chunk=256, seed=0, verbose=0
):
    """`log_likelihood` of images that are not checked."""
    check_positive("importance_samples", importance_samples)
    check_positive("chunk", chunk)
    size = importance_samples
    if backend.COMPILES:  # a few programs serve any number
        size = 2 ** (importance_samples - 1).bit_length()
    chunk = min(chunk, size)
    width = model.latent_dim + model.latent_dim % 2  # noise is drawn in pairs
    words = np.array(random.key(seed, "log_likelihood/latents"), "int32")

    def encode(first, x, labels=None):
        x = model._observed(x, first)
        return (x, *model._moments(x, labels))

    def weigh(key, first, start, total, x, mean, log_variance, labels=None):
        noise = random.normal(
            (key[0], key[1]),
            (ops.shape(x)[0], chunk, width),
            offset=first,
            skip=start * width,
        )[..., : model.latent_dim]
        q = ops.expand_dims(mean, 1), ops.expand_dims(log_variance, 1)
        z = q[0] + ops.exp(0.5 * q[1]) * noise  # (B, chunk, D)
        log_likelihood = model._log_likelihood(x, z, labels)
        log_weights = elbo.log_weights(log_likelihood, z, *q)  # (B, chunk)
        asked = ops.arange(chunk, dtype="int32") < total - start
        lowest = ops.full_like(log_weights, -math.inf)
        log_weights = ops.where(asked, log_weights, lowest)
        return ops.logsumexp(log_weights, axis=-1)  # (B,)

    def number(value):
        return np.array(value, "int32")

    found = np.empty(len(x), "float64")
    arrays, words = [x, labels], backend.from_host(words)
    for begin, count, results in _stream(
        model, "observe", encode, arrays, batch_size, verbose
    ):
        batch = [backend.from_host(part) for part in results]
        if labels is not None:
            of_class = labels[begin : begin + batch_size]
            batch.append(backend.from_host(np.resize(of_class, len(batch[0]))))
        total = np.full(len(results[0]), -np.inf)
        for start in range(0, importance_samples, chunk):
            part = model.run_compiled(
                f"weigh/{chunk}",
                weigh,
                model.variables,
                words,
                *map(number, (begin, start, importance_samples)),
                *batch,
            )
            total = np.logaddexp(total, part)
        found[begin : begin + count] = total[:count]
    return found - math.log(importance_samples)


def bits_per_dim(
    model, x, labels, importance_samples, value_range, dequantize, **kwargs
):
    """See `VAE.bits_per_dim`."""
    if model.likelihood_name == "bernoulli":
        raise ValueError(
            "bits_per_dim has no meaning for likelihood='bernoulli', which models "
            "black and white, not 256 levels: use log_likelihood, or 'gaussian' "
            "or 'discretized_logistic'."
        )
    x = _images(model, x)
    low, high = value_range
    discrete = model.likelihood_name == "discretized_logistic"
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
    labels = _labels(model, labels, len(x))
    nats = _density(model, x, labels, importance_samples, **kwargs)
    size = math.prod(model.image_shape)
    return -(nats / size + per_level) / math.log(2.0)


# From arrays to arrays, in batches


def _stream(model, name, fn, arrays, batch_size, verbose=0):
    """Runs a function over arrays in batches: see `CompiledFunctions.stream`.

    Args:
        model: the model.
        name, fn, verbose: see `stream`; `fn` takes the number of the first row.
        arrays: list of NumPy arrays of the same length; the last may be None.
        batch_size: samples in one pass.
    """
    check_positive("batch_size", batch_size)
    arrays = [a for a in arrays if a is not None]
    size = model.programs.rows(len(arrays[0]), batch_size)
    return model.stream(
        name, fn, model.variables, arrays, size, numbered=True, verbose=verbose
    )


def _whole(*args):
    """What `_stream` makes, joined: a list of arrays."""
    parts = [[a[:count] for a in results] for _, count, results in _stream(*args)]
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def _images(model, x):
    """Images as the model takes them, checked."""
    x = np.asarray(x)
    check_images(x, model.image_shape, model.value_range)
    return x.astype("float32", copy=False)


def _labels(model, labels, count):
    """The labels of `count` samples, checked; one label is for all of them."""
    if labels is None or model.num_classes is None:
        model._check_labels(labels, count)
        return None
    labels = np.asarray(labels)
    if labels.ndim == 0:
        labels = np.full(count, labels)
    model._check_labels(labels, count)
    return labels.reshape(-1).astype("int32")


def _codes(model, x, labels):
    """Latents `(B, D)` of images or latents, and whether there was one alone."""
    x = np.asarray(x)
    image, latent = len(model.image_shape), (model.latent_dim,)
    if x.shape[-image:] == model.image_shape and x.ndim in (image, image + 1):
        alone = x.ndim == image
        return model.encode(x[None] if alone else x, labels).mean, alone
    if x.shape[-1:] == latent and x.ndim in (1, 2):
        return np.atleast_2d(x).astype("float32"), x.ndim == 1
    raise ValueError(
        f"Give images {model.image_shape} or latents {latent}, one or a batch of "
        f"them; got the shape {x.shape}."
    )


def _images_of_paths(model, z, labels, alone):
    """Images of latents `(B, n, D)`: `(B, n, H, W, C)`, or of the one without B."""
    count, n, _ = z.shape
    if labels is not None:
        labels = np.repeat(_labels(model, labels, count), n)
    images = model.decode(z.reshape(count * n, -1), labels)
    images = images.reshape(count, n, *images.shape[1:])
    return images[0] if alone else images
