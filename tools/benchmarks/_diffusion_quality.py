"""How good a DDPM's clothes are, beside the quickstart's CGAN and diffusers' loop.

    python tools/benchmark.py diffusion --quality
    KERAS_BACKEND=jax python tools/benchmarks/diffusion.py --epochs 20 --curve 0

A class-conditional DDPM on the package's Fashion-MNIST training images (`--epochs`, at
most half an hour on two cores), judged on the 5,000 test images as the CGAN is in
`gan.py`: class agreement, recall by class and FID, of 5,000 samples by `--steps` steps,
without guidance and with some. The quickstart's CGAN stands beside it: its `.keras`
file, or a training with its own number of epochs.

`--curve` steps of the same U-Net are then trained twice, by `fit` and by a plain loop
of PyTorch and diffusers, from the same first weights, for each of `--seeds`: the mean
losses of the last half agree within the noise of training.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from pathlib import Path

BATCH = 64
SCALES = (1.0, 1.5, 2.0)
NETWORK = {
    "image_shape": (28, 28, 1),
    "block_channels": (16, 32, 64),
    "attention": (False, False, True),
    "layers_per_block": 1,
    "groups": 8,
    "num_classes": 10,
}
TOOLS = Path(__file__).resolve().parent.parent


def make(steps, seed, learning_rate=1e-3, schedule="cosine", predicts="v"):
    """An untrained DDPM, compiled for so many steps."""
    import keras

    import keras_genai as kg

    unet = kg.UNet(**NETWORK, seed=seed)
    model = kg.DDPM(unet, schedule, predicts, ema_decay=0.999, seed=seed)
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    model.compile(keras.optimizers.Adam(rate, global_clipnorm=1.0))
    return model


def curve(images, labels, steps, seed):
    """The mean losses of the last half of so many steps, by `fit` and by diffusers.

    Both predict the noise on the linear schedule, with Adam at one rate.
    """
    import keras
    import numpy as np
    import torch
    from diffusers import DDPMScheduler, UNet2DModel

    import keras_genai as kg

    unet = kg.UNet(**NETWORK, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        unet.save_pretrained(folder)
        peer = UNet2DModel.from_pretrained(folder)
    model = kg.DDPM(unet, condition_dropout=0.0, ema_decay=None, seed=seed)
    model.compile(keras.optimizers.Adam(1e-3, epsilon=1e-8, global_clipnorm=1.0))
    chosen = np.random.default_rng(seed).integers(0, len(images), (steps, BATCH))
    ours = [
        model.train_on_batch(images[rows], labels[rows], return_dict=True)["loss"]
        for rows in chosen
    ]
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(peer.parameters(), lr=1e-3)
    scheduler, theirs = DDPMScheduler(), []
    for rows in chosen:
        x = torch.from_numpy(images[rows]).permute(0, 3, 1, 2)
        y = torch.from_numpy(labels[rows].astype("int64"))
        noise = torch.randn_like(x)
        t = torch.randint(0, 1000, (BATCH,))
        predicted = peer(scheduler.add_noise(x, noise, t), t, class_labels=y).sample
        loss = torch.nn.functional.mse_loss(predicted, noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(peer.parameters(), 1.0)
        optimizer.step()
        theirs.append(loss.item())
    return float(np.mean(ours[steps // 2 :])), float(np.mean(theirs[steps // 2 :]))


def trained(options, train_set):
    """The DDPM, and how it was made."""
    import keras_genai as kg

    if options.trained:
        return kg.load_model(options.trained, compile=False), f"{options.trained}"
    steps = options.epochs * math.ceil(len(train_set[0]) / BATCH)
    model = make(steps, options.seeds[0])
    started = time.monotonic()
    model.fit(*train_set, batch_size=BATCH, epochs=options.epochs, verbose=2)
    seconds = time.monotonic() - started
    if options.model:
        model.save(options.model)
    how = f"{options.epochs} epochs, {steps:,} steps of {BATCH} in {seconds:.0f} s"
    return model, how


def quality(options):
    """Trains, judges and prints."""
    sys.path[:0] = [str(TOOLS), str(TOOLS.parent)]
    import gan
    import keras
    import numpy as np
    from quickstart import RECIPE

    import keras_genai as kg

    train_set, (images, labels) = kg.datasets.load("fashion_mnist")
    images, labels = images[: options.images], labels[: options.images]
    results = {}
    if options.quickstart:
        cgan = kg.load_model(options.quickstart, compile=False)
    else:
        cgan, seconds = gan.train(RECIPE, RECIPE["epochs"], options.seeds[0])
        print(f"quickstart's CGAN: {seconds:.0f} s", flush=True)
    sampled = cgan.generate(labels=labels, seed=0, batch_size=250)
    results["quickstart's CGAN"] = gan.judge(sampled, images, labels)
    results["real"] = gan.judge(gan.floor(train_set, labels), images, labels)

    model, how = trained(options, train_set)
    for scale in options.scales:
        started = time.monotonic()
        sampled = model.generate(
            labels=labels,
            seed=0,
            sampler="dpmpp_2m",
            num_steps=options.steps,
            guidance_scale=scale,
            batch_size=250,
        )
        spent = time.monotonic() - started
        results[f"guidance {scale:g}"] = gan.judge(sampled, images, labels)
        print(f"guidance {scale:g}: sampled in {spent:.0f} s", flush=True)
    names = kg.datasets.class_names("fashion_mnist")
    print(
        f"\n{gan.table(results, names)}\n\n{keras.backend.backend()}: {how}; "
        f"{model.network.count_params():,} parameters; {options.steps} steps of "
        "dpmpp_2m"
    )
    if options.curve:
        pairs = [curve(*train_set, options.curve, seed) for seed in options.seeds]
        ours, theirs = np.array(pairs).T
        error = np.std(ours - theirs, ddof=1) / math.sqrt(len(pairs))
        print(
            f"Mean loss of the last half of {options.curve} steps, seeds "
            f"{options.seeds}: fit {ours.mean():.5f}, PyTorch and diffusers "
            f"{theirs.mean():.5f}; difference {np.mean(ours - theirs):+.5f} ± "
            f"{error:.5f}"
        )
    if options.output:
        options.output.write_text(json.dumps(results) + "\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--steps", type=int, default=20, help="of the sampler")
    parser.add_argument("--images", type=int, default=5000, help="that are judged")
    parser.add_argument("--curve", type=int, default=200, help="steps; 0 for none")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--quickstart", type=Path, help="its .keras file")
    parser.add_argument("--scales", type=float, nargs="+", default=SCALES)
    parser.add_argument("--trained", type=Path, help="a DDPM's .keras file to judge")
    parser.add_argument("--model", type=Path, help="write the model as .keras")
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    quality(parser.parse_args())
