"""BLEU and chrF are sacrebleu's, and come from `fit` by a callback."""

import keras
import numpy as np
import pytest

import keras_genai as kg

pytestmark = pytest.mark.in_turn

pytest.importorskip("sacrebleu")

WANTED = ["the cat sat on the mat", "there is a tavern in the town"]


def test_scores_by_hand():
    assert kg.metrics.bleu(WANTED, WANTED) == pytest.approx(100.0)
    assert kg.metrics.chrf(WANTED, WANTED) == pytest.approx(100.0)
    # Of seven words five are right, of six pairs three, of five triples two.
    made = ["the cat sat on a mat now"]
    precisions = [5 / 7, 3 / 6, 2 / 5, 1 / 4]
    wanted = 100 * np.exp(np.mean(np.log(precisions)))
    assert kg.metrics.bleu(made, WANTED[:1]) == pytest.approx(wanted)
    both = kg.metrics.bleu(made, [WANTED[:1], ["the cat sat on a mat now"]])
    assert both == pytest.approx(100.0)
    with pytest.raises(ValueError, match="1 translations and 2 references"):
        kg.metrics.bleu(made, WANTED)
    with pytest.raises(ValueError, match="translations must be"):
        kg.metrics.chrf([], [])


def test_the_callback(capsys):
    pytest.importorskip("tokenizers")
    tokenizer = kg.Tokenizer.train(
        WANTED * 4, 280, special_tokens=["<pad>", "<s>", "</s>"]
    )
    model = kg.Translator(
        num_layers=1,
        hidden_dim=32,
        num_heads=2,
        intermediate_dim=32,
        max_sequence_length=40,
        dropout=0.0,
        tokenizer=tokenizer,
    )
    model.compile(keras.optimizers.Adam(5e-3))
    judge = kg.callbacks.Translations(
        WANTED, WANTED, every=30, examples=1, num_beams=2, max_length=30
    )
    history = model.fit(
        model.pairs(WANTED, WANTED), epochs=30, verbose=0, callbacks=[judge]
    ).history
    assert len(history["val_bleu"]) == 1 and 0 <= history["val_chrf"][0] <= 100
    assert history["val_bleu"][0] == kg.metrics.bleu(judge.translations, WANTED)
    assert WANTED[0] in capsys.readouterr().out
    with pytest.raises(ValueError, match="got 2 sources and 1"):
        kg.callbacks.Translations(WANTED, WANTED[:1])
