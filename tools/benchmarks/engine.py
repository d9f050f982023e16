"""A DCGAN's training step: this engine, a native step, and PyTorch alone.

Contenders, on each backend `b`:

    b            kg.DCGAN: the compiled train function, called as `fit` calls it
    b native     the same Keras networks under a step written by hand for the backend:
                 tf.function and GradientTape; jax.jit and value_and_grad over
                 `stateless_call`; torch.autograd and torch.optim.Adam
    torch peer   PyTorch alone: nn.Module networks of the same size, channels last,
                 in the loop of PyTorch's own DCGAN example, where one forward pass of
                 the generator serves both phases
    torch peer, fresh latents   the same with a pass for each phase, as 1406.2661 and
                 this package do

All train with the non-saturating loss and Adam(2e-4, beta_1=0.5). Tasks: "step", on
one batch that lies on the device; "fit", an epoch over arrays in memory
(`model.fit(verbose=0)`; the peer's loop with a random order).

FLOPs are those of convolutions and matrix products alone, two for each
multiplication and addition, counted from the shapes; the matrix rate beside them is
what one large product reaches on the same device in the same run.
"""

from __future__ import annotations

import itertools
import time

# Of every contender: none takes a device's whole memory.
SHARED = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
}
TITLE = "A DCGAN's training step"
CASES = {
    "28x28x1": {"image_shape": (28, 28, 1), "latent_dim": 64, "batch": 64},
    "64x64x3": {
        "image_shape": (64, 64, 3),
        "latent_dim": 64,
        "batch": 64,
        "divide": 10,
    },
}
BASE = 64
PEER = "torch peer"
FRESH = "torch peer, fresh latents"


def contenders(backends):
    """Name -> environment variables."""
    # Several processes share the device, and its memory is measured.
    found = {PEER: SHARED, FRESH: SHARED}
    for backend in backends:
        variables = {"KERAS_BACKEND": backend, **SHARED}
        found[backend] = found[f"{backend} native"] = variables
    return found


def rows(backends, gpu):
    """The lines of the table, with what the speed rule wants."""
    own = tuple(backends)
    limits = {"tensorflow": 1.2, "torch": 1.2, "jax": None}
    if gpu:
        limits = dict.fromkeys(limits, 1.0)
    found = []

    def add(label, task, over, under, wanted=None):
        found.append(
            {
                "label": label,
                "task": task,
                "over": over,
                "under": under,
                "wanted": wanted,
            }
        )

    for name in own:
        add(f"{name}: the engine / native", "step", name, f"{name} native", 1.05)
    add("fastest backend / PyTorch", "step", own, PEER, 1.0)
    for name in own:
        add(f"{name} / PyTorch", "step", name, PEER, limits[name])
    for name in own:
        add(f"{name} / PyTorch, fresh latents", "step", name, FRESH)
    for name in own:
        add(f"{name} native / PyTorch", "step", f"{name} native", PEER)
    add("PyTorch, fresh latents / PyTorch", "step", FRESH, PEER)
    add("fit: fastest backend / PyTorch's loop", "fit", own, PEER, 1.0)
    for name in own:
        add(f"fit: {name} / PyTorch's loop", "fit", name, PEER, limits[name])
    return found


def causes(label):
    """Why a row misses, as far as it is known."""
    for start, cause in CAUSES.items():
        if label.startswith(start):
            return cause
    return None


# By the beginning of the row's label. Milliseconds are of one core's time in a step of
# the 28x28x1 case.
CAUSES = {
    "torch: the engine": "Python around the kernels, one call after the other: Keras's "
    "Adam (6 ms), the noise (4 ms), losses and counters (3 ms) by the profiler",
    "torch / PyTorch": "the generator runs once more for its own turn, as in the "
    "paper's algorithm (20 ms; the row with fresh latents has that in both)",
    "torch native / PyTorch": "the generator runs once more for its own turn (20 ms)",
    "fit: torch": "as its step, and Keras's loop around it (15 ms a step)",
    "fit: fastest": "within the noise of the machine: the quartiles lie around 1.0",
}


# FLOPs --------------------------------------------------------------------------


