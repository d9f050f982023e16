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
# # Pictures spelled with a small alphabet
#
# A text is a row of letters from a short alphabet. Can a picture be one? This notebook
# teaches two networks to spell 28 x 28 pictures of clothes with 49 signs out of 128:
# one writes the signs, the other makes the picture again from them, and the alphabet
# is learned together with both. A third network then learns which signs follow each
# other, and writes pictures of its own. That is how the first models that made pictures
# from text, and most that make sound, work inside.
#
# *Time: under five minutes on two CPU cores. What to expect: reconstructions that keep
# the shape and lose the print; samples of the class that was asked for about three
# times in four.*
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
# A balanced part of Fashion-MNIST comes with the package: nothing is downloaded.

# %%
(images, labels), (test_images, test_labels) = kg.datasets.load("fashion_mnist")
names = kg.datasets.class_names("fashion_mnist")
if FAST:
    images, labels = images[:320], labels[:320]
    test_images, test_labels = test_images[:60], test_labels[:60]
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
# ## The idea
#
# The *encoder* turns a picture $x$ into a grid of 7 x 7 vectors $z$. Each is replaced
# by the nearest of $K$ vectors $e_1 \dots e_K$, the *codebook*, and the *decoder* makes
# the picture again from those. What is kept of the picture is which vector stands
# where: 49 numbers. Van den Oord and others
# ([1711.00937](https://arxiv.org/abs/1711.00937), equation 3) minimise
#
# $$\lVert x - \hat{x}(e) \rVert^2
#   + \lVert \operatorname{sg}[z] - e \rVert^2
#   + \beta \lVert z - \operatorname{sg}[e] \rVert^2 ,$$
#
# where $\operatorname{sg}$ stops the gradient: the first term asks for a good picture,
# the second moves the codebook to the latents, the third ties the latents to the
# codebook. Three tricks make it work:
#
# - "The nearest" has no gradient. The decoder's gradient is handed to the encoder as if
#   the replacement had not happened: *straight through*.
# - The second term has an exact answer, the mean of the latents that chose a vector, so
#   the codebook simply follows running averages of them.
# - A vector that nobody chooses stays where it is for ever. Such a *dead* vector is put
#   onto a latent of the batch.

# %% [markdown]
# ## The networks
#
# `kg.VQVAE` builds the paper's: two strided convolutions, two residual blocks, and the
# same backwards. The paper's layers have 256 channels; 48 will do here.

# %%
filters = 8 if FAST else 48
model = kg.VQVAE((28, 28, 1), codebook_size=128, latent_dim=32, filters=filters, seed=0)
for network in (model.encoder, model.quantizer, model.decoder):
    print(f"{network.name:14} {network.count_params():9,} weights")
print("codes of a picture:", model.code_shape, "of", model.codebook_size)

# %% [markdown]
# ## Training, with pictures
#
# After each epoch the same ten test pictures go through the codes and back.

