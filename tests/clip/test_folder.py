"""CLIP learns from a folder of images with captions, read as it goes."""

import keras
import numpy as np
import pytest
from PIL import Image

import keras_genai as kg
from tests.support import tiny_clip
from tests.support.conformance import assert_same_state, host, state
from tests.support.short_run import StopAt

pytestmark = pytest.mark.in_turn
WORDS = ["a red dog", "a cat", "one hat", "the sun", "no", "rain", "a tree", "an egg"]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    lines = ["file_name,text"]
    for i, words in enumerate(WORDS):
        noise = np.random.default_rng(i).integers(0, 256, (9, 11, 3), "uint8")
        Image.fromarray(noise).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{words}")
    (folder / "metadata.csv").write_text("\n".join(lines))
    return folder


def trained(x, callbacks=(), **kwargs):
    model = tiny_clip.model()
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(x, epochs=2, callbacks=list(callbacks), verbose=0, **kwargs)
    return model


def test_a_lazy_folder_trains_as_its_arrays_and_resumes(photos, tmp_path):
    def lazy():
        return kg.datasets.folder(photos, tiny_clip.SIDE, lazy=True, batch_size=4)

    arrays = kg.datasets.folder(photos, tiny_clip.SIDE)
    assert sorted(arrays) == ["captions", "images"]
    whole = trained(arrays, batch_size=4)
    wanted = [host(v.value) for v in state(whole)]
    assert_same_state(trained(lazy()), wanted)
    resume = kg.callbacks.Resume(tmp_path / "run.npz", every=1)
    with pytest.raises(KeyboardInterrupt):
        trained(lazy(), [resume, StopAt(1, 1)])
    resume = kg.callbacks.Resume(tmp_path / "run.npz", every=1)
    assert_same_state(trained(lazy(), [resume]), wanted)
