"""Other ways to write: with a draft model, and by contrast.

Pure functions over the parts of a `GPT`, beside those of `generation`.
"""

import math

from keras import ops, tree

from keras_genai import backend
from keras_genai.backend import random
from keras_genai.transformers.generation import (
    ended,
    put,
    seen_until,
    while_loop,
)
from keras_genai.utils.checks import check_positive


def check_contrastive(penalty, rules):
    """Refuses arguments that contrastive search has not."""
    ok = isinstance(penalty, (int, float)) and not isinstance(penalty, bool)
    if not ok or not 0 <= penalty <= 1:
        raise ValueError(f"contrastive must be in [0, 1]; got {penalty!r}.")
    if rules.top_k is None:
        raise ValueError(
            "contrastive chooses among the top_k most probable tokens: give top_k, "
            "such as 4."
        )
    if rules.temperature != 1.0 or rules.top_p is not None or rules.min_p is not None:
        raise ValueError(
            "contrastive draws nothing: it contradicts temperature, top_p and min_p."
        )


def contrastive_search(
    model, penalty, k, rules, hidden, tokens, state, valid, prompt, stops, fill, limits
):
    """The probable token that is least like what stands there (2202.06417).

    Of the k most probable tokens v the one with the largest
    `(1 - a) p(v) - a max_j cos(h_v, h_j)` (equation 5), h the last hidden states.

    Args:
        model: a `GPT`.
        penalty: a.
        k: an integer.
        rules: a `Rules`, of which the penalties of repetition count.
        hidden: `(B, P, C)`: of the prompts.
        tokens: int32 `(B, L)`: the prompts, then what is written over.
        state: of the prompts, what `model.step_of` takes.
        valid: bool `(B, L)`.
        prompt: P.
        stops: ids that end a text.
        fill: id that follows the end.
        limits: int32 `(B,)`, how many new tokens a row may have; None: all places.

    Returns:
        int32 `(B, L)`.
    """
    batch, length = ops.shape(tokens)
    k = min(k, model.vocabulary_size)
    step = model.step_of(prompt, hidden=True)
    logits = model.network.logits(hidden[:, -1])
    count = length - prompt
    room = ops.zeros((batch, count, hidden.shape[-1]), hidden.dtype)
    past = ops.concatenate([_unit(hidden), room], axis=1)  # (B, L, C)
    state = tree.map_structure(lambda x: ops.repeat(x, k, axis=0), state)

    def advance(i, done, logits, tokens, past, state):
        seen = seen_until(valid, prompt + i)
        shares = ops.softmax(rules.penalized(logits, tokens, seen), axis=-1)
        shares, chosen = ops.top_k(shares, k)  # (B, k)
        chosen = ops.cast(chosen, "int32")
        (x, logits), state = step(ops.reshape(chosen, (-1, 1)), state, i)
        x = ops.reshape(_unit(x), (-1, k, x.shape[-1]))
        alike = ops.einsum("bkc,blc->bkl", x, past)
        alike = ops.where(ops.expand_dims(seen, 1), alike, ops.cast(-2.0, alike.dtype))
        alike = ops.cast(ops.max(alike, axis=-1), "float32")
        best = backend.argmax((1.0 - penalty) * shares - penalty * alike)  # (B,)
        rows = ops.arange(batch, dtype="int32") * k + best
        token = ops.take_along_axis(chosen, ops.expand_dims(best, 1), axis=1)[:, 0]
        token = ops.where(done, fill, token)
        tokens = put(tokens, prompt + i, token)
        here = ops.equal(ops.arange(length, dtype="int32"), prompt + i)
        x = ops.take(ops.reshape(x, (-1, x.shape[-1])), rows, axis=0)
        past = ops.where(ops.expand_dims(here, -1), ops.expand_dims(x, 1), past)
        state = tree.map_structure(
            lambda x: ops.repeat(ops.take(x, rows, axis=0), k, axis=0), state
        )
        done = ops.logical_or(done, ended(token, stops, i, limits))
        return i + 1, done, ops.take(logits, rows, axis=0), tokens, past, state

    begin = (ops.convert_to_tensor(0, "int32"), ops.zeros((batch,), "bool"), logits)
    return while_loop(
        lambda i, done, *rest: ops.logical_and(
            i < count, ops.logical_not(ops.all(done))
        ),
        advance,
        (*begin, tokens, past, state),
    )[3]


