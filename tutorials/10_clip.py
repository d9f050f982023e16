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
# # Pictures and words in one space
#
# Give each picture a point in space, and each text as well, so that a picture stands
# beside the words that describe it. Then many things are one and the same: to look for
# a picture is to ask which is near to a text; to name a picture, which text is near to
# it; to sort pictures into classes that nobody trained for, which of the classes' names
# is nearest. That is CLIP ([2103.00020](https://arxiv.org/abs/2103.00020)). It learned
# from 400 million pairs; this notebook trains a small one on 1,611 emoji and their
# names, and tests it on drawings by other hands and on names that it never met.
#
# *Time: about six minutes of one CPU core on TensorFlow, more on JAX and PyTorch. What
# to expect: in one of four or five cases the right name out of 300 that it never saw
# (guessing is right in one of 300).*
#
# *What it needs: `pip install "keras-genai[tutorials,text]"`, and `jax` or `torch` for
# those backends.*

# %% [markdown]
# ## The backend is one line

# %%
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # or "jax", "torch"

# %%
import keras_genai as kg  # isort: skip (before Keras: it chooses TensorFlow's kernels)

import time

import keras
import matplotlib.pyplot as plt
import numpy as np

FAST = bool(os.environ.get("KG_FAST"))  # few steps, to check that the cells run
print("Keras", keras.__version__, "on", keras.backend.backend())

# %% [markdown]
# ## The pairs
#
# The emoji come with the package, in two styles: Google's flat drawings and Microsoft's
# in 3D. Of 300 names both drawings are put away (`"held_out_names"`). We train on
# Google's drawings of the other 1,611. A picture has several captions, of which each
# step draws one: its name (twice as often), its name with two of Unicode's keywords,
# keywords alone.

# %%
SIDE = 32


def pictures(style, split, language="en"):
    """Emoji at half their size, and their names and groups."""
    data = kg.datasets.emoji(style=style, split=split, language=language)
    data["images"] = data["images"].reshape(-1, SIDE, 2, SIDE, 2, 3).mean((2, 4))
    if FAST:
        data = {name: part[::8] for name, part in data.items()}
    return data


draw = np.random.default_rng(0)


def captions_of(data):
    """Four captions of each picture."""
    found = []
    for name, tags in zip(data["captions"], data["tags"], strict=True):
        tags = [str(tag) for tag in draw.permutation(np.array(tags, object))]
        found.append(
            [name, name, ", ".join([name, *tags[:2]]), ", ".join(tags[:3]) or name]
        )
    return found


train = pictures("google", "train")
captions = captions_of(train)
print(f"{len(captions):,} pictures; the captions of one:")
for text in captions[30]:
    print("   ", text)


# %%
def show(images, titles=None, columns=12, size=1.0):
    """A grid of pictures, with a line below each."""
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(size * columns, (size + 0.25 * bool(titles)) * rows),
        layout="constrained",
        squeeze=False,
    )
    for axis in axes.flat:
        axis.axis("off")
    for i, (axis, image) in enumerate(zip(axes.flat, images, strict=False)):
        axis.imshow(np.clip(image / 2 + 0.5, 0, 1))
        if titles:
            axis.set_title(titles[i], fontsize=7, y=-0.25)
    plt.show()


