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
# # A machine that writes on
#
# Cover the end of a line and guess the next letter. Whoever guesses well must know how
# words are spelled, which word follows which, and who is speaking. A *language model*
# is trained on that game alone, and by playing it against itself, letter after letter,
# it writes. This notebook trains one on Shakespeare's tragedies, first letter by
# letter, then in pieces of words; measures it against plain counting; looks at what
# choosing the next letter well or badly does to a text; teaches it to write sonnets by
# a few extra weights; and leaves with a file that writes without any of this.
#
# *Time: about five minutes on two CPU cores on TensorFlow or PyTorch. What to expect:
# pages that look like a play, with speakers and mostly real words, and no sense at all.
# A model that makes sense has a thousand times the weights and the text.*
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
import re
import time

import keras
import matplotlib.pyplot as plt
import numpy as np

FAST = bool(os.environ.get("KG_FAST"))  # few steps, to check that the cells run
print("Keras", keras.__version__, "on", keras.backend.backend())

# %% [markdown]
# ## The text
#
# Shakespeare's works come with the package: nothing is downloaded. The model reads ten
# tragedies. It is judged on an eleventh, Macbeth, of which it never sees a line.

# %%
works = kg.datasets.text("shakespeare")
tragedies = [
    "Antony and Cleopatra",
    "Coriolanus",
    "Hamlet",
    "Julius Caesar",
    "King Lear",
    "Othello",
    "Romeo and Juliet",
    "The Tragedy of Titus Andronicus",
    "Timon of Athens",
    "Troilus and Cressida",
]
text = "\n\n".join(works[name] for name in tragedies)
macbeth = works["Macbeth"]
if FAST:
    text, macbeth = text[:60_000], macbeth[:3_000]
start = macbeth.find("\n\n", 1200)
print(f"{len(text):,} characters to learn from, {len(macbeth):,} to be judged by\n")
print(macbeth[start : start + 400].strip())

# %% [markdown]
# ## The game, in one formula
#
# The probability of a text is the product of the probabilities of its letters, each
# given those before it. The model is trained to make that product large, that is, to
# make small the mean
#
# $$L = -\frac{1}{T} \sum_{t=1}^{T} \log_2\, p_\theta(x_t \mid x_1, \dots, x_{t-1}) ,$$
#
# which is counted in *bits per letter*: how many yes-or-no questions the next letter
# costs whoever knows what the model knows. (Programs use the natural logarithm; one nat
# is 1.44 bits.)
#
# Before any network: how far does counting get? Count how often each letter followed
# each group of $n - 1$ letters, and lean on shorter groups where the longer one is
# rare. And how far does a program get that packs files? A text costs it as many bits as
# it makes the packed file longer.

# %%
letters = kg.Tokenizer.characters(works.values())
print(f"{letters.vocabulary_size} different characters")


def counting(order, weight=10):
    """Bits per letter of Macbeth by counts of groups of up to `order` letters."""
    p = np.full(len(macbeth), 1 / letters.vocabulary_size)
    groups = collections.Counter({"": len(text)})
    for n in range(1, order + 1):
        shorter = groups
        groups = collections.Counter(text[i : i + n] for i in range(len(text) - n + 1))
        for i in range(n - 1, len(macbeth)):
            group = macbeth[i - n + 1 : i + 1]
            seen = shorter[group[:-1]]
            p[i] = (groups[group] + weight * p[i]) / (seen + weight)
    return -np.log2(p).mean()


def packed(string):
    import lzma

    return 8 * len(lzma.compress(string.encode(), preset=9 | lzma.PRESET_EXTREME))


floors = {
    "each letter as likely": np.log2(letters.vocabulary_size),
    "counting letters": counting(1),
    "counting groups of 2": counting(2),
    "counting groups of 3": counting(3),
    "counting groups of 5": counting(5),
    "xz": (packed(text + macbeth) - packed(text)) / len(macbeth),
}
for name, bits in floors.items():
    print(f"{name:24} {bits:.2f} bits per letter")

