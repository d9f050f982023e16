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
# # A network that fills in the blanks
#
# Cover a word in a sentence. To guess it you need to know the language a little, and
# the subject, and what was said before and after. So a network that learns to guess
# covered words learns all that, and nobody has to label anything: the text is its own
# answer. This notebook trains such a network on the verses of an old book, looks at
# what it puts into the blanks, and then shows what it is for: with a few labels it
# learns to say which part of the book a verse is from, much better than the same
# network that has read nothing before. Whether that was worth it, counting words tells.
#
# *Time: seven to eight minutes of one CPU core on PyTorch. What to expect: a word of
# the right kind in most blanks; the right one in one of three, commas among them. The
# published BERT read a text more than four thousand times as long.*
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

import textwrap
import time

import keras
import matplotlib.pyplot as plt
import numpy as np

FAST = bool(os.environ.get("KG_FAST"))  # few steps, to check that the cells run
print("Keras", keras.__version__, "on", keras.backend.backend())

# %% [markdown]
# ## The text
#
# The verses of the King James Bible come with the package: nothing is downloaded. They
# are short, there are 30,000 of them, and of each we know the place. That gives honest
# labels for later: the *part of the book* that a verse is from, by the usual division
# (Revelation is counted to the letters). Every tenth chapter is put away for testing,
# whole, and nothing below learns from it, not even without labels.

# %%
verses = kg.datasets.pairs("verses")
PARTS = {
    "law": "Gen Exod Lev Num Deut",
    "history": "Josh Judg Ruth 1Sam 2Sam 1Kgs 2Kgs 1Chr 2Chr Ezra Neh Esth",
    "poetry": "Job Ps Prov Eccl Song",
    "prophets": "Isa Jer Lam Ezek Dan Hos Joel Amos Obad Jonah Mic Nah Hab Zeph Hag "
    "Zech Mal",
    "gospels": "Matt Mark Luke John Acts",
    "letters": "Rom 1Cor 2Cor Gal Eph Phil Col 1Thess 2Thess 1Tim 2Tim Titus Phlm Heb "
    "Jas 1Pet 2Pet 1John 2John 3John Jude Rev",
}
names = list(PARTS)
part_of = {book: k for k, name in enumerate(names) for book in PARTS[name].split()}

chapters = {}
for text, place in zip(verses["source"], verses["reference"], strict=True):
    chapters.setdefault(place.rpartition(":")[0], []).append(text)
if FAST:
    chapters = {name: texts[:4] for name, texts in list(chapters.items())[::8]}
kept = [name for i, name in enumerate(chapters) if i % 10 != 9]
held = [name for i, name in enumerate(chapters) if i % 10 == 9]


def of_chapters(wanted):
    """The verses of some chapters, and the number of the part of each."""
    texts = [text for name in wanted for text in chapters[name]]
    parts = [part_of[name.split()[0]] for name in wanted for _ in chapters[name]]
    return texts, np.array(parts)


texts, parts = of_chapters(kept)
test_texts, test_parts = of_chapters(held)
print(f"{len(texts):,} verses to learn from, {len(test_texts):,} to test on")
for k, name in enumerate(names):
    example = test_texts[np.flatnonzero(test_parts == k)[3]]
    print(f"{name:9} {np.mean(test_parts == k):4.0%}  {textwrap.shorten(example, 66)}")

# %% [markdown]
# ## Words and pieces of words
#
# A vocabulary of all words would be large, and half of them would be met once or twice.
# *WordPiece* keeps the frequent words whole and spells the rare ones with pieces; `##`
# means that a piece goes on with a word. The vocabulary is learned here, from the
# verses, in a second.

# %%
tokenizer = kg.Tokenizer.train(
    texts, 300 if FAST else 2000, "wordpiece", lowercase=True
)
example = "And they said, Nebuchadnezzar hath dreamed of an unspeakable kingdom."
print([tokenizer.token(i) for i in tokenizer.encode(example)])

# %% [markdown]
# `batch` makes what the model takes: the numbers of the tokens, filled up to one
# length, and for each token the number of its *word*.

# %%
LENGTH = 40  # tokens; longer verses are cut
data = tokenizer.batch(texts, length=LENGTH)
test_data = tokenizer.batch(test_texts, length=LENGTH)
print({name: part.shape for name, part in data.items()})
print(tokenizer.batch([example])["words"][0])

