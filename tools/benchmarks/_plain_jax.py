"""The networks of the comparisons in JAX alone, as its user writes them.

Functions of a dictionary that holds a network's tensors by diffusers' names (channels
last, kernels as JAX takes them), and a training loop's Adam. Nothing here knows Keras
or the package.
"""

from __future__ import annotations

import json
import math
import pathlib
import tempfile

import jax
import jax.numpy as jnp


def tensors_of(network):
    """`(tensors, configuration)` of what `network.save_pretrained` writes."""
    from safetensors.numpy import load_file

    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        folder = pathlib.Path(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        stored = load_file(folder / "diffusion_pytorch_model.safetensors")
    order = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
    tensors = {n: jnp.asarray(w.transpose(order[w.ndim])) for n, w in stored.items()}
    return tensors, config


class Blocks:
    """diffusers' image blocks over a dictionary of tensors.

    Args:
        tensors: name -> array.
        groups: of the group normalizations.
        epsilon: of those.
    """

    def __init__(self, tensors, groups, epsilon):
        self.tensors, self.groups, self.epsilon = tensors, groups, epsilon

    def dense(self, name, x):
        return x @ self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    def convolution(self, name, x, stride=1, padding="SAME"):
        kernel = self.tensors[f"{name}.weight"]
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + self.tensors[f"{name}.bias"]

    def norm(self, name, x):
        b, h, w, c = x.shape
        y = x.reshape(b, h * w, self.groups, c // self.groups)
        mean = y.mean((1, 3), keepdims=True)
        variance = y.var((1, 3), keepdims=True)
        y = ((y - mean) * jax.lax.rsqrt(variance + self.epsilon)).reshape(x.shape)
        return y * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    def resnet(self, name, x, embedding=None):
        y = self.convolution(
            f"{name}.conv1", jax.nn.silu(self.norm(f"{name}.norm1", x))
        )
        if embedding is not None:
            added = self.dense(f"{name}.time_emb_proj", jax.nn.silu(embedding))
            y = y + added[:, None, None]
        y = self.convolution(
            f"{name}.conv2", jax.nn.silu(self.norm(f"{name}.norm2", y))
        )
        if f"{name}.conv_shortcut.weight" in self.tensors:
            x = self.convolution(f"{name}.conv_shortcut", x)
        return x + y

    def attention(self, name, x):
        b, h, w, c = x.shape
        y = self.norm(f"{name}.group_norm", x).reshape(b, h * w, c)
        query, key, value = (
            self.dense(f"{name}.{part}", y) for part in ("to_q", "to_k", "to_v")
        )
        scores = jnp.einsum("btc,bsc->bts", query, key) / math.sqrt(c)
        y = self.dense(f"{name}.to_out.0", jax.nn.softmax(scores, -1) @ value)
        return x + y.reshape(x.shape)

    def down(self, name, x):
        x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
        return self.convolution(f"{name}.downsamplers.0.conv", x, 2, "VALID")

    def up(self, name, x):
        x = jnp.repeat(jnp.repeat(x, 2, 1), 2, 2)
        return self.convolution(f"{name}.upsamplers.0.conv", x)

    def out(self, x, norm):
        return self.convolution("conv_out", jax.nn.silu(self.norm(norm, x)))

    def has(self, name):
        return any(key.startswith(f"{name}.") for key in self.tensors)

    def stage(self, name, x, embedding=None, skips=None, kept=None):
        """A level's blocks: on the way down what they give is `kept`, on the way up
        the last of `skips` goes in beside."""
        number = 0
        while self.has(f"{name}.resnets.{number}"):
            if skips is not None:
                x = jnp.concatenate([x, skips.pop()], -1)
            x = self.resnet(f"{name}.resnets.{number}", x, embedding)
            if self.has(f"{name}.attentions.{number}"):
                x = self.attention(f"{name}.attentions.{number}", x)
            if kept is not None:
                kept.append(x)
            number += 1
        if self.has(f"{name}.downsamplers"):
            x = self.down(name, x)
            if kept is not None:
                kept.append(x)
        if self.has(f"{name}.upsamplers"):
            x = self.up(name, x)
        return x

    def middle(self, name, x, embedding=None):
        x = self.resnet(f"{name}.resnets.0", x, embedding)
        if self.has(f"{name}.attentions.0"):
            x = self.attention(f"{name}.attentions.0", x)
        return self.resnet(f"{name}.resnets.1", x, embedding)


def unet(tensors, config, x, t):
    """diffusers' `UNet2DModel`: `(B, H, W, C)` and times `(B,)` to `(B, H, W, C)`."""
    blocks = Blocks(tensors, config["norm_num_groups"], config["norm_eps"])
    half = config["block_out_channels"][0] // 2
    scale = math.log(10_000) / (half - config["freq_shift"])
    angles = t[:, None] * jnp.exp(-scale * jnp.arange(half))
    parts = [jnp.sin(angles), jnp.cos(angles)]
    embedding = jnp.concatenate(parts[::-1] if config["flip_sin_to_cos"] else parts, -1)
    embedding = jax.nn.silu(blocks.dense("time_embedding.linear_1", embedding))
    embedding = blocks.dense("time_embedding.linear_2", embedding)
    x = blocks.convolution("conv_in", x)
    skips = [x]
    for level in range(len(config["block_out_channels"])):
        x = blocks.stage(f"down_blocks.{level}", x, embedding, kept=skips)
    x = blocks.middle("mid_block", x, embedding)
    for level in range(len(config["block_out_channels"])):
        x = blocks.stage(f"up_blocks.{level}", x, embedding, skips)
    return blocks.out(x, "conv_norm_out")


def encoder(tensors, config, x):
    """The encoder of diffusers' `AutoencoderKL`: images to moments."""
    blocks = _autoencoder(tensors, config, "encoder")
    x = blocks.convolution("conv_in", x)
    for level in range(len(config["block_out_channels"])):
        x = blocks.stage(f"down_blocks.{level}", x)
    x = blocks.out(blocks.middle("mid_block", x), "conv_norm_out")
    return Blocks(tensors, 1, 0.0).convolution("quant_conv", x)


def decoder(tensors, config, z):
    """Its decoder: latents to images."""
    blocks = _autoencoder(tensors, config, "decoder")
    x = Blocks(tensors, 1, 0.0).convolution("post_quant_conv", z)
    x = blocks.middle("mid_block", blocks.convolution("conv_in", x))
    for level in range(len(config["block_out_channels"])):
        x = blocks.stage(f"up_blocks.{level}", x)
    return blocks.out(x, "conv_norm_out")


def _autoencoder(tensors, config, part):
    start = f"{part}."
    own = {n[len(start) :]: w for n, w in tensors.items() if n.startswith(start)}
    return Blocks(own, config["norm_num_groups"], 1e-6)


def adam_start(weights):
    """The state of `adam`."""
    first, second = (jax.tree.map(jnp.zeros_like, weights) for _ in range(2))
    return first, second, jnp.zeros(())


def adam(weights, gradients, state, rate, beta=0.9, epsilon=1e-8, clip=None):
    """One step of Adam (1412.6980, algorithm 1): `(weights, state)`."""
    if clip is not None:
        norm = jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(gradients)))
        factor = jnp.minimum(1.0, clip / norm)
        gradients = jax.tree.map(lambda g: g * factor, gradients)
    first, second, count = state
    count = count + 1
    first = jax.tree.map(lambda m, g: beta * m + (1 - beta) * g, first, gradients)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradients)
    rate = rate * jnp.sqrt(1 - 0.999**count) / (1 - beta**count)
    weights = jax.tree.map(
        lambda w, m, v: w - rate * m / (jnp.sqrt(v) + epsilon), weights, first, second
    )
    return weights, (first, second, count)
