"""Writing token after token: the loops that every model of sequences shares.

Pure functions. A model gives `step(tokens, cache, i) -> (logits, cache)`: the i-th new
token of each row, `(R, 1)`, in; the logits `(R, V)` of the one after it out. The cache
is any structure of tensors whose first axis is the rows, of sizes that stay. All loops
are in the graph, so that a whole decoding leaves as one function.
"""

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


def put(tokens, place, values):
    """`(..., L)` with `values` `(...)` at a place of the last axis."""
    here = ops.equal(ops.arange(ops.shape(tokens)[-1], dtype="int32"), place)
    return ops.where(here, ops.expand_dims(values, -1), tokens)


def moved_right(tokens, lengths):
    """Rows that are filled up behind, filled up before.

    Args:
        tokens: int32 `(B, T)`.
        lengths: int32 `(B,)`, or None where all are T.

    Returns:
        `(tokens, valid)`, each `(B, T)`; `valid` is False in what fills up.
    """
    if lengths is None:
        return tokens, ops.ones_like(tokens, dtype="bool")
    count = ops.shape(tokens)[1]
    gap = count - ops.expand_dims(ops.cast(lengths, "int32"), 1)  # (B, 1)
    places = ops.arange(count, dtype="int32") - gap
    tokens = ops.take_along_axis(tokens, ops.maximum(places, 0), axis=1)
    return tokens, places >= 0


def seen_until(valid, place):
    """bool `(R, L)`: the tokens before a place, without padding."""
    before = ops.arange(ops.shape(valid)[-1], dtype="int32") < place
    return ops.logical_and(valid, before)


class Sampler:
    """The parts of a loop that draws one token after the other.

    Args:
        step: see the module.
        rules: a `Rules`.
        prompt: P, the number of places before the first new token.
        valid: bool `(R, L)`, False where a prompt is padded; L is P and as many places
            as there may be new tokens.
        key: pair of words, of the noise; token i of row r depends on it, i and r alone.
        first: number of the first row.
        stops: ids that end a row.
        pad: id that follows the end.
        limits: int32 `(R,)`, how many new tokens a row may have; None: all places.
    """

    def __init__(
        self, step, rules, prompt, valid, key, first=0, stops=(), pad=0, limits=None
    ):
        self.step, self.rules, self.prompt = step, rules, prompt
        self.valid, self.key, self.first = valid, key, first
        self.stops, self.pad, self.limits = stops, pad, limits

    def _choose(self, i, logits, tokens):
        seen = seen_until(self.valid, self.prompt + i)
        logits = self.rules(logits, tokens, seen)
        if self.rules.greedy:
            return backend.argmax(logits)
        key = random.subkey(self.key, "token", i)
        return random.categorical(key, logits, offset=self.first)

    def _ended(self, i, token):
        """Which rows end with their i-th new token."""
        return ended(token, self.stops, i, self.limits)

    def begin(self, logits, tokens, cache):
        """The state after the first new token, from the prompt's last logits."""
        token = self._choose(0, logits, tokens)
        tokens = put(tokens, self.prompt, token)
        i = ops.convert_to_tensor(0, "int32")
        return i, token, self._ended(i, token), tokens, cache

    def advance(self, state):
        """The state after one more token."""
        i, token, done, tokens, cache = state
        logits, cache = self.step(ops.expand_dims(token, 1), cache, i)
        i = i + 1
        token = ops.where(done, self.pad, self._choose(i, logits, tokens))
        tokens = put(tokens, self.prompt + i, token)
        done = ops.logical_or(done, self._ended(i, token))
        return i, token, done, tokens, cache


def sample(sampler, logits, tokens, cache):
    """Draws until all rows have ended, or are full.

    Args:
        sampler: a `Sampler`.
        logits: `(R, V)`, of the first new token.
        tokens: int32 `(R, L)`: the prompts, then what is written over.
        cache: of the prompts.

    Returns:
        int32 `(R, L)`: the prompts and what follows them.
    """
    last = ops.shape(tokens)[1] - sampler.prompt - 1
    state = sampler.begin(logits, tokens, cache)
    return while_loop(
        lambda i, token, done, *rest: ops.logical_and(
            i < last, ops.logical_not(ops.all(done))
        ),
        lambda *state: sampler.advance(state),
        state,
    )[3]


def while_loop(condition, body, state):
    """`ops.while_loop` over a structure of tensors whose types and shapes stay."""
    flat = [ops.convert_to_tensor(x) for x in tree.flatten(state)]

    def packed(arrays):
        return tree.pack_sequence_as(state, list(arrays))

    def run(*arrays):
        made = tree.flatten(body(*packed(arrays)))
        return tuple(
            ops.reshape(ops.cast(new, old.dtype), ops.shape(old))
            if new.shape != old.shape
            else ops.cast(new, old.dtype)
            for new, old in zip(made, arrays, strict=True)
        )

    made = ops.while_loop(
        lambda *arrays: condition(*packed(arrays)), backend.replayed(run), flat
    )
    return packed(made)


# Beams


