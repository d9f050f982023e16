"""CLIP's and SigLIP's folders against transformers': vectors, losses, gradients."""

import json

import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from keras_genai.weights import clip as weights
from tests.support.conformance import host
from tests.support.parity import gradients_are_equal, same_tensors, shaken

pytestmark = pytest.mark.in_turn

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

BODY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
}
TEXT = {**BODY, "vocab_size": 30, "max_position_embeddings": 7}
VISION = {**BODY, "image_size": 12, "patch_size": 4}
WIDTHS = {"hidden_size": 12, "num_attention_heads": 2}  # of the texts of CLIP
END = 29


def reference(family, **changes):
    """A tiny model of transformers' with random weights.

    Args:
        family: `"clip"`, `"largest"` (its pooling of old) or `"siglip"`.
        changes: of both towers' configurations.
    """
    if family == "siglip":
        config = transformers.SiglipConfig(
            text_config={**TEXT, **changes}, vision_config={**VISION, **changes}
        )
        kind = transformers.SiglipModel
    else:
        end = END if family == "clip" else 2
        ends = {"eos_token_id": end, "bos_token_id": 0, "pad_token_id": 1}
        config = transformers.CLIPConfig(
            text_config={**TEXT, **WIDTHS, **ends, **changes},
            vision_config={**VISION, **changes},
            projection_dim=10,
        )
        kind = transformers.CLIPModel
    config._attn_implementation = "eager"
    return shaken(kind(config))


def tokens(count=4):
    """Texts of several lengths, the end token before the padding, and once more."""
    made = np.random.default_rng(0).integers(3, END - 1, (count, 7))
    for i, row in enumerate(made):
        row[3 + i % 3] = END
        row[4 + i % 3 :] = 1
    made[0, 5] = END
    return made.astype("int32")


def images(count=4):
    made = np.random.default_rng(1).uniform(-1, 1, (count, 12, 12, 3))
    return made.astype("float32")


def pixels(model, x):
    """What transformers' processors make of images."""
    x = (x + 1) / 2
    x = (x - np.array(model.mean)) / np.array(model.std)
    return torch.from_numpy(x.transpose(0, 3, 1, 2).astype("float32"))


def theirs(network, model, x, ids):
    given = {"pixel_values": pixels(model, x), "input_ids": torch.from_numpy(ids)}
    return network(**given, return_loss=True)


FAMILIES = ("clip", "largest", "siglip")


@pytest.fixture(params=FAMILIES)
def pair(request, tmp_path):
    """`(transformers' model, ours of its folder)`."""
    network = reference(request.param)
    network.save_pretrained(tmp_path)
    return network, kg.CLIP.from_pretrained(tmp_path)


def test_vectors_logits_and_losses_equal_transformers(pair):
    network, model = pair
    x, ids = images(), tokens()
    with torch.no_grad():
        made = theirs(network, model, x, ids)
    assert np.std(made.logits_per_image.numpy()) > 0.05
    for got, want in (
        (model.encode_image(x, batch_size=3), made.image_embeds),
        (model.encode_text(ids), made.text_embeds),
        (model.similarity(x, ids[:3]), made.logits_per_image[:, :3]),
        (host(model({"images": x, "tokens": ids})), made.logits_per_image),
        (host(model.objective(x, ids)), made.loss),
    ):
        np.testing.assert_allclose(got, want.numpy(), atol=1e-4, rtol=1e-4)


def test_gradients_equal_transformers(pair):
    network, model = pair
    x, ids = images(), tokens()
    # The gradients of the loss alone: it goes through all else.
    gradients_are_equal(
        lambda: [model.objective(ops.convert_to_tensor(x), ops.convert_to_tensor(ids))],
        weights.table(model),
        [theirs(network, model, x, ids).loss],
        network,
    )


@pytest.mark.once
@pytest.mark.parametrize("family", FAMILIES)
def test_a_round_trip_keeps_every_bit(tmp_path, family):
    network = reference(family)
    network.save_pretrained(tmp_path / "theirs", max_shard_size="10KB")
    model = kg.CLIP.from_pretrained(tmp_path / "theirs")
    model.save_pretrained(tmp_path / "ours")
    again = type(network).from_pretrained(
        tmp_path / "ours", attn_implementation="eager"
    )
    for key, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    kg.CLIP.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "twice")
    same_tensors(tmp_path / "ours", tmp_path / "twice")
    x, ids = images(), tokens()
    with torch.no_grad():
        wanted = theirs(network, model, x, ids).logits_per_image
        found = theirs(again, model, x, ids).logits_per_image
    np.testing.assert_array_equal(found.numpy(), wanted.numpy())
    processor = json.loads((tmp_path / "ours" / weights.PREPROCESSOR).read_text())
    np.testing.assert_array_equal(processor["image_mean"], model.mean)


TOWERS = {
    "CLIPTextModel": kg.clip.TextTower,
    "CLIPTextModelWithProjection": kg.clip.TextTower,
    "SiglipTextModel": kg.clip.TextTower,
    "CLIPVisionModel": kg.clip.ImageTower,
    "CLIPVisionModelWithProjection": kg.clip.ImageTower,
    "SiglipVisionModel": kg.clip.ImageTower,
}


