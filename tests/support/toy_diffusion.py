"""The smallest model of the parts: what a family builds on them, for the tests."""

import keras
from keras import ops

import keras_genai as kg
from keras_genai.backend import random
from keras_genai.diffusion import Denoiser, guidance, samplers, schedules, uniform_times
from keras_genai.layers.initializers import Streams

CLASSES = 2


@keras.saving.register_keras_serializable("tests")
class ToyDiffusion(kg.GenerativeModel):
    """Two classes of images (2, 2, 1); one dense layer on x, t and the label."""

    num_classes = CLASSES

    def __init__(self, seed=0, **kwargs):
        super().__init__(seed=seed, **kwargs)
        x, t = keras.Input((2, 2, 1)), keras.Input(())
        label = keras.Input((), dtype="int32")
        parts = [
            keras.layers.Flatten()(x),
            ops.expand_dims(t / 1000.0, -1),
            ops.one_hot(label, CLASSES + 1),
        ]
        y = keras.layers.Concatenate()(parts)
        initializer = Streams("toy", seed)("dense")
        y = keras.layers.Dense(4, kernel_initializer=initializer)(y)
        self.network = keras.Model([x, t, label], keras.layers.Reshape((2, 2, 1))(y))
        self.schedule = schedules.get("linear")
        self.set_players("network")

    def denoiser(self, training=False):
        def network(x, t, labels):
            return self.network([x, t, labels], training=training)

        return Denoiser(network, self.schedule, "v")

    def train_step(self, data):
        x, labels, _ = data
        batch = ops.shape(x)[0]
        t = uniform_times(self.schedule, self.noise.uniform("t", (batch,)))
        noise = self.noise.normal("noise", ops.shape(x))
        dropped = self.noise.bernoulli("dropped", (batch,), 0.1)
        labels = ops.where(dropped, CLASSES, ops.cast(labels, "int32"))
        denoise = self.denoiser(training=True)
        self.minimize(
            "network",
            lambda: ops.mean(denoise.loss(x, noise, t, labels, weighting="min_snr")),
        )

    def draw(self, key, count, first, labels=None, guidance_scale=1.0, num_steps=5):
        grid = samplers.time_grid(self.schedule, num_steps)
        noise = random.normal(random.subkey(key, "x"), (count, 2, 2, 1), offset=first)
        null = ops.full_like(labels, CLASSES)
        guided = guidance.classifier_free(self.denoiser(), labels, null, guidance_scale)
        sampler = samplers.ddpm(grid)
        return sampler(guided, grid.start(noise), samplers.keyed_noise(key, first))

    def export_signatures(self):
        def generate(seed, labels, guidance_scale):
            key = random.key(seed, "generate/latents")
            count = ops.shape(labels)[0]
            images = self.draw(key, count, 0, labels, guidance_scale)
            return {"images": images}

        inputs = [
            ("seed", (), "int32"),
            ("labels", (None,), "int32"),
            ("guidance_scale", (), "float32"),
        ]
        return {"generate": (generate, inputs)}

    def get_config(self):
        return {"seed": self.seed}