# %%
epochs = 2 if FAST else 5
steps = epochs * -(-len(images) // 64)
ten = np.stack([test_images[test_labels == k][0] for k in range(10)])
seen = [ten, model.reconstruct(ten)]
watch = keras.callbacks.LambdaCallback(
    on_epoch_end=lambda epoch, logs: seen.append(model.reconstruct(ten))
)
rate = keras.optimizers.schedules.CosineDecay(1e-3, steps)
model.compile(keras.optimizers.Adam(rate))
history = model.fit(
    images, batch_size=64, epochs=epochs, verbose=2, callbacks=[watch]
).history

# %% [markdown]
# The test pictures; the same before training, after the first epoch, after the last.

# %%
show(np.concatenate([seen[0], seen[1], seen[2], seen[-1]]))

# %% [markdown]
# ## Is the alphabet used?
#
# A codebook may be large and hardly used. The *perplexity* says how many letters of
# equal frequency would be as hard to guess as the codes are: 128 would be all of them,
# evenly. It is in the logs beside the losses.

# %%
scores = model.evaluate(test_images, batch_size=250, verbose=0, return_dict=True)
for name, value in scores.items():
    print(f"{name:16} {value:8.4f}")
codes = model.encode_indices(images)
counts = np.sort(np.bincount(codes.ravel(), minlength=128))[::-1]
plt.figure(figsize=(8, 2.5))
plt.bar(range(128), counts / counts.sum(), width=1.0)
plt.axhline(1 / 128, color="gray", linestyle=":")
plt.title("How often each code is used (dotted: all alike)")
plt.show()

# %% [markdown]
# ## The spelling of a picture
#
# Each colour is a code. The background has its own letters, and so have edges.

# %%
figure, axes = plt.subplots(3, 8, figsize=(12, 4.8))
eight = ten[[1, 7, 9, 8, 2, 0, 3, 5]]
written = model.encode_indices(eight)  # (8, 7, 7)
for column in range(8):
    axes[0, column].imshow(eight[column], cmap="gray", vmin=-1, vmax=1)
    axes[1, column].imshow(written[column], cmap="nipy_spectral", vmin=0, vmax=127)
    again = model.decode_indices(written[column : column + 1])[0]
    axes[2, column].imshow(again, cmap="gray", vmin=-1, vmax=1)
for axis in axes.ravel():
    axis.axis("off")
plt.tight_layout()
plt.show()
print("the trousers:\n", written[0])

# %% [markdown]
# Codes can be cut and pasted. Here are the upper rows of one picture over the lower
# rows of another; the decoder sews them together.

# %%
mixed = np.concatenate([written[[4, 5, 6, 4], :4], written[[0, 0, 0, 6], 4:]], axis=1)
show(model.decode_indices(mixed), columns=4, title="Upper and lower halves of two")

# %% [markdown]
# ## A network that writes
#
# Codes that are drawn without a thought make no picture. What is missing is which codes
# go together, the *prior* $p(c)$. A PixelCNN
# ([1606.05328](https://arxiv.org/abs/1606.05328)) writes it as a product, each code
# given those above it and to its left, and the class $y$:
#
# $$p(c \mid y) = \prod_{i=1}^{49} p(c_i \mid c_1, \dots, c_{i-1}, y).$$
#
# Its convolutions see what is already written and nothing else. It is a Keras model of
# its own; `fit_prior` encodes the pictures and calls its `fit`.

# %%
prior = kg.PixelCNN(
    model.code_shape,
    model.codebook_size,
    num_classes=10,
    filters=8 if FAST else 32,
    blocks=1 if FAST else 5,
    seed=0,
)
prior_epochs = 1 if FAST else 7
steps = prior_epochs * -(-len(images) // 64)
prior.compile(
    keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, steps))
)
prior_history = model.fit_prior(
    images,
    labels,
    prior=prior,
    batch_size=64,
    epochs=prior_epochs,
    verbose=2,
).history

# %% [markdown]
# The loss is in nats for each code; $\log 128 \approx 4.85$ would be a blind guess.

# %%
test_codes = model.encode_indices(test_images)
logs = prior.evaluate(
    test_codes, test_labels, batch_size=250, verbose=0, return_dict=True
)
entropy = -np.sum(counts / counts.sum() * np.log(np.maximum(counts, 1) / counts.sum()))
print(f"blind guess            {np.log(128):.2f} nats a code")
print(f"by their frequencies   {entropy:.2f}")
print(f"the prior, test        {logs['loss']:.2f}")
print(f"a test picture         {49 * logs['loss'] / np.log(2) / 8:.0f} bytes")

# %%
blind = np.random.default_rng(0).choice(codes.ravel(), (10, 7, 7))
show(model.decode_indices(blind), title="Codes drawn by their frequencies alone")

# %% [markdown]
# And codes that the prior writes, a row for each class that was asked for:

# %%
wanted = np.repeat(np.arange(10), 10)
samples = model.generate(labels=wanted, seed=1)
show(samples, title="Asked for: " + ", ".join(names))

# %% [markdown]
# A `temperature` under 1 makes the prior prefer what is most probable: cleaner, and
# more alike.

# %%
cool = model.generate(labels=wanted, seed=1, temperature=0.7)
show(cool, title="Temperature 0.7")

# %% [markdown]
# Sample $i$ depends on the seed and on $i$ alone, on every backend.

# %%
few = model.generate(labels=wanted[:8], seed=1)
print("the first eight are the same:", np.allclose(few, samples[:8], atol=1e-5))

# %% [markdown]
# ## How good is it?
#
# A classifier that the package brings (right on about 92 of 100 real test pictures)
# says whether a picture is of its class, for the reconstructions of the test pictures,
# which no prior can beat by much, and for samples. The Fréchet distance
# ([1706.08500](https://arxiv.org/abs/1706.08500)) of its features says how far the two
# sets are apart; the distance between two sets of real pictures is the floor.

# %%
features = kg.metrics.fashion_mnist_features()
judged, asked = test_images[:2000], test_labels[:2000]
real = features.predict(judged, verbose=0)


