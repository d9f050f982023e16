"""diffusers' Stable Diffusion with a few channels and random weights."""

import numpy as np
import pytest

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

VOCABULARY, LENGTH = 60, 12


def parts(in_channels=4, side=8, **text):
    """The three networks, with noise on all that begins at zero."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=side,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=16,
    )
    vae = diffusers.AutoencoderKL(
        sample_size=2 * side,
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        latent_channels=4,
    )
    config = transformers.CLIPTextConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "max_position_embeddings": LENGTH,
            "eos_token_id": 2,
            **text,
        }
    )
    text = transformers.CLIPTextModel(config)
    with torch.no_grad():
        for part in (unet, vae, text):
            part.eval()
            for parameter in part.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        unet.conv_out.weight.mul_(0.5)
    return {"unet": unet, "vae": vae, "text_encoder": text}


SD1 = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
SCHEDULERS = {
    "pndm": lambda: diffusers.PNDMScheduler(
        **SD1, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1
    ),
    "ddim": lambda: diffusers.DDIMScheduler(
        **SD1, clip_sample=False, set_alpha_to_one=False, steps_offset=1
    ),
    "euler": lambda: diffusers.EulerDiscreteScheduler(**SD1),
    "dpmpp_2m": lambda: diffusers.DPMSolverMultistepScheduler(**SD1),
}


def pipeline(scheduler="pndm", cls="StableDiffusionPipeline", tokenizer=None, **given):
    """A pipeline without a safety checker; without a tokenizer it takes states."""
    in_channels = 9 if "Inpaint" in cls and given.pop("concatenated", False) else 4
    made = getattr(diffusers, cls)(
        **parts(in_channels, **given),
        tokenizer=tokenizer,
        scheduler=SCHEDULERS[scheduler](),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made


def tokens(count, seed=0):
    """Ids of texts that end at the largest id, which fills them up."""
    draw = np.random.default_rng(seed)
    made = draw.integers(3, VOCABULARY - 1, (count, LENGTH)).astype("int32")
    for i, row in enumerate(made):
        row[0] = VOCABULARY - 2
        row[3 + i % (LENGTH - 3) :] = VOCABULARY - 1
    return made


def states(pipeline, tokens):
    """What the pipeline's text encoder makes of them, a tensor."""
    with torch.no_grad():
        return pipeline.text_encoder(torch.from_numpy(tokens).long())[0]
