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
# # Walking from noise to data
#
# A diffusion model learns one thing: from a noisy sample, a guess of the clean one.
# Everything else (how many steps to take, which way, with or without fresh noise, how
# strongly to follow a label) is decided afterwards, by a *sampler* and by *guidance*.
# This notebook trains nothing. Its data is a mixture of Gaussians, for which the
# perfect guess is a formula, so that whatever goes wrong is the sampler's doing, and
# can be measured.
#
# *Time: under a minute on two CPU cores. What to expect: errors that fall with the
# number of steps as theory says, and a likelihood right to three digits.*
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
from keras import ops

FAST = bool(os.environ.get("KG_FAST"))  # few steps, to check that the cells run
print("Keras", keras.__version__, "on", keras.backend.backend())

# %% [markdown]
# ## Data with a known answer
#
# Noise is added as $x_t = \alpha(t)\, x_0 + \sigma(t)\, \varepsilon$. For a mixture of
# Gaussians with weights $w_k$, means $\mu_k$ and deviations $s_k$, the noisy sample is
# again a mixture, and the best guess of $x_0$ in closed form:
#
# $$D(x, t) = \mathbb{E}[x_0 \mid x_t = x] = \sum_k p(k \mid x)\,
#   \frac{\sigma^2 \mu_k + \alpha\, s_k^2\, x}{\alpha^2 s_k^2 + \sigma^2}.$$
#
# A *denoiser* is such a function `(x, t) -> x_0`. From a network it is
# `kg.diffusion.Denoiser(network, schedule, "epsilon")`, whatever the network predicts.

# %%
schedule = kg.schedules.Continuous("linear")


def mixture(weights, means, stds):
    """The denoiser of a mixture, and its density with noise of size `level` added."""
    weights, means, stds = (np.array(a, "float32") for a in (weights, means, stds))

    def denoise(x, t):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        w, m, s = (ops.convert_to_tensor(a) for a in (weights, means, stds))
        variance = alpha**2 * s**2 + sigma**2  # (K,)
        gap = ops.expand_dims(x, 1) - alpha * m  # (B, K, d)
        dimensions = means.shape[1]
        log_p = ops.log(w) - 0.5 * ops.sum(gap**2, -1) / variance
        log_p = log_p - 0.5 * dimensions * ops.log(variance)
        p = ops.exp(log_p - ops.logsumexp(log_p, axis=1, keepdims=True))  # (B, K)
        guesses = m + ops.expand_dims(alpha * s**2 / variance, -1) * gap  # (B, K, d)
        return ops.sum(ops.expand_dims(p, -1) * guesses, 1)

    def density(x, level=0.0):
        variance = stds**2 + level**2
        gap = x[:, None] - means
        p = weights * np.exp(-0.5 * (gap**2).sum(-1) / variance)
        return (p / (2 * np.pi * variance) ** (means.shape[1] / 2)).sum(-1)

    return denoise, density


denoise, density = mixture([0.35, 0.65], [[-1.2], [0.8]], [0.25, 0.35])

# %% [markdown]
# ## One dimension: a river that divides
#
# Sampling solves an ordinary differential equation, the *probability-flow ODE*
# ([2011.13456](https://arxiv.org/abs/2011.13456)). In the coordinates
# $\bar x = x / \alpha$ and $\bar\sigma = \sigma / \alpha$ of
# [2206.00364](https://arxiv.org/abs/2206.00364) it reads
#
# $$\frac{d \bar x}{d \bar\sigma} = \frac{\bar x - D}{\bar\sigma}:$$
#
# walk away from the noise, towards the guess. Below, sixty starting points from pure
# noise (left) walk to the data (right), over the density of the noisy data.

# %%
time_grid = kg.samplers.time_grid(schedule, 60)
start = np.linspace(-2.6, 2.6, 60, dtype="float32")[:, None]


def walk(sampler, x, noise=None):
    """x after every step, `(n + 1, B, d)`."""
    state, seen = sampler.begin(x), [np.array(x)]
    for i in range(sampler.evaluations):
        state = sampler.step(denoise, i, state, noise)
        seen.append(ops.convert_to_numpy(state[0]))
    return np.stack(seen)


def picture(axis, tracks, title):
    """Tracks over the logarithm of the density at every time."""
    grid = np.linspace(-3, 3, 300)[:, None]
    columns = []
    for a, s in zip(time_grid.alphas, time_grid.sigmas, strict=True):
        columns.append(density(grid / a, s / a) / a)
    axis.imshow(
        np.log(np.array(columns).T + 1e-2),
        extent=(0, time_grid.num_steps, -3, 3),
        origin="lower",
        aspect="auto",
        cmap="Blues",
    )
    axis.plot(tracks[:, :, 0], color="tab:red", linewidth=0.7, alpha=0.8)
    axis.set(title=title, xlabel="step, from noise to data", ylim=(-3, 3))