def _unit(x):
    """Vectors of length 1."""
    return x / ops.sqrt(ops.sum(ops.square(x), axis=-1, keepdims=True) + 1e-12)


# A draft model


def check_draft(draft, model, rules, count):
    """Refuses a draft that does not fit the model."""
    check_positive("draft_tokens", count)
    size = getattr(draft, "vocabulary_size", None)
    if size != model.vocabulary_size:
        raise ValueError(
            f"The draft must be a GPT of the same {model.vocabulary_size} tokens; got "
            f"{type(draft).__name__} of {size}."
        )
    if rules.repetition_penalty != 1.0 or rules.no_repeat_ngram is not None:
        raise ValueError(
            "A draft proposes several tokens at once: it contradicts "
            "repetition_penalty and no_repeat_ngram."
        )


def speculate(
    model, draft, count, rules, tokens, valid, length, key, first, stops, fill, limits
):
    """Draws from the model by way of a draft's proposals (2211.17192, algorithm 1).

    A proposed token x is taken with the probability `min(1, p(x) / q(x))`, p the
    model's and q the draft's; after the first that is not, one is drawn from
    `max(0, p - q)`, normalised. What is written has the model's distribution.

    Args:
        model, draft: `GPT`s.
        count: how many tokens are proposed at a time.
        rules: a `Rules` without penalties.
        tokens: int32 `(B, P)`, filled up before.
        valid: bool `(B, P)`.
        length: L, P and the number of new tokens.
        key: pair of words, of the noise.
        first: number of the first row.
        stops: ids that end a text.
        fill: id that follows the end.
        limits: int32 `(B,)`, how many new tokens a row may have; None: all places.

    Returns:
        int32 `(B, L)`.
    """
    batch, prompt = ops.shape(tokens)
    new, wide = length - prompt, length + count + 1
    limits = new if limits is None else limits
    whole = _widened(tokens, wide - prompt, fill)
    seen = _widened(valid, wide - prompt, True)
    shift = ops.sum(ops.cast(valid, "int32"), axis=1) - prompt  # (B,)

    def run(one, tokens, cache, place):
        """A model on tokens `(B, T)` at places `(B,)`: `(logits (B, T, V), cache)`."""
        steps = ops.arange(ops.shape(tokens)[1], dtype="int32")
        positions = ops.expand_dims(place + shift, 1) + steps
        # What lies behind the end is thrown away.
        positions = ops.clip(positions, 0, one.context - 1)
        x, cache = one.network.hidden_states(tokens, seen, positions, cache, place)
        return rules.restricted(_flat(one.network.logits(x))), cache

    def draw(name, step, logits):
        if rules.greedy:
            return backend.argmax(logits)
        noise = random.subkey(random.subkey(key, name), "round", step)
        return random.categorical(noise, logits, offset=first)

    def round_(i, n, done, whole, cache, draft_cache):
        place = prompt + n - 1  # (B,): of the last token, which no cache holds yet
        last = ops.take_along_axis(whole, ops.expand_dims(place, 1), axis=1)  # (B, 1)
        fed, q = [last], []
        for j in range(count):
            logits, draft_cache = run(draft, fed[-1], draft_cache, place + j)
            q.append(logits)
            fed.append(ops.expand_dims(draw(f"draft/{j}", i, logits), 1))
        _, draft_cache = run(draft, fed[-1], draft_cache, place + count)
        logits, cache = run(model, ops.concatenate(fed, 1), cache, place)
        p = ops.reshape(logits, (-1, count + 1, model.vocabulary_size))
        proposed = ops.concatenate(fed[1:], axis=1)  # (B, count)
        q = ops.stack(q, axis=1)  # (B, count, V)
        if rules.greedy:
            taken = ops.equal(proposed, backend.argmax(p)[:, :-1])
        else:
            taken = _taken(p, q, proposed, random.subkey(key, "take", i), first)
        taken = ops.cumprod(ops.cast(taken, "int32"), axis=1)
        a = ops.sum(taken, axis=1)  # (B,), in [0, count]
        at = ops.reshape(a, (-1, 1, 1))
        here = ops.take_along_axis(p, ops.broadcast_to(at, _row(p)), axis=1)[:, 0]
        if not rules.greedy:
            here = _rest(here, q, a, count)
        following = draw("rest", i, here)
        # One after the other: what was taken, then the one that follows.
        for j in range(count + 1):
            token = following
            if j < count:
                token = ops.where(j < a, proposed[:, j], following)
            more = ops.logical_and(j <= a, ops.logical_not(done))
            more = ops.logical_and(more, n < limits)
            spot = ops.equal(
                ops.arange(wide, dtype="int32"), ops.expand_dims(prompt + n, 1)
            )
            spot = ops.logical_and(spot, ops.expand_dims(more, 1))
            whole = ops.where(spot, ops.expand_dims(token, 1), whole)
            n = n + ops.cast(more, "int32")
            done = ops.logical_or(done, ops.logical_and(more, ended(token, stops, n)))
        done = ops.logical_or(done, n >= limits)
        return i + 1, n, done, whole, cache, draft_cache

    caches = []
    for one in (model, draft):
        x, cache = one.prefill(tokens, valid, True, wide)
        caches.append(cache)
        if one is model:
            logits = rules.restricted(model.network.logits(x[:, -1]))
    zero = ops.convert_to_tensor(0, "int32")
    token = draw("first", zero, logits)
    whole = put(whole, prompt, token)
    n = ops.ones((batch,), "int32")
    done = ops.logical_or(ended(token, stops, n), n >= limits)
    made = while_loop(
        lambda i, n, done, *rest: ops.logical_not(ops.all(done)),
        round_,
        (zero, n, done, whole, *caches),
    )
    return made[3][:, :length]


