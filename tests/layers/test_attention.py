"""Attention in NumPy, what each argument means, and the cache."""

import keras
import numpy as np
import pytest
from keras import ops

from keras_genai import backend
from keras_genai.layers import Attention, alibi_slopes, attention_mask

KINDS = {
    "plain": {},
    "grouped": {"num_key_value_heads": 2},
    "one key head": {"num_key_value_heads": 1, "use_bias": True},
    "wide heads": {"head_dim": 6, "out_bias": False},
    "sliding_window": {"sliding_window": 3},
    "normalized": {"qk_norm": "rms", "num_key_value_heads": 2},
    "layer-normalized": {"qk_norm": "layer"},
    "alibi": {"alibi": True, "num_key_value_heads": 2},
    "rotary": {"rotary": 10_000.0, "num_key_value_heads": 2},
    "partly rotary": {"rotary": 100.0, "rotary_dim": 2, "sliding_window": 4},
}
B, T, C, N = 3, 7, 16, 4


def host(x):
    return ops.convert_to_numpy(ops.cast(x, "float32"))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def make(kind, causal=True, **kwargs):
    layer = Attention(N, causal=causal, seed=3, stream="a", **KINDS[kind], **kwargs)
    layer.build((None, None, C))
    for variable in layer.trainable_variables:  # gains and biases count too
        step = noise(*variable.shape, seed=len(variable.shape))
        variable.assign(host(variable.value) + 0.1 * step)
    return layer


def turned(x, theta, dim):
    """Rotary positions by complex numbers: `(B, T, N, d)`, pairs of halves."""
    half = dim // 2
    angles = np.arange(x.shape[1])[:, None] * theta ** (-np.arange(half) / half)
    z = (x[..., :half] + 1j * x[..., half:dim]) * np.exp(1j * angles)[:, None]
    return np.concatenate([z.real, z.imag, x[..., dim:]], -1)