show(train["images"][:: len(captions) // 23][:24])

# %% [markdown]
# ## Two towers
#
# A *tower* is a network that makes a vector. The image tower may be any Keras network:
# here five convolutions, which is what little data wants (`kg.clip.ImageTower` is the
# paper's vision transformer, `kg.clip.ResNetTower` its ResNet). The text tower is a
# small transformer; it reads pieces of words from a vocabulary learned here, and its
# vector is what stands at the end of the text.

# %%
tokenizer = kg.Tokenizer.train(
    [text for group in captions for text in group], 1500, kind="clip"
)
print(
    [tokenizer.token(i) for i in tokenizer.encode("smiling cat face with heart-eyes")]
)


def image_tower():
    """`(B, 32, 32, 3)` -> `(B, 192)`."""
    parts = [keras.Input((SIDE, SIDE, 3))]
    for filters, stride in ((48, 2), (96, 2), (128, 1), (192, 2), (192, 1)):
        parts += [
            keras.layers.Conv2D(filters, 3, strides=stride, padding="same"),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.Activation("gelu"),
        ]
    return keras.Sequential([*parts, keras.layers.GlobalAveragePooling2D()])


def text_tower(tokenizer, seed=0):
    """`(B, 32)` token ids -> `(B, 128)`."""
    return kg.clip.TextTower(
        tokenizer.vocabulary_size,
        max_sequence_length=32,
        num_layers=2,
        hidden_dim=128,
        num_heads=4,
        projection_dim=128,
        eos_token_id=tokenizer.eos_token_id,
        seed=seed,
    )


keras.utils.set_random_seed(0)
model = kg.CLIP(
    image_tower(),
    text_tower(tokenizer),
    embed_dim=128,
    tokenizer=tokenizer,
    mask_equal_captions=True,  # two that are called alike are not told apart
)
print(f"{model.count_params():,} weights")

# %% [markdown]
# ## The loss
#
# Let $x_i$ be the vector of picture $i$ and $y_j$ that of text $j$, all of length 1, so
# that $x_i \cdot y_j$ is the cosine of the angle between them. In a batch of $N$ pairs
# each picture must find its text among all $N$, and each text its picture:
#
# $$L = -\frac{1}{2N} \sum_{i=1}^{N} \left[
# \log \frac{e^{s\, x_i \cdot y_i}}{\sum_j e^{s\, x_i \cdot y_j}} +
# \log \frac{e^{s\, x_i \cdot y_i}}{\sum_j e^{s\, x_j \cdot y_i}} \right] .$$
#
# The scale $s$ is learned as well; it begins at 14 and ends at 100 at most. Who guesses
# has the loss $\log N$, here 4.85.
#
# 1,611 pictures are soon known by heart. So each is turned, zoomed and recoloured a
# little, anew in each epoch, by Keras's own layers. A callback watches: after some
# epochs `Retrieval` asks how often the right name is the first, for names that are not
# trained on.

# %%
white = {"fill_mode": "constant", "fill_value": 1.0}
changes = [
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


def batches(captions):
    """The training pictures, changed by chance, with captions."""
    pairs = {"images": train["images"], "captions": captions}
    return kg.datasets.augmented(pairs, changes, batch_size=128, seed=0)


data = batches(captions)
(batch,) = data[0]
show(batch["images"][:12], list(batch["captions"][:12]))

# %%
held_out = pictures("google", "held_out_names")
other = pictures("fluent", "seen_names")
EPOCHS = 1 if FAST else 60


def falling(rate, steps):
    """A rate that rises for a tenth of the steps, and then falls to zero."""
    rise = max(1, steps // 10)
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - rise), warmup_target=rate, warmup_steps=rise
    )


def compiled(model, rate, epochs):
    """AdamW; gains, biases and the temperature do not decay."""
    steps = epochs * data.num_batches
    optimizer = keras.optimizers.AdamW(
        falling(rate, steps), weight_decay=0.1, beta_2=0.98, global_clipnorm=1.0
    )
    model.compile(optimizer)
    return model


compiled(model, 1.5e-3, EPOCHS)
watch = kg.callbacks.Retrieval(
    held_out["images"], held_out["captions"], k=1, every=max(1, EPOCHS // 6)
)
started = time.monotonic()
history = model.fit(data, epochs=EPOCHS, verbose=0, callbacks=[watch]).history
print(f"{time.monotonic() - started:.0f} s, loss {history['loss'][-1]:.2f}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3), layout="constrained")
axes[0].plot(history["loss"])
axes[0].axhline(np.log(128), color="gray", linestyle=":", label="who guesses")
axes[0].set(title="loss", xlabel="epoch")
axes[0].legend()
asked = [name for name in history if name.startswith("val_")]
for name in asked:
    at = np.linspace(0, EPOCHS, len(history[name]) + 1)[1:]
    axes[1].plot(at, history[name], "o-", label=name.split("_recall")[0][4:])
axes[1].set(
    title="right at once, of 300 names never seen", xlabel="epoch", ylim=(0, None)
)
axes[1].legend()
plt.show()

# %% [markdown]
# ## How well does it find?
#
# `recall_at_k` asks both ways. Beside each number stands what guessing would have.

# %%
sets = {
    "training pictures": train,
    "other style, names seen": other,
    "names never seen": held_out,
    "other style, names never seen": pictures("fluent", "held_out_names"),
}
print(f"{'':32} {'names':>6} {'i -> t':>7} {'t -> i':>7} {'guess':>7}")
for label, part in sets.items():
    x = model.encode_image(part["images"])
    y = model.encode_text(part["captions"])
    found = kg.metrics.recall_at_k(x, y, part["captions"], k=1)
    ways = [found[f"{way}_recall@1"] for way in ("image_to_text", "text_to_image")]
    count = len(part["captions"])
    print(f"{label:32} {count:6} {ways[0]:7.1%} {ways[1]:7.1%} {1 / count:7.2%}")

# %% [markdown]
# The training pictures it knows. A drawing by another hand, of a thing that it knows,
# is a harder matter; and a name that it never met it can only find by the words in it
# that it met elsewhere.
#
# Here are cosines of twelve pictures and their names, in the style that it never saw.
# The bright diagonal is what is right; the blocks beside it are what is alike.

# %%
chosen = np.linspace(0, len(other["captions"]) - 1, 12).astype(int)
names = [other["captions"][i] for i in chosen]
x = model.encode_image(other["images"][chosen])
cosines = x @ model.encode_text(names).T
figure, axis = plt.subplots(figsize=(8, 6.5), layout="constrained")
shown = axis.imshow(cosines, cmap="viridis")
axis.set_xticks(range(12), names, rotation=60, ha="right", fontsize=8)
axis.set_yticks(range(12), [""] * 12)
for row, i in enumerate(chosen):
    corner = axis.inset_axes((-1.9, row - 0.5, 1.0, 1.0), transform=axis.transData)
    corner.imshow(np.clip(other["images"][i] / 2 + 0.5, 0, 1))
    corner.axis("off")
figure.colorbar(shown, label="cosine")
plt.show()

# %% [markdown]
# ## Looking for pictures
#
# An index holds the vectors of pictures; texts, pictures or vectors are looked for in
# it. It is saved as a small file. All its pictures are of the style that was not
# trained on, and are found by words that nobody wrote for them.

# %%
index = model.index(other["images"], items=other["captions"])
queries = ["a red heart", "a sad face", "fish", "something to drink", "a fast vehicle"]
columns = 8
found = {query: index.search(query, k=columns) for query in queries}
figure, axes = plt.subplots(
    len(queries), columns, figsize=(columns, 1.15 * len(queries)), layout="constrained"
)
for line, (query, matches) in zip(axes, found.items(), strict=True):
    for axis, match in zip(line, matches, strict=True):
        axis.imshow(np.clip(other["images"][match.number] / 2 + 0.5, 0, 1))
        axis.axis("off")
    line[0].set_title(query, fontsize=9, loc="left")
plt.show()

# %% [markdown]
# ## Classes without training
#
# Unicode sorts emoji into groups; no caption says which. A class is now nothing but
# words: the mean of the vectors of a few sentences with its name in them. We ask it
# about the pictures whose names were never seen.

# %%
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
}
classifier = kg.clip.ZeroShotClassifier(
    model, list(GROUPS.values()), templates=["{}", "a {}", "{}, {}"]
)
wanted = np.array([list(GROUPS).index(group) for group in held_out["groups"]])
guessed = classifier.classify(held_out["images"]).argmax(1)
frequent = np.bincount(wanted, minlength=len(GROUPS)).max() / len(wanted)
print(f"right: {np.mean(guessed == wanted):.1%}; always the largest: {frequent:.1%}")

# %% [markdown]
# With labels more can be had from the same vectors. A *linear probe* is a logistic
# regression on them; the towers stay as they are.

# %%
order = [i for i, group in enumerate(train["groups"]) if group in GROUPS]
labels = np.array([list(GROUPS).index(train["groups"][i]) for i in order])
probe = kg.clip.LinearProbe(model, C=1.0).fit(train["images"][order], labels)
accuracy = probe.evaluate(held_out["images"], wanted)["accuracy"]
print(f"with {len(labels):,} labels: {accuracy:.1%}")

# %% [markdown]
# ## A second language
#
# The pictures need not be learned again. Lock the image tower, take a new text tower,
# and train it on Spanish names: it learns to point to where the pictures stand
# ([2111.07991](https://arxiv.org/abs/2111.07991)). Then both languages share one space,
# though no pair of sentences was ever shown.

# %%
spanish = pictures("google", "train", language="es")["captions"]
tokenizer_es = kg.Tokenizer.train(spanish, 1500, kind="clip")
bilingual = kg.CLIP(
    model.image_tower,
    text_tower(tokenizer_es, seed=1),
    embed_dim=128,
    tokenizer=tokenizer_es,
    mask_equal_captions=True,
)
bilingual.image_projection.set_weights(model.image_projection.get_weights())
bilingual.image_tower.trainable = False
bilingual.image_projection.trainable = False
data = batches(spanish)
epochs = 1 if FAST else 20
compiled(bilingual, 1e-3, epochs)
bilingual.fit(data, epochs=epochs, verbose=0)
model.image_tower.trainable = True  # the tower is shared with the first model

texts_es = pictures("fluent", "seen_names", language="es")["captions"]
y_es = bilingual.encode_text(texts_es)
in_pictures = kg.metrics.recall_at_k(
    model.encode_image(other["images"]), y_es, texts_es, k=1
)["text_to_image_recall@1"]
y_en = model.encode_text(other["captions"])
translated = kg.metrics.recall_at_k(y_en, y_es, texts_es, k=1)
print(f"Spanish -> picture of the other style: {in_pictures:.1%}")
print(f"Spanish -> English name: {translated['text_to_image_recall@1']:.1%}")
for query in ("corazón rojo", "gato", "bandera"):
    (matches,) = index.search(bilingual.encode_text([query]), k=3)
    print(f"{query:14}", [match.item for match in matches])

# %% [markdown]
# ## Where it fails
#
# These are pictures of the style it never saw whose first answer is wrong, taken at
# equal distances from the list, not chosen: below each what it said.

# %%
x = model.encode_image(other["images"])
first = (x @ y_en.T).argmax(1)
wrong = np.flatnonzero(
    [other["captions"][j] != n for j, n in zip(first, other["captions"], strict=True)]
)
some = wrong[:: max(1, len(wrong) // 16)][:16]
show(other["images"][some], [other["captions"][first[i]][:22] for i in some], 8, 1.4)

# %% [markdown]
# It goes by colour and outline first: what is round and yellow is a face, and a letter
# on blue is another letter on blue. It cannot count, cannot tell left from right when a
# drawing is turned, and *not* means nothing to it. The published models share these
# faults, less so.

# %%
pairs = [
    ("a face", "not a face"),
    ("left arrow", "right arrow"),
    ("two people", "three people"),
]
vectors = [model.encode_text(list(pair)) for pair in pairs]
for pair, (a, b) in zip(pairs, vectors, strict=True):
    print(f"cosine of {pair[0]!r} and {pair[1]!r}: {a @ b:.2f}")

# %% [markdown]
# ## The one in the package
#
# `kg.clip.emoji()` was trained on all emoji in both styles. It is there at once,
# offline, and can judge drawn pictures. (It has seen what it judges: its numbers here
# say nothing about the unknown.)

# %%
judge = kg.clip.emoji()
all_emoji = kg.datasets.emoji(style="fluent")
index = judge.index(all_emoji["images"], items=all_emoji["captions"])
for query in ("a red heart", "a slice of pizza", "an angry cat"):
    print(f"{query:18}", [match.item for match in index.search(query, k=3)])

# %% [markdown]
# ## To keep and to serve
#
# One file keeps all; a SavedModel has the signatures `encode_image` and `encode_text`,
# and TensorFlow runs it without this package. The vectors are the same.

# %%
model.save("clip.keras")
again = kg.load_model("clip.keras")
same = np.abs(
    again.similarity(batch["images"][:4], ["a cat", "a flag"])
    - model.similarity(batch["images"][:4], ["a cat", "a flag"])
).max()
print(f"loaded: a difference of {same:.1e}")
model.export("served_clip")
print(sorted(os.listdir("served_clip")))

# %% [markdown]
# Published models open by one line, and are used and tuned as this one
# (`enable_lora`, `layer_decay`):
#
# ```python
# clip = kg.CLIP.from_pretrained("openai/clip-vit-base-patch32")
# photos = kg.datasets.prepare(images, clip.image_size)
# clip.rank(photos, ["a photo of a dog", "a photo of a cat"])
# ```
