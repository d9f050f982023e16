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
# # What a network sees
#
# A network that tells a shoe from a shirt has learned what shoes and shirts are made
# of: edges, then textures, then parts. None of it was told to it. This notebook looks
# inside, in four ways: at what a layer says of a picture, at the picture that a feature
# would like best, at where in a picture the answer comes from, and at the dream, the
# picture that comes out when the network may change what it sees.
#
# *Time: about one minute on two CPU cores, three on JAX. What to expect: features of a
# small network for clothes; with a fetched network of photographs, the dreams that the
# method is known for.*
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
# ## A convolution
#
# A convolution slides one small window of weights $w$ over the whole picture $x$:
#
# $$y_{i, j} = b + \sum_{u, v} w_{u, v} \, x_{i + u, \, j + v} .$$
#
# With weights chosen by hand it finds edges. Here is a window that is bright on the
# left and dark on the right, and the same turned.

# %%
(images, labels), (test_images, test_labels) = kg.datasets.load("fashion_mnist")
names = kg.datasets.class_names("fashion_mnist")


def show(pictures, columns=10, title=None, scale=None, value_range=(-1, 1)):
    """A grid of pictures."""
    grid = kg.callbacks.image_grid(
        np.asarray(pictures), columns, scale, value_range=value_range
    )
    plt.figure(figsize=(min(12, grid.shape[1] / 75), min(9, grid.shape[0] / 75)))
    plt.imshow(grid)
    plt.axis("off")
    if title:
        plt.title(title)
    plt.show()


across = np.array([[1, 0, -1], [2, 0, -2], [1, 0, -1]], "float32") / 4
sliding_window = np.stack([across, across.T], -1)[:, :, None]  # (3, 3, 1, 2)
clothes = np.stack([test_images[test_labels == k][3] for k in range(10)])
edges = keras.ops.convert_to_numpy(
    keras.ops.conv(clothes, sliding_window, padding="same")
)
rows = [clothes, edges[..., :1], edges[..., 1:]]
show(np.concatenate(rows), title="Clothes; edges across; edges down", scale=2)

# %% [markdown]
# ## A network that learns its windows
#
# `kg.CNN` is the textbook's network: convolution, rectifier, maximum of each 2 x 2,
# three times over, and two dense layers. It trains as every Keras model does. The
# package also brings one that was trained for longer, which the rest of this part uses.

# %%
model = kg.CNN((28, 28, 1), 10, seed=0)
model.compile()
some = 512 if FAST else 6400
model.fit(images[:some], labels[:some], batch_size=64, epochs=1, verbose=2)
logs = model.evaluate(test_images[:1000], test_labels[:1000], verbose=0)
print("loss and accuracy on test pictures after one epoch:", np.round(logs, 3))

# %%
cnn = kg.CNN.from_pretrained("fashion_mnist")
found = cnn.predict(test_images[:1000], verbose=0).argmax(-1)
print("accuracy of the packaged one:", (found == test_labels[:1000]).mean())

# %% [markdown]
# What its layers say of a boot. The first still looks like the picture; the third
# says where parts are.

# %%
boot = clothes[9]
for layer in ("conv_0", "conv_1", "conv_2"):
    maps = kg.dream.feature_maps(cnn, layer, boot)
    order, means = kg.dream.rank_channels(cnn, layer, boot, top=20)
    plt.figure(figsize=(9, 2))
    plt.imshow(kg.dream.feature_grid(maps, order, columns=10))
    plt.axis("off")
    plt.title(f"{layer}: the 20 channels that say the most, {maps.shape}")
    plt.show()

# %% [markdown]
# ## What a feature looks for
#
# Turn the question around: which picture $x$ makes a channel large? Begin with noise
# and follow the gradient,
#
# $$x \leftarrow x + \eta \, \nabla_x \, a_k(x) .$$
#
# Done on pixels, this ends in fine noise. Two things help
# ([Olah and others, 2017](https://distill.pub/2017/feature-visualization)): the picture
# is a sum of waves, each as large as in photographs, and it is turned, zoomed and moved
# a little before every step.

# %%
steps = 8 if FAST else 100
settings = {"size": (48, 48), "steps": steps, "move": 3, "verbose": 0}
for layer, channels in (("conv_1", range(8)), ("conv_3", range(8))):
    pictures = [
        kg.dream.visualize(cnn, kg.dream.Channel(layer, k), **settings)[0]
        for k in channels
    ]
    show(pictures, title=f"{layer}, channels 0 to 7", columns=8, scale=2)

