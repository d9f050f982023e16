"""The functions of a text-to-image model that `export` writes."""

import json
import pathlib
import tempfile

from keras_genai.diffusion import DDPM

TOKENIZER = "tokenizer.json"


def export_signatures(model):
    """See `LatentDiffusion.export_signatures`."""
    of_states = DDPM.export_signatures(model)
    generate, inputs = of_states["generate"]
    denoise, noisy = of_states["denoise"]
    tokens = ("tokens", (None, model.max_sequence_length), "int32")
    latents = ("latents", noisy[0][1], "float32")

    def generate_of_tokens(seed, tokens, *others):
        return generate(seed, model.encoded({"tokens": tokens})["context"], *others)

    def encode_text(tokens):
        return model.encoded({"tokens": tokens})

    made = {
        "generate": (
            generate_of_tokens,
            [tokens if name[0] == "context" else name for name in inputs],
        ),
        "encode_text": (encode_text, [tokens]),
        "denoise": (denoise, [latents, *noisy[1:]]),
    }
    if model.autoencoder is not None:
        decode = (lambda latents: {"images": model.from_latents(latents)}, [latents])
        made["decode"] = decode
    return made


def assets(model):
    """The tokenizer's files by name, bytes: see `LatentDiffusion.export_assets`."""
    with tempfile.TemporaryDirectory() as folder:
        model.tokenizer.save(folder)
        files = {p.name: p.read_bytes() for p in pathlib.Path(folder).iterdir()}
    if TOKENIZER in files:
        content = json.loads(files[TOKENIZER])
        length = model.max_sequence_length
        content["truncation"] = {
            "direction": "Right",
            "max_length": length,
            "strategy": "LongestFirst",
            "stride": 0,
        }
        content["padding"] = {
            "strategy": {"Fixed": length},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": model.pad_token_id,
            "pad_type_id": 0,
            "pad_token": model.tokenizer.token(model.pad_token_id),
        }
        files[TOKENIZER] = json.dumps(content).encode()
    return files
