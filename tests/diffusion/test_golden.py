"""A U-Net with a context begins, trains and samples the same on every backend.

Cross-attention of several heads on the way down, in the middle and on the way up, and
a vector beside: what Stable Diffusion 2 has. (Deeper ones: `test_unet.py`.)
"""

import functools

import keras
import numpy as np

import keras_genai as kg
from tests.support import conformance
from tests.support.conformance import Golden, assert_golden, host

LENGTH = 5  # of a context


def make():
    unet = kg.UNet(
        (8, 8, 2),
        block_channels=(8,),
        layers_per_block=1,
        groups=4,
        attention=True,
        num_heads=2,
        context_dim=6,
        vector_dim=3,
        seed=6,
    )
    conditions = {"context_shape": (LENGTH, 6), "vector_dim": 3}
    model = kg.DDPM(unet, **conditions, num_steps=3, ema_decay=None, seed=6)
    # Traced, it costs TensorFlow ten times as much; `TestDDPM` holds a U-Net's trace.
    eager = conformance.BACKEND == "tensorflow" and not conformance.THOROUGH
    optimizer = keras.optimizers.Adam(1e-2, global_clipnorm=1.0)
    model.compile(optimizer, run_eagerly=eager)
    return model


def data(n=conformance.BATCH * conformance.STEPS):
    """Images, and their conditions by name."""
    draw = functools.partial(conformance.uniform, low=-2.0, high=2.0)
    context = draw("context/context", (n, LENGTH, 6))
    images = conformance.uniform("context/images", (n, 8, 8, 2))
    return images, {"context": context, "vector": draw("context/vector", (n, 3))}


def configuration():
    images, conditions = data()
    return conformance.describe(make(), images, *conditions.values())


@functools.cache
def steps():
    """What is compared, by name."""
    model, (images, conditions) = make(), data()

    def sums(of):
        return [of(host(v.value).astype("float64")) for v in model.variables]

    begun = {"initial magnitudes": sums(lambda w: np.abs(w).sum())}
    logs = conformance.train(model, (images, conditions), 0, conformance.STEPS)
    some = {name: values[:2] for name, values in conditions.items()}
    return {
        **begun,
        **logs,
        "sums of weights": sums(np.sum),
        "sums of magnitudes": sums(lambda w: np.abs(w).sum()),
        "samples": model.generate(2, seed=1, **some),
    }


GOLDEN = Golden("unet_context", configuration, steps)


def test_a_unet_with_a_context_agrees_with_the_golden_file():
    reference, got = GOLDEN.read(), steps()
    assert set(got) == set(reference)
    for name, values in got.items():
        assert_golden(values, reference[name], name)
