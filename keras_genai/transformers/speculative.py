"""Speculative sampling: a small model proposes tokens, a large one accepts them."""

import math
from typing import Any, NamedTuple

from keras import ops

from keras_genai import backend
from keras_genai.backend import random
from keras_genai.transformers.decoding import ended, put, while_loop


class SpeculativeState(NamedTuple):
    """Where speculative sampling is.

    Attributes:
        i: int32 scalar, the number of the next round.
        n: int32 `(B,)`, how many new tokens each row has.
        done: bool `(B,)`, which rows have ended.
        tokens: int32, the prompts and what is written.
        cache, draft_cache: of the two models, of all tokens before the last.
    """

    i: Any
    n: Any
    done: Any
    tokens: Any
    cache: Any
    draft_cache: Any


def speculative_sample(
    step,
    draft_step,
    logits,
    tokens,
    cache,
    draft_cache,
    *,
    count,
    restrict,
    prompt,
    key=None,
    first=0,
    stops=(),
    limits=None,
):
    """Draws from a model by way of a draft's proposals (2211.17192, algorithm 1).

    A proposed token x is accepted with the probability `min(1, p(x) / q(x))`, p the
    model's and q the draft's; after the first that is not, one is drawn from
    `max(0, p - q)`, normalised. What is written has the model's distribution.

    Args:
        step, draft_step: functions `(tokens (B, T), cache, position (B,))` to `(logits
            (B, T, V), cache)` of the two models; `position` is that of the first token.
        logits: `(B, V)`, the model's of the first new token.
        tokens: int32 `(B, L + count + 1)`: the prompts, then what is written over.
        cache, draft_cache: of the prompts, of the same length.
        count: how many tokens are proposed at a time.
        restrict: function of logits `(R, V)` to logits.
        prompt: P, the number of positions before the first new token.
        key: pair of words, of the noise; None takes the most probable token.
        first: number of the first row.
        stops: ids that end a text.
        limits: int32 `(B,)`, how many new tokens a row may have; None: all that there
            is room for.

    Returns:
        int32 `(B, L)`.
    """
    batch, wide = ops.shape(tokens)
    size, length = logits.shape[-1], wide - count - 1
    limits = length - prompt if limits is None else limits
    index = ops.arange(wide, dtype="int32")

    def draw(name, i, logits):
        if key is None:
            return backend.argmax(logits)
        noise = random.subkey(random.subkey(key, name), "round", i)
        return random.categorical(noise, logits, offset=first)

    def restricted(logits):
        return restrict(_flat(logits))

    def advance(state):
        i, n, done, tokens = state.i, state.n, state.done, state.tokens
        position = prompt + n - 1  # (B,): of the last token, which no cache holds yet
        last = ops.expand_dims(position, 1)
        fed, q = [ops.take_along_axis(tokens, last, axis=1)], []  # of (B, 1), (B, V)
        draft_cache = state.draft_cache
        for j in range(count):
            logits, draft_cache = draft_step(fed[-1], draft_cache, position + j)
            q.append(restricted(logits))
            fed.append(ops.expand_dims(draw(f"draft/{j}", i, q[-1]), 1))
        _, draft_cache = draft_step(fed[-1], draft_cache, position + count)
        logits, cache = step(ops.concatenate(fed, axis=1), state.cache, position)
        p = ops.reshape(restricted(logits), (-1, count + 1, size))
        proposed = ops.concatenate(fed[1:], axis=1)  # (B, count)
        q = ops.stack(q, axis=1)  # (B, count, V)
        if key is None:
            accepted = ops.equal(proposed, backend.argmax(p)[:, :-1])
        else:
            accepted = _accepted(p, q, proposed, random.subkey(key, "take", i), first)
        accepted = ops.cumprod(ops.cast(accepted, "int32"), axis=1)
        a = ops.sum(accepted, axis=1)  # (B,), in [0, count]
        at = ops.reshape(a, (-1, 1, 1))
        here = ops.take_along_axis(p, ops.broadcast_to(at, _row(p)), axis=1)[:, 0]
        if key is not None:
            here = _rest(here, q, a, count)
        following = draw("rest", i, here)
        # One after the other: what was accepted, then the one that follows.
        for j in range(count + 1):
            token = following
            if j < count:
                token = ops.where(j < a, proposed[:, j], following)
            more = ops.logical_and(j <= a, ops.logical_not(done))
            more = ops.logical_and(more, n < limits)
            spot = ops.equal(index, ops.expand_dims(prompt + n, 1))
            spot = ops.logical_and(spot, ops.expand_dims(more, 1))
            tokens = ops.where(spot, ops.expand_dims(token, 1), tokens)
            n = n + ops.cast(more, "int32")
            done = ops.logical_or(done, ops.logical_and(more, ended(token, stops, n)))
        done = ops.logical_or(done, n >= limits)
        return SpeculativeState(i + 1, n, done, tokens, cache, draft_cache)

    zero = ops.convert_to_tensor(0, "int32")
    token = draw("first", zero, restrict(logits))
    n = ops.ones((batch,), "int32")
    state = SpeculativeState(
        i=zero,
        n=n,
        done=ops.logical_or(ended(token, stops, n), n >= limits),
        tokens=put(tokens, prompt, token),
        cache=cache,
        draft_cache=draft_cache,
    )
    state = while_loop(
        lambda state: ops.logical_not(ops.all(state.done)), advance, state
    )
    return state.tokens[:, :length]


def _flat(logits):
    """`(B, T, V)` as rows, `(B T, V)`."""
    return ops.reshape(logits, (-1, logits.shape[-1]))


def _row(p):
    return ops.shape(p)[0], 1, ops.shape(p)[2]


def _accepted(p, q, proposed, key, first):
    """Which proposals are accepted: bool `(B, count)`, of logits p and q."""
    batch, count = ops.shape(proposed)
    index = ops.expand_dims(proposed, -1)
    of_p, of_q = (
        ops.take_along_axis(ops.log_softmax(x, axis=-1), index, axis=-1)[..., 0]
        for x in (p[:, :-1], q)
    )
    u = random.uniform(key, (batch, count), dtype="float32", offset=first)
    return u < ops.exp(ops.minimum(of_p - of_q, 0.0))


def _rest(p, q, a, count):
    """Logits of what follows: of `max(0, p - q)`, or of p where all were accepted."""
    at = ops.reshape(ops.minimum(a, count - 1), (-1, 1, 1))
    q = ops.take_along_axis(q, ops.broadcast_to(at, _row(q)), axis=1)[:, 0]
    rest = ops.maximum(ops.softmax(p, axis=-1) - ops.softmax(q, axis=-1), 0.0)
    rest = ops.log(rest + math.ldexp(1.0, -120))
    return ops.where(ops.expand_dims(a < count, 1), rest, p)
