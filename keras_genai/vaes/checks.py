"""What a VAE says before any work when an argument, a network or data does not fit."""

import keras

from keras_genai.utils.checks import check_images, check_labels, check_sample_weight

ESTIMATORS = ("reparameterized", "dreg")


class Checks:
    """The part of `VAE` that refuses."""

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
