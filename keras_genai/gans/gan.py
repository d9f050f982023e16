"""What every GAN here shares: two players, their objective, their phases, sampling.

1406.2661, Algorithm 1: the discriminator learns to tell real from generated, the
generator to be taken for real.
"""

from collections.abc import Mapping

import keras
from keras import ops

from keras_genai import backend
from keras_genai.backend import random
from keras_genai.backend.precision import widen
from keras_genai.losses import adversarial, penalties
from keras_genai.training import GenerativeModel
from keras_genai.training.data import tensors
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import (
    check_images,
    check_labels,
    check_sample_weight,
)
from keras_genai.utils.serialization import PACKAGE, configuration
from keras_genai.utils.validation import either, having, number, refuse, text


@keras.saving.register_keras_serializable(PACKAGE)
class GAN(GenerativeModel):
    """A generator and a discriminator that train against each other with `fit()`.

    Where the optimizers accumulate the gradients of k batches, the generator learns
    after the discriminator's update, from k batches of latents: as with the whole
    batch. With labels or sample weights its gradients come batch by batch, the first
    ones against the discriminator before that update. Batch normalization knows one
    batch at a time.

    `DCGAN` and `CGAN` make their networks and pass them here. Networks of your own
    can be handed to either.

    Args:
        generator: built network, latents `(B, latent_dim)` (with labels: the list
            `[latents, labels]`) -> images `(B, H, W, C)` in [-1, 1].
        discriminator: built network, images (with labels: `[images, labels]`) ->
            logits `(B, 1)`. No sigmoid at the end.
        image_shape: `(H, W, C)`.
        latent_dim: size of the latent vector, at least 1.
        loss: `"minimax"`, `"non_saturating"`, `"least_squares"`, `"hinge"` or
            `"wasserstein"`, or a `kg.losses.Adversarial`.
        penalties: dict name -> weight, of `"r1"`, `"r2"`, `"wgan_gp"`, `"dragan"`.
        penalty_interval: n: the penalties are computed on every n-th step and count
            n times there (1912.04958, section 3.1).
        discriminator_steps: batches that the discriminator sees for each turn of the
            generator (WGAN: 5).
        generator_steps: updates of the generator at its turn.
        label_smoothing: s in [0, 1): the target of real images is 1 - s
            (1606.03498, section 3.4).
        augment: a layer, or list of layers, of differentiable operations, applied to
            real and generated images before the discriminator (2006.10738).
        ema_decay: decay of the average of the generator that `generate` uses, or
            None for no average.
        num_classes: K of the labels, or None for a model without labels.
        seed: integer >= 0.
    """

    @checked(
        loss=either(
            text,
            having("discriminator generator name", "a loss of kg.losses.adversarial"),
        ),
        penalties=None,
    )
    def __init__(
        self,
        generator,
        discriminator,
        *,
        image_shape,
        latent_dim,
        loss="non_saturating",
        penalties=None,
        penalty_interval=1,
        discriminator_steps=1,
        generator_steps=1,
        label_smoothing=0.0,
        augment=None,
        ema_decay=None,
        num_classes=None,
        seed=0,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        # Saved with the configuration; a subclass makes its own anew from its
        # arguments.
        self._own = ["generator", "discriminator"]
        self.image_shape = tuple(image_shape)
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        self.loss_name = loss
        self.objective = adversarial.get(loss)
        self.penalties = _check_penalties(penalties)
        self.penalty_interval = penalty_interval
        self.discriminator_steps = discriminator_steps
        self.generator_steps = generator_steps
        self.label_smoothing = self._check_smoothing(label_smoothing)
        self.augment = _layers(augment)
        self.ema_decay = ema_decay
        self.generator = generator
        self.discriminator = discriminator
        self._check_networks()
        self.set_players(
            "discriminator", "generator", ema="generator", ema_decay=ema_decay
        )

    # Checks

    def _check_smoothing(self, value):
        if isinstance(value, bool) or not 0.0 <= value < 1.0:
            raise ValueError(f"label_smoothing must be in [0, 1); got {value!r}.")
        if value and not self.objective.smoothing:
            raise ValueError(
                f"label_smoothing={value} has no meaning for the loss "
                f"{self.objective.name!r}, which has no target for real images: use "
                "0.0, or a loss with targets ('minimax', 'non_saturating', "
                "'least_squares')."
            )
        return value

    def _check_networks(self):
        latents = keras.KerasTensor((None, self.latent_dim))
        images = keras.KerasTensor((None, *self.image_shape))
        labels = keras.KerasTensor((None,), dtype="int32")
        made = self.generator(self.with_labels(latents, labels))
        if tuple(made.shape[1:]) != self.image_shape:
            raise ValueError(
                f"The generator must make images of image_shape {self.image_shape}; "
                f"it makes {tuple(made.shape[1:])}."
            )
        for layer in self.augment:
            images = layer(images)
        if tuple(images.shape[1:]) != self.image_shape:
            raise ValueError(
                f"augment must keep the images' shape {self.image_shape}; it makes "
                f"{tuple(images.shape[1:])}."
            )
        judged = self.discriminator(self.with_labels(images, labels))
        if judged.shape[-1] != 1:
            raise ValueError(
                "The discriminator must return logits (B, 1) or a map of logits "
                f"(B, h, w, 1); it returns {tuple(judged.shape)}."
            )

    def check_data(self, x, condition, weight):
        check_images(x, self.image_shape)
        check_labels(
            condition,
            self.num_classes,
            len(x),
            type(self).__name__,
            "Leave them out, or train a kg.CGAN(num_classes=...).",
        )
        check_sample_weight(weight, len(x))

    # Training

    def default_optimizer(self, player):
        """Adam(2e-4, beta_1=0.5) (1511.06434, section 4)."""
        del player
        return keras.optimizers.Adam(2e-4, beta_1=0.5)

    def _judge(self, images, labels, training):
        """Logits of images, augmented while training."""
        if training:
            for layer in self.augment:
                images = layer(images, training=True)
        inputs = self.with_labels(images, labels)
        return self.discriminator(inputs, training=training)

    def _latents(self, stream, batch):
        return self.noise.normal(f"{stream}/latents", (batch, self.latent_dim))

    def discriminator_loss(self, real, labels, weight, fake):
        """The objective of the discriminator with its penalties, a scalar."""
        loss = self.objective.discriminator(
            self._judge(real, labels, training=True),
            self._judge(fake, labels, training=True),
            weight=weight,
            label_smoothing=self.label_smoothing,
        )
        if not self.penalties:
            return loss
        interval = self.penalty_interval
        return loss + self.every(
            interval,
            lambda: interval * self._penalty(real, labels, fake),
            lambda: ops.zeros((), loss.dtype),
        )

    def _penalty(self, real, labels, fake):
        def critic(images):
            return self._judge(images, labels, training=True)

        batch = ops.shape(real)[0]
        total = 0.0
        for name, weight in self.penalties.items():
            if name == "r1":
                value = penalties.r1(critic, real)
            elif name == "r2":
                value = penalties.r2(critic, fake)
            else:
                alpha = self.noise.uniform(f"penalty/{name}/alpha", (batch, 1, 1, 1))
                if name == "wgan_gp":
                    value = penalties.wgan_gp(critic, real, fake, alpha)
                else:  # 1705.07215, the perturbation of the authors' code
                    shape = (batch, *self.image_shape)
                    noise = self.noise.uniform("penalty/dragan/noise", shape)
                    center = backend.replicas.mean(ops.mean(real))
                    variance = ops.mean(ops.square(real - center))
                    spread = 0.5 * ops.sqrt(backend.replicas.mean(variance))
                    value = penalties.dragan(critic, real, spread * noise, alpha)
            total = total + weight * value
        return total

    def generator_loss(self, latents, labels, weight):
        """The objective of the generator, a scalar."""
        fake = self.generator(self.with_labels(latents, labels), training=True)
        for layer in self.augment:
            fake = layer(fake, training=True)
        # The discriminator's batch statistics are its own phase's.
        inputs = self.with_labels(fake, labels)
        logits = backend.with_values(
            (), lambda: self.discriminator(inputs, training=True)
        )
        return self.objective.generator(logits, weight=weight)

    def train_step(self, data):
        real, labels, weight = tensors(data)
        batch = ops.shape(real)[0]

        def discriminator_loss(real, labels, weight, latents):
            with backend.without_gradients():
                fake = backend.with_values(
                    (),
                    lambda: self.generator(
                        self.with_labels(latents, labels), training=True
                    ),
                )
            fake = ops.stop_gradient(widen(fake))
            return self.discriminator_loss(real, labels, weight, fake)

        latents = self._latents("discriminator", batch)
        self.minimize(
            "discriminator", discriminator_loss, real, labels, weight, latents
        )

        def generator_update(turn):
            latents = self._latents(f"generator/{turn}", batch)
            return self.minimize(
                "generator", self.generator_loss, latents, labels, weight
            )

        def generator_turn():
            for turn in range(self.generator_steps):
                loss = generator_update(turn)
            return loss

        def generator_turn_in_parts():
            for turn in range(self.generator_steps):
                loss = self.for_each_part(
                    batch, lambda turn=turn: generator_update(turn)
                )
            return loss

        turn = generator_turn
        if self.accumulation > 1 and labels is None and weight is None:
            # After the discriminator's update, as with the whole batch.
            def turn():
                return self.at_update(generator_turn_in_parts, lambda: ops.zeros(()))

        steps = self.discriminator_steps
        self.every(steps, turn, lambda: ops.zeros(()), phase=steps - 1)

    def test_step(self, data):
        real, labels, weight = tensors(data)
        # Whatever the training has drawn, and however the data is cut into batches.
        key = random.key(self.seed, "evaluate/latents")
        shape = (ops.shape(real)[0], self.latent_dim)
        first = self.samples_seen() + backend.replicas.offset()
        latents = random.normal(key, shape, offset=first)
        fake = self.generator(self.with_labels(latents, labels), training=False)
        fake_logits = self._judge(fake, labels, training=False)
        loss = self.objective.discriminator(
            self._judge(real, labels, training=False), fake_logits, weight=weight
        )
        self.track("discriminator", loss)
        self.track("generator", self.objective.generator(fake_logits, weight=weight))

    # Sampling

    def call(self, latents, labels=None, training=False):
        """Images of latents `(B, latent_dim)`, by the average where one is kept.

        `predict` gives both in one list: `model.predict([latents, labels])`.
        """
        if isinstance(latents, (list, tuple)):
            latents, labels = latents

        def images():
            inputs = self.with_labels(latents, labels)
            return self.generator(inputs, training=training)

        return self.run_averaged("generator", images)

    def sampling_variables(self):
        return self.averaged_variables("generator")

    def draw(self, key, count, first, labels=None):
        latents = random.normal(key, (count, self.latent_dim), offset=first)
        return self(latents, labels, training=False)

    def export_signatures(self):
        """What `export` writes: name -> (function, its inputs); the first serves.

        `decode` takes latents, `generate` a seed and the number of images (or labels).
        """
        labels = [("labels", (None,), "int32")] if self.num_classes else []
        latents = ("latents", (None, self.latent_dim), "float32")

        def decode(latents, labels=None):
            return {"images": self(latents, labels, training=False)}

        return {
            "decode": (decode, [latents, *labels]),
            "generate": self.seeded_signature(),
        }

    # Configuration

    def get_config(self):
        names = (
            "image_shape",
            "latent_dim",
            "penalty_interval",
            "discriminator_steps",
            "generator_steps",
            "label_smoothing",
            "ema_decay",
        )
        if self.num_classes is not None:
            names = (*names, "num_classes")
        return {
            **configuration(self, names, self._own),
            "loss": self.loss_name,
            "penalties": dict(self.penalties),
            "augment": [keras.saving.serialize_keras_object(x) for x in self.augment],
        }


def _layers(augment):
    if augment is None:
        return []
    layers = list(augment) if isinstance(augment, (list, tuple)) else [augment]
    for layer in layers:
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(
                "augment must be a keras layer of differentiable operations, or a "
                f"list of them, such as kg.gans.DiffAugment(); got {layer!r}."
            )
    return layers


def _check_penalties(given):
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        refuse("penalties", "a dict of names of penalties and their weights", given)
    given = dict(given)
    for name, weight in given.items():
        if not isinstance(name, str):
            raise ValueError(
                "penalties takes the names of penalties with their weights, of "
                f"{', '.join(penalties.NAMES)}; got {name!r}. A penalty of your own "
                "belongs into discriminator_loss of a subclass."
            )
        penalties.get(name)
        given[name] = number("> 0")(f"The weight of the penalty {name!r}", weight)
    return given
