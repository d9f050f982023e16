"""Text generation by a `GPT`: from prompts to texts."""

from typing import Any, NamedTuple

import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.backend import random
from keras_genai.transformers import decoding
from keras_genai.transformers.padding import pad_rows, padded_left, positions_of
from keras_genai.transformers.prompts import Prompts
from keras_genai.transformers.speculative import speculative_sample
from keras_genai.transformers.streaming import TokenStream
from keras_genai.utils.checks import check_positive


def generate(
    model,
    prompts,
    config,
    *,
    max_new_tokens,
    seed,
    num_beams,
    length_penalty,
    early_stopping,
    penalty_alpha,
    draft_model,
    draft_tokens,
    stop,
    stream,
    batch_size,
    verbose,
):
    """See `GPT.generate`; `config` is a `SamplingConfig`."""
    seed = random.check_seed(seed)
    prompts = Prompts.of(prompts, model).begin(max_new_tokens)
    stop = prompts.stop_strings(stop)
    check_search(
        num_beams=num_beams, penalty_alpha=penalty_alpha, draft_model=draft_model
    )
    search = {}
    if num_beams is not None:
        check_beams(config)
        search = {"num_beams": num_beams, "early_stopping": early_stopping}
    elif penalty_alpha is not None:
        check_contrastive(config)
        search = {"candidates": min(config.top_k, model.vocabulary_size)}
    elif draft_model is not None:
        check_draft(draft_model, model, config, draft_tokens)
        search = {"draft_model": draft_model, "draft_tokens": draft_tokens}
    single = prompts.single and not search
    if stream and not single:
        raise ValueError(
            "stream=True is of one prompt, drawn token by token: a string or a "
            "list of ids, without num_beams, penalty_alpha or draft_model."
        )
    if stream or (verbose and single):
        pieces = TokenStream(prompts, _states(model, prompts, config, seed), stop)
        if stream:
            return pieces
        for piece in pieces:
            print(piece, end="" if prompts.form == "text" else " ", flush=True)
        print()
        return pieces.result
    rows = _rows(
        model,
        prompts,
        config,
        search,
        length_penalty=length_penalty,
        penalty=penalty_alpha or 0.0,
        seed=seed,
        batch_size=batch_size,
        verbose=verbose,
    )
    return prompts.result(rows, stop)


def check_search(**searches):
    """Refuses more than one of the searches, those that are not None."""
    names = [name for name, value in searches.items() if value is not None]
    if len(names) > 1:
        raise ValueError(f"{' and '.join(names)} are different ways to generate.")


def check_beams(config):
    """Refuses what draws tokens."""
    if config.restrictions or config.temperature not in (0, 1.0):
        raise ValueError(
            "num_beams searches for the most probable text and draws nothing: "
            "it contradicts temperature, top_k, top_p and min_p."
        )


def check_contrastive(config):
    """Refuses what contrastive search does not have."""
    if config.top_k is None:
        raise ValueError(
            "penalty_alpha chooses among the top_k most probable tokens: give top_k, "
            "such as 4."
        )
    if config.temperature != 1.0 or not (config.top_p is config.min_p is None):
        raise ValueError(
            "penalty_alpha draws nothing: it contradicts temperature, top_p and min_p."
        )


def check_draft(draft_model, model, config, draft_tokens):
    """Refuses a draft that does not fit the model."""
    check_positive("draft_tokens", draft_tokens)
    size = getattr(draft_model, "vocabulary_size", None)
    if size != model.vocabulary_size:
        raise ValueError(
            f"draft_model must be a GPT of the same {model.vocabulary_size} tokens; "
            f"got {type(draft_model).__name__} of {size}."
        )
    if config.repetition_penalty != 1.0 or config.no_repeat_ngram_size is not None:
        raise ValueError(
            "draft_model proposes several tokens at once: it contradicts "
            "repetition_penalty and no_repeat_ngram_size."
        )


def _shape(model, name, prompts, batch_size):
    """Of a program that serves the prompts.

    Returns:
        `(rows, width, room, padded)`: rows of a pass, positions of the prompts and of
        new tokens, and whether a prompt is shorter than its positions.
    """
    sizes = (prompts.tokens.shape[1], int(prompts.limits.max()))
    most = (model.max_sequence_length, model.max_sequence_length)
    rows, width, room = model.programs.shape(
        name, len(prompts.tokens), sizes, batch_size, most
    )
    return rows, width, room, bool(width > prompts.lengths.min())


def _key(seed):
    return np.array(random.key(seed, "generate/tokens"), "int32")