# %% [markdown]
# ## The network
#
# A *transformer* ([1706.03762](https://arxiv.org/abs/1706.03762)) turns each letter
# into a vector and lets the vectors ask each other questions. Each makes a query $q$, a
# key $k$ and a value $v$; whose key fits a query hands over its value,
#
# $$\operatorname{attention}(Q, K, V)
#   = \operatorname{softmax}\!\Big(\frac{Q K^\top}{\sqrt{d}} + M\Big) V ,$$
#
# where $M$ is $-\infty$ for letters that come later: nobody looks into the future, so
# that one pass trains the guess at every place at once.
#
# `kg.GPT("small")` is GPT-2 with its 124 million weights. Here four blocks of 128
# channels must do. `kg.GPT.LLAMA` switches to what came after: the place of a letter is
# a rotation of its query and key ([2104.09864](https://arxiv.org/abs/2104.09864)), with
# simpler normalizations and a gate. Such small models learn much faster so. With
# `sliding_window=64` a letter sees the 64 before it; through four blocks it hears of
# 256.

# %%


def make(tokenizer):
    """A small GPT, and the optimizer for so many steps."""
    options = {
        **kg.GPT.LLAMA,
        "tie_word_embeddings": True,
        "sliding_window": 64,
        "tokenizer": tokenizer,
    }
    if FAST:
        return kg.GPT(
            num_layers=1,
            hidden_dim=32,
            num_heads=2,
            max_sequence_length=128,
            seed=0,
            **options,
        )
    return kg.GPT(
        num_layers=4,
        hidden_dim=128,
        num_heads=4,
        max_sequence_length=512,
        seed=0,
        **options,
    )


def adam(steps, peak=2e-3):
    """AdamW: the rate rises in the first tenth of the steps, then falls to a tenth."""
    warmup = max(1, steps // 10)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps - warmup, alpha=0.1, warmup_target=peak, warmup_steps=warmup
    )
    return keras.optimizers.AdamW(
        rate, weight_decay=0.1, beta_2=0.99, global_clipnorm=1.0
    )


