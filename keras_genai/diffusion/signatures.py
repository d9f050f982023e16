"""The functions of a diffusion model that `export` writes."""

from keras import ops

from keras_genai.backend import random
from keras_genai.diffusion.denoiser import split
from keras_genai.diffusion.sampling_loop import conditioned, sampling_loop


def export_signatures(model):
    """See `DDPM.export_signatures`."""
    guided = bool(model.conditions and model.conditions.dropout)
    loop = sampling_loop(model, guided=guided)
    conditions = model.conditions.signature(loop.latent_shape[:2])
    given = [*conditions] if conditions else [("n", (), "int32")]
    if guided:
        given.append(("guidance_scale", (), "float32"))

    def generate(seed, *arrays):
        inputs = _named(given, arrays)
        count = ops.shape(arrays[0])[0] if conditions else inputs["n"]
        key = random.key(seed, "generate/latents")
        return {"images": loop.sample(key, count, 0, inputs)}

    def denoise(images, t, *arrays):
        x_0 = conditioned(model, _named(conditions, arrays))(images, t)
        return {"x_0": split(x_0)[0]}

    noisy = ("images", (None, *loop.latent_shape), "float32")
    return {
        "generate": (generate, [("seed", (), "int32"), *given]),
        "denoise": (denoise, [noisy, ("t", (None,), "float32"), *conditions]),
    }


def _named(inputs, arrays):
    names = [name for name, _, _ in inputs]
    return dict(zip(names, arrays, strict=True))
