"""Sampling from a VAE, by N(0, I) or by a mixture that was fitted to its codes."""

import numpy as np

from keras_genai.backend import random
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import array, flag, number, one_of
from keras_genai.vaes.mixture import Mixture, branch

PRIORS = ("normal", "mixture")


class PriorSampling:
    """The part of `VAE` that draws images, and what is exported."""

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
        mean, log_variance = self.encode(x, labels)
        key = random.key(seed, "fit_prior/latents")
        noise = random.normal(key, mean.shape, host=True)
        prior.fit(mean + np.exp(0.5 * log_variance) * noise, seed, **kwargs)
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

        `generate` and `decode` take latents, `generate_seeded` a seed and the number
        of images (or labels), `encode` and `reconstruct` images.
        """
        labels = [("labels", (None,), "int32")] if self.num_classes else []
        latents = [("latents", (None, self.latent_dim), "float32"), *labels]
        images = [("images", (None, *self.image_shape), "float32"), *labels]

        def decode(latents, labels=None):
            return {"images": self._one_decode(0, latents, labels)[0]}

        def encode(images, labels=None):
            mean, log_variance = self._moments(images, labels)
            return {"mean": mean, "log_variance": log_variance}

        def reconstruct(images, labels=None):
            return {"reconstruction": self.call(images, labels)}

        return {
            "generate": (decode, latents),
            "generate_seeded": self.seeded_signature(),
            "encode": (encode, images),
            "decode": (decode, latents),
            "reconstruct": (reconstruct, images),
        }