noise = kg.samplers.keyed_noise(kg.backend.random.key(0))
figure, axes = plt.subplots(1, 2, figsize=(13, 4), sharey=True)
still = walk(kg.samplers.ddim(time_grid), time_grid.start(start))
few = time_grid.start(start[::6])
rough = walk(kg.samplers.ddpm(time_grid), few, noise)
picture(axes[0], still, "Deterministic: DDIM. Tracks never cross")
picture(axes[1], rough, "Stochastic: DDPM. Fresh noise at every step")
plt.tight_layout()
plt.show()

# %% [markdown]
# Both lead to the same distribution, by different roads. The deterministic one is a map
# from noise to data and can be walked back (`time_grid.reversed()`); the stochastic one
# forgets where it began, and with it earlier errors, but needs more steps: in 40 of
# them, DDPM's peaks are still too narrow. A stochastic solver of second order
# (`dpmpp_2m_sde`) repairs that.

# %%
count = 2_000 if FAST else 20_000
normal = kg.backend.random.normal(kg.backend.random.key(1), (count, 1))
grid = np.linspace(-2.5, 2.5, 400)[:, None]
figure, axes = plt.subplots(1, 3, figsize=(13, 3), sharey=True)
for axis, (name, options) in zip(
    axes, (("ddim", {}), ("ddpm", {}), ("dpmpp_2m_sde", {})), strict=True
):
    sampler = kg.samplers.get(name)(kg.samplers.time_grid(schedule, 40), **options)
    run = kg.backend.jit(lambda x, s=sampler: s(denoise, x, noise))
    samples = ops.convert_to_numpy(run(normal))[:, 0]
    axis.hist(samples, 80, range=(-2.5, 2.5), density=True, color="lightsteelblue")
    axis.plot(grid, density(grid), color="black", linewidth=1)
    axis.set_title(f"{name}, 40 steps: mean {samples.mean():.3f}")
plt.tight_layout()
plt.show()
print("true mean:", round(0.35 * -1.2 + 0.65 * 0.8, 3))

# %% [markdown]
# ## How fast the error falls
#
# A method of order $p$ makes an error of $O(n^{-p})$ in $n$ steps. Against a walk of
# many steps we measure it, over a range of noise where the curves are smooth. (In the
# package's tests the same is done in float64, against an integrator of eighth order.)

# %%
table = {
    "ddim": 1,
    "heun": 2,
    "lms": 2,
    "pndm": 2,
    "dpmpp_2m": 2,
    "unipc": 2,
}
low, high = schedule.time_at(-2 * np.log(np.array([0.2, 5.0])))
x = start[::4]


def smooth(name, steps):
    """Equal steps of log-SNR; PNDM is made for equal steps of time."""
    if name == "pndm":
        return kg.samplers.at(schedule, np.linspace(high, low, steps + 1))
    log_snr = np.linspace(*schedule.log_snr(np.array([high, low])), steps + 1)
    return kg.samplers.at(schedule, schedule.time_at(log_snr))


def solve(name, steps):
    sampler = kg.samplers.get(name)(smooth(name, steps))
    run = kg.backend.jit(lambda x: sampler(denoise, x))
    end = run(ops.convert_to_tensor(x))
    return ops.convert_to_numpy(end), sampler.evaluations


truth, _ = solve("heun", 400 if FAST else 2000)
steps = (8, 16, 32) if FAST else (16, 32, 64, 128)
errors = {}
for name in table:
    results = [solve(name, n) for n in steps]
    errors[name] = [
        (evaluations, float(np.sqrt(np.mean((end - truth) ** 2))))
        for end, evaluations in results
    ]

print(f"{'':10}", *(f"{n:>9} steps" for n in steps), "   slope  theory")
for name, points in errors.items():
    slope = np.log2(points[-2][1] / points[-1][1])
    row = (f"{error:15.2e}" for _, error in points)
    print(f"{name:10}", *row, f"{slope:8.2f} {table[name]:6}")

# %%
for name, points in errors.items():
    plt.loglog(*zip(*points, strict=True), marker="o", label=name)
calls = np.array([16.0, 256.0])
plt.loglog(calls, 1.0 / calls, "k:", label="1 / n")
plt.loglog(calls, 1.0 / calls**2, "k--", label="1 / n$^2$")
plt.xlabel("calls of the network")
plt.ylabel("error")
plt.legend(ncol=2)
plt.title("The error by the calls of the network that it cost")
plt.show()

# %% [markdown]
# Heun's method calls the network twice a step; the multistep methods reach the same
# order with one call, by remembering earlier answers. `lms` remembers four, which
# helps while steps are few; in the end it has order 2, since its first step is Euler's,
# and one such step leaves an error of $O(n^{-2})$.

