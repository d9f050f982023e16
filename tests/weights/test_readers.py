"""Every class that a reader names: its file as the class writes it, and left empty.

An absent key means the class's own default. The tables are compared with the classes'
signatures, what is read of a whole file with what is read of its least part, and the
numbers of a model of the least part with those of the class.
"""

import inspect
import json

import keras
import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from keras_genai.diffusion import Denoiser, samplers, schedules
from keras_genai.weights import (
    _open_clip,
    autoencoder_kl,
    bert,
    clip,
    ddpm,
    dit,
    gpt,
    marian,
    unet,
    vit,
)
from tests.diffusion.test_diffusers import NOISES, START, assert_same, ours, reference
from tests.support.conformance import host
from tests.support.parity import shaken

# Reading and writing of files, in NumPy: the networks that they fill are held equal to
# their references and across the backends elsewhere.
pytestmark = pytest.mark.once

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")
# The arithmetic of the backends is compared elsewhere; here what the readers say.
on_torch = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="The readers are the same everywhere."
)

# class -> our table of its keys, key -> default
DIFFUSERS = {
    **{name: {**ddpm.COMMON, **keys} for name, keys in ddpm.CLASSES.items()},
    **{name: unet._keys_of(name, {}) for name in (unet.PLAIN, unet.CONDITIONAL)},
    "AutoencoderKL": autoencoder_kl.KEYS,
    "DiTTransformer2DModel": {k: (v, None) for k, v in dit.DEFAULTS.items()},
    "Transformer2DModel": {
        k: (v, None) for k, v in {**dit.GENERAL_DEFAULTS, **dit.GENERAL_ONLY}.items()
    },
}
TRANSFORMERS = {
    "GPT2Config": gpt.GPT2_KEYS,
    "LlamaConfig": {**gpt.LLAMA_KEYS, "attention_bias": (False, None)},
    "BertConfig": bert.KEYS,
    "ViTConfig": {**vit.KEYS, **vit.PLAIN},
    "ViTMAEConfig": {**vit.KEYS, **vit.MASKED},
    "CLIPConfig": clip.CLIP_KEYS,
    "CLIPTextConfig": clip.TEXT,
    "CLIPVisionConfig": clip.VISION,
    "SiglipTextConfig": clip.SIGLIP_TEXT,
    "SiglipVisionConfig": clip.SIGLIP_VISION,
    "MarianConfig": {**marian.KEYS, **{k: (v, 0) for k, v in marian.DECODER.items()}},
}


def plain(value):
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("name", DIFFUSERS)
def test_the_defaults_are_those_of_diffusers(name):
    signature = inspect.signature(getattr(diffusers, name).__init__).parameters
    theirs = {key: p.default for key, p in signature.items() if key != "self"}
    found = {key: default for key, (default, _) in DIFFUSERS[name].items()}
    assert plain({key: theirs[key] for key in found}) == plain(found)
    if "Scheduler" not in name:
        assert set(found) == set(theirs)  # a key that is not known is refused


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_the_defaults_are_those_of_transformers(name):
    theirs = getattr(transformers, name)().to_dict()
    for key, (default, _) in TRANSFORMERS[name].items():
        filled = {"head_dim", "num_key_value_heads", "rope_parameters", "id2label"}
        filled |= {"projection_size"}
        if key in theirs and not (default is None and key in filled):
            assert theirs[key] == default, key


@pytest.mark.parametrize("name", ddpm.CLASSES)
def test_schedulers_as_they_are_written(name, tmp_path):
    scheduler = getattr(diffusers, name)()
    scheduler.save_pretrained(tmp_path)
    path = tmp_path / "scheduler_config.json"
    read = ddpm.from_config(json.loads(path.read_text("utf-8")), path)
    assert read == ddpm.from_config({"_class_name": name})
    schedule = schedules.Discrete(**read["schedule"])
    wanted = scheduler.alphas_cumprod.numpy()
    np.testing.assert_allclose(schedule.alpha_bar, wanted, atol=1e-6)
    # What a class has not is without effect there, as in Stable Diffusion's own file.
    other = {"clip_sample": True, "thresholding": True, "variance_type": "fixed_large"}
    foreign = {k: v for k, v in other.items() if k not in ddpm.CLASSES[name]}
    assert read == ddpm.from_config({"_class_name": name, **foreign})


