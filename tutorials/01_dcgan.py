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
# # Two networks that teach each other to draw
#
# A *generator* makes pictures from random numbers. A *discriminator* looks at pictures
# and says whether they are real. Each learns from the other's mistakes, until the
# pictures look like the real ones. This notebook trains such a pair on 20,000 pictures
# of clothes, watches it learn, measures how good it is, and leaves with a file that
# serves pictures.
#
# *Time: under five minutes on two CPU cores on TensorFlow or PyTorch. What to expect:
# about nine in ten of the final pictures are recognised as what was asked for.*
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

import keras
import matplotlib.pyplot as plt
import numpy as np

FAST = bool(os.environ.get("KG_FAST"))  # few steps, to check that the cells run
print("Keras", keras.__version__, "on", keras.backend.backend())

# %% [markdown]
# ## The pictures
#
# A balanced part of Fashion-MNIST comes with the package: nothing is downloaded. Pixels
# are in [-1, 1], which is what a generator that ends in tanh makes.

# %%
(images, labels), (test_images, test_labels) = kg.datasets.load("fashion_mnist")
names = kg.datasets.class_names("fashion_mnist")
if FAST:
    images, labels = images[:1280], labels[:1280]
    test_images, test_labels = test_images[:500], test_labels[:500]
print(images.shape, images.dtype, images.min(), images.max())


def show(pictures, columns=10, title=None):
    """A grid of pictures."""
    grid = kg.callbacks.image_grid(pictures, columns=columns, scale=2)
    plt.figure(figsize=(grid.shape[1] / 75, grid.shape[0] / 75))
    plt.imshow(grid.squeeze(), cmap="gray", vmin=0, vmax=255)
    plt.axis("off")
    if title:
        plt.title(title)
    plt.show()


real = np.concatenate([images[labels == k][:10] for k in range(10)])
show(real, title="Real: a row for each class")

# %% [markdown]
# ## The game
#
# The generator $G$ turns a vector of normal numbers $z$ into a picture; the
# discriminator $D$ gives a number, high for real. Goodfellow and others
# ([1406.2661](https://arxiv.org/abs/1406.2661), equation 1) let them play
#
# $$\min_G \max_D \;\; \mathbb{E}_{x}\big[\log D(x)\big]
#   + \mathbb{E}_{z}\big[\log\big(1 - D(G(z))\big)\big].$$
#
# When $D$ is sure of itself, $\log(1 - D(G(z)))$ is flat and $G$ learns nothing. So $G$
# maximises $\log D(G(z))$ instead: the *non-saturating* loss, the default here. Two
# networks that chase each other can run in circles; a small penalty on how steep $D$ is
# at real pictures,
#
# $$R_1 = \tfrac{\gamma}{2}\; \mathbb{E}_{x}\,\lVert \nabla_x D(x) \rVert^2$$
#
# ([1801.04406](https://arxiv.org/abs/1801.04406), equation 9), makes them settle. It is
# a gradient inside a loss, so a gradient of a gradient; computing it on every 16th step
# only ([1912.04958](https://arxiv.org/abs/1912.04958)) costs almost nothing.

# %% [markdown]
# ## The networks
#
# `kg.DCGAN` builds the convolutional pair of [1511.06434](https://arxiv.org/abs/1511.06434);
# `kg.CGAN` is the same pair told which class to draw: the generator by a batch
# normalization whose gain and offset belong to the class, the discriminator by a
# projection ([1802.05637](https://arxiv.org/abs/1802.05637)). An average of the
# generator's weights over time is kept beside it and draws the samples.

# %%
model = kg.CGAN(
    image_shape=(28, 28, 1),
    num_classes=10,
    latent_dim=64,
    base_filters=32,
    discriminator_filters=48,
    generator_conditioning=("concatenation", "conditional_batch_norm"),
    discriminator_conditioning="projection",
    discriminator_normalization=None,
    initialization="glorot_uniform",
    penalties={"r1": 0.5},
    penalty_interval=16,
    ema_decay=0.998,
    seed=0,
)
for player, network in model.players.items():
    print(f"{player:14} {network.count_params():9,} weights")

# %% [markdown]
# Each player has its own optimizer. Both learning rates fall to zero with the square
# root of the steps that are left.

