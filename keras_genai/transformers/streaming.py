"""Streaming: the pieces of a text as its tokens come."""

import numpy as np

from keras_genai import backend
from keras_genai.transformers.prompts import cut


class TokenStream:
    """Iterator of the pieces of what is generated from one prompt.

    Args:
        prompts: a `Prompts` of one.
        states: iterator of the `DecodeState` of each new token.
        stop: strings that end the text.

    Attributes:
        result: at the end, what `generate` returns.
    """

    def __init__(self, prompts, states, stop):
        self.result = None
        self._pieces = self._run(prompts, states, stop)

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._pieces)

    def _run(self, prompts, states, stop):
        pieces, tokens = Pieces(prompts, stop), []
        for state in states:
            tokens.append(int(backend.to_host(state.token)[0]))
            last = bool(backend.to_host(state.done)[0])
            last = last or len(tokens) == prompts.limits[0]
            yield from pieces.add(tokens[-1], last)
            if last or pieces.ended:
                break
        row = np.concatenate([prompts.tokens[0], np.array(tokens, "int32")])
        self.result = prompts.result(row[None], stop)


class Pieces:
    """Tokens one by one as pieces of text, held back while they may change.

    Attributes:
        ended: whether a stop string came.
    """

    def __init__(self, prompts, stop):
        self.prompts, self.stop = prompts, stop
        self.tokens, self.shown, self.ended = [], 0, False
        self.begin = prompts.tokens[0].tolist()

    def add(self, token, last):
        """Iterator of the pieces that a token brings."""
        self.tokens.append(token)
        if self.prompts.form != "text":
            yield token
            return
        decode = self.prompts.model.tokenizer.decode
        before = decode(self.begin)
        text = decode([*self.begin, *self.tokens])
        text = text[len(before) :] if text.startswith(before) else text
        text, self.ended = cut(text, self.stop)
        last = last or self.ended
        # Half a letter, or what may be the beginning of a stop string, is held back.
        held = 0 if last else max((_overlap(text, s) for s in self.stop), default=0)
        if not last and text.endswith("\ufffd"):
            held = max(held, len(text) - len(text.rstrip("\ufffd")))
        end = len(text) - held
        if end > self.shown:
            yield text[self.shown : end]
            self.shown = end


def _overlap(text, stop):
    """How many letters at the end of a text begin a string."""
    return max(n for n in range(len(stop)) if text.endswith(stop[:n]))