def layers(image_shape, latent_dim, base=BASE):
    """Multiplications of one image in each layer: (generator's, discriminator's)."""
    height, width, channels = image_shape
    stages = stages_of(image_shape)
    h, w = height >> stages, width >> stages
    filters = base << (stages - 1)
    generator = [latent_dim * h * w * filters]
    for stage in range(1, stages + 1):
        out = channels if stage == stages else filters // 2
        # A transposed convolution multiplies each input pixel by its whole kernel.
        generator.append(h * w * filters * 16 * out)
        h, w, filters = 2 * h, 2 * w, out
    discriminator, inputs = [], channels
    for stage in range(stages):
        h, w = h // 2, w // 2
        discriminator.append(h * w * inputs * 16 * (base << stage))
        inputs = base << stage
    discriminator.append(h * w * inputs)
    return generator, discriminator


def stages_of(image_shape):
    """As `stages_of` of keras_genai.layers, for sides that are powers of 2 or 28."""
    stages = 2
    while (
        stages < 6
        and all(side % 2 ** (stages + 1) == 0 for side in image_shape[:2])
        and min(image_shape[:2]) >> (stages + 1) >= 4
    ):
        stages += 1
    return stages


def step_flops(image_shape, latent_dim, batch, fresh=True):
    """FLOPs of one training step: what the mathematics needs, no more.

    A backward pass costs a layer twice its forward pass, once for the gradient of
    its input and once for that of its weights; the first layer's input needs none,
    and the generator's phase needs none of the discriminator's weights.
    """
    generator, discriminator = layers(image_shape, latent_dim)
    g, d = sum(generator), sum(discriminator)
    discriminator_phase = (g if fresh else 0) + 2 * (3 * d - discriminator[0])
    generator_phase = g + 2 * d + 2 * g - generator[0]
    return 2 * batch * (discriminator_phase + generator_phase)


# The worker's side --------------------------------------------------------------


class Bench:
    """What a worker serves: see `tools/benchmark.py`."""

    def __init__(self, case):
        self.case = case
        self.shape = tuple(case["image_shape"])
        self.latent = case["latent_dim"]
        self.batch = case["batch"]
        self.device = "cpu"
        self.versions = {}
        self.tasks = {}
        self.compile_seconds = None
        self.flops = dict.fromkeys(
            ("step", "fit"), step_flops(self.shape, self.latent, self.batch)
        )

    def images(self, count):
        """Images in [-1, 1]: noise, for a step takes as long whatever it sees."""
        import numpy as np

        draw = np.random.default_rng(0).uniform(-1, 1, (count, *self.shape))
        return draw.astype("float32")

    def peak(self):
        """The highest memory so far: the device's, or the process's."""
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def first_call(self):
        started = time.perf_counter()
        self.tasks["step"](1)
        self.compile_seconds = time.perf_counter() - started


def build(name, case):
    """The contender of that name."""
    if name in (PEER, FRESH):
        bench = Peer(case, fresh=name == FRESH)
    else:
        backend, _, native = name.partition(" ")
        kinds = {
            "tensorflow": (TensorFlow, TensorFlowNative),
            "jax": (Jax, JaxNative),
            "torch": (Torch, TorchNative),
        }
        bench = kinds[backend][bool(native)](case)
    bench.first_call()
    return bench


def on_torch(bench):
    """Fill in what a worker on PyTorch knows; its synchronisation."""
    import torch

    bench.versions["torch"] = torch.__version__
    if not torch.cuda.is_available():
        return torch.device("cpu"), lambda: None
    bench.device = torch.cuda.get_device_name()
    bench.peak = torch.cuda.max_memory_allocated
    torch.backends.cudnn.benchmark = True
    return torch.device("cuda"), torch.cuda.synchronize


