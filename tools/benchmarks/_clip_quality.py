"""How well a small CLIP finds emoji that it never saw, beside a plain PyTorch loop.

    python tools/benchmark.py clip --quality
    KERAS_BACKEND=jax python tools/benchmarks/clip.py --steps 260 --seeds 0

Trained on the training part of `kg.datasets.emoji`, in Google's drawings alone: 1,611
pictures at 32 x 32, each with four captions (its name twice, its name with tags, tags),
of which each step draws one. An image tower of five 3 x 3 convolutions, a text tower of
two blocks of 128 channels; AdamW, batches of 128, pictures turned, zoomed and
recoloured by Keras's layers (`kg.datasets.augmented`).

Judged, by names alone:

    seen          the training pictures (1,611 names)
    other style   Microsoft's drawings of names that were trained on (1,300)
    held out      Google's drawings of names that were not (300)
    both          Microsoft's drawings of names that were not (244)

"i2t" and "t2i" are recall@1 from pictures to names and back, among all names of the
split; "top 5 of 100" is how often the right name is among the five nearest of a fixed
hundred (of the split, the first by the SHA-256 of their code points); "groups" is
zero-shot, Unicode's ten groups by the templates and words below, over held out.

The PyTorch loop has the same towers (its text tower is transformers' own class), the
same first weights, the same batches in the same order and the same optimizer. Each
training has a seed of its own; what is done is kept in `--folder`, and a run that is
cut off goes on: this package's in the middle of a training (`kg.callbacks.Resume`),
PyTorch's at its last epoch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BATCH, SIDE, EMBED_DIM = 128, 32, 128
FILTERS = ((48, 2), (96, 2), (128, 1), (192, 2), (192, 1))  # and strides
VOCABULARY, LENGTH = 1500, 32
RATE, DECAY, DROPOUT = 1.5e-3, 0.1, 0.1
WARMUP = 12  # a part of that many of the steps, in which the rate rises
SPLITS = {
    "seen": ("google", "train"),
    "other style": ("fluent", "seen_names"),
    "held out": ("google", "held_out_names"),
    "both": ("fluent", "held_out_names"),
}
BARS = {
    "other style i2t": 0.12,
    "other style t2i": 0.12,
    "held out i2t": 0.15,
    "held out t2i": 0.15,
    "groups": 0.27,
}
# Unicode's groups in words, which the captions do not hold as such.
GROUPS = {
    "smileys-emotion": "smiling face",
    "people-body": "person",
    "animals-nature": "animal",
    "food-drink": "food",
    "travel-places": "place",
    "activities": "sport",
    "objects": "tool",
    "symbols": "sign",
    "flags": "flag",
    "component": "hair",
}
TEMPLATES = ("{}", "a {}", "{}, {}")


# Data


def pictures(style, split):
    """`(images (N, 32, 32, 3), names, groups, codes)` of a split."""
    import keras_genai as kg

    data = kg.datasets.emoji(style=style, split=split)
    images = data["images"].reshape(-1, SIDE, 2, SIDE, 2, 3).mean((2, 4))
    return images, data["captions"], data["groups"], data["codes"]


def captions_of():
    """The four captions of each training picture, a list of lists of strings."""
    import numpy as np

    import keras_genai as kg

    data = kg.datasets.emoji(split="train")
    draw, found = np.random.default_rng(0), []

    def some(tags, count):
        return [str(tag) for tag in draw.permutation(np.array(tags, object))[:count]]

    for name, tags in zip(data["captions"], data["tags"], strict=True):
        told = ", ".join([name, *some(tags, 2)])
        found.append([name, name, told, ", ".join(some(tags, 3) or [name])])
    return found


def batches(seed):
    """The training pairs, with the pictures changed by chance."""
    import keras

    import keras_genai as kg

    white = {"fill_mode": "constant", "fill_value": 1.0}
    layers = [
        keras.layers.RandomRotation(0.06, **white),
        keras.layers.RandomZoom((-0.15, 0.4), (-0.15, 0.4), **white),
        keras.layers.RandomColorJitter(
            value_range=(-1, 1),
            brightness_factor=0.2,
            contrast_factor=0.3,
            saturation_factor=(0.2, 0.8),
            hue_factor=0.05,
        ),
    ]
    images, *_ = pictures(*SPLITS["seen"])
    pairs = {"images": images, "captions": captions_of()}
    return kg.datasets.augmented(pairs, layers, batch_size=BATCH, seed=seed)


# This package's


def image_tower():
    """Five convolutions and a mean: `(B, 32, 32, 3)` -> `(B, 192)`.

    Padded as PyTorch does, at a stride of two as well.
    """
    import keras

    parts = [keras.Input((SIDE, SIDE, 3))]
    for filters, stride in FILTERS:
        parts += [
            keras.layers.ZeroPadding2D(1),
            keras.layers.Conv2D(filters, 3, strides=stride, use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5),
            keras.layers.Activation("gelu"),
        ]
    parts += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dropout(DROPOUT)]
    return keras.Sequential(parts)


def model_of(seed):
    """The CLIP with its first weights."""
    import keras

    import keras_genai as kg

    keras.utils.set_random_seed(seed)
    texts = [text for group in captions_of() for text in group]
    tokenizer = kg.Tokenizer.train(texts, VOCABULARY, kind="clip")
    text = kg.clip.TextTower(
        tokenizer.vocabulary_size,
        LENGTH,
        num_layers=2,
        hidden_dim=128,
        num_heads=4,
        eos_token_id=tokenizer.eos_token_id,
        projection_dim=EMBED_DIM,
        seed=seed,
    )
    return kg.CLIP(
        image_tower(),
        text,
        EMBED_DIM,
        tokenizer=tokenizer,
        mask_equal_captions=True,
        seed=seed,
    )


def train(model, data, epochs, folder, seed):
    """`fit`, which goes on where it was cut off; the seconds that it took."""
    import keras

    import keras_genai as kg

    steps = epochs * data.num_batches
    rise = steps // WARMUP
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - rise, warmup_target=RATE, warmup_steps=rise
    )
    model.compile(
        keras.optimizers.AdamW(
            rate, weight_decay=DECAY, beta_2=0.98, epsilon=1e-6, global_clipnorm=1.0
        )
    )
    watch = Clock(folder / f"seconds-{seed}.json")
    resume = kg.callbacks.Resume(folder / f"seed-{seed}.npz", every=data.num_batches)
    model.fit(data, epochs=epochs, verbose=2, callbacks=[resume, watch.callback()])
    return watch.seconds


class Clock:
    """Seconds of training, those before an interruption included."""

    def __init__(self, path):
        self.path = path
        self.seconds = json.loads(path.read_text()) if path.exists() else 0.0
        self.last = time.monotonic()

    def tick(self):
        now = time.monotonic()
        self.seconds, self.last = self.seconds + now - self.last, now
        self.path.write_text(json.dumps(self.seconds))

    def callback(self):
        import keras

        return keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: self.tick())


# The same in PyTorch


def train_in_torch(model, data, epochs, folder, seed):
    """The seconds of a plain loop; the model of this package gets its weights."""
    import numpy as np
    import torch
    import transformers
    from torch import nn
    from torch.nn import functional as F

    import keras_genai as kg

    parts, width = [], 3
    for filters, stride in FILTERS:
        parts += [
            nn.Conv2d(width, filters, 3, stride, 1, bias=False),
            nn.BatchNorm2d(filters),
            nn.GELU(),
        ]
        width = filters
    drop = nn.Dropout(DROPOUT)
    image = nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), drop)
    project = nn.Linear(width, EMBED_DIM, bias=False)
    with tempfile.TemporaryDirectory() as place:
        model.text_tower.save_pretrained(place)
        text = transformers.CLIPTextModelWithProjection.from_pretrained(place)
    scale = nn.Parameter(torch.tensor(float(np.log(1.0 / 0.07))))
    weights = model.image_tower.trainable_variables
    pairs = list(zip(image.parameters(), weights, strict=True))
    pairs.append((project.weight, model.image_projection.kernel))
    with torch.no_grad():
        for parameter, weight in pairs:
            array = np.array(kg.backend.to_host(weight.value))
            axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[array.ndim]
            parameter.copy_(torch.from_numpy(array.transpose(axes).copy()))
    modules = nn.ModuleList([image, project, text]).train()
    everything = [*modules.parameters(), scale]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in everything if p.ndim > 1], "weight_decay": DECAY},
            {"params": [p for p in everything if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=RATE,
        betas=(0.9, 0.98),
        eps=1e-6,
    )
    steps = epochs * data.num_batches
    rise = steps // WARMUP
    path = folder / f"torch-{seed}.pt"
    watch, begin = Clock(folder / f"torch-seconds-{seed}.json"), 0
    if path.exists():
        kept = torch.load(path, weights_only=True)
        modules.load_state_dict(kept["modules"])
        optimizer.load_state_dict(kept["optimizer"])
        scale.data.copy_(kept["scale"])
        begin = kept["epoch"]
    for epoch in range(begin, epochs):
        data.set_epoch(epoch)
        total = 0.0
        for i in range(data.num_batches):
            step = epoch * data.num_batches + i
            falling = 0.5 + 0.5 * np.cos(np.pi * (step - rise) / (steps - rise))
            for group in optimizer.param_groups:
                group["lr"] = RATE * (step / rise if step < rise else falling)
            (batch,) = data[i]
            pixels = torch.from_numpy(batch["images"]).permute(0, 3, 1, 2)
            texts = batch["captions"].tolist()
            tokens = torch.from_numpy(model.tokenize(texts)).long()
            x = F.normalize(project(image(pixels)), dim=-1)
            y = F.normalize(text(input_ids=tokens).text_embeds, dim=-1)
            logits = scale.exp() * x @ y.T
            equal = (tokens[:, None] == tokens[None]).all(-1)
            equal.fill_diagonal_(False)
            logits = logits.masked_fill(equal, -1e9)
            labels = torch.arange(len(x))
            loss = F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)
            loss = loss / 2
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(everything, 1.0)
            optimizer.step()
            with torch.no_grad():
                scale.clamp_(max=float(np.log(100.0)))
            total += loss.item() / data.num_batches
        watch.tick()
        kept = {"modules": modules.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save({**kept, "scale": scale.data, "epoch": epoch + 1}, path)
        print(f"  epoch {epoch + 1} of {epochs}: loss {total:.4f}", flush=True)
    for parameter, weight in pairs:
        array = parameter.detach().numpy()
        axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[array.ndim]
        weight.assign(array.transpose(axes))
    moments = [m for m in image if isinstance(m, nn.BatchNorm2d)]
    moments = [x for m in moments for x in (m.running_mean, m.running_var)]
    own = model.image_tower.non_trainable_variables
    own = [v for v in own if "moving" in v.path]
    for values, variable in zip(moments, own, strict=True):
        variable.assign(values.numpy())
    with tempfile.TemporaryDirectory() as place:
        text.save_pretrained(place)
        loaded = kg.clip.TextTower.from_pretrained(place)
    model.text_tower.set_weights(loaded.get_weights())
    model.scale.logit_scale.assign(scale.item())
    return watch.seconds


# Judging


def judge(model):
    """The figures of a trained model, a dict."""
    import numpy as np

    import keras_genai as kg

    found = {}
    for name, place in SPLITS.items():
        images, names, groups, codes = pictures(*place)
        x, y = model.encode_image(images), model.encode_text(names)
        recall = kg.metrics.recall_at_k(x, y, names, k=1)
        found[f"{name} i2t"] = recall["image_to_text_recall@1"]
        found[f"{name} t2i"] = recall["text_to_image_recall@1"]
        digests = [hashlib.sha256(code.encode()).hexdigest() for code in codes]
        hundred = np.argsort(digests)[:100]
        top = kg.metrics.recall_at_k(x[hundred], y[hundred], k=5)
        found[f"{name} top 5 of 100"] = top["image_to_text_recall@5"]
        if name == "held out":
            words = [GROUPS[group] for group in GROUPS]
            classifier = kg.clip.ZeroShotClassifier(model, words, TEMPLATES)
            wanted = [list(GROUPS).index(group) for group in groups]
            guessed = classifier.classify(images).argmax(1)
            found["groups"] = float(np.mean(guessed == wanted))
    return {name: float(value) for name, value in found.items()}


def quality(options):
    """Trains both from each seed, judges them and prints the table."""
    sys.path.insert(0, str(ROOT))
    import keras

    backend = keras.backend.backend()
    contenders = {f"kg.CLIP, {backend}": train, "PyTorch loop": train_in_torch}
    if options.alone:
        del contenders["PyTorch loop"]
    results = {name: [] for name in contenders}
    for seed in options.seeds:
        for name, run in contenders.items():
            label = "ours" if run is train else "torch"
            folder = options.folder / f"{backend}-{options.steps}"
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{label}-{seed}.json"
            if not path.exists():
                data = batches(seed)
                epochs = max(1, round(options.steps / data.num_batches))
                print(f"{name}, seed {seed}, {epochs} epochs", flush=True)
                model = model_of(seed)
                seconds = run(model, data, epochs, folder, seed)
                path.write_text(json.dumps({**judge(model), "seconds": seconds}))
            results[name].append(json.loads(path.read_text()))
            print(f"  {name}, seed {seed}: {results[name][-1]}", flush=True)
    print(f"\n{table(results)}\n\nSeeds {options.seeds}, {options.steps} steps.")


def table(results):
    """The figures as Markdown: the mean over the seeds, and the least and the most."""
    names = next(iter(results.values()))[0]
    lines = [
        "| | " + " | ".join(results) + " | wanted |",
        "|---|" + "---:|" * (len(results) + 1),
    ]
    for name in names:
        cells = []
        for runs in results.values():
            values = [run[name] for run in runs]
            digits = 0 if name == "seconds" else 3
            mean, least, most = (
                f"{f(values):.{digits}f}" for f in (statistics.mean, min, max)
            )
            cells.append(f"{mean} ({least} to {most})")
        wanted = f"{BARS[name]:.2f}" if name in BARS else ""
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {wanted} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=1300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--alone", action="store_true", help="without PyTorch's loop")
    parser.add_argument(
        "--folder",
        type=Path,
        default=ROOT / "logs" / "clip_quality",
        help="where what is done is kept, for a run that goes on",
    )
    quality(parser.parse_args())
