"""The variational autoencoder (Kingma and Welling, 1312.6114) and its relatives.

An encoder gives a Gaussian q(z|x) for an image, a decoder a distribution p(x|z) for
latents, and both learn by the bound of equation 3 on log p(x), its draw of z written
as `mean + deviation * noise` so that it can be differentiated (section 2.4). The beta-
VAE (1804.03599), the conditional VAE (1406.5298, M2), free bits (1606.04934) and the
importance-weighted autoencoder (1509.00519) are arguments.
"""

import keras
from keras import ops

from keras_genai import backend
from keras_genai.backend import random
from keras_genai.backend.precision import dtype_policy, widen
from keras_genai.losses import elbo
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
    either,
    flag,
    function,
    integer,
    integers,
    number,
    one_of,
    pair,
    text,
)
from keras_genai.vaes import evaluation, likelihoods
from keras_genai.vaes.gmm_prior import Mixture, branch
from keras_genai.vaes.latent_metrics import ActiveUnits, LatentMeans
from keras_genai.vaes.schedules import check_weight
from keras_genai.vaes.vae_networks import VAENetworks

PRIORS = ("normal", "mixture")

ESTIMATORS = ("reparameterized", "dreg")

_LABELS = array((0, 1, 2), finite=False)  # one is for all


@keras.saving.register_keras_serializable(PACKAGE)
class VAE(GenerativeModel):
    """Variational autoencoder (1312.6114): images, their codes, and their likelihood.

    It minimises `-E_q log p(x|z) + beta KL(q(z|x) || N(0, I))`; with
    `importance_samples=k > 1`, or the estimator `"dreg"`, minus the bound L_k. The
    logs show `loss`, and of any such model `reconstruction` (`-E log p(x|z)`), `kl`
    and `elbo`, in nats an image, and `active_units`.

    Args:
        encoder: a network of your own, images `(B, H, W, C)` (with labels: `[images,
            labels]`) -> `(B, 2 latent_dim)`: the mean and then the log of the
            variance.
        decoder: a network of your own, latents `(B, latent_dim)` (with labels:
            `[latents, labels]`) -> `(B, H, W, C)`: logits for `"bernoulli"`, means
            for the others; `(B, H, W, 2 C)`, means and then log scales, for
            `scale="per_pixel"`.
        image_shape: `(H, W, C)`.
        latent_dim: size of the latent vector, at least 1.
        likelihood: of the images: `"bernoulli"` for images in [0, 1]; `"gaussian"` or
            `"discretized_logistic"` (8-bit images) for images in [-1, 1].
        scale: of the last two: `"learned"`, one weight for all pixels (2006.13202);
            `"per_pixel"`, made by the decoder; or a positive number.
        binarize: `"dynamic"`: an image is drawn, black or white with its grey values
            as probabilities, anew at each training step (1509.00519, section 5). In
            `evaluate` and `log_likelihood` the draw is fixed by the image's place in
            the data. `encode` and `reconstruct` take images as they are. None: grey
            values enter the Bernoulli's formula, which is then no probability.
        beta: weight of the KL, at least 0: a number, or a schedule of the step such
            as `kg.vaes.KLWarmup(2_000)`.
        capacity: C: the KL's part is `beta |KL - C|` (1804.03599, equation 8). A
            number or a schedule.
        free_bits: lambda, in nats: a latent whose KL, mean over the batch, is below
            costs no less (1606.04934, equation 15).
        importance_samples: k: the bound L_k of 1509.00519, equation 8. The image is
            encoded once and k latents are decoded. It has no KL of its own, so that
            beta must be 1, without capacity and free bits.
        estimator: of the gradient: `"reparameterized"`, or `"dreg"`, the doubly
            reparameterized one (1810.04152, equation 8), whose noise for the encoder
            does not grow with k; with k = 1 that of 1703.09194. Not for a decoder
            that mixes the samples of a batch.
        num_classes: K: both networks see the label.
        architecture: of the default networks: `"mlp"` or `"convolutional"` (sides
            divisible by 4).
        hidden_units: sizes of their dense layers, from the image to the latents: by
            default `(500,)` (1312.6114's MLP), and `(256,)` after convolutions. The
            network of 1509.00519 is `hidden_units=(200, 200)`, `latent_dim=50`.
        filters: channels of each convolution.
        activation: of their hidden layers; by default tanh, and ReLU with
            convolutions.
        prior_components: number of components of the fitted prior that a saved model
            has; `fit_prior` sets it.
        seed: integer >= 0: initial weights, noise and shuffling follow from it.

    Raises:
        ValueError: for an argument out of range, before any work.

    Example:

    ```python
    import keras_genai as kg

    (images, _), (test, _) = kg.datasets.load("fashion_mnist", value_range=(0, 1))
    model = kg.VAE(image_shape=(28, 28, 1), latent_dim=16)
    model.compile()                        # 1509.00519's Adam
    model.fit(images, batch_size=64, epochs=10)
    samples = model.generate(16, seed=0)   # (16, 28, 28, 1) in [0, 1]
    nats = model.log_likelihood(test[:64], importance_samples=500)
    ```
    """

    @checked(
        likelihood=text,
        scale=either(text, number("> 0")),
        binarize=text,
        capacity=either(number(">= 0"), function),
        free_bits=number(">= 0"),
        estimator=text,
        architecture=text,
        hidden_units=integers(least=0),
        filters=integer(1),
        activation=either(text, function),
        beta=either(number(">= 0"), function),
    )
    def __init__(
        self,
        encoder=None,
        decoder=None,
        *,
        image_shape=(28, 28, 1),
        latent_dim=50,
        likelihood="bernoulli",
        scale="learned",
        binarize=None,
        beta=1.0,
        capacity=None,
        free_bits=0.0,
        importance_samples=1,
        estimator="reparameterized",
        num_classes=None,
        architecture="mlp",
        hidden_units=None,
        filters=32,
        activation=None,
        prior_components=None,
        seed=0,
        **kwargs,
    ):
        image_shape = check_image_shape(image_shape)
        check_positive("latent_dim", latent_dim)
        check_positive("importance_samples", importance_samples)
        check_positive("filters", filters)
        for units in hidden_units or ():
            check_positive("Every number of hidden_units", units)
        if num_classes is not None:
            check_positive("num_classes", num_classes)
        kind = likelihoods.make(likelihood, image_shape, scale)
        super().__init__(seed=seed, **kwargs)
        self.image_shape = image_shape
        self.latent_dim = latent_dim
        self.likelihood_name = likelihood
        self.scale = scale
        self.likelihood = kind
        self.binarize = binarize
        self.beta = check_weight("beta", beta)
        self.capacity = None if capacity is None else check_weight("capacity", capacity)
        self.free_bits = free_bits
        self.importance_samples = importance_samples
        self.estimator = estimator
        self.num_classes = num_classes
        self.architecture = architecture
        self.hidden_units = None if hidden_units is None else tuple(hidden_units)
        self.filters = filters
        self.activation = activation
        self._check_objective()
        self._own = [n for n, x in (("encoder", encoder), ("decoder", decoder)) if x]
        with dtype_policy(kwargs.get("dtype")):
            if encoder is None or decoder is None:
                networks = VAENetworks(
                    self.image_shape,
                    latent_dim,
                    architecture,
                    hidden_units,
                    filters,
                    activation,
                    num_classes,
                    seed,
                )
            self.encoder = encoder or networks.encoder()
            self.decoder = decoder or networks.decoder(kind)
            learned = kind.has_scale and scale == "learned"
            self.log_scale = likelihoods.LogScale(name="log_scale") if learned else None
        self._check_networks()
        self.prior = None
        if prior_components is not None:
            self.prior = Mixture(prior_components, latent_dim)
        self.active_units = ActiveUnits(latent_dim)
        self.latent_kl = LatentMeans(latent_dim)
        parts = ("encoder", "decoder", "log_scale")[: 3 if learned else 2]
        self.set_players(
            "vae",
            networks={"vae": parts},
            metrics=("reconstruction", "kl", "elbo", self.active_units),
            hidden_metrics=(self.latent_kl,),
        )

    @property
    def value_range(self):
        """Values of black and white: those of the likelihood."""
        return self.likelihood.value_range

    @property
    def by_weights(self):
        """Whether the objective is L_k, of importance weights."""
        return self.importance_samples > 1 or self.estimator == "dreg"

    # Training

    def default_optimizer(self, player):
        """Adam(1e-3, beta_1=0.9, beta_2=0.999, epsilon=1e-4) (1509.00519, section 5).

        1312.6114 used Adagrad with steps chosen by hand.
        """
        del player
        return keras.optimizers.Adam(1e-3, beta_1=0.9, beta_2=0.999, epsilon=1e-4)

    def _moments(self, x, labels, training=False):
        """The mean and log-variance of q(z|x), each `(B, D)`."""
        moments = widen(self.encoder(self.with_labels(x, labels), training=training))
        return moments[:, : self.latent_dim], moments[:, self.latent_dim :]

    def _decode(self, z, labels, training=False):
        """The parameters of p(x|z), `(B, H, W, n C)`."""
        return widen(self.decoder(self.with_labels(z, labels), training=training))

    def _learned_scale(self):
        return None if self.log_scale is None else self.log_scale.value()

    def _log_likelihood(self, x, z, labels, training=False):
        """`log p(x|z)` of k latents for each image: `(B, k, D)` -> `(B, k)`."""
        k = z.shape[1]
        flat = ops.reshape(z, (-1, self.latent_dim))  # (B k, D)
        if labels is not None:
            labels = ops.repeat(labels, k, axis=0)  # (B k,)
        output = self._decode(flat, labels, training)
        output = ops.reshape(output, (-1, k, *self.likelihood.output_shape))
        x = ops.expand_dims(widen(x), 1)  # (B, 1, H, W, C)
        return self.likelihood.log_likelihood(x, output, self._learned_scale(), 2)

    def _weight(self, value):
        """A number, or a schedule at the present step."""
        return value(self.noise.step.value) if callable(value) else value

    def objective(self, x, labels, weight, noise, training):
        """The loss with its parts.

        Args:
            x: `(B, H, W, C)`.
            labels: `(B,)` or None.
            weight: `(B,)` or None.
            noise: standard normal, `(B, k, D)`.
            training: whether the networks train.

        Returns:
            `(loss, parts)`: a scalar, and the dict of `reconstruction`, `kl` and
            `elbo`, scalars, of `mean`, `(B, D)`, and of `latent_kl`, `(D,)`.
        """
        mean, log_variance = self._moments(x, labels, training)
        q = ops.expand_dims(mean, 1), ops.expand_dims(log_variance, 1)  # (B, 1, D)
        z = q[0] + ops.exp(0.5 * q[1]) * noise  # (B, k, D): 1312.6114, section 2.4
        token = None
        if self.estimator == "dreg":
            z, token = elbo.dreg_path(z)
            q = tuple(map(ops.stop_gradient, q))
        log_likelihood = self._log_likelihood(x, z, labels, training)  # (B, k)
        kl = elbo.gaussian_kl(mean, log_variance)  # (B, D)
        share = _shares(weight, kl)  # (B, 1)
        reconstruction = -ops.sum(share[:, 0] * ops.mean(log_likelihood, axis=-1))
        kl = ops.sum(share * kl, axis=0)  # (D,)
        parts = {
            "reconstruction": reconstruction,
            "kl": ops.sum(kl),
            "elbo": -reconstruction - ops.sum(kl),
            "mean": mean,
            "latent_kl": kl,
        }
        if not self.by_weights:
            return reconstruction + self._kl_loss(kl), parts
        log_weights = elbo.log_weights(log_likelihood, z, *q)
        if token is None:
            bound = elbo.iwae_bound(log_weights)
        else:
            bound = elbo.dreg_bound(log_weights, token)
        return -ops.sum(share[:, 0] * bound), parts

    def _kl_loss(self, kl):
        """The KL's part of the loss, from the batch's mean of each latent, `(D,)`."""
        if self.free_bits:
            kl = elbo.free_bits(backend.replicas.mean(kl), self.free_bits)
        elif self.capacity is not None:
            amount = ops.cast(self._weight(self.capacity), kl.dtype)
            kl = elbo.capacity(backend.replicas.mean(ops.sum(kl)), amount)
        else:
            kl = ops.sum(kl)
        return ops.cast(self._weight(self.beta), kl.dtype) * kl

    def _track_parts(self, parts, weight):
        self.active_units.update_state(parts.pop("mean"), weight)
        parts.pop("latent_kl")
        for name, value in parts.items():
            self.track(name, ops.stop_gradient(value))

    # Checks

    def _check_objective(self):
        if self.estimator not in ESTIMATORS:
            raise ValueError(
                f"estimator must be one of {', '.join(ESTIMATORS)}; got "
                f"{self.estimator!r}."
            )
        bits = self.free_bits
        number = isinstance(bits, (int, float)) and not isinstance(bits, bool)
        if not (number and 0.0 <= bits < float("inf")):
            raise ValueError(
                f"free_bits must be a number of nats of at least 0; got {bits!r}."
            )
        if self.free_bits and self.capacity is not None:
            raise ValueError(
                "free_bits and capacity both say how large the KL may be: give one."
            )
        own_kl = self.beta == 1.0 and not self.free_bits and self.capacity is None
        if self.by_weights and not own_kl:
            raise ValueError(
                "The importance-weighted bound (importance_samples > 1, or "
                "estimator='dreg') has no KL of its own: beta must be 1.0, free_bits 0 "
                f"and capacity None; got {self.beta!r}, {self.free_bits!r}, "
                f"{self.capacity!r}."
            )
        if self.binarize not in (None, "dynamic"):
            raise ValueError(
                f"binarize must be 'dynamic' or None; got {self.binarize!r}."
            )
        if self.binarize and self.likelihood_name != "bernoulli":
            raise ValueError(
                "binarize='dynamic' makes black and white images, which need "
                f"likelihood='bernoulli'; got {self.likelihood_name!r}."
            )

    def _check_networks(self):
        images = keras.KerasTensor((None, *self.image_shape))
        latents = keras.KerasTensor((None, self.latent_dim))
        labels = keras.KerasTensor((None,), dtype="int32")
        moments = self.encoder(self.with_labels(images, labels))
        if tuple(moments.shape[1:]) != (2 * self.latent_dim,):
            raise ValueError(
                f"The encoder must return (B, {2 * self.latent_dim}): the mean and the "
                f"log-variance of latent_dim={self.latent_dim} latents; it returns "
                f"{tuple(moments.shape)}."
            )
        output = self.decoder(self.with_labels(latents, labels))
        if tuple(output.shape[1:]) != self.likelihood.output_shape:
            raise ValueError(
                f"The decoder must return {('B', *self.likelihood.output_shape)}, the "
                f"parameters of likelihood={self.likelihood_name!r} with scale="
                f"{self.scale!r}; it returns {tuple(output.shape)}."
            )

    def check_data(self, x, condition, weight):
        check_images(x, self.image_shape, self.value_range)
        self._check_labels(condition, len(x))
        check_sample_weight(weight, len(x))

    def _check_labels(self, labels, count):
        check_labels(
            labels,
            self.num_classes,
            count,
            type(self).__name__,
            "Leave them out, or make it with num_classes=.",
        )

    # Steps

    def train_step(self, data):
        x, labels, weight = tensors(data)
        if self.binarize:
            draw = self.noise.uniform("binarize", ops.shape(x), dtype="float32")
            x = ops.cast(draw < ops.cast(x, "float32"), x.dtype)
        shape = (ops.shape(x)[0], self.importance_samples, self.latent_dim)
        noise = self.noise.normal("latents", shape)

        def loss_fn(x, labels, weight, noise):
            loss, parts = self.objective(x, labels, weight, noise, training=True)
            self._track_parts(parts, weight)
            return loss

        self.minimize("vae", loss_fn, x, labels, weight, noise)

    def test_step(self, data):
        x, labels, weight = tensors(data)
        # Whatever the training has drawn, and however the data is cut into batches.
        first = self.samples_seen() + backend.replicas.offset()
        x = self._observed(x, first)
        key = random.key(self.seed, "evaluate/latents")
        shape = (ops.shape(x)[0], self.importance_samples, self.latent_dim)
        noise = random.normal(key, shape, offset=first)
        loss, parts = self.objective(x, labels, weight, noise, training=False)
        kl = backend.replicas.mean(parts["latent_kl"])
        self._track_parts(parts, weight)
        if self.by_weights or not (self.free_bits or self.capacity is not None):
            self.track("vae", loss)
            return
        # The mean over the data is bent, not that of each batch.
        self.latent_kl.update_state(kl, backend.replicas.batch_samples())
        kl_loss = self._kl_loss(self.latent_kl.result())
        self.derive("vae", self.mean_so_far("reconstruction") + kl_loss)

    def _observed(self, x, first):
        """The images that are judged: binarized by their number, where they are."""
        if not self.binarize:
            return x
        key = random.key(self.seed, "evaluate/binarize")
        draw = random.uniform(key, ops.shape(x), dtype="float32", offset=first)
        return ops.cast(draw < ops.cast(x, "float32"), x.dtype)

    # Configuration

    def get_config(self):
        names = (
            "image_shape",
            "latent_dim",
            "scale",
            "binarize",
            "free_bits",
            "importance_samples",
            "estimator",
            "num_classes",
            "architecture",
            "hidden_units",
            "filters",
            "activation",
        )
        return {
            **configuration(self, names, self._own),
            "likelihood": self.likelihood_name,
            "beta": _serialized(self.beta),
            "capacity": _serialized(self.capacity),
            "prior_components": self.prior and self.prior.components,
        }

    # Latents, images, likelihoods

    def call(self, x, labels=None, training=False):
        """Reconstructions `(B, H, W, C)`, so that `predict` gives them.

        With labels: `model.predict([images, labels])`.
        """
        if isinstance(x, (list, tuple)):
            x, labels = x
        mean, _ = self._moments(x, labels, training)
        return self.likelihood.mean(self._decode(mean, labels, training))

    @checked(x=array(finite=False), labels=_LABELS)
    def encode(self, x, labels=None, batch_size=256, verbose=0):
        """The Gaussian q(z|x) of each image.

        Args:
            x: images `(N, H, W, C)`, in the range of the training images.
            labels: integers `(N,)`, or one for all; for a model with labels.
            batch_size: images in one pass.
            verbose: 1 shows a progress bar.

        Returns:
            `DiagonalGaussian` of NumPy float32 `(N, latent_dim)`.

        Example:

        ```python
        codes = model.encode(images).mean
        ```
        """
        return evaluation.encode(self, x, labels, batch_size, verbose)

    @checked(z=array(), labels=_LABELS)
    def decode(self, z, labels=None, batch_size=256, verbose=0):
        """The mean image of p(x|z) of each latent vector.

        Args:
            z: `(N, latent_dim)`.
            labels, batch_size, verbose: see `encode`.

        Returns:
            NumPy float32 `(N, H, W, C)`.
        """
        return evaluation.decode(self, z, labels, batch_size, verbose)

    @checked(x=array(finite=False), labels=_LABELS)
    def reconstruct(self, x, labels=None, batch_size=256, verbose=0):
        """Each image through its code's mean and back, `(N, H, W, C)`: see `encode`."""
        mean = self.encode(x, labels, batch_size, verbose).mean
        return self.decode(mean, labels, batch_size, verbose)

    @checked(a=array(), b=array(), kind=text, labels=_LABELS)
    def interpolate(self, a, b, n=8, kind="spherical", labels=None):
        """Images on the way from one to another, through the latents.

        Args:
            a: where it begins: an image, a batch of them, or latents.
            b: where it ends, likewise.
            n: images on the way, both ends included, at least 2.
            kind: `"spherical"`, along a great circle with the length between
                (1609.04468, section 2.1), or `"linear"`.
            labels: see `encode`.

        Returns:
            NumPy float32 `(n, H, W, C)`, or `(B, n, H, W, C)` of a batch.
        """
        return evaluation.interpolate(self, a, b, n, kind, labels)

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
            NumPy float32 `(values, H, W, C)`, or `(B, values, H, W, C)` of a batch.
        """
        return evaluation.traverse(self, x, dimension, values, labels)

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
        return evaluation.log_likelihood(
            self, x, labels, importance_samples, batch_size, chunk, seed, verbose
        )

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
        return evaluation.bits_per_dim(
            self, x, labels, importance_samples, value_range, dequantize, **kwargs
        )

    # Sampling

    @checked(x=array(finite=False))
    def fit_prior(self, x, labels=None, components=10, seed=0, **kwargs):
        """Fits a mixture of Gaussians to the codes, from which `generate` then draws.

        The codes of real images do not fill N(0, I) evenly; a mixture of full
        covariance follows where they are (1903.12436, section 4, which fits 10
        components). A draw of q(z|x) of each image is what it is fitted to. It is
        saved with the model and exported; the networks stay as they are, and so
        do `log_likelihood` and `evaluate`.

        Args:
            x: images `(N, H, W, C)`, at least as many as `components`.
            labels: see `encode`. One mixture is fitted for all labels.
            components: of the mixture, at least 1.
            seed: integer >= 0.
            **kwargs: of `sklearn.mixture.GaussianMixture`, such as
                `covariance_type="diag"`.

        Returns:
            The model.

        Raises:
            ImportError: scikit-learn is not installed.
            ValueError: there are fewer images than components.

        Example:

        ```python
        model.fit_prior(images, components=20)
        model.generate(16, seed=0)                  # from the mixture
        model.generate(16, seed=0, prior="normal")  # from N(0, I)
        ```
        """
        prior = Mixture(components, self.latent_dim)
        if len(x) < components:
            raise ValueError(
                f"{components} components need at least as many images; got {len(x)}."
            )
        q = self.encode(x, labels)
        key = random.key(seed, "fit_prior/latents")
        noise = random.normal(key, q.mean.shape, host=True)
        prior.fit(q.sample(noise=noise), seed, **kwargs)
        self.prior = prior
        # What was compiled reads the variables of the prior before.
        self.forget_compiled()
        return self

    numbers = ("temperature",)

    def sampling_variables(self):
        return list(self.variables)

    @checked(temperature=number(">= 0"), sample=flag, prior=one_of(*PRIORS))
    def generate_batches(self, n=None, seed=0, *, temperature=1.0, **kwargs):
        """See `GenerativeModel.generate_batches`; the options are those of `draw`."""
        return super().generate_batches(n, seed, temperature=temperature, **kwargs)

    def draw(
        self, key, count, first, labels=None, temperature=1.0, sample=False, prior=None
    ):
        """Images of latents from the prior; the options of `generate`.

        Args:
            temperature: factor of the latents' deviation (of a mixture, of each
                component's): below 1, images are more alike.
            sample: draw the image from p(x|z); by default its mean.
            prior: `"normal"`, N(0, I), or `"mixture"`, that of `fit_prior`; by
                default the mixture where there is one.
        """
        if prior is None:
            prior = "normal" if self.prior is None else "mixture"
        if prior == "normal":
            z = random.normal(key, (count, self.latent_dim), offset=first)
            z = temperature * z
        elif self.prior is None:
            raise ValueError(
                "There is no mixture to draw from: call fit_prior(images) first."
            )
        else:
            z = self.prior.sample(key, count, first, temperature)
        output = self._decode(z, labels)
        if not sample:
            return self.likelihood.mean(output)
        return self.likelihood.sample(
            branch(key, 2), output, self._learned_scale(), first
        )

    def export_signatures(self):
        """What `export` writes: name -> (function, its inputs); the first serves.

        `decode` takes latents, `generate` a seed and the number of images (or labels),
        `encode` and `reconstruct` images.
        """
        labels = [("labels", (None,), "int32")] if self.num_classes else []
        latents = [("latents", (None, self.latent_dim), "float32"), *labels]
        images = [("images", (None, *self.image_shape), "float32"), *labels]

        def decode(latents, labels=None):
            return {"images": self.likelihood.mean(self._decode(latents, labels))}

        def encode(images, labels=None):
            mean, log_variance = self._moments(images, labels)
            return {"mean": mean, "log_variance": log_variance}

        def reconstruct(images, labels=None):
            return {"reconstruction": self.call(images, labels)}

        return {
            "decode": (decode, latents),
            "generate": self.seeded_signature(),
            "encode": (encode, images),
            "reconstruct": (reconstruct, images),
        }


def _shares(weight, values):
    """What each sample counts in the mean over the batch, `(B, 1)`."""
    if weight is None:
        return ops.ones_like(values[:, :1]) / ops.cast(
            ops.shape(values)[0], values.dtype
        )
    weight = ops.cast(ops.reshape(weight, (-1, 1)), values.dtype)
    total = backend.replicas.normalizer(ops.sum(weight))
    # A batch whose weights are all zero has no say: a loss of 0, not 0 / 0.
    return weight / ops.where(total == 0, ops.ones_like(total), total)


def _serialized(value):
    return keras.saving.serialize_keras_object(value) if callable(value) else value
