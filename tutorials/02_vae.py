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
# # A map of all clothes
#
# A *variational autoencoder* learns to write a picture down as a few numbers, and to
# draw the picture from them again. Because it is taught to keep those numbers close to
# plain random ones, new random numbers give new pictures; and because all of it is
# probability, it can say how likely a picture is. This notebook draws a map of clothes,
# walks on it, sorts out pictures that are no clothes, and leaves with files that
# serve.
#
# *Time: about five minutes on two CPU cores. What to expect: soft pictures (that is
# what this family makes), an honest number of nats, and sketches told from clothes.*
#
# *What it needs: `pip install "keras-genai[tutorials]"`, and `jax` or `torch` for those
# backends.*

# %%
import os

os.environ.setdefault("KERAS_BACKEND", "tensorflow")  # or "jax", "torch"

# %%
import keras_genai as kg  # isort: skip (before Keras: it chooses TensorFlow's kernels)

import keras
import matplotlib.pyplot as plt
import numpy as np

FAST = bool(os.environ.get("KG_FAST"))  # few steps, to check that the cells run
print("Keras", keras.__version__, "on", keras.backend.backend())

# %% [markdown]
# ## The pictures
#
# The part of Fashion-MNIST that comes with the package, as numbers from 0 (black) to 1
# (white). With `binarize="dynamic"` below, each is read as the *probability* of white,
# and a black and white picture is drawn from it anew at every step, as the papers do
# it: the model then gives real probabilities.

# %%
(images, labels), (test_images, test_labels) = kg.datasets.load(
    "fashion_mnist", value_range=(0, 1)
)
names = kg.datasets.class_names("fashion_mnist")
if FAST:
    images, labels = images[:400], labels[:400]
    test_images, test_labels = test_images[:100], test_labels[:100]


def show(pictures, columns=10, title=None, scale=2):
    """A grid of pictures."""
    grid = kg.callbacks.image_grid(
        pictures, columns=columns, scale=scale, value_range=(0, 1)
    )
    plt.figure(figsize=(grid.shape[1] / 75, grid.shape[0] / 75))
    plt.imshow(grid.squeeze(), cmap="gray", vmin=0, vmax=255)
    plt.axis("off")
    if title:
        plt.title(title)
    plt.show()


drawn = np.random.default_rng(0).uniform(size=(10, 28, 28, 1)) < test_images[:10]
show(np.concatenate([test_images[:10], drawn.astype("float32")]), title="Read, drawn")

# %% [markdown]
# ## The idea
#
# The *decoder* $p(x|z)$ turns a code $z$ into the probability of every pixel. The
# likelihood of a picture is the average over all codes, $p(x) = \int p(x|z)\,p(z)\,dz$
# with $p(z) = N(0, I)$: nobody can compute it. So an *encoder* $q(z|x)$ guesses which
# codes matter, and Kingma and Welling
# ([1312.6114](https://arxiv.org/abs/1312.6114), equation 3) found a bound that can be:
#
# $$\log p(x) \;\ge\; \underbrace{\mathbb{E}_{q(z|x)}\big[\log p(x|z)\big]}_{\text{how
# well it is redrawn}} \;-\; \underbrace{\mathrm{KL}\big(q(z|x)\,\|\,N(0, I)\big)}_{
# \text{what the code costs}}.$$
#
# The code is drawn as $z = \mu(x) + \sigma(x)\,\varepsilon$ with $\varepsilon \sim N(0,
# I)$, so that the gradient reaches the encoder; and between two Gaussians the second
# part has a formula, $\tfrac12\sum_j (\mu_j^2 + \sigma_j^2 - 1 - \log\sigma_j^2)$.
# `fit` climbs the bound. Everything is counted in *nats*: 0.69 of them are one bit.

# %% [markdown]
# ## Two numbers for each picture
#
# With a code of only two numbers, the codes can be drawn as a map.

# %%
flat = kg.VAE(
    image_shape=(28, 28, 1),
    latent_dim=2,
    hidden_units=(400, 200),
    binarize="dynamic",
    seed=0,
)
flat.compile()  # 1509.00519's Adam
grids = kg.callbacks.ImageGrid("logs", n=20, columns=10, inline=False)
history = flat.fit(
    images,
    batch_size=100,
    epochs=1 if FAST else 15,
    verbose=2,
    callbacks=[grids],
)

# %% [markdown]
# The same twenty codes before training, after the first epoch and after the last.

# %%
import pathlib

files = sorted(pathlib.Path(grids.run_folder).glob("epoch-*.png"))
figure, axes = plt.subplots(3, 1, figsize=(10, 7))
for axis, file in zip(axes, [files[0], files[1], files[-1]], strict=True):
    axis.imshow(plt.imread(file), cmap="gray")
    axis.set_title(file.stem)
    axis.axis("off")
plt.tight_layout()
plt.show()