# %% [markdown]
# ## The blanks
#
# In every sentence some words are chosen, $M$, and hidden. From what is left,
# $\tilde x$, the network gives for each hidden place a probability of every token, and
# learns by
#
# $$L = - \frac{1}{|M|} \sum_{i \in M} \log p_\theta (x_i \mid \tilde x) .$$
#
# A word is hidden whole: if `##nezzar` were left to be seen, the rest would be no
# riddle. Of the hidden tokens 80 % become `[MASK]`, 10 % another token and 10 % stay,
# so that the network cannot rely on what it sees either
# ([1810.04805](https://arxiv.org/abs/1810.04805), section 3.1). The paper hides 15 % of
# the words; more can be better, and here it is 30 %
# ([2202.08005](https://arxiv.org/abs/2202.08005)): each verse then asks twice as many
# questions. `fit` does all this, anew at every step; here it is once by hand.

# %%
MASK_RATE = 0.3
one = tokenizer.batch([example])
masked, chosen = kg.transformers.mlm.mask_tokens(
    *(keras.ops.convert_to_tensor(one[name]) for name in ("tokens", "words")),
    kg.backend.random.key(2),
    tokenizer.mask_token_id,
    tokenizer.vocabulary_size,
    MASK_RATE,
)
print(" ".join(tokenizer.token(i) for i in keras.ops.convert_to_numpy(masked)[0]))

# %% [markdown]
# ## The network
#
# A transformer that sees the whole sentence at once: each token looks at all others, to
# the left and to the right (a GPT sees only what came before). This is BERT as
# published, weight for weight, but with two layers of 128 channels instead of twelve of
# 768.

# %%
sizes = {
    "num_layers": 1 if FAST else 2,
    "hidden_dim": 32 if FAST else 128,
    "num_heads": 8,
    "max_sequence_length": 80,
    "tokenizer": tokenizer,
}
model = kg.BERT(**sizes, dropout=0.0, mask_rate=MASK_RATE, seed=0)
print(f"{model.count_params():,} weights")

# %% [markdown]
# ## Training, and what it says meanwhile
#
# After each epoch it is asked to fill a few blanks. The first two sentences are verses
# that it reads, the others are made up; the loss, `val_loss`, is measured on the
# chapters that were put away.

# %%
prompts = [
    "And God said, Let there be [MASK]: and there was light.",
    "The LORD is my [MASK]; I shall not want.",
    "And the LORD spake unto [MASK] in the wilderness.",
    "The king of [MASK] sent his servants to the city.",
    "And Jesus went into the [MASK], and taught them.",
    "He did that which was [MASK] in the sight of the LORD.",
]


def probabilities(data):
    """Of every token at every place: `(N, T, V)`."""
    return keras.ops.convert_to_numpy(keras.ops.softmax(model.mlm(model(data))))


def fill(prompts, top=6):
    """The most probable tokens for the blank of each prompt: (token, probability)."""
    data = tokenizer.batch(prompts)
    places = (data["tokens"] == tokenizer.mask_token_id).argmax(1)
    rows = probabilities(data)[np.arange(len(prompts)), places]
    best = np.argsort(-rows, axis=1)[:, :top]
    return [
        [(tokenizer.token(i), row[i]) for i in order]
        for row, order in zip(rows, best, strict=True)
    ]


said = [[row[0][0] for row in fill(prompts)]]
watch = keras.callbacks.LambdaCallback(
    on_epoch_end=lambda epoch, logs: said.append([row[0][0] for row in fill(prompts)])
)
EPOCHS, BATCH = (1, 32) if FAST else (3, 32)
steps = EPOCHS * -(-len(texts) // BATCH)


def falling(rate, steps):
    """A rate that rises for a tenth of the steps, and then falls to zero."""
    rise = max(1, steps // 10)
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - rise), warmup_target=rate, warmup_steps=rise
    )


model.compile(
    keras.optimizers.AdamW(falling(2e-3, steps), weight_decay=0.01, global_clipnorm=1.0)
)
started = time.monotonic()
history = model.fit(
    data,
    validation_data=(test_data,),
    batch_size=BATCH,
    epochs=EPOCHS,
    verbose=2,
    callbacks=[watch],
).history
print(f"{time.monotonic() - started:.0f} s")

# %% [markdown]
# Is that much? The yardstick is a model that knows how frequent each token is and looks
# at nothing: it always says the most frequent one.

# %%
counts = np.bincount(
    data["tokens"][data["words"] >= 0], minlength=len(tokenizer.vocabulary)
)
shares = (counts + 0.1) / (counts + 0.1).sum()
there = test_data["tokens"][test_data["words"] >= 0]
alone = -np.log(shares[there]).mean()
found = model.evaluate(test_data, batch_size=100, verbose=0, return_dict=True)
print(f"{'':24} {'loss':>6} {'right':>6}")
print(f"{'frequency alone':24} {alone:6.2f} {np.mean(there == shares.argmax()):6.1%}")
print(f"{'this BERT':24} {found['loss']:6.2f} {found['mlm_accuracy']:6.1%}")

