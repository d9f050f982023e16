"""ViT learns classes, paints what is hidden, and takes images of other sizes."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from keras_genai.layers.patches import patchify, unpatchify
from keras_genai.transformers.vit_network import bicubic
from tests.support.conformance import host

pytestmark = pytest.mark.in_turn

SMALL = {"patch_size": 4, "num_layers": 2, "hidden_dim": 16, "num_heads": 2, "seed": 0}
PAINTER = {
    "mae": True,
    "decoder_num_layers": 1,
    "decoder_hidden_dim": 16,
    "decoder_num_heads": 2,
}


def small(**arguments):
    return kg.ViT(**{"image_shape": (8, 12, 2), **SMALL, **arguments})


def images(count=64):
    """Bright on the left, or on the right: two classes."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 2, count)
    x = 0.2 * draw.normal(size=(count, 8, 12, 2))
    x[labels == 0, :, :6] += 1.0
    x[labels == 1, :, 6:] += 1.0
    return x.astype("float32"), labels


def test_patches_and_back():
    x = images(3)[0]
    patches = host(patchify(ops.convert_to_tensor(x), 4))
    assert patches.shape == (3, 6, 32)
    np.testing.assert_array_equal(patches[1, 4], x[1, 4:8, 4:8].ravel())
    again = host(unpatchify(ops.convert_to_tensor(patches), 4, (2, 3), 2))
    np.testing.assert_array_equal(again, x)


@pytest.mark.parametrize("sizes", [(14, 24), (7, 3), (5, 5)])
def test_the_interpolation_is_pytorchs(sizes):
    torch = pytest.importorskip("torch")
    old, new = sizes
    line = np.random.default_rng(0).normal(size=old).astype("float32")
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(line).reshape(1, 1, 1, old), (1, new), mode="bicubic"
    )
    found = bicubic(old, new) @ line
    np.testing.assert_allclose(found, wanted.numpy().ravel(), atol=1e-5)
    np.testing.assert_allclose(bicubic(old, new).sum(1), 1.0, atol=1e-6)


@pytest.mark.once
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"pooling": "mean", "positions": "sinusoidal"},
        {"positions": "rotary", "label_smoothing": 0.1},
        {"positions": "rotary", "pooling": "mean", "dropout": 0.1},
    ],
)
def test_it_learns_classes(arguments):
    model = small(num_classes=2, **arguments)
    model.compile(keras.optimizers.Adam(2e-3))  # larger steps part the backends
    x, labels = images(128)
    model.fit(x, labels, batch_size=32, epochs=12, verbose=0)
    logs = model.evaluate(x, labels, verbose=0, return_dict=True)
    assert set(logs) == {"loss", "accuracy"} and logs["accuracy"] > 0.95, logs
    found = model.classify(x, batch_size=50)
    assert (found.argmax(-1) == labels).mean() > 0.95
    assert model.embed(x[:3]).shape == (3, 16)
    larger = np.kron(x[:8], np.ones((1, 2, 2, 1), "float32"))
    assert np.all(np.isfinite(model.classify(larger)))


@pytest.mark.parametrize(
    "positions, pooling", [("learned", "token"), ("rotary", "mean")]
)
def test_attention_maps_are_what_the_network_attends_by(positions, pooling):
    model = small(num_classes=2, positions=positions, pooling=pooling, num_layers=1)
    x, front = images(5)[0], int(pooling == "token")
    maps = model.attention_maps(x, batch_size=2)
    assert maps.shape == (5, 1, 2, 6 + front, 6 + front)
    assert model.attention_maps(x[:, :4]).shape[-1] == 3 + front
    np.testing.assert_allclose(maps.sum(-1), 1.0, atol=1e-5)
    # One block by hand, with these probabilities in its attention's place.
    block = model.network.blocks[0]
    tokens, first = model.network.embedded(ops.convert_to_tensor(x))
    if front:
        first = ops.broadcast_to(first, (5, 1, 16))
        tokens = ops.concatenate([first, tokens], axis=1)
    inner = block.self_attention
    values = host(inner.value(block.norm1(tokens))).reshape(5, -1, 2, 8)
    mixed = np.einsum("bnts,bsnd->btnd", maps[:, 0], values).reshape(5, -1, 16)
    y = tokens + inner.out(ops.convert_to_tensor(mixed))
    y = y + block.feed_forward(block.norm2(y))
    np.testing.assert_allclose(
        host(model.network.norm(y)), host(model.hidden_states(x)), atol=1e-5
    )


def test_rotary_places_are_seen():
    """Without a table, what two patches make depends on where they are."""
    model = small(positions="rotary", pooling="mean")
    x = images(1)[0]
    shifted = np.roll(x, 4, axis=2)
    assert np.abs(model.embed(x) - model.embed(shifted)).max() > 1e-4


