"""Defaults of `Translator.translate`, and the tokens that it never generates."""

import dataclasses

import numpy as np
from keras import ops

from keras_genai.transformers.logits_processors import MINUS
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import flag, integer, integers, number, tuple_of


@checked(
    length_penalty=number(">= 0"),
    bad_words_ids=tuple_of(integers(smallest=0), least=0),
    forced_bos_token_id=integer(0),
    forced_eos_token_id=integer(0),
    renormalize=flag,
)
@dataclasses.dataclass(frozen=True)
class TranslationConfig:
    """The defaults of `Translator.translate`, and which tokens it never generates.

    Published translators have their own: `Translator.from_pretrained` reads them.

    Args:
        num_beams: K.
        length_penalty: see `translate`.
        max_length: most tokens of a translation, at most the context; None: by the
            source's length.
        early_stopping: see `translate`.
        bad_words_ids: sequences of token ids that are never generated; by default the
            padding alone.
        forced_bos_token_id: id that every translation begins with, or None.
        forced_eos_token_id: id that stands at the last position of one that is not
            shorter, or None.
        renormalize: whether the probabilities that beams add up are those among the
            tokens that are not barred.

    Raises:
        ValueError: for an argument out of range.
    """

    num_beams: int = 4
    length_penalty: float = 0.6
    max_length: int | None = None
    early_stopping: bool | str = False
    bad_words_ids: tuple | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    renormalize: bool = True

    @classmethod
    def of(cls, given):
        """Of the argument `generation` of a `Translator`, a dict or None."""
        names = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(given or ()) - set(names))
        if unknown:
            raise ValueError(
                f"generation takes {', '.join(names)}; got {', '.join(unknown)}."
            )
        return cls(**(given or {}))

    def check_tokens(self, size):
        """Refuses ids that are not in a vocabulary of that size."""
        given = [
            ("forced_bos_token_id", self.forced_bos_token_id),
            ("forced_eos_token_id", self.forced_eos_token_id),
        ]
        given += [
            ("bad_words_ids", i) for words in self.bad_words_ids or () for i in words
        ]
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
        if self.bad_words_ids is not None:
            config["bad_words_ids"] = [list(words) for words in self.bad_words_ids]
        return config

    def process(self, logits, tokens, visible, *, stops, length):
        """A logits processor: tokens that are barred or forced come before all others.

        Args:
            logits, tokens, visible: see `decoding`.
            stops: ids that end a text, which alone are never barred.
            length: positions of a translation and its start: an integer, or int32
                `(R, 1)`.
        """
        if (
            self.bad_words_ids is None
            and self.forced_bos_token_id is self.forced_eos_token_id is None
        ):
            return logits
        count = ops.sum(ops.cast(visible, "int32"), axis=1, keepdims=True)  # (R, 1)
        ids = ops.arange(logits.shape[-1], dtype="int32")  # (V,)
        single = np.zeros(logits.shape[-1], "bool")
        for words in self.bad_words_ids or ():
            if len(words) == 1:
                single[words[0]] = words[0] not in stops
            else:
                hit = ops.logical_and(_follows(words, tokens, count), ids == words[-1])
                logits = ops.where(hit, MINUS, logits)
        if single.any():
            logits = ops.where(ops.convert_to_tensor(single), MINUS, logits)
        forced = ((self.forced_bos_token_id, 1), (self.forced_eos_token_id, length - 1))
        for token, index in forced:
            if token is not None:
                only = ops.where(ids == token, 0.0, MINUS)
                only = ops.cast(only, logits.dtype)
                logits = ops.where(count == index, only, logits)
        return ops.log_softmax(logits, axis=-1) if self.renormalize else logits


def _follows(words, tokens, count):
    """bool `(R, 1)`: whether all but the last of a sequence stand before an index."""
    found = count >= len(words)
    for back, word in enumerate(reversed(words[:-1]), 1):
        before = ops.take_along_axis(tokens, ops.maximum(count - back, 0), axis=1)
        found = ops.logical_and(found, before == word)
    return found
