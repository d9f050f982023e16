"""How likely a VAE and an IWAE find the test digits, beside the paper and PyTorch.

    python tools/benchmark.py vae --quality
    KERAS_BACKEND=jax python tools/benchmarks/vae.py --passes 40 --seeds 0

The protocol of 1509.00519, section 5, its network of one stochastic layer: MNIST drawn
black or white anew at each step, 784-200-200-50 with tanh and its mirror, batches of
20, Adam (0.9, 0.999, 1e-4). The paper runs through the data 3^i times at the rate
0.001 * 10^(-i / 7), for i from 0 to 7: 3,280 passes. Here the eight stages keep their
shares of a smaller number of passes, which is printed. Not done: the paper's code
begins with the output's bias at the mean image.

    VAE           k = 1
    IWAE          k = 50, one encoding and 50 decodings of each image
    ... PyTorch   the same network, first weights, passes and rates in a plain loop of
                  torch.optim.Adam; its weights are judged by the same estimator

"NLL" is minus the mean of log p(x) by 5,000 importance samples (the same draws for
all), over the first `--images` test images; its error is that of the mean over
images. Each is trained from several seeds, the pair from the same first weights; a
difference is the mean over the seeds, with the standard error of that mean: it says
whether the two are equal within the noise of training. (Of three seeds that error is
itself uncertain: PyTorch's IWAE from one set of first weights, with three sets of
draws, had mean losses of 181.56, 180.34 and 180.64 in its first pass.)
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PAPER = {"VAE": 86.76, "IWAE": 84.78}
PAPER_PASSES = sum(3**i for i in range(8))
BATCH = 20
NETWORK = {
    "image_shape": (28, 28, 1),
    "latent_dim": 50,
    "hidden_units": (200, 200),
    "binarize": "dynamic",
}


def stages(steps: int) -> list[tuple[int, float]]:
    """`(last step, rate)` of the eight stages of so many steps in all."""
    done, found = 0, []
    for i in range(8):
        done += 3**i
        found.append((round(steps * done / PAPER_PASSES), 1e-3 * 10 ** (-i / 7)))
    return found


def train(images, test, k: int, passes: int, seed: int):
    """The model of this package, trained by `fit`.

    Returns:
        `(model, seconds, curve)`; the curve is of minus L_k after each pass, of the
        training (a mean over the pass) and of the test images.
    """
    import keras

    import keras_genai as kg

    model = kg.VAE(importance_samples=k, seed=seed, **NETWORK)
    per_pass = math.ceil(len(images) / BATCH)
    plan = stages(passes * per_pass)
    rate = keras.optimizers.schedules.PiecewiseConstantDecay(
        [last for last, _ in plan[:-1]], [value for _, value in plan]
    )
    # Twenty images are soon done: hundred steps in one call, where the backend can.
    alone = keras.backend.backend() == "torch"
    many = 1 if alone else math.gcd(100, per_pass)
    model.compile(keras.optimizers.Adam(rate, epsilon=1e-4), steps_per_execution=many)
    curve, spent = [], 0.0
    for number in range(passes):
        started = time.monotonic()
        history = model.fit(
            images,
            batch_size=BATCH,
            epochs=number + 1,
            initial_epoch=number,
            verbose=0,
        ).history
        spent += time.monotonic() - started
        judged = model.evaluate(test, batch_size=100, verbose=0, return_dict=True)
        curve.append((history["loss"][0], judged["loss"]))
        print(
            f"  pass {number + 1:3} of {passes}: train {curve[-1][0]:.2f}, test "
            f"{curve[-1][1]:.2f}, active units {judged['active_units']:.0f}, "
            f"{spent:.0f} s",
            flush=True,
        )
    return model, spent, curve


def train_in_torch(images, k: int, passes: int, seed: int):
    """The same in a plain loop; returns a model of this package with its weights."""
    import numpy as np
    import torch
    from torch import nn
    from torch.nn import functional as F

    import keras_genai as kg

    model = kg.VAE(importance_samples=k, seed=seed, **NETWORK)
    model.compile()  # to be judged

    def sequence(*sizes):
        parts = []
        for a, b in zip(sizes, sizes[1:], strict=False):
            parts += [nn.Linear(a, b), nn.Tanh()]
        return nn.Sequential(*parts[:-1])

    encoder = sequence(784, 200, 200, 100)
    decoder = sequence(50, 200, 200, 784)
    pairs = [(encoder, model.encoder), (decoder, model.decoder)]

    def linears(network):
        return [m for m in network if isinstance(m, nn.Linear)]

    for network, own in pairs:
        values = iter(own.get_weights())
        for layer in linears(network):
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(np.array(next(values)).T))
                layer.bias.copy_(torch.from_numpy(np.array(next(values))))
    torch.manual_seed(seed)
    data = torch.from_numpy(images.reshape(-1, 784))
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3, eps=1e-4)
    plan = stages(passes * math.ceil(len(data) / BATCH))
    started, step = time.monotonic(), 0
    for number in range(passes):
        total = 0.0
        for rows in torch.randperm(len(data)).split(BATCH):
            while step > plan[0][0] and len(plan) > 1:
                plan.pop(0)
            for group in optimizer.param_groups:
                group["lr"] = plan[0][1]
                # Keras's Adam adds epsilon before it corrects the second moment
                # (1412.6980, section 2's last formula), PyTorch's after.
                group["eps"] = 1e-4 / math.sqrt(1.0 - 0.999 ** (step + 1))
            x = torch.bernoulli(data[rows])
            mean, log_variance = encoder(x).chunk(2, 1)
            noise = torch.randn(len(x), k, 50)
            deviation = torch.exp(0.5 * log_variance)[:, None]
            z = mean[:, None] + deviation * noise
            logits = decoder(z)
            log_p = -F.binary_cross_entropy_with_logits(
                logits, x[:, None].expand_as(logits), reduction="none"
            ).sum(-1)
            if k == 1:
                kl = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
                loss = (kl - log_p[:, 0]).mean()
            else:
                log_prior = -0.5 * (z**2).sum(-1)
                log_q = -0.5 * (noise**2 + log_variance[:, None]).sum(-1)
                log_w = log_p + log_prior - log_q
                loss = (math.log(k) - torch.logsumexp(log_w, 1)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)
            step += 1
        spent = time.monotonic() - started
        mean_loss = total / len(data)
        print(
            f"  pass {number + 1:3} of {passes}: train {mean_loss:.2f}, {spent:.0f} s",
            flush=True,
        )
    for network, own in pairs:
        own.set_weights(
            [
                array
                for layer in linears(network)
                for array in (
                    layer.weight.detach().numpy().T,
                    layer.bias.detach().numpy(),
                )
            ]
        )
    return model, spent


def quality(options):
    """Trains the four, judges them and prints the table."""
    sys.path.insert(0, str(ROOT))
    import keras
    import numpy as np

    import keras_genai as kg

    (images, _), (test, _) = kg.datasets.load("mnist", value_range=(0.0, 1.0))
    images, test = images[: options.train], test[: options.images]
    results, curves = {}, {}
    for name, k, passes in (
        ("VAE", 1, options.passes),
        ("IWAE", 50, options.iwae_passes),
    ):
        for seed in options.seeds:
            print(f"{name}, k = {k}, {passes} passes, seed {seed}", flush=True)
            model, seconds, curve = train(images, test[:1000], k, passes, seed)
            curves[f"{name}, seed {seed}"] = curve
            found = {name: (model, seconds)}
            if not options.alone:
                print(f"{name} in PyTorch, seed {seed}", flush=True)
                found[f"{name}, PyTorch"] = train_in_torch(images, k, passes, seed)
            for label, (model, seconds) in found.items():
                row = results.setdefault(label, {"passes": passes, "runs": []})
                row["runs"].append(judge(label, model, seconds, test, options))
    print(
        f"\n{table(results)}\n\n{keras.backend.backend()}, seeds {options.seeds}, "
        f"{len(images):,} training images; NLL of the first {len(test):,} test images "
        f"by {options.samples:,} samples. The paper: {PAPER_PASSES:,} passes of "
        "60,000, all 10,000 test images."
    )
    if options.output:
        for row in results.values():
            for run in row["runs"]:
                run["nll"] = float(np.mean(run["nll"]))
        text = json.dumps({"results": results, "curves": curves}, indent=1)
        options.output.write_text(text + "\n", encoding="utf-8")


def judge(label, model, seconds, test, options):
    """The figures of one trained model."""
    started = time.monotonic()
    nats = model.log_likelihood(test, importance_samples=options.samples)
    active = model.evaluate(test, batch_size=100, verbose=0, return_dict=True)
    print(
        f"  {label}: NLL {-nats.mean():.2f}, judged in "
        f"{time.monotonic() - started:.0f} s",
        flush=True,
    )
    return {"nll": -nats, "active": active["active_units"], "seconds": seconds}


def table(results: dict[str, dict]) -> str:
    """The figures as Markdown."""
    import numpy as np

    lines = [
        "| | passes | NLL, nats | less PyTorch's | the paper | active units | s |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]

    def mean(values):
        if len(values) == 1:
            return f"{values[0]:.2f}"
        error = np.std(values, ddof=1) / math.sqrt(len(values))
        return f"{np.mean(values):.2f} ± {error:.2f}"

    def of(label, name):
        return np.array([np.mean(run[name]) for run in results[label]["runs"]])

    for label, result in results.items():
        peer = f"{label}, PyTorch"
        nll = of(label, "nll")
        cells = [
            label,
            f"{result['passes']}",
            mean(nll),
            mean(nll - of(peer, "nll")) if peer in results else "",
            f"{PAPER[label]:.2f}" if label in PAPER else "",
            f"{of(label, 'active').mean():.0f}",
            f"{np.median(of(label, 'seconds')):.0f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--passes", type=int, default=8, help="of the VAE")
    parser.add_argument("--iwae-passes", type=int, default=1, help="of the IWAE")
    parser.add_argument("--train", type=int, default=60_000, help="training images")
    parser.add_argument("--images", type=int, default=300, help="test images")
    parser.add_argument("--samples", type=int, default=5000, help="for the NLL")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--alone", action="store_true", help="without PyTorch's loop")
    parser.add_argument("--output", type=Path, help="also write the figures as JSON")
    quality(parser.parse_args())
