"""Logits processors: penalties and restrictions of the next token's logits."""

import dataclasses

import numpy as np
from keras import ops

from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import integer, number

MINUS = -1e30  # of a token that is ruled out: finite, so that a softmax stays finite
# What a compiled function takes as an input: other values of them compile nothing anew.
NUMBERS = ("temperature", "top_p", "min_p", "repetition_penalty", "top_k")


@checked(
    temperature=number(">= 0"),
    top_k=integer(1),
    top_p=number("(0, 1]"),
    min_p=number("(0, 1]"),
    repetition_penalty=number("> 0"),
    no_repeat_ngram_size=integer(1),
)
@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """How a token is chosen; see `GPT.generate`.

    In a graph, the values of `NUMBERS` are a tensor `numbers`, float32 `(5,)`, beside
    the configuration, which then only says which processors there are.

    Args:
        temperature: the logits are divided by it; 0 takes the most probable token.
        top_k: only that many of the most probable tokens.
        top_p: only the most probable tokens that together have that probability
            (1904.09751).
        min_p: only tokens at least that many times as probable as the most probable one
            (2407.01082).
        repetition_penalty: logits of tokens that occurred are divided by it where they
            are positive, and multiplied where negative (1909.05858, section 4.1).
        no_repeat_ngram_size: no sequence of that many tokens occurs twice.

    Raises:
        ValueError: an argument is out of range, or contradicts another.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int | None = None

    def __post_init__(self):
        if self.greedy and self.restrictions:
            raise ValueError(
                "temperature=0 takes the most probable token: it contradicts "
                f"{', '.join(self.restrictions)}. Give a temperature over 0, or leave "
                "them out."
            )

    @property
    def greedy(self):
        return self.temperature == 0

    @property
    def restrictions(self):
        """The names of the arguments that leave some tokens out of a draw."""
        names = ("top_k", "top_p", "min_p")
        return [name for name in names if getattr(self, name) is not None]

    @property
    def key(self):
        """Hashable: what a graph depends on, which processors there are."""
        names = list(self.restrictions)
        if not self.greedy:
            names.append("temperature")
        if self.repetition_penalty != 1:
            names.append("repetition_penalty")
        return (*names, self.no_repeat_ngram_size)

    @property
    def numbers(self):
        """The values of `NUMBERS`, float32 `(5,)`; 0 where there is none."""
        return np.array([getattr(self, name) or 0 for name in NUMBERS], "float32")

    def penalize(self, logits, tokens, visible, numbers):
        """The logits with what depends on the tokens before.

        Args:
            logits: `(R, V)`, or logarithms of probabilities.
            tokens: int32 `(R, L)`.
            visible: bool `(R, L)`: which of them count.
            numbers: float32 `(5,)`, the values of `NUMBERS`.
        """
        if self.repetition_penalty != 1:
            penalty = _number("repetition_penalty", numbers)
            logits = penalize_repetition(logits, tokens, visible, penalty)
        if self.no_repeat_ngram_size is not None:
            logits = forbid_ngrams(logits, tokens, visible, self.no_repeat_ngram_size)
        return logits

    def restrict(self, logits, numbers):
        """The logits at the temperature, of the tokens that may be drawn."""
        if not self.greedy:
            logits = logits / _number("temperature", numbers)
        if self.top_k is not None:
            logits = keep_top_k(logits, _number("top_k", numbers))
        if self.top_p is not None:
            logits = keep_top_p(logits, _number("top_p", numbers))
        if self.min_p is not None:
            logits = keep_min_p(logits, _number("min_p", numbers))
        return logits

    def process(self, logits, tokens, visible, numbers):
        """See `penalize`; then `restrict`."""
        penalized = self.penalize(logits, tokens, visible, numbers)
        return self.restrict(penalized, numbers)


def _number(name, numbers):
    return numbers[NUMBERS.index(name)]


def _marked(tokens, which, size):
    """bool `(R, V)`: the tokens of each row where `which` `(R, L)` is true."""
    rows, length = ops.shape(tokens)
    # Those that are not meant fall into a column of their own, which is cut off.
    columns = ops.where(which, tokens, size)
    lines = ops.broadcast_to(ops.expand_dims(ops.arange(rows), 1), (rows, length))
    places = ops.stack([ops.cast(lines, "int32"), columns], axis=-1)
    marks = ops.zeros((rows, size + 1), "float32")
    flat = ops.reshape(places, (-1, 2))
    marks = ops.scatter_update(marks, flat, ops.ones((rows * length,), "float32"))
    return marks[:, :size] > 0


def penalize_repetition(logits, tokens, visible, penalty):
    """See `SamplingConfig`: `(R, V)` logits, by the visible tokens `(R, L)`."""
    there = _marked(tokens, visible, logits.shape[-1])
    lower = ops.where(logits < 0, logits * penalty, logits / penalty)
    return ops.where(there, lower, logits)


def forbid_ngrams(logits, tokens, visible, n):
    """See `SamplingConfig`: no token that would end a sequence of n that occurred."""
    length = tokens.shape[1]
    if length < n:
        return logits
    count = length - n + 1
    if n == 1:
        matches = visible
        ends = tokens
    else:
        # The positions of the last n - 1 tokens: visible ones are neighbours.
        last = ops.max(
            ops.where(visible, ops.arange(length, dtype="int32"), -1),
            axis=1,
            keepdims=True,
        )  # (R, 1)
        matches = visible[:, n - 1 :]
        for k in range(n - 1):
            place = ops.clip(last - (n - 2) + k, 0, length - 1)
            wanted = ops.take_along_axis(tokens, place, axis=1)  # (R, 1)
            same = ops.equal(tokens[:, k : k + count], wanted)
            matches = matches & same & visible[:, k : k + count]
        ends = tokens[:, n - 1 :]
    return ops.where(_marked(ends, matches, logits.shape[-1]), MINUS, logits)


def keep_top_k(logits, k):
    """The k largest of `(R, V)` logits, and those equal to the last of them."""
    place = ops.minimum(ops.cast(k, "int32"), logits.shape[-1]) - 1
    ordered = ops.flip(ops.sort(logits, axis=-1), axis=-1)
    least = ops.take(ordered, ops.reshape(place, (1,)), axis=-1)  # (R, 1)
    return ops.where(logits < least, MINUS, logits)


def keep_top_p(logits, p):
    """The most probable tokens, until they together have the probability p.

    Of tokens that are as probable as the last of them only as many are kept as are
    needed, those of the largest ids (as transformers' stable order has it).
    """
    ordered = ops.flip(ops.sort(logits, axis=-1), axis=-1)
    shares = ops.softmax(ordered, axis=-1)
    before = ops.cumsum(shares, axis=-1) - shares
    # The one that reaches p is kept; rounding must not leave none.
    kept = before < p
    least = ops.min(ops.where(kept, ordered, -MINUS), axis=-1, keepdims=True)
    over, tied = logits > least, ops.equal(logits, least)
    room = _count(kept) - _count(over)
    behind = ops.flip(ops.cumsum(ops.flip(ops.cast(tied, "int32"), -1), axis=-1), -1)
    kept = ops.logical_or(over, ops.logical_and(tied, behind <= room))
    return ops.where(kept, logits, MINUS)


def _count(which):
    return ops.sum(ops.cast(which, "int32"), axis=-1, keepdims=True)


def keep_min_p(logits, p):
    """The tokens at least p times as probable as the most probable one."""
    shares = ops.softmax(logits, axis=-1)
    least = p * ops.max(shares, axis=-1, keepdims=True)
    return ops.where(shares < least, MINUS, logits)
