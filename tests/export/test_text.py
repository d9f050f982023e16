"""Text in and text out, served by TensorFlow alone."""

import numpy as np
import pytest

import keras_genai as kg

pytestmark = pytest.mark.in_turn

TEXT = "To be, or not to be: that is the question. ¿Ser o no ser? Ésa es la cuestión."
SPECIAL = ["<pad>", "</s>"]


@pytest.mark.processes
def test_texts_are_served_as_generate_writes_them(tmp_path, tensorflow_alone):
    tokenizer = kg.Tokenizer.characters([TEXT], special_tokens=SPECIAL)
    sizes = {
        "num_layers": 1,
        "hidden_dim": 16,
        "num_heads": 2,
        "max_sequence_length": 24,
    }
    model = kg.GPT(**sizes, tokenizer=tokenizer, seed=1)
    for variable in model.network.trainable_variables:  # so that choices differ
        if len(variable.shape) > 1:
            variable.assign(12.0 * variable.value)
    model.export(tmp_path / "served")
    texts = ["To be", "¿Ser o", "n", "that is"]
    greedy = {"seed": 0, "temperature": 0.0, "top_p": 1.0}
    drawn = {"seed": 3, "temperature": 0.8, "top_p": 0.9}
    calls = []
    for options in (greedy, drawn):
        inputs = {name: np.float32(x) for name, x in options.items()}
        inputs |= {"texts": np.array(texts), "seed": np.int32(options["seed"])}
        calls.append(("generate_text", inputs))
    names, outputs = tensorflow_alone.serve(tmp_path / "served", calls)
    assert {"generate", "generate_text"} <= set(names)
    wanted = [model.generate(texts, temperature=0), model.generate(texts, **drawn)]
    for output, made in zip(outputs, wanted, strict=True):
        assert [text.decode() for text in output["texts"]] == made


def test_characters_in_the_graph():
    tf = pytest.importorskip("tensorflow")
    from keras_genai.export.text import Characters

    tokenizer = kg.Tokenizer.characters([TEXT], special_tokens=SPECIAL)
    signs = Characters(tokenizer, tokenizer.vocabulary_size + 5)
    texts = ["To be", "É¿a"]
    tokens, lengths = signs.encode(tf.constant(texts))
    for row, count, text in zip(tokens.numpy(), lengths.numpy(), texts, strict=True):
        assert row[:count].tolist() == tokenizer.encode(text)
    real = tf.sequence_mask(lengths)
    assert [x.decode() for x in signs.decode(tokens, real).numpy()] == texts
    assert signs.decode(tf.constant([[1, 0]]), tf.ones((1, 2), "bool")).numpy() == b""
    for text, message in (("Zu", "does not know"), ("", "is empty")):
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            signs.encode(tf.constant([text]))
    known = kg.Tokenizer.characters([TEXT], special_tokens=["<unk>"])
    tokens, _ = Characters(known, known.vocabulary_size).encode(tf.constant(["ZT"]))
    assert tokens.numpy().tolist() == [known.encode("ZT")]


def test_what_cannot_be_held():
    assert not kg.Tokenizer.train([TEXT], 60).of_characters()