# %%
for prompt, *answers in zip(prompts, *said, strict=True):
    print(prompt)
    print("    before:", *(f"{a:10}" for a in answers[:1]), end="")
    print(" after each epoch:", ", ".join(answers[1:]))

# %% [markdown]
# First it guesses what is frequent anywhere, a comma, or repeats a word that stands
# beside the blank. Then it finds what kind of word belongs there, and now and then one
# that makes sense: a king is of Israel. It does not find the light, though it has read
# that verse three times, and though the word stands there a second time. Here are its
# first six answers to each; note how small most probabilities are.

# %%
figure, axes = plt.subplots(2, 3, figsize=(13, 5), layout="constrained")
for axis, prompt, answers in zip(axes.flat, prompts, fill(prompts), strict=True):
    words, values = zip(*answers[::-1], strict=True)
    axis.barh(range(len(words)), values, color="lightsteelblue")
    axis.set_yticks(range(len(words)), words)
    axis.set_xlim(0, max(0.3, 1.1 * max(values)))
    axis.set_title(textwrap.fill(prompt, 40), fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
plt.show()

# %% [markdown]
# The other way round: take a verse that it has not read, hide each word in turn, and
# ask how probable the true one is. Dark words follow from the others; pale ones are the
# news in the sentence, or what this network does not know. It is sure of points, of
# *the* and *and*, and of *the lord*; of names and deeds it knows next to nothing.


# %%
def certainty(text):
    """(word, how probable it is when it is hidden) for each word of a text."""
    one = tokenizer.batch([text])
    words, tokens = one["words"][0], one["tokens"][0]
    count = words.max() + 1
    rows = {name: np.repeat(part, count, axis=0) for name, part in one.items()}
    rows["tokens"][words == np.arange(count)[:, None]] = tokenizer.mask_token_id
    p = probabilities(rows)
    found = []
    for i in range(count):
        places = np.flatnonzero(words == i)
        word = "".join(tokenizer.token(j).removeprefix("##") for j in tokens[places])
        # Of a word of several pieces the geometric mean.
        found.append((word, np.exp(np.log(p[i, places, tokens[places]]).mean())))
    return found


def draw(texts, width=84):
    """Texts, each word on a ground as dark as it is certain."""
    x, y, spots = 0, 0, []
    for text in texts:
        for word, p in certainty(text):
            if x + len(word) > width:
                x, y = 0, y + 1
            spots.append((x, y, word, p))
            x += len(word) + 1
        x, y = 0, y + 1.8
    # A character of this size is 0.092 inches wide.
    figure = plt.figure(figsize=(0.092 * (width + 2), 0.26 * y))
    axis = figure.add_axes((0, 0, 1, 1), xlim=(-1, width + 1), ylim=(y - 1, -0.8))
    axis.axis("off")
    for x, y, word, p in spots:
        box = {"facecolor": plt.cm.Blues(0.9 * p), "edgecolor": "none", "pad": 2}
        color = "white" if p > 0.5 else "black"
        style = {"family": "monospace", "size": 11, "va": "center"}
        axis.text(x, y, word, color=color, bbox=box, **style)
    plt.show()


draw([text for text in test_texts if 22 < len(text.split()) < 28][3::70][:5])

# %% [markdown]
# ## A folder that others can read
#
# `save_pretrained` writes Hugging Face's layout (`config.json`, `model.safetensors` and
# the tokenizer's files), which the `transformers` library opens with
# `BertForMaskedLM.from_pretrained`; and `from_pretrained` reads what others have
# written, from a folder or from the hub.

# %%
model.save_pretrained("bert")
again = kg.BERT.from_pretrained("bert")
print(sorted(os.listdir("bert")))
print("loaded:", np.allclose(again.embed(prompts), model.embed(prompts), atol=1e-5))

# %% [markdown]
# ## From blanks to classes
#
# Now the part of the book: six classes, and a few labelled verses of each. The vector
# $h_1$ that the network gives for the first token, `[CLS]`, goes through two small
# layers,
#
# $$p(y \mid x) = \operatorname{softmax}\bigl(W_2 \tanh(W_1 h_1 + b_1) + b_2\bigr),$$
#
# and everything, these and the network below, learns on from where it is:
# *fine-tuning*. Given `num_classes`, the same folder opens as a classifier whose head
# is new. Beside it stand the same network with fresh weights, trained in the same way,
# and what anyone should try first: counting words, and a logistic regression.

# %%
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

order = np.random.default_rng(0).permutation(len(texts))


def labelled(count):
    """Some of the verses: `count` of each part."""
    return np.concatenate([order[parts[order] == k][:count] for k in range(6)])


def tuned(classifier, rows, epochs):
    """A classifier after some epochs on these rows: its probabilities on the test."""
    steps = epochs * -(-len(rows) // 32)
    classifier.compile(
        keras.optimizers.AdamW(
            falling(5e-4, steps), weight_decay=0.01, global_clipnorm=1.0
        )
    )
    x = {name: part[rows] for name, part in data.items()}
    classifier.fit(x, parts[rows], batch_size=32, epochs=epochs, verbose=0)
    return classifier.classify(test_data, batch_size=200)


def counted(rows):
    """What counting words makes of the same."""
    counts = CountVectorizer(binary=True, min_df=2)
    x = counts.fit_transform([texts[i] for i in rows])
    regression = LogisticRegression(max_iter=500).fit(x, parts[rows])
    return regression.predict_proba(counts.transform(test_texts))


results = {}
print(f"{'verses of each part':>20} {'counting':>9} {'fresh':>9} {'pretrained':>11}")
for count, epochs in ((10, 1),) if FAST else ((20, 20), (100, 10), (400, 5)):
    rows = labelled(count)
    pretrained = kg.BERT.from_pretrained("bert", num_classes=6, dropout=0.1, seed=1)
    fresh = kg.BERT(**sizes, num_classes=6, dropout=0.1, seed=1)
    results[count] = [
        counted(rows),
        tuned(fresh, rows, epochs),
        tuned(pretrained, rows, epochs),
    ]
    right = [np.mean(p.argmax(1) == test_parts) for p in results[count]]
    print(f"{count:20} {right[0]:9.1%} {right[1]:9.1%} {right[2]:11.1%}")
print(f"always {names[np.bincount(test_parts).argmax()]}: ", end="")
print(f"{np.bincount(test_parts).max() / len(test_parts):.1%}")

# %% [markdown]
# Having read pays: with 20 labels of each part the pretrained network knows about as
# much as the fresh one with 400. But look at the counted words too. From 100 labels on
# they do as well, in a blink: the parts of this book differ by their words, and for
# that nobody needs a network. Only where labels are fewest it is ahead. What a larger
# text and a larger network bring, a task that hangs on more than single words would
# show.
#
# What is mistaken for what? A row for each true part.

# %%
guess = results[count][2].argmax(1)
confusion = np.zeros((6, 6))
np.add.at(confusion, (test_parts, guess), 1)
confusion /= confusion.sum(1, keepdims=True)
plt.figure(figsize=(5.2, 4.2))
plt.imshow(confusion, cmap="Blues", vmin=0, vmax=1)
for i in range(6):
    for j in range(6):
        color = "white" if confusion[i, j] > 0.5 else "black"
        plt.text(j, i, f"{confusion[i, j]:.0%}", ha="center", va="center", color=color)
plt.xticks(range(6), names, rotation=30)
plt.yticks(range(6), names)
plt.xlabel("said")
plt.ylabel("true")
plt.show()

# %% [markdown]
# ## A vector for each sentence
#
# `embed` gives the mean of a sentence's token vectors, of length 1: the product of two
# is the cosine of the angle between them. Search by meaning works so, with networks
# that were trained for it; this one was not. Here the verses of the test chapters are
# ranked by how near they are to a sentence.

# %%
vectors = model.embed(test_texts, batch_size=200)
queries = [
    "He built an altar unto the LORD.",
    "Give alms to the poor.",
    "The ships were broken by the wind on the sea.",
]
near = model.embed(queries) @ vectors.T  # (queries, verses)
for query, row in zip(queries, near, strict=True):
    print(f"{query}  (on the average {row.mean():.2f})")
    for i in np.argsort(-row)[:3]:
        print(f"    {row[i]:.2f}  {textwrap.shorten(test_texts[i], 76)}")

# %% [markdown]
# All verses are near each other (compare the averages), and the nearest share a phrase
# or a tone, *before the LORD*, a command, *by* and *of the*; the meaning only by luck.
#
# The same in a plane: of the 128 directions the two in which the vectors differ most,
# before and after the network has learned the parts. Each point is a verse. Filling
# blanks alone has set many histories apart; the other parts need the labels.

# %%
figure, axes = plt.subplots(1, 2, figsize=(12, 5), layout="constrained")
shown = np.random.default_rng(1).permutation(len(test_texts))[:1200]
for axis, network, title in (
    (axes[0], model, "after filling blanks"),
    (axes[1], pretrained, "after learning the parts"),
):
    v = network.embed([test_texts[i] for i in shown], batch_size=200)
    v = v - v.mean(0)
    plane = v @ np.linalg.svd(v, full_matrices=False)[2][:2].T
    for k, name in enumerate(names):
        points = plane[test_parts[shown] == k]
        axis.scatter(*points.T, s=8, alpha=0.6, label=name)
    axis.set(title=title, xticks=[], yticks=[])
axes[0].legend(markerscale=2)
plt.show()

# %% [markdown]
# ## Does the next sentence follow?
#
# BERT was also trained to say whether a second sentence follows the first or is from
# another document. `sentence_pairs` makes such pairs, the second sentence has a type of
# its own (`token_types`), and `next_sentence=True` adds the head. Does it learn to
# follow an argument? Ask it a question that it was not trained for: the same two
# sentences, in the wrong order.


# %%
def pairs_of(wanted, seed):
    """Pairs of neighbouring verses; half the second ones are from another chapter."""
    documents = [chapters[name] for name in wanted]
    first, second, labels = kg.transformers.sentence_pairs(documents, seed=seed)
    rows = np.random.default_rng(seed).permutation(len(first))[: 200 if FAST else 9000]
    return [first[i] for i in rows], [second[i] for i in rows], labels[rows]


first, second, labels = pairs_of(kept, 0)
reader = kg.BERT.from_pretrained("bert", next_sentence=True, mask_rate=MASK_RATE)
steps = -(-len(first) // 32)
reader.compile(
    keras.optimizers.AdamW(falling(1e-3, steps), weight_decay=0.01, global_clipnorm=1.0)
)
reader.fit(tokenizer.batch(first, second, length=72), labels, batch_size=32, verbose=2)
first, second, labels = pairs_of(held, 1)


def follows(first, second):
    """Whether it says that the second follows, of each pair."""
    x = tokenizer.batch(first, second, length=72)
    logits = np.concatenate(
        [
            keras.ops.convert_to_numpy(
                reader.nsp(reader({k: v[i : i + 200] for k, v in x.items()}))
            )
            for i in range(0, len(first), 200)
        ]
    )
    return logits.argmax(1) == 0


yes = follows(first, second)
swapped = follows(second, first)
print(f"right on pairs of unread chapters: {np.mean(yes == (labels == 0)):.1%}")
print(f"says yes to true pairs:            {yes[labels == 0].mean():.1%}")
print(f"to the same in the wrong order:    {swapped[labels == 0].mean():.1%}")

# %% [markdown]
# Hardly. It is right somewhat more often than a coin, and says yes to the wrong order
# as often as to the right one: what little it has learned is whether two verses speak
# of the same things, not which of them comes first. The same was said of the published
# BERT ([1909.11942](https://arxiv.org/abs/1909.11942), section 3.1), and others did as
# well without this task ([1907.11692](https://arxiv.org/abs/1907.11692)).
#
# ## Saving and serving
#
# A `.keras` file holds the model with its tokenizer and optimizer, and opens on any
# backend. `export` writes a SavedModel that TensorFlow runs with neither Keras nor this
# package installed: `embed`, `hidden_dim` and, of a classifier, the `logits`.

# %%
pretrained.save("parts.keras")
loaded = kg.load_model("parts.keras")
same = loaded.classify(test_texts[:3])
print("loaded:", np.allclose(same, pretrained.classify(test_texts[:3]), atol=1e-5))
pretrained.export("served/parts", overwrite=True)

# %%
import tensorflow as tf

served = tf.saved_model.load("served/parts")
x = tokenizer.batch(test_texts[:5])
inputs = {k: tf.constant(x[k]) for k in ("tokens", "token_types", "mask")}
logits = served.signatures["logits"](**inputs)["logits"].numpy()
ours = pretrained.classify(test_texts[:5])
apart = np.abs(tf.nn.softmax(logits).numpy() - ours).max()
print("largest difference from model.classify:", apart)
for text, k in zip(test_texts, logits.argmax(1), strict=False):
    print(f"{names[k]:9} {textwrap.shorten(text, 76)}")

# %% [markdown]
# ## On
#
# - What would make it better: more text and more steps (the loss still falls), and then
#   a larger network. `kg.BERT("mini")` to `kg.BERT("large")` are the published sizes.
# - Published weights: `kg.BERT.from_pretrained("google-bert/bert-base-uncased")`;
#   `kg.transformers.minilm()` is a small one whose `embed` was trained to rank
#   sentences (`python tools/fetch_data.py minilm` fetches it).
# - A model that writes instead of reading: `kg.GPT`; one that translates:
#   `kg.Translator`.