def _rows(
    model,
    prompts,
    config,
    search,
    *,
    length_penalty,
    penalty,
    seed,
    batch_size,
    verbose,
):
    """The prompts and what follows them, `(N, L)`, in batches of one shape."""
    # Only what changes the graph is compiled anew.
    name = ("generate", config.key, *search.items())
    size, width, room, padded = _shape(model, name, prompts, batch_size)

    def run(key, numbers, length_penalty, penalty, first, tokens, lengths, limits):
        return decode(
            model,
            tokens,
            lengths if padded else None,
            limits,
            width + room,
            config=config,
            numbers=numbers,
            key=(key[0], key[1]),
            first=first,
            length_penalty=length_penalty,
            penalty=penalty,
            **search,
        )

    variables = model.sampling_variables()
    if "draft_model" in search:
        variables = [*variables, *search["draft_model"].sampling_variables()]
    batches = model.stream(
        (*name, padded, width, room),
        run,
        variables,
        [
            pad_rows(prompts.tokens, width, model.fill_token),
            prompts.lengths,
            prompts.limits,
        ],
        size,
        constants=[
            _key(seed),
            config.numbers,
            np.float32(length_penalty),
            np.float32(penalty),
        ],
        numbered=True,
        verbose=verbose,
    )
    rows = np.concatenate([rows[:count] for _, count, rows in batches])
    longest = prompts.tokens.shape[1]
    return rows[:, width - longest : width + int(prompts.limits.max())]


def _states(model, prompts, config, seed):
    """Iterator of the state after each new token of one prompt: a `DecodeState`.

    Its steps are compiled and driven from Python; they draw what the loop in the graph
    would.
    """
    name = ("stream", config.key)
    _, width, room, padded = _shape(model, name, prompts, 1)

    def sampler(key, numbers, limits, valid):
        key = (key[0], key[1])
        return _sampler(
            model, config, numbers, key, prompt=width, valid=valid, limits=limits
        )

    def begin(key, numbers, limits, lengths, tokens):
        start = prefill(model, tokens, lengths if padded else None, width + room)
        logits = model.network.logits(start.states[:, -1])
        loop = sampler(key, numbers, limits, start.valid)
        return start.valid, loop.begin(logits, start.tokens, start.cache)

    def advance(key, numbers, limits, valid, state):
        return sampler(key, numbers, limits, valid).advance(state)

    def compiled(fn):
        return model.compiled_once(
            (*name, fn.__name__, padded, width, room),
            lambda *args: model.run_averaged("network", lambda: fn(*args)),
            model.sampling_variables(),
        )

    begin, advance = compiled(begin), compiled(advance)
    tokens = pad_rows(prompts.tokens, width, model.fill_token)
    arrays = (_key(seed), config.numbers, prompts.limits, prompts.lengths, tokens)
    *inputs, lengths, tokens = map(backend.from_host, arrays)
    valid, state = begin(*inputs, lengths, tokens)
    while True:
        yield state
        state = advance(*inputs, valid, state)


# In the graph


def decode(
    model,
    tokens,
    lengths,
    limits,
    length,
    *,
    config,
    numbers,
    key,
    first=0,
    num_beams=None,
    early_stopping=False,
    length_penalty=1.0,
    candidates=None,
    penalty=None,
    draft_model=None,
    draft_tokens=None,
):
    """Prompts and what follows them, in the graph.

    Args:
        model: a `GPT`.
        tokens: int32 `(B, T)`, right-padded.
        lengths: int32 `(B,)`, or None where all are T.
        limits: int32 `(B,)`, how many new tokens each may have; None: to the end.
        length: L, T and the room for new tokens.
        config: a `SamplingConfig`.
        numbers: float32 `(5,)`, or a list: its numbers.
        key: pair of words, of the noise.
        first: number of the first row.
        num_beams, early_stopping, length_penalty: of a search by beams.
        candidates, penalty: k and a of contrastive search.
        draft_model, draft_tokens: a smaller `GPT`, and how many tokens it proposes.

    Returns:
        int32 `(B, L)`: the rows are moved to the right, so that all prompts end at T.
    """
    prompt = ops.shape(tokens)[1]
    ends = {"stops": model.stop_tokens, "limits": limits}

    def penalize(logits, tokens, visible):
        return config.penalize(logits, tokens, visible, numbers)

    def run():
        start = prefill(model, tokens, lengths, length)
        logits = model.network.logits(start.states[:, -1])
        if num_beams is not None:
            beams, _ = decoding.beam_search(
                step_of(model, prompt),
                logits,
                start.tokens,
                start.cache,
                process=penalize,
                valid=start.valid,
                prompt=prompt,
                num_beams=num_beams,
                length_penalty=length_penalty,
                early_stopping=early_stopping,
                fill=model.fill_token,
                **ends,
            )
            return beams[:, 0]
        if candidates is not None:
            return decoding.contrastive_search(
                step_of(model, prompt, with_states=True),
                logits,
                start.states,
                start.tokens,
                start.cache,
                penalty=penalty,
                k=candidates,
                process=penalize,
                valid=start.valid,
                prompt=prompt,
                fill=model.fill_token,
                **ends,
            )
        sampler = _sampler(
            model,
            config,
            numbers,
            key,
            prompt=prompt,
            valid=start.valid,
            limits=limits,
            first=first,
        )
        return decoding.sample(sampler, logits, start.tokens, start.cache)

    def run_with_draft():
        whole = lengths
        if lengths is None:
            whole = ops.full((ops.shape(tokens)[0],), prompt, "int32")
        # A round writes more than may be needed.
        wide = length + draft_tokens + 1
        start = prefill(model, tokens, whole, wide)
        return speculative_sample(
            block_step_of(model),
            block_step_of(draft_model),
            model.network.logits(start.states[:, -1]),
            start.tokens,
            start.cache,
            prefill(draft_model, tokens, whole, wide).cache,
            count=draft_tokens,
            restrict=lambda logits: config.restrict(logits, numbers),
            prompt=prompt,
            key=None if config.greedy else key,
            first=first,
            **ends,
        )

    if draft_model is None:
        return model.run_averaged("network", run)
    return model.run_averaged(
        "network", lambda: draft_model.run_averaged("network", run_with_draft)
    )


