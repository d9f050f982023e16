"""How well a Translator translates, beside torch.nn.Transformer in a plain loop.

    python tools/benchmark.py translation --quality
    KERAS_BACKEND=jax python tools/benchmarks/translation.py --epochs 2 --seeds 0

The package's verses, of at most 20 words, from English to Spanish; the Gospel of John
is held out whole, and verses that stand there word for word are left out of what is
learned. One BPE of 2,500 tokens for both languages, of the learned verses; two blocks
on each side, 128 channels, norms first, dropout 0.1 throughout, smoothing 0.1, Adam
with the paper's warm-up (1706.03762), batches of 32.

For each of `--seeds` both learn from the same batches and the same first weights, whose
logits are compared before training; then both are asked for translations by the same
search of four beams, the peer's weights in our network. BLEU and chrF by sacrebleu.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TITLE = "Translation of verses"
BATCH, WARMUP = 32, 400
SIZES = {
    "num_layers": 2,
    "hidden_dim": 128,
    "num_heads": 4,
    "intermediate_dim": 512,
    "max_sequence_length": 64,
}
QUALITY_BACKEND = "tensorflow"
QUALITY_GROUPS = ("torch", "text")


def verses(words=20):
    """`(learned, judged)`: lists of pairs of texts."""
    import keras_genai as kg

    learned, judged = [], []
    for english, spanish, place in zip(
        *kg.datasets.pairs("verses").values(), strict=True
    ):
        if max(len(english.split()), len(spanish.split())) <= words:
            part = judged if place.rsplit(" ", 1)[0] == "John" else learned
            part.append((english, spanish))
    held_out = {english for english, _ in judged}
    return [pair for pair in learned if pair[0] not in held_out], judged


def translator(tokenizer, seed):
    import keras_genai as kg

    rates = dict.fromkeys(("dropout", "attention_dropout", "hidden_dropout"), 0.1)
    return kg.Translator(
        **SIZES, **rates, norm_first=True, tokenizer=tokenizer, seed=seed
    )


def network_in_torch(model):
    """`torch.nn.Transformer` between the same table twice, with a model's weights."""
    import keras
    import torch
    from torch import nn

    waves = model.network.places(keras.ops.arange(SIZES["max_sequence_length"]))
    waves = torch.from_numpy(keras.ops.convert_to_numpy(waves))

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            width = SIZES["hidden_dim"]
            self.table = nn.Embedding(model.vocabulary_size, width)
            self.register_buffer("places", waves, persistent=False)
            self.drop = nn.Dropout(0.1)
            self.body = nn.Transformer(
                width,
                SIZES["num_heads"],
                SIZES["num_layers"],
                SIZES["num_layers"],
                SIZES["intermediate_dim"],
                dropout=0.1,
                norm_first=True,
                batch_first=True,
            )

        def embedded(self, tokens):
            x = self.table(tokens) * math.sqrt(SIZES["hidden_dim"])
            return self.drop(x + self.places[: tokens.shape[1]])

        def forward(self, source, before):
            padded = source == model.pad_token_id
            ahead = torch.ones(before.shape[1], before.shape[1], dtype=torch.bool)
            x = self.body(
                self.embedded(source),
                self.embedded(before),
                tgt_mask=ahead.triu(1),
                src_key_padding_mask=padded,
                memory_key_padding_mask=padded,
                tgt_is_causal=True,
            )
            return x @ self.table.weight.T

    network = Network()
    copy_weights(model, network, back=False)
    return network


def copy_weights(model, network, back):
    """Ours into PyTorch's; with `back` PyTorch's into ours."""
    import keras
    import torch

    state = network.state_dict()

    def slices():
        """`(our path, a view of PyTorch's tensor)`, in turn."""
        yield "table/embeddings", state["table.weight"]
        for side, norms in (("encoder", "12"), ("decoder", "1c2")):
            stem = f"body.{side}"
            for end in ("weight", "bias"):
                own = {"weight": "gamma", "bias": "beta"}[end]
                yield f"{side}_norm/{own}", state[f"{stem}.norm.{end}"]
            for i in range(SIZES["num_layers"]):
                block, layer = f"{side}_{i}", f"{stem}.layers.{i}"
                for number, norm in enumerate(norms, 1):
                    name = {"c": "norm_cross"}.get(norm, f"norm{norm}")
                    for end, own in (("weight", "gamma"), ("bias", "beta")):
                        yield (
                            f"{block}/{name}/{own}",
                            state[f"{layer}.norm{number}.{end}"],
                        )
                kinds = {"attention": "self_attn", "cross_attention": "multihead_attn"}
                for ours, theirs in kinds.items():
                    if ours == "cross_attention" and side == "encoder":
                        continue
                    for end, own in (("weight", "kernel"), ("bias", "bias")):
                        whole = state[f"{layer}.{theirs}.in_proj_{end}"]
                        for part, view in zip(
                            ("query", "key", "value"), whole.chunk(3), strict=True
                        ):
                            yield f"{block}/{ours}/{part}/{own}", view
                        yield (
                            f"{block}/{ours}/out/{own}",
                            state[f"{layer}.{theirs}.out_proj.{end}"],
                        )
                for number in (1, 2):
                    for end, own in (("weight", "kernel"), ("bias", "bias")):
                        yield (
                            f"{block}/feed_forward/dense{number}/{own}",
                            state[f"{layer}.linear{number}.{end}"],
                        )

    variables = {v.path: v for v in model.network.trainable_variables}
    for path, view in slices():
        variable = variables.pop(path)
        turned = path.endswith("kernel")
        if back:
            array = view.numpy()
            variable.assign(array.T if turned else array)
        else:
            array = keras.ops.convert_to_numpy(variable.value)
            with torch.no_grad():
                view.copy_(torch.from_numpy((array.T if turned else array).copy()))
    assert not variables, f"not copied: {sorted(variables)}"


