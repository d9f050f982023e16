"""What cuts texts into tokens: Hugging Face's `tokenizers`, Google's `sentencepiece`.

Each class here wraps one library behind the same few methods, which `Tokenizer` uses;
each is made from plain data, so that nothing is run to load one.
"""

import base64
import contextlib
import json
import pathlib
import re
import string

from keras_genai.export.child import check_installed

EACH_CHARACTER = r"[\s\S]"  # cuts a text into its characters
SPACE = "\u2581"  # how sentencepiece writes the space before a word
LARGEST = 2**24  # of an id: the library makes a list of all that are left out below
END_OF_WORD = "</w>"  # how CLIP's tokens end that are the last of a word
# What CLIP's byte pairs are found in: its own two tokens, the ends of English words,
# runs of letters, single digits, runs of other signs.
CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
INSTALL = "'keras-genai[text]'"
MARIAN_FILES = ("source.spm", "target.spm", "vocab.json")
# All that a tokenizer of any kind may have in a folder.
FILES = (
    *MARIAN_FILES,
    "tokenizer.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


def hugging_face():
    """The module `tokenizers`."""
    check_installed(["tokenizers"], "This tokenizer", INSTALL)
    import tokenizers

    return tokenizers


@contextlib.contextmanager
def guarded(what):
    """A context in which the Rust library's errors are of a damaged file.

    It raises plain `Exception`s, and panics that are no `Exception`s at all.

    Args:
        what: the words of the message, such as "This is no tokenizer.json".

    Raises:
        ValueError: for either.
    """
    try:
        yield
    except BaseException as error:
        if type(error) is Exception or type(error).__name__ == "PanicException":
            raise ValueError(f"{what} ({error}).") from error
        raise


@contextlib.contextmanager
def panics_caught():
    """A context in which a panic of the Rust library is a `ValueError`."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(
            f"The tokenizer's file is damaged: it cannot be used ({error})."
        ) from error


def check_character_maps(text):
    """Refuses maps of characters whose sizes are not those of their bytes.

    The library would end the process, or ask for the memory that they say.

    Args:
        text: a `tokenizer.json`.
    """
    try:
        waiting = [json.loads(text)]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"This is no tokenizer.json ({error}).") from error
    if not isinstance(waiting[0], dict):
        raise ValueError("This is no tokenizer.json: it must hold an object.")
    waiting = [waiting[0].get("normalizer")]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            waiting += part.values()
            if part.get("type") != "Precompiled":
                continue
            try:
                found = base64.b64decode(
                    part.get("precompiled_charsmap"), validate=True
                )
            except (TypeError, ValueError):
                found = b""
            size = int.from_bytes(found[:4], "little")
            if len(found) < 4 or size % 4 or size > len(found) - 4:
                raise ValueError(
                    "This is no tokenizer.json: the precompiled_charsmap of its "
                    "normalizer is damaged."
                )


def check_ids(vocabulary):
    """Refuses a vocabulary whose ids no model can have.

    Args:
        vocabulary: dict token -> id.
    """
    wrong = next((i for i in vocabulary.values() if not 0 <= i < LARGEST), None)
    if wrong is not None:
        raise ValueError(f"The ids of tokens must lie in [0, {LARGEST}); got {wrong}.")


def processor(proto):
    """A sentencepiece processor of a model's bytes."""
    check_installed(["sentencepiece"], "This tokenizer", INSTALL)
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_proto=proto)
    except RuntimeError as error:
        raise ValueError(f"This is no sentencepiece model ({error}).") from error


