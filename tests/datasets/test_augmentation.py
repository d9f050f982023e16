"""Images changed by Keras's random layers, the same for the same (seed, epoch)."""

import keras
import numpy as np
import pytest

import keras_genai as kg
from tests.support import tiny_clip
from tests.support.conformance import assert_same_state, host, state
from tests.support.short_run import StopAt

SIDE = tiny_clip.SIDE
WORDS = [["a red dog", "dog"], ["a cat"], ["one hat"], ["the sun", "sun", "a star"]]
WORDS += [["no"], ["rain", "wet"], ["a tree"], ["an egg"]]


def pictures(count=8):
    return np.random.default_rng(0).uniform(-1, 1, (count, SIDE, SIDE, 3)).astype("f")


def layers():
    return [
        keras.layers.RandomRotation(0.1, fill_mode="constant", fill_value=1.0),
        keras.layers.RandomColorJitter(
            value_range=(-1, 1), brightness_factor=0.3, contrast_factor=0.3
        ),
    ]


def augmented(x, **kwargs):
    return kg.datasets.augmented(x, layers(), batch_size=4, seed=3, **kwargs)


def all_of(data, epoch):
    data.set_epoch(epoch)
    return [data[i] for i in range(data.num_batches)]


@pytest.mark.in_turn
def test_batches_are_a_function_of_seed_and_epoch():
    x = pictures()
    data = augmented(x)
    first, second = all_of(data, 0), all_of(data, 1)
    again = augmented(x)
    for batch, wanted in zip(all_of(again, 1), second, strict=True):
        np.testing.assert_array_equal(batch[0], wanted[0])
    np.testing.assert_array_equal(all_of(data, 0)[1][0], first[1][0])
    assert np.abs(first[0][0] - second[0][0]).max() > 0.1
    assert first[0][0].dtype == "float32" and np.abs(first[0][0]).max() <= 1.0
    # In their order, each picture is itself where nothing is left to chance.
    plain = kg.datasets.augmented(
        x, keras.layers.RandomRotation(0.0), batch_size=4, shuffle=False
    )
    np.testing.assert_allclose(
        np.concatenate([b[0] for b in all_of(plain, 0)]), x, 1e-5
    )


@pytest.mark.in_turn
def test_of_several_captions_one_is_drawn():
    data = augmented({"images": pictures(), "captions": WORDS})
    seen = [[] for _ in WORDS]
    for epoch in range(6):
        texts = [t for (batch,) in all_of(data, epoch) for t in batch["captions"]]
        for text in texts:
            (i,) = [i for i, known in enumerate(WORDS) if text in known]
            seen[i].append(text)
    assert [len(texts) for texts in seen] == [6] * 8
    assert set(seen[0]) == set(WORDS[0])
    labels = np.arange(8)
    got = [y for _, y in all_of(augmented((pictures(), labels), shuffle=False), 0)]
    np.testing.assert_array_equal(np.concatenate(got), labels)


@pytest.mark.in_turn
def test_clip_trains_on_them_and_resumes(tmp_path):
    def trained(*callbacks):
        model = tiny_clip.model()
        model.compile(keras.optimizers.Adam(1e-2))
        pairs = {"images": pictures(), "captions": WORDS}
        model.fit(augmented(pairs), epochs=2, callbacks=list(callbacks), verbose=0)
        return model

    wanted = [host(v.value) for v in state(trained())]
    with pytest.raises(KeyboardInterrupt):
        trained(kg.callbacks.Resume(tmp_path / "run.npz", every=1), StopAt(1, 1))
    resumed = trained(kg.callbacks.Resume(tmp_path / "run.npz", every=1))
    assert_same_state(resumed, wanted)
    other = kg.datasets.augmented(
        {"images": pictures(), "captions": WORDS}, layers()[:1], batch_size=4, seed=3
    )
    model = tiny_clip.model()
    model.compile(keras.optimizers.Adam(1e-2))
    resume = kg.callbacks.Resume(tmp_path / "run.npz", every=1)
    with pytest.raises(ValueError, match="augmentation"):
        model.fit(other, epochs=3, callbacks=[resume], verbose=0)


@pytest.mark.in_turn
def test_a_dataset_of_batches_is_wrapped_and_layers_that_do_not_fit_are_refused():
    lazy = augmented(augmented(pictures()))
    assert lazy.num_batches == 2 and lazy[0][0].shape == (4, SIDE, SIDE, 3)
    with pytest.raises(ValueError, match="layers must be a Keras layer"):
        kg.datasets.augmented(pictures(), [])
    with pytest.raises(ValueError, match="Images must be floats"):
        kg.datasets.augmented(pictures()[0], layers())
    smaller = keras.layers.CenterCrop(2, 2)
    with pytest.raises(ValueError, match="the size must stay"):
        kg.datasets.augmented(pictures(), smaller)[0]
    brighter = keras.layers.RandomBrightness(0.5, seed=0)
    with pytest.raises(ValueError, match="value_range"):
        kg.datasets.augmented(pictures(), brighter)[0]


def test_a_caption_that_is_too_long_is_found_before_work_starts():
    long = {"images": pictures(), "captions": [*WORDS[:7], ["a " * 30]]}
    model = tiny_clip.model()
    model.compile()
    with pytest.raises(ValueError, match="have more than 24 tokens"):
        model.fit(augmented(long), verbose=0)
    assert int(model.optimizers["clip"].iterations) == 0