def test_the_painter_sees_the_seen_patches_alone():
    model = small(**PAINTER, mask_ratio=0.5, positions="sinusoidal")
    x = images(2)[0]
    draw = np.random.default_rng(0).uniform(size=(2, 6)).astype("float32")
    seen = np.argsort(np.argsort(draw, 1), 1) < 3
    made, hidden_dim, target = (
        host(y) for y in model.painted(*map(ops.convert_to_tensor, (x, draw)))
    )
    np.testing.assert_array_equal(hidden_dim, ~seen)
    patches = host(patchify(ops.convert_to_tensor(x), 4))
    normal = (patches - patches.mean(-1, keepdims=True)) / np.sqrt(
        patches.var(-1, ddof=1, keepdims=True) + 1e-6
    )
    np.testing.assert_allclose(target, normal, atol=1e-4)
    for moved, changes in ((~seen, False), (seen, True)):
        other = patches + 3.0 * moved[..., None] * patches[:, ::-1]
        other = unpatchify(ops.convert_to_tensor(other), 4, (2, 3), 2)
        again = host(model.painted(other, ops.convert_to_tensor(draw))[0])
        assert (np.abs(again - made).max() > 1e-4) == changes


@pytest.mark.once
def test_a_painter_learns_and_is_tuned(tmp_path):
    model = small(
        **PAINTER, mask_ratio=0.5, positions="sinusoidal", normalized_pixels=False
    )
    model.compile(keras.optimizers.Adam(3e-3))
    x, labels = images(128)
    before = model.evaluate(x, verbose=0)
    model.fit(x, batch_size=32, epochs=15, verbose=0)
    assert model.evaluate(x, verbose=0) < 0.5 * before
    painted, hidden_dim = model.paint(x[:3], seed=1)
    assert painted.shape == (3, 8, 12, 2) and hidden_dim.shape == (3, 8, 12, 1)
    assert hidden_dim.mean() == 0.5
    np.testing.assert_allclose((painted - x[:3]) * (1 - hidden_dim), 0.0, atol=1e-6)
    tuned = model.fine_tuned(2, dropout=0.1)
    states = ops.convert_to_tensor(x[:3])
    np.testing.assert_array_equal(
        host(tuned.network(states)), host(model.network(states))
    )
    tuned.compile(keras.optimizers.Adam(3e-3))
    tuned.fit(x, labels, batch_size=32, epochs=5, verbose=0)
    np.testing.assert_array_equal(model.paint(x[:3], seed=1)[0], painted)
    assert tuned.evaluate(x, labels, verbose=0, return_dict=True)["accuracy"] > 0.9
    tuned.save(tmp_path / "vit.keras")
    again = kg.load_model(tmp_path / "vit.keras")
    np.testing.assert_array_equal(again.classify(x), tuned.classify(x))


def test_the_sizes_are_the_papers():
    def millions(size):
        row = kg.transformers.vit.SIZES[size]
        num_layers, hidden_dim, _ = row
        block = 12 * hidden_dim**2 + 13 * hidden_dim
        ends = (
            16 * 16 * 3 * hidden_dim
            + hidden_dim * 199
            + 2 * hidden_dim
            + 1001 * hidden_dim
            + 1000
        )
        return round((num_layers * block + ends) / 1e6, 1)

    found = [millions(size) for size in ("Ti", "S", "B", "L")]
    assert found == [5.7, 22.1, 86.6, 304.3]  # as published, with 1000 classes
    model = kg.ViT((16, 16, 3), "Ti/8", num_layers=1)
    assert (model.patch_size, model.hidden_dim, model.num_heads) == (8, 192, 3)


def test_what_does_not_fit_is_named():
    x, labels = images(4)
    model = small(num_classes=2)
    model.compile()
    for data, match in (
        (x[:, :7], "sides divisible by 4"),
        (x[:, :4], r"the model's shape \(8, 12, 2\); got \(4, 12, 2\)"),
        (x.astype("int32"), "must be floats, scaled; got the type int32"),
        (x * np.nan, "must be finite"),
    ):
        with pytest.raises(ValueError, match=match):
            model.fit(data, labels, verbose=0)
    with pytest.raises(ValueError, match=r"Labels must lie in \[0, 2\)"):
        model.fit(x, labels + 1, verbose=0)
    painter = small(**PAINTER)
    painter.compile()
    with pytest.raises(ValueError, match="masked autoencoder takes no labels"):
        painter.fit(x, labels, verbose=0)
    for arguments, match in (
        ({"size": "B16"}, "side of a patch, such as Ti/16, .*; got 'B16'"),
        ({"num_heads": 3}, "num_heads must divide hidden_dim: 3 does not divide 16"),
        ({"patch_size": 5}, "Give another patch_size"),
        ({"pooling": "max"}, "'token' or 'mean'; got 'max'"),
        ({"positions": "none"}, "positions must be one of learned"),
        ({**PAINTER, "num_classes": 2}, "learns without classes"),
        ({**PAINTER, "mask_ratio": 0.9}, "leave a patch to see"),
    ):
        with pytest.raises(ValueError, match=match):
            small(**arguments)
    with pytest.raises(ValueError, match="no classes"):
        small().classify(x)
    with pytest.raises(ValueError, match="does not paint"):
        model.paint(x)
    assert not hasattr(model, "generate")


@pytest.mark.parametrize("mae", [False, True])
def test_weight_decay_spares_what_the_authors_code_spares(mae):
    """Vectors; of a classifier the class token and the positions too."""
    model = small(**PAINTER) if mae else small(num_classes=2)
    model.compile()
    decays = model.optimizer._use_weight_decay
    for variable in model.trainable_variables:
        spared = len(variable.shape) < 2
        spared |= not mae and variable.name in ("token", "table")
        assert decays(variable) != spared, variable.path
