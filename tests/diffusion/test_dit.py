"""DiT against diffusers' on the same random weights, as a layer, and its folders."""

import json

import keras
import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from keras_genai import backend
from keras_genai.diffusion.dit import PATCHES, SIZES
from keras_genai.layers.positions import sinusoidal_grid
from keras_genai.weights import dit as weights

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
safetensors = pytest.importorskip("safetensors.numpy")
torch.set_num_threads(1)  # beside TensorFlow's or JAX's own

FILE = "diffusion_pytorch_model.safetensors"
TINY = {
    "patch_size": 2,
    "num_layers": 2,
    "hidden_dim": 16,
    "num_heads": 2,
    "num_classes": 5,
}
CASES = {
    "learned variance": {"image_shape": (8, 8, 4), "out_channels": 8},
    "patch 4, one head": {"image_shape": (8, 8, 3), "patch_size": 4, "num_heads": 1},
    "patch 8, deep": {
        "image_shape": (16, 16, 1),
        "patch_size": 8,
        "num_layers": 4,
        "num_heads": 4,
    },
}


def host(x):
    return backend.to_host(x)


def make(**arguments):
    return kg.DiT(**{"image_shape": (8, 8, 4), **TINY, **arguments})


def randomised(dit, scale=0.3):
    """The network with every weight moved, so that nothing is multiplied by zero."""
    rng = np.random.default_rng(0)
    for v in dit.trainable_variables:
        v.assign(host(v.value) + scale * rng.normal(size=v.shape).astype("float32"))
    return dit


def batch(dit, count=3):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(count, *dit.image_shape)).astype("float32")
    t = np.array([0, 357, 999], "int32")[:count]
    return x, t, np.array([1, 5, 4], "int32")[:count]


def reference(config, shared):
    """diffusers' network of a configuration, with random weights."""
    torch.manual_seed(0)
    config = {k: v for k, v in config.items() if k[0] != "_"}
    network = diffusers.DiTTransformer2DModel(**config).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        first = network.transformer_blocks[0].norm1.emb
        for block in network.transformer_blocks if shared else ():
            block.norm1.emb.load_state_dict(first.state_dict())
    return network


def pair(folder, name, shared):
    network = reference(weights.to_config(make(**CASES[name])), shared)
    network.save_pretrained(folder)
    dit = kg.DiT.from_pretrained(folder)
    assert dit.shared_embedding is shared
    return network, dit


def answer(network, x, t, labels):
    x = torch.from_numpy(x).permute(0, 3, 1, 2)
    y = network(x, torch.from_numpy(t), torch.from_numpy(labels)).sample
    return y.permute(0, 2, 3, 1)


# Equal to diffusers'


@pytest.mark.parametrize(
    "shared", [True, pytest.param(False, marks=pytest.mark.in_turn)]
)
@pytest.mark.parametrize("name", CASES)
def test_equals_diffusers(tmp_path, name, shared):
    network, dit = pair(tmp_path, name, shared)
    x, t, labels = batch(dit)
    with torch.no_grad():
        wanted = answer(network, x, t, labels).numpy()
    assert np.std(wanted) > 0.1
    np.testing.assert_allclose(host(dit(x, t, labels)), wanted, atol=1e-4)
    times = t.astype("float32")
    np.testing.assert_allclose(host(dit(x, times, labels)), wanted, atol=1e-4)


@pytest.mark.parametrize("shared", [True, pytest.param(False, marks=pytest.mark.once)])
def test_gradients_equal_diffusers(tmp_path, shared):
    """Of a shared weight: the sum over the blocks' copies."""
    network, dit = pair(tmp_path, "learned variance", shared)
    x, t, labels = batch(dit)
    loss = torch.sum(answer(network, x, t, labels) ** 2)
    loss.backward()
    wanted = {n: p.grad.numpy() for n, p in network.named_parameters()}

    def ours():
        return ops.sum(ops.square(dit(x, t, labels)))

    variables = dit.trainable_variables
    value, gradients = backend.value_and_gradients(ours, variables)
    np.testing.assert_allclose(float(host(value)), loss.item(), rtol=1e-4)
    places = {id(v): i for i, v in enumerate(variables)}
    entries = weights.table(dit)
    assert {entry.name for entry in entries} == set(wanted)
    assert {id(entry.variable) for entry in entries} == set(places)
    summed = {}
    for entry in entries:
        part = entry.ours(wanted[entry.name])
        summed[id(entry.variable)] = summed.get(id(entry.variable), 0.0) + part
    # A shift of the keys changes no softmax: that gradient is 0 but for rounding.
    largest = max(np.abs(g).max() for g in summed.values())
    for key, want in summed.items():
        difference = np.linalg.norm(
            host(ops.convert_to_tensor(gradients[places[key]])) - want
        )
        scale = max(np.linalg.norm(want), 1e-4 * largest)
        assert difference <= 1e-3 * scale, variables[places[key]].path


