# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From one language to another
#
# Nobody tells this network which Spanish word belongs to which English one. It sees
# seven thousand verses in both languages and finds out: after a few minutes it knows
# where in the English line to look for each Spanish word that it writes, and the
# pictures below show it looking. It is the network for which attention was made what it
# is, the *transformer* of [1706.03762](https://arxiv.org/abs/1706.03762).
#
# *Time: about five minutes on two CPU cores on TensorFlow or PyTorch. What to expect:
# Spanish that is mostly grammatical, often right in short and common phrases, and wrong
# wherever a rare word matters; a BLEU of about 12 on a book that was never read. Useful
# translators have read a thousand times as much.*
#
# *What it needs: `pip install "keras-genai[tutorials]"`, and `jax` or `torch` for those
# backends.*

# %% [markdown]
# ## The backend is one line
#
# Everything below runs unchanged on TensorFlow, JAX and PyTorch. Set the variable
# before anything imports Keras; here it is left as it is found.

# %%
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # or "jax", "torch"

# %%
import keras_genai as kg  # isort: skip (before Keras: it chooses TensorFlow's kernels)

import collections
import json
import re
import subprocess
import sys
import time

import keras
import matplotlib.pyplot as plt
import numpy as np

FAST = bool(os.environ.get("KG_FAST"))  # few steps, to check that the cells run
print("Keras", keras.__version__, "on", keras.backend.backend())

# %% [markdown]
# ## The verses
#
# The Bible is the text that most languages have, numbered sentence by sentence. The
# package brings the King James Version and the Reina-Valera of 1909. Short verses, of
# at most twenty words, will do for the time that there is.
#
# Whole books are held out, so that no chapter is half known: Ruth and Jonah to watch
# the training, the Gospel of John to judge it. A verse that stands in other books word
# for word is not learned there.

# %%
verses = kg.datasets.pairs("verses")
watched, judged, learned = [], [], []
for english, spanish, place in zip(*verses.values(), strict=True):
    if max(len(english.split()), len(spanish.split())) <= 20:
        book = place.rsplit(" ", 1)[0]
        part = {"Ruth": watched, "Jonah": watched, "John": judged}.get(book, learned)
        part.append((english, spanish))
held_out = {english for english, _ in watched + judged}
learned = [pair for pair in learned if pair[0] not in held_out]
if FAST:
    learned, watched, judged = learned[:200], watched[:4], judged[:6]
for name, part in (("learn", learned), ("watch", watched), ("judge", judged)):
    print(f"to {name} by: {len(part):6,} pairs, such as {part[2]}")

# %% [markdown]
# ## Pieces of words
#
# Byte-pair encoding ([1508.07909](https://arxiv.org/abs/1508.07909)) joins the most
# frequent pair of neighbouring signs to a new one, until there are as many as were
# asked for. Frequent words become one token; rare ones, and names, stay in pieces that
# both languages share. So there is one table of tokens for both.

# %%
english, spanish = map(list, zip(*learned, strict=True))
tokenizer = kg.Tokenizer.train(
    english + spanish,
    400 if FAST else 2500,
    special_tokens=["<pad>", "<s>", "</s>"],
)


def cut(sentence):
    """The pieces of a sentence, as they are read."""
    ids = tokenizer.encode(sentence) if isinstance(sentence, str) else sentence
    return [tokenizer.decode([i], special=True) for i in ids]


for sentence in judged[2]:
    print("|".join(cut(sentence)))

# %% [markdown]
# ## The network
#
# The *encoder* reads the English tokens and lets each look at all others; the *decoder*
# writes the Spanish ones, each of which looks at those already written, and at the
# encoder's. Looking is a mean of *values*, weighted by how well a *query* fits each
# *key*:
#
# $$\operatorname{attention}(Q, K, V)
#   = \operatorname{softmax}\!\Big(\frac{Q K^\top}{\sqrt{d}}\Big) V .$$
#
# A set of vectors has no order, so each gets its place $p$ added, written in waves,
# $\sin(p / 10000^{2i/C})$ and $\cos(p / 10000^{2i/C})$: left below. The rate of the
# optimizer rises first, since Adam's averages are worth nothing at the beginning, and
# then falls with the root of the steps (section 5.3 of the paper): right below.
#
# $$\text{rate}(t) = f\, C^{-1/2} \min\big(t^{-1/2},\; t\, w^{-3/2}\big)$$

