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
# # Pictures out of noise
#
# Add a little noise to a picture, again and again, until nothing of it can be seen. A
# network that can take a little noise *away* can walk back: begin with nothing but
# noise, and end with a picture that nobody has taken. That is how the image generators
# of today work. This notebook trains one on 28 x 28 pictures of clothes, asks it for
# the kind it should make, and lets it repair pictures that are torn.
#
# *Time: six to nine minutes on two CPU cores. What to expect: clothes that are mostly
# of the kind asked for but ragged at the edges; published models of this kind train a
# thousand times longer.*
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
# ## The pictures
#
# A balanced part of Fashion-MNIST comes with the package: nothing is downloaded. Half
# of it will do for the time that there is.

# %%
(images, labels), (test_images, test_labels) = kg.datasets.load("fashion_mnist")
names = kg.datasets.class_names("fashion_mnist")
images, labels = images[::2], labels[::2]
if FAST:
    images, labels = images[:256], labels[:256]
    test_images, test_labels = test_images[:50], test_labels[:50]
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


# %% [markdown]
# ## From a picture to noise
#
# A *schedule* says how much of the picture is left at time $t$ and how much noise there
# is ([2006.11239](https://arxiv.org/abs/2006.11239), equation 4):
#
# $$x_t = \alpha_t \, x_0 + \sigma_t \, \epsilon, \qquad \epsilon \sim N(0, 1),
#   \qquad \alpha_t^2 + \sigma_t^2 = 1 .$$
#
# The *cosine* schedule ([2102.09672](https://arxiv.org/abs/2102.09672)) has a thousand
# times and spends them evenly between much noise and little.

# %%
schedule = kg.schedules.get("cosine")
t = np.arange(1000)
plt.figure(figsize=(6, 2.5))
plt.plot(t, schedule.alpha(t), label=r"$\alpha_t$, of the picture")
plt.plot(t, schedule.sigma(t), label=r"$\sigma_t$, of the noise")
plt.xlabel("t")
plt.legend()
plt.show()

# %%
times = np.linspace(0, 999, 10).astype("int32")
three = test_images[[0, 1, 2]]
noise = np.random.default_rng(0).normal(size=(3, 28, 28, 1)).astype("float32")
rows = [
    schedule.add_noise(np.repeat(x[None], 10, 0), np.repeat(z[None], 10, 0), times)
    for x, z in zip(three, noise, strict=True)
]
rows = keras.ops.convert_to_numpy(keras.ops.concatenate(rows))
show(np.clip(rows, -1, 1), title="Three pictures at ten times, from 0 to 999")

# %% [markdown]
# ## The network and its loss
#
# A U-Net sees the noisy picture $x_t$, the time, and which kind of clothes it is. What
# should it say? The noise $\epsilon$ (equation 14 of the paper), or the picture, or
# what is used here, a mixture of both that is well scaled at every time
# ([2202.00512](https://arxiv.org/abs/2202.00512)):
#
# $$L = \mathbb{E}_{x_0, \epsilon, t} \lVert v - v_\theta(x_t, t, y) \rVert^2,
#   \qquad v = \alpha_t \epsilon - \sigma_t x_0 .$$
#
# In one picture out of ten the kind $y$ is left out, so that the network also learns
# what clothes look like in general: guidance will need that.

# %%
unet = kg.UNet(
    (28, 28, 1),
    block_channels=(8,) if FAST else (16, 32, 64),
    layers_per_block=1,
    attention=False if FAST else (False, False, True),
    groups=8,
    num_classes=10,
    seed=0,
)
model = kg.DDPM(unet, schedule, parameterization="v", ema_decay=0.995, seed=0)
print(f"{unet.count_params():,} weights")

# %% [markdown]
# ## Training, with pictures
#
# After each epoch ten samples are drawn from the same noise.