class Peer(Bench):
    """PyTorch alone, as its DCGAN example trains."""

    def __init__(self, case, fresh):
        super().__init__(case)
        import torch

        device, self.sync = on_torch(self)
        self.torch, self.fresh = torch, fresh
        self.flops = dict.fromkeys(
            ("step", "fit"), step_flops(self.shape, self.latent, self.batch, fresh)
        )
        torch.manual_seed(0)
        generator, discriminator = networks(self.shape, self.latent)
        last = torch.channels_last
        self.generator = generator.to(device, memory_format=last)
        self.discriminator = discriminator.to(device, memory_format=last)
        self.optimizers = [
            torch.optim.Adam(net.parameters(), lr=2e-4, betas=(0.5, 0.999))
            for net in (self.discriminator, self.generator)
        ]
        self.place = {"device": device}
        self.sums = torch.zeros(2, device=device)
        self.objective = torch.nn.BCEWithLogitsLoss()
        self.real = self._on_device(self.images(self.batch))
        self.tasks = {"step": self._steps, "fit": self._epoch}
        self.matrix_rate = None if fresh else matrix_rate(torch, device, self.sync)

    def _on_device(self, images):
        tensor = self.torch.from_numpy(images).permute(0, 3, 1, 2)
        return tensor.contiguous(memory_format=self.torch.channels_last).to(
            **self.place
        )

    def _latents(self, count):
        return self.torch.randn(count, self.latent, **self.place)

    def _step(self, real):
        torch, objective = self.torch, self.objective
        count = len(real)
        ones = torch.ones(count, 1, **self.place)
        zeros = torch.zeros(count, 1, **self.place)
        update_discriminator, update_generator = self.optimizers
        if self.fresh:
            with torch.no_grad():
                fake = self.generator(self._latents(count))
        else:
            fake = self.generator(self._latents(count))
        update_discriminator.zero_grad()
        loss = objective(self.discriminator(real), ones)
        loss.backward()
        other = objective(self.discriminator(fake.detach()), zeros)
        other.backward()
        update_discriminator.step()
        if self.fresh:
            fake = self.generator(self._latents(count))
        update_generator.zero_grad()
        own = objective(self.discriminator(fake), ones)
        own.backward()
        update_generator.step()
        self.sums += torch.stack([loss.detach() + other.detach(), own.detach()])

    def _steps(self, steps):
        for _ in range(steps):
            self._step(self.real)
        self.sync()

    def _epoch(self, steps):
        data = self.torch.from_numpy(self.images(self.batch * steps))
        data = data.permute(0, 3, 1, 2)
        order = self.torch.randperm(len(data))
        for start in range(0, len(data), self.batch):
            self._step(data[order[start : start + self.batch]].to(**self.place))
        self.sync()


