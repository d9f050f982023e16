"""The published networks by their names: names, shapes, parameters, activations."""

import hashlib
import math

import numpy as np
import pytest

import keras_genai as kg
from keras_genai.clip.sizes import SIZES, arguments_of
from keras_genai.utils.deferred import deferred
from keras_genai.weights import _open_clip
from keras_genai.weights import clip as weights
from tests.support.conformance import host

pytestmark = pytest.mark.once

# Of the published files: tensors, numbers in them, and a digest of the sorted lines
# "name shape". RN50's is the image tower of OpenCLIP, without the counters of batches;
# its statistics are no parameters.
PUBLISHED = {
    "ViT-B/32": (398, 151_277_313, "8bab39ee5933a281"),
    "ViT-L/14": (590, 427_616_513, "f7cef6c6e5c2a70a"),
    "SigLIP-B/16": (408, 203_155_970, "c1949f121aafc19c"),
    "RN50": (284, 38_370_144, "9f954ca4f195c854"),
}


def unmade(size):
    """A model without weights of its own: nothing is allocated."""
    with deferred():
        return kg.CLIP.from_size(size)


def digest(shapes):
    lines = sorted(f"{name} {tuple(shape)}" for name, shape in shapes.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize("size", PUBLISHED)
def test_names_and_shapes_are_the_published(size):
    model = unmade(size)
    if size == "RN50":
        entries = _open_clip.table(model)
        entries = [e for e in entries if e.name.startswith("visual.")]
        parameters = model.image_tower.trainable_variables
        assert sum(math.prod(v.shape) for v in parameters) == 38_316_896
    else:
        entries = weights.table(model)
    shapes = {e.name: e.shape for e in entries}
    count = sum(math.prod(shape) for shape in shapes.values())
    assert (len(entries), count, digest(shapes)) == PUBLISHED[size]


def test_every_size_is_whole():
    """Its parts fit each other; its names are those of the tables."""
    for size in SIZES:
        image, text, own = arguments_of(size)
        sigmoid = size.startswith("SigLIP")
        assert own.get("loss", "softmax") == ("sigmoid" if sigmoid else "softmax")
        assert text["projection_dim"] == own["embed_dim"]
        assert image.get("projection_dim", image.get("hidden_dim")) == own["embed_dim"]
    assert arguments_of("ViT-H/14")[1]["activation"] == "gelu"
    assert arguments_of("ViT-L/14")[0]["activation"] == "quick_gelu"
    with pytest.raises(ValueError, match="size must be one of RN50, RN101"):
        kg.CLIP.from_size("ViT-B/8")


def test_initial_weights_are_as_wide_as_published():
    # CLIP's code begins its text tower so, which 0.02 all over is too small for.
    width, layers = 64, 3
    size = {"num_layers": layers, "hidden_dim": width, "num_heads": 4}
    text = kg.clip.TextTower(500, 40, eos_token_id=1, projection_dim=32, **size)
    image = kg.clip.ImageTower((32, 32, 3), 4, projection_dim=32, **size)
    block = {
        "query": width**-0.5,
        "value": width**-0.5,
        "out": width**-0.5 * (2 * layers) ** -0.5,
        "dense1": (2 * width) ** -0.5,
        "dense2": width**-0.5 * (2 * layers) ** -0.5,
    }
    wanted = {"embedding": 0.02, "position": 0.01, "projection": width**-0.5, **block}
    check_deviations(text, wanted)
    wanted = {"table": width**-0.5, "projection": width**-0.5, **block}
    check_deviations(image, wanted)


def check_deviations(tower, wanted):
    met = set()
    for variable in tower.trainable_variables:
        name = variable.path.removesuffix("/kernel").removesuffix("/embeddings")
        name = name.split("/")[-1]
        if name in wanted and len(variable.shape) > 1:
            found = float(np.std(host(variable.value)))
            assert abs(found / wanted[name] - 1.0) < 0.1, (variable.path, found)
            met.add(name)
    assert met == set(wanted)
