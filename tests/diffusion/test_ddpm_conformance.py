"""Every kind of DDPM passes the battery."""

import keras
from keras import ops

import keras_genai as kg
from keras_genai.diffusion import variance
from tests.support import conformance, processes
from tests.support.conformance import host
from tests.support.tiny_ddpm import network

CLASSES = 3
# It ends at alpha = 0.28, so that x_0 = (x - sigma eps) / alpha does not blow up the
# rounding of a batch of another size.
SCHEDULE = kg.schedules.Discrete("linear", beta_end=0.005)


def images(name, shape=(8, 8, 1)):
    return lambda n: (conformance.uniform(name, (n, *shape)), None)


def labelled(name, shape=(8, 8, 1)):
    def batch(n):
        labels = conformance.integers(f"{name}/labels", (n,), CLASSES)
        return conformance.uniform(name, (n, *shape)), labels

    return batch


def fast():
    """Steps large enough to be seen behind kernels that begin at zero."""
    return {"optimizer": keras.optimizers.Adam(1e-2, global_clipnorm=1.0)}


def frozen_mean(batch):
    """Makes the bound's mean what it is at this point, wherever it is asked for.

    No gradient of the bound reaches the mean (2102.09672): the loss is differentiated
    as if it were a constant, which this makes it.
    """

    def prepare(model):
        original, losses, found = variance.vlb_terms, model.losses, []

        def recording(schedule, x_0, x, t, mean_x0, v):
            found.append(host(mean_x0))
            return original(schedule, x_0, x, t, mean_x0, v)

        def replaying(schedule, x_0, x, t, mean_x0, v):
            mean = ops.convert_to_tensor(found[0], mean_x0.dtype)
            return original(schedule, x_0, x, t, mean, v)

        def patched(function):
            def run(*args, **kwargs):
                variance.vlb_terms = function
                try:
                    return losses(*args, **kwargs)
                finally:
                    variance.vlb_terms = original

            return run

        minimize, before = model.minimize, conformance.values(model.variables)
        model.minimize = lambda player, loss_fn, *data: loss_fn(*data)
        model.losses = patched(recording)
        model.train_step((*batch(conformance.BATCH), None))
        conformance.restore(model.variables, before)
        model.minimize, model.losses = minimize, patched(replaying)

    return prepare


def ddpm():
    """The default loss and sampler, with labels: a U-Net of one level that attends.

    `test_golden.py` trains one of two levels.
    """
    unet = kg.UNet(
        (8, 8, 1),
        block_channels=(8,),
        layers_per_block=1,
        groups=4,
        attention=True,
        num_classes=CLASSES,
        seed=1,
    )
    return kg.DDPM(unet, SCHEDULE, num_steps=4, ema_decay=0.9, seed=1)


TestDDPM = conformance.battery("ddpm", ddpm, labelled("ddpm"), compile=fast)

TestLearnedVariance = conformance.battery(
    "ddpm_learned_variance",
    lambda: kg.DDPM(
        network((8, 8, 3), factor=2, seed=2),
        "cosine",
        variance="learned",
        weighting="min_snr",
        sampler="ddpm",
        num_steps=4,
        seed=2,
    ),
    images("ddpm_learned_variance", (8, 8, 3)),
    compile=fast,
    prepare_gradients=frozen_mean(images("ddpm_learned_variance", (8, 8, 3))),
    variant=True,
)

TestFlow = conformance.battery(
    "ddpm_flow",
    lambda: kg.DDPM(
        kg.DiT(
            (8, 8, 1),
            patch_size=4,
            num_layers=1,
            hidden_dim=16,
            num_heads=2,
            num_classes=3,
        ),
        "rectified_flow",
        "flow",
        time_sampling="logit_normal",
        sampler="flow_heun",
        num_steps=3,
        clip=None,
        ema_decay=None,
        seed=3,
    ),
    labelled("ddpm_flow"),
    value_range=(-9.0, 9.0),  # of latents, say: nothing is clipped
    variant=True,
)

TestEDM = conformance.battery(
    "ddpm_edm",
    lambda: kg.DDPM(
        network((8, 8, 1), seed=4),
        kg.schedules.Karras(0.02, 10.0),
        "edm",
        weighting="edm",
        time_sampling="lognormal",
        sampler="heun",
        num_steps=3,
        ema_decay=0.5,
        seed=4,
    ),
    images("ddpm_edm"),
    compile=lambda: {"optimizer": keras.optimizers.Adam(1e-3)},
    variant=True,
)

TestDDPMProcesses = processes.battery(
    lambda: kg.DDPM(
        network((8, 8, 1), num_classes=CLASSES, seed=5),
        SCHEDULE,
        num_classes=CLASSES,
        num_steps=4,
        ema_decay=0.9,
        seed=5,
    ),
    labelled("ddpm processes"),
    ranges={"labels": (0, CLASSES), "t": (0.0, 999.0), "guidance_scale": (1.0, 3.0)},
    methods={
        "generate": lambda model, seed, labels, guidance_scale: model.generate(
            seed=int(seed), labels=labels, guidance_scale=guidance_scale
        ),
    },
)