# %%
epochs = 2 if FAST else 6
steps = epochs * -(-len(images) // 64)


def adam():
    rate = keras.optimizers.schedules.PolynomialDecay(2e-3, steps, 0.0, power=0.5)
    return keras.optimizers.Adam(rate, beta_1=0.0, beta_2=0.99)


model.compile(generator_optimizer=adam(), discriminator_optimizer=adam())

# %% [markdown]
# ## Training, with pictures
#
# `fit` is Keras's own. `ImageGrid` draws the same latents after each epoch,
# `TensorBoard` writes losses and grids (`tensorboard --logdir logs`), and `Resume`
# keeps the run: if this notebook dies, run it again and training goes on in mid-epoch,
# to the very weights that the unbroken run would have had.

# %%
wanted = np.repeat(np.arange(10), 10)
grids = kg.callbacks.ImageGrid("logs", labels=wanted, columns=10, inline=False)
history = model.fit(
    images,
    labels,
    batch_size=64,
    epochs=epochs,
    verbose=2,
    callbacks=[
        grids,
        kg.callbacks.TensorBoard("logs"),
        kg.callbacks.Resume("logs/run.npz"),
    ],
)

# %% [markdown]
# The same latents before training, after the first epoch and after the last.

# %%
import pathlib

files = sorted(pathlib.Path(grids.run_folder).glob("epoch-*.png"))
chosen = [files[0], files[1], files[-1]]
figure, axes = plt.subplots(1, 3, figsize=(15, 5))
for axis, file in zip(axes, chosen, strict=True):
    axis.imshow(plt.imread(file), cmap="gray")
    axis.set_title(file.stem)
    axis.axis("off")
plt.tight_layout()
plt.show()

# %% [markdown]
# The losses say little about the pictures: both players become better at the same time.
# A discriminator's loss that stays near $2 \log 2 \approx 1.39$ means a fair game.

# %%
for name in ("discriminator_loss", "generator_loss"):
    plt.plot(range(1, epochs + 1), history.history[name], marker="o", label=name)
plt.axhline(2 * np.log(2), color="gray", linestyle=":", label="2 log 2")
plt.xlabel("epoch")
plt.legend()
plt.show()

# %% [markdown]
# ## Drawing what was asked for

# %%
samples = model.generate(labels=wanted, seed=1)
show(samples, title="Asked for: " + ", ".join(names))

# %% [markdown]
# Sample $i$ depends on the seed and on $i$ alone, on every backend.

# %%
eight = model.generate(labels=wanted[:8], seed=1)
print("the first eight are the same:", np.allclose(eight, samples[:8], atol=1e-5))

# %% [markdown]
# ## How good is it?
#
# Two questions. *Is each picture what was asked for?* A classifier that the package
# brings (it is right on about 92 of 100 real test pictures) looks at them. *Are they as
# varied and as real as the test pictures?* The Fréchet distance
# ([1706.08500](https://arxiv.org/abs/1706.08500)) compares mean $\mu$ and covariance
# $\Sigma$ of that classifier's features,
#
# $$\lVert \mu_r - \mu_g \rVert^2
#   + \operatorname{Tr}\big(\Sigma_r + \Sigma_g - 2 (\Sigma_r \Sigma_g)^{1/2}\big).$$
#
# It is never zero for two finite sets, so the distance between two sets of *real*
# pictures stands beside it as the floor.

# %%
features = kg.metrics.fashion_mnist_features()
judges = [
    kg.metrics.ClassAgreement(kg.metrics.fashion_mnist_classifier()),
    kg.metrics.FID(features),
    kg.metrics.PrecisionRecall(features),
]
result = kg.metrics.evaluate(model, judges, test_images, test_labels, seed=2)
floor = kg.metrics.fid(
    features.predict(images[: len(test_images)], verbose=0),
    features.predict(test_images, verbose=0),
)
for name, value in result.items():
    print(f"{name:16} {value:8.3f}")
print(f"{'fid, real/real':16} {floor:8.3f}")

# %% [markdown]
# ## Saving and serving
#
# A `.keras` file holds everything: weights, average, both optimizers and the state of
# the noise, and opens on any backend.

# %%
model.save("cgan.keras")
loaded = kg.load_model("cgan.keras")
print(
    "loaded:",
    np.allclose(
        loaded.generate(labels=[9], seed=0), model.generate(labels=[9], seed=0)
    ),
)

# %% [markdown]
# `export` writes the sampler as a SavedModel that TensorFlow runs with neither Keras
# nor this package installed, whichever backend trained it.

# %%
model.export("served/cgan", overwrite=True)

# %%
import tensorflow as tf

served = tf.saved_model.load("served/cgan")
boots = served.signatures["generate"](
    seed=tf.constant(0), labels=tf.constant([9] * 10)
)["images"].numpy()
ours = model.generate(labels=[9] * 10, seed=0)
print("largest difference from model.generate:", np.abs(boots - ours).max())
show(boots, title="Ankle boots, from the SavedModel")

# %% [markdown]
# ## On
#
# - Another loss is an argument: `loss="hinge"`, `"wasserstein"`, `"least_squares"`.
# - Your own networks: `kg.CGAN(..., generator=..., discriminator=...)`.
# - Small data: `augment=kg.gans.DiffAugment()` (2006.10738).
# - Several devices: see the README.
