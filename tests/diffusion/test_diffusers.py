"""Every sampler with a counterpart in diffusers walks the same trajectory.

From the same noise, through the same network, a function of two lines. A trajectory is
compared after every evaluation, in diffusers' own coordinates: those of the schedulers
of k-diffusion are x / alpha.
"""

import sys

import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from keras_genai.diffusion import Denoiser, samplers, schedules

# The samplers' tables are NumPy's, and the loop is held across the backends elsewhere.
pytestmark = pytest.mark.once

diffusers = pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

RNG = np.random.default_rng(3)
SHAPE = (2, 3, 4)
NOISES = RNG.normal(size=(60, *SHAPE)).astype("float32")
START = RNG.normal(size=SHAPE).astype("float32")
TOLERANCE = 1e-4


def network(library, x, t, scale=0.01):
    """The same bent function in PyTorch and in keras.ops."""
    t = t * scale
    return 0.6 * x * library.cos(0.2 * t) + 0.4 * library.sin(2.0 * x + t)


def ours(x, t, scale):
    return network(ops, x, ops.reshape(t, (-1, 1, 1)), scale)


def reference(scheduler, start, monkeypatch, learned=False, scale=0.01, num_steps=None):
    """The trajectory of diffusers: x after every step."""
    drawn = iter(NOISES)
    module = sys.modules[type(scheduler).__module__]
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(
            module, "randn_tensor", lambda *a, **k: torch.from_numpy(next(drawn))
        )
    arguments = (
        num_steps if isinstance(num_steps, dict) else {"num_inference_steps": num_steps}
    )
    scheduler.set_timesteps(**arguments)
    x, trajectory = torch.from_numpy(start.astype("float32")), []
    for t in scheduler.timesteps:
        scaled = x
        if hasattr(scheduler, "scale_model_input"):
            scaled = scheduler.scale_model_input(x, t)
        prediction = network(torch, scaled, t, scale)
        if learned:
            prediction = torch.cat([prediction, torch.sin(3.0 * scaled)], dim=1)
        x = scheduler.step(prediction, t, x).prev_sample
        trajectory.append(x.numpy().copy())
    return np.stack(trajectory)


def walk(sampler, denoise, start):
    """Our trajectory, step by step, and the end of the loop in the graph."""
    table = ops.convert_to_tensor(NOISES)

    def noise(i, x):
        return ops.take(table, i, axis=0)

    state, trajectory = sampler.begin(start), []
    for i in range(sampler.evaluations):
        state = sampler.step(denoise, i, state, noise)
        trajectory.append(ops.convert_to_numpy(state[0]))
    loop = kg.backend.jit(lambda x: sampler(denoise, x, noise))
    end = ops.convert_to_numpy(loop(ops.convert_to_tensor(start)))
    np.testing.assert_allclose(end, trajectory[-1], rtol=1e-4, atol=1e-4)
    return np.stack(trajectory)


def assert_same(got, wanted):
    assert got.shape == wanted.shape
    error = np.abs(got - wanted) / np.maximum(1.0, np.abs(wanted))
    assert error.max() < TOLERANCE, f"{error.max(axis=(1, 2, 3))}"


SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
LOUD = {"clip_sample": False}
# name: scheduler, its arguments, steps, sampler, its options, the grid, k-diffusion's?
CASES = {
    "ddpm small": ("DDPM", LOUD, 8, "ddpm", {}, {"spacing": "leading"}, False),
    "ddpm large": (
        "DDPM",
        {**LOUD, "variance_type": "fixed_large"},
        8,
        "ddpm",
        {"variance": "large"},
        {"spacing": "leading"},
        False,
    ),
    "ddim": ("DDIM", LOUD, 10, "ddim", {}, {"spacing": "leading"}, False),
    "ddim v, no signal": (
        "DDIM",
        {
            **LOUD,
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
        },
        10,
        "ddim",
        {},
        {"spacing": "trailing"},
        False,
    ),
    "ddim, last alpha": (
        "DDIM",
        {**SD, **LOUD, "set_alpha_to_one": False, "steps_offset": 1},
        10,
        "ddim",
        {},
        {"spacing": "leading", "offset": 1, "end": "least"},
        False,
    ),
    "euler": (
        "EulerDiscrete",
        SD,
        10,
        "euler",
        {},
        {"spacing": "linspace"},
        True,
    ),
    "euler karras": (
        "EulerDiscrete",
        {**SD, "use_karras_sigmas": True},
        9,
        "euler",
        {},
        {"spacing": "karras"},
        True,
    ),
    "euler exponential": (
        "EulerDiscrete",
        {**SD, "use_exponential_sigmas": True},
        9,
        "euler",
        {},
        {"spacing": "exponential"},
        True,
    ),
    "euler_ancestral": (
        "EulerAncestralDiscrete",
        {**SD, "timestep_spacing": "trailing"},
        8,
        "euler_ancestral",
        {},
        {"spacing": "trailing"},
        True,
    ),
    "heun": (
        "HeunDiscrete",
        {**SD, "timestep_spacing": "leading"},
        8,
        "heun",
        {},
        {"spacing": "leading"},
        True,
    ),
    "lms": ("LMSDiscrete", SD, 10, "lms", {}, {"spacing": "linspace"}, True),
    "pndm, plms": (
        "PNDM",
        {**SD, "skip_prk_steps": True, "set_alpha_to_one": True},
        10,
        "pndm",
        {},
        {"spacing": "leading"},
        False,
    ),
    "pndm": (
        "PNDM",
        {"skip_prk_steps": False, "set_alpha_to_one": True},
        10,
        "pndm",
        {"runge_kutta": True},
        {"spacing": "leading"},
        False,
    ),
    "dpmpp_2m": (
        "DPMSolverMultistep",
        SD,
        10,
        "dpmpp_2m",
        {},
        {"spacing": "linspace", "skip_last": True},
        False,
    ),
    "dpmpp_2m karras, long": (
        "DPMSolverMultistep",
        {**SD, "use_karras_sigmas": True},
        17,
        "dpmpp_2m",
        {},
        {"spacing": "karras"},
        False,
    ),
    "dpmpp_2m to the least": (
        "DPMSolverMultistep",
        {"final_sigmas_type": "sigma_min", "timestep_spacing": "leading"},
        18,
        "dpmpp_2m",
        {},
        {"spacing": "leading", "skip_last": True, "end": "least"},
        False,
    ),
    "dpmpp_2m_sde": (
        "DPMSolverMultistep",
        {"algorithm_type": "sde-dpmsolver++", "timestep_spacing": "trailing"},
        16,
        "dpmpp_2m_sde",
        {},
        {"spacing": "trailing"},
        False,
    ),
    "unipc": (
        "UniPCMultistep",
        {"solver_order": 2, "timestep_spacing": "leading"},
        9,
        "unipc",
        {},
        {"spacing": "leading", "skip_last": True},
        False,
    ),
    "lcm": ("LCM", SD, 4, "lcm", {}, {"spacing": "lcm"}, False),
}


def betas_of(arguments):
    name = arguments.get("beta_schedule", "linear")
    return schedules.get(
        {"squaredcos_cap_v2": "cosine"}.get(name, name),
        **{k: v for k, v in arguments.items() if k in ("beta_start", "beta_end")},
        zero_terminal_snr=arguments.get("rescale_betas_zero_snr", False),
    )


@pytest.mark.parametrize("case", CASES)
def test_trajectory(case, monkeypatch):
    kind, arguments, num_steps, name, options, nodes, divided = CASES[case]
    scheduler = getattr(diffusers, f"{kind}Scheduler")(**arguments)
    schedule = betas_of(arguments)
    rounded = kind.startswith(("DPM", "UniPC")) and nodes["spacing"] == "linspace"
    grid = samplers.time_grid(schedule, num_steps, rounded=rounded, **nodes)
    sampler = samplers.get(name)(grid, **options)
    predicts = arguments.get("prediction_type", "epsilon").removesuffix("_prediction")
    denoise = Denoiser(
        lambda x, t: ours(x, t, 0.01), schedule, predicts, round_times="2m" in name
    )
    alpha = grid.alphas[0] if divided else 1.0
    wanted = reference(scheduler, START / alpha, monkeypatch, num_steps=num_steps)
    got = walk(sampler, denoise, START)
    if divided:
        got = got / grid.alphas[sampler.nodes].reshape(-1, 1, 1, 1)
    assert_same(got, wanted[: len(got)])


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_ddim_with_noise_and_clipping(eta, monkeypatch):
    scheduler = diffusers.DDIMScheduler(clip_sample=True)
    step = scheduler.step
    scheduler.step = lambda *a: step(*a, eta=eta, use_clipped_model_output=True)
    wanted = reference(scheduler, START, monkeypatch, num_steps=10)
    schedule = schedules.get("linear")
    denoise = Denoiser(lambda x, t: ours(x, t, 0.01), schedule, clip=1.0)
    grid = samplers.time_grid(schedule, 10, "leading")
    assert_same(walk(samplers.ddim(grid, eta=eta), denoise, START), wanted)