# %% [markdown]
# The same for a class is the oldest form of it
# ([1312.6034](https://arxiv.org/abs/1312.6034)), and what `generate` of a classifier
# does: pictures that it is surest of. They are not pictures of clothes: it knows what
# tells clothes apart, not what clothes look like.

# %%
show(cnn.generate(labels=range(10), seed=0), title=", ".join(names))

# %% [markdown]
# ## Why?
#
# Three answers to why a picture was given its name. *Saliency*: how much each pixel
# moves the answer. *Grad-CAM* ([1610.02391](https://arxiv.org/abs/1610.02391)): where
# the features are that speak for it. *Occlusion*
# ([1311.2901](https://arxiv.org/abs/1311.2901)): how much less sure the network is when
# a part is covered. They ask different things, and need not agree: the first is grain
# in so small a network, the second sees no finer than the last layer's 7 x 7 cells, the
# third is the easiest to believe.

# %%
six = clothes[[0, 1, 3, 5, 8, 9]]
saliency = kg.dream.saliency(cnn, six)
cam = kg.dream.grad_cam(cnn, six)
covered = np.stack([kg.dream.occlusion(cnn, x, size=8, stride=2) for x in six])


def unit(maps):
    """Each map from 0 to 1, as pictures."""
    maps = maps - maps.min(axis=(1, 2), keepdims=True)
    return 2 * (maps / np.maximum(maps.max(axis=(1, 2), keepdims=True), 1e-9)) - 1


rows = [six, *(unit(maps)[..., None] for maps in (saliency, cam, covered))]
show(np.concatenate(rows), columns=6, title="picture, saliency, Grad-CAM, occlusion")

# %% [markdown]
# ## The dream
#
# Begin with a picture in place of noise, climb what a layer says *already*
# ($\sum a^2$), and it grows what it sees. DeepDream does it at several sizes
# (octaves), small first, and puts the picture's own detail back each time.

# %%
rows = [clothes]
for layer in ("conv_0", "conv_1", "conv_2", "conv_3"):
    dreamer = kg.DeepDream(
        cnn,
        {layer: 1.0},
        octaves=2,
        octave_scale=1.3,
        steps=10,
        step_size=0.05,
        jitter=2,
    )
    rows.append(dreamer.dream(clothes, verbose=0))
    values = dreamer.measure(rows[0]).mean(), dreamer.measure(rows[-1]).mean()
    print(f"{layer}: what is climbed, from {values[0]:.3f} to {values[1]:.3f}")
show(np.concatenate(rows), title="The clothes, and dreams of four layers")

# %% [markdown]
# ## Photographs
#
# A network of photographs dreams of more. `python tools/fetch_data.py mobilenet_v2
# photographs` fetches one (13 MB) and three pictures; any network of
# `keras.applications` will do as well. Where neither is here, the cells below are
# skipped.

# %%
try:
    photographs = kg.datasets.photographs()
    network = kg.dream.load("mobilenet_v2")
except FileNotFoundError as error:
    print(error)
    network = None

