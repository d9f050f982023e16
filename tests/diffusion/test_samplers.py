"""Samplers against data whose score is known: orders, distributions, the loop."""

import keras
import numpy as np
import pytest
from keras import ops
from scipy.integrate import solve_ivp

from keras_genai import backend
from keras_genai.diffusion import samplers, schedules
from tests.support.conformance import BACKEND, float64
from tests.support.mixture import LINE, PLANE

VP = schedules.Continuous("linear")
FLOW = schedules.RectifiedFlow()
EDM = schedules.Karras()

# sampler, its options, the schedule, equal steps of what, and the order of its global
# error. A multistep method whose first step is Euler's has one local error of h^2, and
# so an order of at most 2 (lms, dpmpp_2m); PLMS is of second order since its transfer
# is (2202.09778, theorem 3.2); UniPC's last step is of first order, once.
ORDERS = [
    ("ddim", {}, VP, "log_snr", 1),
    ("euler", {}, EDM, "log_snr", 1),
    ("flow_euler", {}, FLOW, "time", 1),
    ("heun", {}, VP, "log_snr", 2),
    ("heun", {}, EDM, "karras", 2),
    ("flow_heun", {}, FLOW, "time", 2),
    ("lms", {"order": 1}, VP, "log_snr", 1),
    ("lms", {"order": 2}, VP, "log_snr", 2),
    ("lms", {"order": 4}, VP, "log_snr", 2),
    ("pndm", {}, VP, "time", 2),
    ("pndm", {"runge_kutta": True}, VP, "time", 2),
    ("dpmpp_2m", {}, VP, "log_snr", 2),
    ("dpmpp_2m", {}, FLOW, "time", 2),
    ("unipc", {}, VP, "log_snr", 2),
]
LOW, HIGH = 0.2, 5.0  # of sigma / alpha: where the order is seen with few steps


def smooth_grid(schedule, spacing, num_steps):
    u = np.linspace(1.0, 0.0, num_steps + 1)
    if spacing == "time":
        low, high = schedule.time_at(-2.0 * np.log([LOW, HIGH]))
        return samplers.at(schedule, low + u * (high - low))
    if spacing == "karras":
        levels = schedules.karras_sigmas(u, LOW, HIGH)
    else:
        levels = schedules.exponential_sigmas(u, LOW, HIGH)
    return samplers.at(schedule, schedule.time_at(-2.0 * np.log(levels)))


def exact(grid, x):
    """The ODE's solution, by an integrator of eighth order."""

    def slope(u, y):
        return y - LINE.reference(y[:, None], 1.0, np.exp(u))[:, 0]

    solved = solve_ivp(
        slope,
        np.log(grid.noise_levels[[0, -1]]),
        x[:, 0] / grid.alphas[0],
        method="DOP853",
        rtol=1e-12,
        atol=1e-13,
    )
    return grid.alphas[-1] * solved.y[:, -1:]


def run(sampler, denoise, x, noise=None):
    """The sampler, compiled: op by op a loop is slow on TensorFlow."""
    return backend.jit(lambda x: sampler(denoise, x, noise))(ops.convert_to_tensor(x))


@pytest.mark.slow
@pytest.mark.once  # of tables, which are NumPy's
def test_orders():
    """The global error falls at the order of the theory."""
    with float64():
        start = np.linspace(-2.0, 2.0, 5)[:, None]
        wrong = []
        for name, options, schedule, spacing, order in ORDERS:
            errors = []
            # The higher order of lms between its first steps fades late.
            first = 128 if options.get("order") == 4 else 64
            for num_steps in (first, 2 * first):
                grid = smooth_grid(schedule, spacing, num_steps)
                x = start * np.hypot(grid.alphas[0], grid.sigmas[0])
                sampler = samplers.get(name)(grid, **options)
                got = run(sampler, LINE.denoise(schedule), x)
                assert keras.backend.standardize_dtype(got.dtype) == "float64"
                error = ops.convert_to_numpy(got) - exact(grid, x)
                errors.append(np.sqrt(np.mean(error**2)))
            slope = np.log2(errors[0] / errors[1])
            if not abs(slope - order) < 0.2:
                wrong.append((name, options, order, slope, errors))
        assert not wrong, wrong


# By distribution