def test_the_places_are_diffusers():
    from diffusers.models.embeddings import get_2d_sincos_pos_embed

    wanted = get_2d_sincos_pos_embed(24, 5, base_size=5).numpy()
    np.testing.assert_allclose(sinusoidal_grid(5, 5, 24), wanted, atol=1e-6)
    wide = sinusoidal_grid(2, 5, 24)
    np.testing.assert_array_equal(wide, sinusoidal_grid(5, 5, 24)[:10])


# The paper's


@pytest.mark.once
def test_the_sizes_are_those_of_table_1():
    def parameters(
        num_layers, hidden_dim, num_heads, patch, channels=4, out=8, rows=1001
    ):
        block = (6 + 4 + 8) * hidden_dim**2 + (6 + 4 + 5) * hidden_dim
        ends = hidden_dim * patch**2 * (channels + out) + hidden_dim + patch**2 * out
        time = 256 * hidden_dim + hidden_dim**2 + 2 * hidden_dim
        last = 2 * hidden_dim**2 + 2 * hidden_dim
        return num_layers * block + ends + time + last + rows * hidden_dim

    dit = make(out_channels=8)
    count = sum(int(np.prod(v.shape)) for v in dit.trainable_variables)
    assert count == parameters(2, 16, 2, 2, rows=6)
    millions = {name: parameters(*SIZES[name], 2) / 1e6 for name in SIZES}
    # The paper's table 4, without the embedding of the places.
    assert {name: round(m) for name, m in millions.items()} == {
        "S": 33,
        "B": 130,
        "L": 458,
        "XL": 675,
    }
    assert PATCHES == (2, 4, 8)
    dit = kg.DiT((16, 16, 4), "S/8", num_layers=1)
    assert (dit.patch_size, dit.num_layers, dit.hidden_dim, dit.num_heads) == (
        8,
        1,
        384,
        6,
    )


def test_it_begins_at_zero_and_every_block_as_the_identity():
    dit = make()
    x, t, labels = batch(dit)
    assert not np.any(host(dit(x, t, labels)))
    tokens = np.random.default_rng(0).normal(size=(3, 16, 16)).astype("float32")
    condition = dit.conditions[0](t, labels)
    np.testing.assert_array_equal(host(dit.blocks[0](tokens, condition)), tokens)
    kernels = [host(block.attention.query.kernel.value) for block in dit.blocks]
    assert not np.allclose(*kernels)
    limit = np.sqrt(3 / (2 * 16))  # Glorot's, of a matrix (16, 3 * 16)
    assert 0.9 * limit < np.max(np.abs(kernels)) < limit


def test_time_and_labels():
    dit = randomised(make())
    x, t, labels = batch(dit)
    one = host(dit(x, 357, labels))
    np.testing.assert_allclose(host(dit(x, np.full(3, 357.0), labels)), one, atol=1e-5)
    np.testing.assert_allclose(host(dit(x, t, labels))[1], one[1], atol=1e-5)
    assert not np.allclose(one, host(dit(x, 357, (labels + 1) % 5)), atol=1e-2)
    plain = randomised(make(num_classes=None))
    np.testing.assert_allclose(
        host(plain(x, 357)), host(plain(x, [357, 357, 357])), atol=1e-5
    )
    # The frequencies of the paper's code are not diffusers'.
    other = kg.DiT.from_config({**dit.get_config(), "freq_shift": 0.0})
    other.set_weights(dit.get_weights())
    assert not np.allclose(host(other(x, 357, labels)), one, atol=1e-2)


