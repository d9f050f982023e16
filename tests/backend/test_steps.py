"""Training steps that run from their recording: the same as the steps, to the bit."""

import keras
import numpy as np
import pytest
from keras import ops

import keras_genai as kg
from keras_genai import backend
from keras_genai.training import GenerativeModel

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="elsewhere steps are compiled"
)
IMAGES = np.random.default_rng(0).random((10, 8, 8, 1)).astype("float32")
LABELS = np.arange(10) % 3


def vae():
    """Noise by the sample, two networks as one player."""
    return kg.VAE(
        image_shape=(8, 8, 1),
        latent_dim=3,
        hidden_units=(8,),
        filters=4,
        architecture="convolutional",
        binarize="dynamic",
        beta=kg.vaes.KLWarmup(10),
    )


def cgan():
    """Two players, running statistics, an average, and a penalty each other step."""
    return kg.CGAN(
        image_shape=(8, 8, 1),
        num_classes=3,
        latent_dim=4,
        base_filters=4,
        penalties={"r1": 0.5},
        penalty_interval=2,
        ema_decay=0.9,
    )


def ddpm():
    """Labels dropped, learned times."""
    unet = kg.UNet(
        (8, 8, 1),
        block_channels=(8, 8),
        attention=(False, True),
        layers_per_block=1,
        groups=4,
        num_classes=3,
    )
    return kg.DDPM(unet, ema_decay=0.9)


def gpt():
    """Integers in; dropout."""
    return kg.GPT(
        vocabulary_size=7,
        max_sequence_length=6,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        dropout=0.2,
    )


def host(x):
    return ops.convert_to_numpy(x)


def steps_of(model):
    model.make_train_function()
    return vars(model)["_train_steps"]


def trained(make, data, replayed, optimizer=None, epochs=12):
    """The model after some epochs of whole and part batches, and its history."""
    model = make()
    names = list(model.players)
    made = {
        "optimizer" if len(names) == 1 else f"{name}_optimizer": optimizer()
        for name in names
        if optimizer
    }
    model.compile(**made, run_eagerly=not replayed)
    history = model.fit(*data, batch_size=4, epochs=epochs, verbose=0).history
    return model, history


def clipped():
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, 15, warmup_target=1e-2, warmup_steps=5
    )
    return keras.optimizers.AdamW(rate, weight_decay=0.1, global_clipnorm=0.5)


def momentum():
    return keras.optimizers.SGD(1e-2, momentum=0.9)


@pytest.mark.parametrize(
    ("make", "data", "optimizer"),
    [
        (vae, (IMAGES,), None),
        (vae, (IMAGES,), momentum),
        (cgan, (2 * IMAGES - 1, LABELS), None),
        (ddpm, (2 * IMAGES - 1, LABELS), clipped),
        (gpt, (np.arange(70).reshape(10, 7) % 7,), clipped),
    ],
)
def test_the_same_as_the_step_as_python(make, data, optimizer):
    one, logs = trained(make, data, False, optimizer)
    other, replayed_logs = trained(make, data, True, optimizer)
    steps = steps_of(other)
    assert not steps.failed
    kinds = {kind[-1][-1] for kind in steps.programs}
    assert len(kinds) == 2, "of four samples, and of the two that are left"
    assert logs == replayed_logs
    for a, b in zip(one.variables, other.variables, strict=True):
        np.testing.assert_array_equal(host(a), host(b), err_msg=a.path)


