"""LatentDiffusion against diffusers' Stable Diffusion, both ways."""

import json

import keras
import numpy as np
import pytest

import keras_genai as kg
from keras_genai.utils.deferred import deferred
from tests.support import tiny_stable_diffusion as tiny
from tests.support.conformance import host

torch = tiny.torch
STEPS, SCALE = 20, 7.5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folders of pipelines, written once: `folder(scheduler, cls, ...)`."""
    made = {}

    def get(scheduler="ddim", **given):
        key = (scheduler, *sorted(given.items()))
        if key not in made:
            pipeline = tiny.pipeline(scheduler, **given)
            path = tmp_path_factory.mktemp(scheduler)
            pipeline.save_pretrained(path)
            made[key] = pipeline, path
        return made[key]

    return get


def noise_of(count, side=8):
    noise = np.random.default_rng(1).normal(size=(count, side, side, 4))
    return noise.astype("float32")


def first(x):
    """Channels first, a tensor."""
    return torch.from_numpy(np.moveaxis(x, -1, 1).copy())


def last(x):
    return np.moveaxis(x.detach().numpy(), 1, -1)


def ours_of(model, tokens, negative, noise):
    """Latents and images of the whole guided loop."""
    context = model.encode_prompts(tokens)
    away = np.repeat(model.encode_prompts(negative), len(context), axis=0)
    (latents,) = kg.DDPM.generate_batches(
        model,
        context=context,
        negative={"context": away},
        guidance_scale=SCALE,
        noise=noise,
        num_steps=STEPS,
        decode=False,
    )
    return latents, model.decode(latents)  # as `generate` does


def close(latents, images, wanted, pictures):
    largest = np.abs(wanted).max()
    assert np.abs(latents - wanted).max() <= 1e-4 * largest
    assert np.abs(images - pictures).max() <= 2 / 255  # 1 / 255 of [0, 1]
    inside = np.abs(pictures) < 0.999
    assert inside.mean() > 0.5, "clipping hides the difference"


@pytest.mark.parametrize("scheduler", sorted(tiny.SCHEDULERS))
def test_pictures_of_prompts(folder, scheduler):
    pipeline, path = folder(scheduler)
    model = kg.LatentDiffusion.from_pretrained(path)
    tokens, negative, noise = tiny.tokens(2), tiny.tokens(1, 5), noise_of(2)
    latents, images = ours_of(model, tokens, negative, noise)
    states = [tiny.states(pipeline, t) for t in (tokens, negative)]
    np.testing.assert_allclose(
        model.encode_prompts(tokens), states[0].numpy(), atol=1e-5
    )
    given = {
        "prompt_embeds": states[0],
        "negative_prompt_embeds": states[1].expand(2, -1, -1),
        "num_inference_steps": STEPS,
        "guidance_scale": SCALE,
    }
    # The pipeline multiplies it by the scheduler's own deviation of the noise.
    made = [
        pipeline(latents=first(noise), output_type=kind, **given).images
        for kind in ("latent", "pt")
    ]
    close(latents, images, last(made[0]), 2.0 * last(made[1]) - 1.0)


@pytest.mark.once
def test_inner_layers_of_the_text_encoder(folder):
    pipeline, path = folder("ddim")
    model = kg.LatentDiffusion.from_pretrained(path, clip_skip=1)
    tokens = tiny.tokens(3)
    with torch.no_grad():
        found = pipeline.text_encoder(
            torch.from_numpy(tokens).long(), output_hidden_states=True
        )
        # diffusers' `clip_skip=1`
        inner = pipeline.text_encoder.final_layer_norm(found.hidden_states[-2])
    np.testing.assert_allclose(model.encode_prompts(tokens), inner.numpy(), atol=1e-5)
    np.testing.assert_allclose(
        model.encode_prompts(tokens, clip_skip=0),
        found.last_hidden_state.numpy(),
        atol=1e-5,
    )


def mode(monkeypatch):
    """diffusers' editing pipelines take the mean of the latents, as we do."""
    kind = tiny.diffusers.models.autoencoders.vae.DiagonalGaussianDistribution
    monkeypatch.setattr(kind, "sample", lambda self, generator=None: self.mean)


