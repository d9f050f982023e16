"""`Tokenizer`: texts to integers and back, for every model of text."""

import pathlib

import keras
import numpy as np

from keras_genai.transformers import _tokenizer_files as files
from keras_genai.transformers import _vocabularies as vocabularies
from keras_genai.transformers._tokenizer_files import BERT_TOKENS, ROLES
from keras_genai.utils.arguments import checked
from keras_genai.utils.files import written_into
from keras_genai.utils.serialization import PACKAGE
from keras_genai.utils.validation import (
    array,
    either,
    flag,
    integer,
    lines,
    mapping,
    optional,
    refuse,
    shown,
    strings,
    text,
    texts,
    token_rows,
)


def _any_text(name, value):
    """A string of any characters."""
    if not isinstance(value, str):
        refuse(name, "a string", value)
    return value


TEXTS = either(_any_text, texts)


@keras.saving.register_keras_serializable(PACKAGE)
class Tokenizer:
    """Texts to token ids and back, by Hugging Face's or Google's own library.

    Make one by `Tokenizer.train`, `Tokenizer.characters` or `Tokenizer.load`. It is
    saved with the model that holds it; loading never runs code.

    Args:
        kind: `"tokenizers"`, `"sentencepiece"`, `"siglip"` or `"marian"`.
        data: what the kind is made of, a dict of plain values.
        special: dict role -> token, of the roles `pad`, `unk`, `bos`, `eos`, `cls`,
            `sep` and `mask`; by default those of the usual names.
        max_length: the most tokens that a text of its model has, or None. It is kept
            for the model and the files; nothing is cut by it unasked.

    Attributes:
        vocabulary: dict token -> id.
        vocabulary_size: the least number of rows that a model's table needs: the
            largest id and one.
        pad_token_id, unk_token_id, bos_token_id, eos_token_id, cls_token_id,
            sep_token_id, mask_token_id: ids of the special tokens, or None.

    Example:

    ```python
    tokenizer = kg.Tokenizer.train(texts, 1000)
    tokenizer.encode("To be, or not to be")            # list of ids
    tokens, lengths = tokenizer.pad(tokenizer.encode(texts))
    tokenizer.decode(tokens[0])
    tokenizer.save("tokenizer")
    ```
    """

    @checked(kind=text, data=mapping, special=mapping, max_length=optional(integer(1)))
    def __init__(self, kind, data, special=None, max_length=None):
        if kind not in vocabularies.KINDS:
            known = ", ".join(vocabularies.KINDS)
            raise ValueError(f"kind must be one of {known}; got {kind!r}.")
        self.kind = kind
        self._model = vocabularies.KINDS[kind](**data)
        self.vocabulary = self._model.vocabulary()
        if not self.vocabulary:
            raise ValueError("The vocabulary is empty.")
        self.vocabulary_size = max(self.vocabulary.values()) + 1
        self.max_length = max_length
        self._tokens = None
        self.special = self._roles(special or {})
        for role in ROLES:
            setattr(
                self, f"{role}_token_id", self.vocabulary.get(self.special.get(role))
            )

    def _roles(self, given):
        unknown = sorted(set(given) - set(ROLES))
        absent = sorted(t for t in given.values() if t not in self.vocabulary)
        if unknown or absent:
            raise ValueError(
                f"special takes the roles {', '.join(ROLES)} with tokens of the "
                f"vocabulary; got {', '.join(unknown + absent)}."
            )
        usual = {
            role: token
            for role, tokens in ROLES.items()
            for token in reversed(tokens)
            if token in self.vocabulary
        }
        return {**usual, **given}

    # Making

    @classmethod
    @checked(
        texts=lines,
        kind=text,
        vocabulary_size=integer(1, 10**7),
        special_tokens=strings,
        min_frequency=integer(1),
    )
    def train(
        cls,
        texts,
        vocabulary_size,
        kind="bpe",
        *,
        lowercase=False,
        special_tokens=None,
        min_frequency=2,
    ):
        """A tokenizer learned from texts.

        Args:
            texts: iterable of strings, or one string.
            vocabulary_size: number of tokens at most, the special ones among them.
            kind: `"bpe"`: byte pairs as GPT-2's (1508.07909, over bytes), which knows
                every text; `"wordpiece"`: word pieces as BERT's; `"clip"`: byte pairs
                as CLIP's (2103.00020, section 2.4), of texts in lower case between
                `<|startoftext|>` and `<|endoftext|>`, whose id is the largest.
            lowercase: for word pieces, whether letters lose case and accents.
            special_tokens: list of tokens of their own; by default
                `"<|endoftext|>"` for byte pairs, BERT's five for word pieces. Beside
                those of BERT and of CLIP others are added.
            min_frequency: how often a pair must be met to become a token.

        Returns:
            `Tokenizer`.
        """
        texts = [texts] if isinstance(texts, str) else texts
        library = vocabularies.hugging_face()
        how = {
            "vocab_size": vocabulary_size,
            "min_frequency": min_frequency,
            "show_progress": False,
        }
        if kind == "bpe":
            if lowercase:
                raise ValueError("Byte pairs keep case: lowercase is for word pieces.")
            tokenizer = vocabularies.byte_level(library.models.BPE())
            trainer = library.trainers.BpeTrainer(
                special_tokens=special_tokens or ["<|endoftext|>"],
                initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
                **how,
            )
        elif kind == "wordpiece":
            model = library.models.WordPiece(unk_token="[UNK]")
            tokenizer = vocabularies.word_piece(model, lowercase)
            extra = [t for t in special_tokens or () if t not in BERT_TOKENS]
            trainer = library.trainers.WordPieceTrainer(
                special_tokens=[*BERT_TOKENS, *extra], **how
            )
        elif kind == "clip":
            if lowercase:
                raise ValueError(
                    "CLIP's texts have no case anyway: lowercase is for word pieces."
                )
            made = vocabularies.train_clip(
                texts, vocabulary_size, special_tokens or (), min_frequency
            )
            named = files.NAMED[files.CLIP]
            return cls("tokenizers", {"text": made.to_str()}, named)
        else:
            raise ValueError(
                f"kind must be 'bpe', 'wordpiece' or 'clip'; got {kind!r}."
            )
        tokenizer.train_from_iterator(texts, trainer)
        if kind == "wordpiece":
            vocabularies.around_sentences(tokenizer)
        return cls("tokenizers", {"text": tokenizer.to_str()})

    @classmethod
    @checked(texts=lines, special_tokens=strings)
    def characters(cls, texts, special_tokens=()):
        """A tokenizer of which each character of the texts is a token.

        Args:
            texts: iterable of strings, or one string. Tokens are in the order of
                their characters.
            special_tokens: list of tokens before them; with `"<unk>"` among them a
                character that the texts do not hold becomes it.
        """
        texts = [texts] if isinstance(texts, str) else texts
        found = sorted(set().union(*map(set, texts)))
        if not found:
            raise ValueError("The texts hold no characters.")
        tokens = list(dict.fromkeys([*special_tokens, *found]))
        library = vocabularies.hugging_face()
        model = library.models.WordLevel(
            {token: i for i, token in enumerate(tokens)}, unk_token="<unk>"
        )
        tokenizer = library.Tokenizer(model)
        tokenizer.pre_tokenizer = library.pre_tokenizers.Split(
            library.Regex(vocabularies.EACH_CHARACTER), "isolated"
        )
        tokenizer.decoder = library.decoders.Fuse()
        tokenizer.add_special_tokens(list(special_tokens))
        return cls("tokenizers", {"text": tokenizer.to_str()})

    @classmethod
    @checked(lowercase=flag)
    def load(cls, source, *, subfolder=None, lowercase=None):
        """A tokenizer of published or saved files.

        Args:
            source: a folder, the file itself, or an id of the Hugging Face hub. The
                folder's first of: `tokenizer.json`; Marian's `source.spm`,
                `target.spm` and `vocab.json`; `vocab.json` with `merges.txt`
                (GPT-2's, CLIP's); `vocab.txt` (BERT's); one `.spm` or `.model`
                (sentencepiece's, SigLIP's). The `tokenizer_class` of
                `tokenizer_config.json`, else the `model_type` of `config.json`, says
                whose rules they follow.
            subfolder: folder within it.
            lowercase: of a `vocab.txt`: whether letters lose case and accents. By
                default what `tokenizer_config.json` says, else whether the
                vocabulary has no capital letters.

        Raises:
            ValueError: there is no such file, it is damaged, or its
                `tokenizer_config.json` names a class whose rules are not known here
                (RoBERTa's, T5's).
            ImportError: `tokenizers` or `sentencepiece` is not installed.
        """
        kind, data, named, length = files.read(source, subfolder, lowercase)
        try:
            made = cls(kind, data, None, length)
        except ValueError as error:
            raise ValueError(f"{source} holds no tokenizer: {error}") from error
        named = {r: t for r, t in named.items() if t in made.vocabulary}
        return cls(kind, data, named, length) if named else made

    @checked()
    def save(self, folder):
        """Writes the files that `load`, and Hugging Face's libraries, read.

        Args:
            folder: it is made; the files of a tokenizer of any kind in it are
                replaced, all of them or none.

        Raises:
            OSError: they cannot be written; what stood there is whole.
        """
        folder = pathlib.Path(folder)
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; save writes a folder.")
        with written_into(folder, self._model.head, vocabularies.FILES) as beside:
            self._model.save(beside)
            named = {f"{role}_token": token for role, token in self.special.items()}
            if self.max_length is not None:
                named["model_max_length"] = self.max_length
            vocabularies.write_settings(beside, named)

    # Use

    @checked(special=flag, target=flag, texts=TEXTS, pairs=TEXTS)
    def encode(self, texts, pairs=None, *, special=True, target=False):
        """The ids of a text, or of each of a list.

        Args:
            texts: string, or list of strings.
            pairs: the second sentence of each, for a tokenizer that has a form for
                pairs (BERT's).
            special: whether the tokens that stand around a sentence are added.
            target: for a translator's tokenizer, whether the texts are in the
                language that is translated to.

        Returns:
            List of integers, or a list of such lists.

        Raises:
            ValueError: a character tokenizer without `<unk>` meets another character.
        """
        single = isinstance(texts, str)
        made = self._encode(texts, pairs, special, target)
        ids = [part[0] for part in made]
        return ids[0] if single else ids

    def _encode(self, texts, pairs=None, special=True, target=False):
        texts = _strings("texts", texts)
        if pairs is not None:
            pairs = _strings("pairs", pairs)
            if len(pairs) != len(texts):
                raise ValueError(
                    f"There must be a pair for each text; got {len(texts)} texts and "
                    f"{len(pairs)} pairs."
                )
        try:
            return self._model.encode(texts, pairs, special, target)
        except Exception as error:  # tokenizers raises no other class
            if type(error) is not Exception:
                raise
            known = set(self.vocabulary)
            strange = {c for text in (*texts, *(pairs or ())) for c in text}
            strange = sorted(strange - known)
            raise ValueError(
                f"The vocabulary lacks {strange[:20]} and has no <unk> for them, which "
                "the texts or pairs hold. Make it from texts that hold them, or with "
                "special_tokens=['<unk>']."
            ) from error

    @checked(texts=TEXTS, pairs=TEXTS, length=integer(1, 10**6))
    def batch(self, texts, pairs=None, *, length=None, truncate=True):
        """What a `BERT` or a CLIP takes of texts: padded arrays `(N, T)` of each token.

        Args:
            texts: list of strings.
            pairs: the second sentence of each, or None.
            length: T. By default that of the longest.
            truncate: whether longer texts are cut at their ends instead of refused, of
                a pair the longer one token by token (as BERT's own code); the tokens
                around them stay.

        Returns:
            Dict of int32 arrays: `tokens`; `token_types`, 1 in a second sentence;
            `mask`, 0 where padded; `words`, the number of the word that a token
            belongs to, -1 for special tokens and padding.

        Raises:
            ValueError: a text is longer and is not to be cut, or the length does not
                hold even the tokens around the texts.
        """
        made = self._encode(texts, pairs)
        if length is not None and not truncate:
            long = [i for i, part in enumerate(made) if len(part[0]) > length]
            if long:
                text = texts if isinstance(texts, str) else texts[long[0]]
                raise ValueError(
                    f"texts[{long[0]}], {shown(text[:60])}, has "
                    f"{len(made[long[0]][0])} tokens, more than the length {length} "
                    f"({len(long)} of {len(made)} texts have). Give shorter texts, or "
                    "truncate=True to cut them."
                )
        elif length is not None:
            made = [vocabularies.shortened(part, length) for part in made]
        arrays = [
            self._pad([part[i] for part in made], length, False, value)
            for i, value in enumerate((self.fill_id, 0, -1))
        ]
        count = [min(len(part[0]), arrays[0].shape[1]) for part in made]
        mask = np.arange(arrays[0].shape[1]) < np.array(count)[:, None]
        names = ("tokens", "token_types", "words")
        return {**dict(zip(names, arrays, strict=True)), "mask": mask.astype("int32")}

    @property
    def fill_id(self):
        """What fills a row: the padding token, else the end token, else 0."""
        return next(
            (i for i in (self.pad_token_id, self.eos_token_id) if i is not None), 0
        )

    @checked(sequences=token_rows, length=integer(1, 10**6))
    def pad(self, sequences, length=None, *, truncate=False):
        """Sequences of ids as one array, padded with `fill_id`.

        Args:
            sequences: list of lists of ids.
            length: T, the width; by default that of the longest.
            truncate: whether longer sequences are cut instead of refused.

        Returns:
            `(tokens, lengths)`: int32 arrays `(N, T)` and `(N,)`.

        Raises:
            ValueError: a sequence is longer, or there are none.
        """
        tokens = self._pad(sequences, length, truncate, self.fill_id)
        lengths = [min(len(part), tokens.shape[1]) for part in sequences]
        return tokens, np.array(lengths, "int32")

    @staticmethod
    def _pad(sequences, length, truncate, value):
        longest = max(map(len, sequences), default=0)
        if not len(sequences):
            raise ValueError(
                "There are no texts to encode and no sequences; at least one is needed."
            )
        length = longest if length is None else length
        if not length:
            raise ValueError("The texts or sequences are all empty: nothing to pad.")
        if longest > length and not truncate:
            raise ValueError(
                f"The longest sequence has {longest} tokens, more than the length "
                f"{length}. Give a longer one, or truncate=True."
            )
        array = np.full((len(sequences), length), value, "int32")
        for row, part in zip(array, sequences, strict=True):
            row[: min(len(part), length)] = part[:length]
        return array

    @checked(
        special=flag,
        tokens=token_rows,
        lengths=array((1, 2), "iu"),
    )
    def decode(self, tokens, *, lengths=None, special=False):
        """The text of a sequence of ids, or of each of several.

        Args:
            tokens: integers `(T,)`, or `(N, T)`, or a list of lists.
            lengths: `(N,)`, how many of each count, or None.
            special: whether special tokens are shown.

        Returns:
            String, or list of strings.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        tokens = tokens.tolist() if hasattr(tokens, "tolist") else list(tokens)
        single = not tokens or not isinstance(tokens[0], (list, tuple, np.ndarray))
        rows = [[int(i) for i in row] for row in ([tokens] if single else tokens)]
        if lengths is not None:
            lengths = np.reshape(lengths, -1)
            if len(lengths) != len(rows):
                raise ValueError(
                    f"lengths must be one for each of the {len(rows)} texts; got "
                    f"{len(lengths)}."
                )
            rows = [row[: int(n)] for row, n in zip(rows, lengths, strict=True)]
        wrong = [i for row in rows for i in row if not 0 <= i < self.vocabulary_size]
        if wrong:
            raise ValueError(
                f"Token ids must lie in [0, {self.vocabulary_size}); got {wrong[0]}."
            )
        texts = self._model.decode(rows, special)
        return texts[0] if single else texts

    @checked(i=integer(0))
    def token(self, i):
        """The token of an id."""
        if self._tokens is None:
            self._tokens = {i: token for token, i in self.vocabulary.items()}
        if i not in self._tokens:
            raise ValueError(
                f"i must be an id of the vocabulary, in [0, {self.vocabulary_size}); "
                f"got {i!r}."
            )
        return self._tokens[i]

    def special_ids(self):
        """Sorted list of the ids of the special tokens."""
        tokens = {*self.special.values(), *self._model.marked_as_special()}
        return sorted(self.vocabulary[t] for t in tokens if t in self.vocabulary)

    def of_characters(self):
        """Whether it is one that `characters` made: each token a character."""
        return self._model.kind == "tokenizers" and self._model.of_characters()

    def check_fits(self, vocabulary_size, model="This model"):
        """Raises a `ValueError` where a model has no row for some of the tokens."""
        if self.vocabulary_size > vocabulary_size:
            raise ValueError(
                f"The tokenizer does not fit: its ids reach {self.vocabulary_size - 1},"
                f" and {model} has a vocabulary of {vocabulary_size}. Take the "
                "tokenizer that belongs to the model, or give the model "
                f"vocabulary_size={self.vocabulary_size}."
            )

    def __repr__(self):
        return f"Tokenizer({self.kind!r}, vocabulary_size={self.vocabulary_size})"

    def get_config(self):
        return {
            "kind": self.kind,
            "data": self._model.data(),
            "special": self.special,
            "max_length": self.max_length,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def _strings(name, texts):
    texts = [texts] if isinstance(texts, str) else list(texts)
    wrong = [type(text).__name__ for text in texts if not isinstance(text, str)]
    if wrong:
        raise ValueError(f"{name} must be strings; got {wrong[0]}.")
    return [str(text) for text in texts]