# %% [markdown]
# Where the test pictures lie, coloured by what they show: the model was never told. And
# what the decoder draws at each place.

# %%
codes = flat.encode(test_images).mean
side = np.linspace(-2.2, 2.2, 15)
places = np.stack([[x, y] for y in side[::-1] for x in side])
atlas = flat.decode(places).reshape(15, 15, 28, 28)
atlas = atlas.transpose(0, 2, 1, 3).reshape(15 * 28, 15 * 28)

figure, (left, right) = plt.subplots(1, 2, figsize=(15, 7))
for k, name in enumerate(names):
    chosen = codes[test_labels == k]
    left.scatter(*chosen.T, s=3, color=plt.cm.tab10(k), label=name)
left.set(xlim=(-4, 4), ylim=(-4, 4), xlabel="$z_1$", ylabel="$z_2$")
left.legend(markerscale=4, fontsize=8, loc="upper right")
right.imshow(atlas, cmap="gray", extent=(-2.2, 2.2, -2.2, 2.2))
plt.show()

# %% [markdown]
# ## Sixteen numbers
#
# Two numbers are few. With sixteen and convolutions the pictures are redrawn better.
# `KLWarmup` lets the cost of the code come in slowly at the start
# ([1602.02282](https://arxiv.org/abs/1602.02282)), so that the code is not given up
# before it is understood.

# %%
epochs = 1 if FAST else 8
steps = epochs * -(-len(images) // 100)
model = kg.VAE(
    image_shape=(28, 28, 1),
    latent_dim=16,
    architecture="convolutional",
    binarize="dynamic",
    beta=kg.vaes.KLWarmup(steps // 4),
    seed=0,
)
model.compile(
    keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps))
)
model.fit(
    images,
    batch_size=100,
    epochs=epochs,
    validation_data=test_images[:1000],
    verbose=2,
)

# %% [markdown]
# `active_units` counts the latents that carry something: those whose mean moves from
# picture to picture ([1509.00519](https://arxiv.org/abs/1509.00519), section 5.2).

# %%
for name, one in (("2 numbers", flat), ("16 numbers", model)):
    result = one.evaluate(test_images, batch_size=500, verbose=0, return_dict=True)
    parts = f"{result['reconstruction']:.1f} to redraw, {result['kl']:.1f} the code"
    print(
        f"{name:10}  bound {result['elbo']:8.2f} nats ({parts}), "
        f"{result['active_units']:.0f} in use"
    )
rows = [test_images[:10], flat.reconstruct(test_images[:10])]
rows += [model.reconstruct(test_images[:10])]
show(np.concatenate(rows), title="Read; redrawn from 2 numbers; from 16")

# %% [markdown]
# ## Walking
#
# From one picture to another through the codes, along a great circle
# ([1609.04468](https://arxiv.org/abs/1609.04468)): codes of pictures are about as long
# as random ones, and so is everything on the way.

# %%
chosen = [np.flatnonzero(test_labels == k)[0] for k in (9, 0, 3, 8)]
ways = model.interpolate(
    test_images[chosen], test_images[chosen[1:] + chosen[:1]], n=10
)
show(ways.reshape(-1, 28, 28, 1), title="From one to the next, spherically")

# %% [markdown]
# One latent swept from -3 to 3, the others as they are: each row is one of the five
# that vary most over the test pictures.

# %%
codes = model.encode(test_images).mean
busiest = np.argsort(-codes.std(axis=0))[:5]
swept = [
    model.traverse(test_images[chosen[1]], int(d), np.linspace(-3, 3, 10))
    for d in busiest
]
show(np.concatenate(swept), title="Latents " + ", ".join(map(str, busiest)))

# %% [markdown]
# ## What is no clothing?
#
# `log_likelihood` estimates $\log p(x)$ itself, from below, with many codes for each
# picture,
#
# $$\log \frac1k \sum_{i=1}^k \frac{p(x|z_i)\,p(z_i)}{q(z_i|x)},
#   \qquad z_i \sim q(z|x),$$
#
# in chunks, so that memory does not grow with $k$. Below: the model has seen clothes
# only; the package's sketches are something else. *AUROC* is the chance that a sketch
# gets the worse score of the two: 0.5 is guessing, 1 is perfect.

