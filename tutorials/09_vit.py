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
# # A picture is worth 49 words
#
# Networks that read sentences take words, in any number, and let each look at all the
# others. Cut a picture into small squares, call each a word, and the same network reads
# pictures. Nothing tells it that squares have neighbours, or even which is up: all that
# it must find out. This notebook trains such a *vision transformer* on 28 x 28 pictures
# of clothes, looks at what it found out, and compares it with a network of
# convolutions, which is told. Then it lets the network learn from pictures without
# labels, by painting what is covered.
#
# *Time: about five minutes on two CPU cores on TensorFlow or PyTorch. What to expect:
# about 84 of 100 pictures told right, fewer than by convolutions. That order turns with
# more pictures; here there are 20,000, in the papers 300 million.*
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

import time

import keras
import matplotlib.pyplot as plt
import numpy as np

FAST = bool(os.environ.get("KG_FAST"))  # few steps, to check that the cells run
print("Keras", keras.__version__, "on", keras.backend.backend())

# %% [markdown]
# ## Patches
#
# A balanced part of Fashion-MNIST comes with the package: nothing is downloaded. Each
# picture is cut into squares of 4 x 4 pixels, 49 of them.

# %%
(images, labels), (test_images, test_labels) = kg.datasets.load("fashion_mnist")
names = kg.datasets.class_names("fashion_mnist")
if FAST:
    images, labels = images[:640], labels[:640]
    test_images, test_labels = test_images[:250], test_labels[:250]
clothes = np.stack([test_images[test_labels == k][3] for k in range(10)])
PATCH = 4


def patches(image):
    """A picture's squares, row by row: `(49, 4, 4, 1)`."""
    rows, columns = (side // PATCH for side in image.shape[:2])
    squares = image.reshape(rows, PATCH, columns, PATCH, -1).swapaxes(1, 2)
    return squares.reshape(rows * columns, PATCH, PATCH, -1)


def show(pictures, columns=10, title=None, scale=2, gap=2):
    """A grid of pictures."""
    grid = kg.callbacks.image_grid(np.asarray(pictures), columns, scale, gap)
    plt.figure(figsize=(grid.shape[1] / 75, grid.shape[0] / 75))
    plt.imshow(grid)
    plt.axis("off")
    if title:
        plt.title(title)
    plt.show()


boot = clothes[9]
squares = kg.callbacks.image_grid(patches(boot), 7, 8, gap=6)
figure, axes = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
axes[0].imshow(boot, cmap="gray")
axes[0].set_title("a picture")
axes[1].imshow(squares)
axes[1].set_title("its 49 patches")
for axis in axes:
    axis.axis("off")
plt.show()

plt.figure(figsize=(13, 0.5))
plt.imshow(kg.callbacks.image_grid(patches(boot), 49, 6))
plt.title("what the network is given: a row of them")
plt.axis("off")
plt.show()

# %% [markdown]
# ## The network
#
# Each patch $x_p^i$ becomes a vector by one matrix $E$. A vector of its place is added,
# since a transformer does not know the order of its input, and in front comes one more
# vector, the *class token*, which stands for the picture as a whole
# ([2010.11929](https://arxiv.org/abs/2010.11929), equation 1):
#
# $$z_0 = [\,x_{\text{class}};\; x_p^1 E;\; \dots;\; x_p^{49} E\,] + E_{\text{pos}} .$$
#
# Then come blocks in which every token asks all tokens, and takes from each as much as
# its *key* $k$ fits the *query* $q$:
#
# $$a_{ij} = \operatorname{softmax}_j \frac{q_i \cdot k_j}{\sqrt d},
#   \qquad y_i = \sum_j a_{ij} v_j .$$
#
# What the class token is in the end decides the class.

# %%
sizes = {
    "image_shape": (28, 28, 1),
    "patch_size": PATCH,
    "num_layers": 2 if FAST else 4,
    "hidden_dim": 32 if FAST else 64,
    "num_heads": 4,
}
model = kg.ViT(**sizes, num_classes=10, seed=0)
cnn = kg.CNN((28, 28, 1), 10, seed=0)
print(f"ViT: {model.count_params():,} weights; CNN: {cnn.count_params():,}")

# %% [markdown]
# ## Training
#
# With AdamW, at a rate that rises first and then falls to zero: transformers need the
# start gentle. Beside it learns `kg.CNN`, the textbook's network of tutorial 11.


# %%
def falling(rate, steps):
    """A rate that rises for a tenth of the steps, and then falls to zero."""
    rise = max(1, steps // 10)
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - rise), warmup_target=rate, warmup_steps=rise
    )