# %%
if network is not None:
    classes = kg.dream.imagenet_classes()
    side = 128 if FAST else 224

    def square(picture, side):
        """The middle of a picture."""
        short = min(picture.shape[:2])
        top, left = ((n - short) // 2 for n in picture.shape[:2])
        box = (top, left, top + short, left + short)
        return kg.dream.pictures.resize(picture[None], side, side, box)[0]

    three = np.stack([square(p, side) for p in photographs.values()])
    logits = keras.ops.convert_to_numpy(network(three))
    for name, row in zip(photographs, logits, strict=True):
        best = np.argsort(-row)[:3]
        print(f"{name:10}", ", ".join(classes[k] for k in best))
    heat = kg.dream.grad_cam(network, three)[..., None]
    show(np.concatenate([three, 2 * (0.25 + 0.75 * heat) * (three + 1) / 2 - 1]), 3)

# %% [markdown]
# By layer: the early ones see strokes, the middle ones textures, the late ones parts of
# things.

# %%
if network is not None:
    cat = square(photographs["chelsea"], 128 if FAST else 256)
    few = 2 if FAST else 10
    dreams = [cat]
    for layer in ("block_3", "block_7", "block_13"):
        dreamer = kg.DeepDream(
            network, {layer: 1.0}, octaves=3, steps=few, step_size=0.04, smoothing=0.7
        )
        dreams.append(dreamer.dream(cat, verbose=0))
        print(layer, *(f"{values[-1] / values[0]:.1f}" for values in dreamer.history))
    show(dreams, columns=2, scale=1, title="The cat; block_3, block_7, block_13")

# %% [markdown]
# By octave: each more makes the forms larger beside the small ones. Keeping the
# picture's colours leaves the dream its brightness alone.

# %%
if network is not None:
    dreamer = kg.DeepDream(
        network, {"block_10": 1.0}, steps=few, step_size=0.04, smoothing=0.7
    )
    dreams = [dreamer.dream(cat, octaves=n, verbose=0) for n in (1, 2, 4)]
    kept = kg.DeepDream(
        network, {"block_10": 1.0}, steps=few, step_size=0.04, keep_colors=True
    )
    show(
        [*dreams, kept.dream(cat, verbose=0)], columns=2, scale=1, title="1, 2, 4; kept"
    )

# %% [markdown]
# The features of another picture can lead the dream (`Guided`), and so can a class
# (`Logit`). A fall into the dream is a film: each frame is the dream of the middle of
# the last.

# %%
if network is not None:
    coffee = square(photographs["coffee"], cat.shape[0])
    guided = kg.DeepDream(
        network,
        objectives=kg.dream.Guided("block_10", coffee),
        steps=few,
        step_size=0.04,
    )
    show(
        [cat, coffee, guided.dream(cat, verbose=0)],
        3,
        scale=1,
        title="guided by coffee",
    )
    film = dreamer.zoom(
        cat, 2 if FAST else 8, 1.06, octaves=2, steps=few // 2, verbose=0
    )
    kg.callbacks.save_animation("fall.gif", film)
    show(film[:: max(1, len(film) // 4)], 4, scale=1, title="fall.gif")

# %% [markdown]
# ## Style
#
# Two pictures have the same style where the products of their features are the same on
# the average ([1508.06576](https://arxiv.org/abs/1508.06576)). The same ascent, from
# the content towards the style. Two layers of a small network know little of a
# pullover: that it is bright, smooth and has upright lines. A network of photographs
# knows more, brush strokes for one.

# %%
painted = kg.dream.style_transfer(
    cnn, clothes[9], clothes[2], "conv_1", ["conv_0", "conv_1"], steps=steps, verbose=0
)
show([clothes[9], clothes[2], painted], 3, title="Boot, pullover, boot in its style")

# %% [markdown]
# ## Saving and serving
#
# A dreamer is saved with its network, and `export` writes all steps of one octave as
# one SavedModel, which TensorFlow runs with neither Keras nor this package installed.
# Rounding errors grow from step to step where a pixel's gradient is nearly zero, so
# that single pixels may differ by a step; the pictures are the same.

# %%
dreamer = kg.DeepDream(
    cnn, {"conv_2": 1.0}, octaves=1, steps=10, step_size=0.05, jitter=2
)
dreamer.save("dreamer.keras")
loaded = kg.load_model("dreamer.keras")
ours = dreamer.dream(clothes, verbose=0)
print("loaded:", np.allclose(loaded.dream(clothes, verbose=0), ours, atol=1e-3))
dreamer.export("served/dream", overwrite=True)

# %%
import tensorflow as tf

served = tf.saved_model.load("served/dream")
dreams = served.signatures["octave"](images=tf.constant(clothes), seed=tf.constant(0))[
    "images"
].numpy()
apart = np.abs(dreams - ours)
print(f"apart from dreamer.dream: at most {apart.max():.3f}, mean {apart.mean():.1e}")
show(dreams, title="Dreams of conv_2, from the SavedModel")

# %% [markdown]
# ## On
#
# - A large picture is climbed in parts: `kg.DeepDream(..., tile=512)` takes the memory
#   of 512 x 512 whatever the picture.
# - Other networks: `kg.dream.load("inception_v3")`, the network of the first dreams;
#   `"vgg16"`, the network of style transfer; `"resnet50"`.
# - Directions between features: `kg.dream.Direction(layer, vector)`.
