"""Multi-head attention: grouped, causal, to a context, with a cache."""

import math

import keras
import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.backend.precision import widen
from keras_genai.layers.composite import CompositeLayer
from keras_genai.layers.dropout import Dropout
from keras_genai.layers.initializers import normal_or_uniform
from keras_genai.layers.positions import (
    alibi_slopes,
    check_even,
    check_scaling,
    rotary_angles,
    rotate,
)
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_positive
from keras_genai.utils.serialization import PACKAGE
from keras_genai.utils.validation import integer, mapping, number, text

NORMS = ("layer", "rms")
_MASKED = -0.7 * float(np.finfo("float32").max)


def normalization(kind, epsilon, policy, name):
    """Layer normalization (1607.06450) or RMS normalization (1910.07467), with gain."""
    layers = keras.layers
    classes = {"layer": layers.LayerNormalization, "rms": layers.RMSNormalization}
    if kind not in classes:
        raise ValueError(f'The norm must be "layer" or "rms"; got {kind!r}.')
    return classes[kind](epsilon=epsilon, dtype=policy, name=name)


def attention_mask(
    queries, keys, first=0, mask=None, causal=False, sliding_window=None
):
    """Which keys each query attends to.

    Args:
        queries: T, their number.
        keys: S, theirs.
        first: position of the first query among the keys: an integer, an int32
            scalar, or `(B,)` of them.
        mask: bool, or None: `(B, S)`, False where there is padding; `(B, T, S)` or
            `(B, N, T, S)`.
        causal: a query attends to no key after its own position.
        sliding_window: how many keys a query attends to: its own and those before, and
            where it is not causal as many after; or None for all.

    Returns:
        Bool tensor that broadcasts to `(B, N, T, S)`, or None: all are attended to.
    """
    allowed = None
    if mask is not None:
        allowed = ops.cast(mask, "bool")
        axes = {2: (1, 2), 3: (1,), 4: ()}[len(allowed.shape)]
        allowed = ops.expand_dims(allowed, axes) if axes else allowed
    if causal or sliding_window:
        distance = _positions(first, queries) - ops.arange(keys, dtype="int32")
        near = []  # (T, S) or (B, T, S)
        if causal:
            near.append(distance >= 0)
        if sliding_window:
            near.append(distance < sliding_window)
        if sliding_window and not causal:
            near.append(distance > -sliding_window)
        for part in near:
            part = ops.expand_dims(part, -3)  # of all heads
            allowed = part if allowed is None else ops.logical_and(allowed, part)
        if len(allowed.shape) == 3:
            allowed = ops.expand_dims(allowed, 0)
    return allowed


def _positions(first, count):
    """The positions `(T, 1)`, or `(B, T, 1)`, of `count` tokens from `first` on."""
    first = ops.expand_dims(ops.cast(first, "int32"), -1)  # (1,) or (B, 1)
    return ops.expand_dims(first + ops.arange(count, dtype="int32"), -1)


