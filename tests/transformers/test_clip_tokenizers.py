"""CLIP's and SigLIP's tokenizers give the ids of transformers' own, both ways."""

import json
import lzma

import keras
import numpy as np
import pytest

from keras_genai.datasets import _files
from keras_genai.transformers import Tokenizer

transformers = pytest.importorskip("transformers")
pytest.importorskip("tokenizers")
sentencepiece = pytest.importorskip("sentencepiece")

pytestmark = pytest.mark.once

LANGUAGES = ("en", "es", "ja", "ru", "hi", "zh")
ODD = [
    "",
    " ",
    "A  Photo\tof\na CAT!  isn't\x00it? we'LL see; don't",
    "a!! b ! c!d #$%& 'quoted' it's 3.14 and 12345",
    "caf\u00e9 cafe\u0301 na\u00efve \ufb01ne \u00c5ngstr\u00f6m \u0130stanbul \u00df",
    "\U0001f600 \U0001f468\u200d\U0001f467 \U0001f1ea\U0001f1f8 \u2764\ufe0f",
    "\x00\x01\x1f\x7f\u0080\u00a0\u200b\u2028\ufeff\u3000x",
    "<|startoftext|> in <|endoftext|>the text<|ENDOFTEXT|>",
    "</s> in the </s> text <unk>, with <pad>\u2581 and </s>",
    "{} __init__ a-b_c (d) [e] \u201cf\u201d \u00abg\u00bb",
    "word" * 50,
    "\ud55c\uad6d\uc5b4 \u0e44\u0e17\u0e22 \u0627\u0644\u0639\u0631\u0628\u064a\u0629",
]


@pytest.fixture(scope="module")
def captions():
    """All captions of the emoji in six languages, their characters, and odd texts."""
    names = json.loads(lzma.decompress(_files.packaged("emoji.json.xz")))
    found = [each["labels"][code] for code in LANGUAGES for each in names]
    return [*found, *(each["character"] for each in names), *ODD]


@pytest.fixture(scope="module")
def trained(captions):
    return Tokenizer.train(captions, 2000, "clip")


@pytest.fixture(scope="module")
def clip(trained, tmp_path_factory):
    """A folder as OpenAI's CLIPs have it: `vocab.json`, `merges.txt`, the settings."""
    folder = tmp_path_factory.mktemp("clip")
    trained.save(folder)
    (folder / "tokenizer.json").unlink()
    return configured(folder)


def configured(folder, **settings):
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return folder


def copied(folder, to, **settings):
    to.mkdir()
    for name in ("vocab.json", "merges.txt"):
        (to / name).write_bytes((folder / name).read_bytes())
    return configured(to, **settings)