# %% [markdown]
# ## Guidance, in two dimensions
#
# With labels, *classifier-free guidance* ([2207.12598](https://arxiv.org/abs/2207.12598))
# exaggerates what the label changes,
#
# $$D_w = D_\varnothing + w\,(D_{\text{label}} - D_\varnothing).$$
#
# Here three clouds are three labels, and one is asked for. At $w = 1$ its samples come
# out exactly; with more, they move away from the other clouds, beyond the data, and
# lose their variety. With guidance in an interval of the noise levels alone
# ([2404.07724](https://arxiv.org/abs/2404.07724)) they go less far and keep more of
# it.

# %%
weights = np.array([0.34, 0.33, 0.33])
means = np.array([[-0.9, -0.5], [0.9, -0.5], [0.0, 0.9]])
stds = np.array([0.45, 0.45, 0.45])
everything, plane = mixture(weights, means, stds)
alone = [mixture(weights[[k]] * 0 + 1, means[[k]], stds[[k]]) for k in range(3)]


def conditional(x, t, labels):
    """What a network trained with dropped labels would say; label 3 is "none"."""
    answers = [one(x, t) for one, _ in alone] + [everything(x, t)]
    chosen = ops.one_hot(labels, 4, dtype=x.dtype)  # (B, 4)
    return ops.sum(ops.expand_dims(chosen, -1) * ops.stack(answers, 1), 1)


count = 400 if FAST else 1500
time_grid = kg.samplers.time_grid(schedule, 40)
sampler = kg.samplers.dpmpp_2m(time_grid)
normal = kg.backend.random.normal(kg.backend.random.key(2), (count, 2))
labels, none = np.full(count, 2, "int32"), np.full(count, 3, "int32")
times = schedule.time_at(-2 * np.log(np.array([0.2, 0.8])))


def sample(scale, interval=None):
    guided = kg.guidance.classifier_free(
        conditional, labels, none, scale, interval=interval
    )
    run = kg.backend.jit(lambda x: sampler(guided, x))
    return ops.convert_to_numpy(run(time_grid.start(normal)))


side = np.linspace(-2.5, 2.5, 80)
plane_grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
height = plane(plane_grid).reshape(80, 80)
figure, axes = plt.subplots(
    1, 4, figsize=(15, 4.5), sharex=True, sharey=True, layout="constrained"
)
for axis, (title, scale, interval) in zip(
    axes,
    (
        ("w = 0: no label", 0.0, None),
        ("w = 1: the label", 1.0, None),
        ("w = 4", 4.0, None),
        ("w = 4 in an interval", 4.0, tuple(times)),
    ),
    strict=True,
):
    points = sample(scale, interval)
    axis.contour(side, side, height, levels=6, colors="gray", linewidths=0.6)
    axis.scatter(*points.T, s=3, alpha=0.4, color="tab:red")
    spread = points.std(0).mean()
    axis.set(title=f"{title}\nspread {spread:.2f}", xlim=(-2.5, 2.5), ylim=(-2.5, 2.5))
    axis.set_aspect("equal")
plt.show()

# %% [markdown]
# ## Likelihood
#
# Along the same ODE the density changes by the divergence of its velocity, so that a
# diffusion model gives the exact likelihood of any sample
# ([2011.13456](https://arxiv.org/abs/2011.13456), section 4.3). The divergence is a
# trace of a Jacobian; one random vector estimates it
# (Hutchinson), without bias.

# %%
points = np.array([[-0.9, -0.5], [0.0, 0.0], [0.3, 1.2], [1.8, 1.6]], "float32")
truth = np.log(plane(points, float(schedule.noise_level(schedule.t_min))))
print(f"{'point':>14} {'true':>9} {'exact trace':>12} {'1 probe':>9} {'16 probes':>10}")


def likelihood(**options):
    def whole(x):
        return kg.diffusion.log_likelihood(
            everything, schedule, x, num_steps=40, **options
        )[0]

    return kg.backend.jit(whole)(ops.convert_to_tensor(points))


rows = [
    likelihood(probe="exact"),
    likelihood(probes=1),
    likelihood(probes=4 if FAST else 16),
]
for point, true, *found in zip(
    points, truth, *map(ops.convert_to_numpy, rows), strict=True
):
    name = f"({point[0]:.1f}, {point[1]:.1f})"
    print(f"{name:>14} {true:9.3f} {found[0]:12.3f} {found[1]:9.3f} {found[2]:10.3f}")

# %% [markdown]
# ## On
#
# - Every sampler is a table of factors: `kg.samplers.ddim(time_grid).updates`,
#   computed in float64 by the papers' formulas, and one loop in the graph applies any
#   of them. It leaves with the network as one SavedModel.
# - `sampler(denoise, x, noise)` is one compiled program; `kg.samplers.stepped` drives
#   it from Python, with a progress bar.
# - `kg.samplers.NAMES`, `kg.schedules.NAMES` and `kg.samplers.SPACINGS` list what there
#   is.