class HuggingFace:
    """One `tokenizers.Tokenizer`.

    Args:
        text: its `tokenizer.json`.
    """

    kind = "tokenizers"
    head = "tokenizer.json"

    def __init__(self, text):
        library = hugging_face()
        check_character_maps(text)
        with guarded("This is no tokenizer.json"):
            self.tokenizer = library.Tokenizer.from_str(text)
        check_ids(self.vocabulary())
        self.tokenizer.no_padding()  # `Tokenizer.pad` pads and cuts
        self.tokenizer.no_truncation()
        # A template that names an unknown token is met at the first text.
        with panics_caught(), contextlib.suppress(Exception):
            self.tokenizer.encode("")

    def vocabulary(self):
        return self.tokenizer.get_vocab(with_added_tokens=True)

    def marked_as_special(self):
        """The tokens that the file calls special."""
        added = self.tokenizer.get_added_tokens_decoder()
        return [token.content for token in added.values() if token.special]

    def of_characters(self):
        """Whether each character is a token, and joined they are the text."""
        parts = json.loads(self.tokenizer.to_str())
        kinds = [(parts[n] or {}).get("type") for n in ("model", "decoder")]
        cut = parts["pre_tokenizer"] or {}
        return (
            kinds == ["WordLevel", "Fuse"]
            and parts["normalizer"] is None
            and cut.get("pattern") == {"Regex": EACH_CHARACTER}
        )

    def encode(self, texts, pairs=None, special=True, target=False):
        """A list of (ids, type of each, word of each, part of each) for the texts.

        The part is 0 or 1, the first or second sentence, and -1 for a token that stands
        around them.

        Args:
            texts: list of strings.
            pairs: list of the second sentences, or None.
            special: whether the tokens around a sentence are added.
            target: without effect: both languages have one vocabulary.
        """
        del target
        items = texts if pairs is None else list(zip(texts, pairs, strict=True))
        made = []
        with panics_caught():
            parts = self.tokenizer.encode_batch(items, add_special_tokens=special)
        for part in parts:
            words, seen = [], {}
            for place in zip(part.sequence_ids, part.word_ids, strict=True):
                known = seen.setdefault(place, len(seen)) if place[1] is not None else 0
                words.append(-1 if place[1] is None else known)
            parts = [-1 if i is None else i for i in part.sequence_ids]
            made.append((part.ids, part.type_ids, words, parts))
        return made

    def decode(self, sequences, special):
        with panics_caught():
            texts = self.tokenizer.decode_batch(
                sequences, skip_special_tokens=not special
            )
        if self._of_clip():
            return [text.replace(END_OF_WORD, " ").strip() for text in texts]
        return texts

    def _of_clip(self):
        """Whether words end with a mark of their own, and bytes are the letters."""
        model = self.tokenizer.model
        byte_level = isinstance(
            self.tokenizer.decoder, hugging_face().decoders.ByteLevel
        )
        return byte_level and getattr(model, "end_of_word_suffix", None) == END_OF_WORD

    def data(self):
        return {"text": self.tokenizer.to_str()}

    def save(self, folder):
        text = self.tokenizer.to_str(pretty=True)
        (folder / "tokenizer.json").write_text(text, "utf-8")
        clip = self._of_clip()
        if clip:  # the files of its class, for readers that know no other
            model = json.loads(text)["model"]
            table = json.dumps(model["vocab"], ensure_ascii=False)
            (folder / "vocab.json").write_text(table, "utf-8")
            merges = ["#version: 0.2", *map(" ".join, model["merges"])]
            (folder / "merges.txt").write_text("\n".join(merges) + "\n", "utf-8")
        name = "CLIPTokenizer" if clip else "PreTrainedTokenizerFast"
        write_settings(folder, {"tokenizer_class": name})


class SentencePiece:
    """One sentencepiece model.

    Args:
        proto: its file, in base64.
        begin: whether a sentence begins with the model's `<s>`.
        end: whether it ends with its `</s>`.
    """

    kind = "sentencepiece"
    head = "spiece.model"

    def __init__(self, proto, begin=False, end=False):
        self.proto = proto
        self.begin = begin
        self.end = end
        self.model = processor(base64.b64decode(proto))

    def vocabulary(self):
        pieces = (self.model.id_to_piece(i) for i in range(self.model.vocab_size()))
        return {piece: i for i, piece in enumerate(pieces)}

    def marked_as_special(self):
        count = range(self.model.vocab_size())
        wanted = [i for i in count if self.model.is_control(i)]
        if self.model.unk_id() >= 0:
            wanted.append(self.model.unk_id())
        return [self.model.id_to_piece(i) for i in wanted]

    def encode(self, texts, pairs=None, special=True, target=False):
        """See `HuggingFace.encode`."""
        del target
        refuse_pairs(pairs)
        made = []
        for text in texts:
            ids = self.model.encode(text)
            words = word_numbers(map(self.model.id_to_piece, ids))
            if special and self.begin:
                ids, words = [self.model.bos_id(), *ids], [-1, *words]
            if special and self.end:
                ids, words = [*ids, self.model.eos_id()], [*words, -1]
            made.append((ids, [0] * len(ids), words, part_numbers(words)))
        return made

    def decode(self, sequences, special):
        if not special:
            return [self.model.decode(list(ids)) for ids in sequences]
        pieces = [[self.model.id_to_piece(i) for i in ids] for ids in sequences]
        return ["".join(part).replace(SPACE, " ").strip() for part in pieces]

    def data(self):
        return {"proto": self.proto, "begin": self.begin, "end": self.end}

    def save(self, folder):
        (folder / "spiece.model").write_bytes(base64.b64decode(self.proto))
        settings = {"add_bos_token": self.begin, "add_eos_token": self.end}
        write_settings(folder, settings)


