"""The transformer block over sequences, and its feed-forward."""

import keras
from keras import ops

from keras_genai import backend
from keras_genai.backend.precision import widen
from keras_genai.layers.attention import Attention, normalization, packed, unpacked
from keras_genai.layers.composite import INITIAL_STD, CompositeLayer
from keras_genai.layers.dropout import Dropout
from keras_genai.layers.initializers import normal_or_uniform
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_positive
from keras_genai.utils.serialization import PACKAGE
from keras_genai.utils.validation import flag, integer, mapping, number, text

ACTIVATIONS = {
    "relu": ops.relu,
    "gelu": backend.gelu,
    "gelu_tanh": lambda x: ops.gelu(x, approximate=True),
    "quick_gelu": backend.quick_gelu,
    "silu": ops.silu,
    "tanh": ops.tanh,
}
GATED = {"swiglu": "silu", "geglu": "gelu"}


@keras.saving.register_keras_serializable(PACKAGE)
class FeedForward(CompositeLayer):
    """`W_2 f(W_1 x + b_1) + b_2` at each position (1706.03762, section 3.3).

    With a gate `W_2 (f(W_g x + b_g) * (W_1 x + b_1)) + b_2` (2002.05202, section 2).

    Args:
        intermediate_dim: channels inside.
        activation: f: `"relu"`, `"gelu"` (exact), `"gelu_tanh"`, `"quick_gelu"`,
            `"silu"` or `"tanh"`; with a gate `"swiglu"` or `"geglu"`.
        use_bias: whether the dense layers have biases.
        dropout: rate of what is dropped inside while training, in [0, 1).
        initial_std: standard deviation of the initial kernels, which are normal; None
            for PyTorch's, which are uniform.
        out_std: that of `W_2`; by default `initial_std`.
        fused_gate: whether `W_1` and `W_g` are one kernel `(C, 2 intermediate_dim)`,
            side by side, as in 2112.10752's published networks.
        seed: integer, the model's.
        stream: name of its weights: layers of one model take different names.

    Example:

    ```python
    y = FeedForward(3072, "gelu_tanh")(x)               # (B, T, C) -> (B, T, C)
    ```
    """

    @checked(intermediate_dim=integer(1), activation=text, fused_gate=flag)
    def __init__(
        self,
        intermediate_dim,
        activation="gelu",
        use_bias=True,
        dropout=0.0,
        initial_std=None,
        out_std=None,
        fused_gate=False,
        **kwargs,
    ):
        super().__init__(initializer=normal_or_uniform(initial_std), **kwargs)
        check_positive("intermediate_dim", intermediate_dim)
        if activation not in (*ACTIVATIONS, *GATED):
            raise ValueError(
                f"activation must be one of {', '.join((*ACTIVATIONS, *GATED))}; got "
                f"{activation!r}."
            )
        if fused_gate and activation not in GATED:
            raise ValueError(
                "fused_gate=True needs a gate: activation must be one of "
                f"{', '.join(GATED)}; got {activation!r}."
            )
        self.intermediate_dim = intermediate_dim
        self.activation = activation
        self.use_bias = use_bias
        self.dropout = dropout
        self.fused_gate = fused_gate
        self.initial_std = initial_std
        self.out_std = out_std
        self.drop = None
        if dropout:
            self.drop = Dropout(dropout, **self._place("dropout"))

    def build(self, input_shape):
        fused = self.fused_gate
        self.dense1 = self._dense(
            "dense1", self.intermediate_dim * (1 + fused), self.use_bias
        )
        self.dense1.build(input_shape)
        self.gate = None
        if self.activation in GATED and not fused:
            self.gate = self._dense("gate", self.intermediate_dim, self.use_bias)
            self.gate.build(input_shape)
        initial = self._normal("dense2", self.out_std)
        self.dense2 = self._dense("dense2", input_shape[-1], self.use_bias, initial)
        self.dense2.build((*input_shape[:-1], self.intermediate_dim))
        self.built = True

    def call(self, x, training=False):
        function = ACTIVATIONS[GATED.get(self.activation, self.activation)]
        y = self.dense1(x)  # (B, T, intermediate_dim), or twice as many
        if self.fused_gate:
            y, gate = ops.split(y, 2, axis=-1)
            y = y * function(gate)
        elif self.gate is not None:
            y = function(self.gate(x)) * y
        else:
            y = function(y)
        if self.drop is not None:
            y = self.drop(y, training=training)
        return self.dense2(y)

    def compute_output_shape(self, input_shape):
        return input_shape


