"""A published scheduler's own steps: `DDPM.generate` equals diffusers' pipelines.

From the same noise, guided, with a context, through the same network of random weights,
as its `scheduler_config.json` says: what Stable Diffusion is published with on every
backend; other schedulers, whose tables are NumPy's, on one.
"""

import contextlib
import inspect
import json
import sys
import warnings

import numpy as np
import pytest

import keras_genai as kg
from keras_genai.weights import ddpm as weights
from tests.support.tiny_ddpm import network

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

LENGTH, WIDTH = 3, 6  # of the context
RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(1, 8, 8, 4)).astype("float32")
LATENTS = RNG.normal(size=(1, 8, 8, 4)).astype("float32")
CONTEXT = RNG.normal(size=(1, LENGTH, WIDTH)).astype("float32")
NULL = RNG.normal(size=(1, LENGTH, WIDTH)).astype("float32")
MASK = np.zeros((8, 8), bool)
MASK[2:6, 3:] = True
SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
PNDM = {**SD, "skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}
DDIM = {**SD, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
SCHEDULERS = {
    "PNDM": ("PNDM", PNDM),
    "DDIM": ("DDIM", DDIM),
    "Euler": ("EulerDiscrete", SD),
    "DPM-Solver++ 2M": ("DPMSolverMultistep", {**SD, "steps_offset": 1}),
}
OTHERS = {
    "Euler, leading, Karras": (
        "EulerDiscrete",
        {
            **SD,
            "timestep_spacing": "leading",
            "steps_offset": 1,
            "use_karras_sigmas": True,
        },
    ),
    "Euler, v, trailing, to the least": (
        "EulerDiscrete",
        {
            **SD,
            "timestep_spacing": "trailing",
            "prediction_type": "v_prediction",
            "final_sigmas_type": "sigma_min",
        },
    ),
    "DPM-Solver++ 2M, Karras": (
        "DPMSolverMultistep",
        {**SD, "use_karras_sigmas": True},
    ),
    "DPM-Solver++ 2M, leading": (
        "DPMSolverMultistep",
        {
            **SD,
            "timestep_spacing": "leading",
            "steps_offset": 1,
            "final_sigmas_type": "sigma_min",
        },
    ),
    "UniPC": ("UniPCMultistep", SD),
    "Heun": ("HeunDiscrete", SD),
    "LMS, Karras": ("LMSDiscrete", {**SD, "use_karras_sigmas": True}),
    "PNDM, Runge and Kutta": ("PNDM", {**PNDM, "skip_prk_steps": False}),
    "DDIM, no signal at the end": (
        "DDIM",
        {
            **SD,
            "clip_sample": False,
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
        },
    ),
}


def unet(in_channels=4):
    torch.manual_seed(0)
    made = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=WIDTH,
    )
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
            if name.startswith("conv_out"):
                parameter.mul_(0.3)  # so that latents stay below 50
    return made.eval()


def pair(folder, pipeline, scheduler, arguments, in_channels=4, **more):
    """diffusers' pipeline, and the `DDPM` of its files."""
    made = getattr(diffusers, f"{scheduler}Scheduler")(**arguments)
    network = unet(in_channels)
    made.save_pretrained(folder / "scheduler")
    network.save_pretrained(folder / "unet")
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4,), norm_num_groups=2, latent_channels=4
    )
    pipe = getattr(diffusers, pipeline)(
        vae=vae,
        text_encoder=None,
        tokenizer=None,
        unet=network,
        scheduler=made,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    model = kg.DDPM.from_pretrained(
        folder,
        context_shape=(LENGTH, WIDTH),
        null_condition={"context": NULL[0]},
        num_steps=20,
        **more,
    )
    return pipe, model


def channels_first(x):
    return torch.from_numpy(np.moveaxis(np.asarray(x, "float32"), -1, 1).copy())


def theirs(pipe, **given):
    """Latents of diffusers' pipeline, channels last."""
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = pipe(
            prompt_embeds=torch.from_numpy(CONTEXT),
            negative_prompt_embeds=torch.from_numpy(NULL),
            guidance_scale=7.5,
            num_inference_steps=20,
            output_type="latent",
            **given,
        ).images
    return np.moveaxis(made.numpy(), 1, -1)


def assert_equal(found, wanted):
    size = np.abs(wanted).max()
    assert 0.5 < size < 60 and np.isfinite(wanted).all(), size
    assert np.abs(found - wanted).max() / size < 1e-4


OURS = {"context": CONTEXT, "guidance_scale": 7.5}


def once(*names):
    return [pytest.param(name, marks=pytest.mark.once) for name in names]


@pytest.mark.parametrize("name", [*SCHEDULERS, *once(*OTHERS)])
def test_generate(tmp_path, name):
    scheduler = {**SCHEDULERS, **OTHERS}[name]
    pipe, model = pair(tmp_path, "StableDiffusionPipeline", *scheduler)
    latents = channels_first(NOISE)
    wanted = theirs(pipe, latents=latents, height=8, width=8)
    assert_equal(model.generate(noise=NOISE, **OURS), wanted)


# PNDM is left out: in the middle of its times diffusers' counter of evaluations no
# longer fits them, since the doubled first time is cut off.
@pytest.mark.parametrize("name", ["DDIM", *once("Euler", "DPM-Solver++ 2M")])
def test_img2img(tmp_path, name):
    pipe, model = pair(tmp_path, "StableDiffusionImg2ImgPipeline", *SCHEDULERS[name])
    image = channels_first(LATENTS)
    drawn = noise_of(model, "img2img")
    with fixed_noise(drawn):
        wanted = theirs(pipe, image=image, strength=0.6)
    assert_equal(model.img2img(LATENTS, 0.6, seed=3, **OURS), wanted)


@pytest.mark.parametrize(
    ("name", "strength"),
    [
        ("Euler", 0.6),
        *(
            pytest.param(name, strength, marks=pytest.mark.once)
            for name, strength in (
                ("PNDM", 1.0),
                ("Euler", 1.0),
                ("DPM-Solver++ 2M", 1.0),
                ("DPM-Solver++ 2M", 0.6),
            )
        ),
    ],
)
def test_inpaint_by_an_ordinary_network(tmp_path, name, strength):
    pipe, model = pair(tmp_path, "StableDiffusionInpaintPipeline", *SCHEDULERS[name])
    with fixed_noise(noise_of(model, "inpaint")):
        wanted = theirs(
            pipe,
            image=channels_first(LATENTS),
            mask_image=torch.from_numpy(MASK[None, None].astype("float32")),
            strength=strength,
            height=8,
            width=8,
        )
    given = {"method": "blended", "strength": strength, "seed": 3, **OURS}
    found = model.inpaint(LATENTS, MASK, **given)
    assert_equal(found, wanted)
    np.testing.assert_array_equal(found[:, ~MASK], LATENTS[:, ~MASK])
    if name == "Euler" and strength == 1:
        shown = model.inpaint(LATENTS, MASK, **given, verbose=1)
        np.testing.assert_allclose(shown, found, atol=1e-4)


@pytest.mark.parametrize("name", ["PNDM", *once("DPM-Solver++ 2M")])
def test_inpaint_by_a_network_of_nine_channels(tmp_path, name):
    pipe, model = pair(
        tmp_path, "StableDiffusionInpaintPipeline", *SCHEDULERS[name], in_channels=9
    )
    assert model.concat_channels == 5
    with fixed_noise(noise_of(model, "inpaint")):
        wanted = theirs(
            pipe,
            image=channels_first(LATENTS),
            mask_image=torch.from_numpy(MASK[None, None].astype("float32")),
            masked_image_latents=channels_first(LATENTS * ~MASK[..., None]),
            height=8,
            width=8,
        )
    found = model.inpaint(LATENTS, MASK, seed=3, **OURS)
    assert_equal(found[:, MASK], wanted[:, MASK])
    np.testing.assert_array_equal(found[:, ~MASK], LATENTS[:, ~MASK])


@pytest.mark.once
def test_instruct_pix2pix(tmp_path):
    name = "StableDiffusionInstructPix2PixPipeline"
    pipe, model = pair(
        tmp_path, name, *SCHEDULERS["Euler"], in_channels=8, image_dropout=0.05
    )
    with fixed_noise(NOISE):
        wanted = theirs(pipe, image=channels_first(LATENTS), image_guidance_scale=1.5)
    found = model.generate(noise=NOISE, image=LATENTS, image_guidance_scale=1.5, **OURS)
    assert_equal(found, wanted)


def noise_of(model, name):
    """What a call of seed 3 draws to begin with."""
    key = kg.backend.random.subkey(kg.backend.random.key(3, name), "x")
    return kg.backend.random.normal(key, NOISE.shape, host=True)


def fixed_noise(noise):
    """diffusers draws this noise."""
    patch = pytest.MonkeyPatch()
    made = channels_first(noise)
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("diffusers.pipelines"):
            if "randn_tensor" in vars(module):
                patch.setattr(module, "randn_tensor", lambda *a, **k: made.clone())
    stack = contextlib.ExitStack()
    stack.callback(patch.undo)
    return stack


def plain(config):
    """What a scheduler's configuration says, without the marks of its writer."""
    apart = ("_diffusers_version", "_use_default_values")
    return {k: v for k, v in config.items() if k not in apart}


@pytest.mark.once
@pytest.mark.parametrize("name", [*SCHEDULERS, *OTHERS])
def test_the_scheduler_is_written_as_it_was_read(name):
    kind, arguments = {**SCHEDULERS, **OTHERS}[name]
    scheduler = getattr(diffusers, f"{kind}Scheduler")(**arguments)
    config = json.loads(scheduler.to_json_string())
    made = weights.from_config(config)
    made["schedule"] = kg.schedules.Discrete(**made["schedule"])
    model = kg.DDPM(network((4, 4, 1)), ema_decay=None, **made)
    written = weights.to_config(model)
    assert weights.OWN not in written
    there = {k: v for k, v in plain(config).items() if k in written}
    for key, value in plain(written).items():
        assert there.get(key, value) == value, key
    again = type(scheduler).from_config(written)
    left = plain(json.loads(again.to_json_string()))
    for key, value in plain(config).items():
        assert left[key] == value, key
    loaded = kg.DDPM.from_config(model.get_config())
    assert weights.to_config(loaded) == written


@pytest.mark.once
def test_defaults_are_those_of_the_classes():
    for kind, keys in weights.CLASSES.items():
        parameters = inspect.signature(getattr(diffusers, kind).__init__).parameters
        for key, (default, _) in {
            **weights.COMMON,
            **keys,
            **weights.SAMPLED[kind],
        }.items():
            assert parameters[key].default == default, (kind, key)
