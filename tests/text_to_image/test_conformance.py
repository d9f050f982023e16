"""LatentDiffusion passes the battery: of latents, and of pixels with what it trains."""

import keras
import numpy as np

from tests.support import conformance, processes
from tests.support import tiny_text_to_image as tiny


def batch(name, several=None):
    def made(n):
        count = several or 1
        ids = conformance.integers(f"{name}/tokens", (n, count, tiny.LENGTH), 26)
        tokens = (2 + ids).astype("int32")
        tokens[..., -3] = 1
        tokens[..., -2:] = 0
        if several is None:
            tokens = tokens[:, 0]
        else:
            tokens[::2, 1:] = -1
        images = conformance.uniform(name, (n, tiny.SIDE, tiny.SIDE, 3))
        return {"images": images, "tokens": tokens}, None

    return made


def fast():
    return {"optimizer": keras.optimizers.Adam(1e-2, global_clipnorm=1.0)}


TestLatentDiffusion = conformance.battery(
    "text_to_image", tiny.model, batch("text_to_image", several=2), compile=fast
)

TestTrainedTextEncoder = conformance.battery(
    "text_to_image_trained",
    lambda: tiny.model(
        autoencoder=None,  # of pixels
        network=tiny.network(image_shape=(tiny.SIDE, tiny.SIDE, 3)),
        text_encoder=tiny.tower(dropout=0.1, num_layers=1),
        train_text_encoder=True,
    ),
    batch("text_to_image_trained"),
    compile=fast,
    variant=True,
)

TestTextToImageProcesses = processes.battery(
    lambda: tiny.model(num_steps=2),
    batch("text_to_image_processes"),
    onnx=("encode_text", "decode"),
    ranges={"tokens": (0, 28), "t": (0.0, 999.0), "guidance_scale": (1.5, 3.0)},
    methods={
        "generate": lambda model, seed, tokens, guidance_scale: model.generate(
            tokens, seed=int(seed), guidance_scale=guidance_scale
        ),
        "encode_text": lambda model, tokens: model.encode_prompts(tokens),
        "decode": lambda model, latents: model.decode(latents),
    },
)


def test_the_data_hold_what_the_battery_is_to_see():
    x, _ = batch("text_to_image", several=2)(conformance.BATCH)
    counts = (x["tokens"][:, :, 0] >= 0).sum(axis=1)
    assert set(counts) == {1, 2}
    assert np.all((x["tokens"] == 1).sum(axis=2) == (x["tokens"][:, :, 0] >= 0))
