"""A Gaussian mixture as a prior over latents, fitted to a trained autoencoder."""

import keras
import numpy as np
from keras import ops

from keras_genai.backend import random
from keras_genai.backend.threefry import threefry2x32, to_int32
from keras_genai.utils.checks import check_positive
from keras_genai.utils.serialization import PACKAGE


def branch(key, number):
    """Another key that follows from a key, for another draw of the same samples.

    Args:
        key: pair of words.
        number: integer, one for each draw.
    """
    # No sample has the number -1.
    return threefry2x32(tuple(map(to_int32, key)), (to_int32(-1), to_int32(number)))


@keras.saving.register_keras_serializable(PACKAGE)
class Mixture(keras.layers.Layer):
    """`sum_k pi_k N(m_k, L_k L_k^T)` over latents, with weights that do not train.

    Args:
        components: K, at least 1.
        latent_dim: D.
    """

    def __init__(self, components, latent_dim, name="prior", **kwargs):
        super().__init__(name=name, **{**kwargs, "dtype": "float32"})
        check_positive("components", components)
        self.components = int(components)
        self.latent_dim = latent_dim

        def weight(name, *shape):
            return self.add_weight(
                name=name, shape=shape, initializer="zeros", trainable=False
            )

        self.logits = weight("logits", components)
        self.means = weight("means", components, latent_dim)
        self.factors = weight("factors", components, latent_dim, latent_dim)
        self.built = True

    def fit(self, z, seed=0, **kwargs):
        """Fits the mixture by scikit-learn's expectation maximisation.

        Args:
            z: NumPy `(N, D)`.
            seed: integer.
            **kwargs: of `sklearn.mixture.GaussianMixture`.
        """
        try:
            from sklearn.mixture import GaussianMixture
        except ImportError as error:
            raise ImportError(
                "fit_prior fits with scikit-learn, which is not installed here. Run "
                "`pip install scikit-learn`."
            ) from error
        fitted = GaussianMixture(
            self.components, random_state=seed % 2**32, **kwargs
        ).fit(np.asarray(z, "float64"))
        covariances = np.asarray(fitted.covariances_)
        kind = fitted.covariance_type
        if kind == "tied":
            covariances = np.repeat(covariances[None], self.components, axis=0)
        elif kind != "full":  # (K, D) or (K,)
            covariances = covariances.reshape(self.components, -1, 1)
            covariances = covariances * np.eye(self.latent_dim)
        self.logits.assign(np.log(np.maximum(fitted.weights_, 1e-30)))
        self.means.assign(fitted.means_)
        self.factors.assign(np.linalg.cholesky(covariances))

    def sample(self, key, count, first, temperature=1.0):
        """`(count, D)`; sample i depends on the key and on `first + i` alone."""
        logits = ops.tile(ops.expand_dims(self.logits.value, 0), (count, 1))  # (B, K)
        chosen = random.categorical(branch(key, 0), logits, offset=first)  # (B,)
        noise = random.normal(
            branch(key, 1), (count, self.latent_dim), dtype="float32", offset=first
        )
        factors = ops.take(self.factors.value, chosen, axis=0)  # (B, D, D)
        noise = ops.expand_dims(temperature * noise, -1)
        moved = ops.matmul(factors, noise)[..., 0]  # (B, D)
        return ops.take(self.means.value, chosen, axis=0) + moved

    def get_config(self):
        return {
            "components": self.components,
            "latent_dim": self.latent_dim,
            "name": self.name,
        }