def same(ours, theirs, texts):
    """Equal ids and equal texts back."""
    wanted = theirs(texts)["input_ids"]
    assert ours.encode(texts) == wanted
    assert [ours.encode(text) for text in ODD] == theirs(ODD)["input_ids"]
    plain = theirs(texts, add_special_tokens=False)["input_ids"]
    assert ours.encode(texts, special=False) == plain
    wanted = wanted[:: 1 + len(wanted) // 1000] + wanted[-len(ODD) :]  # one by one
    for special in (True, False):
        how = {"skip_special_tokens": not special}
        back = [
            theirs.decode(ids, clean_up_tokenization_spaces=False, **how)
            for ids in wanted
        ]
        assert ours.decode(wanted, special=special) == back
    for role in ("bos", "eos", "unk", "pad"):
        wanted = getattr(theirs, f"{role}_token_id")
        assert getattr(ours, f"{role}_token_id") == wanted, role


def token(content, **flags):
    usual = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    return {"__type": "AddedToken", "content": content, **usual, **flags}


def test_a_folder_of_clip_gives_clips_ids(clip, captions):
    ours = Tokenizer.load(clip)
    theirs = transformers.AutoTokenizer.from_pretrained(clip)
    assert isinstance(theirs, transformers.CLIPTokenizer)
    same(ours, theirs, captions)
    assert ours.max_length == theirs.model_max_length == 77
    assert ours.pad_token_id == ours.eos_token_id == ours.vocabulary_size - 1 == 1999
    assert ours.encode("") == [1998, 1999]
    assert ours.encode("A  RED\nheart") == ours.encode("a red heart")
    assert ours.token(ours.encode("a red heart")[1]) == "a</w>"


@pytest.mark.parametrize(
    "settings",
    [
        {"pad_token": "!"},  # Stable Diffusion 2's, SDXL's second
        {"pad_token": token("!"), "eos_token": token("<|endoftext|>")},
        {r: token("<|endoftext|>") for r in ("eos_token", "unk_token", "pad_token")},
        {"bos_token": token("<|startoftext|>"), "pad_token": "<|endoftext|>"},
        {"do_lower_case": False, "errors": "replace", "add_prefix_space": False},
        {"tokenizer_class": "CLIPTokenizerFast"},
    ],
)
def test_what_the_settings_say_is_heeded(clip, settings, tmp_path):
    folder = copied(clip, tmp_path / "clip", **settings)
    theirs = transformers.CLIPTokenizer.from_pretrained(folder)
    ours = Tokenizer.load(folder)
    same(ours, theirs, ODD)
    padded = theirs(ODD[:4], padding="max_length", max_length=77)["input_ids"]
    np.testing.assert_array_equal(ours.batch(ODD[:4], length=77)["tokens"], padded)


def test_the_map_of_special_tokens_goes_before_the_settings(clip, tmp_path):
    folder = copied(clip, tmp_path / "clip", pad_token="!")
    table = {"bos_token": token("<|startoftext|>"), "pad_token": "<|endoftext|>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(table), "utf-8")
    for settings in ({}, {"pad_token": "!"}):
        configured(folder, **settings)
        theirs = transformers.CLIPTokenizer.from_pretrained(folder)
        assert theirs.pad_token_id == 1999
        same(Tokenizer.load(folder), theirs, ODD)
    added = {"1999": token("<|endoftext|>")}
    configured(folder, pad_token="!", added_tokens_decoder=added)
    theirs = transformers.CLIPTokenizer.from_pretrained(folder)
    assert theirs.pad_token_id == 0
    same(Tokenizer.load(folder), theirs, ODD)


def test_tokens_that_were_added_keep_their_ids(clip, tmp_path):
    added = {
        "1998": token("<|startoftext|>", normalized=True, special=True),
        "1999": token("<|endoftext|>", normalized=False, special=True),
        "2000": token("<cat-toy>", special=False),
    }
    folder = copied(clip, tmp_path / "clip", added_tokens_decoder=added)
    theirs = transformers.CLIPTokenizer.from_pretrained(folder)
    ours = Tokenizer.load(folder)
    texts = [*ODD, "a <cat-toy>, a<CAT-toy>"]
    same(ours, theirs, texts)
    assert 2000 in ours.encode("a <cat-toy>") and ours.vocabulary_size == 2001
    ours.save(tmp_path / "again")
    same(Tokenizer.load(tmp_path / "again"), theirs, texts)
    configured(folder)
    table = {"<dog-toy>": 2001, "<cat-toy>": 2000}
    (folder / "added_tokens.json").write_text(json.dumps(table), "utf-8")
    theirs = transformers.CLIPTokenizer.from_pretrained(folder)
    same(Tokenizer.load(folder), theirs, [*texts, "two <dog-toy> <cat-toy>"])
    configured(folder, added_tokens_decoder={"2005": token("<x>")})
    with pytest.raises(ValueError, match="'<x>' has the id 2005, which does not fol"):
        Tokenizer.load(folder)
    configured(folder, added_tokens_decoder={"2000": "<x>"})
    with pytest.raises(ValueError, match="its added tokens are damaged"):
        Tokenizer.load(folder)


def test_without_a_class_the_files_tell_clip(clip, captions, tmp_path):
    theirs = transformers.CLIPTokenizer.from_pretrained(clip)
    folder = copied(clip, tmp_path / "clip")
    (folder / "tokenizer_config.json").unlink()
    for source in (folder, folder / "vocab.json", folder / "merges.txt"):
        same(Tokenizer.load(source), theirs, captions[::50] + ODD)
    (folder / "config.json").write_text('{"model_type": "clip_text_model"}', "utf-8")
    same(Tokenizer.load(folder), theirs, ODD)
    # A class that is not known is refused by its name, whatever the files.
    for name in ("RobertaTokenizer", "OwnTokenizer"):
        configured(folder, tokenizer_class=name)
        with pytest.raises(ValueError, match=f"names the tokenizer '{name}', whose"):
            Tokenizer.load(folder)
    for kind, name in (("siglip2", "Siglip2"), ("metaclip_2", "XLMRoberta")):
        (folder / "tokenizer_config.json").unlink(missing_ok=True)
        (folder / "config.json").write_text(f'{{"model_type": "{kind}"}}', "utf-8")
        with pytest.raises(ValueError, match=f"the tokenizer '{name}Tokenizer', whos"):
            Tokenizer.load(folder)


def test_saved_and_loaded_it_is_the_same_and_transformers_reads_it(
    clip, trained, tmp_path
):
    for i, ours in enumerate((Tokenizer.load(clip), trained)):
        folder = tmp_path / str(i)
        ours.save(folder)
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(ours)))
        for again in (
            Tokenizer.load(folder),
            keras.saving.deserialize_keras_object(config),
        ):
            assert again.special == ours.special
            assert again.max_length == ours.max_length
            assert again.encode(ODD) == ours.encode(ODD)
            assert again.decode(ours.encode(ODD)) == ours.decode(ours.encode(ODD))
        same(ours, transformers.AutoTokenizer.from_pretrained(folder), ODD)
        (folder / "tokenizer.json").unlink()  # older readers take these two
        same(
            Tokenizer.load(folder),
            transformers.CLIPTokenizer.from_pretrained(folder),
            ODD,
        )


