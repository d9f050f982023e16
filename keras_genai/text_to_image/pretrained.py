"""The text-to-image model of the captioned emoji that is in the package."""

from pathlib import Path

from keras_genai.backend import to_host
from keras_genai.clip import TextTower
from keras_genai.diffusion import UNet
from keras_genai.text_to_image.latent_diffusion import LatentDiffusion
from keras_genai.transformers import Tokenizer
from keras_genai.utils.files import written_beside
from keras_genai.vaes import AutoencoderKL
from keras_genai.weights import _packaged

SIDE = 32
STYLES = {"google": "flat style", "fluent": "3d style"}  # of `kg.datasets.emoji`
SCRIPT = "tools/data/emoji_text_to_image.py"
_AGAIN = "Install the package anew."
FILE = Path(__file__).parent / "emoji.npz"


def emoji():
    """The model of captioned emoji: 32 x 32 pictures of short English texts.

    Trained on the training part of `kg.datasets.emoji` in both styles, whose names are
    words of the prompt: `"a red heart, flat style"`, `"a red heart, 3d style"`. A text
    encoder of its own, an autoencoder and a U-Net of the latents, in float16 in the
    package; `tools/data/emoji_text_to_image.py` made them.

    Returns:
        `LatentDiffusion`, which draws and goes on training.

    Raises:
        FileNotFoundError: this install holds no weights of it.
        ValueError: its file is damaged.

    Example:

    ```python
    model = kg.text_to_image.emoji()
    images = model.generate(["a red heart, flat style", "a dog, 3d style"], n=4)
    ```
    """
    try:
        data = FILE.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"This install holds no weights of the emoji model yet ({FILE} is not "
            f"there). In a clone of keras_genai, `python {SCRIPT}` trains and writes "
            "them, in at most 100 minutes of two cores."
        ) from None
    try:
        arrays, config = _packaged.unpacked(data)
        tokenizer = Tokenizer.from_config(config)
        scale = float(arrays.pop("scaling_factor"))
    except Exception as error:
        raise ValueError(f"{FILE} is damaged ({error}). {_AGAIN}") from error
    model = emoji_model(tokenizer, scaling_factor=scale)
    variables = weights_of(model)
    for i, variable in enumerate(variables):
        array = arrays.get(str(i))
        if array is None or array.shape != tuple(variable.shape):
            raise ValueError(
                f"{FILE} is of another version of the package: its array {i} is "
                f"{'missing' if array is None else array.shape}, expected "
                f"{tuple(variable.shape)}. {_AGAIN}"
            )
        variable.assign(array.astype("float32"))
    model.ema.reset()
    return model


def write(model, path=FILE):
    """Writes the weights that sample, in float16: what `emoji` reads.

    Args:
        model: of `emoji_model`.
        path: the file.

    Returns:
        Its size in bytes.
    """
    arrays = model.run_averaged(
        "network", lambda: [to_host(v.value) for v in weights_of(model)]
    )
    data = _packaged.packed(
        {str(i): array for i, array in enumerate(arrays)},
        model.tokenizer.get_config(),
        scaling_factor=model.scaling_factor,
    )
    with written_beside(path) as beside:
        beside.write_bytes(data)
    return len(data)


def weights_of(model):
    """The variables that the file holds, in its order."""
    parts = [model.network, model.text_encoder]
    parts += [model.autoencoder.encoder, model.autoencoder.decoder]
    found = [v for part in parts for v in part.weights]
    return [v for v in found if "float" in str(v.dtype)]  # no counters of noise


def emoji_autoencoder(seed=0):
    """The autoencoder of the emoji: 32 x 32 x 3 to 16 x 16 x 4."""
    return AutoencoderKL(
        (SIDE, SIDE, 3),
        block_channels=(32, 48),
        layers_per_block=1,
        groups=8,
        attention=False,
        discriminator_weight=0.0,
        kl_weight=1e-4,
        seed=seed,
    )


def emoji_model(tokenizer, autoencoder=None, scaling_factor=None, seed=0):
    """The untrained model, of which `emoji` is the trained one.

    Args:
        tokenizer: of the captions.
        autoencoder: trained; by default a new `emoji_autoencoder`.
        scaling_factor: see `LatentDiffusion`.
        seed: integer >= 0.
    """
    length = 24
    tower = TextTower(
        tokenizer.vocabulary_size,
        length,
        num_layers=2,
        hidden_dim=128,
        num_heads=4,
        causal=False,
        eos_token_id=tokenizer.eos_token_id,
        dropout=0.1,
        seed=seed,
        stream="text",
    )
    side = SIDE // 2
    network = UNet(
        (side, side, 4),
        block_channels=(48, 64, 96),
        layers_per_block=1,
        groups=16,
        attention=(False, True, True),
        num_heads=4,
        context_dim=128,
        seed=seed,
    )
    return LatentDiffusion(
        emoji_autoencoder(seed) if autoencoder is None else autoencoder,
        network,
        tower,
        tokenizer,
        "cosine",
        "v",
        train_text_encoder=True,
        scaling_factor=scaling_factor,
        weighting="min_snr",
        sampler="dpmpp_2m",
        num_steps=20,
        ema_decay=0.999,
        seed=seed,
    )
