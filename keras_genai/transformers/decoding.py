"""Decoding token by token: the loops that every model of sequences shares.

Pure functions. A model gives `step(tokens, cache, i) -> (logits, cache)`: the i-th new
token of each row, `(R, 1)`, in; the logits `(R, V)` of the one after it out. The cache
is any structure of tensors whose first axis is the rows, of sizes that stay. All loops
are in the graph, so that a whole decoding leaves as one function.

A logits processor is a function `(logits (R, V), tokens (R, L), visible (R, L))` to
logits, `visible` False for the tokens that do not count.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from keras import ops, tree

from keras_genai import backend
from keras_genai.backend import random


def is_stop(tokens, stops):
    """Where a token is one of those that end a text: bool like `tokens`."""
    found = ops.zeros_like(tokens, dtype="bool")
    for stop in stops:
        found = ops.logical_or(found, ops.equal(tokens, stop))
    return found


def ended(token, stops, i, limits=None):
    """Which rows end with their i-th new token: by a stop or, where given, a limit."""
    done = is_stop(token, stops)
    return done if limits is None else ops.logical_or(done, i + 1 >= limits)


def put(tokens, position, values):
    """`(..., L)` with `values` `(...)` at a position of the last axis."""
    here = ops.equal(ops.arange(ops.shape(tokens)[-1], dtype="int32"), position)
    return ops.where(here, ops.expand_dims(values, -1), tokens)


def visible_before(valid, position):
    """bool `(R, L)`: the tokens before a position, without padding."""
    before = ops.arange(ops.shape(valid)[-1], dtype="int32") < position
    return ops.logical_and(valid, before)


def while_loop(condition, body, state):
    """`ops.while_loop` over a structure of tensors whose types and shapes stay.

    Args:
        condition: function of the state, to a bool scalar.
        body: function of the state, to the next one.
        state: any structure of tensors.

    Returns:
        The last state.
    """
    flat = [ops.convert_to_tensor(x) for x in tree.flatten(state)]

    def packed(arrays):
        return tree.pack_sequence_as(state, list(arrays))

    def run(*arrays):
        new_arrays = tree.flatten(body(packed(arrays)))
        return tuple(
            ops.reshape(ops.cast(new, old.dtype), ops.shape(old))
            if new.shape != old.shape
            else ops.cast(new, old.dtype)
            for new, old in zip(new_arrays, arrays, strict=True)
        )

    last = ops.while_loop(
        lambda *arrays: condition(packed(arrays)), backend.replayed(run), flat
    )
    return packed(last)


# Sampling


class DecodeState(NamedTuple):
    """Where a loop is that writes one token after the other.

    Attributes:
        i: int32 scalar, the number of the last new token.
        token: int32 `(R,)`, that token.
        done: bool `(R,)`, which rows have ended.
        tokens: int32 `(R, L)`, the prompts and what is written.
        cache: of all tokens before the last.
    """

    i: Any
    token: Any
    done: Any
    tokens: Any
    cache: Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
    """The steps of a loop that draws one token after the other.

    Args:
        step: see the module.
        process: a logits processor.
        prompt: P, the number of positions before the first new token.
        valid: bool `(R, L)`, False where a prompt is padded; L is P and the room for
            new tokens.
        key: pair of words, of the noise; token i of row r depends on it, i and r alone.
            None takes the most probable token.
        first: number of the first row.
        stops: ids that end a row.
        fill: id that follows the end.
        limits: int32 `(R,)`, how many new tokens a row may have; None: all that there
            is room for.
    """

    step: Callable
    process: Callable
    prompt: int
    valid: Any
    key: Any = None
    first: Any = 0
    stops: tuple = ()
    fill: int = 0
    limits: Any = None

    def _choose(self, i, logits, tokens):
        visible = visible_before(self.valid, self.prompt + i)
        logits = self.process(logits, tokens, visible)
        if self.key is None:
            return backend.argmax(logits)
        key = random.subkey(self.key, "token", i)
        return random.categorical(key, logits, offset=self.first)

    def begin(self, logits, tokens, cache):
        """The state after the first new token.

        Args:
            logits: `(R, V)`, of the first new token.
            tokens: int32 `(R, L)`: the prompts, then what is written over.
            cache: of the prompts.
        """
        token = self._choose(0, logits, tokens)
        i = ops.convert_to_tensor(0, "int32")
        return DecodeState(
            i,
            token,
            done=ended(token, self.stops, i, self.limits),
            tokens=put(tokens, self.prompt, token),
            cache=cache,
        )

    def advance(self, state):
        """The state after one more token."""
        logits, cache = self.step(ops.expand_dims(state.token, 1), state.cache, state.i)
        i = state.i + 1
        token = self._choose(i, logits, state.tokens)
        token = ops.where(state.done, self.fill, token)
        return DecodeState(
            i,
            token,
            done=ops.logical_or(state.done, ended(token, self.stops, i, self.limits)),
            tokens=put(state.tokens, self.prompt + i, token),
            cache=cache,
        )


def sample(sampler, logits, tokens, cache):
    """Draws until all rows have ended, or are full.

    Args:
        sampler: a `Sampler`.
        logits, tokens, cache: see `Sampler.begin`.

    Returns:
        int32 `(R, L)`: the prompts and what follows them.
    """
    last = ops.shape(tokens)[1] - sampler.prompt - 1
    state = while_loop(
        lambda state: ops.logical_and(
            state.i < last, ops.logical_not(ops.all(state.done))
        ),
        sampler.advance,
        sampler.begin(logits, tokens, cache),
    )
    return state.tokens


# Beams


class BeamState(NamedTuple):
    """Where a search by K beams is.

    Attributes:
        i: int32 scalar, the number of the last new token.
        more: bool scalar, whether the search goes on.
        rows: int32 `(B K,)`, which rows of the cache the beams go on with.
        cache: of `B K` rows, of all tokens before the last.
        running: int32 `(B, K, L)`, the beams that go on.
        scores: `(B, K)`, their log-probabilities.
        ended: int32 `(B, K, L)`, the best beams that have ended.
        ended_scores: `(B, K)`.
        finished: bool `(B, K)`, which of these there are.
        open: bool `(B, 1)`, whether a row can become better.
    """

    i: Any
    more: Any
    rows: Any
    cache: Any
    running: Any
    scores: Any
    ended: Any
    ended_scores: Any
    finished: Any
    open: Any


def beam_search(
    step,
    logits,
    tokens,
    cache,
    *,
    process,
    valid,
    prompt,
    num_beams,
    length_penalty=1.0,
    early_stopping=False,
    stops=(),
    fill=0,
    limits=None,
):
    """The most probable continuations found by keeping several (1609.08144, section 7).

    The search of transformers' `generate(num_beams=...)`, token for token: the score of
    a sequence of n new tokens is its log-probability over `n ** length_penalty`; a row
    ends when none of its beams, were it to end here, would pass the worst of those that
    have ended.

    Args:
        step: see the module; its rows are the beams of row 0, then of row 1, and so on.
        logits: `(B, V)`, of the first new token.
        tokens: int32 `(B, L)`: the prompts, then what is written over.
        cache: of the prompts, B rows.
        process: a logits processor, of logarithms of probabilities.
        valid: bool `(B, L)`, False where a prompt is padded.
        prompt: P, the number of positions before the first new token.
        num_beams: K.
        length_penalty: over 0 prefers longer texts; may be a tensor.
        early_stopping: True ends a row as soon as K beams have ended; `"never"` only
            when no beam can become better, whatever its length.
        stops: ids that end a text.
        fill: id that follows the end.
        limits: int32 `(B,)`, how many new tokens a row may have; None: all that there
            is room for.

    Returns:
        `(tokens, scores)`: int32 `(B, K, L)` and float32 `(B, K)`, the best first.
    """
    length_penalty = ops.convert_to_tensor(length_penalty, "float32")
    batch, length = ops.shape(tokens)
    size, count = logits.shape[-1], length - prompt
    if limits is not None:
        count = ops.expand_dims(limits, 1)  # (B, 1)
    keep = min(max(2, 1 + len(stops)) * num_beams, num_beams * size)
    top = ops.arange(keep) < num_beams

    def repeated(x):  # (B, ...) -> (B K, ...)
        return ops.repeat(x, num_beams, axis=0)

    def gathered(x, index):  # (B, K, ...) by (B, n)
        extra = len(x.shape) - 2
        index = ops.reshape(index, (*ops.shape(index), *[1] * extra))
        if extra:
            shape = (*ops.shape(index)[:2], *ops.shape(x)[2:])
            index = ops.broadcast_to(index, shape)
        return ops.take_along_axis(x, index, axis=1)

    def best(scores, n):  # (B, m) -> (B, n), (B, n)
        scores, index = ops.top_k(scores, n)
        return scores, ops.cast(index, "int32")

    def select(state, logits):
        """The state after token i of each beam, of logits `(B K, V)`."""
        i, position = state.i, prompt + state.i
        logits = ops.log_softmax(logits, axis=-1)
        visible = visible_before(repeated(valid), position)
        logits = process(logits, ops.reshape(state.running, (-1, length)), visible)
        total = ops.reshape(logits, (-1, num_beams, size))
        total = total + ops.expand_dims(state.scores, -1)
        total, index = best(ops.reshape(total, (-1, num_beams * size)), keep)
        source, token = index // size, index % size  # (B, keep)
        candidates = put(gathered(state.running, source), position, token)
        hits = ops.logical_or(is_stop(token, stops), i + 1 >= count)
        # Those that go on.
        scores, index = best(total - 1e9 * ops.cast(hits, "float32"), num_beams)
        running, source = gathered(candidates, index), gathered(source, index)
        # Those that have ended, among the best alone.
        power = ops.cast(i + 1, "float32") ** length_penalty
        found = ops.logical_and(hits, top)
        barred = ops.logical_not(ops.logical_and(found, state.open))
        if early_stopping is True:
            full = ops.all(state.finished, axis=1, keepdims=True)
            barred = ops.logical_or(barred, full)
        new = total / power - 1e9 * ops.cast(barred, "float32")
        new = ops.concatenate([state.ended_scores, new], 1)
        ended_scores, index = best(new, num_beams)
        ended = gathered(ops.concatenate([state.ended, candidates], 1), index)
        finished = gathered(ops.concatenate([state.finished, found], 1), index)
        # Whether a row can become better.
        reach = ops.cast(i + 1, "float32")
        if early_stopping == "never":
            longest = ops.cast(count, "float32")
            reach = ops.where(length_penalty > 0.0, longest, reach)
        possible = scores[:, :1] / reach**length_penalty
        worst = ops.min(ended_scores, axis=1, keepdims=True)
        worst = ops.where(finished, worst, -1e9)
        better = ops.any(possible > worst, axis=1, keepdims=True)
        open_ = ops.logical_and(state.open, ops.logical_and(better, i + 1 < count))
        more = ops.logical_and(ops.any(open_), ops.logical_not(ops.all(hits)))
        if early_stopping is True:
            more = ops.logical_and(more, ops.logical_not(ops.all(finished)))
        rows = ops.arange(batch, dtype="int32") * num_beams
        rows = ops.reshape(ops.expand_dims(rows, 1) + source, (-1,))
        return BeamState(
            i,
            more,
            rows,
            state.cache,
            running,
            scores,
            ended,
            ended_scores,
            finished,
            open_,
        )

    def advance(state):
        cache = tree.map_structure(
            lambda x: ops.take(x, state.rows, axis=0), state.cache
        )
        last = ops.take(state.running, prompt + state.i, axis=2)  # (B, K)
        logits, cache = step(ops.reshape(last, (-1, 1)), cache, state.i)
        return select(state._replace(i=state.i + 1, cache=cache), logits)

    running = ops.tile(ops.expand_dims(tokens, 1), (1, num_beams, 1))  # (B, K, L)
    after = ops.arange(length) >= prompt
    running = ops.where(after, ops.cast(fill, running.dtype), running)
    # The beams are all the same: only the first counts at the beginning.
    scores = ops.where(ops.arange(num_beams) == 0, 0.0, -1e9)
    state = BeamState(
        i=ops.convert_to_tensor(0, "int32"),
        more=True,
        rows=None,
        cache=tree.map_structure(repeated, cache),
        running=running,
        scores=ops.tile(ops.expand_dims(scores, 0), (batch, 1)),
        ended=running,
        ended_scores=ops.full((batch, num_beams), -1e9),
        finished=ops.zeros((batch, num_beams), "bool"),
        open=ops.ones((batch, 1), "bool"),
    )
    state = select(state, repeated(logits))
    state = while_loop(lambda state: state.more, advance, state)
    return state.ended, state.ended_scores


# Contrastive search


class ContrastiveState(NamedTuple):
    """Where a contrastive search among k tokens is.

    Attributes:
        i: int32 scalar, the number of the next new token.
        done: bool `(B,)`, which rows have ended.
        logits: `(B, V)`, of the next token.
        tokens: int32 `(B, L)`, the prompts and what is written.
        past: `(B, L, C)`, the hidden states of these, of length 1.
        cache: of `B k` rows.
    """

    i: Any
    done: Any
    logits: Any
    tokens: Any
    past: Any
    cache: Any


def contrastive_search(
    step,
    logits,
    states,
    tokens,
    cache,
    *,
    penalty,
    k,
    process,
    valid,
    prompt,
    stops=(),
    fill=0,
    limits=None,
):
    """The probable token that is least like those before it (2202.06417).

    Of the k most probable tokens v the one with the largest
    `(1 - a) p(v) - a max_j cos(h_v, h_j)` (equation 5), h the last hidden states.

    Args:
        step: see the module; it gives `((states (R, C), logits (R, V)), cache)`, of the
            k candidates of row 0, then of row 1, and so on.
        logits: `(B, V)`, of the first new token.
        states: `(B, P, C)`: of the prompts.
        tokens: int32 `(B, L)`: the prompts, then what is written over.
        cache: of the prompts, B rows.
        penalty: a; may be a tensor.
        k: an integer, at most V.
        process: a logits processor.
        valid: bool `(B, L)`, False where a prompt is padded.
        prompt: P.
        stops: ids that end a text.
        fill: id that follows the end.
        limits: int32 `(B,)`, how many new tokens a row may have; None: all that there
            is room for.

    Returns:
        int32 `(B, L)`.
    """
    batch, length = ops.shape(tokens)
    count = length - prompt
    room = ops.zeros((batch, count, states.shape[-1]), states.dtype)
    past = ops.concatenate([_unit(states), room], axis=1)  # (B, L, C)

    def advance(state):
        position = prompt + state.i
        visible = visible_before(valid, position)
        p = ops.softmax(process(state.logits, state.tokens, visible), axis=-1)
        p, candidates = ops.top_k(p, k)  # (B, k)
        candidates = ops.cast(candidates, "int32")
        (x, logits), cache = step(
            ops.reshape(candidates, (-1, 1)), state.cache, state.i
        )
        x = ops.reshape(_unit(x), (-1, k, x.shape[-1]))
        alike = ops.einsum("bkc,blc->bkl", x, state.past)
        lowest = ops.cast(-2.0, alike.dtype)
        alike = ops.where(ops.expand_dims(visible, 1), alike, lowest)
        alike = ops.cast(ops.max(alike, axis=-1), "float32")
        best = backend.argmax((1.0 - penalty) * p - penalty * alike)  # (B,)
        rows = ops.arange(batch, dtype="int32") * k + best
        token = ops.take_along_axis(candidates, ops.expand_dims(best, 1), axis=1)
        token = ops.where(state.done, fill, token[:, 0])
        here = ops.equal(ops.arange(length, dtype="int32"), position)
        x = ops.take(ops.reshape(x, (-1, x.shape[-1])), rows, axis=0)
        x = ops.expand_dims(x, 1)  # (B, 1, C)
        return ContrastiveState(
            i=state.i + 1,
            done=ops.logical_or(state.done, ended(token, stops, state.i, limits)),
            logits=ops.take(logits, rows, axis=0),
            tokens=put(state.tokens, position, token),
            past=ops.where(ops.expand_dims(here, -1), x, state.past),
            cache=tree.map_structure(
                lambda x: ops.repeat(ops.take(x, rows, axis=0), k, axis=0), cache
            ),
        )

    state = ContrastiveState(
        i=ops.convert_to_tensor(0, "int32"),
        done=ops.zeros((batch,), "bool"),
        logits=logits,
        tokens=tokens,
        past=past,
        cache=tree.map_structure(lambda x: ops.repeat(x, k, axis=0), cache),
    )
    state = while_loop(
        lambda state: ops.logical_and(
            state.i < count, ops.logical_not(ops.all(state.done))
        ),
        advance,
        state,
    )
    return state.tokens


def _unit(x):
    """Vectors of length 1."""
    return x / ops.sqrt(ops.sum(ops.square(x), axis=-1, keepdims=True) + 1e-12)
