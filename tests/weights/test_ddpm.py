"""DDPM's folders against diffusers': the same images from the same noise, both ways."""

import json

import keras
import numpy as np
import pytest

import keras_genai as kg
from keras_genai.weights import ddpm as weights
from tests.support.tiny_ddpm import network

# Reading and writing of files, in NumPy: the networks that they fill are held equal to
# their references and across the backends elsewhere.
pytestmark = pytest.mark.once

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

SMALL = {"block_channels": (8, 16), "layers_per_block": 1, "groups": 4}


def reference_unet():
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=None,
        flip_sin_to_cos=False,
        freq_shift=1,
        downsample_padding=0,
        norm_eps=1e-6,
    )
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return unet.eval()


def published(folder, layout="one folder", **scheduler):
    """A folder as `google/ddpm-cifar10-32` has it, or a pipeline's."""
    pipeline = diffusers.DDPMPipeline(
        reference_unet(), diffusers.DDPMScheduler(**scheduler)
    )
    if layout == "pipeline":
        pipeline.save_pretrained(folder)
    else:
        pipeline.unet.save_pretrained(folder)
        pipeline.scheduler.save_pretrained(folder)
    return pipeline


@pytest.mark.parametrize("layout", ["one folder", "pipeline"])
def test_images_equal_diffusers(tmp_path, layout):
    pipeline = published(tmp_path, layout, variance_type="fixed_large")
    model = kg.DDPM.from_pretrained(tmp_path, num_steps=6)
    assert (model.variance, model.clip, model.schedule.num_train_timesteps) == (
        "large",
        1.0,
        1000,
    )
    noise = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    found = model.generate(noise=noise, sampler="ddim", spacing="leading")
    scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(6)
    x = torch.from_numpy(noise).permute(0, 3, 1, 2)
    with torch.no_grad():
        for t in scheduler.timesteps:
            # The noise that belongs to the clipped x_0, as in 2105.05233's own code.
            step = scheduler.step(
                pipeline.unet(x, t).sample, t, x, use_clipped_model_output=True
            )
            x = step.prev_sample
    wanted = x.clamp(-1, 1).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"schedule": "cosine", "parameterization": "v", "variance": "learned"},
        {
            "schedule": kg.schedules.Discrete(
                "scaled_linear", 500, zero_terminal_snr=True
            ),
            "parameterization": "x0",
            "variance": "large",
            "clip": None,
        },
    ],
)
def test_diffusers_reads_what_is_written(tmp_path, arguments):
    channels = 6 if arguments.get("variance") == "learned" else 3
    unet = kg.UNet((8, 8, 3), out_channels=channels, **SMALL, attention=False, seed=1)
    model = kg.DDPM(unet, **arguments, ema_decay=0.5, seed=1)
    model.compile(keras.optimizers.Adam(1e-2))
    data = np.random.default_rng(0).uniform(-1, 1, (8, 8, 8, 3)).astype("float32")
    model.fit(data, batch_size=4, epochs=2, verbose=0)
    model.save_pretrained(tmp_path)
    again = kg.DDPM.from_pretrained(tmp_path)
    for key in ("schedule", "parameterization", "variance", "clip"):
        assert getattr(again, key) == getattr(model, key), key
    np.testing.assert_allclose(
        again.generate(2, num_steps=3), model.generate(2, num_steps=3), atol=1e-5
    )
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    images = pipeline(batch_size=1, num_inference_steps=2, output_type="np").images
    assert images.shape == (1, 8, 8, 3) and np.all(np.isfinite(images))
    ours = dict(again.schedule.get_config())
    betas = pipeline.scheduler.betas.numpy()
    assert len(betas) == ours["num_train_timesteps"]
    if not ours["zero_terminal_snr"]:
        np.testing.assert_allclose(again.schedule.betas, betas, rtol=1e-4, atol=1e-7)


def test_what_does_not_fit_is_named(tmp_path):
    published(tmp_path)
    path = tmp_path / "scheduler_config.json"
    config = json.loads(path.read_text("utf-8"))
    config |= {"beta_schedule": "sawtooth", "thresholding": True}
    path.write_text(json.dumps(config), "utf-8")
    with pytest.raises(ValueError, match="'sawtooth'; thresholding must be one of"):
        kg.DDPM.from_pretrained(tmp_path)
    path.write_text(json.dumps({"_class_name": "ScoreSdeVeScheduler"}), "utf-8")
    with pytest.raises(ValueError, match="is the configuration of ScoreSdeVeScheduler"):
        kg.DDPM.from_pretrained(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="There is no file"):
        kg.DDPM.from_pretrained(tmp_path)
    flow = kg.DDPM(
        kg.UNet((8, 8, 3), **SMALL, attention=False), "rectified_flow", "flow"
    )
    with pytest.raises(ValueError, match="predicts 'flow'"):
        flow.save_pretrained(tmp_path / "flow")
    assert not (tmp_path / "flow").exists()
    with pytest.raises(ValueError, match="holds a kg.UNet"):
        kg.DDPM(network()).save_pretrained(tmp_path / "own")
    assert weights.from_config({})["parameterization"] == "epsilon"