def gaussian_moments(sampler, schedule, mean, std):
    """Mean and variance of x at the end, exact, for data N(mean, std^2).

    The denoiser is then affine, and a sampler of one array a recursion of Gaussians.
    """
    moments = np.zeros(sampler.updates.shape[1])
    first = samplers.at(schedule, [sampler.times[0], sampler.times[-1]])
    covariance = np.zeros((len(moments), len(moments)))
    a, s = first.alphas[0], first.sigmas[0]
    moments[0], covariance[0, 0] = a * mean, a * a * std**2 + s * s
    rows = zip(sampler.times, sampler.inputs, sampler.updates, strict=True)
    for t, asked, update in rows:
        a, s = float(schedule.alpha(t)), float(schedule.sigma(t))
        shrink = a * std**2 / (a * a * std**2 + s * s)  # D = mean + shrink (y - a mean)
        count = len(moments)
        y = asked  # on (state, z)
        x_0 = shrink * y
        matrix = np.outer(update[:, count], y) + np.outer(update[:, count + 1], x_0)
        matrix[:, :count] += update[:, :count]
        matrix[:, count] += update[:, count + 2]
        moments = matrix[:, :count] @ moments + update[:, count + 1] * (
            mean - shrink * a * mean
        )
        full = np.eye(count + 1)
        full[:count, :count] = covariance
        covariance = matrix @ full @ matrix.T
    return moments[0], covariance[0, 0]


STOCHASTIC = [
    ("ddpm", {"variance": "small"}, VP),
    ("ddpm", {"variance": "large"}, VP),
    ("ddim", {"eta": 0.5}, VP),
    ("euler_ancestral", {}, EDM),
    ("heun", {"churn": 20.0, "churn_max": 20.0}, EDM),
    ("dpmpp_2m_sde", {}, VP),
]


@pytest.mark.parametrize("name, options, schedule", STOCHASTIC)
def test_stochastic_samplers_by_their_moments(name, options, schedule):
    mean, std = 0.7, 0.5

    def sampler(num_steps):
        grid = samplers.time_grid(schedule, num_steps, "exponential", end="least")
        return samplers.get(name)(grid, **options)

    # More steps: nearer to the data, at least at first order.
    data = np.array([mean, std**2]) + [
        0.0,
        float(schedule.noise_level(schedule.t_min)) ** 2,
    ]
    errors = [
        np.abs(np.array(gaussian_moments(sampler(n), schedule, mean, std)) - data).max()
        for n in (100, 200, 400)
    ]
    assert errors[2] < 0.02 and errors[0] > 1.8 * errors[1] > 3.2 * errors[2], errors

    # The samples have the moments of the recursion.
    chosen, count = sampler(12), 20_000
    wanted, variance = gaussian_moments(chosen, schedule, mean, std)
    key = backend.random.key(1, "start")
    a, s = (
        float(schedule.alpha(chosen.times[0])),
        float(schedule.sigma(chosen.times[0])),
    )
    x = a * mean + np.hypot(a * std, s) * backend.random.normal(key, (count, 1))

    def denoise(x, t):
        a, s = schedule.alpha(t), schedule.sigma(t)
        shrink = a * std**2 / (a * a * std**2 + s * s)
        return mean + shrink * (x - a * mean)

    noise = samplers.keyed_noise(backend.random.key(2))
    got = ops.convert_to_numpy(run(chosen, denoise, x, noise)).astype("float64")
    assert abs(got.mean() - wanted) < 5 * np.sqrt(variance / count)
    assert abs(got.var() / variance - 1) < 5 * np.sqrt(2 / count)


def test_ddpm_is_exact_at_the_two_ends():
    """2006.11239, section 3.2: "large" for data N(0, 1), "small" for one point."""
    grid = samplers.time_grid(schedules.get("linear"), 7, end="least")
    mean, variance = gaussian_moments(samplers.ddpm(grid, "large"), grid.schedule, 0, 1)
    np.testing.assert_allclose([mean, variance], [0.0, 1.0], rtol=1e-9, atol=1e-12)
    mean, variance = gaussian_moments(samplers.ddpm(grid), grid.schedule, 0.4, 1e-9)
    end = [0.4 * grid.alphas[-1], grid.sigmas[-1] ** 2]
    np.testing.assert_allclose([mean, variance], end, rtol=1e-6)


def test_one_formula():
    """What are the same steps have the same table."""
    grid = samplers.time_grid(schedules.get("linear"), 10)
    flow = samplers.time_grid(FLOW, 10)
    for a, b in (
        (samplers.ddim(grid, eta=1.0), samplers.ddpm(grid)),
        (samplers.ddim(grid), samplers.euler(grid)),
        (samplers.ddim(grid, eta=1.0), samplers.euler_ancestral(grid)),
        (samplers.ddim(flow), samplers.flow_euler(flow)),
    ):
        np.testing.assert_allclose(a.updates, b.updates, atol=1e-12)
        np.testing.assert_array_equal(a.times, b.times)
    # The step of a flow, as it is written: x + (t' - t) (eps - x_0).
    update = samplers.flow_euler(flow).updates[3, 0]
    t, dt = flow.times[3], flow.times[4] - flow.times[3]
    np.testing.assert_allclose(update, [0.0, 1 + dt / t, -dt / t, 0.0], atol=1e-12)


