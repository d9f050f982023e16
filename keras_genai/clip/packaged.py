"""A small CLIP of all the emoji, with its weights in the package."""

from pathlib import Path

import keras

from keras_genai import backend
from keras_genai.backend.precision import dtype_policy
from keras_genai.clip.clip import CLIP
from keras_genai.clip.towers import TextTower
from keras_genai.datasets._files import checked_bytes
from keras_genai.transformers import Tokenizer
from keras_genai.weights import _packaged

FILE = Path(__file__).resolve().parent / "emoji.npz"
SHA256 = "96b5373ab7644c33a6a30b96ab62f6fa8c4655a0e4d5f36df8097142b6416af9"
SIDE = 64  # of the pictures; the network sees their 2 x 2 means
FILTERS = ((64, 2), (128, 2), (192, 1), (256, 2), (256, 1))  # and strides
LENGTH, EMBED_DIM = 32, 128
PARTS = ("image_tower", "image_projection", "text_tower", "scale")


def network(tokenizer, seed: int = 0, dropout: float = 0.0, side: int = SIDE) -> CLIP:
    """The model with fresh weights.

    Five 3 x 3 convolutions with group normalization and their mean; two transformer
    blocks of 128 channels.

    Args:
        tokenizer: a `kg.Tokenizer` of CLIP's kind.
        seed: of the text tower; Keras draws the image tower's weights.
        dropout: in training, of the image's features and in the text tower.
        side: of the pictures: 64, or 32 for those that are means already.
    """
    # The means of a picture of 32 x 32 whose pixels were repeated are that picture.
    parts = [keras.Input((side, side, 3))]
    parts += [keras.layers.AveragePooling2D(2)] * (side == SIDE)
    for filters, stride in FILTERS:
        parts += [
            keras.layers.ZeroPadding2D(1),
            keras.layers.Conv2D(filters, 3, strides=stride, use_bias=False),
            keras.layers.GroupNormalization(8, epsilon=1e-5),
            keras.layers.Activation("gelu"),
        ]
    parts += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dropout(dropout)]
    image = keras.Sequential(parts, name="image_tower")
    text = TextTower(
        tokenizer.vocabulary_size,
        LENGTH,
        num_layers=2,
        hidden_dim=128,
        num_heads=4,
        eos_token_id=tokenizer.eos_token_id,
        projection_dim=EMBED_DIM,
        dropout=dropout,
        seed=seed,
        name="text_tower",
    )
    return CLIP(
        image,
        text,
        EMBED_DIM,
        tokenizer=tokenizer,
        mask_equal_captions=True,
        seed=seed,
    )


def emoji() -> CLIP:
    """A small CLIP that knows all the emoji of `kg.datasets.emoji`, in the package.

    It was trained on the pictures of both styles with their names and tags, in English,
    the held-out splits among them: it is a judge of pictures, and must know what it
    judges. Do not measure with it how well a CLIP finds what it never saw. Nothing is
    downloaded. `tools/data/train_emoji_clip.py` made it.

    Returns:
        `kg.CLIP`: pictures `(N, 64, 64, 3)` in [-1, 1], on white; texts in English of
        up to 32 tokens. For pictures of 32 x 32, repeat each pixel:
        `images.repeat(2, 1).repeat(2, 2)`. A new one at every call, in float32.

    Raises:
        FileNotFoundError: the weights are not in the installed package.
        ValueError: the file is damaged.
        ImportError: `tokenizers` is not installed (the extra `[text]`).

    Example:

    ```python
    import keras_genai as kg

    clip = kg.clip.emoji()
    data = kg.datasets.emoji(style="fluent")
    index = clip.index(data["images"], items=data["captions"])
    print([found.item for found in index.search("a red heart", k=3)])
    classifier = kg.clip.ZeroShotClassifier(clip, ["a face", "a flag", "an animal"],
                                            ["{}", "{} emoji"])
    print(classifier.label(data["images"][:3]))
    ```
    """
    arrays, config = _packaged.unpacked(checked_bytes(FILE, SHA256))
    tokenizer = Tokenizer.from_config(config)
    # Whatever policy the user's model has, the judge computes in float32.
    with dtype_policy("float32"):
        model = network(tokenizer)
    for part in PARTS:
        for i, variable in enumerate(getattr(model, part).trainable_variables):
            variable.assign(arrays[f"{part}.{i}"].astype("float32"))
    return model


def packed(model) -> bytes:
    """What `emoji` reads: the weights of `network` in float16, and its tokenizer."""
    arrays = {
        f"{part}.{i}": backend.to_host(variable.value)
        for part in PARTS
        for i, variable in enumerate(getattr(model, part).trainable_variables)
    }
    return _packaged.packed(arrays, model.tokenizer.get_config())