# As a network


@pytest.mark.in_turn
@pytest.mark.parametrize("arguments", [{}, {"shared_embedding": False}])
def test_it_is_saved_and_made_again(tmp_path, arguments):
    dit = randomised(make(image_shape=(4, 8, 3), seed=3, name="dit", **arguments))
    x, t, labels = batch(dit)
    y = host(dit(x, t, labels))
    assert y.shape == (3, 4, 8, 3)
    again = kg.DiT.from_config(json.loads(json.dumps(dit.get_config())))
    assert again.get_config() == dit.get_config()
    again.set_weights(dit.get_weights())
    np.testing.assert_array_equal(host(again(x, t, labels)), y)
    dit.save(tmp_path / "dit.keras")
    np.testing.assert_array_equal(
        host(kg.load_model(tmp_path / "dit.keras")(x, t, labels)), y
    )


def test_it_is_a_layer_of_a_graph():
    dit = randomised(make(), 0.1)  # outputs near 1
    inputs = [keras.Input(s, dtype=d) for s, d in (((8, 8, 4), None), ((), "int32"))]
    inputs.append(keras.Input((), dtype="int32"))
    graph = keras.Model(inputs, dit(*inputs))
    assert tuple(graph.output.shape) == (None, 8, 8, 4)
    arrays = batch(dit)
    compiled = backend.jit(dit, dit.variables)
    wanted = host(dit(*arrays))
    for y in (graph(arrays), compiled(*map(ops.convert_to_tensor, arrays))):
        np.testing.assert_allclose(host(y), wanted, atol=1e-5)


@pytest.mark.in_turn
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision(policy):
    dit = randomised(make(num_layers=1), 0.1)
    half = kg.DiT.from_config({**dit.get_config(), "dtype": policy})
    half.set_weights(dit.get_weights())
    x, t, labels = batch(dit)
    t = t + 0.5  # in bfloat16, 999.5 is 1000

    def squared():
        return ops.mean(ops.square(ops.cast(half(x, t, labels), "float32")))

    run = backend.jit(
        lambda: (
            half(x, t, labels),
            backend.value_and_gradients(squared, half.trainable_variables)[1],
        ),
        half.variables,
    )
    y, gradients = run()
    assert keras.backend.standardize_dtype(y.dtype) == policy[len("mixed_") :]
    wanted = host(dit(x, t, labels))
    error = host(ops.cast(y, "float32")) - wanted
    assert np.std(error) < 0.02 * np.std(wanted)
    assert all(np.all(np.isfinite(host(ops.convert_to_tensor(g)))) for g in gradients)


@pytest.mark.in_turn
def test_a_diffusion_model_trains_it(tmp_path):
    dit = make(out_channels=8, num_layers=1)
    model = kg.DDPM(dit, variance="learned", num_steps=3)
    model.compile()
    x = np.clip(batch(model.network)[0], -1, 1)
    model.fit(x, np.array([0, 1, 4]), batch_size=3, epochs=2, verbose=0)
    images = model.generate(labels=[1, 2], guidance_scale=2.0, seed=1)
    assert images.shape == (2, 8, 8, 4)
    model.save(tmp_path / "ddpm.keras")
    again = kg.load_model(tmp_path / "ddpm.keras")
    np.testing.assert_allclose(
        again.generate(labels=[1, 2], guidance_scale=2.0, seed=1), images, atol=1e-6
    )


# Folders


@pytest.mark.once
@pytest.mark.parametrize("shared", [True, False])
def test_a_round_trip_keeps_every_bit(tmp_path, shared):
    _, dit = pair(tmp_path / "theirs", "patch 4, one head", shared)
    dit.save_pretrained(tmp_path / "ours")
    theirs, ours = (
        safetensors.load_file(tmp_path / name / FILE) for name in ("theirs", "ours")
    )
    assert set(theirs) == set(ours)
    for name, array in theirs.items():
        assert array.tobytes() == ours[name].tobytes(), name
    read = diffusers.DiTTransformer2DModel.from_pretrained(tmp_path / "ours")
    x, t, labels = batch(dit)
    with torch.no_grad():
        wanted = answer(read.eval(), x, t, labels).numpy()
    np.testing.assert_allclose(host(dit(x, t, labels)), wanted, atol=1e-4)
    apart = kg.DiT.from_pretrained(tmp_path / "ours", shared_embedding=False)
    assert len(apart.conditions) == dit.num_layers
    np.testing.assert_allclose(
        host(apart(x, t, labels)), host(dit(x, t, labels)), atol=1e-6
    )
    if not shared:
        with pytest.raises(ValueError, match="different embeddings.*shared_emb"):
            kg.DiT.from_pretrained(tmp_path / "ours", shared_embedding=True)