class SigLIP(SentencePiece):
    """A sentencepiece model of texts without case and punctuation (2303.15343).

    The rules are those of `transformers.SiglipTokenizer`: spaces are made one, the text
    ends with `</s>`.

    Args:
        proto: the model's file, in base64.
        lowercase: whether letters lose their case.
    """

    kind = "siglip"
    marks = ("</s>", "<unk>")  # a text may hold them as tokens

    def __init__(self, proto, lowercase=True):
        super().__init__(proto, end=True)
        self.lowercase = lowercase
        absent = [mark for mark in self.marks if mark not in self.vocabulary()]
        if absent:
            raise ValueError(f"SigLIP's model must hold {', '.join(absent)}.")
        self._unknown = len(self.model.encode("<unk>"))

    def marked_as_special(self):
        return list(self.marks)

    def _canonical(self, text):
        """The text without punctuation, and each run of spaces as one."""
        text = text.lower() if self.lowercase else text
        text = text.translate(str.maketrans("", "", string.punctuation))
        return re.sub(r"\s+", " ", text).strip()

    def _pieces(self, text):
        """The pieces of a text.

        `<unk>` is put before it and taken off again, since sentencepiece would take
        away the space that a text begins with.
        """
        parts = re.split("(</s>|<unk>)", SPACE + text.replace(SPACE, " "))
        for i in range(1, len(parts), 2):
            parts[i - 1], parts[i + 1] = parts[i - 1].rstrip(), parts[i + 1].lstrip()
        pieces = []
        for part in filter(None, parts):
            if part in self.marks:
                pieces.append(part)
                continue
            made = self.model.encode("<unk>" + self._canonical(part), out_type=str)
            pieces += made[self._unknown :] if len(made) >= self._unknown else made
        first = pieces[:1] == [SPACE] and pieces[1:2] and pieces[1] in self.marks
        return pieces[1:] if first else pieces

    def encode(self, texts, pairs=None, special=True, target=False):
        """See `HuggingFace.encode`."""
        del target
        refuse_pairs(pairs)
        made = []
        for text in texts:
            pieces = self._pieces(text)
            words = word_numbers(pieces)
            for i, piece in enumerate(pieces):
                words[i] = -1 if piece in self.marks else words[i]
            if special and pieces[-1:] != ["</s>"]:
                pieces, words = [*pieces, "</s>"], [*words, -1]
            ids = [self.model.piece_to_id(piece) for piece in pieces]
            made.append((ids, [0] * len(ids), words, part_numbers(words)))
        return made

    def decode(self, sequences, special):
        texts = []
        for ids in sequences:
            text, run, marked = "", [], False
            for piece in [*(self.model.id_to_piece(i) for i in ids), None]:
                if piece is not None and piece not in self.marks:
                    run.append(piece)
                    marked = False
                elif piece is None or special:
                    gap = "" if marked or piece is None else " "
                    text += gap + self.model.decode(run) + (piece or "")
                    run, marked = [], True
            texts.append(text.strip())
        return texts

    def data(self):
        return {"proto": self.proto, "lowercase": self.lowercase}

    def save(self, folder):
        (folder / "spiece.model").write_bytes(base64.b64decode(self.proto))
        settings = {"tokenizer_class": "SiglipTokenizer"}
        write_settings(folder, {**settings, "do_lower_case": self.lowercase})