class Line(GenerativeModel):
    """A line through points: `y = a x`."""

    def __init__(self, change=None):
        super().__init__(seed=0)
        self.net = keras.Sequential(
            [keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")]
        )
        self.set_players("net")
        self.change = change
        self.calls = 0

    def train_step(self, data):
        x, _, _ = data
        x = ops.convert_to_tensor(x)
        factor = 2.0 if self.change is None else self.change(self, x)
        self.minimize("net", lambda: ops.mean((self.net(x) - factor * x) ** 2))


def counts(model, x):
    model.calls += 1
    return float(model.calls)


def looks(model, x):
    return 2.0 if float(ops.sum(x)) > 0 else 3.0


def converts(model, x):
    return 2.0 + model.calls + np.float32(host(x).sum())


def selects(model, x):
    return ops.sum(x[x > 0])


@pytest.mark.parametrize("change", [counts, looks, converts, selects])
def test_what_differs_from_step_to_step_runs_as_it_is(change):
    found = []
    for replayed in (False, True):
        model = Line(change)
        model.compile(keras.optimizers.SGD(0.1), run_eagerly=not replayed)
        random = np.random.default_rng(1)
        for _ in range(9):
            x = random.normal(size=(4, 1)).astype("float32")
            model.train_on_batch(x)
        found.append(host(model.net.weights[0]))
    assert len(steps_of(model).failed) == 1
    assert not steps_of(model).programs
    np.testing.assert_array_equal(*found)


def test_a_new_value_of_a_weight_is_seen_and_new_memory_too():
    import torch

    model = Line()
    model.compile(keras.optimizers.SGD(0.0))
    kernel, bias = model.net.weights
    x = np.ones((4, 1), "float32")
    for _ in range(7):
        model.train_on_batch(x)
    assert steps_of(model).programs
    bias.assign([0.0])
    kernel.assign([[5.0]])
    model.reset_metrics()
    assert model.train_on_batch(x) == 9.0
    kernel._value = torch.nn.Parameter(torch.tensor([[4.0]]))
    model.reset_metrics()
    assert model.train_on_batch(x) == 4.0
    assert not steps_of(model).programs


def test_compiled_again_it_is_recorded_again():
    model = Line()
    x = np.ones((4, 1), "float32")
    for rate in (0.0, 0.1):
        model.compile(keras.optimizers.SGD(rate))
        before = host(model.net.weights[0]).copy()
        for _ in range(7):
            model.train_on_batch(x)
        assert steps_of(model).programs
        assert (host(model.net.weights[0]) != before).any() == (rate > 0)


def test_results_of_one_step_are_the_callers():
    model = Line()
    model.compile(keras.optimizers.SGD(0.1))
    model.make_train_function()
    x = np.ones((4, 1), "float32")
    logs = [model.train_function([(x,)])["loss"] for _ in range(9)]
    kept = [float(log) for log in logs]
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) == len(kept)


def is_sparse(model, x):
    import torch

    return torch.sparse.mm(x.detach().to_sparse(), torch.ones((1, 1)))


def learned_noise(model, x):
    """A draw whose bounds learn: its gradient is not lost."""
    high = 1.0 + ops.square(model.net.weights[0][0, 0])
    return model.noise.uniform("factor", (4, 1), 0.0, high)


@pytest.mark.parametrize("change", [is_sparse, learned_noise])
def test_rare_steps(change):
    found = []
    for replayed in (False, True):
        model = Line(change)
        model.compile(keras.optimizers.SGD(0.01), run_eagerly=not replayed)
        for number in range(9):
            model.train_on_batch(np.full((4, 1), 1 + number, "float32"))
        found.append(host(model.net.weights[0]))
    np.testing.assert_array_equal(*found)


def test_evaluation_and_compiled_functions():
    model = vae()
    model.compile()
    steps = []
    for _ in range(7):
        steps.append(model.evaluate(IMAGES, batch_size=2, verbose=0, return_dict=True))
        images = model.generate(4, seed=1)
    assert vars(model)["_test_steps"].programs
    assert all(step == steps[0] for step in steps)
    assert any(function.programs for function in model.programs.values())
    model.compile(run_eagerly=True)
    eager = model.evaluate(IMAGES, batch_size=2, verbose=0, return_dict=True)
    assert eager == steps[0]
    np.testing.assert_array_equal(model.generate(4, seed=1), images)


def test_a_function_of_several_shapes_and_a_changed_weight():
    weight = keras.Variable(np.eye(2, dtype="float32"))
    run = backend.jit(lambda x, y: {"sum": x @ weight + y, "y": y}, [weight])
    for size in (1, 3):
        for number in range(8):
            x = np.full((size, 2), number, "float32")
            made = run(x, ops.convert_to_tensor(2 * x))
            np.testing.assert_array_equal(host(made["sum"]), 3 * x)
            np.testing.assert_array_equal(host(made["y"]), 2 * x)
    assert len(run.programs) == 2
    weight.assign(2 * np.eye(2))
    x = np.ones((3, 2), "float32")
    same = ops.convert_to_tensor(x)
    np.testing.assert_array_equal(host(run(x, x)["sum"]), 3 * x)
    for _ in range(7):
        np.testing.assert_array_equal(host(run(same, same)["sum"]), 3 * x)
    assert len(run.programs) == 3


def test_freed_memory_is_kept_unless_the_environment_says_how(monkeypatch):
    import platform

    from keras_genai.backend.torch.memory import keep_freed_memory

    for name in ("MALLOC_ARENA_MAX", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    assert keep_freed_memory() is (platform.libc_ver()[0] == "glibc")
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    assert keep_freed_memory() is False


def test_a_thread_that_draws_beside_a_recording():
    """As a data set's workers do: what they draw is none of the step's."""
    import threading

    stop, seen = threading.Event(), set()
    key = backend.random.key(0, "beside")

    def draw():
        while not stop.is_set():
            seen.add(float(host(backend.random.normal(key, ()))))

    worker = threading.Thread(target=draw)
    worker.start()
    try:
        _, logs = trained(vae, (IMAGES,), True)
    finally:
        stop.set()
        worker.join()
    assert len(seen) == 1
    assert logs == trained(vae, (IMAGES,), False)[1]
