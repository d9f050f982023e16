"""How many files a reader opens from `fit` to the gradient: a bound for each family."""

import collections
import pathlib
import sys

import keras
import numpy as np
import pytest

import keras_genai as kg

ROOT = pathlib.Path(kg.__file__).resolve().parent
BELOW = ("backend", "utils")  # floors that a reader of a family need not open
IMAGES = np.random.default_rng(0).uniform(-1, 1, (8, 8, 8, 1)).astype("float32")

pytestmark = pytest.mark.once


def files_of(run):
    """File -> its lines that run, of this package."""
    lines = collections.defaultdict(set)

    def trace(frame, event, argument):
        path = pathlib.Path(frame.f_code.co_filename)
        if ROOT not in path.parents:
            return None
        name = path.relative_to(ROOT).as_posix()
        lines[name].add(frame.f_lineno)

        def line(frame, event, argument):
            lines[name].add(frame.f_lineno)
            return line

        return line

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return lines


def gpt():
    return kg.GPT(
        num_layers=1,
        hidden_dim=16,
        num_heads=2,
        vocabulary_size=11,
        max_sequence_length=8,
    )


def vae():
    return kg.VAE(image_shape=(8, 8, 1), latent_dim=2, hidden_units=(8,))


def ddpm():
    unet = kg.UNet((8, 8, 1), block_channels=(8, 8), groups=4, attention=(False, True))
    return kg.DDPM(unet)


def dcgan():
    return kg.DCGAN(image_shape=(8, 8, 1), latent_dim=4, base_filters=4)


TEXTS = np.random.default_rng(0).integers(0, 11, (4, 9))


@pytest.mark.parametrize(
    "make, data, most",
    [
        (gpt, TEXTS, 11),
        (vae, (IMAGES + 1) / 2, 8),
        (dcgan, IMAGES, 10),
        (ddpm, IMAGES, 15),
    ],
    ids=["GPT", "VAE", "DCGAN", "DDPM"],
)
def test_a_step_runs_through_few_files(make, data, most):
    model = make()
    model.compile(run_eagerly=True)
    lines = files_of(lambda: model.fit(data, batch_size=8, verbose=0))
    own = [name for name in lines if name.split("/")[0] not in BELOW]
    count = sum(map(len, lines.values()))
    print(f"{len(own)} of {len(lines)} files, {count} lines: {sorted(own)}")
    assert keras.backend.backend() in str(sorted(lines))
    assert len(own) <= most, sorted(own)