def test_lcm_holds_its_fixed_point():
    """A consistency model's answer does not depend on where it begins; f(x, 0) = x."""
    schedule = schedules.get("scaled_linear")
    grid = samplers.time_grid(schedule, 4, "lcm")
    sampler = samplers.lcm(grid)
    point = np.array([[0.3, -1.2]], "float32")
    noise = samplers.keyed_noise(backend.random.key(0))
    for start in (grid.start(point), grid.start(-3.0 * point)):
        end = sampler(lambda x, t: ops.zeros_like(x) + point, start, noise)
        np.testing.assert_allclose(ops.convert_to_numpy(end), point, atol=1e-3)
    clean = samplers.TimeGrid(
        schedule, *np.array([[0, -1], [1, 1], [0.1, 0]], "float64")
    )
    np.testing.assert_array_equal(
        samplers.lcm(clean).updates[0, 0], [0.0, 1.0, 0.0, 0.0]
    )


@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "unipc", "flow_heun"])
def test_from_nothing_of_the_data(name):
    """alpha = 0 at the first node: finite, and right for data in one point."""
    flow = name.startswith("flow")
    schedule = FLOW if flow else schedules.get("linear", zero_terminal_snr=True)
    grid = samplers.time_grid(schedule, 8)
    assert grid.alphas[0] == 0.0 and grid.sigmas[0] == 1.0
    point = np.array([[0.5, -0.2]], "float32")
    x = grid.start(np.array([[1.0, 2.0]], "float32"), point)  # NumPy's, each
    end = samplers.get(name)(grid)(lambda x, t: ops.zeros_like(x) + point, x)
    np.testing.assert_allclose(ops.convert_to_numpy(end), point, atol=1e-6)
    for other in ("heun", "lms", "pndm"):
        with pytest.raises(ValueError, match=f"{other} cannot step from a node"):
            samplers.get(other)(grid)


@pytest.mark.parametrize("name", ["ddim", "heun", "dpmpp_2m"])
def test_inversion(name):
    """The way back and forth again ends where it began."""
    schedule = schedules.get("linear")
    grid = samplers.time_grid(schedule, 100, "exponential", end="least")
    denoise = PLANE.denoise(schedule)
    data = PLANE.means.astype("float32") + 0.2
    back, forth = (samplers.get(name)(p) for p in (grid.reversed(), grid))
    latent = run(back, denoise, np.float32(grid.alphas[-1]) * data)
    again = ops.convert_to_numpy(run(forth, denoise, latent)) / grid.alphas[-1]
    np.testing.assert_allclose(again, data, atol=0.1 if name == "ddim" else 1e-2)
    assert np.abs(ops.convert_to_numpy(latent)).max() < 4


# The loop


@pytest.mark.parametrize("name", ["ddpm", "heun", "unipc"])
def test_the_loop_is_in_the_graph(name):
    """Compiled, stepped from Python and eager: the same; sample i from (key, i)."""
    schedule = schedules.get("linear")
    grid = samplers.time_grid(schedule, 6)
    sampler, traces = samplers.get(name)(grid), []
    w = keras.Variable(np.array(0.9, "float32"))

    def denoise(x, t):
        traces.append(1)
        return w * PLANE.denoise(schedule)(x, t)

    def whole(x, words, first):
        noise = samplers.keyed_noise((words[0], words[1]), first)
        return sampler(denoise, x, noise)

    key = backend.random.key(3)
    x = grid.start(backend.random.normal(backend.random.key(4), (5, 2)))
    words = ops.convert_to_tensor(np.array(key, "int32"))

    def number(n):
        return ops.convert_to_tensor(n, "int32")

    eager = ops.convert_to_numpy(sampler(denoise, x, samplers.keyed_noise(key)))
    del traces[:]
    compiled = backend.jit(whole, [w])
    first = ops.convert_to_numpy(compiled(x, words, number(0)))
    if BACKEND != "torch":
        assert len(traces) <= 2, "the steps are unrolled in the graph"
    np.testing.assert_allclose(first, eager, atol=1e-5)
    later = ops.convert_to_numpy(compiled(x[3:], words, number(3)))
    np.testing.assert_allclose(later, eager[3:], atol=1e-5)

    del traces[:]
    sample = samplers.stepped(sampler, lambda: denoise, [w])
    for _ in range(2):
        got = ops.convert_to_numpy(sample(x, key=key, verbose=0))
        np.testing.assert_allclose(got, eager, atol=1e-5)
    if BACKEND != "torch":
        assert len(traces) <= 2, "the step was compiled again"
    w.assign(0.5)
    assert np.abs(ops.convert_to_numpy(sample(x, key=key)) - eager).max() > 1e-2