def test_a_vocabulary_of_its_own(trained, captions):
    """All bytes are tokens, also at the end of a word: no text becomes an end token."""
    assert trained.vocabulary_size == 2000
    assert trained.vocabulary["!"] == 0 and trained.vocabulary["!</w>"] == 256
    for text in ("\U0001f9ff", "q\u00fczx", "\u0b95\u0b95"):
        ids = trained.encode(text)
        assert ids.count(trained.eos_token_id) == 1 == ids.count(trained.bos_token_id)
        assert trained.decode(ids) == text
    # The same of the same texts: equal pairs come in one order.
    made = [Tokenizer.train(captions[:2000], 900, "clip") for _ in range(3)]
    assert made[0].get_config() == made[1].get_config() == made[2].get_config()
    small = Tokenizer.train(["a cat", "a cat"], 600, "clip", special_tokens=["<x>"])
    tokens = sorted(small.vocabulary, key=small.vocabulary.get)
    assert tokens[-3:] == ["<x>", "<|startoftext|>", "<|endoftext|>"]
    assert "cat</w>" in tokens and small.decode(small.encode("A CAT")) == "a cat"
    with pytest.raises(ValueError, match="vocabulary_size must be at least 514 for CL"):
        Tokenizer.train(["a cat"], 513, "clip")
    with pytest.raises(ValueError, match="lowercase is for word pieces"):
        Tokenizer.train(["a cat"], 600, "clip", lowercase=True)


def test_long_texts_are_cut_only_when_asked(clip, captions):
    ours = Tokenizer.load(clip)
    theirs = transformers.CLIPTokenizer.from_pretrained(clip)
    long = [" ".join(captions[:40]), "a cat"]
    with pytest.raises(ValueError, match=r"texts\[0\], 'grinning .*7 \(1 of 2 texts"):
        ours.batch(long, length=77, truncate=False)
    batch = ours.batch(long, length=77, truncate=True)
    wanted = theirs(long, padding="max_length", max_length=77, truncation=True)
    np.testing.assert_array_equal(batch["tokens"], wanted["input_ids"])
    np.testing.assert_array_equal(batch["mask"], wanted["attention_mask"])
    assert batch["tokens"][0, -1] == ours.eos_token_id


def test_files_that_are_not_of_clip_are_refused(clip, tmp_path):
    folder = copied(clip, tmp_path / "clip")
    whole = json.loads((folder / "vocab.json").read_text("utf-8"))
    plain = {t.removesuffix("</w>"): i for t, i in whole.items()}
    for table, what in (
        ({t: i for t, i in whole.items() if t != "<|startoftext|>"}, "<.startoftext.>"),
        (plain, "tokens that end with </w>"),
    ):
        (folder / "vocab.json").write_text(json.dumps(table), "utf-8")
        (folder / "merges.txt").write_text("#version: 0.2\n", "utf-8")
        with pytest.raises(
            ValueError, match=f"vocab.json is not of CLIP: it lacks {what}"
        ):
            Tokenizer.load(folder)
    (folder / "tokenizer.json").write_text('{"model": {"vocab": 3}}', "utf-8")
    with pytest.raises(ValueError, match="tokenizer.json is damaged: it holds no byte"):
        Tokenizer.load(folder)
    # The library makes a list up to the largest id.
    (folder / "vocab.json").write_text(json.dumps({**whole, "x": 10**9}), "utf-8")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match="vocab.json: The ids of tokens must lie in"):
        Tokenizer.load(folder)
    (folder / "tokenizer.json").write_text(
        json.dumps({"model": {"vocab": whole, "merges": ["a b c"]}}), "utf-8"
    )
    with pytest.raises(ValueError, match="tokenizer.json is damaged"):
        Tokenizer.load(folder)


