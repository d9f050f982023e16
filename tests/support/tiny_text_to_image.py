"""A tiny text-to-image model: every part, of a few channels."""

import keras_genai as kg
from tests.support import conformance
from tests.support.conformance import host

SIDE = 8
LENGTH = 12
TEXTS = ["red", "blue", "a red dog", "", "green", "a cat", "blue sea", "dog"]
# It ends at alpha = 0.28, so that rounding is not blown up.
SCHEDULE = kg.schedules.Discrete("linear", beta_end=0.005)


def tokenizer():
    return kg.Tokenizer.characters(
        "abcdefghijklmnopqrstuvwxyz ", special_tokens=["<pad>", "</s>"]
    )


def tower(seed=0, **arguments):
    sizes = {"num_layers": 2, "hidden_dim": 8, "num_heads": 2, "seed": seed}
    words = {"vocabulary_size": tokenizer().vocabulary_size, "eos_token_id": 1}
    return kg.clip.TextTower(
        max_sequence_length=LENGTH,
        **{**words, **sizes, **arguments},
        stream="text",
        name="text",
    )


def autoencoder(seed=0):
    return kg.AutoencoderKL(
        (SIDE, SIDE, 3),
        block_channels=(4, 4),
        layers_per_block=1,
        groups=2,
        attention=False,
        scaling_factor=0.7,
        discriminator_weight=0.0,
        seed=seed,
    )


def network(seed=0, **arguments):
    side = SIDE // 2
    sizes = {"block_channels": (8,), "layers_per_block": 1, "groups": 4}
    given = {"attention": True, "context_dim": 8, "num_heads": 2, "seed": seed}
    shape = {"image_shape": (side, side, 4)}
    return kg.UNet(**{**shape, **sizes, **given, **arguments})


def model(seed=1, **arguments):
    given = {
        "autoencoder": autoencoder(),
        "network": network(),
        "text_encoder": tower(),
        "tokenizer": tokenizer(),
        "schedule": SCHEDULE,
        "num_steps": 3,
        "ema_decay": 0.9,
        "seed": seed,
    }
    made = kg.LatentDiffusion(**{**given, **arguments})
    shake(made)
    return made


def shake(model, scale=0.1):
    """Adds noise to all weights, so that outputs differ, and renews what follows."""
    parts = [model.network, model.autoencoder, model.text_encoder]
    variables = [v for part in parts if part is not None for v in part.weights]
    for i, variable in enumerate(variables):
        if "float" in str(variable.dtype):
            noise = conformance.uniform(f"text to image {i}", tuple(variable.shape))
            variable.assign(host(variable.value) + scale * noise)
    if model.autoencoder is not None:  # whose rounding the decoder would blow up
        kernel = model.autoencoder.decoder.get_layer("conv_out").kernel
        kernel.assign(0.3 * host(kernel.value))
    if model.ema is not None:
        model.ema.reset()
    model.renew_null()


def data(count, name="text to image"):
    images = conformance.uniform(name, (count, SIDE, SIDE, 3))
    return {"images": images, "captions": [TEXTS[i % len(TEXTS)] for i in range(count)]}