def reference(layer, x, context=None, mask=None):
    """The layer in plain NumPy: output and probabilities."""
    source = x if context is None else context

    def num_heads(name, y, norm=None):
        dense = getattr(layer, name)
        y = y @ host(dense.kernel)
        y = y if dense.bias is None else y + host(dense.bias)
        y = y.reshape(*y.shape[:2], -1, layer.head_dim or C // N)
        if norm is not None and layer.qk_norm == "rms":
            y = y / np.sqrt(np.mean(y**2, -1, keepdims=True) + 1e-6) * host(norm.scale)
        elif norm is not None:
            y = (y - y.mean(-1, keepdims=True)) / np.sqrt(
                y.var(-1, keepdims=True) + 1e-6
            )
            y = y * host(norm.gamma) + host(norm.beta)
        return y

    query = num_heads("query", x, layer.query_norm)
    key = num_heads("key", source, layer.key_norm)
    value = num_heads("value", source)
    if layer.rotary:
        dim = layer.rotary_dim or query.shape[-1]
        query, key = (turned(y, layer.rotary, dim) for y in (query, key))
    group = N // key.shape[2]
    key, value = (np.repeat(y, group, axis=2) for y in (key, value))
    scores = np.einsum("btnd,bsnd->bnts", query, key) / np.sqrt(query.shape[-1])
    t, s = np.mgrid[: x.shape[1], : source.shape[1]]
    if layer.alibi:
        scores = scores - alibi_slopes(N)[:, None, None] * np.abs(t - s)
    seen = np.ones(scores.shape, bool)
    if layer.causal:
        seen &= s <= t
    if layer.sliding_window:
        seen &= np.abs(t - s) < layer.sliding_window
    if mask is not None:
        seen &= mask
    scores = np.where(seen, scores, -1e30)
    share = np.exp(scores - scores.max(-1, keepdims=True))
    share = share / share.sum(-1, keepdims=True)
    y = np.einsum("bnts,bsnd->btnd", share, value).reshape(*x.shape[:2], -1)
    y = y @ host(layer.out.kernel)
    return (y if layer.out.bias is None else y + host(layer.out.bias)), share


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_in_plain_numpy_with_its_probabilities(kind, causal):
    layer, x = make(kind, causal), noise(B, T, C)
    mask = np.ones((B, T), bool)
    mask[0, 5:] = mask[1, :1] = False
    mask[1, 0] = not causal  # the first token must see something
    wanted, share = reference(layer, x, mask=mask[:, None, None])
    y, weights = layer(x, mask=mask, return_weights=True)
    np.testing.assert_allclose(host(y), wanted, atol=1e-5)
    np.testing.assert_allclose(host(weights), share, atol=1e-6)
    np.testing.assert_allclose(host(layer(x, mask=mask)), wanted, atol=1e-5)
    wanted, _ = reference(layer, x)
    np.testing.assert_allclose(host(layer(x)), wanted, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_cached_is_uncached_at_every_position(kind):
    layer, x = make(kind), noise(B, T, C)
    wanted = host(layer(x))
    for first in (1, 4):
        cache = layer.empty_cache(B, T + 2)
        y, cache = layer(x[:, :first], cache=cache, cache_index=0)
        parts = [host(y)]
        for place in range(first, T):
            index = ops.convert_to_tensor(place, "int32")
            y, cache = layer(x[:, place : place + 1], cache=cache, cache_index=index)
            parts.append(host(y))
        np.testing.assert_allclose(np.concatenate(parts, 1), wanted, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_each_row_of_a_batch_has_its_own_place(kind):
    """Rows that have seen 2, 4 and 3 tokens go on by three at once."""
    layer, x = make(kind), noise(B, T, C)
    wanted, seen = host(layer(x)), np.array([2, 4, 3], "int32")
    _, cache = layer(x[:, :5], cache=layer.empty_cache(B, T), cache_index=0)
    more = np.stack([x[i, n : n + 3] for i, n in enumerate(seen)])
    y, _ = layer(more, cache=cache, cache_index=ops.convert_to_tensor(seen))
    for i, n in enumerate(seen):
        np.testing.assert_allclose(host(y)[i], wanted[i, n : n + 3], atol=1e-5)


@pytest.mark.parametrize("kind", ["plain", "grouped", "normalized"])
def test_a_context_whose_keys_are_computed_once(kind):
    layer = Attention(N, **KINDS[kind])
    x, context = noise(B, T, C), noise(B, 5, 6, seed=1)
    mask = np.arange(5) < np.array([[5], [2], [4]])
    wanted, share = reference_of_context(layer, x, context, mask)
    np.testing.assert_allclose(host(layer(x, context, mask=mask)), wanted, atol=1e-5)
    cache = layer.cache_of(ops.convert_to_tensor(context))
    y, weights = layer(x, mask=mask, cache=cache, return_weights=True)
    np.testing.assert_allclose(host(y), wanted, atol=1e-5)
    np.testing.assert_allclose(host(weights), share, atol=1e-6)


def reference_of_context(layer, x, context, mask):
    layer.build(x.shape, context.shape)
    return reference(layer, x, context, mask[:, None, None])


def test_no_token_sees_a_later_one():
    layer, x = make("rotary"), noise(1, T, C)
    y = host(layer(x))
    for place in range(T):
        changed = x.copy()
        changed[:, place] += 1.0
        moved = np.abs(host(layer(changed)) - y).max((0, 2))
        assert np.all(moved[:place] == 0.0) and np.all(moved[place:] > 0.0)


def test_rotary_scores_depend_on_the_distance_alone():
    layer, x = make("rotary", causal=False), noise(B, T, C)
    _, near = layer(x, positions=np.arange(T), return_weights=True)
    _, far = layer(x, positions=np.arange(T) + 50, return_weights=True)
    rows = np.arange(T) + np.array([[0], [9], [300]])
    _, each = layer(x, positions=rows, return_weights=True)
    np.testing.assert_allclose(host(near), host(far), atol=2e-5)
    np.testing.assert_allclose(host(near), host(each), atol=1e-4)
    _, other = layer(x, positions=2 * np.arange(T), return_weights=True)
    assert np.abs(host(near) - host(other)).max() > 1e-2


def test_rotary_in_two_dimensions():
    """Scores depend on the difference of rows and of columns."""
    layer = Attention(2, rotary=100.0, rotary_axes=2)
    x = noise(1, 6, 16)
    grid = np.stack(np.mgrid[:2, :3], -1).reshape(6, 2)
    _, first = layer(x, positions=grid, return_weights=True)
    _, moved = layer(x, positions=grid + [4, 7], return_weights=True)
    _, turned_ = layer(x, positions=grid[:, ::-1].copy(), return_weights=True)
    np.testing.assert_allclose(host(first), host(moved), atol=2e-5)
    assert np.abs(host(first) - host(turned_)).max() > 1e-3


def test_shared_keys_are_repeated_keys():
    shared, whole = make("grouped"), make("plain")
    for name in ("query", "out"):
        getattr(whole, name).set_weights(getattr(shared, name).get_weights())
    for name in ("key", "value"):
        kernel = host(getattr(shared, name).kernel).reshape(C, 2, 4)
        getattr(whole, name).set_weights([np.repeat(kernel, 2, axis=1).reshape(C, C)])
    x = noise(B, T, C)
    np.testing.assert_allclose(host(whole(x)), host(shared(x)), atol=1e-6)


def test_dropout_of_the_probabilities():
    layer, x = Attention(2, dropout=0.5, stream="a"), noise(2, 30, C)
    first, second = (host(layer(x, training=True)) for _ in range(2))
    again = host(Attention(2, dropout=0.5, stream="a")(x, training=True))
    np.testing.assert_allclose(again, first, atol=1e-6)
    assert np.abs(first - second).max() > 1e-3
    plain = Attention(2, stream="a")(x)
    np.testing.assert_allclose(host(layer(x)), host(plain), atol=1e-6)
    mean = np.mean([host(layer(x, training=True)) for _ in range(100)], 0)
    one, all_ = (np.abs(y - host(plain)).mean() for y in (first, mean))
    assert all_ < 0.2 * one


def test_weights_of_a_deviation():
    layer = Attention(4, initial_std=0.02, out_std=0.01, stream="b")
    layer.build((None, None, 128))
    for name, std in (("query", 0.02), ("value", 0.02), ("out", 0.01)):
        kernel = host(getattr(layer, name).kernel)
        assert kernel.std() == pytest.approx(std, rel=0.03)


def test_masks():
    assert attention_mask(3, 3) is None
    seen = host(attention_mask(2, 5, 2, causal=True, sliding_window=2))
    np.testing.assert_array_equal(seen[0, 0], [[0, 1, 1, 0, 0], [0, 0, 1, 1, 0]])
    seen = host(attention_mask(2, 3, np.array([0, 1]), np.ones((2, 3)), causal=True))
    wanted = [[[1, 0, 0], [1, 1, 0]], [[1, 1, 0], [1, 1, 1]]]
    np.testing.assert_array_equal(seen[:, 0], wanted)


@pytest.mark.parametrize("groups", [1, 3])
def test_the_backend_s_attention_in_every_form(groups):
    query, bias = noise(2, 4, 6, 8), noise(1, 6, 4, 4, seed=2)
    key, value = (noise(2, 4, 6 // groups, 8, seed=i) for i in (3, 4))
    mask = noise(2, 1, 4, 4, seed=5) > 0
    mask[..., 0] = True
    scores = np.einsum("btnd,bsnd->bnts", query, np.repeat(key, groups, 2)) / 8**0.5
    for kwargs, seen in (
        ({}, np.ones((4, 4), bool)),
        ({"causal": True}, np.tri(4, dtype=bool)),
        ({"mask": mask}, mask),
        ({"mask": mask, "bias": bias, "causal": True}, mask & np.tri(4, dtype=bool)),
    ):
        share = np.where(seen, np.exp(scores + kwargs.get("bias", 0.0)), 0.0)
        share = share / share.sum(-1, keepdims=True)
        wanted = np.einsum("bnts,bsnd->btnd", share, np.repeat(value, groups, 2))
        tensors = [ops.convert_to_tensor(a) for a in (query, key, value)]
        given = {
            k: ops.convert_to_tensor(v) if k != "causal" else v
            for k, v in kwargs.items()
        }
        got = host(backend.attention(*tensors, **given))
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    nothing = ops.convert_to_tensor(np.zeros((1, 1, 4, 4), bool))
    got = host(backend.attention(*tensors, mask=nothing))
    mean = np.repeat(value.mean(1, keepdims=True), groups, 2)
    np.testing.assert_allclose(got, np.repeat(mean, 4, 1), atol=1e-5)


def test_half_precision_and_configuration():
    x = noise(B, T, C)
    for kind in ("rotary", "alibi", "normalized"):
        layer = make(kind)
        for dtype in ("mixed_float16", "mixed_bfloat16"):
            half = Attention.from_config({**layer.get_config(), "dtype": dtype})
            half.build((None, None, C))
            half.set_weights(layer.get_weights())
            made = half(x)
            assert keras.backend.standardize_dtype(made.dtype) == dtype[6:]
            np.testing.assert_allclose(host(made), host(layer(x)), atol=5e-2)
            cache = half.empty_cache(B, T)
            y, _ = half(x[:, :3], cache=cache, cache_index=0)
            np.testing.assert_allclose(host(y), host(made)[:, :3], atol=5e-2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 3}, "3 does not divide 16"),
        (
            {"num_heads": 4, "num_key_value_heads": 3},
            "num_key_value_heads must divide num_heads",
        ),
        ({"num_heads": 4, "sliding_window": 0}, "window must be"),
        ({"num_heads": 4, "qk_norm": "batch"}, "qk_norm must be"),
        ({"num_heads": 4, "rotary": 0.5}, "rotary is the base"),
        ({"num_heads": 4, "rotary": 10.0, "alibi": True}, "both encode positions"),
        ({"num_heads": 4, "rotary": 10.0, "rotary_dim": 3}, "divisible by 2"),
        ({"num_heads": 4, "rotary": 10.0, "rotary_dim": 6}, "at most the 4 channels"),
        ({"num_heads": 8, "rotary": 10.0, "rotary_axes": 2}, "divisible by 4"),
        ({"num_heads": 8, "rotary_axes": 3}, "rotary_axes must be"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        Attention(**arguments)(noise(1, 2, C))
