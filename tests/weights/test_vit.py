"""ViT's folders against transformers': sizes, painting, gradients, both ways."""

import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from keras_genai.weights import vit as weights
from tests.support.conformance import host
from tests.support.parity import gradients_are_equal, same_tensors, shaken

# Reading and writing of files, in NumPy: the networks that they fill are held equal to
# their references and across the backends elsewhere.
pytestmark = pytest.mark.once

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 24,
    "image_size": 12,
    "patch_size": 4,
}
DECODER = {
    "decoder_hidden_size": 8,
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
    "mask_ratio": 0.6,
}
CLASSES = ("ViTForImageClassification", "ViTModel", "ViTMAEForPreTraining")


def reference(name, **changes):
    kind = getattr(transformers, name)
    more = DECODER if "MAE" in name else {"num_labels": 5}
    if name == "ViTModel":
        more = {}
    config = kind.config_class(
        **{**SMALL, **more, **changes}, attn_implementation="eager"
    )
    return shaken(kind(config))


def images(height=12, width=12):
    draw = np.random.default_rng(0)
    return draw.normal(size=(2, height, width, 3)).astype("float32")


def theirs(network, x, noise=None):
    x = torch.from_numpy(x).permute(0, 3, 1, 2)
    resize = tuple(x.shape[2:]) != (12, 12)
    if noise is not None:
        made = network(x, noise=torch.from_numpy(noise))
        return [made.logits, made.mask, made.loss]
    made = network(x, interpolate_pos_encoding=resize)
    if hasattr(made, "logits"):
        return [made.logits]
    return [made.last_hidden_state, made.pooler_output]


def ours(model, x):
    if model.num_classes:
        return [model(x)]
    hidden_dim = model.network(x)
    return [hidden_dim, model.network.features(hidden_dim)]


@pytest.mark.parametrize("size", [(12, 12), (20, 20), (8, 24), (4, 4)])
@pytest.mark.parametrize("name", CLASSES[:2])
def test_outputs_equal_transformers_at_several_sizes(tmp_path, name, size):
    network = reference(name)
    network.save_pretrained(tmp_path)
    model = kg.ViT.from_pretrained(tmp_path)
    with torch.no_grad():
        wanted = theirs(network, images(*size))
    found = ours(model, ops.convert_to_tensor(images(*size)))
    for got, want in zip(found, wanted, strict=True):
        assert np.std(want.numpy()) > 0.1
        np.testing.assert_allclose(host(got), want.numpy(), atol=1e-4)
    if size != (12, 12) and model.num_classes:
        larger = kg.ViT.from_pretrained(tmp_path, image_shape=(*size, 3))
        assert larger.network.grid == (size[0] // 4, size[1] // 4)
        np.testing.assert_allclose(
            host(larger(images(*size))), wanted[0].numpy(), atol=1e-4
        )


@pytest.mark.parametrize("name", CLASSES[:2])
def test_gradients_equal_transformers(tmp_path, name):
    network = reference(name)
    network.save_pretrained(tmp_path)
    model = kg.ViT.from_pretrained(tmp_path)
    x = ops.convert_to_tensor(images())
    gradients_are_equal(
        lambda: ours(model, x), weights.table(model), theirs(network, images()), network
    )


@pytest.mark.parametrize("normalized", [False, True])
def test_painting_equals_transformers(tmp_path, normalized):
    network = reference("ViTMAEForPreTraining", norm_pix_loss=normalized)
    network.save_pretrained(tmp_path)
    model = kg.ViT.from_pretrained(tmp_path)
    assert model.mae and model.normalized_pixels is normalized
    noise = np.random.default_rng(1).uniform(size=(2, 9)).astype("float32")
    wanted = theirs(network, images(), noise)
    x, draw = ops.convert_to_tensor(images()), ops.convert_to_tensor(noise)
    made, hidden_dim, _ = model.painted(x, draw)
    np.testing.assert_allclose(host(made), wanted[0].detach().numpy(), atol=1e-4)
    np.testing.assert_array_equal(host(hidden_dim), wanted[1].numpy())
    loss, _ = model.objective(x, None, None, draw, training=False)
    np.testing.assert_allclose(float(host(loss)), wanted[2].item(), rtol=1e-4)
    gradients_are_equal(
        lambda: [model.objective(x, None, None, draw, training=False)[0]],
        [e for e in weights.table(model, {weights.NEWER}) if e.variable.trainable],
        wanted[2:],
        network,
    )
    # It goes on as a classifier, of larger images too.
    tuned = kg.ViT.from_pretrained(tmp_path, num_classes=4, image_shape=(20, 20, 3))
    want = host(model.network(images(20, 20)))
    np.testing.assert_allclose(host(tuned.network(images(20, 20))), want, atol=1e-5)
    assert tuned(images(20, 20)).shape == (2, 4)


@pytest.mark.parametrize("name", CLASSES)
def test_a_round_trip_keeps_every_bit(tmp_path, name):
    network = reference(name)
    network.save_pretrained(tmp_path / "theirs", max_shard_size="10KB")
    model = kg.ViT.from_pretrained(tmp_path / "theirs")
    model.save_pretrained(tmp_path / "ours")
    again = getattr(transformers, name).from_pretrained(tmp_path / "ours")
    for key, value in network.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    kg.ViT.from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "twice")
    same_tensors(tmp_path / "ours", tmp_path / "twice")


def test_what_does_not_fit_is_named(tmp_path):
    reference("ViTModel", hidden_act="relu").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="hidden_act must be 'gelu'; it is 'relu'"):
        kg.ViT.from_pretrained(tmp_path)
    reference("ViTModel").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="give num_classes too"):
        kg.ViT.from_pretrained(tmp_path, image_shape=(20, 20, 3))
    with pytest.raises(ValueError, match="misshapen: embeddings.*position_embeddings"):
        import json

        path = tmp_path / "config.json"
        config = json.loads(path.read_text("utf-8")) | {"image_size": 16}
        path.write_text(json.dumps(config), "utf-8")
        kg.ViT.from_pretrained(tmp_path)
    model = kg.ViT(
        (8, 8, 3), "Ti/4", num_layers=1, hidden_dim=8, num_heads=2, positions="rotary"
    )
    with pytest.raises(ValueError, match="its positions are a table, not 'rotary'"):
        model.save_pretrained(tmp_path / "rotary")