@keras.saving.register_keras_serializable(PACKAGE)
class Attention(CompositeLayer):
    """`W_o softmax(Q K^T / sqrt(d)) V + b` (1706.03762, section 3.2.2).

    Q is linear in `x`, K and V in the context; without one, in `x` as well. A mask in
    the call says which keys are attended to (see `attention_mask`).

    Args:
        num_heads: number of heads; it must divide the channels.
        upcast_attention: the scores are computed in float32 under mixed precision too
            (where weights were trained so that half precision overflows).
        use_bias: whether Q, K and V have a bias too.
        out_bias: whether the output has one.
        num_key_value_heads: number of heads of K and V, which neighbouring heads of Q
            share (grouped queries, 2305.13245); it must divide `num_heads`. By default
            as many.
        head_dim: channels of a head; by default the channels over `num_heads`.
        causal: a token attends to itself and to those before it alone.
        sliding_window: how many tokens one attends to, its own and those before
            (2004.05150; and as many after, where it is not causal); None for all.
        qk_norm: `"layer"` or `"rms"` normalization of each head of Q and K (2302.05442,
            section 2), or None.
        epsilon: of that normalization.
        dropout: rate of the probabilities that are dropped in training, in [0, 1).
        alibi: the scores fall linearly with the distance (2108.12409).
        rotary: base of the frequencies at which pairs of channels of Q and K are
            rotated by their positions (2104.09864), such as 10000; None rotates none.
        rotary_dim: how many channels of a head are rotated; by default all.
        rotary_axes: 1, or 2 for positions `(T, 2)` in an image: see `rotary_angles`.
        rotary_scaling: for longer texts than learned: see `rotary_frequencies`.
        initial_std: standard deviation of the initial kernels, which are normal; None
            for PyTorch's, which are uniform.
        out_std: that of the output's kernel; by default `initial_std`.
        seed: integer, the model's.
        stream: name of its weights: layers of one model take different names.

    Raises:
        ValueError: for numbers that do not divide, or arguments that exclude others.

    Example:

    ```python
    y = Attention(8)(x)                       # (B, T, C) -> (B, T, C)
    y = Attention(8)(x, context)              # with (B, S, D) beside
    layer = Attention(8, num_key_value_heads=2, causal=True, rotary=10_000.0)
    cache = layer.empty_cache(batch=1, length=64)
    y, cache = layer(x, cache=cache, cache_index=0)     # T tokens, then one after each
    y, cache = layer(x[:, :1], cache=cache, cache_index=x.shape[1])
    ```
    """

    @checked(
        rotary=number("> 0"),
        sliding_window=integer(1),
        qk_norm=text,
        rotary_dim=integer(1),
        rotary_axes=integer(1),
        rotary_scaling=mapping,
    )
    def __init__(
        self,
        num_heads=1,
        upcast_attention=False,
        use_bias=False,
        *,
        out_bias=True,
        num_key_value_heads=None,
        head_dim=None,
        causal=False,
        sliding_window=None,
        qk_norm=None,
        epsilon=1e-6,
        dropout=0.0,
        alibi=False,
        rotary=None,
        rotary_dim=None,
        rotary_axes=1,
        rotary_scaling=None,
        initial_std=None,
        out_std=None,
        **kwargs,
    ):
        # A DiT has initial weights of its own.
        kwargs.setdefault("initializer", normal_or_uniform(initial_std))
        super().__init__(**kwargs)
        self.supports_masking = True  # see compute_mask
        check_positive("num_heads", num_heads)
        for name, value in (("head_dim", head_dim), ("sliding_window", sliding_window)):
            if value is not None:
                check_positive(name, value)
        check_kv_heads(num_heads, num_key_value_heads)
        if qk_norm not in (None, *NORMS):
            raise ValueError(
                f'qk_norm must be "layer", "rms" or None; got {qk_norm!r}.'
            )
        if rotary_axes not in (1, 2):
            raise ValueError(f"rotary_axes must be 1 or 2; got {rotary_axes!r}.")
        if rotary is not None and not rotary > 1.0:
            raise ValueError(
                "rotary is the base of the frequencies, over 1, such as 10000, or "
                f"None; got {rotary!r}."
            )
        check_scaling(rotary_scaling, "rotary_scaling")
        if rotary is not None and alibi:
            raise ValueError("rotary and alibi both encode positions: give one.")
        self.num_heads = num_heads
        self.upcast_attention = upcast_attention
        self.use_bias = use_bias
        self.out_bias = out_bias
        self.num_key_value_heads = num_key_value_heads
        self.head_dim = head_dim
        self.causal = causal
        self.sliding_window = sliding_window
        self.qk_norm = qk_norm
        self.epsilon = epsilon
        self.dropout = dropout
        self.alibi = alibi
        self.rotary = rotary
        self.rotary_dim = rotary_dim
        self.rotary_axes = rotary_axes
        self.rotary_scaling = rotary_scaling
        self.initial_std = initial_std
        self.out_std = out_std
        self.drop = None
        if dropout:
            self.drop = Dropout(dropout, **self._place("dropout"))

    def build(self, x_shape, context_shape=None):
        channels = x_shape[-1]
        if self.head_dim is None and channels % self.num_heads:
            raise ValueError(
                f"num_heads must divide the channels: {self.num_heads} does not divide "
                f"{channels}."
            )
        self._kv = self.num_key_value_heads or self.num_heads
        self._depth = depth = self.head_dim or channels // self.num_heads
        self._rotated = 0
        if self.rotary is not None:
            self._rotated = self.rotary_dim or depth
            check_even("rotary_dim", self._rotated, 2 * self.rotary_axes)
            if self._rotated > depth:
                raise ValueError(
                    f"rotary_dim must be at most the {depth} channels of a head; got "
                    f"{self._rotated}."
                )
        source = x_shape if context_shape is None else context_shape
        widths = {
            "query": self.num_heads * depth,
            "key": self._kv * depth,
            "value": self._kv * depth,
        }
        for name, units in widths.items():
            layer = self._dense(name, units, use_bias=self.use_bias)
            layer.build(x_shape if name == "query" else source)
            setattr(self, name, layer)
        initial = self._normal("out", self.out_std)
        self.out = self._dense("out", channels, self.out_bias, initial)
        self.out.build((*x_shape[:-1], self.num_heads * depth))
        self.query_norm = self.key_norm = None
        if self.qk_norm:
            for name in ("query_norm", "key_norm"):
                layer = normalization(
                    self.qk_norm, self.epsilon, self.dtype_policy, name
                )
                layer.build((None, None, None, depth))
                setattr(self, name, layer)
        self.built = True

    # Keys and values

    def empty_cache(self, batch, length):
        """`(keys, values)` of no tokens yet, each `(B, num_key_value_heads, length,
        d)`."""
        shape = (batch, self._kv, length, self._depth)
        return tuple(ops.zeros(shape, self.compute_dtype) for _ in range(2))

    def cache_of(self, context):
        """`(keys, values)` of a context `(B, S, D)`, computed once for many calls."""
        context = ops.cast(context, self.compute_dtype)
        return tuple(ops.swapaxes(y, 1, 2) for y in self._keys_values(context))

    def _keys_values(self, source):
        key, value = self._split(self.key(source)), self._split(self.value(source))
        return (key if self.key_norm is None else self.key_norm(key)), value

    def _split(self, y):
        """`(B, T, N d)` to `(B, T, N, d)`."""
        return ops.reshape(
            y, (-1, ops.shape(y)[1], y.shape[-1] // self._depth, self._depth)
        )

    def call(
        self,
        x,
        context=None,
        mask=None,
        positions=None,
        cache=None,
        cache_index=None,
        return_weights=False,
        training=False,
    ):
        """Attends.

        Args:
            x: `(B, T, C)`.
            context: `(B, S, D)`, or None to attend to `x`.
            mask: bool `(B, S)`, `(B, T, S)` or `(B, N, T, S)`: what is attended to. By
                keyword: Keras itself looks at arguments of this name.
            positions: integers `(T,)` or `(B, T)`, with two rotary axes of two numbers
                each, by which `rotary` rotates; by default the tokens' own.
            cache: `(keys, values)`. With `cache_index` those of the tokens before,
                into which those of `x` are written (on PyTorch in place); without,
                those that `cache_of(context)` made, in place of the context.
            cache_index: the position of the first token of `x` in the cache: 0 where it
                is empty, an int32 scalar, or `(B,)` of them.
            return_weights: the probabilities `(B, N, T, S)` are returned beside.
            training: whether the probabilities are dropped.

        Returns:
            `(B, T, C)`; then the new cache where there is a `cache_index`, then the
            probabilities.
        """
        query = self._split(self.query(x))  # (B, T, N, d)
        if self.query_norm is not None:
            query = self.query_norm(query)
        count, first = ops.shape(x)[1], 0 if cache_index is None else cache_index
        key = value = None
        if cache is None or cache_index is not None:
            key, value = self._keys_values(x if context is None else context)
        if self.rotary is not None:
            if positions is None:
                positions = _positions(first, count)[..., 0]  # (T,) or (B, T)
            angles = rotary_angles(
                positions,
                self._rotated,
                self.rotary,
                self.rotary_axes,
                self.rotary_scaling,
            )
            query = rotate(query, *angles)
            key = key if key is None else rotate(key, *angles)
        if cache_index is not None:
            new = (ops.swapaxes(key, 1, 2), ops.swapaxes(value, 1, 2))
            cache = tuple(
                _written(old, ops.cast(y, old.dtype), cache_index)
                for old, y in zip(cache, new, strict=True)
            )
        # The first tokens attend to one another alone, however long the cache is.
        own = cache is None or (isinstance(cache_index, int) and cache_index == 0)
        if own and mask is not None and cache is not None:
            mask = mask[..., :count]
        plain = return_weights or (self.drop is not None and training)
        if own and not plain:
            y, weights = self._fused(query, key, value, mask), None
        else:
            keys = (ops.swapaxes(y, 1, 2) for y in (key, value)) if own else cache
            y, weights = self._plain(query, *keys, mask, first, training)
        y = ops.reshape(y, (-1, count, self.num_heads * self._depth))
        y = self.out(ops.cast(y, self.compute_dtype))  # (B, T, C)
        return packed(
            y,
            cache if cache_index is not None else None,
            weights if return_weights else None,
        )

    def _bias(self, queries, keys, first):
        """What ALiBi adds to the scores, `(1, N, T, S)` or `(B, N, T, S)`; or None."""
        if not self.alibi:
            return None
        distance = ops.abs(_positions(first, queries) - ops.arange(keys, dtype="int32"))
        distance = ops.cast(ops.expand_dims(distance, -3), "float32")  # of all heads
        slopes = ops.convert_to_tensor(alibi_slopes(self.num_heads)[:, None, None])
        bias = -distance * slopes
        return bias if len(bias.shape) == 4 else ops.expand_dims(bias, 0)

    def _fused(self, query, key, value, mask):
        """By the backend's own kernel, of keys `(B, S, K, d)`."""
        if self.upcast_attention:
            query, key, value = widen(query), widen(key), widen(value)
        sizes = ops.shape(query)[1], ops.shape(key)[1]
        causal = self.causal and not self.sliding_window
        mask = attention_mask(
            *sizes,
            0,
            mask,
            causal=self.causal and not causal,
            sliding_window=self.sliding_window,
        )
        bias = self._bias(*sizes, 0)
        return backend.attention(query, key, value, mask, bias, causal)

    def _plain(self, query, key, value, mask, first, training):
        """Step by step, of keys `(B, K, S, d)`: `(y, probabilities)`."""
        queries, keys = ops.shape(query)[1], ops.shape(key)[2]
        group, depth = self.num_heads // self._kv, self._depth
        # Heads that share keys are more queries of these: no key is copied.
        query = ops.reshape(query, (-1, queries, self._kv, group, depth))
        query = ops.transpose(query, (0, 2, 3, 1, 4))
        query = ops.reshape(query, (-1, self._kv, group * queries, depth))
        if self.upcast_attention:
            query, key, value = widen(query), widen(key), widen(value)
        query = query * ops.cast(1.0 / math.sqrt(depth), query.dtype)
        scores = widen(ops.einsum("bktd,bksd->bkts", query, key))
        scores = ops.reshape(scores, (-1, self.num_heads, queries, keys))
        bias = self._bias(queries, keys, first)
        scores = scores if bias is None else scores + ops.cast(bias, scores.dtype)
        mask = attention_mask(
            queries, keys, first, mask, self.causal, self.sliding_window
        )
        if mask is not None:
            scores = ops.where(mask, scores, ops.cast(_MASKED, scores.dtype))
        weights = ops.softmax(scores, axis=-1)  # (B, N, T, S)
        used = ops.cast(weights, value.dtype)
        if self.drop is not None:
            used = self.drop(used, training=training)
        used = ops.reshape(used, (-1, self._kv, group * queries, keys))
        y = ops.einsum("bkts,bksd->bktd", used, value)
        y = ops.reshape(y, (-1, self._kv, group, queries, depth))
        return ops.transpose(y, (0, 3, 1, 2, 4)), weights  # (B, T, K, group, d)

    def compute_mask(self, inputs, previous_mask):
        """None: masks are passed explicitly, not propagated."""

    def compute_output_shape(self, x_shape, context_shape=None):
        return x_shape


def _written(cache, values, index):
    """A cache `(B, K, S, d)` with `(B, K, T, d)` from position `index` on."""
    if isinstance(index, int) or not len(index.shape):
        return backend.write(cache, values, index)
    count = ops.shape(values)[2]
    steps = ops.arange(ops.shape(cache)[2], dtype="int32") - ops.expand_dims(index, -1)
    steps = ops.expand_dims(steps, (1, -1))  # (B, 1, S, 1)
    here = ops.logical_and(steps >= 0, steps < count)
    values = ops.take_along_axis(values, ops.clip(steps, 0, count - 1), axis=2)
    return ops.where(here, values, cache)


def packed(y, cache, weights):
    """What a call of an attention returns: y, then those of the others that are."""
    others = [part for part in (cache, weights) if part is not None]
    return (y, *others) if others else y


def unpacked(outputs, cached, weighted):
    """`(y, cache, weights)` of what `packed` made, None for what was not asked for.

    Args:
        outputs: what a call returned.
        cached: whether it was called with a `cache_index`.
        weighted: whether it was called with `return_weights`.
    """
    if not cached and not weighted:
        return outputs, None, None
    y, *others = outputs
    cache = others.pop(0) if cached else None
    return y, cache, (others.pop() if weighted else None)


def check_kv_heads(num_heads, num_key_value_heads):
    """Refuses heads of keys that do not divide those of queries."""
    if num_key_value_heads is not None:
        check_positive("num_key_value_heads", num_key_value_heads)
        if num_heads % num_key_value_heads:
            raise ValueError(
                f"num_key_value_heads must divide num_heads: {num_key_value_heads} "
                f"does not divide {num_heads}."
            )