def _widened(x, count, value):
    more = ops.full((ops.shape(x)[0], count), value, x.dtype)
    return ops.concatenate([x, more], axis=1)


def _flat(logits):
    """`(B, T, V)` as rows, `(B T, V)`."""
    return ops.reshape(logits, (-1, logits.shape[-1]))


def _row(p):
    return ops.shape(p)[0], 1, ops.shape(p)[2]


def _taken(p, q, proposed, key, first):
    """Which proposals are taken: bool `(B, count)`, of logits p and q."""
    batch, count = ops.shape(proposed)
    places = ops.expand_dims(proposed, -1)
    of_p, of_q = (
        ops.take_along_axis(ops.log_softmax(x, axis=-1), places, axis=-1)[..., 0]
        for x in (p[:, :-1], q)
    )
    u = random.uniform(key, (batch, count), dtype="float32", offset=first)
    return u < ops.exp(ops.minimum(of_p - of_q, 0.0))


def _rest(p, q, a, count):
    """Logits of what follows: of `max(0, p - q)`, or of p where all were taken."""
    at = ops.reshape(ops.minimum(a, count - 1), (-1, 1, 1))
    q = ops.take_along_axis(q, ops.broadcast_to(at, _row(q)), axis=1)[:, 0]
    rest = ops.maximum(ops.softmax(p, axis=-1) - ops.softmax(q, axis=-1), 0.0)
    rest = ops.log(rest + math.ldexp(1.0, -120))
    return ops.where(ops.expand_dims(a < count, 1), rest, p)