def judge(pictures):
    """(share that the classifier agrees with, Fréchet distance)."""
    agreement = kg.metrics.ClassAgreement(kg.metrics.fashion_mnist_classifier())
    agreement.update_generated(pictures, asked)
    distance = kg.metrics.fid(real, features.predict(pictures, verbose=0))
    return agreement.result()["class_agreement"], distance


floor = kg.metrics.fid(features.predict(images[: len(judged)], verbose=0), real)
rows = {
    "test pictures": (judge(judged)[0], floor),
    "reconstructed": judge(model.reconstruct(judged)),
    "samples": judge(model.generate(labels=asked, seed=2, batch_size=250)),
    "temperature 0.7": judge(
        model.generate(labels=asked, seed=2, batch_size=250, temperature=0.7)
    ),
}
print(f"{'':16} {'of its class':>12} {'FID':>8}")
for name, (share, distance) in rows.items():
    print(f"{name:16} {share:12.3f} {distance:8.2f}")

# %% [markdown]
# ## Other quantizers are an argument
#
# - *Residual* ([2107.03312](https://arxiv.org/abs/2107.03312)): a second codebook
#   spells what the first left over. Two stages of 128 tell 16,384 vectors apart.
# - *Finite scalar* ([2309.15505](https://arxiv.org/abs/2309.15505)): a few numbers,
#   each rounded to a few levels. No codebook is learned, and none can die.
# - *Gumbel* ([2102.12092](https://arxiv.org/abs/2102.12092), DALL-E's): the encoder
#   gives probabilities; a sharpening softmax of them with noise stands for the choice.
#
# Two short passes over 5,000 pictures each, beside the vectors of above. The softmax
# needs far longer than that (DALL-E's cooled for 150,000 steps) and has hardly begun to
# tell its codes apart.

# %%
part = images[:64] if FAST else images[::4]
steps = 2 * -(-len(part) // 64)
quantizers = {
    "vectors": kg.layers.VectorQuantizer(128, 32),
    "residual": kg.layers.ResidualVectorQuantizer(128, 32, stages=2),
    "finite scalar": kg.layers.FiniteScalarQuantizer((5, 5, 5)),
    "Gumbel": kg.layers.GumbelQuantizer(
        128, 32, temperature_steps=steps, kl_weight=1e-4, kl_steps=steps
    ),
}
rows = {}
for name, quantizer in quantizers.items():
    other = kg.VQVAE((28, 28, 1), quantizer, filters=48 if name != "Gumbel" else 16)
    other.compile(keras.optimizers.Adam(2e-3))
    other.fit(part, batch_size=64, epochs=2, verbose=0)
    rows[name] = other.evaluate(
        test_images[:1000], batch_size=250, verbose=0, return_dict=True
    )
for name, row in rows.items():
    print(
        f"{name:14} error {row['reconstruction']:.4f}   "
        f"perplexity {row['perplexity']:6.1f} of {quantizers[name].codebook_size}"
    )

# %% [markdown]
# ## Saving and serving
#
# A `.keras` file holds the networks, the codebook with its averages, the prior and both
# optimizers, and opens on any backend.

# %%
model.save("vqvae.keras")
loaded = kg.load_model("vqvae.keras")
print(
    "loaded:",
    np.allclose(
        loaded.generate(labels=[9], seed=0), model.generate(labels=[9], seed=0)
    ),
)

# %% [markdown]
# `export` writes a SavedModel that TensorFlow runs with neither Keras nor this package
# installed, whichever backend trained it: `encode`, `decode`, `reconstruct`, and
# `generate` with the whole loop over the codes inside.

# %%
model.export("served/vqvae", overwrite=True)

# %%
import tensorflow as tf

served = tf.saved_model.load("served/vqvae")
boots = served.signatures["generate"](
    seed=tf.constant(0), labels=tf.constant([9] * 10)
)["images"].numpy()
ours = model.generate(labels=[9] * 10, seed=0)
print("largest difference from model.generate:", np.abs(boots - ours).max())
sent = served.signatures["encode"](images=tf.constant(ten))["indices"].numpy()
print("the same codes:", np.array_equal(sent, model.encode_indices(ten)))
show(boots, title="Ankle boots, from the SavedModel")

# %% [markdown]
# ## On
#
# - Your own networks: `kg.VQVAE(..., encoder=..., decoder=...)`.
# - Sharper pictures: more codes (`num_downsamples=1`, or a residual quantizer), wider
#   layers, a longer training.
# - The prior is a model like any other: `model.prior.fit(codes, labels, ...)`.