# SigLIP


@pytest.fixture(scope="module", params=[True, False], ids=["prefix", "plain"])
def siglip(request, captions, tmp_path_factory):
    """A folder as SigLIP's are, of a sentencepiece model with their special tokens."""
    folder = tmp_path_factory.mktemp("siglip")
    (folder / "lines.txt").write_text("\n".join(captions[::2]), "utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "lines.txt"),
        model_prefix=str(folder / "spiece"),
        vocab_size=1500,
        character_coverage=0.98,  # so that some characters are unknown
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece="<pad>",
        add_dummy_prefix=request.param,
        minloglevel=2,
    )
    return configured(folder, tokenizer_class="SiglipTokenizer", model_max_length=64)


def test_a_folder_of_siglip_gives_siglips_ids(siglip, captions, tmp_path):
    ours = Tokenizer.load(siglip)
    theirs = transformers.SiglipTokenizer.from_pretrained(siglip)
    same_of_siglip(ours, theirs, [*captions[::5], *ODD])
    assert ours.kind == "siglip" and ours.max_length == 64 and ours.pad_token_id == 1
    padded = theirs(ODD[:4], padding="max_length", max_length=64, truncation=True)
    batch = ours.batch(ODD[:4], length=64)
    np.testing.assert_array_equal(batch["tokens"], padded["input_ids"])
    assert ours.encode("A photo, of: a CAT!") == ours.encode("a photo of a cat")
    with pytest.raises(ValueError, match="'cat .* more than the length 64"):
        ours.batch(["cat " * 200], length=64, truncate=False)
    ours.save(tmp_path / "again")
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(ours)))
    for again in (
        Tokenizer.load(tmp_path / "again"),
        keras.saving.deserialize_keras_object(config),
    ):
        assert again.get_config() == ours.get_config()
        same_of_siglip(again, theirs, ODD)
    theirs = transformers.SiglipTokenizer.from_pretrained(tmp_path / "again")
    same_of_siglip(ours, theirs, ODD)


def same_of_siglip(ours, theirs, texts):
    wanted = theirs(texts)["input_ids"]
    assert ours.encode(texts) == wanted
    for special in (True, False):
        back = [theirs.decode(ids, skip_special_tokens=not special) for ids in wanted]
        assert ours.decode(wanted, special=special) == back
    for role in ("eos", "unk", "pad"):
        assert getattr(ours, f"{role}_token_id") == getattr(theirs, f"{role}_token_id")
    assert ours.bos_token_id is None


def test_siglip_by_its_configuration_and_with_case(siglip, tmp_path):
    (tmp_path / "spiece.model").write_bytes((siglip / "spiece.model").read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "siglip"}', "utf-8")
    whole = tmp_path / "tokenizer.json"
    whole.write_text("{}", "utf-8")  # the class reads the other file
    ours = Tokenizer.load(tmp_path)
    assert ours.kind == "siglip" and ours.max_length == 64
    whole.unlink()
    configured(tmp_path, tokenizer_class="SiglipTokenizer", do_lower_case=False)
    theirs = transformers.SiglipTokenizer.from_pretrained(tmp_path)
    same_of_siglip(Tokenizer.load(tmp_path), theirs, ODD)
    (tmp_path / "spiece.model").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="spiece.model: .*no sentencepiece model"):
        Tokenizer.load(tmp_path)
    (tmp_path / "spiece.model").unlink()
    whole.write_text("{}", "utf-8")
    with pytest.raises(
        ValueError, match="names the tokenizer 'SiglipTokenizer', whose"
    ):
        Tokenizer.load(tmp_path)
