"""How well a character GPT reads Shakespeare, beside a plain PyTorch loop.

    python tools/benchmark.py transformer --quality
    KERAS_BACKEND=jax python tools/benchmarks/transformer.py --iterations 500 --seeds 0

The setting that nanoGPT publishes for a CPU: 4 blocks, 4 heads, 128 channels, 64
characters of context, batches of 12, 2,000 iterations, no dropout; AdamW (0.9, 0.99,
decay 0.1 of matrices) from 0 to 0.001 in 100 steps, then by a cosine to a tenth. The
text is the package's Shakespeare, its last tenth held out. (nanoGPT's 1.88 is of tiny
Shakespeare, a fifth as long.)

Both learn from the same windows and the same first weights, for each of `--seeds`, in
turn; the loss is that of the same held-out windows, in nats a character. Seconds are
those of the training, and those without its first ten steps, in which backends compile.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BATCH, CONTEXT = 12, 64
SIZES = {
    "num_layers": 4,
    "hidden_dim": 128,
    "num_heads": 4,
    "max_sequence_length": CONTEXT,
    "dropout": 0.0,
}
RATE, WARMUP, BEFORE = 1e-3, 100, 10


def windows(ids, count, seed):
    """`(count, CONTEXT + 1)` places of a text, drawn."""
    import numpy as np

    starts = np.random.default_rng(seed).integers(0, len(ids) - CONTEXT - 1, count)
    return ids[starts[:, None] + np.arange(CONTEXT + 1)]


def train(rows, held_out, vocabulary_size, seed):
    """`(loss, seconds, seconds without the first steps, model as it began)`."""
    import keras

    import keras_genai as kg

    class Clock(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == BEFORE - 1:
                self.from_here = time.monotonic()

    model = kg.GPT(**SIZES, vocabulary_size=vocabulary_size, seed=seed)
    steps = len(rows) // BATCH
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - WARMUP, alpha=0.1, warmup_target=RATE, warmup_steps=WARMUP
    )
    optimizer = keras.optimizers.AdamW(
        rate, weight_decay=0.1, beta_2=0.99, epsilon=1e-8, global_clipnorm=1.0
    )
    small = [v for v in model.network.variables if len(v.shape) < 2]
    optimizer.exclude_from_weight_decay(var_list=small)
    model.compile(optimizer)
    folder = tempfile.TemporaryDirectory()
    model.save_pretrained(folder.name)
    clock = Clock()
    started = time.monotonic()
    model.fit(rows, batch_size=BATCH, shuffle=False, verbose=0, callbacks=[clock])
    ended = time.monotonic()
    loss = model.evaluate(held_out, batch_size=100, verbose=0, return_dict=True)["loss"]
    return loss, ended - started, ended - clock.from_here, folder


def train_in_torch(rows, held_out, vocabulary_size, folder):
    """The same in a plain loop, from the weights in a folder."""
    import torch
    from safetensors.torch import load_file
    from torch import nn
    from torch.nn import functional as F

    width, num_heads = SIZES["hidden_dim"], SIZES["num_heads"]

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.c_attn, self.c_out = (
                nn.Linear(width, 3 * width),
                nn.Linear(width, width),
            )
            self.c_fc, self.c_back = (
                nn.Linear(width, 4 * width),
                nn.Linear(4 * width, width),
            )

        def forward(self, x):
            b, t, c = x.shape
            parts = self.c_attn(self.ln_1(x)).split(c, dim=2)
            query, key, value = (
                part.view(b, t, num_heads, c // num_heads).transpose(1, 2)
                for part in parts
            )
            y = F.scaled_dot_product_attention(query, key, value, is_causal=True)
            x = x + self.c_out(y.transpose(1, 2).reshape(b, t, c))
            y = F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh")
            return x + self.c_back(y)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte = nn.Embedding(vocabulary_size, width)
            self.wpe = nn.Embedding(CONTEXT, width)
            self.h = nn.ModuleList(Block() for _ in range(SIZES["num_layers"]))
            self.ln_f = nn.LayerNorm(width)

        def forward(self, tokens):
            x = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
            for block in self.h:
                x = block(x)
            return self.ln_f(x) @ self.wte.weight.T

        def loss(self, rows):
            logits = self(rows[:, :-1])
            return F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())

    network = Network()
    (path,) = Path(folder.name).glob("*.safetensors")
    stored = load_file(path)
    names = {"attn.c_attn": "c_attn", "attn.c_proj": "c_out"}
    names |= {"mlp.c_fc": "c_fc", "mlp.c_proj": "c_back"}
    state = {}
    for name, array in stored.items():
        name = name.removeprefix("transformer.")
        for theirs, own in names.items():
            if theirs in name:
                name = name.replace(theirs, own)
                array = array.T if array.ndim == 2 else array  # of a 1 x 1 convolution
        state[name] = array
    network.load_state_dict({n: w for n, w in state.items() if "lm_head" not in n})
    matrices = [p for p in network.parameters() if p.dim() >= 2]
    others = [p for p in network.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": 0.1},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=RATE,
        betas=(0.9, 0.99),
    )
    batches = torch.from_numpy(rows).long().split(BATCH)
    started = from_here = time.monotonic()
    for step, batch in enumerate(batches):
        if step < WARMUP:
            rate = RATE * step / WARMUP
        else:
            turn = (step - WARMUP) / (len(batches) - WARMUP)
            rate = RATE * (0.1 + 0.9 * 0.5 * (1.0 + math.cos(math.pi * turn)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = network.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if step == BEFORE - 1:
            from_here = time.monotonic()
    ended = time.monotonic()
    with torch.no_grad():
        parts = torch.from_numpy(held_out).long().split(100)
        total = sum(network.loss(part).item() * len(part) for part in parts)
    return total / len(held_out), ended - started, ended - from_here


def quality(options):
    """Trains both from every seed and prints the table."""
    sys.path.insert(0, str(ROOT))
    import keras
    import numpy as np

    import keras_genai as kg

    text = "\n\n".join(kg.datasets.text("shakespeare").values())
    letters, ids = np.unique(np.array(list(text)), return_inverse=True)
    cut = len(ids) * 9 // 10
    ids = ids.astype("int32")
    held_out = windows(ids[cut:], options.judged, 0)
    found = []
    for seed in options.seeds:
        rows = windows(ids[:cut], options.iterations * BATCH, seed + 1)
        *ours, folder = train(rows, held_out, len(letters), seed)
        theirs = train_in_torch(rows, held_out, len(letters), folder)
        folder.cleanup()
        found.append((ours, theirs))
        print(f"seed {seed}: fit {ours[0]:.4f}, {ours[1]:.0f} s; PyTorch", end=" ")
        print(f"{theirs[0]:.4f}, {theirs[1]:.0f} s", flush=True)
    found = np.array(found)  # (seeds, 2, 3)
    apart = found[:, 0, 0] - found[:, 1, 0]
    error = apart.std(ddof=1) / math.sqrt(len(apart)) if len(apart) > 1 else math.nan
    print(
        "\n| | held-out loss | s | s without compiling |\n|---|---:|---:|---:|\n"
        + "\n".join(
            f"| {name} | {loss:.4f} | {whole:.0f} | {later:.0f} |"
            for name, (loss, whole, later) in zip(
                (f"fit on {keras.backend.backend()}", "PyTorch's loop"),
                found.mean(0),
                strict=True,
            )
        )
        + f"\n\n{options.iterations:,} iterations, seeds {options.seeds}; "
        f"{len(ids):,} characters, {len(letters)} of them different; "
        f"{len(held_out):,} held-out windows. Difference {apart.mean():+.4f} ± "
        f"{error:.4f}."
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--iterations", type=int, default=2000)
    parser.add_argument("--judged", type=int, default=2000, help="held-out windows")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    quality(parser.parse_args())