# class -> steps, sampler, its options, nodes of the time grid, whether x is over alpha
STEPS = {
    "DDPMScheduler": (8, "ddpm", {}, {"spacing": "leading"}, False),
    "DDIMScheduler": (8, "ddim", {}, {"spacing": "leading"}, False),
    "PNDMScheduler": (10, "pndm", {"runge_kutta": True}, {"spacing": "leading"}, False),
    "LMSDiscreteScheduler": (8, "lms", {}, {"spacing": "linspace"}, True),
    "EulerDiscreteScheduler": (8, "euler", {}, {"spacing": "linspace"}, True),
    "EulerAncestralDiscreteScheduler": (
        8,
        "euler_ancestral",
        {},
        {"spacing": "linspace"},
        True,
    ),
    "HeunDiscreteScheduler": (6, "heun", {}, {"spacing": "linspace"}, True),
    "DPMSolverMultistepScheduler": (
        8,
        "dpmpp_2m",
        {},
        {"spacing": "linspace", "skip_last": True, "rounded": True},
        False,
    ),
    "UniPCMultistepScheduler": (
        8,
        "unipc",
        {},
        {"spacing": "linspace", "skip_last": True, "rounded": True},
        False,
    ),
}


@on_torch
@pytest.mark.parametrize("name", ddpm.CLASSES)
def test_trajectories_of_an_empty_file(name, monkeypatch):
    num_steps, sampler, options, nodes, divided = STEPS[name]
    read = ddpm.from_config({"_class_name": name})
    last = {"set_alpha_to_one": True} if name == "PNDMScheduler" else {}
    scheduler = getattr(diffusers, name)(**last)
    if name == "DDIMScheduler":
        step = scheduler.step
        scheduler.step = lambda *a: step(*a, use_clipped_model_output=True)
    schedule = schedules.Discrete(**read["schedule"])
    grid = samplers.time_grid(schedule, num_steps, **nodes)
    alpha = grid.alphas[0] if divided else 1.0
    start = 3.0 * START  # so that what is clipped is seen
    wanted = reference(scheduler, start / alpha, monkeypatch, num_steps=num_steps)
    denoise = Denoiser(
        lambda x, t: ours(x, t, 0.01),
        schedule,
        read["parameterization"],
        clip=read["clip"],
        round_times="2m" in sampler,
    )
    walker = samplers.get(sampler)(grid, **options)
    state, got = walker.begin(ops.convert_to_tensor(start)), []
    for i in range(walker.evaluations):
        state = walker.step(
            denoise, i, state, lambda i, x: ops.convert_to_tensor(NOISES[i])
        )
        got.append(host(state[0]))
    got = np.stack(got)
    if divided:
        got = got / grid.alphas[walker.nodes].reshape(-1, 1, 1, 1)
    assert_same(got, wanted[: len(got)])


# Networks: the keys that make them small, and those without which they are none.