def networks(shape, latent, base=BASE):
    """The networks of `kg.DCGAN`, as a PyTorch user writes them."""
    from torch import nn

    height, width, channels = shape
    stages = stages_of(shape)
    h, w, filters = height >> stages, width >> stages, base << (stages - 1)

    def norm(width):
        return nn.BatchNorm2d(width)

    parts = [nn.Linear(latent, h * w * filters, bias=False)]
    parts += [nn.Unflatten(1, (filters, h, w)), norm(filters), nn.ReLU(True)]
    for _ in range(1, stages):
        half = filters // 2
        parts += [nn.ConvTranspose2d(filters, half, 4, 2, 1, bias=False)]
        parts += [norm(half), nn.ReLU(True)]
        filters = half
    parts += [nn.ConvTranspose2d(filters, channels, 4, 2, 1), nn.Tanh()]
    generator = nn.Sequential(*parts)
    parts, inputs = [], channels
    for stage in range(stages):
        filters = base << stage
        parts += [nn.Conv2d(inputs, filters, 4, 2, 1, bias=stage == 0)]
        parts += [norm(filters)] if stage else []
        parts += [nn.LeakyReLU(0.2, inplace=True)]
        inputs = filters
    parts += [nn.Flatten(), nn.Linear(h * w * inputs, 1)]
    discriminator = nn.Sequential(*parts)
    for net in (generator, discriminator):
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)
            elif getattr(module, "weight", None) is not None:
                nn.init.normal_(module.weight, 0.0, 0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
    return generator, discriminator


def matrix_rate(torch, device, sync):
    """FLOPs a second of one large product, in the precision convolutions get."""
    size = 2048 if device.type == "cpu" else 8192
    torch.backends.cuda.matmul.allow_tf32 = True
    a, b = torch.randn(2, size, size, device=device)
    times = []
    for _ in range(20):
        sync()
        started = time.perf_counter()
        a @ b
        sync()
        times.append(time.perf_counter() - started)
    torch.backends.cuda.matmul.allow_tf32 = False
    return 2 * size**3 / min(times)


class Own(Bench):
    """`kg.DCGAN` on the backend that `KERAS_BACKEND` names."""

    def __init__(self, case):
        super().__init__(case)
        import keras

        import keras_genai as kg

        self.versions["keras"] = keras.__version__
        self.start()
        self.model = kg.DCGAN(self.shape, self.latent, base_filters=BASE)
        self.model.compile()
        self.model.make_train_function()
        self.data = {}
        self.prepare()
        self.tasks = {"step": self._steps, "fit": self._fit}

    def _fit(self, steps):
        if steps not in self.data:
            self.data[steps] = self.images(self.batch * steps)
        self.model.fit(self.data[steps], batch_size=self.batch, verbose=0)


class Native(Bench):
    """The networks of `kg.DCGAN` under a step of the backend's own."""

    def __init__(self, case):
        super().__init__(case)
        import keras

        from keras_genai import gans

        self.versions["keras"] = keras.__version__
        self.start()
        self.generator = gans.dcgan_generator(self.shape, self.latent, BASE)
        self.discriminator = gans.dcgan_discriminator(self.shape, BASE)
        self.prepare()
        self.tasks = {"step": self._steps}


class OnTensorFlow:
    def start(self):
        import tensorflow as tf

        self.tf = tf
        self.versions["tensorflow"] = tf.__version__
        if gpus := tf.config.list_physical_devices("GPU"):
            details = tf.config.experimental.get_device_details(gpus[0])
            self.device = details.get("device_name", "gpu")
            self.peak = lambda: tf.config.experimental.get_memory_info("GPU:0")["peak"]


class TensorFlow(OnTensorFlow, Own):
    def prepare(self):
        real = self.tf.constant(self.images(self.batch))
        self.iterator = iter(self.tf.data.Dataset.from_tensors((real,)).repeat())

    def _steps(self, steps):
        for _ in range(steps):
            logs = self.model.train_function(self.iterator)
        logs["loss"].numpy()


class TensorFlowNative(OnTensorFlow, Native):
    def prepare(self):
        import keras

        tf = self.tf
        self.real = tf.constant(self.images(self.batch))
        self.sums = tf.Variable([0.0, 0.0])
        nets = (self.discriminator, self.generator)
        optimizers = [keras.optimizers.Adam(2e-4, beta_1=0.5) for _ in nets]
        for optimizer, net in zip(optimizers, nets, strict=True):
            optimizer.build(net.trainable_variables)
        generator, discriminator = self.generator, self.discriminator

        def update(number, loss, tape):
            variables = nets[number].trainable_variables
            values = [v.value for v in variables]
            optimizers[number].apply(tape.gradient(loss, values), variables)

        @tf.function
        def step(real):
            count = tf.shape(real)[0]
            fake = generator(tf.random.normal((count, self.latent)), training=True)
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(
                    tf.nn.softplus(-discriminator(real, training=True))
                ) + tf.reduce_mean(tf.nn.softplus(discriminator(fake, training=True)))
            update(0, loss, tape)
            with tf.GradientTape() as tape:
                fake = generator(tf.random.normal((count, self.latent)), training=True)
                own = tf.reduce_mean(
                    tf.nn.softplus(-discriminator(fake, training=True))
                )
            update(1, own, tape)
            self.sums.assign_add(tf.stack([loss, own]))
            return loss, own

        self.step = step

    def _steps(self, steps):
        for _ in range(steps):
            losses = self.step(self.real)
        losses[1].numpy()


class OnJax:
    def start(self):
        import jax

        self.jax = jax
        self.versions["jax"] = jax.__version__
        device = jax.devices()[0]
        if device.platform != "cpu":
            self.device = device.device_kind
            self.peak = lambda: device.memory_stats()["peak_bytes_in_use"]


class Jax(OnJax, Own):
    def prepare(self):
        self.batches = itertools.repeat((self.jax.device_put(self.images(self.batch)),))

    def _state(self):
        return self.model._get_jax_state(
            trainable_variables=True,
            non_trainable_variables=True,
            optimizer_variables=True,
            metrics_variables=True,
            purge_model_variables=True,
        )

    def _steps(self, steps):
        # As Keras's fit: the state leaves the model, goes round, and comes back.
        state = self._state()
        self.model._jax_state_synced = False
        for _ in range(steps):
            logs, state = self.model.train_function(state, self.batches)
        self.jax.block_until_ready(state)
        names = ("trainable", "non_trainable", "optimizer", "metrics")
        self.model._jax_state = {
            f"{name}_variables": values
            for name, values in zip(names, state, strict=True)
        }
        self.model.jax_state_sync()


class JaxNative(OnJax, Native):
    def prepare(self):
        jax = self.jax
        jnp = jax.numpy
        self.real = jax.device_put(self.images(self.batch))
        nets = (self.discriminator, self.generator)

        def take(net):
            # Copies, for the step gives its inputs' memory to its outputs.
            weights = [jnp.array(v.value) for v in net.trainable_variables]
            statistics = [jnp.array(v.value) for v in net.non_trainable_variables]
            zeros = [jnp.zeros_like(w) for w in weights]
            return weights, statistics, zeros, [jnp.zeros_like(w) for w in weights]

        self.state = (*map(take, nets), jnp.zeros(2), jnp.zeros((), "int32"))
        self.state = (*self.state, jax.random.key(0))
        discriminate = self.discriminator.stateless_call
        generate = self.generator.stateless_call

        def adam(player, statistics, gradients, count):
            weights, _, first, second = player
            first = [0.5 * m + 0.5 * g for m, g in zip(first, gradients, strict=True)]
            second = [
                0.999 * v + 0.001 * g * g
                for v, g in zip(second, gradients, strict=True)
            ]
            rate = 2e-4 * jnp.sqrt(1 - 0.999**count) / (1 - 0.5**count)
            weights = [
                w - rate * m / (jnp.sqrt(v) + 1e-7)
                for w, m, v in zip(weights, first, second, strict=True)
            ]
            return weights, statistics, first, second

        def step(state, real):
            d, g, sums, count, key = state
            key, one, two = jax.random.split(key, 3)
            count = count + 1
            power = count.astype("float32")
            size = (real.shape[0], self.latent)
            fake, _ = generate(g[0], g[1], jax.random.normal(one, size), training=True)

            def discriminator_loss(weights):
                judged, statistics = discriminate(weights, d[1], real, training=True)
                other, statistics = discriminate(
                    weights, statistics, fake, training=True
                )
                loss = jnp.mean(jax.nn.softplus(-judged))
                return loss + jnp.mean(jax.nn.softplus(other)), statistics

            (loss, statistics), gradients = jax.value_and_grad(
                discriminator_loss, has_aux=True
            )(d[0])
            d = adam(d, statistics, gradients, power)

            def generator_loss(weights):
                made, statistics = generate(
                    weights, g[1], jax.random.normal(two, size), training=True
                )
                judged, _ = discriminate(d[0], d[1], made, training=True)
                return jnp.mean(jax.nn.softplus(-judged)), statistics

            (own, statistics), gradients = jax.value_and_grad(
                generator_loss, has_aux=True
            )(g[0])
            g = adam(g, statistics, gradients, power)
            return d, g, sums + jnp.stack([loss, own]), count, key

        self.step = jax.jit(step, donate_argnums=0)

    def _steps(self, steps):
        for _ in range(steps):
            self.state = self.step(self.state, self.real)
        self.jax.block_until_ready(self.state)


class OnTorch:
    def start(self):
        import torch

        self.torch = torch
        self.place, self.sync = on_torch(self)


class Torch(OnTorch, Own):
    def prepare(self):
        self.real = self.torch.from_numpy(self.images(self.batch)).to(self.place)

    def _steps(self, steps):
        for _ in range(steps):
            self.model.train_function([(self.real,)])
        self.sync()


class TorchNative(OnTorch, Native):
    def prepare(self):
        torch = self.torch
        self.real = torch.from_numpy(self.images(self.batch)).to(self.place)
        self.sums = torch.zeros(2, device=self.place)
        self.weights = [
            [v.value for v in net.trainable_variables]
            for net in (self.discriminator, self.generator)
        ]
        self.optimizers = [
            torch.optim.Adam(weights, lr=2e-4, betas=(0.5, 0.999))
            for weights in self.weights
        ]

    def _update(self, number, loss):
        weights = self.weights[number]
        for weight, gradient in zip(
            weights, self.torch.autograd.grad(loss, weights), strict=True
        ):
            weight.grad = gradient
        self.optimizers[number].step()

    def _step(self, real):
        torch = self.torch
        softplus = torch.nn.functional.softplus
        size = (len(real), self.latent)
        with torch.no_grad():
            latents = torch.randn(size, device=self.place)
            fake = self.generator(latents, training=True)
        loss = softplus(-self.discriminator(real, training=True)).mean()
        loss = loss + softplus(self.discriminator(fake, training=True)).mean()
        self._update(0, loss)
        fake = self.generator(torch.randn(size, device=self.place), training=True)
        own = softplus(-self.discriminator(fake, training=True)).mean()
        self._update(1, own)
        self.sums += torch.stack([loss.detach(), own.detach()])

    def _steps(self, steps):
        for _ in range(steps):
            self._step(self.real)
        self.sync()