class Marian:
    """The vocabulary of a Marian translator: two sentencepiece models, one table.

    Args:
        source: the file `source.spm`, in base64.
        target: the file `target.spm`, in base64.
        table: dict piece -> id.
    """

    kind = "marian"
    head = "vocab.json"

    def __init__(self, source, target, table):
        self.files = source, target
        if not isinstance(table, dict) or not all(
            type(i) is int and 0 <= i < 2**31 for i in table.values()
        ):
            raise ValueError("A Marian vocab.json must hold an id for each piece.")
        self.table = table
        self.pieces = {i: piece for piece, i in table.items()}
        self.models = [processor(base64.b64decode(file)) for file in self.files]
        absent = [t for t in ("</s>", "<unk>", "<pad>") if t not in table]
        if absent:
            raise ValueError(f"A Marian vocab.json must hold {', '.join(absent)}.")

    def vocabulary(self):
        return self.table

    def marked_as_special(self):
        return ["</s>", "<unk>", "<pad>"]

    def encode(self, texts, pairs=None, special=True, target=False):
        """See `HuggingFace.encode`.

        Args:
            target: whether the texts are in the language that is translated to.
        """
        refuse_pairs(pairs)
        made, unknown = [], self.table["<unk>"]
        for text in texts:
            # A code such as >>fra<<, which names the language, is one token.
            end = text.find("<<") if text.startswith(">>") else -1
            cut = end + 2 if end >= 0 else 0
            code, text = ([text[:cut]] if cut else []), text[cut:]
            pieces = code + self.models[bool(target)].encode(text, out_type=str)
            ids = [self.table.get(piece, unknown) for piece in pieces]
            words = [-1] * len(code) + word_numbers(pieces[len(code) :])
            if special:
                ids, words = [*ids, self.table["</s>"]], [*words, -1]
            made.append((ids, [0] * len(ids), words, part_numbers(words)))
        return made

    def decode(self, sequences, special):
        """The texts of the language that is translated to."""
        marks = set() if special else set(self.marked_as_special())
        made = []
        for ids in sequences:
            pieces = [self.pieces.get(int(i), "<unk>") for i in ids]
            pieces = [piece for piece in pieces if piece not in marks]
            text = self.models[1].decode_pieces(pieces)
            made.append(text.replace(SPACE, " ").strip())
        return made

    def data(self):
        return {"source": self.files[0], "target": self.files[1], "table": self.table}

    def save(self, folder):
        for name, file in zip(MARIAN_FILES, self.files, strict=False):
            (folder / name).write_bytes(base64.b64decode(file))
        text = json.dumps(self.table, ensure_ascii=False, indent=2)
        (folder / "vocab.json").write_text(text, "utf-8")


KINDS = {kind.kind: kind for kind in (HuggingFace, SentencePiece, SigLIP, Marian)}


def refuse_pairs(pairs):
    if pairs is not None:
        raise ValueError(
            "This tokenizer has no form for pairs of sentences. Encode each alone, or "
            "take one of BERT's (vocab.txt)."
        )


def shortened(part, length):
    """An encoded text or pair of at most `length` tokens.

    The longer sentence loses its last token, the second where both are as long, until
    all fit (1810.04805's own code). What stands around the sentences stays.

    Args:
        part: `(ids, types, words, parts)`, see `HuggingFace.encode`.
        length: most tokens.
    """
    ids, _, words, parts = part
    if len(ids) <= length:
        return part
    left = [parts.count(0), parts.count(1)]
    around = len(ids) - sum(left)
    if around > length:
        raise ValueError(
            f"length must be at least {around}, for the tokens around the texts; got "
            f"{length}."
        )
    while around + sum(left) > length:
        left[0 if left[0] > left[1] else 1] -= 1
    kept, seen = [], [0, 0]
    for i, sentence in enumerate(parts):
        if sentence >= 0:
            seen[sentence] += 1
        if sentence < 0 or seen[sentence] <= left[sentence]:
            kept.append(i)
    cut = [[values[i] for i in kept] for values in part]
    # Words are numbered by those that are left.
    numbers = {w: n for n, w in enumerate(dict.fromkeys(w for w in cut[2] if w >= 0))}
    cut[2] = [numbers.get(word, -1) for word in cut[2]]
    return tuple(cut)


def part_numbers(words):
    """The part of each token of a single text: 0, and -1 around it."""
    return [0 if word >= 0 else -1 for word in words]


def word_numbers(pieces):
    """The number of the word that each piece belongs to: a new one at each space."""
    words = []
    for i, piece in enumerate(pieces):
        last = words[-1] if words else 0
        words.append(last + (i > 0 and piece.startswith(SPACE)))
    return words


def write_settings(folder, settings):
    """Adds to the `tokenizer_config.json` of a folder that is being written."""
    path = pathlib.Path(folder) / "tokenizer_config.json"
    known = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    text = json.dumps({**known, **settings}, indent=2, sort_keys=True)
    path.write_text(text + "\n", "utf-8")


# Making tokenizers


