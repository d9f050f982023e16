"""The files that tokenizers are published in, read."""

import base64
import pathlib

from keras_genai.transformers import _vocabularies as vocabularies
from keras_genai.utils.files import reading
from keras_genai.weights._safetensors import fetch, read_json

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
FILES = "tokenizer.json, vocab.json with merges.txt, vocab.txt, source.spm with " + (
    "target.spm and vocab.json, or one .spm or .model"
)


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
        if path.name == "merges.txt":
            names.add("vocab.json")
        elif path.name == "vocab.json":
            there = {p.name for p in folder.iterdir()}
            names |= there & {"merges.txt", "source.spm", "target.spm"}
        elif path.suffix == ".json":
            text = path.read_text("utf-8")
            return "tokenizers", {"text": text}, _named_tokens(folder)
        elif path.suffix == ".txt":
            text = _bert(path, lowercase).to_str()
            return "tokenizers", {"text": text}, _named_tokens(folder)
    else:
        names = {p.name for p in folder.iterdir()}
    return *_of_folder(folder, names, lowercase), _named_tokens(folder)


def _of_folder(folder, names, lowercase):
    """The kind and the data of the tokenizer in a folder."""
    library = vocabularies
    if "tokenizer.json" in names:
        return "tokenizers", {"text": (folder / "tokenizer.json").read_text("utf-8")}
    if {"source.spm", "target.spm"} <= names:
        source, target = (
            base64.b64encode((folder / n).read_bytes()).decode()
            for n in library.MARIAN_FILES[:2]
        )
        table = read_json(folder / "vocab.json")
        return "marian", {"source": source, "target": target, "table": table}
    if {"vocab.json", "merges.txt"} <= names:
        model = library.hugging_face().models.BPE.from_file(
            str(folder / "vocab.json"), str(folder / "merges.txt")
        )
        tokenizer = library.byte_level(model)
        known = tokenizer.get_vocab()
        marks = [t for t in (*ROLES["eos"], *ROLES["bos"]) if t in known]
        tokenizer.add_special_tokens(marks)
        return "tokenizers", {"text": tokenizer.to_str()}
    if "vocab.txt" in names:
        text = _bert(folder / "vocab.txt", lowercase).to_str()
        return "tokenizers", {"text": text}
    pieces = sorted(n for n in names if n.endswith((".spm", ".model")))
    if len(pieces) == 1:
        proto = (folder / pieces[0]).read_bytes()
        settings = _settings(folder)
        model = library.processor(proto)
        return "sentencepiece", {
            "proto": base64.b64encode(proto).decode(),
            "begin": bool(settings.get("add_bos_token", False)) and model.bos_id() >= 0,
            "end": bool(settings.get("add_eos_token", False)) and model.eos_id() >= 0,
        }
    raise ValueError(
        f"There is no tokenizer in {folder}, which holds: "
        f"{', '.join(sorted(names)) or 'nothing'}. Known are {FILES}."
    )


def _bert(path, lowercase):
    """BERT's tokenizer of a `vocab.txt`."""
    library = vocabularies.hugging_face()
    tokens = path.read_text("utf-8").rstrip("\n").split("\n")
    if lowercase is None:
        lowercase = _settings(path.parent).get("do_lower_case")
    if lowercase is None:
        plain = (t for t in tokens if not (t.startswith("[") and t.endswith("]")))
        lowercase = not any(c.isupper() for token in plain for c in token)
    model = library.models.WordPiece(
        {token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"
    )
    tokenizer = vocabularies.word_piece(model, lowercase)
    vocabularies.around_sentences(tokenizer)
    tokenizer.add_special_tokens([t for t in BERT_TOKENS if t in set(tokens)])
    return tokenizer


def _settings(folder):
    path = folder / "tokenizer_config.json"
    return read_json(path) if path.is_file() else {}


def _named_tokens(folder):
    """What a folder's settings say of the roles: dict role -> token."""
    found = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / name
        settings = read_json(path) if path.is_file() else {}
        for role in ROLES:
            token = settings.get(f"{role}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if token is not None:
                found[role] = token
    return found