def test_progress_bar(capsys):
    grid = samplers.time_grid(FLOW, 3)
    sample = samplers.stepped(
        samplers.flow_euler(grid), lambda scale: lambda x, t: scale * x
    )
    sample(np.ones((1, 2), "float32"), np.float32(0.5), verbose=1)
    assert "3/3" in capsys.readouterr().out


def test_after_holds_a_part():
    """`after` sees every x at its node: inpainting by replacement."""
    schedule = schedules.get("linear")
    grid = samplers.time_grid(schedule, 10)
    known = np.array([[0.8, 0.8]], "float32")
    z = np.ones((1, 2), "float32")
    sampler = samplers.dpmpp_2m(grid)
    alphas, sigmas = (
        ops.convert_to_tensor(table[sampler.nodes], dtype="float32")
        for table in (grid.alphas, grid.sigmas)
    )

    def hold(i, x):
        noised = ops.take(alphas, i) * known + ops.take(sigmas, i) * z
        return ops.where(np.array([[True, False]]), noised, x)

    end = sampler(PLANE.denoise(schedule), grid.start(z), after=hold)
    end = ops.convert_to_numpy(end)[0]
    assert end[0] == np.float32(0.8) and np.isfinite(end[1])


@pytest.mark.processes
@pytest.mark.usefixtures("kept_child")
def test_leaves_as_a_savedmodel(tensorflow_alone, tmp_path):
    """Guidance and every step, with labels, scale and seed as inputs."""
    from tests.support.toy_diffusion import ToyDiffusion

    model = ToyDiffusion(seed=1)
    model.compile(keras.optimizers.Adam(1e-2))
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 32)
    images = (2.0 * labels - 1.0)[:, None, None, None] * np.ones((1, 2, 2, 1))
    history = model.fit(
        images.astype("float32"), labels, batch_size=16, epochs=2, verbose=0
    )
    assert np.all(np.isfinite(history.history["loss"]))
    model.export(tmp_path / "served")
    calls = [
        (
            "generate",
            {
                "seed": np.int32(5),
                "labels": np.int32(labels),
                "guidance_scale": np.float32(scale),
            },
        )
        for labels, scale in (([0, 1, 1], 2.0), ([0, 1], 2.0), ([0, 1, 1], 1.0))
    ]
    _, answers = tensorflow_alone.serve(tmp_path / "served", calls)
    whole, two, unguided = (answer["images"] for answer in answers)
    wanted = model.generate(labels=[0, 1, 1], seed=5, guidance_scale=2.0)
    np.testing.assert_allclose(whole, wanted, atol=1e-4)
    np.testing.assert_allclose(two, wanted[:2], atol=1e-4)
    assert np.abs(unguided - wanted).max() > 1e-3


# Errors


def test_names_and_errors():
    grid = samplers.time_grid(schedules.get("linear"), 4)
    assert samplers.get("ddim") is samplers.ddim
    assert samplers.get(samplers.ddim) is samplers.ddim
    for name in samplers.NAMES:
        flow = name.startswith("flow")
        assert samplers.get(name)(
            samplers.time_grid(FLOW, 4, "linspace")[1:] if flow else grid
        )
    with pytest.raises(ValueError, match="unknown sampler 'dpm'; expected one of ddpm"):
        samplers.get("dpm")
    for call, message in (
        (lambda: samplers.flow_heun(grid), "is a sampler of flows"),
        (lambda: samplers.ddim(grid, eta=2.0), r"eta must be in \[0, 1\]"),
        (lambda: samplers.ddim(grid.reversed(), eta=1.0), "this time grid rises"),
        (lambda: samplers.ddpm(grid, "fixed"), "'small', 'large' or 'learned'"),
        (lambda: samplers.lms(grid, 0), r"order must be an integer in \[1, 6\]"),
        (lambda: samplers.heun(grid, churn=-1), "churn must be a finite number >= 0"),
        (lambda: samplers.heun(grid, churn=9.0), "raises the noise above"),
        (lambda: samplers.pndm(grid[1:], True), "at least 4 steps; got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    x = np.ones((1, 2), "float32")
    with pytest.raises(ValueError, match="The sampler ddpm adds noise"):
        samplers.ddpm(grid)(lambda x, t: x, x)
    with pytest.raises(ValueError, match="needs a denoiser with a learned variance"):
        noise = samplers.keyed_noise((0, 0))
        samplers.ddpm(grid, "learned")(lambda x, t: x, x, noise)
