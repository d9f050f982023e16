"""A tiny CLIP with a tokenizer of characters, and images for it."""

import keras_genai as kg
from tests.support import conformance
from tests.support.conformance import host

SIDE = 8
LENGTH = 24
LETTERS = "abcdefghijklmnopqrstuvwxyz .ADH"


def model(loss="softmax", seed=0, image_dim=6, **arguments):
    """Towers of one block; the image tower has a projection behind it.

    With `"<unk>"` its tokenizer gives any other character one and the same token.
    """
    tokenizer = kg.Tokenizer.characters(LETTERS, special_tokens=["<unk>", "</s>"])
    towers = {"num_layers": 1, "hidden_dim": 8, "num_heads": 2, "seed": seed}
    image = kg.clip.ImageTower(
        (SIDE, SIDE, 3), 4, **towers, projection_dim=image_dim, stream="image"
    )
    text = kg.clip.TextTower(
        tokenizer.vocabulary_size,
        LENGTH,
        **towers,
        eos_token_id=tokenizer.eos_token_id,
        stream="text",
    )
    made = kg.CLIP(
        image, text, 8, tokenizer=tokenizer, loss=loss, seed=seed, **arguments
    )
    shake(made)
    return made


def shake(model, name="shake", scale=0.3):
    """Adds noise to all weights but the temperature, so that outputs differ."""
    for i, variable in enumerate([*model.image_variables(), *model.text_variables()]):
        if "float" in str(variable.dtype):
            noise = conformance.uniform(f"{name} {i}", tuple(variable.shape))
            variable.assign(host(variable.value) + scale * noise)


def images(count, name="clip"):
    """Floats `(count, 8, 8, 3)` in [-1, 1]."""
    return conformance.uniform(f"images of {name}", (count, SIDE, SIDE, 3))