def train(network, epochs, rate, x, y=None, batch=64, **options):
    """Trains a network; returns the logs and the seconds."""
    steps = epochs * -(-len(x) // batch)
    network.compile(
        keras.optimizers.AdamW(
            falling(rate, steps), weight_decay=0.05, global_clipnorm=1.0
        )
    )
    data = (x,) if y is None else (x, y)
    started = time.monotonic()
    history = network.fit(
        *data, batch_size=batch, epochs=epochs, **{"verbose": 2, **options}
    )
    return history.history, time.monotonic() - started


judged = {"validation_data": (test_images, test_labels)}
epochs = 1 if FAST else 6
logs, seconds = train(model, epochs, 2e-3, images, labels, **judged)
others, less = train(cnn, 1 if FAST else 3, 2e-3, images, labels, verbose=0, **judged)

# %%
judge = kg.metrics.fashion_mnist_classifier()
best = judge.predict(test_images, batch_size=250, verbose=0).argmax(-1)
print(f"{'':34} {'right':>6} {'seconds':>8}")
print(f"{'this ViT':34} {logs['val_accuracy'][-1]:6.1%} {seconds:8.0f}")
print(f"{'the CNN':34} {others['val_accuracy'][-1]:6.1%} {less:8.0f}")
right = np.mean(best == test_labels)
print(f"{'a CNN of the package, trained long':34} {right:6.1%}")
print("(The test pictures chose nothing here: the last epoch counts, not the best.)")

# %% [markdown]
# A convolution knows from the start that near pixels belong together and that a sleeve
# is a sleeve wherever it is. The transformer learns both from the pictures, and 20,000
# are few for that.
#
# ## What it found out about places
#
# The network was not told which patch is where; it has a vector for each place, random
# at first. Below, for each of the 49 places, how alike its vector is to those of all
# places (figure 7 of the paper): white is alike. Places in the middle are like others
# in the middle, and those at the border like the border on all sides: these pictures
# are centred, and that is what a place tells in them. (In the paper, of photographs of
# all kinds, rows and columns come out.)


# %%
def similarity(network):
    """The cosines of the vectors of all places: `(T, T)`."""
    table = keras.ops.convert_to_numpy(network.network.table)[0, 1:]
    table = table / np.linalg.norm(table, axis=-1, keepdims=True)
    return table @ table.T


def between(maps):
    """Maps from their least to their largest, as pictures from -1 to 1."""
    low, high = (f(maps, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    return 2 * (maps - low) / np.maximum(high - low, 1e-9) - 1


alike = similarity(model).reshape(49, 7, 7, 1)
show(
    between(np.minimum(alike, 0.6)),
    columns=7,
    title="A square for each place: which others are like it",
    scale=7,
    gap=4,
)

# %% [markdown]
# ## Where it looks
#
# `attention_maps` gives the $a_{ij}$ of all blocks and heads. What does the class token
# of the last block look at? A row for each of its heads; and last, through all blocks
# at once: the mean over the heads, with half of each token left where it is, multiplied
# from block to block ([2005.00928](https://arxiv.org/abs/2005.00928)).

# %%
maps = model.attention_maps(clothes)  # (10, blocks, heads, 50, 50)
print(maps.shape)


def heat(pictures, maps):
    """Pictures in grey with maps `(N, 7, 7)` over them in colour."""
    maps = (between(maps) + 1) / 2
    large = np.kron(maps, np.ones((1, PATCH, PATCH)))
    colour = 2 * plt.cm.inferno(large)[..., :3] - 1
    return 0.3 * pictures + 0.7 * colour


rollout = np.eye(50)[None]
for block in range(maps.shape[1]):
    step = 0.5 * maps[:, block].mean(1) + 0.5 * np.eye(50)
    rollout = step @ rollout
rows = [np.repeat(clothes, 3, axis=-1)]
for seen in (*maps[:, -1, :, 0, 1:].swapaxes(0, 1), rollout[:, 0, 1:]):
    rows.append(heat(clothes, seen.reshape(-1, 7, 7)))
show(np.concatenate(rows), title="The pictures; four heads; through all blocks")

# %% [markdown]
# The heads do not look at the same: some at the garment, some at what is around it, for
# an outline has two sides. Take such maps for what they are: what was looked at, not
# why the answer was given (tutorial 11 has tools that ask for the why).

# %% [markdown]
# ## Learning without labels
#
# Labels are dear, pictures are not. A *masked autoencoder*
# ([2111.06377](https://arxiv.org/abs/2111.06377)) covers three patches of four. The
# network sees the others only, a small decoder paints the covered ones $M$, and the
# loss is how far off they are:
#
# $$L = \frac{1}{|M|} \sum_{i \in M} \lVert \hat x_p^i - x_p^i \rVert^2 .$$
#
# To paint a sleeve that cannot be seen one must know that there are pullovers. (The
# paper's option to give each patch its own brightness back, `normalized_pixels`, is
# off: in the pictures below nothing of the covered patches is given away.)

# %%
painter = kg.ViT(
    **sizes,
    positions="sinusoidal",
    mae=True,
    mask_ratio=0.75,
    decoder_num_layers=1,
    decoder_hidden_dim=32 if FAST else 64,
    decoder_num_heads=4,
    normalized_pixels=False,
    seed=0,
)
logs, seconds = train(painter, 1 if FAST else 8, 2e-3, images, batch=128)
print(f"{seconds:.0f} s")

# %%
painted, hidden_dim = painter.paint(clothes, seed=0)
covered = np.where(hidden_dim > 0, 0.0, clothes)
show(
    np.concatenate([clothes, covered, painted]),
    title="Unread pictures; what the network sees of them; what it paints",
)

# %% [markdown]
# ## Is it of use?
#
# Give it a few labels. `fine_tuned` makes a classifier that begins with the painter's
# weights, without the decoder. Beside it the same ViT with fresh weights and the CNN,
# with the same few labels, each for the same number of steps.

# %%
table = {}
for count in (5,) if FAST else (10, 30, 100):
    rows = np.concatenate([np.flatnonzero(labels == k)[:count] for k in range(10)])
    networks = {
        "CNN": kg.CNN((28, 28, 1), 10, seed=1),
        "fresh ViT": kg.ViT(**sizes, positions="sinusoidal", num_classes=10, seed=1),
        "pretrained ViT": painter.fine_tuned(10),
    }
    steps = 10 if FAST else 300
    few_epochs = max(1, steps * 32 // len(rows))
    table[count] = {}
    for name, network in networks.items():
        x, y = images[rows], labels[rows]
        train(network, few_epochs, 1e-3, x, y, batch=32, verbose=0)
        found = network.predict(test_images, batch_size=250, verbose=0).argmax(-1)
        table[count][name] = np.mean(found == test_labels)
print(f"{'labels of each class':>20}", *(f"{name:>15}" for name in networks))
for count, row in table.items():
    print(f"{count:20}", *(f"{value:15.1%}" for value in row.values()))

# %%
for name in networks:
    values = [100 * row[name] for row in table.values()]
    plt.plot(list(table), values, marker="o", label=name)
plt.xscale("log")
plt.xticks(list(table), list(table))
plt.minorticks_off()
plt.xlabel("labels of each class")
plt.ylabel("% right")
plt.legend()
plt.show()

# %% [markdown]
# With the painter's weights the transformer is ahead of the fresh one at every number
# of labels. (Which does not gain by more labels here: 300 steps are few for it,
# whatever it is shown.) The CNN, which need not learn what neighbours are, is ahead of
# both.
#
# ## Other sizes
#
# A sentence may have any length, and so may a picture: only the places are missing.
# They are *interpolated*: the 7 x 7 vectors are read as a small picture and enlarged.
# The trained network takes other sizes as they are; but its patches are then parts of
# another scale, which it has never seen.


# %%
def scaled(pictures, side):
    """Pictures of another size."""
    resized = keras.ops.image.resize(pictures, (side, side), interpolation="bicubic")
    return np.clip(keras.ops.convert_to_numpy(resized), -1, 1)


for side in (20, 24, 28, 32, 36, 40, 56):
    found = model.classify(scaled(test_images[:1000], side), batch_size=100)
    right = np.mean(found.argmax(-1) == test_labels[:1000])
    print(f"{side} x {side}: {(side // PATCH) ** 2:4} patches, {right:.1%} right")

# %% [markdown]
# A short training repairs that. `fine_tuned` takes the new size, and the places with
# it.

# %%
larger = model.fine_tuned(10, image_shape=(40, 40, 1))
few = 128 if FAST else 4000
train(larger, 1, 5e-4, scaled(images[:few], 40), labels[:few], verbose=0)
found = larger.classify(scaled(test_images[:1000], 40), batch_size=100).argmax(-1)
right = np.mean(found == test_labels[:1000])
print(f"40 x 40, after one pass over {few:,} pictures: {right:.1%} right")

# %%
figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
for axis, side in zip(axes, (28, 40, 56), strict=True):
    network = model.fine_tuned(10, image_shape=(side, side, 1))
    n = side // PATCH
    place = round(0.3 * (n - 1)) * n + round(0.3 * (n - 1))
    axis.imshow(similarity(network)[place].reshape(n, n), cmap="gray", vmax=0.6)
    axis.set_title(f"{side} x {side}")
    axis.axis("off")
figure.suptitle("Which places are like the one at a third of the way")
plt.show()

# %% [markdown]
# ## Saving and serving
#
# A `.keras` file holds the model and its optimizer and opens on any backend;
# `save_pretrained` writes Hugging Face's layout, which `transformers` opens with
# `ViTForImageClassification.from_pretrained`; and `export` writes a SavedModel that
# TensorFlow runs with neither Keras nor this package installed.

# %%
ours = model.classify(clothes)
model.save("vit.keras")
model.save_pretrained("vit")
for again in (kg.load_model("vit.keras"), kg.ViT.from_pretrained("vit")):
    print("loaded:", np.allclose(again.classify(clothes), ours, atol=1e-5))
model.export("served/vit", overwrite=True)

# %%
import tensorflow as tf

served = tf.saved_model.load("served/vit")
logits = served.signatures["logits"](images=tf.constant(clothes))["logits"]
apart = np.abs(tf.nn.softmax(logits).numpy() - ours).max()
print("largest difference from model.classify:", apart)
show(clothes, title=", ".join(names[k] for k in logits.numpy().argmax(1)))

# %% [markdown]
# ## On
#
# - What would make it better: more pictures, or the same ones flipped and shifted; more
#   epochs (the papers' ViTs take 90 to 300, their masked autoencoders 1,600).
# - The published sizes are names: `kg.ViT((224, 224, 3), "B/16", num_classes=1000)`,
#   and published weights come by
#   `kg.ViT.from_pretrained("google/vit-base-patch16-224")`.
# - Places by rotation instead of a table: `positions="rotary"`; the mean of all patches
#   instead of a token: `pooling="mean"`.
# - The same idea with words: tutorial 08. A transformer that draws:
#   `kg.DDPM(kg.DiT(...), ...)`, tutorial 04.
