"""Arguments that a function does not take: the nearest that it does are named."""

import json
import zipfile

import pytest

import keras_genai as kg

pytestmark = pytest.mark.once


def vae(**kwargs):
    return kg.VAE(image_shape=(8, 8, 1), latent_dim=2, hidden_units=(8,), **kwargs)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: vae(latent_dims=3), "VAE has no argument latent_dims; .* latent_dim"),
        (lambda: kg.DCGAN(image_size=8), "DCGAN has no argument image_size; .*_shape"),
        (
            lambda: vae().generate(2, temprature=1.0),
            "has no argument temprature; .*temp",
        ),
        (lambda: kg.DiT(image_size=8), "DiT has no argument image_size; .*image_shape"),
    ],
)
def test_the_nearest_are_named(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_keras_own_arguments_pass():
    assert vae(name="mine", dtype="mixed_bfloat16", trainable=True).name == "mine"


def test_a_file_of_another_version_is_refused_as_such(tmp_path):
    vae().save(tmp_path / "new.keras")
    with (
        zipfile.ZipFile(tmp_path / "new.keras") as new,
        zipfile.ZipFile(tmp_path / "old.keras", "w") as old,
    ):
        for name in new.namelist():
            content = new.read(name)
            if name == "config.json":
                config = json.loads(content)
                config["config"]["latents"] = config["config"].pop("latent_dim")
                content = json.dumps(config)
            old.writestr(name, content)
    words = "old.keras was saved by another version of keras_genai.*no argument latents"
    with pytest.raises(ValueError, match=words):
        kg.load_model(tmp_path / "old.keras")