def rows(string, tokenizer, length=32 if FAST else 128):
    """Tokens in rows; the last of a row, only predicted there, begins the next."""
    ids = np.array(tokenizer.encode(string), "int32")
    starts = np.arange((len(ids) - 1) // length)[:, None] * length
    return ids[starts + np.arange(length + 1)]


def bits_per_letter(nats, string, tokenizer):
    """From nats per token, whatever the tokens are."""
    return nats / np.log(2) * len(tokenizer.encode(string)) / len(string)


model = make(letters)
train, held_out = rows(text, letters), rows(macbeth, letters)
print(train.shape, train.dtype, f"and {model.network.count_params():,} weights")

# %% [markdown]
# ## Training, with an accident
#
# Real runs are cut off: by a full disk, a power cut, the lid of a laptop.
# `kg.callbacks.Resume` keeps the run, and the same cell run again goes on in the middle
# of the epoch, to the very weights that the unbroken run would have had. To see it we
# pull the plug.

# %%
epochs, steps = (2, 4) if FAST else (8, 220)
unplugged = epochs // 2 * steps + steps // 3
samples, curve = [], []


class PullThePlug(keras.callbacks.Callback):
    """Stops the whole thing at one batch."""

    left = unplugged

    def on_train_batch_begin(self, batch, logs=None):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def after_an_epoch(epoch, logs):
    curve.append(bits_per_letter(logs["val_loss"], macbeth, letters))
    samples.append(model.generate("Romeo.\n", 60, seed=2))


def run(*extra):
    model.compile(adam(epochs * steps))
    watch = keras.callbacks.LambdaCallback(on_epoch_end=after_an_epoch)
    resume = kg.callbacks.Resume("logs/letters.npz", every=10)
    model.fit(
        train,
        batch_size=8,
        epochs=epochs,
        steps_per_epoch=steps,
        validation_data=held_out[::4],
        verbose=2,
        callbacks=[watch, resume, *extra],
    )


started = time.monotonic()
try:
    run(PullThePlug())
except KeyboardInterrupt:
    print("... and everything is dark.")

# %%
model = make(letters)  # knows nothing
run()
print(f"{time.monotonic() - started:.0f} s in all")

# %% [markdown]
# What it wrote after each epoch, from the same noise: first which letters there are,
# then the shape of a line, then words.

# %%
for epoch, sample in enumerate(samples, 1):
    print(f"{epoch}: {sample.partition(chr(10))[2]!r}")

# %% [markdown]
# And the bits per letter of Macbeth, among those of counting.

# %%
figure, axis = plt.subplots(figsize=(8, 4))
axis.plot(range(1, epochs + 1), curve, marker="o", color="tab:red", label="GPT")
axis.axvline(unplugged / steps, color="gray", linestyle=":", label="the plug is pulled")
for name, bits in list(floors.items())[2:]:
    axis.axhline(bits, color="tab:blue", linewidth=0.8)
    axis.text(epochs, bits + 0.01, name, ha="right", va="bottom", color="tab:blue")
axis.set(xlabel="epoch", ylabel="bits per letter", title="Macbeth, never read before")
axis.legend()
plt.show()

logs = model.evaluate(held_out, batch_size=32, verbose=0, return_dict=True)
by_letters = bits_per_letter(logs["loss"], macbeth, letters)
print(
    f"{by_letters:.2f} bits per letter, a perplexity of {logs['perplexity']:.2f}: as "
    f"unsure as between {logs['perplexity']:.1f} letters of equal chance"
)

# %% [markdown]
# ## Choosing the next letter
#
# The model gives a probability to every letter; something must choose. Drawing from
# them as they are (temperature 1) is honest to the model, mistakes included. A lower
# *temperature* $\tau$ prefers what is probable anyway, $p_i \propto \exp(l_i / \tau)$;
# `top_k` and `top_p` ([1904.09751](https://arxiv.org/abs/1904.09751)) cut off the tail,
# where most of the nonsense comes from: $k$ letters are kept, or as many as together
# have the probability $p$.

# %%
prompt = "To be, or not to be, that is the "
tokens = np.array([letters.encode(prompt)], "int32")
logits = keras.ops.convert_to_numpy(model(tokens))[0, -1].astype("float64")
best = np.argsort(-logits)[:14]


def softmax(x):
    p = np.exp(x - x.max())
    return p / p.sum()


figure, axes = plt.subplots(1, 4, figsize=(15, 3), sharey=True, layout="constrained")
for axis, (title, tau, top_p) in zip(
    axes,
    (
        ("temperature 0.5", 0.5, 1.0),
        ("temperature 1", 1.0, 1.0),
        ("temperature 2", 2.0, 1.0),
        ("top_p = 0.8", 1.0, 0.8),
    ),
    strict=True,
):
    p = softmax(logits / tau)
    order = np.argsort(-p)
    kept = np.zeros(len(p), bool)
    kept[order[np.cumsum(p[order]) - p[order] < top_p]] = True
    drawn = np.where(kept, p, 0) / p[kept].sum()
    axis.bar(range(14), p[best], color="lightgray", label="as it is")
    axis.bar(range(14), drawn[best], width=0.5, color="tab:red", label="drawn from")
    axis.set_xticks(range(14), [repr(letters.token(i))[1:-1] for i in best])
    axis.set_title(title)
axes[0].set_ylabel("probability of the next letter")
axes[-1].legend()
figure.suptitle(prompt + "...")
plt.show()

# %% [markdown]
# `stream=True` gives the text piece by piece as it comes, which is how one reads along.

# %%
length = 40 if FAST else 400
for piece in model.generate(
    "Romeo.\n", length, temperature=0.8, top_p=0.95, seed=1, stream=True
):
    print(piece, end="", flush=True)

# %% [markdown]
# ## Too safe, too wild
#
# Two numbers say much about a text: how many of its words are real (they occur in the
# tragedies), and how much of it repeats itself (stretches of twelve letters that stood
# there before). Beside temperatures we try what else there is: always the most probable
# letter (*greedy*), the most probable text that *beams* find, *contrastive search*
# ([2202.06417](https://arxiv.org/abs/2202.06417)), which takes a probable letter that
# is least like what stands there, and plain bans on repetition.

# %%
known = set(re.findall(r"[a-z']+", text.lower()))


def judge(texts):
    """Shares of real words, and of stretches of 12 letters that stood there before."""
    words = re.findall(r"[a-z']+", " ".join(texts).lower())
    stretches = [[t[i : i + 12] for i in range(len(t) - 11)] for t in texts]
    repeated = [1 - len(set(found)) / len(found) for found in stretches]
    return np.mean([word in known for word in words]), np.mean(repeated)


openings = ["Romeo.\n", "BRUTUS.\n", "Lear.\n", "OTHELLO.\n"][: 1 if FAST else 4]
ways = {
    "greedy": {"temperature": 0},
    "beams": {"num_beams": 4},
    "penalty_alpha": {"penalty_alpha": 0.5, "top_k": 6},
    "greedy, no group of 8 twice": {"temperature": 0, "no_repeat_ngram_size": 8},
    "top_p = 0.9": {"top_p": 0.9},
    "min_p = 0.1": {"min_p": 0.1},
}
taus = (1.0,) if FAST else (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.5)
if FAST:
    ways = {"greedy": ways["greedy"]}
by_tau = {}
for tau in taus:
    # The same openings again, with other noise.
    made = model.generate(openings * 4, length // 2, temperature=tau, seed=3)
    by_tau[tau] = (*judge(made), made[0])
by_way = {}
for name, options in ways.items():
    made = model.generate(openings, length // 2, seed=3, **options)
    by_way[name] = (*judge(made), made[0])
human = judge([macbeth[i : i + length // 2] for i in range(0, len(macbeth), 1000)])

# %%
figure, axis = plt.subplots(figsize=(9, 4.5))
real, repeated = np.array([found[:2] for found in by_tau.values()]).T
axis.plot(repeated, real, marker="o", color="tab:blue", label="temperature")
for tau, x, y in zip(taus, repeated, real, strict=True):
    axis.annotate(f"{tau}", (x, y), (4, -12), textcoords="offset points", fontsize=8)
for name, (y, x, _) in by_way.items():
    axis.plot(x, y, "s", color="tab:red")
    axis.annotate(name, (x, y), (6, 4), textcoords="offset points", color="tab:red")
axis.plot(human[1], human[0], "*", markersize=14, color="black")
axis.annotate("Macbeth", human[::-1], (8, -2), textcoords="offset points")
axis.set(xlabel="share that repeats itself", ylabel="share of real words")
plt.show()

for name, (_, _, example) in by_way.items():
    if name in ("greedy", "beams", "penalty_alpha"):
        print(f"--- {name}:\n{example[:300]}\n")

# %% [markdown]
# The most probable text is a poor one: it goes round in circles, and the search for
# something still more probable (beams) makes it worse. People do not write what is most
# probable. The next picture shows it: each letter is coloured by its surprise
# $-\log_2 p$, which `score` computes for any text.

# %%


def colour(axis, string, title, columns=58):
    """Letters over how much each surprised the model; the first cannot."""
    bits = np.append(0, -model.score(string)[0] / np.log(2))
    string = re.sub("\n+", lambda m: "/" * len(m[0]), string)
    count = -(-len(string) // columns)
    grid = np.full(count * columns, np.nan)
    grid[: len(bits)] = bits
    image = axis.imshow(
        grid.reshape(count, columns), cmap="Reds", vmin=0, vmax=8, aspect=1.7
    )
    for i, letter in enumerate(string):
        axis.text(
            *(i % columns, i // columns, letter),
            ha="center",
            va="center",
            family="monospace",
            color="white" if bits[i] > 5 else "black",
        )
    axis.set_axis_off()
    axis.set_title(f"{title}: {bits[1:].mean():.2f} bits per letter", loc="left")
    return image


drawn, greedy = by_tau[1.0][2], by_way["greedy"][2]
shown = min(len(drawn), len(greedy))
lines = macbeth[start:].lstrip()[:shown]
figure, axes = plt.subplots(3, 1, figsize=(11, 7), layout="constrained")
for axis, string, title in (
    (axes[0], lines, "Shakespeare"),
    (axes[1], drawn, "Drawn at temperature 1"),
    (axes[2], greedy, "Greedy"),
):
    image = colour(axis, string, title)
figure.colorbar(image, ax=axes, label="bits", shrink=0.5)
plt.show()

# %% [markdown]
# Shakespeare costs most at the beginnings of words, where the choice is, and little
# inside them. What the model draws has the same rhythm; what it takes greedily costs
# nothing, and says nothing.

# %% [markdown]
# ## Remembering instead of reading again
#
# For a new letter the network needs the keys and values of all letters before it.
# Without a memory it would compute them again each time, and letter number $n$ would
# cost $n$ times the work of the first. The loop of `generate` keeps them, in a *KV
# cache*. What does it gain? We take the time of every piece of a stream, and the time
# of one call with the whole text.

# %%
longest = model.max_sequence_length - 2
stream = model.generate("A", longest, seed=0, stream=True)
next(stream)
times = [time.perf_counter()]
for _ in stream:
    times.append(time.perf_counter())
cached = 1000 * np.diff(times)
sizes = (32, 64) if FAST else (16, 32, 64, 128, 256, 384, 500)
call = kg.backend.jit(lambda tokens: model(tokens))
again = []
for n in sizes:
    tokens = keras.ops.convert_to_tensor(train[:4].reshape(1, -1)[:, :n])
    keras.ops.convert_to_numpy(call(tokens))  # the first call compiles
    taken = []
    for _ in range(3 if FAST else 9):
        begun = time.perf_counter()
        keras.ops.convert_to_numpy(call(tokens))
        taken.append(1000 * (time.perf_counter() - begun))
    again.append(np.median(taken))
span = 10 if FAST else 50
figure, axis = plt.subplots(figsize=(7, 3.5))
axis.plot(sizes, again, marker="o", color="tab:blue", label="reading all again")
axis.plot(
    *(
        np.arange(len(cached))[span // 2 :: span],
        [
            np.median(cached[i : i + span])
            for i in range(0, len(cached) - span // 2, span)
        ],
    ),
    *("o-",),
    color="tab:red",
    label="with the cache",
)
axis.set(xlabel="letters before it", ylabel="ms for a letter", ylim=(0, None))
axis.legend()
plt.show()
print(
    f"letter {sizes[-1]}: {again[-1]:.1f} ms read again, "
    f"{np.median(cached[-span:]):.1f} ms with the cache"
)

# %% [markdown]
# A small network on a CPU spends most of a step on being called, so that short texts
# gain little; the gain grows with the text and with the network.

# %% [markdown]
# ## Pieces of words
#
# Letters make long rows. *Byte-pair encoding*
# ([1508.07909](https://arxiv.org/abs/1508.07909)) begins with letters and joins the
# most frequent pair of neighbours to a new sign, again and again, until it has as many
# signs as were asked for. It is trained on the same text, in a second.

# %%
pieces = kg.Tokenizer.train(text, 400 if FAST else 1024)
line = "Tomorrow, and tomorrow, and tomorrow, creeps in this petty pace"
ids = pieces.encode(line)
print("|".join(pieces.decode([i]) for i in ids))
print(f"{len(line)} letters, {len(ids)} tokens")
longest_first = sorted(pieces.vocabulary, key=len, reverse=True)[:60]
print(*sorted(token.replace("\u0120", "") for token in longest_first))

# %% [markdown]
# The same network, for about the same time; a row of 128 tokens is now 340 letters.

# %%
writer = make(pieces)
train, held_out = rows(text, pieces), rows(macbeth, pieces)
steps = 4 if FAST else 1100
writer.compile(adam(steps))
started = time.monotonic()
writer.fit(train, batch_size=8, epochs=1, steps_per_epoch=steps, verbose=2)
print(f"{time.monotonic() - started:.0f} s")
logs = writer.evaluate(held_out, batch_size=32, verbose=0, return_dict=True)
by_pieces = bits_per_letter(logs["loss"], macbeth, pieces)
print(f"{logs['bits_per_token']:.2f} bits per token,", end=" ")
print(f"{by_pieces:.2f} bits per letter (letter by letter: {by_letters:.2f})")

# %% [markdown]
# The perplexity of tokens says nothing beside that of letters, since there are fewer
# and harder ones to guess. Bits per letter of the same text can be compared.

# %%
scores = {**floors, "GPT, letters": by_letters, "GPT, pieces": by_pieces}
figure, axis = plt.subplots(figsize=(8, 3))
axis.barh(
    list(scores)[::-1],
    list(scores.values())[::-1],
    color=["tab:red"] * 2 + ["tab:blue"] * len(floors),
)
for i, bits in enumerate(list(scores.values())[::-1]):
    axis.text(bits + 0.05, i, f"{bits:.2f}", va="center")
axis.set(xlabel="bits per letter of Macbeth")
plt.show()
print(writer.generate("Romeo.\n", length // 3, temperature=0.8, top_p=0.95, seed=1))

# %% [markdown]
# ## Other verse, by few weights
#
# The model has read plays, no poems. *Low-rank adaptation*
# ([2106.09685](https://arxiv.org/abs/2106.09685)) teaches it something new without
# touching what it knows: the weights $W$ are frozen, and beside some of them two thin
# matrices are trained,
#
# $$W' = W + \frac{\alpha}{r}\, A B, \qquad A \in \mathbb{R}^{m \times r},\;
#   B \in \mathbb{R}^{r \times n},$$
#
# which `merge_lora` adds to $W$ afterwards. It learns from four fifths of the Sonnets
# and is judged by the last.

# %%
sonnets = works["Sonnets"]
if FAST:
    sonnets = sonnets[:8_000]
cut = sonnets.find("\n\n", 4 * len(sonnets) // 5)
new, unseen = rows(sonnets[:cut], pieces), rows(sonnets[cut:], pieces)


def judged():
    """Bits per letter of unseen sonnets, and of Macbeth."""
    return [
        bits_per_letter(-writer.score(part, batch_size=16).mean(), string, pieces)
        for part, string in ((unseen, sonnets[cut:]), (held_out, macbeth))
    ]


before = judged()
writer.enable_lora(8, targets=("query", "value", "out", "dense1", "dense2"))
trained = sum(np.prod(v.shape) for v in writer.network.trainable_variables)
total = writer.network.count_params()
print(f"{trained:,} of {total:,} weights train")
steps = 4 if FAST else 200
writer.compile(adam(steps, peak=4e-3))
writer.fit(new, batch_size=8, epochs=1, steps_per_epoch=steps, verbose=2)
after = judged()
writer.merge_lora()
print(f"{'':16} {'sonnets':>8} {'Macbeth':>8}  bits per letter")
print(f"{'before':16} {before[0]:8.2f} {before[1]:8.2f}")
print(f"{'with LoRA':16} {after[0]:8.2f} {after[1]:8.2f}")

# %%
print(writer.generate("CLV\n\n", length // 3, temperature=0.8, top_p=0.95, seed=0))

# %% [markdown]
# ## Saving and serving
#
# A `.keras` file holds weights, optimizer and tokenizer, and opens on any backend.

# %%
writer.save("writer.keras")
loaded = kg.load_model("writer.keras")
same = np.allclose(loaded.score(unseen[:16]), writer.score(unseen[:16]), atol=1e-5)
print("loaded:", same)

# %% [markdown]
# `export` writes the whole loop, with its cache, as one SavedModel. Here is a program
# that knows neither Keras nor this package: it gets a folder, and writes.

# %%
model.export("served/gpt", overwrite=True)
letters.save("served/letters")

# %%
import subprocess
import sys

PROGRAM = """
import json, sys
for absent in ("keras", "keras_genai", "jax", "torch"):
    sys.modules[absent] = None  # as if it were not installed
import tensorflow as tf

vocabulary = json.load(open("served/letters/tokenizer.json"))["model"]["vocab"]
letter = {i: c for c, i in vocabulary.items()}
served = tf.saved_model.load("served/gpt").signatures["generate"]
prompt = json.loads(sys.argv[1])
tokens = served(
    tokens=tf.constant([[vocabulary[c] for c in prompt]]),
    lengths=tf.constant([len(prompt)]),
    seed=tf.constant(7),
    temperature=tf.constant(1.0),
    top_p=tf.constant(1.0),
)["tokens"].numpy()[0]
print(json.dumps("".join(letter[i] for i in tokens)))
"""
import json

prompt = "Juliet.\nO Romeo"
done = subprocess.run(
    [sys.executable, "-c", PROGRAM, json.dumps(prompt)],
    capture_output=True,
    text=True,
)
print(done.stderr[-2000:] if done.returncode else "", end="")
served = json.loads(done.stdout)
ours = model.generate(prompt, seed=7)
same = next(
    (i for i, (a, b) in enumerate(zip(served, ours, strict=True)) if a != b), len(ours)
)
print(f"{same} of {len(ours)} letters as model.generate writes them:\n")
print(served[:length])

# %% [markdown]
# ## On
#
# - Better texts want more of everything: `kg.GPT(num_layers=12, hidden_dim=768,
#   num_heads=12)` on all of Shakespeare, hours on a GPU; and far more text than one
#   man wrote.
# - Published weights: `kg.GPT.from_pretrained("gpt2")`, or any folder in the layout of
#   Llama or SmolLM2; `model.save_pretrained(folder)` writes it.
# - A smaller model that proposes several tokens at a time, of which the large one
#   keeps those that it would have drawn: `model.generate(..., draft_model=small)`.
# - `no_repeat_ngram_size`, `repetition_penalty`, `stop` strings, ragged prompts in one
#   batch, `embed`: see `kg.GPT.generate`.
# - From one language to another: tutorial 07.