def byte_level(model, prefix=False):
    """A byte-level BPE as GPT-2 has it.

    Args:
        model: of `tokenizers.models`.
        prefix: whether a space comes before the first word.
    """
    library = hugging_face()
    tokenizer = library.Tokenizer(model)
    byte = library.pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.pre_tokenizer = byte
    tokenizer.decoder = library.decoders.ByteLevel()
    tokenizer.post_processor = library.processors.ByteLevel(trim_offsets=False)
    return tokenizer


def clip(model, start="<|startoftext|>", end="<|endoftext|>"):
    """A byte-level BPE as CLIP has it (2103.00020, section 2.4).

    Letters lose their case, spaces are made one, and a text stands between its start
    and its end token.

    Args:
        model: of `tokenizers.models`, with `END_OF_WORD` as its suffix.
        start, end: tokens of the vocabulary.
    """
    library = hugging_face()
    tokenizer = library.Tokenizer(model)
    tokenizer.normalizer = library.normalizers.Sequence(
        [
            library.normalizers.NFC(),
            library.normalizers.Replace(library.Regex(r"\s+"), " "),
            library.normalizers.Lowercase(),
        ]
    )
    tokenizer.pre_tokenizer = library.pre_tokenizers.Sequence(
        [
            library.pre_tokenizers.Split(
                library.Regex(CLIP_WORDS), behavior="removed", invert=True
            ),
            library.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = library.decoders.ByteLevel()
    ids = [tokenizer.token_to_id(token) for token in (end, start)]
    if None not in ids:
        tokenizer.post_processor = library.processors.RobertaProcessing(
            (end, ids[0]), (start, ids[1]), trim_offsets=False, add_prefix_space=False
        )
    return tokenizer


def train_clip(texts, vocabulary_size, special_tokens, min_frequency):
    """CLIP's tokenizer with byte pairs of its own.

    The ids are in the order of OpenAI's vocabulary: the bytes, the bytes that end a
    word, the pairs, then the special tokens with the end token last, whose id is thus
    the largest of every text.

    Args:
        texts: iterable of strings.
        vocabulary_size: number of tokens at most.
        special_tokens: list of tokens before the start and the end token.
        min_frequency: how often a pair must be met to become a token.
    """
    library = hugging_face()
    special = [*special_tokens, "<|startoftext|>", "<|endoftext|>"]
    special = list(dict.fromkeys(special))
    letters = sorted(library.pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + END_OF_WORD for letter in letters)]
    room = vocabulary_size - len(tokens) - len(special)
    if room < 0:
        raise ValueError(
            f"vocabulary_size must be at least {len(tokens) + len(special)} for CLIP's "
            f"bytes and special tokens; got {vocabulary_size}."
        )
    model = library.models.BPE(end_of_word_suffix=END_OF_WORD)
    tokenizer = clip(model)
    # Called special they get their ids first. Else those at the ends of words get them
    # in an order that differs between processes, which decides between equal pairs.
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=min_frequency,
        show_progress=False,
        special_tokens=tokens,
        end_of_word_suffix=END_OF_WORD,
    )
    tokenizer.train_from_iterator(texts, trainer)
    pairs = json.loads(tokenizer.to_str())["model"]["merges"][:room]
    tokens = dict.fromkeys([*tokens, *map("".join, pairs), *special])
    made = clip(
        library.models.BPE(
            {token: i for i, token in enumerate(tokens)},
            [tuple(pair) for pair in pairs],
            unk_token="<|endoftext|>",
            end_of_word_suffix=END_OF_WORD,
        )
    )
    made.add_special_tokens(special)
    return made


def word_piece(model, lowercase, **how):
    """BERT's cutting of text into words.

    Args:
        model: of `tokenizers.models`.
        lowercase: whether letters lose case and accents.
        **how: other arguments of the library's `BertNormalizer`.
    """
    library = hugging_face()
    tokenizer = library.Tokenizer(model)
    tokenizer.normalizer = library.normalizers.BertNormalizer(
        lowercase=lowercase, **how
    )
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = library.decoders.WordPiece()
    return tokenizer


def around_sentences(tokenizer, first="[CLS]", last="[SEP]"):
    """Puts BERT's tokens around sentences and pairs of them."""
    ids = [(token, tokenizer.token_to_id(token)) for token in (first, last)]
    absent = [token for token, i in ids if i is None]
    if absent:
        raise ValueError(f"The vocabulary lacks {' and '.join(absent)}.")
    tokenizer.post_processor = hugging_face().processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=ids,
    )
    return tokenizer