@pytest.mark.once
@pytest.mark.parametrize("name", TOWERS)
def test_towers_alone_equal_transformers(tmp_path, name):
    """Their names have a prefix or not, by version and class; states of all layers."""
    kind = getattr(transformers, name)
    body = {**TEXT, "eos_token_id": END} if "Text" in name else VISION
    config = kind.config_class(**body, projection_dim=10)
    config._attn_implementation = "eager"
    network = shaken(kind(config))
    network.save_pretrained(tmp_path / "theirs")
    tower = TOWERS[name].from_pretrained(tmp_path / "theirs")
    text = "Text" in name
    x = tokens() if text else images()
    given = torch.from_numpy(x if text else x.transpose(0, 3, 1, 2))
    with torch.no_grad():
        made = network(given, output_hidden_states=True)
    wanted = {"WithProjection": "text_embeds" if text else "image_embeds"}
    wanted = (
        made[wanted.get("WithProjection")] if "With" in name else made.pooler_output
    )
    np.testing.assert_allclose(host(tower(x)), wanted.numpy(), atol=1e-4)
    states = tower.hidden_states(ops.convert_to_tensor(x))
    assert len(states) == len(made.hidden_states) == 3
    for got, want in zip(states, made.hidden_states, strict=True):
        np.testing.assert_allclose(host(got), want.numpy(), atol=1e-4)
    if text:
        np.testing.assert_allclose(
            host(tower.normalized(states[-1])),
            made.last_hidden_state.numpy(),
            atol=1e-4,
        )
    tower.save_pretrained(tmp_path / "ours")
    again = kind.from_pretrained(tmp_path / "ours")
    for key, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key


@pytest.mark.once
def test_a_tower_is_read_of_a_whole_model(tmp_path):
    network = reference("clip")
    network.save_pretrained(tmp_path)
    model = kg.CLIP.from_pretrained(tmp_path)
    text = kg.clip.TextTower.from_pretrained(tmp_path)
    image = kg.clip.ImageTower.from_pretrained(tmp_path)
    np.testing.assert_array_equal(
        host(text(tokens())), host(model.text_tower(tokens()))
    )
    np.testing.assert_array_equal(
        host(image(images())), host(model.image_tower(images()))
    )
    image.save_pretrained(tmp_path / "image")
    with pytest.raises(ValueError, match="of the image tower alone"):
        kg.CLIP.from_pretrained(tmp_path / "image")
    with pytest.raises(ValueError, match="the other tower"):
        kg.clip.TextTower.from_pretrained(tmp_path / "image")


def rewritten(folder, names=None, config=None):
    """Changes what stands in a folder: names of tensors, the configuration."""
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    save_file((names or dict)(load_file(path)), path)
    path = folder / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps((config or dict)(content)))


@pytest.mark.once
def test_what_the_patches_leave_is_not_seen(tmp_path):
    """Images of 13 of patches of 4, as SigLIP's of 384 of 14."""
    config = transformers.SiglipVisionConfig(**{**VISION, "image_size": 13})
    network = shaken(transformers.SiglipVisionModel(config))
    network.save_pretrained(tmp_path)
    tower = kg.clip.ImageTower.from_pretrained(tmp_path)
    assert tower.image_shape == (13, 13, 3)
    x = np.random.default_rng(0).normal(size=(2, 13, 13, 3)).astype("float32")
    with torch.no_grad():
        made = network(torch.from_numpy(x.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(host(tower(x)), made.pooler_output.numpy(), atol=1e-4)


@pytest.mark.once
def test_older_files_are_read(tmp_path):
    """Places as integers, copies of the configurations, no architecture; a prefix."""
    network = reference("clip")
    network.save_pretrained(tmp_path)
    wanted = kg.CLIP.from_pretrained(tmp_path).encode_text(tokens())

    def names(tensors):
        for part in ("text_model", "vision_model"):
            place = f"{part}.embeddings.position_ids"
            tensors[place] = np.arange(7, dtype="int64")[None]
        return tensors

    def config(content):
        content.pop("architectures")
        text = content["text_config"]
        content["text_config_dict"] = {"eos_token_id": text["eos_token_id"]}
        text["eos_token_id"] = 2
        return {**content, "vision_config_dict": None}

    rewritten(tmp_path, names, config)
    model = kg.CLIP.from_pretrained(tmp_path)
    assert model.text_tower.eos_token_id == END
    np.testing.assert_array_equal(model.encode_text(tokens()), wanted)


@pytest.mark.once
def test_what_does_not_fit_is_named(tmp_path):
    network = reference("clip")
    network.save_pretrained(tmp_path)
    read = kg.CLIP.from_pretrained

    def activation(content):
        content["text_config"]["hidden_act"] = "gelu_of_mine"
        return content

    rewritten(tmp_path, config=activation)
    with pytest.raises(ValueError, match="hidden_act must be 'quick_gelu' or 'gelu'"):
        read(tmp_path)
    network.save_pretrained(tmp_path)
    rewritten(tmp_path, lambda x: {f"visual.{k}": v for k, v in x.items()})
    with pytest.raises(ValueError, match="are OpenCLIP's.*open_clip_config.json"):
        read(tmp_path)
    network.save_pretrained(tmp_path)
    rewritten(tmp_path, lambda x: {k: v for k, v in x.items() if "fc1.bias" not in k})
    with pytest.raises(ValueError, match="missing: text_model.encoder.layers.0.mlp"):
        read(tmp_path)
    network.save_pretrained(tmp_path)
    rewritten(
        tmp_path, config=lambda x: {**x, "model_type": "bert", "architectures": []}
    )
    with pytest.raises(ValueError, match="model_type 'bert'; CLIP reads clip"):
        read(tmp_path)
    network.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        read(tmp_path)
    own = kg.CLIP(
        kg.clip.ImageTower((8, 8, 3), 4, 1, 8, 2, pooling="mean", projection_dim=4),
        kg.clip.TextTower(9, 4, 1, 8, 2, pooling="last", projection_dim=4),
        4,
    )
    with pytest.raises(ValueError, match="the vision tower's pooling is 'mean'"):
        own.save_pretrained(tmp_path / "own")
    with pytest.warns(UserWarning, match="not in the vocabulary of 30"):
        reference("clip", eos_token_id=77).save_pretrained(tmp_path)
        read(tmp_path)
