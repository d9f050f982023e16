"""What a GPT writes, token by token as it comes."""

import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.backend import random
from keras_genai.transformers import generation
from keras_genai.transformers.checks import filled
from keras_genai.transformers.prompts import stop_tokens


class Written:
    """Iterator of the pieces of what is written on from one prompt.

    Its step is compiled and driven from Python; it draws what the loop in the graph
    would.

    Args:
        model: a `GPT`.
        prompts: a `Prompts` of one.
        rules: a `Rules`.
        seed: integer.
        ends: strings that end the text.

    Attributes:
        result: at the end, what `generate` returns.
    """

    def __init__(self, model, prompts, rules, seed, ends):
        self.model, self.prompts, self.ends = model, prompts, ends
        self.result = None
        self._pieces = self._run(rules, random.key(seed, "generate/tokens"))

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._pieces)

    def _run(self, rules, key):
        model, tokens = self.model, self.prompts.tokens
        name, new = ("written", rules.form), int(self.prompts.limits[0])
        _, prompt, room = model.room(name, 1, tokens.shape[1], new, 1)
        padded, length, fill = prompt > tokens.shape[1], prompt + room, model.fill_token

        def places(lengths):
            """bool `(1, L)`: the places that count, which the prompt ends before."""
            places = ops.arange(length, dtype="int32")
            return places >= prompt - ops.expand_dims(lengths, 1)

        def sampler(key, numbers, lengths, limits):
            return generation.Sampler(
                *(model.step_of(prompt), rules.bound(numbers), prompt),
                *(places(lengths), (key[0], key[1])),
                stops=stop_tokens(model),
                pad=fill,
                limits=limits,
            )

        def begin(key, numbers, lengths, limits, tokens):
            seen = places(lengths)
            tokens, valid = generation.moved_right(tokens, lengths if padded else None)
            x, cache = model.prefill(tokens, valid, padded, length)
            behind = ops.full((1, room), fill, "int32")
            whole = ops.concatenate([tokens, behind], axis=1)
            logits = model.network.logits(x[:, -1])
            state = (cache, model.state_of(seen, prompt, padded))
            made = sampler(key, numbers, lengths, limits)
            return flat(made.begin(logits, whole, state))

        def advance(key, numbers, lengths, limits, *state):
            i, token, done, whole, *cache = state
            pairs = zip(cache[::2], cache[1::2], strict=True)
            rest = model.state_of(places(lengths), prompt, padded)
            state = (i, token, done, whole, (tuple(pairs), rest))
            return flat(sampler(key, numbers, lengths, limits).advance(state))

        how = (*name, padded, prompt, room)
        begin, advance = self._compiled(how, begin), self._compiled(how, advance)
        how = (np.array(key, "int32"), rules.numbers)
        how = (*how, self.prompts.lengths, self.prompts.limits)
        how = [backend.from_host(x) for x in how]
        state = begin(*how, backend.from_host(filled(tokens, prompt, fill)))
        pieces, written = self.prompts.pieces(self.ends), []
        while True:
            written.append(int(backend.to_host(state[1])[0]))
            done = bool(backend.to_host(state[2])[0]) or len(written) == new
            yield from pieces.add(written[-1], done)
            if done or pieces.ended:
                break
            state = advance(*how, *state)
        row = np.concatenate([tokens[0], np.array(written, "int32")])
        self.result = self.prompts.result(row[None], self.ends)

    def _compiled(self, how, fn):
        """A function of tensors, compiled once and kept; its results stay tensors."""
        model = self.model
        return model.compiled_once(
            (*how, fn.__name__),
            lambda *args: model.run_averaged("network", lambda: fn(*args)),
            model.sampling_variables(),
        )


def flat(state):
    """A state as a tuple of tensors."""
    *first, (cache, _) = state
    return (*first, *(x for pair in cache for x in pair))
