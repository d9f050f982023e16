"""Prompts: in every form that is taken, and what is returned for each."""

import numpy as np

from keras_genai.utils.checks import check_tokens
from keras_genai.utils.validation import is_integer


class Prompts:
    """Prompts as arrays, and the way back.

    Make one by `Prompts.of`.

    Args:
        sequences: list of lists of token ids.
        model: a `GPT`.
        form: `"text"`, `"list"` or `"array"`: what they were given as.
        single: whether one was given alone.
        name: what they are, the first word of a message.

    Attributes:
        tokens: int32 `(N, T)`, right-padded.
        lengths: int32 `(N,)`.
        limits: int32 `(N,)`, how many new tokens each may have; None for texts to
            score.
    """

    def __init__(self, sequences, model, form, single, name="Prompts"):
        self.model, self.form, self.single = model, form, single
        self.lengths = np.array([len(row) for row in sequences], "int32")
        if not len(sequences) or not self.lengths.all():
            raise ValueError(
                f"{name} must hold at least one token each. To write from "
                "nothing give their number, generate(4)."
            )
        fill = model.fill_token
        self.tokens = np.full((len(sequences), self.lengths.max()), fill, "int64")
        for row, sequence in zip(self.tokens, sequences, strict=True):
            row[: len(sequence)] = sequence
        check_tokens(self.tokens, model.vocabulary_size, name=name)
        self.tokens = self.tokens.astype("int32")
        self.limits = None

    @classmethod
    def of(cls, prompts, model, name="Prompts"):
        """See `GPT.generate`; their form was checked (`validation.prompts`)."""
        if is_integer(prompts):
            if model.eos_token_id is None:
                raise ValueError(
                    "A number of texts begins each with eos_token_id, which this model "
                    "has not: give prompts, or make it with eos_token_id=."
                )
            return cls([[model.stop_tokens[0]]] * int(prompts), model, "array", False)
        if isinstance(prompts, str):
            return cls(_encoded([prompts], model), model, "text", True, name)
        if hasattr(prompts, "shape"):
            array = np.asarray(prompts)
            rows = np.atleast_2d(array).tolist()
            return cls(rows, model, "array", array.ndim == 1, name)
        prompts = list(prompts)
        if isinstance(prompts[0], str):
            return cls(_encoded(prompts, model), model, "text", False, name)
        single = is_integer(prompts[0])
        rows = [[int(t) for t in row] for row in ([prompts] if single else prompts)]
        return cls(rows, model, "list", single, name)

    def begin(self, max_new_tokens):
        """Fixes how many new tokens each text may have: by default all that fit.

        Raises:
            ValueError: the context does not hold the prompts and the new tokens.
        """
        longest, most = self.tokens.shape[1], self.model.max_sequence_length
        room = most - longest
        if room < 1:
            raise ValueError(
                f"The longest prompt has {longest} tokens; it may have at most "
                f"{most - 1}, so that one can follow in the context of {most}."
            )
        if max_new_tokens is None:  # of a row by itself, whatever stands beside it
            self.limits = most - self.lengths
            return self
        new = max_new_tokens
        if new > room:
            raise ValueError(
                f"The longest prompt has {longest} tokens and max_new_tokens is {new}: "
                f"together they may be at most {most}, the model's context. Give "
                f"max_new_tokens of at most {room}, or a shorter prompt."
            )
        self.limits = np.full(self.lengths.shape, new, "int32")
        return self

    def stop_strings(self, stop):
        """The strings that end a text, a tuple."""
        stop = (stop,) if isinstance(stop, str) else tuple(stop)
        if not all(isinstance(text, str) and text for text in stop):
            raise ValueError(f"stop must be strings that are not empty; got {stop!r}.")
        if stop and self.model.tokenizer is None:
            raise ValueError("stop strings need a model with a tokenizer.")
        return stop

    def result(self, made, stop=()):
        """What is returned of the rows `(N, L)` whose prompts end at T.

        Args:
            made: int32 `(N, L)`.
            stop: strings that end a text.
        """
        rows = [
            self._ended(row[self.tokens.shape[1] - n :][: n + limit], int(n), stop)
            for row, n, limit in zip(made, self.lengths, self.limits, strict=True)
        ]
        if self.form == "text":
            rows = [
                self._text(row, int(n), stop) for row, n in self._with_lengths(rows)
            ]
        elif self.form == "array":
            longest = made.shape[1]
            array = np.full((len(rows), longest), self.model.fill_token, "int32")
            for place, row in zip(array, rows, strict=True):
                place[: len(row)] = row
            rows = array
        return rows[0] if self.single else rows

    def _with_lengths(self, rows):
        return zip(rows, self.lengths, strict=True)

    def _ended(self, row, prompt, stop):
        """A row without what fills it up; with its stop token."""
        found = np.flatnonzero(np.isin(row[prompt:], self.model.stop_tokens))
        row = row if not len(found) else row[: prompt + found[0] + 1]
        if stop and self.form != "text":
            decode = self.model.tokenizer.decode
            for end in range(prompt + 1, len(row) + 1):
                if any(text in decode(row[prompt:end]) for text in stop):
                    return row[:end]
        return row

    def _text(self, row, prompt, stop):
        decode = self.model.tokenizer.decode
        text = decode(row)
        if stop:
            before = decode(row[:prompt])
            new = text[len(before) :] if text.startswith(before) else text
            text = before + cut(new, stop)[0]
        return text


def cut(text, stop):
    """`(text, whether it was cut)`: before the first of the strings."""
    places = [text.find(s) for s in stop]
    places = [place for place in places if place >= 0]
    return (text[: min(places)], True) if places else (text, False)


def _encoded(texts, model):
    if model.tokenizer is None:
        raise ValueError(
            "Texts need a model with a tokenizer: make it with tokenizer=, or set "
            "model.tokenizer; else give token ids."
        )
    return model.tokenizer.encode(texts)
