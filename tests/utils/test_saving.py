"""A `.keras` file that is whole is loaded; one that is not is refused clearly."""

import zipfile

import keras
import numpy as np
import pytest

import keras_genai as kg


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "dcgan.keras"
    kg.DCGAN((8, 8, 1), 4, base_filters=4).save(path)
    return path


def test_a_whole_file_is_loaded(saved):
    model = kg.load_model(saved)
    assert isinstance(model, kg.DCGAN)
    fresh = kg.DCGAN((8, 8, 1), 4, base_filters=4)
    np.testing.assert_array_equal(model.generate(2), fresh.generate(2))


def test_damage_is_refused(saved, tmp_path):
    content = saved.read_bytes()
    path = tmp_path / "damaged.keras"
    middle = len(content) // 2
    flipped = bytes([content[middle] ^ 0xFF])
    for damaged in (
        b"",
        b"not a model",
        content[:middle],
        content[:middle] + flipped + content[middle + 1 :],
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged"):
            kg.load_model(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    with pytest.raises(ValueError, match="lacks"):
        kg.load_model(path)
    with pytest.raises(ValueError, match="no file"):
        kg.load_model(tmp_path / "missing.keras")


def changed(saved, path, change):
    """A copy of a file with another configuration, given as JSON."""
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "config.json":
                content = change(content.decode()).encode()
            new.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace("base_filters", "filters"),
            "another version of keras_genai wrote it, .*argument filters of DCGAN",
        ),
        (
            lambda text: text.replace('DCGAN"', 'OldGAN"'),
            "another version of keras_genai wrote it, .*the class OldGAN",
        ),
        (
            lambda text: text.replace('"base_filters": 4', '"base_filters": 8'),
            "Another version of keras_genai may have written it",
        ),
    ],
    ids=["argument", "class", "weights"],
)
def test_a_file_of_another_version_is_refused(saved, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        kg.load_model(changed(saved, tmp_path / "old.keras", change))


def test_nothing_in_a_file_is_run(tmp_path):
    """Keras's safe mode: a Lambda's code is not loaded."""
    generator = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(64),
            keras.layers.Reshape((8, 8, 1)),
            keras.layers.Lambda(lambda x: x * 0.5, output_shape=(8, 8, 1)),
        ]
    )
    path = tmp_path / "lambda.keras"
    kg.DCGAN((8, 8, 1), 4, base_filters=4, generator=generator).save(path)
    with pytest.raises(ValueError, match="[Ll]ambda"):
        kg.load_model(path)
