"""The transformer block against PyTorch's own, its cache, dropout and remat."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_genai import backend
from keras_genai.layers import FeedForward, TransformerBlock

torch = pytest.importorskip("torch")
torch.set_num_threads(1)  # beside TensorFlow's or JAX's own

B, T, S, C, N, H = 2, 5, 4, 16, 4, 24


def host(x):
    return backend.to_host(x)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def take(dense, weight, bias):
    dense.kernel.assign(weight.detach().numpy().T)
    dense.bias.assign(bias.detach().numpy())


def take_attention(ours, theirs):
    weights = theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3)
    for name, weight, bias in zip(("query", "key", "value"), *weights, strict=True):
        take(getattr(ours, name), weight, bias)
    take(ours.out, theirs.out_proj.weight, theirs.out_proj.bias)


def pair(cross, norm_first, activation):
    """PyTorch's block with random weights, and ours with the same."""
    kind = (
        torch.nn.TransformerDecoderLayer if cross else torch.nn.TransformerEncoderLayer
    )
    torch.manual_seed(0)
    theirs = kind(
        C, N, H, 0.0, activation, batch_first=True, norm_first=norm_first
    ).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ours = TransformerBlock(
        N, H, activation, cross=cross, norm_first=norm_first, epsilon=1e-5
    )
    ours.build((None, None, C), (None, None, C) if cross else None)
    take_attention(ours.self_attention, theirs.self_attn)
    norms = [ours.norm1, ours.norm2]
    if cross:
        take_attention(ours.cross_attention, theirs.multihead_attn)
        norms.insert(1, ours.norm_cross)
    for i, norm in enumerate(norms):
        theirs_norm = getattr(theirs, f"norm{i + 1}")
        norm.gamma.assign(theirs_norm.weight.detach().numpy())
        norm.beta.assign(theirs_norm.bias.detach().numpy())
    take(ours.feed_forward.dense1, theirs.linear1.weight, theirs.linear1.bias)
    take(ours.feed_forward.dense2, theirs.linear2.weight, theirs.linear2.bias)
    return ours, theirs


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("cross", [True, False])
def test_equals_pytorch_s(cross, norm_first, activation):
    ours, theirs = pair(cross, norm_first, activation)
    x, context = noise(B, T, C), noise(B, S, C, seed=1)
    mask, context_mask = np.ones((B, T), bool), np.ones((B, S), bool)
    mask[0, 3:] = context_mask[1, :2] = False
    given = [torch.from_numpy(a) for a in (x, context)]
    absent = [torch.from_numpy(~a) for a in (mask, context_mask)]
    if cross:
        wanted = theirs(
            *given, tgt_key_padding_mask=absent[0], memory_key_padding_mask=absent[1]
        )
        y = ours(x, context, mask=mask, context_mask=context_mask)
    else:
        wanted = theirs(given[0], src_key_padding_mask=absent[0])
        y = ours(x, mask=mask)
    np.testing.assert_allclose(host(y), wanted.detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("cross", [True, False])
@pytest.mark.parametrize("norm", ["layer", "rms"])
def test_cached_is_uncached(cross, norm):
    block = TransformerBlock(
        N,
        H,
        "swiglu",
        norm=norm,
        cross=cross,
        attention={"causal": True, "num_key_value_heads": 2},
    )
    x, context = noise(B, T, C), noise(B, S, C, seed=1)
    given = (context,) if cross else ()
    wanted, weights = block(x, *given, return_weights=True)
    assert tuple(weights.shape) == (B, N, T, S if cross else T)
    np.testing.assert_allclose(host(weights).sum(-1), 1.0, rtol=1e-5)
    kept = None
    if cross:
        kept = block.cross_attention.cache_of(ops.convert_to_tensor(context))
    cache, parts = block.empty_cache(B, T), []
    y, cache = block(x[:, :2], cache=cache, cache_index=0, context_cache=kept)
    parts.append(host(y))
    for place in range(2, T):
        y, cache, shown = block(
            x[:, place : place + 1],
            cache=cache,
            cache_index=ops.convert_to_tensor(place),
            context_cache=kept,
            return_weights=True,
        )
        parts.append(host(y))
        count = S if cross else place + 1
        row = host(weights)[:, :, place : place + 1, :count]
        np.testing.assert_allclose(host(shown)[..., :count], row, atol=1e-5)
    np.testing.assert_allclose(np.concatenate(parts, 1), host(wanted), atol=1e-5)


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("relu", lambda x: x * (x > 0)),
        ("gelu_tanh", torch.nn.GELU("tanh")),
        ("gelu", torch.nn.GELU()),
        ("quick_gelu", lambda x: x * torch.sigmoid(1.702 * x)),
        ("silu", torch.nn.SiLU()),
        ("tanh", torch.tanh),
        ("swiglu", torch.nn.SiLU()),
        ("geglu", torch.nn.GELU()),
    ],
)
def test_feed_forward(activation, function):
    layer, x = FeedForward(6, activation, stream="f"), noise(B, T, C)
    y = host(layer(x))

    def dense(layer, x):
        return x @ torch.from_numpy(host(layer.kernel.value))

    x = torch.from_numpy(x)
    inner = dense(layer.dense1, x)
    if layer.gate is None:
        inner = function(inner)
    else:
        inner = function(dense(layer.gate, x)) * inner
    np.testing.assert_allclose(y, dense(layer.dense2, inner).numpy(), atol=1e-5)


def step_of(remat):
    """The loss, gradients and dropout's counters of two blocks."""
    how = {"dropout": 0.3, "hidden_dropout": 0.2, "remat": remat, "stream": "r"}
    blocks = [
        TransformerBlock(N, H, attention={"dropout": 0.2}, name=f"block{i}", **how)
        for i in range(2)
    ]
    x = keras.Variable(noise(B, T, C))
    for block in blocks:
        block.build((None, None, C))
    variables = [x, *(v for b in blocks for v in b.trainable_variables)]
    state = [x, *(v for b in blocks for v in b.variables)]

    def loss():
        y = x.value
        for block in blocks:
            y = block(y, training=True)
        return ops.mean(ops.square(y))

    def step():
        found = backend.value_and_gradients(loss, variables)
        return found, [v.value + 0 for v in state if v.dtype == "int32"]

    return keras.tree.map_structure(host, backend.jit(step, state)())


def test_remat_gives_the_same_loss_and_gradients_with_its_dropout():
    (plain, counts), (again, counts_again) = step_of(False), step_of(True)
    assert counts == counts_again and all(count > 0 for count in counts)
    for a, b in zip(*map(keras.tree.flatten, (again, plain)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_layer_of_its_kind(tmp_path):
    x, context = keras.Input((None, C)), keras.Input((None, 6))
    how = {"norm": "rms", "dropout": 0.1, "initial_std": 0.02}
    block = TransformerBlock(
        N, H, "swiglu", cross=True, attention={"rotary": 100.0}, **how
    )
    model = keras.Model([x, context], FeedForward(8)(block(x, context)))
    given = [noise(B, T, C), noise(B, S, 6)]
    y = host(model(given))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(host(again(given)), y)


def test_errors():
    with pytest.raises(ValueError, match="activation must be"):
        FeedForward(4, "elu")
    with pytest.raises(ValueError, match="intermediate_dim must be"):
        FeedForward(0)
    with pytest.raises(ValueError, match='norm must be "layer" or "rms"'):
        TransformerBlock(2, 4, norm="batch")
    with pytest.raises(ValueError, match="needs a context"):
        TransformerBlock(2, 4, cross=True)(noise(1, 2, 4))