LEVELS = {"block_out_channels": [8, 16], "layers_per_block": 1, "norm_num_groups": 4}
BODY = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
BODY["intermediate_size"] = 12
NETWORKS = {
    "UNet2DModel": (
        kg.UNet,
        {
            **LEVELS,
            "sample_size": 8,
            "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
            "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        },
    ),
    "UNet2DConditionModel": (
        kg.UNet,
        {
            **LEVELS,
            "sample_size": 8,
            "cross_attention_dim": 6,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        },
    ),
    "DiTTransformer2DModel": (
        kg.DiT,
        {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 4}
        | {"sample_size": 4, "num_embeds_ada_norm": 5},
    ),
    "Transformer2DModel": (
        kg.DiT,
        {"num_attention_heads": 2, "attention_head_dim": 4, "in_channels": 3}
        | {"sample_size": 4, "num_embeds_ada_norm": 5, "patch_size": 2}
        | {"attention_bias": True, "activation_fn": "gelu-approximate"}
        | {"norm_type": "ada_norm_zero", "norm_elementwise_affine": False},
    ),
    "AutoencoderKL": (
        kg.AutoencoderKL,
        {"block_out_channels": [8], "norm_num_groups": 4},
    ),
    "GPT2LMHeadModel": (
        kg.GPT,
        {"vocab_size": 50257, "n_embd": 4, "n_layer": 1, "n_head": 2, "n_positions": 8},
    ),
    "LlamaForCausalLM": (kg.GPT, {**BODY, "vocab_size": 20}),
    "BertForMaskedLM": (kg.BERT, {**BODY, "vocab_size": 20}),
    "BertForSequenceClassification": (kg.BERT, {**BODY, "vocab_size": 20}),
    "ViTModel": (kg.ViT, {**BODY, "image_size": 32}),
    "ViTForImageClassification": (kg.ViT, {**BODY, "image_size": 32}),
    "ViTMAEForPreTraining": (
        kg.ViT,
        {**BODY, "image_size": 32, "decoder_num_attention_heads": 2}
        | {"decoder_hidden_size": 8, "decoder_num_hidden_layers": 1}
        | {"decoder_intermediate_size": 32},
    ),
    "MarianMTModel": (
        kg.Translator,
        {"d_model": 4, "encoder_layers": 1, "decoder_layers": 1}
        | {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        | {"encoder_ffn_dim": 8, "decoder_ffn_dim": 8},
    ),
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request, tmp_path_factory):
    """The class's network, ours of its folder as written, and of the least file."""
    name, folder = request.param, tmp_path_factory.mktemp("network")
    cls, keys = NETWORKS[name]
    torch.manual_seed(0)
    library = transformers if hasattr(transformers, name) else diffusers
    kind = getattr(library, name)
    made = kind(**keys) if library is diffusers else kind(kind.config_class(**keys))
    made = shaken(made)
    made.save_pretrained(folder)
    path = folder / "config.json"
    whole, config = cls.from_pretrained(folder), json.loads(path.read_text("utf-8"))
    kept = {"_class_name", "architectures", "model_type"} | set(keys)
    path.write_text(json.dumps({k: v for k, v in config.items() if k in kept}), "utf-8")
    return name, made, whole, cls.from_pretrained(folder)


def test_the_least_file_makes_the_same_model(network):
    _, _, whole, least = network
    wanted = {**whole.get_config(), "name": least.name}
    assert least.get_config() == wanted
    for a, b in zip(whole.variables, least.variables, strict=True):
        np.testing.assert_array_equal(host(a.value), host(b.value))


def image_answers(name, made, model):
    """The reference's outputs of images, and ours, channels last."""
    draw = np.random.default_rng(0)
    side, channels = model.image_shape[0], model.image_shape[-1]
    x = draw.normal(size=(2, side, side, channels)).astype("float32")
    image, t = torch.from_numpy(x).permute(0, 3, 1, 2), torch.tensor([3, 700])
    if name == "AutoencoderKL":
        wanted, got = made.encode(image).latent_dist.mode(), model.encode(x).mean
    elif name == "UNet2DModel":
        wanted, got = made(image, t).sample, model(x, t.numpy())
    elif name == "UNet2DConditionModel":
        words = draw.normal(size=(2, 5, 6)).astype("float32")
        wanted = made(image, t, torch.from_numpy(words)).sample
        got = model(x, t.numpy(), context=words)
    elif name.startswith("ViTMAE"):
        noise = draw.uniform(size=(2, 4)).astype("float32")
        wanted = made(image, noise=torch.from_numpy(noise)).logits
        return wanted, model.painted(*map(ops.convert_to_tensor, (x, noise)))[0]
    elif name.startswith("ViT"):
        found = made(image)
        if name == "ViTModel":
            return found.last_hidden_state, model.network(x)
        return found.logits, model(x)
    else:
        labels = np.array([1, 4])
        found = made(image, timestep=t, class_labels=torch.from_numpy(labels))
        wanted, got = found.sample, model(x, t.numpy(), labels)
    return wanted.permute(0, 2, 3, 1), got


def text_answers(name, made, model):
    """The reference's logits of tokens, and ours."""
    tokens = np.random.default_rng(0).integers(1, 20, (2, 6)).astype("int32")
    theirs = torch.from_numpy(tokens).long()
    if name == "MarianMTModel":
        found = made(input_ids=theirs, decoder_input_ids=theirs)
        return found.logits, model(tokens, tokens)
    found, states = made(theirs).logits, model(tokens)
    if name == "BertForMaskedLM":
        return found, model.mlm(states)
    if name.startswith("Bert"):
        return found, model.network.classify(states)
    return found, states


@on_torch
def test_the_least_file_gives_the_same_numbers(network):
    name, made, _, least = network
    answers = image_answers if hasattr(least, "image_shape") else text_answers
    with torch.no_grad():
        wanted, got = answers(name, made, least)
    assert wanted.std() > 0.05
    np.testing.assert_allclose(host(got), wanted.numpy(), atol=1e-4)


# What a file may not ask for.

WRONG = [None, -1, 0, "x", [], {}, 1.5, True, 10**9, 10**30, float("nan"), [None]]


@pytest.mark.filterwarnings("ignore:.*is passed over", "ignore:.*in the vocabulary")
def test_values_of_another_type_are_refused_by_name():
    """Each key of each table with a value of each type: read, or named."""
    readers = [
        *((ddpm.from_config, {"_class_name": n}, DIFFUSERS[n]) for n in ddpm.CLASSES),
        *(
            (unet.from_config, {"_class_name": n}, DIFFUSERS[n])
            for n in (unet.PLAIN, unet.CONDITIONAL)
        ),
        (autoencoder_kl.from_config, {}, autoencoder_kl.KEYS),
        (dit.from_config, {}, DIFFUSERS["DiTTransformer2DModel"]),
        (gpt.from_config, {"model_type": "gpt2"}, gpt.GPT2_KEYS),
        (gpt.from_config, {"model_type": "llama"}, gpt.LLAMA_KEYS),
        (lambda c: bert.from_config(c, "config.json", {}), {}, bert.KEYS),
        (
            lambda c: vit.from_config(c, "config.json", {}),
            {},
            {**vit.KEYS, **vit.PLAIN},
        ),
        (lambda c: marian.from_config(c, "config.json"), {}, marian.KEYS),
        *(
            (lambda c, f=f, s=s: f(c, "config.json", s, None), {}, keys)
            for f, s, keys in (
                (clip.text_arguments, False, clip.TEXT),
                (clip.text_arguments, True, clip.SIGLIP_TEXT),
                (clip.image_arguments, False, clip.VISION),
                (clip.image_arguments, True, clip.SIGLIP_VISION),
            )
        ),
        *(
            (
                lambda c, part=part: _open_clip.from_config(
                    {"model_cfg": {part: c} if part else c}, "open_clip_config.json"
                ),
                {},
                keys,
            )
            for part, keys in (
                (None, _open_clip.MODEL),
                ("vision_cfg", _open_clip.VISION),
                ("text_cfg", _open_clip.TEXT),
            )
        ),
    ]
    refused = 0
    for read, base, keys in readers:
        for key in keys:
            for value in WRONG:
                try:
                    read({**base, key: value})
                except ValueError as error:
                    assert key in str(error) or "must be" in str(error), (key, value)
                    refused += 1
    assert refused > 1500


def test_sizes_are_compared_before_anything_is_made(tmp_path):
    kg.GPT(
        num_layers=1,
        hidden_dim=8,
        num_heads=2,
        vocabulary_size=20,
        max_sequence_length=8,
        eos_token_id=None,
    ).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text("utf-8"))
    for key, limit in (("n_layer", 16), ("n_inner", 32), ("vocab_size", 32)):
        path.write_text(json.dumps({**config, key: 10**9}), "utf-8")
        with pytest.raises(ValueError, match=f"{key} must be at most {limit}, the"):
            kg.GPT.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="num_train_timesteps must be an integer from"):
        ddpm.from_config({"num_train_timesteps": 10**9})
    # Nor is a weight drawn that the file then replaces.
    path.write_text(json.dumps(config), "utf-8")
    draw = kg.layers.initializers.VarianceScaling.draw
    with pytest.MonkeyPatch.context() as patch:
        drawn = []
        patch.setattr(
            kg.layers.initializers.VarianceScaling,
            "draw",
            lambda *a: drawn.append(a) or draw(*a),
        )
        model = kg.GPT.from_pretrained(tmp_path)
    assert not drawn and model.count_params() > 0