def initial_stds(kind, hidden_dim, num_layers):
    """The deviations of a stack's initial kernels, arguments of `TransformerBlock`.

    Args:
        kind: `"vit"`: 0.02 all; `"gpt2"`: smaller behind the L layers' shortcuts, by
            1 / sqrt(2 L) (Radford et al., 2019, section 2.3); `"clip"`: 1 / sqrt(D) for
            the maps of the attention, 1 / sqrt(2 D) into the feed-forward, and
            1 / sqrt(2 L D) where a shortcut follows, as CLIP's text tower.
        hidden_dim: D.
        num_layers: L.
    """
    shortcuts = (2 * num_layers) ** -0.5
    if kind == "clip":
        return {
            "initial_std": hidden_dim**-0.5,
            "out_std": shortcuts * hidden_dim**-0.5,
            "expand_std": (2 * hidden_dim) ** -0.5,
        }
    out = {"out_std": shortcuts * INITIAL_STD} if kind == "gpt2" else {}
    return {"initial_std": INITIAL_STD, **out}


@keras.saving.register_keras_serializable(PACKAGE)
class TransformerBlock(CompositeLayer):
    """Attention and feed-forward, each with a normalization and a shortcut.

    Pre-LN, `x + f(norm(x))` (2002.04745, as in GPT-2), or post-LN, `norm(x + f(x))`,
    as in 1706.03762. With `cross`, attention to a context stands between them, as in
    a decoder and in the U-Nets of 2112.10752 (appendix E.2.1).

    Args:
        num_heads: number of heads.
        intermediate_dim: channels inside the feed-forward.
        activation: see `FeedForward`.
        norm: `"layer"` or `"rms"`.
        norm_first: pre-LN; False is post-LN.
        epsilon: of the normalizations.
        cross: whether it attends to a context too.
        use_bias: whether Q, K, V and the feed-forward have biases.
        out_bias: whether the outputs of attention have; by default as `use_bias`.
        dropout: rate of what is dropped of each f(x) while training, in [0, 1).
        hidden_dropout: likewise inside the feed-forward.
        attention: dict of arguments of the `Attention` to itself, such as
            `{"causal": True, "dropout": 0.1}`; the attention to a context has its
            `dropout`, `num_key_value_heads`, `head_dim`, `qk_norm`, `use_bias` and
            `upcast_attention`.
        fused_gate: see `FeedForward`.
        remat: computes the block again for its gradient, instead of keeping what is
            inside: less memory, a third more time.
        initial_std, out_std: see `FeedForward`; of the attention's kernels too.
        expand_std: of the feed-forward's `W_1` alone; by default `initial_std`.
        seed: integer, the model's.
        stream: name of its weights: blocks of one model take different names.

    Example:

    ```python
    block = TransformerBlock(12, 3072, attention={"causal": True})
    y = block(x)                                        # (B, T, C) -> (B, T, C)
    decoder = TransformerBlock(8, 2048, cross=True, attention={"causal": True})
    y = decoder(x, context)                             # with (B, S, D) beside
    ```
    """

    _SHARED = (
        "dropout",
        "num_key_value_heads",
        "head_dim",
        "qk_norm",
        "use_bias",
        "upcast_attention",
    )

    @checked(
        intermediate_dim=integer(1),
        activation=text,
        norm=text,
        attention=mapping,
        fused_gate=flag,
        expand_std=number("> 0"),
    )
    def __init__(
        self,
        num_heads,
        intermediate_dim,
        activation="gelu",
        *,
        norm="layer",
        norm_first=True,
        epsilon=1e-5,
        cross=False,
        use_bias=True,
        out_bias=None,
        dropout=0.0,
        hidden_dropout=0.0,
        attention=None,
        fused_gate=False,
        remat=False,
        initial_std=None,
        out_std=None,
        expand_std=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True  # see compute_mask
        attention = dict(attention or {})
        self.num_heads = num_heads
        self.intermediate_dim = intermediate_dim
        self.activation = activation
        self.norm = norm
        self.norm_first = norm_first
        self.epsilon = epsilon
        self.cross = cross
        self.use_bias = use_bias
        self.out_bias = out_bias
        self.dropout = dropout
        self.hidden_dropout = hidden_dropout
        self.attention = attention
        self.fused_gate = fused_gate
        self.remat = remat
        self.initial_std = initial_std
        self.out_std = out_std
        self.expand_std = expand_std
        both = {
            "num_heads": num_heads,
            "use_bias": use_bias,
            "out_bias": use_bias if out_bias is None else out_bias,
            "epsilon": epsilon,
            "initial_std": initial_std,
            "out_std": out_std,
        }
        self.self_attention = Attention(
            **{**both, **attention}, **self._place("attention")
        )
        self.cross_attention = None
        if cross:
            shared = {k: v for k, v in attention.items() if k in self._SHARED}
            self.cross_attention = Attention(
                **{**both, **shared}, **self._place("cross_attention")
            )
        self.feed_forward = FeedForward(
            intermediate_dim,
            activation,
            use_bias=use_bias,
            dropout=hidden_dropout,
            initial_std=expand_std or initial_std,
            out_std=out_std,
            fused_gate=fused_gate,
            **self._place("feed_forward"),
        )
        names = ("norm1", "norm_cross", "norm2") if cross else ("norm1", "norm2")
        for name in names:
            layer = normalization(norm, epsilon, self.dtype_policy, name)
            setattr(self, name, layer)
        self.drop = None
        if dropout:
            self.drop = Dropout(dropout, **self._place("dropout"))

    def build(self, x_shape, context_shape=None):
        self.self_attention.build(x_shape)
        if self.cross:
            if context_shape is None:
                raise ValueError("cross=True needs a context: block(x, context).")
            self.cross_attention.build(x_shape, context_shape)
            self.norm_cross.build(x_shape)
        self.feed_forward.build(x_shape)
        self.norm1.build(x_shape)
        self.norm2.build(x_shape)
        self.built = True

    def empty_cache(self, batch, length):
        """The cache of its attention to itself: see `Attention.empty_cache`."""
        return self.self_attention.empty_cache(batch, length)

    def call(
        self,
        x,
        context=None,
        mask=None,
        context_mask=None,
        positions=None,
        cache=None,
        cache_index=None,
        context_cache=None,
        return_weights=False,
        training=False,
    ):
        """Runs the block.

        Args:
            x: `(B, T, C)`.
            context: `(B, S, D)`, with `cross`.
            mask: which tokens of `x` are attended to: see `Attention.call`.
            context_mask: likewise of the context.
            positions, cache, cache_index: of the attention to itself, likewise.
            context_cache: what `block.cross_attention.cache_of(context)` made, in place
                of the context.
            return_weights: the probabilities of the attention to the context, or of
                that to itself where there is none, are returned beside.
            training: whether there is dropout.

        Returns:
            `(B, T, C)`; then the new cache where there is a `cache_index`, then the
            probabilities.
        """
        cached, shown = cache_index is not None, return_weights and not self.cross

        def run(x, context=None):
            outputs = self.self_attention(
                self._before(x, self.norm1),
                mask=mask,
                positions=positions,
                cache=cache,
                cache_index=cache_index,
                return_weights=shown,
                training=training,
            )
            y, new_cache, weights = unpacked(outputs, cached, shown)
            x = self._after(x, y, self.norm1, training)
            if self.cross:
                outputs = self.cross_attention(
                    self._before(x, self.norm_cross),
                    context,
                    mask=context_mask,
                    cache=context_cache,
                    return_weights=return_weights,
                    training=training,
                )
                y, _, weights = unpacked(outputs, False, return_weights)
                x = self._after(x, y, self.norm_cross, training)
            y = self.feed_forward(self._before(x, self.norm2), training=training)
            return self._after(x, y, self.norm2, training), new_cache, weights

        tensors = (x,) if context is None else (x, context)
        if self.remat and training and cache is None and not return_weights:
            return backend.remat(lambda *tensors: run(*tensors)[0], *tensors)
        return packed(*run(*tensors))

    def _before(self, x, norm):
        """The input `(B, T, C)` of attention or feed-forward."""
        return norm(x) if self.norm_first else x

    def _after(self, x, y, norm, training):
        """The shortcut `x` and what was made of it, `y`, added up: `(B, T, C)`."""
        if self.drop is not None:
            y = self.drop(y, training=training)
        if not self.norm_first:
            return norm(x + y)
        return backend.materialized(x + y) if training else x + y

    def compute_mask(self, inputs, previous_mask):
        """None: masks are passed explicitly, not propagated."""

    def compute_output_shape(self, x_shape, context_shape=None):
        return x_shape


def tied_logits(x, table):
    """`x . table` for each row of the table.

    As one product of matrices, however many axes `x` has: TensorFlow's gradient of a
    broadcast product holds one table for each of its tokens.

    Args:
        x: `(..., C)`.
        table: `(V, C)`, of the same type.

    Returns:
        `(..., V)`, float32 or wider.
    """
    rows = ops.einsum("nc,vc->nv", ops.reshape(x, (-1, x.shape[-1])), table)
    return widen(ops.reshape(rows, (*ops.shape(x)[:-1], table.shape[0])))