@pytest.mark.once
@pytest.mark.parametrize("concatenated", [False, True])
def test_inpainting(folder, concatenated, monkeypatch):
    given = {"cls": "StableDiffusionInpaintPipeline", "concatenated": concatenated}
    pipeline, path = folder("ddim", **given)
    model = kg.LatentDiffusion.from_pretrained(path)
    assert model.concat_channels == (5 if concatenated else None)
    mode(monkeypatch)
    images = np.random.default_rng(2).uniform(-1, 1, (2, 16, 16, 3)).astype("float32")
    mask = np.zeros((16, 16), bool)
    mask[4:12, 2:10] = True
    tokens, negative = tiny.tokens(2), tiny.tokens(1, 5)
    found = model.inpaint(
        images,
        mask,
        prompts=tokens,
        negative_prompts=negative,
        num_steps=STEPS,
        guidance_scale=SCALE,
        seed=3,
    )
    np.testing.assert_array_equal(found[:, ~mask], images[:, ~mask])
    key = kg.backend.random.key(3, "inpaint")
    key = kg.backend.random.subkey(key, "x")
    noise = kg.backend.random.normal(key, (2, 8, 8, 4), host=True)
    states = [tiny.states(pipeline, t) for t in (tokens, negative)]
    wanted = pipeline(
        prompt_embeds=states[0],
        negative_prompt_embeds=states[1].expand(2, -1, -1),
        image=(first(images) + 1) / 2,
        mask_image=torch.from_numpy(mask[None, None].astype("float32")),
        height=16,
        width=16,
        latents=first(noise),
        strength=1.0,
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        output_type="pt",
    ).images
    wanted = 2.0 * last(wanted) - 1.0
    assert np.abs(found - wanted)[:, mask].max() <= 2 / 255