# %%
size = 32 if FAST else 128
epochs, batch = (2, 20) if FAST else (7, 32)
model = kg.Translator(
    "base",
    num_layers=1 if FAST else 2,
    hidden_dim=size,
    num_heads=4,
    intermediate_dim=4 * size,
    max_sequence_length=64,
    norm_first=True,  # trains at a higher rate than the paper's order (2002.04745)
    label_smoothing=0.1,
    tokenizer=tokenizer,
    seed=0,
)
print(f"{model.network.count_params():,} weights")
data = model.pairs(english, spanish, length=30)
watch = model.pairs(*zip(*watched, strict=True))
print({name: array.shape for name, array in data.items()})

steps = epochs * -(-len(data["source"]) // batch)
schedule = kg.transformers.WarmupSchedule(size, warmup=min(400, steps // 2))
waves = kg.layers.PositionEmbedding(64, size, "sinusoidal")
figure, axes = plt.subplots(1, 2, figsize=(13, 3), layout="constrained")
image = keras.ops.convert_to_numpy(waves(np.arange(64)))
axes[0].imshow(image.T, aspect="auto", cmap="RdBu")
axes[0].set(xlabel="place", ylabel="channel", title="Where a token stands")
rates = keras.ops.convert_to_numpy(schedule(np.arange(steps)))
axes[1].plot(rates)
axes[1].set(xlabel="step", ylabel="rate", title="How fast it learns")
plt.show()

# %% [markdown]
# The loss is the mean of $-\log p$ of the right token, with a tenth of the wish spread
# over all tokens (*label smoothing*, section 5.4): a network that is never asked to be
# quite sure translates better.
#
# ## Training, watched
#
# `kg.callbacks.Translations` translates the watched books after each epoch and judges
# the translations: BLEU counts the groups of one to four words that are also in the
# reference, chrF the groups of letters; both go from 0 to 100. We also keep where one
# verse's Spanish words look, after each epoch.

# %%
example = (
    "In the beginning God created the heaven and the earth.",
    "En el principio crió Dios los cielos y la tierra.",
)
looks = []


def look(epoch, logs):
    looks.append(model.attention_maps(example[:1], example[1:])[0])


english_watched, spanish_watched = map(list, zip(*watched, strict=True))
callbacks = [
    kg.callbacks.Translations(
        english_watched,
        spanish_watched,
        examples=1,
        num_beams=1,
        batch_size=64,
    ),
    keras.callbacks.LambdaCallback(on_epoch_end=look),
]
model.compile(keras.optimizers.Adam(schedule, beta_2=0.98, epsilon=1e-9))
started = time.monotonic()
history = model.fit(
    data,
    batch_size=batch,
    epochs=epochs,
    validation_data=watch,
    verbose=2,
    callbacks=callbacks,
).history
print(f"{time.monotonic() - started:.0f} s")

# %%
along = range(1, epochs + 1)
figure, axes = plt.subplots(1, 2, figsize=(13, 3.5), layout="constrained")
axes[0].plot(along, history["entropy"], marker="o", label="learned verses")
axes[0].plot(along, history["val_entropy"], marker="o", label="Ruth and Jonah")
axes[0].set(xlabel="epoch", ylabel="nats per token", title="Surprise")
axes[1].plot(along, history["val_bleu"], marker="o", label="BLEU")
axes[1].plot(along, history["val_chrf"], marker="o", label="chrF")
axes[1].set(xlabel="epoch", title="Translations of Ruth and Jonah")
for axis in axes:
    axis.legend()
plt.show()

# %% [markdown]
# ## The moment when it learns to look
#
# For each Spanish token (a row), where it looks in the English sentence, as a mean over
# the heads of the last block. At first everywhere alike: the network writes what
# Spanish verses are like, whatever the English says. Then it finds out that there is
# something to see, and translation begins.

# %%


def draw(axis, weights, source, target, labels=True):
    """Rows: tokens of the target; columns: tokens of the source."""
    source, target = (
        [piece.strip() or "_" for piece in cut(text)] + ["</s>"]
        for text in (source, target)
    )
    axis.imshow(weights, cmap="Blues", vmin=0, vmax=max(0.5, weights.max()))
    axis.set_xticks(range(len(source)), source, rotation=90, fontsize=8)
    axis.set_yticks(range(len(target)), target if labels else [], fontsize=8)


shown = [0, 1, len(looks) // 2, len(looks) - 1][-len(looks) :]
figure, axes = plt.subplots(1, len(shown), figsize=(15, 4.5), layout="constrained")
for axis, epoch in zip(axes, shown, strict=True):
    draw(axis, looks[epoch][-1].mean(0), *example, labels=axis is axes[0])
    axis.set_title(f"after epoch {epoch + 1}")
plt.show()

# %% [markdown]
# Heads divide the work. All of the last block, on a verse of John:

# %%
source, target = judged[0 if FAST else 20]
maps = model.attention_maps([source], [target])[0]
figure, axes = plt.subplots(1, 4, figsize=(16, 4.5), layout="constrained")
for head, axis in enumerate(axes):
    draw(axis, maps[-1, head], source, target, labels=head == 0)
    axis.set_title(f"head {head + 1}")
plt.show()

# %% [markdown]
# ## A book that it never read
#
# The most probable translation cannot be found by trying all. *Greedy* takes the most
# probable token each time and cannot turn back; *beams* keep several beginnings. The
# score of a translation of $n$ tokens is its log-probability over $n^{0.6}$, or short
# ones would always win.
#
# Three simple ways stand beside it: to leave the English as it is, to say the same
# frequent verse each time, and to look up the most similar English verse that was
# learned and give its Spanish.

# %%
sources, targets = map(list, zip(*judged, strict=True))


def bag(sentence):
    return set(re.findall(r"\w+", sentence.lower()))


bags = [bag(sentence) for sentence in english]
counts = collections.Counter(word for found in bags for word in found)
weight = {word: np.log(len(bags) / n) for word, n in counts.items()}


def look_up(sentence):
    """The Spanish of the learned verse that shares most, rare words first."""
    wanted = bag(sentence)

    def alike(found):
        both = sum(weight.get(word, 0) for word in wanted & found)
        return both / (sum(weight.get(word, 0) for word in wanted | found) + 1e-9)

    return spanish[max(range(len(bags)), key=lambda i: alike(bags[i]))]


rows = {
    "English, as it is": sources,
    "always the same": ["Y Jesús le dijo: De cierto te digo."] * len(sources),
    "looked up": [look_up(sentence) for sentence in sources],
}
seconds = dict.fromkeys(rows, "")
for beams in (1, 4) if FAST else (1, 2, 4, 8):
    started = time.monotonic()
    name = f"{beams} beams" if beams > 1 else "greedy"
    rows[name] = model.translate(sources, beams, batch_size=64)
    seconds[name] = f"{time.monotonic() - started:.1f}"
print(f"{'':20} {'BLEU':>6} {'chrF':>6} {'log p':>7} {'s':>6}")
for name, made in rows.items():
    ours = seconds[name] != ""
    score = f"{model.score(sources, made).mean():.1f}" if ours else ""
    scores = (kg.metrics.bleu(made, targets), kg.metrics.chrf(made, targets))
    print(f"{name:20} {scores[0]:6.1f} {scores[1]:6.1f} {score:>7} {seconds[name]:>6}")

# %% [markdown]
# Greedy against beams, verse by verse.

# %%
chosen = range(0, len(sources), max(1, len(sources) // 10))
for i in chosen:
    print(sources[i])
    print("   greedy ", rows["greedy"][i])
    print("   beams  ", rows["4 beams"][i])
    print("   printed", targets[i], "\n")

# %% [markdown]
# ## The dictionary that it made
#
# Over all learned verses: for each frequent English word, the Spanish tokens that
# looked at it most. Nobody ever said that these belong together.

# %%
few = 16 if FAST else 600
sample = model.pairs(english[:few], spanish[:few], length=30)
maps = model.attention_maps(sample["source"], sample["target"], batch_size=50)
maps = maps[:, -1].mean(1)  # (N, T, S)
pairs = collections.Counter()
for weights, source, target in zip(maps, *sample.values(), strict=True):
    for row, token in zip(weights, target, strict=True):
        if token not in (model.pad_token_id, model.eos_token_id):
            place = row[: np.argmax(source == model.eos_token_id)].argmax()
            pairs[int(source[place]), int(token)] += 1
totals = collections.Counter()
for (source, _), n in pairs.items():
    totals[source] += n
words = [i for i, _ in totals.most_common() if cut([i])[0].strip().isalpha()]
for source in words[:30]:
    found = [(n, t) for (s, t), n in pairs.items() if s == source]
    best = " ".join(cut([t])[0].strip() for _, t in sorted(found)[::-1][:4])
    print(f"{cut([source])[0].strip():12} {best}")

# %% [markdown]
# ## What it thinks of given translations
#
# `score` gives the log-probability of any translation. Every English verse with every
# Spanish one: the right ones lie on the diagonal. What is drawn is how much more
# probable the English made the Spanish than other English did.

# %%
count = min(len(sources), 32)
some = np.linspace(0, len(sources) - 1, count).astype(int)
grid = model.score(
    [sources[i] for i in some for _ in some],
    [targets[j] for _ in some for j in some],
    batch_size=64,
).reshape(count, count)
gain = grid - grid.mean(0)
figure, axis = plt.subplots(figsize=(5.5, 4.5))
image = axis.imshow(gain, cmap="RdBu", vmin=-30, vmax=30)
figure.colorbar(image, label="nats")
axis.set(xlabel="Spanish verse", ylabel="English verse")
plt.show()
found = np.mean(gain.argmax(1) == np.arange(count))
print(f"the right one of {count} is found for {100 * found:.0f} % of the verses")

# %% [markdown]
# ## Saving and serving
#
# A `.keras` file holds weights, optimizer and tokenizer, and opens on any backend.

# %%
model.save("translator.keras")
loaded = kg.load_model("translator.keras")
same = np.allclose(
    loaded.score(sources[:4], targets[:4]), model.score(sources[:4], targets[:4])
)
print("loaded:", same)

# %% [markdown]
# `export` writes the whole search, encoder, decoder, cache and four beams, as one
# SavedModel. This program knows neither Keras nor this package.

# %%
model.export("served/translator", overwrite=True)
tokenizer.save("served/tokenizer")

PROGRAM = """
import json, sys
for absent in ("keras", "keras_genai", "jax", "torch"):
    sys.modules[absent] = None  # as if it were not installed
import tensorflow as tf
from tokenizers import Tokenizer

tokenizer = Tokenizer.from_file("served/tokenizer/tokenizer.json")
served = tf.saved_model.load("served/translator").signatures["translate"]
stop = tokenizer.token_to_id("</s>")
for sentence in json.loads(sys.argv[1]):
    tokens = tf.constant([tokenizer.encode(sentence).ids + [stop]])
    made = served(tokens=tokens)["tokens"].numpy()[0]
    print(json.dumps(tokenizer.decode(made.tolist())))
"""
wanted = sources[:3]
done = subprocess.run(
    [sys.executable, "-c", PROGRAM, json.dumps(wanted)],
    capture_output=True,
    text=True,
)
print(done.stderr[-2000:] if done.returncode else "", end="")
served = [json.loads(line) for line in done.stdout.splitlines()]
for sentence, theirs, ours in zip(wanted, served, rows["4 beams"], strict=False):
    print(f"{sentence}\n   -> {theirs}\n   as model.translate: {theirs == ours}")

# %% [markdown]
# ## On
#
# - What would make it good: more pairs above all (translators learn from millions),
#   then `kg.Translator("base")`, the paper's 65 million weights, and a GPU.
# - Published weights: `kg.Translator.from_pretrained("Helsinki-NLP/opus-mt-en-es")`,
#   or any folder of that layout; `model.save_pretrained(folder)` writes it.
# - Several references of each sentence: `kg.metrics.bleu(made, [first, second])`.
# - One network that writes on in one language: tutorial 06.