def test_learned_variance(monkeypatch):
    # diffusers splits the channels of (B, C, ...); ours are the last axis.
    scheduler = diffusers.DDPMScheduler(
        variance_type="learned_range", clip_sample=False, beta_schedule="linear"
    )
    wanted = reference(scheduler, START, monkeypatch, learned=True, num_steps=8)
    schedule = schedules.get("linear")

    def both(x, t):
        v = ops.sin(3.0 * x)
        return ops.concatenate([ours(x, t, 0.01), v], axis=-1)

    denoise = Denoiser(both, schedule, learned_variance=True)
    sampler = samplers.ddpm(
        samplers.time_grid(schedule, 8, "leading"), variance="learned"
    )
    assert_same(walk(sampler, denoise, START), wanted)


def test_flow_euler_with_shift(monkeypatch):
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    num_steps = {"sigmas": np.linspace(1.0, 1 / 10, 10)}
    wanted = reference(scheduler, START, monkeypatch, num_steps=num_steps)
    schedule = schedules.get("rectified_flow", shift=3.0)
    denoise = Denoiser(
        lambda x, t: ours(x, t, 0.01), schedule, "flow", time_scale=1000.0
    )
    sampler = samplers.flow_euler(samplers.time_grid(schedule, 10))
    assert_same(walk(sampler, denoise, START), wanted)


def test_flow_heun(monkeypatch):
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler()
    wanted = reference(scheduler, START, monkeypatch, num_steps=7)
    schedule = schedules.get("rectified_flow")
    denoise = Denoiser(
        lambda x, t: ours(x, t, 0.01), schedule, "flow", time_scale=1000.0
    )
    sampler = samplers.flow_heun(samplers.time_grid(schedule, 7, "linspace"))
    assert_same(walk(sampler, denoise, START), wanted)


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m"])
def test_edm(name, monkeypatch):
    """The preconditioning of EDM, and its sigmas."""
    kind = {"euler": "EDMEuler", "dpmpp_2m": "EDMDPMSolverMultistep"}[name]
    scheduler = getattr(diffusers, f"{kind}Scheduler")(sigma_data=0.5)
    start = 80.0 * START
    wanted = reference(scheduler, start, monkeypatch, scale=1.0, num_steps=16)
    schedule = schedules.get("karras")
    denoise = Denoiser(lambda x, t: ours(x, t, 1.0), schedule, "edm", sigma_data=0.5)
    grid = samplers.time_grid(schedule, 16, "linspace")
    np.testing.assert_allclose(scheduler.sigmas, grid.sigmas, rtol=1e-5)
    assert_same(walk(samplers.get(name)(grid), denoise, start), wanted)


@pytest.mark.parametrize(
    "name, theirs",
    [
        ("linear", "linear"),
        ("scaled_linear", "scaled_linear"),
        ("cosine", "squaredcos_cap_v2"),
        ("sigmoid", "sigmoid"),
    ],
)
@pytest.mark.parametrize("zero", [False, True])
def test_tables(name, theirs, zero):
    schedule = schedules.get(name, zero_terminal_snr=zero)
    ends = {"beta_start": schedule.beta_start, "beta_end": schedule.beta_end}
    scheduler = diffusers.DDPMScheduler(
        beta_schedule=theirs,
        rescale_betas_zero_snr=zero,
        **(ends if name != "cosine" else {}),
    )
    np.testing.assert_allclose(schedule.betas, scheduler.betas, rtol=1e-3, atol=2e-6)
    np.testing.assert_allclose(
        schedule.alpha_bar, scheduler.alphas_cumprod, rtol=2e-4, atol=1e-6
    )
