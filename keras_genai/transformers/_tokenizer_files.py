"""The files that tokenizers are published in, read."""

import base64
import json
import pathlib

from keras_genai.transformers import _vocabularies as vocabularies
from keras_genai.utils.files import reading
from keras_genai.weights import _keys
from keras_genai.weights._safetensors import fetch, read_json, read_text

# Roles of special tokens, and the names that they have in published vocabularies.
ROLES = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "bos": ("<s>", "<|begin_of_text|>", "<bos>"),
    "eos": ("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>"),
    "cls": ("[CLS]",),
    "sep": ("[SEP]",),
    "mask": ("[MASK]", "<mask>"),
}
BERT_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WHOLE, MARIAN, PAIRS, WORDS, PIECES = (
    "tokenizer.json",
    "source.spm",
    "merges.txt",
    "vocab.txt",
    "sentencepiece",
)
FILES = "tokenizer.json, vocab.json with merges.txt, vocab.txt, source.spm with " + (
    "target.spm and vocab.json, or one .spm or .model"
)
# The classes of transformers whose rules are those of a kind of files. A whole file
# says its rules itself, where the class adds none.
BERTS = ("BertTokenizer", "DistilBertTokenizer", "ElectraTokenizer")
LLAMAS = ("LlamaTokenizer",)
PLAIN = ("PreTrainedTokenizer", "TokenizersBackend")  # without rules of their own
CLASSES = {
    WHOLE: (*PLAIN, "GPT2Tokenizer", *BERTS, *LLAMAS),
    MARIAN: ("MarianTokenizer",),
    PAIRS: (*PLAIN, "GPT2Tokenizer"),
    WORDS: (*PLAIN, *BERTS),
    PIECES: LLAMAS,
}
# What `tokenizer_config.json` may say of them: the values are transformers' defaults,
# None where they are the file's own.
KEYS = {
    "tokenizer_class": (None, _keys.TEXT | _keys.NULL),
    "do_lower_case": (None, _keys.FLAG | _keys.NULL),
    "strip_accents": (None, _keys.FLAG | _keys.NULL),
    "tokenize_chinese_chars": (None, _keys.FLAG | _keys.NULL),
    "do_basic_tokenize": (True, _keys.one_of(True, None)),
    "add_bos_token": (None, _keys.FLAG | _keys.NULL),
    "add_eos_token": (None, _keys.FLAG | _keys.NULL),
    "add_prefix_space": (None, _keys.FLAG | _keys.NULL),
    "separate_vocabs": (False, _keys.one_of(False, None)),
}
NORMALIZER = {  # key -> that of the library
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


def read(source, subfolder=None, lowercase=None):
    """The tokenizer of a folder, a file or an id of the hub; see `Tokenizer.load`.

    Returns:
        `(kind, data, special)`, the arguments of `Tokenizer`; `special` may name
        tokens that the vocabulary lacks.
    """
    path = pathlib.Path(source)
    single = path.is_file()
    patterns = ("*.json", "*.txt", "*.spm", "*.model")
    folder = path.parent if single else fetch(source, subfolder, patterns)
    with reading(folder):
        return _read(path if single else None, folder, lowercase)


def _read(path, folder, lowercase):
    """The tokenizer of a file, or without one of a folder; see `read`."""
    if path is not None:
        names = {path.name}
        there = {p.name for p in folder.iterdir()}
        if path.name == "merges.txt":
            names.add("vocab.json")
        elif path.name == "vocab.json":
            names |= there & {"merges.txt", "source.spm", "target.spm"}
    else:
        names = {p.name for p in folder.iterdir()}
    settings = _settings(folder)
    named = _named_tokens(folder)
    return *_of_folder(folder, names, settings, named, lowercase, path), named


def _of_folder(folder, names, settings, named, lowercase, path):
    """The kind and the data of the tokenizer in a folder.

    Args:
        folder: path.
        names: set of the names of its files.
        settings: see `_settings`.
        named: dict role -> token.
        lowercase: see `Tokenizer.load`.
        path: the file that was given, or None.
    """
    library = vocabularies
    whole = path is not None and path.suffix == ".json" and path.name != "vocab.json"
    if whole or WHOLE in names:
        path = path if whole else folder / WHOLE
        name = _check_class(folder, settings, WHOLE)
        return "tokenizers", {"text": _whole(path, name, settings, named)}
    if {"source.spm", "target.spm"} <= names:
        _check_class(folder, settings, MARIAN)
        source, target = (
            base64.b64encode((folder / n).read_bytes()).decode()
            for n in library.MARIAN_FILES[:2]
        )
        table = read_json(folder / "vocab.json")
        return "marian", {"source": source, "target": target, "table": table}
    if {"vocab.json", PAIRS} <= names:
        _check_class(folder, settings, PAIRS)
        return "tokenizers", {"text": _pairs(folder, settings, named)}
    words = path is not None and path.suffix == ".txt" and path.name != PAIRS
    if words or WORDS in names:
        _check_class(folder, settings, WORDS)
        path = path if words else folder / WORDS
        return "tokenizers", {"text": _bert(path, settings, lowercase).to_str()}
    pieces = sorted(n for n in names if n.endswith((".spm", ".model")))
    if len(pieces) == 1:
        name = _check_class(folder, settings, PIECES)
        proto = (folder / pieces[0]).read_bytes()
        try:
            model = library.processor(proto)
        except ValueError as error:
            raise ValueError(f"{folder / pieces[0]}: {error}") from error
        begin = settings["add_bos_token"]
        begin = name in LLAMAS if begin is None else begin  # Llama's own default
        return "sentencepiece", {
            "proto": base64.b64encode(proto).decode(),
            "begin": begin and model.bos_id() >= 0,
            "end": bool(settings["add_eos_token"]) and model.eos_id() >= 0,
        }
    raise ValueError(
        f"There is no tokenizer in {folder}, which holds: "
        f"{', '.join(sorted(names)) or 'nothing'}. Known are {FILES}."
    )


def _check_class(folder, settings, kind):
    """The class that a folder's tokenizer is of, without "Fast", or None.

    Raises:
        ValueError: it is none whose rules are those of such files.
    """
    name, place = settings["tokenizer_class"], folder / "tokenizer_config.json"
    if name is None and (folder / "config.json").is_file():
        place = folder / "config.json"
        config = read_json(place)
        name = config.get("tokenizer_class")
        if name is None and str(config.get("model_type")).startswith("clip"):
            name = "CLIPTokenizer"
    if name is None:
        return None
    plain = name.removesuffix("Fast") if isinstance(name, str) else name
    if plain not in CLASSES[kind]:
        known = ", ".join(CLASSES[kind])
        what = kind if kind == PIECES else f"a {kind}"
        raise ValueError(
            f"{place} names the tokenizer {name!r}, whose rules are not known here: of "
            f"{what}, those of {known} are read."
        )
    return plain


def _whole(path, name, settings, named):
    """A `tokenizer.json`, and what the settings add to it."""
    text = read_text(path)
    changed = {
        own: settings[key]
        for key, own in NORMALIZER.items()
        if name in BERTS and settings[key] is not None
    }
    around = settings["add_bos_token"] or settings["add_eos_token"]
    if not changed and not around:
        return text
    try:
        made = vocabularies.HuggingFace(text).tokenizer
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    if around and name not in BERTS and made.post_processor is None:
        _around(made, settings, named)
    content = json.loads(made.to_str())
    normalizer = content["normalizer"] or {}
    if normalizer.get("type") == "BertNormalizer":
        normalizer.update(changed)
    return json.dumps(content, ensure_ascii=False)


def _around(tokenizer, settings, named):
    """Puts the first and the last token around texts, as the settings say."""
    first, last = (
        named.get(role) if settings[f"add_{role}_token"] else None
        for role in ("bos", "eos")
    )
    ids = [(t, tokenizer.token_to_id(t)) for t in (first, last) if t is not None]
    if any(i is None for _, i in ids):
        return
    single = [part for part in (first, "$A", last) if part is not None]
    pair = [f"{first}:1"] if first is not None else []
    pair += ["$B:1"] + ([f"{last}:1"] if last is not None else [])
    tokenizer.post_processor = (
        vocabularies.hugging_face().processors.TemplateProcessing(
            single=single, pair=single + pair, special_tokens=ids
        )
    )


def _pairs(folder, settings, named):
    """GPT-2's tokenizer of a `vocab.json` and a `merges.txt`."""
    library = vocabularies
    files = [folder / name for name in ("vocab.json", PAIRS)]
    read_json(files[0]), read_text(files[1])
    with library.guarded(f"{files[0]} and {files[1].name} are damaged"):
        model = library.hugging_face().models.BPE.from_file(*map(str, files))
        tokenizer = library.byte_level(model, bool(settings["add_prefix_space"]))
        known = tokenizer.get_vocab()
        if 2 * sum(token.endswith("</w>") for token in known) > len(known) > 0:
            raise ValueError(
                f"{files[0]} is not of GPT-2: its words end with </w>, as CLIP's do, "
                "whose rules are not known here."
            )
        marks = [t for t in (*ROLES["eos"], *ROLES["bos"]) if t in known]
        tokenizer.add_special_tokens(marks)
        if settings["add_bos_token"] or settings["add_eos_token"]:
            _around(tokenizer, settings, {"bos": "<|endoftext|>", **named})
        return tokenizer.to_str()


def _bert(path, settings, lowercase):
    """BERT's tokenizer of a `vocab.txt`."""
    library = vocabularies.hugging_face()
    tokens = read_text(path).rstrip("\n").split("\n")
    if lowercase is None:
        lowercase = settings["do_lower_case"]
    if lowercase is None:
        plain = (t for t in tokens if not (t.startswith("[") and t.endswith("]")))
        lowercase = not any(c.isupper() for token in plain for c in token)
    how = {NORMALIZER[key]: settings[key] for key in list(NORMALIZER)[1:]}
    with vocabularies.guarded(f"{path} is damaged"):
        model = library.models.WordPiece(
            {token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"
        )
        tokenizer = vocabularies.word_piece(
            model, lowercase, **{key: v for key, v in how.items() if v is not None}
        )
        try:
            vocabularies.around_sentences(tokenizer)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        tokenizer.add_special_tokens([t for t in BERT_TOKENS if t in set(tokens)])
    return tokenizer


def _settings(folder):
    """What `tokenizer_config.json` says of the rules: dict of all `KEYS`."""
    path = folder / "tokenizer_config.json"
    found = read_json(path) if path.is_file() else {}
    return _keys.read(found, path, KEYS, of="a tokenizer")


def _named_tokens(folder):
    """What a folder's settings say of the roles: dict role -> token."""
    found = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        settings = read_json(path) if path.is_file() else {}
        for role in ROLES:
            token = settings.get(f"{role}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if token is not None and not isinstance(token, str):
                _keys.refuse(
                    path,
                    [f"{role}_token must be a string; it is {_keys.short(token)}"],
                    "a tokenizer",
                )
            if token is not None:
                found[role] = token
    return found
