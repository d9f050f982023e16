"""PixelCNN is a distribution, sees the past alone, and samples what it says."""

import itertools

import keras
import numpy as np
import pytest

import keras_genai as kg
from tests.support.conformance import host

pytestmark = pytest.mark.in_turn


def random_weights(model, scale=0.6):
    """Weights with which everything that can have an influence has one."""
    rng = np.random.default_rng(0)
    for variable in model.network.trainable_variables:
        variable.assign(scale * rng.normal(size=variable.shape))
    return model


def grids(shape, values):
    """All grids of codes: int32 `(V ** places, *shape)`."""
    every = itertools.product(range(values), repeat=int(np.prod(shape)))
    return np.array(list(every), "int32").reshape(-1, *shape)


@pytest.mark.parametrize(
    ("shape", "kernel_size", "labels"),
    [((4, 5), 3, False), ((5, 4), 5, True), ((3, 3, 2), 3, False), ((1, 4), 3, False)],
)
def test_each_code_depends_on_all_before_it_and_on_nothing_else(
    shape, kernel_size, labels
):
    """Change one code: the logits of it and of all before stay, all later ones move."""
    model = kg.PixelCNN(
        shape,
        3,
        num_classes=2 if labels else None,
        filters=8,
        blocks=5,
        kernel_size=kernel_size,
    )
    random_weights(model, scale=0.3)  # no gate is saturated
    places = int(np.prod(shape))
    codes = np.random.default_rng(1).integers(0, 3, (places, places)).astype("int32")
    codes[:] = codes[:1]
    changed = codes + np.eye(places, dtype="int32")
    given = [np.zeros(places, "int32")] if labels else []
    before, after = (
        host(model(c.reshape(-1, *shape) % 3, *given)).reshape(places, places, 3)
        for c in (codes, changed)
    )
    moved = np.abs(after - before).max(-1)  # (changed place, place)
    later = np.triu(np.ones((places, places), bool), 1)
    assert moved[~later].max() == 0.0
    assert moved[later].min() > 0.0, np.argwhere((moved == 0) & later)[:9]


@pytest.mark.parametrize("shape", [(2, 2), (2, 1, 2)])
def test_the_probabilities_of_all_grids_sum_to_one_and_samples_have_them(shape):
    model = kg.PixelCNN(shape, 2, num_classes=2, filters=4, blocks=2, kernel_size=3)
    random_weights(model)
    every = grids(shape, 2)  # 16
    powers = 2 ** np.arange(every[0].size)[::-1]
    for label in range(2):
        labels = np.full(len(every), label)
        p = np.exp(model.log_probability(every, labels, batch_size=5))
        np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-5)
        assert p.max() > 0.1  # not uniform
        n = 4000
        samples = model.generate(labels=np.full(n, label), seed=4, batch_size=n)
        assert samples.dtype == np.int32 and samples.shape == (n, *shape)
        counts = np.bincount(samples.reshape(n, -1) @ powers, minlength=16)
        deviation = np.sqrt(n * p * (1 - p)) + 1e-6
        assert np.abs((counts - n * p) / deviation).max() < 4.0
    cold = model.generate(labels=np.full(200, label), temperature=0.05)
    codes = cold.reshape(200, -1) @ powers
    assert np.bincount(codes, minlength=16).max() > 195  # the greedy one


def test_it_learns_the_entropy_of_what_it_sees():
    """Two patterns and a free corner: log 2 + log 2 nats in nine codes."""
    patterns = np.stack([np.zeros((3, 3)), np.eye(3)]).astype("int32")
    which = np.arange(64) % 2
    codes = patterns[which]
    codes[:, 2, 0] = np.arange(64) // 2 % 2
    model = kg.PixelCNN((3, 3), 2, filters=8, blocks=3, kernel_size=3, ema_decay=0.9)
    model.compile(keras.optimizers.Adam(1e-2))
    history = model.fit(codes, batch_size=64, epochs=80, verbose=0).history
    wanted = 2 * np.log(2) / 9
    assert history["loss"][-1] == pytest.approx(wanted, rel=0.05)
    logs = model.evaluate(codes, batch_size=64, verbose=0, return_dict=True)
    assert logs["loss"] == pytest.approx(wanted, rel=0.05)
    found = -model.log_probability(codes).mean() / 9
    assert found == pytest.approx(logs["loss"], rel=1e-4)
    samples = model.generate(64, seed=1)
    free = samples.copy()
    free[:, 2, 0] = 0
    same = [(free == pattern).all((1, 2)).mean() for pattern in patterns]
    assert sum(same) > 0.9 and min(same) > 0.25


def test_own_networks_are_kept(tmp_path):
    codes = keras.Input((2, 2), dtype="int32")
    x = keras.layers.Embedding(3, 4)(codes)
    network = keras.Model(codes, 0.0 * keras.layers.Dense(3)(x))  # independent codes
    model = kg.PixelCNN((2, 2), 3, network=network)
    model.save(tmp_path / "own.keras")
    again = kg.load_model(tmp_path / "own.keras")
    assert again.network.count_params() == network.count_params()
    np.testing.assert_array_equal(again.generate(5), model.generate(5))
    with pytest.raises(ValueError, match=r"make logits \(B, 2, 2, 4\)"):
        kg.PixelCNN((2, 2), 4, network=network)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((4,), 3), "shape must be"),
        (((4, 0), 3), "shape must be"),
        (((4, 4), 1), "vocabulary_size must be at least 2"),
        (((4, 4), 3, 0), "num_classes must be"),
    ],
)
def test_arguments_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        kg.PixelCNN(*arguments)


def test_data_that_does_not_fit():
    with pytest.raises(ValueError, match="kernel_size must be an odd"):
        kg.PixelCNN((4, 4), 3, kernel_size=4)
    model = kg.PixelCNN((2, 2), 3, filters=2, blocks=1)
    model.compile()
    codes = np.zeros((4, 2, 2), "int32")
    for data, message in (
        ((codes[:, 0],), r"shape \(N, 2, 2\)"),
        ((codes.astype("float32"),), "must be integers"),
        ((codes + 3,), r"lie in \[0, 3\); got values from 3 to 3"),
        ((codes - 1,), r"lie in \[0, 3\)"),
        ((codes[:0],), "no codes"),
        ((codes, np.zeros(4, "int32")), "takes no labels"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(*data, verbose=0)
    with pytest.raises(ValueError, match="takes no labels"):
        model.generate(labels=[0])
    for temperature in (0.0, -1.0, None, "hot"):
        with pytest.raises(
            ValueError, match="temperature must be a finite number over 0"
        ):
            model.generate(2, temperature=temperature)
    labelled = kg.PixelCNN((2, 2), 3, 2, filters=2, blocks=1)
    labelled.compile()
    with pytest.raises(ValueError, match="Labels are missing"):
        labelled.fit(codes, verbose=0)
    with pytest.raises(ValueError, match=r"Labels must lie in \[0, 2\)"):
        labelled.generate(labels=[2])