def train(model, data, epochs):
    """Our training; seconds."""
    import keras

    import keras_genai as kg

    rate = kg.transformers.WarmupSchedule(SIZES["hidden_dim"], WARMUP)
    model.compile(keras.optimizers.Adam(rate, beta_2=0.98, epsilon=1e-9))
    started = time.monotonic()
    model.fit(data, batch_size=BATCH, epochs=epochs, shuffle=False, verbose=0)
    return time.monotonic() - started


def train_in_torch(network, model, data, epochs):
    """The same in a plain loop; seconds."""
    import torch
    from torch.nn import functional as F

    optimizer = torch.optim.Adam(network.parameters(), betas=(0.9, 0.98), eps=1e-9)
    rows = {name: torch.from_numpy(array).long() for name, array in data.items()}
    begin = torch.full((len(rows["target"]), 1), model.decoder_start_token_id)
    before = torch.cat([begin, rows["target"][:, :-1]], 1)
    network.train()
    started, step = time.monotonic(), 0
    for _ in range(epochs):
        for first in range(0, len(before), BATCH):
            part = slice(first, first + BATCH)
            step += 1
            rate = SIZES["hidden_dim"] ** -0.5 * min(step**-0.5, step * WARMUP**-1.5)
            for group in optimizer.param_groups:
                group["lr"] = rate
            logits = network(rows["source"][part], before[part])
            loss = F.cross_entropy(
                logits.flatten(0, 1),
                rows["target"][part].flatten(),
                ignore_index=model.pad_token_id,
                label_smoothing=0.1,
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    network.eval()
    return time.monotonic() - started


def same_logits(model, network, data):
    """Raises where the two networks are not the same."""
    import keras
    import numpy as np
    import torch

    source, target = (data[name][:8] for name in ("source", "target"))
    start = np.full((8, 1), model.decoder_start_token_id, "int32")
    before = np.concatenate([start, target[:, :-1]], 1)
    ours = keras.ops.convert_to_numpy(model([source, before]))
    network.eval()
    with torch.no_grad():
        theirs = network(*map(torch.from_numpy, (source, before))).numpy()
    apart = np.abs(ours - theirs)[target != model.pad_token_id].max()
    assert apart < 1e-4 * max(1.0, np.abs(ours).max()), apart


def quality(options):
    """Trains both from every seed, and prints the table and some translations."""
    sys.path.insert(0, str(ROOT))
    import keras
    import numpy as np

    import keras_genai as kg

    learned, judged = verses()
    english, spanish = map(list, zip(*learned, strict=True))
    sources, references = map(list, zip(*judged[: options.judged], strict=True))
    tokenizer = kg.Tokenizer.train(
        english + spanish, 2500, special_tokens=["<pad>", "<s>", "</s>"]
    )
    found, made = [], {}
    for seed in options.seeds:
        model = translator(tokenizer, seed)
        data = model.pairs(english, spanish, length=30)
        order = np.random.default_rng(seed).permutation(len(data["source"]))
        order = order[: len(order) // BATCH * BATCH]  # whole batches
        data = {name: rows[order] for name, rows in data.items()}
        network = network_in_torch(model)
        same_logits(model, network, data)
        results = []
        for name in ("ours", "PyTorch"):
            if name == "ours":
                seconds = train(model, data, options.epochs)
            else:
                seconds = train_in_torch(network, model, data, options.epochs)
                copy_weights(model, network, back=True)
                same_logits(model, network, data)
            made[name] = model.translate(sources, max_length=50, batch_size=64)
            scores = (
                kg.metrics.bleu(made[name], references),
                kg.metrics.chrf(made[name], references),
            )
            likely = float(model.score(sources, references, batch_size=64).mean())
            results.append((*scores, likely, seconds))
            shown = f"BLEU {scores[0]:.2f}, chrF {scores[1]:.2f}, {likely:.2f} nats"
            print(f"seed {seed}, {name}: {shown}, {seconds:.0f} s", flush=True)
        found.append(results)
    for i in range(0, len(sources), max(1, len(sources) // 8)):
        print(f"\n{sources[i]}\n  printed: {references[i]}")
        print("\n".join(f"  {name}: {texts[i]}" for name, texts in made.items()))
    found = np.array(found)  # (seeds, 2, 4)
    rows = (f"fit on {keras.backend.backend()}", "torch.nn.Transformer")
    print("\n| | BLEU | chrF | log p of the reference | s |\n|---|---:|---:|---:|---:|")
    for name, row in zip(rows, found.mean(0), strict=True):
        print(f"| {name} | {row[0]:.2f} | {row[1]:.2f} | {row[2]:.2f} | {row[3]:.0f} |")
    apart = found[:, 0, :2] - found[:, 1, :2]
    errors = np.full(2, math.nan)
    if len(apart) > 1:
        errors = apart.std(0, ddof=1) / math.sqrt(len(apart))
    print(
        f"\n{len(data['source']):,} pairs, {options.epochs} epochs, seeds "
        f"{options.seeds}; {len(sources)} verses of John. Difference: BLEU "
        f"{apart[:, 0].mean():+.2f} ± {errors[0]:.2f}, chrF {apart[:, 1].mean():+.2f} "
        f"± {errors[1]:.2f}."
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--judged", type=int, default=500, help="held-out verses")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    quality(parser.parse_args())


if __name__ == "__main__":
    main()
