"""How a `Translator` writes where `translate` is not told otherwise."""

import dataclasses

import numpy as np
from keras import ops

from keras_genai.transformers.rules import MINUS, Rules
from keras_genai.utils.checks import check_positive


@dataclasses.dataclass(frozen=True)
class Generation:
    """The defaults of `Translator.translate`, and which tokens it never writes.

    Published translators have their own: `Translator.from_pretrained` reads them.

    Args:
        beam_size: K.
        length_penalty: see `translate`.
        max_length: most tokens of a translation, at most the context; None: by the
            source's length.
        early_stopping: see `translate`.
        barred: sequences of token ids that are never written; by default the padding
            alone.
        first_token: id that every translation begins with, or None.
        last_token: id that stands at the last place of one that is not shorter, or
            None.
        renormalize: whether the probabilities that beams add up are those among the
            tokens that are not barred.

    Raises:
        ValueError: for an argument out of range.
    """

    beam_size: int = 4
    length_penalty: float = 0.6
    max_length: int | None = None
    early_stopping: bool | str = False
    barred: tuple | None = None
    first_token: int | None = None
    last_token: int | None = None
    renormalize: bool = True

    def __post_init__(self):
        check_positive("beam_size", self.beam_size)
        check_early_stopping(self.early_stopping)
        if self.max_length is not None:
            check_positive("max_length", self.max_length)
        if self.barred is not None:
            barred = tuple(tuple(int(i) for i in words) for words in self.barred)
            object.__setattr__(self, "barred", barred)

    def check_tokens(self, size):
        """Refuses ids that are not in a vocabulary of that size."""
        given = [("first_token", self.first_token), ("last_token", self.last_token)]
        given += [("barred", i) for words in self.barred or () for i in words]
        for name, token in given:
            if token is not None and not 0 <= token < size:
                raise ValueError(
                    f"generation's {name} must hold ids in [0, {size}); got {token!r}."
                )

    def get_config(self):
        """Dict of the arguments that are not the defaults."""
        config = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) != field.default
        }
        if self.barred is not None:
            config["barred"] = [list(words) for words in self.barred]
        return config


def check_early_stopping(value):
    """Refuses what `translate` does not know."""
    if not (isinstance(value, bool) or value == "never"):
        raise ValueError(
            f"early_stopping must be True, False or 'never'; got {value!r}."
        )


@dataclasses.dataclass(frozen=True)
class Restrained(Rules):
    """The rules of a `Generation`: the most probable token among those that may be.

    Args:
        barred, first_token, last_token, renormalize: see `Generation`.
        stops: ids that end a text, which alone are never barred.
        length: places of a translation and its start: an integer, or int32 `(R, 1)`.
    """

    barred: tuple = ()
    first_token: int | None = None
    last_token: int | None = None
    renormalize: bool = True
    stops: tuple = ()
    length: int = 0

    def penalized(self, logits, tokens, seen):
        """See `Rules.penalized`; the tokens that count come before all others."""
        logits = super().penalized(logits, tokens, seen)
        places = ops.sum(ops.cast(seen, "int32"), axis=1, keepdims=True)  # (R, 1)
        ids = ops.arange(logits.shape[-1], dtype="int32")  # (V,)
        single = np.zeros(logits.shape[-1], "bool")
        for words in self.barred:
            if len(words) == 1:
                single[words[0]] = words[0] not in self.stops
            else:
                hit = ops.logical_and(_follows(words, tokens, places), ids == words[-1])
                logits = ops.where(hit, MINUS, logits)
        if single.any():
            logits = ops.where(ops.convert_to_tensor(single), MINUS, logits)
        forced = ((self.first_token, 1), (self.last_token, self.length - 1))
        for token, place in forced:
            if token is not None:
                only = ops.where(ids == token, 0.0, MINUS)
                logits = ops.where(
                    places == place, ops.cast(only, logits.dtype), logits
                )
        return ops.log_softmax(logits, axis=-1) if self.renormalize else logits


def _follows(words, tokens, places):
    """bool `(R, 1)`: whether all but the last of a sequence stand before a place."""
    found = places >= len(words)
    for back, word in enumerate(reversed(words[:-1]), 1):
        before = ops.take_along_axis(tokens, ops.maximum(places - back, 0), axis=1)
        found = ops.logical_and(found, before == word)
    return found
