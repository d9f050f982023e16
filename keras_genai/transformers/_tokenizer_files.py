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
    "bos": ("<s>", "<|begin_of_text|>", "<bos>", "<|startoftext|>"),
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
CLIP, SIGLIP = "CLIPTokenizer", "SiglipTokenizer"
PLAIN = ("PreTrainedTokenizer", "TokenizersBackend")  # without rules of their own
CLASSES = {
    WHOLE: (*PLAIN, "GPT2Tokenizer", *BERTS, *LLAMAS, CLIP),
    MARIAN: ("MarianTokenizer",),
    PAIRS: (*PLAIN, "GPT2Tokenizer", CLIP),
    WORDS: (*PLAIN, *BERTS),
    PIECES: (*LLAMAS, SIGLIP),
}
# The class of a folder whose `config.json` has this type, where nothing else names it.
OF_MODELS = {
    "clip": CLIP,
    "clip_text_model": CLIP,
    "clipseg": CLIP,
    "siglip": SIGLIP,
    "siglip_text_model": SIGLIP,
    "siglip2": "Siglip2Tokenizer",
    "metaclip_2": "XLMRobertaTokenizer",
}
# The tokens of a class that its files do not name.
NAMED = {
    CLIP: {
        "bos": "<|startoftext|>",
        "eos": "<|endoftext|>",
        "unk": "<|endoftext|>",
        "pad": "<|endoftext|>",
    },
    SIGLIP: {"eos": "</s>", "unk": "<unk>", "pad": "</s>"},
}
LENGTHS = {SIGLIP: 64}  # the most tokens of a text, where the files do not say
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
    "model_max_length": (None, _keys.POSITIVE | _keys.NULL),
    "added_tokens_decoder": (None, _keys.OBJECT | _keys.NULL),
}
NORMALIZER = {  # key -> that of the library
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


def read(source, subfolder=None, lowercase=None):
    """The tokenizer of a folder, a file or an id of the hub; see `Tokenizer.load`.

    Returns:
        `(kind, data, special, max_length)`, the arguments of `Tokenizer`; `special`
        may name tokens that the vocabulary lacks.
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
    name = _class_of(folder, settings)[0]
    if name is None and WHOLE not in names and _tells_clip(folder, names):
        name = settings["tokenizer_class"] = CLIP
    named = {**NAMED.get(name, {}), **_named_tokens(folder)}
    found = _of_folder(folder, names, settings, named, lowercase, path)
    length = settings["model_max_length"] or LENGTHS.get(name)
    # What has no limit is written as 1e30.
    length = None if length is None or length > _keys.LARGEST else int(length)
    return *found, named, length


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
    pieces = sorted(n for n in names if n.endswith((".spm", ".model")))
    if _class_of(folder, settings)[0] == SIGLIP and len(pieces) == 1:
        return "siglip", _siglip(folder / pieces[0], settings)
    whole = path is not None and path.suffix == ".json" and path.name != "vocab.json"
    if whole or WHOLE in names:
        path = path if whole else folder / WHOLE
        name = _check_class(folder, settings, WHOLE)
        if name == CLIP:
            return "tokenizers", {"text": _clip_of_whole(path, settings, named)}
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
        name = _check_class(folder, settings, PAIRS)
        return "tokenizers", {"text": _pairs(folder, settings, named, name)}
    words = path is not None and path.suffix == ".txt" and path.name != PAIRS
    if words or WORDS in names:
        _check_class(folder, settings, WORDS)
        path = path if words else folder / WORDS
        return "tokenizers", {"text": _bert(path, settings, lowercase).to_str()}
    if len(pieces) == 1:
        name = _check_class(folder, settings, PIECES)
        proto, model = _processor(folder / pieces[0])
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


def _class_of(folder, settings):
    """The class of a folder's tokenizer, without "Fast", and the file that names it.

    The class is None where no file names one.
    """
    name, place = settings["tokenizer_class"], folder / "tokenizer_config.json"
    if name is None and (folder / "config.json").is_file():
        place = folder / "config.json"
        config = read_json(place)
        name = config.get("tokenizer_class")
        name = OF_MODELS.get(str(config.get("model_type"))) if name is None else name
    return name.removesuffix("Fast") if isinstance(name, str) else name, place


def _tells_clip(folder, names):
    """Whether byte pairs are CLIP's, by their tokens alone."""
    if not {"vocab.json", PAIRS} <= names:
        return False
    known = read_json(folder / "vocab.json")
    ends = any(token.endswith(vocabularies.END_OF_WORD) for token in known)
    return ends and NAMED[CLIP]["bos"] in known


def _check_class(folder, settings, kind):
    """The class that a folder's tokenizer is of, without "Fast", or None.

    Raises:
        ValueError: it is none whose rules are those of such files.
    """
    name, place = _class_of(folder, settings)
    if name is not None and name not in CLASSES[kind]:
        known = ", ".join(CLASSES[kind])
        what = kind if kind == PIECES else f"a {kind}"
        raise ValueError(
            f"{place} names the tokenizer {name!r}, whose rules are not known here: of "
            f"{what}, those of {known} are read."
        )
    return name


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


def _pairs(folder, settings, named, name):
    """GPT-2's or CLIP's tokenizer of a `vocab.json` and a `merges.txt`."""
    library = vocabularies
    files = [folder / n for n in ("vocab.json", PAIRS)]
    read_json(files[0]), read_text(files[1])
    with library.guarded(f"{files[0]} and {files[1].name} are damaged"):
        bpe = library.hugging_face().models.BPE
        known, merges = bpe.read_file(*map(str, files))
        _check_ids(files[0], known)
        ends = sum(token.endswith(library.END_OF_WORD) for token in known)
        if name == CLIP:
            return _clip(files[0], known, merges, {}, settings, named)
        if 2 * ends > len(known) > 0:
            raise ValueError(
                f"{files[0]} is not of GPT-2: its words end with </w>, as those of "
                "tokenizers do whose rules are not known here."
            )
        tokenizer = library.byte_level(
            bpe(known, merges), bool(settings["add_prefix_space"])
        )
        marks = [t for t in (*ROLES["eos"], *ROLES["bos"]) if t in known]
        tokenizer.add_special_tokens(marks)
        if settings["add_bos_token"] or settings["add_eos_token"]:
            _around(tokenizer, settings, {"bos": "<|endoftext|>", **named})
        return tokenizer.to_str()


def _check_ids(path, known):
    try:
        vocabularies.check_ids(known)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _clip_of_whole(path, settings, named):
    """CLIP's tokenizer of a `tokenizer.json`, of which the pairs are taken."""
    content = read_json(path)
    model, added = content.get("model"), content.get("added_tokens")
    model = model if isinstance(model, dict) else {}
    known, merges = model.get("vocab"), model.get("merges")
    merges = merges if isinstance(merges, list) else [None]
    merges = [m.split(" ") if isinstance(m, str) else m for m in merges]
    pairs = all(isinstance(m, list) and len(m) == 2 for m in merges)
    if not pairs or not all(isinstance(part, str) for m in merges for part in m):
        raise ValueError(f"{path} is damaged: it holds no byte pairs, as CLIP's does.")
    if not isinstance(known, dict) or not all(type(i) is int for i in known.values()):
        raise ValueError(f"{path} is damaged: it holds no id for each token.")
    _check_ids(path, known)
    added = added if isinstance(added, list) else []
    merges = [tuple(pair) for pair in merges]
    added = {str(t.get("id")): t for t in added if isinstance(t, dict)}
    return _clip(path, known, merges, added, settings, named)


def _clip(path, known, merges, added, settings, named):
    """CLIP's tokenizer of a vocabulary.

    Args:
        path: of the file, for messages.
        known: dict token -> id.
        merges: list of pairs.
        added: dict id -> token as a `tokenizer.json` describes it: where the settings
            do not.
        settings: see `_settings`.
        named: dict role -> token.
    """
    library = vocabularies
    roles = {role: named[role] for role in ("bos", "eos", "unk", "pad")}
    needed = [roles[role] for role in ("bos", "eos", "unk")]
    absent = [token for token in needed if token not in known]
    if absent or not any(token.endswith(library.END_OF_WORD) for token in known):
        what = ", ".join(absent) if absent else "tokens that end with </w>"
        raise ValueError(f"{path} is not of CLIP: it lacks {what}.")
    with library.guarded(f"{path} is damaged"):
        tokenizer = library.clip(
            library.hugging_face().models.BPE(
                known,
                merges,
                unk_token=roles["unk"],
                end_of_word_suffix=library.END_OF_WORD,
            ),
            roles["bos"],
            roles["eos"],
        )
        if settings["added_tokens_decoder"] is not None:
            added = settings["added_tokens_decoder"]
        else:
            added = {**_added_by_hand(path.parent, roles), **added}
        _add_tokens(path, tokenizer, added, _described_tokens(path.parent), roles)
        return tokenizer.to_str()


def _added_by_hand(folder, roles):
    """The tokens of an `added_tokens.json`, dict id -> token as others describe it."""
    path = folder / "added_tokens.json"
    found = {}
    for token, number in (read_json(path) if path.is_file() else {}).items():
        special = token in roles.values()
        how = {"content": token, "special": special, "normalized": not special}
        found[str(number)] = how
    return found


def _add_tokens(path, tokenizer, added, described, roles):
    """Marks the tokens that are never cut, as `transformers` does.

    Args:
        path: of the file, for messages.
        tokenizer: of the library; gets the tokens.
        added: dict id -> token with its properties.
        described: dict role -> the properties that the settings give its token.
        roles: dict role -> token, in the order in which they are marked.
    """
    library = vocabularies.hugging_face()

    def made(token, how, special):
        how = how if isinstance(how, dict) else {}
        flags = {
            name: how[name]
            for name in ("single_word", "lstrip", "rstrip", "normalized")
            if isinstance(how.get(name), bool)
        }
        return library.AddedToken(token, **{"special": special, **flags})

    numbers = {}
    for number, how in added.items():
        content = how.get("content") if isinstance(how, dict) else None
        if not isinstance(content, str) or not str(number).isdecimal():
            raise ValueError(f"{path}: its added tokens are damaged ({number!r}).")
        special = bool(how.get("special")) or content in roles.values()
        numbers[int(number)] = made(content, how, special)
    for number, token in sorted(numbers.items()):
        tokenizer.add_tokens([token])
        if tokenizer.token_to_id(token.content) != number:
            raise ValueError(
                f"{path}: the added token {token.content!r} has the id {number}, which "
                "does not follow on the vocabulary."
            )
    present = {token.content for token in numbers.values()}
    for role, token in roles.items():
        if token not in present and tokenizer.token_to_id(token) is not None:
            tokenizer.add_special_tokens([made(token, described.get(role), True)])


def _processor(path):
    """The bytes of a sentencepiece model, and what reads texts by it."""
    proto = path.read_bytes()
    try:
        return proto, vocabularies.processor(proto)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _siglip(path, settings):
    """SigLIP's tokenizer of a sentencepiece model."""
    proto, _ = _processor(path)
    lowercase = settings["do_lower_case"]
    return {
        "proto": base64.b64encode(proto).decode(),
        "lowercase": True if lowercase is None else lowercase,
    }


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
    tokens = _described_tokens(folder).items()
    return {r: t["content"] if isinstance(t, dict) else t for r, t in tokens}


def _described_tokens(folder):
    """What a folder's settings say of the roles: dict role -> token, or its properties.

    As in `transformers`, `special_tokens_map.json` goes before `tokenizer_config.json`,
    but where that lists the tokens that were added.
    """
    found = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        settings = read_json(path) if path.is_file() else {}
        for role in ROLES:
            how = settings.get(f"{role}_token")
            token = how.get("content") if isinstance(how, dict) else how
            if how is None:
                continue
            if not isinstance(token, str):
                _keys.refuse(
                    path,
                    [f"{role}_token must be a string; it is {_keys.short(token)}"],
                    "a tokenizer",
                )
            found[role] = how
        if settings.get("added_tokens_decoder") is not None:
            break
    return found