# %%
_, (sketches, _) = kg.datasets.load("quickdraw", value_range=(0, 1))
count, k = (40, 8) if FAST else (400, 64)
clothes = test_images[:: len(test_images) // count][:count]
sketches = sketches[:count]


def auroc(scores, others):
    """How often a score is above another."""
    return np.mean(scores[:, None] > others[None])


score = {
    name: model.log_likelihood(x, importance_samples=k)
    for name, x in (("clothes", clothes), ("sketches", sketches))
}
for name, nats in score.items():
    plt.hist(nats, bins=40, alpha=0.6, label=f"{name}: {nats.mean():.0f} nats")
plt.xlabel(f"log p(x), {k} importance samples")
plt.legend()
plt.show()
print(f"AUROC, likelihood: {auroc(score['clothes'], score['sketches']):.3f}")

# %% [markdown]
# A warning that belongs to it: a likelihood also says how *simple* a picture is, and
# plain pictures can score well without being like the training data
# ([1810.09136](https://arxiv.org/abs/1810.09136)). An all-black picture is likelier
# than nearly all clothes:

# %%
black = model.log_likelihood(np.zeros((1, 28, 28, 1)), importance_samples=k)
print(
    f"black: {black[0]:.0f} nats, likelier than "
    f"{np.mean(black[0] > score['clothes']):.0%} of the clothes"
)

# %% [markdown]
# ## New pictures, and a better idea of where to look
#
# `generate` draws codes from $N(0, I)$. Real codes do not fill it evenly: between the
# classes there is empty land. `fit_prior` looks where they are, with a mixture of
# Gaussians ([1903.12436](https://arxiv.org/abs/1903.12436)), and `generate` then draws
# from that; the mixture is saved and exported with the model. The Fréchet distance
# ([1706.08500](https://arxiv.org/abs/1706.08500)) of the features of the package's
# classifier says whether it helped.

# %%
before = model.generate(20, seed=1)
model.fit_prior(images, components=2 if FAST else 20)
after = model.generate(20, seed=1)
show(
    np.concatenate([before, after]), title="Two rows from N(0, I), two from the mixture"
)

features = kg.metrics.fashion_mnist_features()


def extract(pictures):
    """Features, by a network that takes [-1, 1]."""
    return features.predict(2 * pictures - 1, verbose=0)


real = extract(test_images)
sets = {
    prior: model.generate(len(test_images), seed=2, prior=prior, batch_size=250)
    for prior in ("normal", "mixture")
}
sets["redrawn from their own codes"] = model.reconstruct(test_images)
for name, made in sets.items():
    print(f"FID {kg.metrics.fid(real, extract(made)):7.2f}  {name}")

# %% [markdown]
# ## Asked for by name
#
# With `num_classes` both networks are told the class; the code then holds only what the
# class does not say.

# %%
named = kg.VAE(
    image_shape=(28, 28, 1),
    latent_dim=16,
    hidden_units=(400, 200),
    binarize="dynamic",
    num_classes=10,
    seed=0,
)
named.compile()
named.fit(images, labels, batch_size=100, epochs=1 if FAST else 10, verbose=0)
show(
    named.generate(labels=np.repeat(np.arange(10), 10), seed=3),
    title="A row for each class",
)

# %% [markdown]
# ## A tighter bound by one argument
#
# The importance-weighted autoencoder ([1509.00519](https://arxiv.org/abs/1509.00519))
# trains on the sum above with a few codes instead of one. `estimator="dreg"`
# ([1810.04152](https://arxiv.org/abs/1810.04152)) takes out noise from its gradient.

# %%
for k in (1, 8):
    one = kg.VAE(
        image_shape=(28, 28, 1),
        latent_dim=16,
        hidden_units=(200, 200),
        binarize="dynamic",
        importance_samples=k,
        estimator="dreg" if k > 1 else "reparameterized",
        seed=0,
    )
    one.compile()
    one.fit(images, batch_size=100, epochs=1 if FAST else 6, verbose=0)
    nats = one.log_likelihood(clothes, importance_samples=20 if FAST else 200)
    print(f"k = {k}: {nats.mean():.2f} nats a picture")

# %% [markdown]
# ## Saving and serving
#
# The `.keras` file opens on any backend. The SavedModel runs in TensorFlow with neither
# Keras nor this package: it encodes, decodes, reconstructs and generates (here from the
# mixture).

# %%
model.save("vae.keras")
loaded = kg.load_model("vae.keras")
print("loaded:", np.allclose(loaded.generate(8, seed=1), after[:8], atol=1e-5))
model.export("served/vae", overwrite=True)

# %%
import tensorflow as tf

served = tf.saved_model.load("served/vae")
print("signatures:", ", ".join(sorted(served.signatures)))
made = served.signatures["generate"](seed=tf.constant(1), n=tf.constant(20))
print("largest difference:", np.abs(made["images"].numpy() - after).max())
code = served.signatures["encode"](images=tf.constant(test_images[:1]))["mean"].numpy()
print("the code of the first test picture:", np.round(code[0], 1))

# %% [markdown]
# ## On
#
# - Grey and colour: `likelihood="discretized_logistic"` or `"gaussian"`, pictures in
#   [-1, 1], and `bits_per_dim`.
# - One meaning for each latent: `beta=4.0`, or `capacity=kg.vaes.KLWarmup(10_000,
#   end=25.0)` (1804.03599).
# - Your own networks: `kg.VAE(encoder, decoder, ...)`.
