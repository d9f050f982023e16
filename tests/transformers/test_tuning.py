"""Low-rank changes in every family: they alone move, and become part of the weights."""

import keras
import numpy as np
import pytest

import keras_genai as kg

pytestmark = pytest.mark.in_turn

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(4, 20, (8, 7)).astype("int32")
TINY = {"num_layers": 1, "hidden_dim": 16, "num_heads": 2}
FAMILIES = {
    "GPT": (
        lambda: kg.GPT(**TINY, vocabulary_size=20, max_sequence_length=8),
        TOKENS,
        None,
        (),
    ),
    "BERT": (
        lambda: kg.BERT(
            **TINY,
            vocabulary_size=20,
            max_sequence_length=8,
            mask_token_id=3,
            special_tokens=[0, 1, 2, 3],
            num_classes=2,
        ),
        {"tokens": TOKENS},
        np.arange(8) % 2,
        ("classifier",),
    ),
    "ViT": (
        lambda: kg.ViT(**TINY, image_shape=(8, 8, 1), patch_size=4, num_classes=2),
        RNG.uniform(-1, 1, (8, 8, 8, 1)).astype("float32"),
        np.arange(8) % 2,
        ("head",),
    ),
    "Translator": (
        lambda: kg.Translator(
            **TINY, intermediate_dim=16, vocabulary_size=20, max_sequence_length=8
        ),
        {"source": TOKENS, "target": np.where(np.arange(7) == 6, 1, TOKENS)},
        None,
        (),
    ),
}


@pytest.mark.once
@pytest.mark.parametrize("family", FAMILIES)
def test_few_weights_move_and_are_merged(family, tmp_path):
    make, x, labels, also = FAMILIES[family]
    model = make()
    before = {v.path: np.array(w) for v, w in weights(model)}
    model.enable_lora(2, targets=("query", "value"), also=also)
    moving = [v.path for v in model.network.trainable_variables]
    assert all("lora" in path or any(n in path for n in also) for path in moving)
    assert also == () or any(also[0] in path for path in moving)
    model.compile(keras.optimizers.Adam(1e-2))
    model.fit(x, labels, batch_size=4, epochs=2, verbose=0)
    with pytest.raises(ValueError, match="merge_lora"):
        model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="merge_lora"):
        model.save_pretrained(tmp_path / "folder")
    tuned = model.evaluate(x, labels, verbose=0, return_dict=True)["loss"]
    model.merge_lora()
    changed = {v.path for v, w in weights(model) if np.any(w != before[v.path])}
    named = ("query/kernel", "value/kernel", *also)
    assert changed and all(any(n in path for n in named) for path in changed)
    model.compile()
    merged = model.evaluate(x, labels, verbose=0, return_dict=True)["loss"]
    assert merged == pytest.approx(tuned, rel=1e-4)
    model.save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match="no layer nowhere"):
        make().enable_lora(2, also=("nowhere",))


def weights(model):
    """Pairs of a weight that can learn and its value; counters of noise are none."""
    network = model.network
    return [
        (v, keras.ops.convert_to_numpy(v.value))
        for v in network.variables
        if "lora" not in v.path and "noise" not in v.path
    ]