@pytest.mark.once
def test_img2img(folder, monkeypatch):
    pipeline, path = folder("ddim")
    pipeline = tiny.diffusers.StableDiffusionImg2ImgPipeline(
        **pipeline.components, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    model = kg.LatentDiffusion.from_pretrained(path)
    mode(monkeypatch)
    images = np.random.default_rng(2).uniform(-1, 1, (2, 16, 16, 3)).astype("float32")
    tokens, negative = tiny.tokens(2), tiny.tokens(1, 5)
    found = model.img2img(
        images,
        0.6,
        seed=4,
        prompts=tokens,
        negative_prompts=negative,
        num_steps=STEPS,
        guidance_scale=SCALE,
    )
    key = kg.backend.random.key(4, "img2img")
    key = kg.backend.random.subkey(key, "x")
    noise = kg.backend.random.normal(key, (2, 8, 8, 4), host=True)
    name = "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img"
    monkeypatch.setattr(f"{name}.randn_tensor", lambda *args, **kwargs: first(noise))
    states = [tiny.states(pipeline, t) for t in (tokens, negative)]
    wanted = pipeline(
        prompt_embeds=states[0],
        negative_prompt_embeds=states[1].expand(2, -1, -1),
        image=(first(images) + 1) / 2,
        strength=0.6,
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        output_type="pt",
    ).images
    assert np.abs(found - (2.0 * last(wanted) - 1.0)).max() <= 2 / 255


# Files


@pytest.mark.once
@pytest.mark.parametrize("concatenated", [False, True])
def test_diffusers_reads_what_is_written(folder, tmp_path, concatenated):
    cls = (
        "StableDiffusionInpaintPipeline" if concatenated else "StableDiffusionPipeline"
    )
    given = {"cls": cls, "concatenated": True} if concatenated else {}
    pipeline, path = folder("pndm", **given)
    model = kg.LatentDiffusion.from_pretrained(path)
    for _ in range(2):  # into the same folder again
        model.save_pretrained(tmp_path)
    again = getattr(tiny.diffusers, cls).from_pretrained(
        tmp_path,
        tokenizer=None,
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
    )
    for name in ("unet", "vae", "text_encoder"):
        ours, theirs = (getattr(each, name).state_dict() for each in (again, pipeline))
        assert set(ours) == set(theirs)
        for key, tensor in theirs.items():
            assert torch.equal(ours[key], tensor), f"{name}: {key}"
    assert type(again.scheduler) is type(pipeline.scheduler)
    for key, value in pipeline.scheduler.config.items():
        if not key.startswith("_"):
            assert again.scheduler.config[key] == value, key
    other = kg.LatentDiffusion.from_pretrained(tmp_path)
    config, same = other.get_config(), model.get_config()
    for key in ("schedule", "sampler", "spacing", "clip", "num_steps", "image_shape"):
        assert config[key] == same[key], key


@pytest.mark.once
def test_the_average_is_written(folder, tmp_path):
    model = kg.LatentDiffusion.from_pretrained(folder("ddim")[1], ema_decay=0.5)
    model.compile(keras.optimizers.SGD(0.1))
    images = np.random.default_rng(2).uniform(-1, 1, (4, 16, 16, 3)).astype("float32")
    model.fit({"images": images, "tokens": tiny.tokens(4)}, batch_size=2, verbose=0)
    model.save_pretrained(tmp_path)
    other = kg.LatentDiffusion.from_pretrained(tmp_path)
    tokens = tiny.tokens(1)
    np.testing.assert_allclose(
        other.generate(tokens, num_steps=3),
        model.generate(tokens, num_steps=3),
        atol=1e-5,
    )
    kernel = model.network.conv_in.kernel
    assert (
        np.abs(host(kernel.value) - host(other.network.conv_in.kernel.value)).max() > 0
    )


@pytest.mark.once
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_files(folder, tmp_path, dtype):
    """Read in the files' own type, and written back to the bit."""
    _, path = folder("ddim")
    whole = kg.LatentDiffusion.from_pretrained(path)
    whole.save_pretrained(tmp_path / "a", dtype=dtype)
    model = kg.LatentDiffusion.from_pretrained(tmp_path / "a", dtype=dtype)
    assert model.network.conv_in.kernel.dtype == dtype
    # Its configuration says that it overflows in float16.
    held = "float32" if dtype == "float16" else dtype
    assert model.autoencoder.decoder.variables[0].dtype == held
    assert model.generate(tiny.tokens(1), num_steps=2).dtype == "float32"
    model.save_pretrained(tmp_path / "b", dtype=dtype)
    for name in ("unet", "vae"):
        file = f"{name}/diffusion_pytorch_model.safetensors"
        first, second = ((tmp_path / k / file).read_bytes() for k in "ab")
        assert first == second


@pytest.mark.once
def test_variants(folder, tmp_path):
    pipeline, _ = folder("ddim")
    pipeline.save_pretrained(tmp_path, variant="fp16")
    model = kg.LatentDiffusion.from_pretrained(tmp_path, variant="fp16")
    assert model.generate(tiny.tokens(1), num_steps=2).shape == (1, 16, 16, 3)
    with pytest.raises(ValueError, match="no variant 'ema'; it has 'fp16' and"):
        kg.LatentDiffusion.from_pretrained(tmp_path, variant="ema")


@pytest.mark.once
def test_folders_that_are_refused(folder, tmp_path):
    _, path = folder("ddim")
    load = kg.LatentDiffusion.from_pretrained

    def copy(name, **index):
        made = tmp_path / name
        made.mkdir()
        for part in path.iterdir():
            if part.is_dir():
                (made / part.name).symlink_to(part)
        content = json.loads((path / "model_index.json").read_text())
        (made / "model_index.json").write_text(json.dumps({**content, **index}))
        return made

    with pytest.raises(ValueError, match="is of FluxPipeline; LatentDiffusion reads"):
        load(copy("other", _class_name="FluxPipeline"))
    lacking = copy("lacking")
    (lacking / "vae").unlink()
    (lacking / "scheduler").unlink()
    with pytest.raises(ValueError, match="lacks vae, scheduler, parts of a pipeline"):
        load(lacking)
    (lacking / "model_index.json").unlink()
    with pytest.raises(ValueError, match="no model_index.json.*text_encoder, unet"):
        load(lacking)
    wrong = copy("wrong", text_encoder=["transformers", "T5EncoderModel"])
    with pytest.raises(ValueError, match="text_encoder is a T5EncoderModel"):
        load(wrong)
    checked = copy("checked", safety_checker=["stable_diffusion", "SafetyChecker"])
    with pytest.warns(UserWarning, match="safety_checker is passed over"):
        load(checked)
    for name in ("sd.ckpt", "sd.safetensors"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(ValueError, match="from_single_file"):
            load(tmp_path / name)


@pytest.mark.once
@pytest.mark.parametrize("version", ["1", "2", "inpaint"])
def test_names_and_shapes_at_full_width(version):
    """Of Stable Diffusion 1.5, 2.1 and of 1.5 for inpainting, without memory."""
    from keras_genai.weights import autoencoder_kl, clip, unet

    second = version == "2"
    network = {
        "sample_size": 64,
        "in_channels": 9 if version == "inpaint" else 4,
        "cross_attention_dim": 1024 if second else 768,
        "attention_head_dim": [5, 10, 20, 20] if second else 8,
        "use_linear_projection": second,
    }
    text = {
        "hidden_size": 1024 if second else 768,
        "intermediate_size": 4096 if second else 3072,
        "num_hidden_layers": 23 if second else 12,
        "num_attention_heads": 16 if second else 12,
        "hidden_act": "gelu" if second else "quick_gelu",
        "eos_token_id": 2,
        "model_type": "clip_text_model",
    }
    image = {
        "sample_size": 512,
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "layers_per_block": 2,
    }
    with torch.device("meta"):
        theirs = {
            "unet": tiny.diffusers.UNet2DConditionModel(**network),
            "vae": tiny.diffusers.AutoencoderKL(**image),
            "text": tiny.transformers.CLIPTextModel(
                tiny.transformers.CLIPTextConfig(**text)
            ),
        }
    with deferred():  # shapes, and no values
        ours = {
            "unet": kg.UNet(**unet.from_config(network)),
            "vae": kg.AutoencoderKL(
                **autoencoder_kl.from_config(image), discriminator_weight=0.0
            ),
            "text": kg.clip.TextTower(**clip.text_arguments(text, "", False, None)),
        }
    made = {
        "unet": unet.table(ours["unet"]),
        "vae": autoencoder_kl.table(ours["vae"]),
        "text": clip.table(ours["text"]),
    }
    for name, part in theirs.items():
        state = {k: tuple(v.shape) for k, v in part.state_dict().items()}
        state = {k: v for k, v in state.items() if not k.endswith("position_ids")}
        if name == "text":
            state = {k.removeprefix("text_model."): v for k, v in state.items()}
            found = {
                e.name.removeprefix("text_model."): tuple(e.shape) for e in made[name]
            }
        else:
            found = {e.name: tuple(e.shape) for e in made[name]}
        assert found == state, name
    count = sum(int(np.prod(e.shape)) for e in made["unet"])
    assert (len(made["unet"]), count) == {
        "1": (686, 859_520_964),
        "2": (686, 865_910_724),
        "inpaint": (686, 859_520_964 + 320 * 5 * 9),
    }[version]
    assert len(made["vae"]) == 248
