"""What a GPT writes, token by token as it comes."""

import numpy as np
from keras import ops

from keras_genai import engine
from keras_genai.engine import random
from keras_genai.transformers import generation
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
        prompt, length = tokens.shape[1], self.prompts.length
        fill = model.fill_token

        def sampler(key, numbers):
            valid = ops.ones((1, length), "bool")
            return generation.Sampler(
                *(model.step_of(prompt), rules.bound(numbers), prompt),
                *(valid, (key[0], key[1])),
                stops=stop_tokens(model),
                pad=fill,
            )

        def begin(key, numbers, tokens):
            x, cache = model.prefill(tokens, None, False, length)
            room = ops.full((1, length - prompt), fill, "int32")
            whole = ops.concatenate([tokens, room], axis=1)
            logits = model.network.logits(x[:, -1])
            return flat(sampler(key, numbers).begin(logits, whole, (cache, ())))

        def advance(key, numbers, *state):
            i, token, done, whole, *cache = state
            pairs = zip(cache[::2], cache[1::2], strict=True)
            state = (i, token, done, whole, (tuple(pairs), ()))
            return flat(sampler(key, numbers).advance(state))

        how = ("written", prompt, length, rules.form)
        begin, advance = self._compiled(how, begin), self._compiled(how, advance)
        how = (np.array(key, "int32"), rules.numbers)
        how = [ops.convert_to_tensor(x) for x in how]
        state = begin(*how, ops.convert_to_tensor(tokens))
        pieces, written = self.prompts.pieces(self.ends), []
        while True:
            written.append(int(engine.to_host(state[1])[0]))
            done = bool(engine.to_host(state[2])[0]) or len(written) == length - prompt
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