# %%
epochs = 1 if FAST else 4
steps = epochs * -(-len(images) // 64)
kinds = np.arange(10)
seen = []
watch = keras.callbacks.LambdaCallback(
    on_epoch_end=lambda epoch, logs: seen.append(
        model.generate(labels=kinds, seed=0, num_steps=20)
    )
)
rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
model.compile(keras.optimizers.Adam(rate, global_clipnorm=1.0))
started = time.monotonic()
history = model.fit(
    images, labels, batch_size=64, epochs=epochs, verbose=2, callbacks=[watch]
).history
print(f"{time.monotonic() - started:.0f} s")

# %%
show(np.concatenate(seen), title="A row for each epoch")

# %% [markdown]
# ## Where is it hard?
#
# `evaluate` judges the network at each quarter of the times, from little noise (0 to
# 25 % of the way) to much. The average over the quarters is the loss.

# %%
logs = model.evaluate(
    test_images[:1000], test_labels[:1000], batch_size=250, verbose=0, return_dict=True
)
for name, value in logs.items():
    print(f"{name:14} {value:.4f}")

# %% [markdown]
# ## How many steps?
#
# The walk from noise to picture follows a differential equation, and a *sampler* solves
# it in steps, each a call of the network. Tutorial 05 is about these. Here are the same
# ten samples by DDIM ([2010.02502](https://arxiv.org/abs/2010.02502)) in 2, 5, 10, 20
# and 50 steps: the picture is there early, the rest is finish.

# %%
counts = (2,) if FAST else (2, 5, 10, 20, 50)
by_steps = [model.generate(labels=kinds, seed=1, num_steps=n) for n in counts]
show(np.concatenate(by_steps), title=f"{counts} steps of DDIM")

# %% [markdown]
# A sampler of higher order ([2211.01095](https://arxiv.org/abs/2211.01095)) gets there
# in fewer. How far is each from its own 100 steps?

# %%
print("steps  ddim    dpmpp_2m")
far = {}
exact = model.generate(labels=kinds, seed=1, num_steps=20 if FAST else 100)
for n in counts:
    row = [
        np.sqrt(
            np.mean(
                (model.generate(labels=kinds, seed=1, num_steps=n, sampler=s) - exact)
                ** 2
            )
        )
        for s in ("ddim", "dpmpp_2m")
    ]
    print(f"{n:5}  {row[0]:.4f}  {row[1]:.4f}")

# %% [markdown]
# ## Guidance
#
# *Classifier-free guidance* ([2207.12598](https://arxiv.org/abs/2207.12598)) asks the
# network twice, with the kind and without, and goes further in the direction of the
# difference:
#
# $$\hat{x} = \hat{x}_\theta(x_t) + w \,
#   \bigl( \hat{x}_\theta(x_t, y) - \hat{x}_\theta(x_t) \bigr) .$$
#
# $w = 1$ is no guidance. More is more typical of its kind, and less varied; far too
# much (the last row) burns the picture. No scale compiles anything anew: it is an input
# of the loop.

# %%
scales = (2.0,) if FAST else (1.0, 2.0, 4.0, 8.0)
bags = np.full(10, names.index("Bag"))
by_scale = [
    model.generate(labels=bags, seed=2, num_steps=20, guidance_scale=w) for w in scales
]
show(np.concatenate(by_scale), title=f"Bags, w = {scales}")

# %% [markdown]
# A classifier that the package brings (right on about 92 of 100 real test pictures)
# says whether a sample is of the kind that was asked for. The Fréchet distance
# ([1706.08500](https://arxiv.org/abs/1706.08500)) of its features says how far the
# samples as a whole are from real pictures; two sets of real pictures give the floor.

# %%
features = kg.metrics.fashion_mnist_features()
judged, asked = test_images[:500], test_labels[:500]
real = features.predict(judged, verbose=0)


def judge(pictures):
    """(share that the classifier agrees with, Fréchet distance)."""
    agreement = kg.metrics.ClassAgreement(kg.metrics.fashion_mnist_classifier())
    agreement.update_generated(pictures, asked)
    distance = kg.metrics.fid(real, features.predict(pictures, verbose=0))
    return agreement.result()["class_agreement"], distance


floor = kg.metrics.fid(features.predict(images[: len(judged)], verbose=0), real)
print(f"{'':14} {'of its kind':>12} {'FID':>8}")
print(f"{'test pictures':14} {judge(judged)[0]:12.3f} {floor:8.2f}")
samples = {}
for w in (2.0,) if FAST else (1.0, 2.0, 4.0):
    samples[w] = model.generate(
        labels=asked,
        seed=3,
        num_steps=10,
        sampler="dpmpp_2m",
        guidance_scale=w,
        batch_size=250,
    )
    share, distance = judge(samples[w])
    print(f"{f'w = {w}':14} {share:12.3f} {distance:8.2f}")

# %%
order = np.argsort(asked, kind="stable")
show(samples[2.0][order][:: max(1, len(order) // 100)][:100], title="w = 2")

# %% [markdown]
# ## Repairing a picture
#
# The same network, with nothing learned anew, paints what is missing
# ([2201.09865](https://arxiv.org/abs/2201.09865)): at every step the known part is put
# back, as noisy as the rest, and each stretch of the way is walked several times so
# that both fit each other.

# %%
mask = np.zeros((28, 28), bool)
mask[:, 14:] = True  # True: paint here
torn = np.stack([test_images[test_labels == k][1] for k in range(10)])
mended = [
    model.inpaint(
        torn,
        mask,
        seed=seed,
        labels=kinds,
        num_steps=10 if FAST else 50,
        jump_length=5,
        resamplings=2 if FAST else 4,
    )
    for seed in (0, 1)
]
show(np.concatenate([torn, np.where(mask[..., None], -1.0, torn), *mended]))

# %% [markdown]
# ## From picture to picture
#
# A little noise keeps the layout and changes the rest
# ([2108.01073](https://arxiv.org/abs/2108.01073)); the `strength` is the share of the
# way that is gone back. From each picture, another of its kind:

# %%
others = [
    model.img2img(torn, strength, seed=4, labels=kinds, num_steps=20)
    for strength in ((0.2, 0.8) if FAST else (0.2, 0.4, 0.6, 0.8))
]
show(np.concatenate([torn, *others]), title="strength 0 (the picture), 0.2, ... 0.8")

# %% [markdown]
# DDIM can be walked backwards: `invert` finds the noise that a picture comes from, and
# between two noises there is a way through pictures.

# %%
way = model.interpolate(torn[7], torn[9], n=10, num_steps=10 if FAST else 50)
show(way, title="From a sneaker to an ankle boot")

# %% [markdown]
# ## Saving and serving
#
# A `.keras` file holds the network, its average and the optimizer, and opens on any
# backend; `model.save_pretrained(folder)` writes what diffusers reads.

# %%
model.save("ddpm.keras")
loaded = kg.load_model("ddpm.keras")
same = loaded.generate(labels=kinds, seed=0, num_steps=5)
ours = model.generate(labels=kinds, seed=0, num_steps=5)
print("loaded:", np.allclose(same, ours, atol=1e-5))

# %% [markdown]
# `export` writes the whole walk as one SavedModel, with guidance in it, that TensorFlow
# runs with neither Keras nor this package installed. It holds the model's own sampler
# and number of steps.

# %%
model.sampler, model.num_steps = "dpmpp_2m", 15
model.export("served/ddpm", overwrite=True)

# %%
import tensorflow as tf

served = tf.saved_model.load("served/ddpm")
boots = served.signatures["generate"](
    seed=tf.constant(0),
    labels=tf.constant([9] * 10),
    guidance_scale=tf.constant(1.5),
)["images"].numpy()
ours = model.generate(labels=[9] * 10, seed=0, guidance_scale=1.5)
print("largest difference from model.generate:", np.abs(boots - ours).max())
show(boots, title="Ankle boots, from the SavedModel")

# %% [markdown]
# ## On
#
# - The transformer in the U-Net's place: `kg.DDPM(kg.DiT((28, 28, 1), patch_size=4,
#   num_layers=6, hidden_dim=192, num_heads=3, num_classes=10), ...)`.
# - A flow: `kg.DDPM(network, "rectified_flow", "flow", time_sampling="logit_normal")`.
# - Published weights: `kg.DDPM.from_pretrained("google/ddpm-cifar10-32")`.
# - What a sampler is, and how fast it converges: tutorial 05.
