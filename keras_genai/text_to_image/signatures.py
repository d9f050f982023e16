"""The functions of a text-to-image model that `export` writes."""

from keras_genai.diffusion import DDPM


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