@pytest.fixture
def folder(tmp_path):
    make().save_pretrained(tmp_path / "dit")
    return tmp_path / "dit"


def configure(folder, change):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


@pytest.mark.once
def test_the_published_configuration(folder):
    """facebook/DiT-XL-2-256's keys: the class of its time held other networks too."""
    general = {
        "_class_name": "Transformer2DModel",
        "cross_attention_dim": None,
        "num_vector_embeds": None,
        "only_cross_attention": False,
        "use_linear_projection": False,
    }
    configure(folder, general)
    (folder / FILE).rename(folder / FILE.replace(".saf", ".fp16.saf"))
    dit = kg.DiT.from_pretrained(folder.parent, subfolder="dit", variant="fp16")
    assert dit.get_config() == {**make().get_config(), "name": dit.name}


@pytest.mark.once
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "PixArtTransformer2DModel"}, "configuration of PixArt"),
        ({"activation_fn": "geglu"}, "activation_fn must be 'gelu-approximate'"),
        ({"norm_type": "ada_norm"}, "norm_type must be 'ada_norm_zero'"),
        ({"dropout": 0.1}, "dropout must be 0.0"),
        ({"sample_size": None}, "sample_size must be an integer; it is None"),
        ({"of_the_future": 1}, "of_the_future=1 is not known"),
        ({"cross_attention_dim": None}, "cross_attention_dim=None is not known"),
        ({"num_embeds_ada_norm": 4}, r"misshapen: .*\(6, 16\), expected \(5, 16\)"),
        ({"num_layers": 1}, "extra: transformer_blocks.1.attn1.to_k.bias"),
        ({"num_layers": 3}, "missing: transformer_blocks.2.norm1.emb.timestep"),
    ],
)
def test_configurations_of_other_networks(folder, change, message):
    configure(folder, change)
    with pytest.raises(ValueError, match=message):
        kg.DiT.from_pretrained(folder)


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_shape": (8, 4, 4)}, "its images are square"),
        ({"num_classes": None}, "it has labels; num_classes is None"),
        ({"null_class": False}, "null_class is False"),
        ({"freq_shift": 0.0}, "its freq_shift is 1; here 0.0"),
    ],
)
def test_networks_that_diffusers_has_not(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=f"{message}.*model.save"):
        make(**arguments).save_pretrained(tmp_path / "dit")
    assert not (tmp_path / "dit").exists()


# Errors


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": "M/2"}, "size must be one of S/2, S/4, S/8, B/2.*got 'M/2'"),
        ({"size": "S/3"}, "size must be one of"),
        ({"image_shape": (8, 7, 4)}, r"divisible by 2; got \(8, 7, 4\).*patch_size"),
        ({"image_shape": (8, 8)}, "image_shape must be"),
        ({"image_shape": 8}, "image_shape must be"),
        ({"hidden_dim": 15}, "hidden_dim must be divisible by num_heads; 2"),
        ({"hidden_dim": 18}, "divisible by 4"),
        ({"num_layers": 0}, "num_layers must be"),
        ({"out_channels": 0}, "out_channels must be"),
        ({"num_classes": 0}, "num_classes must be"),
        ({"seed": -1}, "seed"),
    ],
)
def test_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_what_it_is_called_with():
    dit = make()
    x, t, labels = batch(dit)
    with pytest.raises(ValueError, match="Labels are missing.*5 is no label"):
        dit(x, t)
    with pytest.raises(ValueError, match=r"must have the shape \(B, 8, 8, 4\)"):
        dit(x[:, :4], t, labels)
    with pytest.raises(ValueError, match="takes no labels"):
        make(num_classes=None)(x, t, labels)