def _sampler(model, config, numbers, key, *, prompt, valid, limits, first=0):
    return decoding.Sampler(
        step=step_of(model, prompt),
        process=lambda *args: config.process(*args, numbers),
        prompt=prompt,
        valid=valid,
        key=None if config.greedy else key,
        first=first,
        stops=model.stop_tokens,
        fill=model.fill_token,
        limits=limits,
    )


class Prefilled(NamedTuple):
    """Prompts of T positions that a model has read, with room up to L.

    Attributes:
        states: `(B, T, C)`, their hidden states.
        tokens: int32 `(B, L)`, left-padded up to T, then what is written over.
        valid: bool `(B, L)`, False where a prompt is padded.
        cache: `(blocks, padding)`: the caches of the blocks; `(valid, shift)`, `shift`
            int32 `(B, 1)`, by how much a position is less than its index, or nothing
            where no prompt is padded.
    """

    states: Any
    tokens: Any
    valid: Any
    cache: Any


def prefill(model, tokens, lengths, length):
    """Reads prompts: a `Prefilled`.

    Args:
        model: a `GPT`.
        tokens: int32 `(B, T)`, right-padded.
        lengths: int32 `(B,)`, or None where all are T.
        length: L.
    """
    batch, prompt = ops.shape(tokens)
    tokens, valid = padded_left(tokens, lengths)
    room = ops.full((batch, length - prompt), model.fill_token, "int32")
    whole = ops.concatenate([tokens, room], axis=1)
    count = ops.concatenate([valid, ops.ones_like(room, dtype="bool")], axis=1)
    whole, count = (ops.reshape(x, (batch, length)) for x in (whole, count))
    blocks = model.network.empty_cache(batch, length)
    if lengths is None:
        states, blocks = model.network.hidden_states(tokens, None, None, blocks, 0)
        return Prefilled(states, whole, count, (blocks, ()))
    states, blocks = model.network.hidden_states(
        tokens, valid, positions_of(valid), blocks, 0
    )
    shift = ops.sum(ops.cast(valid, "int32"), axis=1, keepdims=True) - prompt
    return Prefilled(states, whole, count, (blocks, (count, shift)))


def step_of(model, prompt, with_states=False):
    """The `step` of `decoding`, with the cache of a `Prefilled`.

    With `with_states` it gives `((states (R, C), logits), cache)`.
    """

    def step(tokens, cache, i):
        blocks, padding = cache
        index, valid, positions = i + prompt, None, None
        if padding:
            valid, shift = padding
            # A row that has ended may lie behind the context.
            positions = ops.minimum(
                index + shift, model.max_sequence_length - 1
            )  # (B, 1)
        x, blocks = model.network.hidden_states(tokens, valid, positions, blocks, index)
        x = x[:, -1]  # (R, C)
        logits = model.network.logits(x)
        return ((x, logits) if with_states else logits), (blocks, padding)

    return step


def block_step_of(model):
    """The `step` of `speculative_sample`, of several tokens from an index on."""

    def step(tokens, cache, index):
        blocks, (valid, shift) = cache
        positions = ops.expand_dims(index, 1) + shift
        positions = positions + ops.arange(ops.shape(tokens)[1], dtype="int32")
        # What lies behind the end is thrown away.
        positions = ops.clip(positions, 0, model.max_sequence_length - 1)
        x, blocks = model.network.hidden_states(tokens, valid, positions, blocks, index)
        return model.network.logits(x), (blocks, (valid, shift))

    return step