def beam_search(
    step,
    rules,
    logits,
    tokens,
    cache,
    valid,
    prompt,
    beams,
    *,
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
        rules: a `Rules`, of which the penalties of repetition count.
        logits: `(B, V)`, of the first new token.
        tokens: int32 `(B, L)`: the prompts, then what is written over.
        cache: of the prompts, B rows.
        valid: bool `(B, L)`, False where a prompt is padded.
        prompt: P, the number of places before the first new token.
        beams: K.
        length_penalty: over 0 prefers longer texts; may be a tensor.
        early_stopping: True ends a row as soon as K beams have ended; `"never"` only
            when no beam can become better, whatever its length.
        stops: ids that end a text.
        fill: id that follows the end.
        limits: int32 `(B,)`, how many new tokens a row may have; None: all places.

    Returns:
        `(tokens, scores)`: int32 `(B, K, L)` and float32 `(B, K)`, the best first.
    """
    length_penalty = ops.convert_to_tensor(length_penalty, "float32")
    batch, length = ops.shape(tokens)
    size, count = logits.shape[-1], length - prompt
    if limits is not None:
        count = ops.expand_dims(limits, 1)  # (B, 1)
    keep = min(max(2, 1 + len(stops)) * beams, beams * size)
    top = ops.arange(keep) < beams

    def repeated(x):  # (B, ...) -> (B K, ...)
        return ops.repeat(x, beams, axis=0)

    def gathered(x, places):  # (B, K, ...) by (B, n)
        extra = len(x.shape) - 2
        places = ops.reshape(places, (*ops.shape(places), *[1] * extra))
        if extra:
            shape = (*ops.shape(places)[:2], *ops.shape(x)[2:])
            places = ops.broadcast_to(places, shape)
        return ops.take_along_axis(x, places, axis=1)

    def best(scores, n):  # (B, m) -> (B, n), (B, n)
        scores, places = ops.top_k(scores, n)
        return scores, ops.cast(places, "int32")

    def select(i, logits, running, scores, ended, ended_scores, finished, open_):
        """One more token of each beam, and which rows of the cache it goes on with."""
        place = prompt + i
        logits = ops.log_softmax(logits, axis=-1)
        seen = seen_until(repeated(valid), place)
        logits = rules.penalized(logits, ops.reshape(running, (-1, length)), seen)
        total = ops.reshape(logits, (-1, beams, size)) + ops.expand_dims(scores, -1)
        total, places = best(ops.reshape(total, (-1, beams * size)), keep)
        source, token = places // size, places % size  # (B, keep)
        candidates = put(gathered(running, source), place, token)
        hits = ops.logical_or(is_stop(token, stops), i + 1 >= count)
        # Those that go on.
        ongoing, places = best(total - 1e9 * ops.cast(hits, "float32"), beams)
        running, source = gathered(candidates, places), gathered(source, places)
        # Those that have ended, among the best alone.
        power = ops.cast(i + 1, "float32") ** length_penalty
        found = ops.logical_and(hits, top)
        barred = ops.logical_not(ops.logical_and(found, open_))
        if early_stopping is True:
            full = ops.all(finished, axis=1, keepdims=True)
            barred = ops.logical_or(barred, full)
        new = total / power - 1e9 * ops.cast(barred, "float32")
        ended_scores, places = best(ops.concatenate([ended_scores, new], 1), beams)
        ended = gathered(ops.concatenate([ended, candidates], 1), places)
        finished = gathered(ops.concatenate([finished, found], 1), places)
        # Whether a row can become better.
        reach = ops.cast(i + 1, "float32")
        if early_stopping == "never":
            longest = ops.cast(count, "float32")
            reach = ops.where(length_penalty > 0.0, longest, reach)
        possible = ongoing[:, :1] / reach**length_penalty
        worst = ops.min(ended_scores, axis=1, keepdims=True)
        worst = ops.where(finished, worst, -1e9)
        better = ops.any(possible > worst, axis=1, keepdims=True)
        open_ = ops.logical_and(open_, ops.logical_and(better, i + 1 < count))
        more = ops.logical_and(ops.any(open_), ops.logical_not(ops.all(hits)))
        if early_stopping is True:
            more = ops.logical_and(more, ops.logical_not(ops.all(finished)))
        rows = ops.expand_dims(ops.arange(batch, dtype="int32") * beams, 1) + source
        state = (running, ongoing, ended, ended_scores, finished, open_)
        return state, ops.reshape(rows, (-1,)), more

    def advance(i, more, rows, cache, state):
        cache = tree.map_structure(lambda x: ops.take(x, rows, axis=0), cache)
        last = ops.take(state[0], prompt + i, axis=2)  # (B, K)
        logits, cache = step(ops.reshape(last, (-1, 1)), cache, i)
        state, rows, more = select(i + 1, logits, *state)
        return i + 1, more, rows, cache, state

    running = ops.tile(ops.expand_dims(tokens, 1), (1, beams, 1))  # (B, K, L)
    after = ops.arange(length) >= prompt
    running = ops.where(after, ops.cast(fill, running.dtype), running)
    # The beams are all the same: only the first counts at the beginning.
    scores = ops.where(ops.arange(beams) == 0, 0.0, -1e9)
    scores = ops.tile(ops.expand_dims(scores, 0), (batch, 1))
    none = ops.zeros((batch, beams), "bool")
    begin = (running, scores, running, ops.full((batch, beams), -1e9), none)
    begin = (*begin, ops.ones((batch, 1), "bool"))
    zero = ops.convert_to_tensor(0, "int32")
    state, rows, more = select(zero, repeated(logits), *begin)
    cache = tree.map_structure(repeated, cache)
    state = while_loop(
        lambda i, more, *rest: more, advance, (zero, more, rows, cache, state)
    )[-1]
    return state[2], state[3]
