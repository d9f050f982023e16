"""A run that is cut off and resumed ends with the weights of one that is not."""

import json
import re

import keras
import numpy as np
import pytest

import keras_genai as kg
from tests.support.conformance import assert_same_state, host, state
from tests.support.short_run import StopAt

pytestmark = pytest.mark.in_turn


def build():
    model = kg.CGAN(
        image_shape=(8, 8, 1),
        num_classes=3,
        latent_dim=4,
        base_filters=4,
        generator_conditioning="conditional_batch_norm",
        discriminator_conditioning="projection",
        loss="hinge",
        penalties={"r1": 1.0},
        penalty_interval=3,
        ema_decay=0.9,
    )
    model.compile(
        generator_optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.ExponentialDecay(1e-3, 10, 0.9)
        ),
        discriminator_optimizer=keras.optimizers.Adam(
            1e-3, gradient_accumulation_steps=2
        ),
    )
    return model


def data(size=56):
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (size, 8, 8, 1)).astype("float32")
    return images, rng.integers(0, 3, size).astype("int32")


def fit(path=None, stop=None, every=2, epochs=3, callbacks=(), x=None, **kwargs):
    model = build()
    callbacks = list(callbacks)
    if path is not None:
        callbacks.append(kg.callbacks.Resume(path, every=every))
    if stop is not None:
        callbacks.append(StopAt(*stop))
    images, labels = data()
    given = (images, labels) if x is None else (x,)
    batch = {} if x is not None else {"batch_size": 8}
    try:
        model.fit(
            *given, epochs=epochs, verbose=0, callbacks=callbacks, **batch, **kwargs
        )
    except KeyboardInterrupt:
        assert stop is not None
    return model


def assert_same(model, other):
    assert_same_state(model, [host(v.value) for v in state(other)])


@pytest.fixture(scope="module")
def whole():
    return fit()


@pytest.mark.parametrize("stop", [(0, 1), (1, 0), (1, 5), (2, 6)])
def test_interrupted_anywhere(tmp_path, whole, stop, capsys):
    path = tmp_path / "logs" / "run.npz"
    fit(path, stop)
    resumed = fit(path)
    assert_same(resumed, whole)
    assert resumed.history.history["loss"][-1] == whole.history.history["loss"][-1]
    if stop != (0, 1):  # nothing was stored yet
        assert "Resuming from" in capsys.readouterr().out
    # Once more: the run is done, nothing is trained and nothing lost.
    assert_same(fit(path), whole)


class Batches(keras.utils.PyDataset):
    def __init__(self):
        super().__init__()
        self.images, self.labels = data()

    def __len__(self):
        return 7

    def __getitem__(self, index):
        rows = slice(8 * index, 8 * index + 8)
        return self.images[rows], self.labels[rows]


def test_a_pydataset_resumes_too(tmp_path):
    path = tmp_path / "run.npz"
    fit(path, (1, 4), x=Batches())
    assert_same(fit(path, x=Batches()), fit(x=Batches()))


@pytest.mark.parametrize("first", [True, False])
def test_a_learning_rate_that_another_callback_sets_is_set_once(tmp_path, first):
    def rates():
        return kg.callbacks.LearningRateScheduler(
            lambda epoch, rate: rate * 0.5, player="discriminator"
        )

    def run(path, stop=None):
        model = build()
        resume = [kg.callbacks.Resume(path, every=2)]
        callbacks = [rates(), *resume] if first else [*resume, rates()]
        if stop:
            callbacks.append(StopAt(*stop))
        try:
            model.fit(
                *data(),
                batch_size=8,
                epochs=3,
                verbose=0,
                callbacks=callbacks,
            )
        except KeyboardInterrupt:
            pass
        return model

    whole = run(tmp_path / "whole.npz")
    run(tmp_path / "cut.npz", (1, 5))
    assert_same(run(tmp_path / "cut.npz"), whole)


def test_another_run_and_a_damaged_file_are_refused_and_left(tmp_path):
    path = tmp_path / "run.npz"
    fit(path, epochs=1)
    content = path.read_bytes()
    model = build()
    images, labels = data(40)
    with pytest.raises(ValueError, match="belongs to another run.*batches per epoch"):
        model.fit(
            images,
            labels,
            batch_size=8,
            verbose=0,
            callbacks=[kg.callbacks.Resume(path)],
        )
    assert path.read_bytes() == content
    for damaged in (content[: len(content) // 2], b"text", b""):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            fit(path)
        assert path.read_bytes() == damaged


def test_a_full_disk_leaves_the_last_good_file(tmp_path, full_disk):
    path = tmp_path / "run.npz"
    fit(path, epochs=1)
    content = path.read_bytes()
    with full_disk(), pytest.raises(OSError):
        fit(path, epochs=2)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]
    fit(path, epochs=2)


def test_nan_stops_with_its_player_and_leaves_the_last_good_file(tmp_path):
    path = tmp_path / "run.npz"
    model = build()
    images, labels = data()

    class Break(keras.callbacks.Callback):
        epoch = None

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        # A loss that is not finite is told of in the background. So that the file is
        # to be written before that for sure: before a batch, not in a step.
        def on_train_batch_begin(self, batch, logs=None):
            if (self.epoch, batch) == (2, 1):
                layer = self.model.generator.layers[-2]
                layer.kernel.assign(np.full(layer.kernel.shape, np.nan))

    with (
        pytest.warns(UserWarning, match="run.npz is not written any more"),
        pytest.raises(FloatingPointError, match=r"at step 15.*run.npz holds the last"),
    ):
        model.fit(
            images,
            labels,
            batch_size=8,
            epochs=4,
            verbose=0,
            callbacks=[Break(), kg.callbacks.Resume(path, every=1)],
        )
    stored = build()
    stored.fit(
        images,
        labels,
        batch_size=8,
        epochs=2,
        verbose=0,
        callbacks=[kg.callbacks.Resume(path)],
    )
    assert all(np.all(np.isfinite(host(v.value))) for v in state(stored))
    assert keras.ops.convert_to_numpy(stored.noise.step) == 14


@pytest.mark.parametrize("argument", [{"every": 0}, {"every": 1.5}, {"seconds": 0}])
def test_bad_arguments_are_refused(tmp_path, argument):
    with pytest.raises(ValueError, match=next(iter(argument))):
        kg.callbacks.Resume(tmp_path / "x.npz", **argument)


# What a stored run is known by, on a small model.


def small(rate=1e-2, optimizer=keras.optimizers.Adam, seed=0, dtype=None, **arguments):
    model = kg.VAE(
        image_shape=(4, 4, 1), latent_dim=2, hidden_units=(4,), seed=seed, dtype=dtype
    )
    model.compile(optimizer(rate, **arguments))
    return model


def pictures(seed=0, size=8):
    return np.random.default_rng(seed).uniform(0, 1, (size, 4, 4, 1)).astype("float32")


def go_on(model, path, x=None, epochs=2, batch_size=4, callbacks=(), **resume):
    callbacks = [kg.callbacks.Resume(path, **resume), *callbacks]
    model.fit(
        pictures() if x is None else x,
        batch_size=batch_size,
        epochs=epochs,
        verbose=0,
        callbacks=callbacks,
    )
    return model


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    path = tmp_path_factory.mktemp("stored") / "run.npz"
    go_on(small(), path, epochs=1)
    return path


@pytest.mark.parametrize(
    ("model", "data", "name"),
    [
        ({"optimizer": keras.optimizers.Adamax}, {}, "vae's optimizer"),
        ({"beta_1": 0.5}, {}, "vae's beta_1"),
        ({"seed": 1}, {}, "seed"),
        ({}, {"x": pictures(1)}, "data"),
        ({}, {"x": pictures(size=16), "batch_size": 8}, "number of samples|batch size"),
        ({}, {"data": "named"}, "kind of data"),
    ],
)
def test_another_run_is_refused(stored, model, data, name):
    content = stored.read_bytes()
    with pytest.raises(ValueError, match=f"belongs to another run: its ({name}) is"):
        go_on(small(**model), stored, **data)
    assert stored.read_bytes() == content


def test_other_losses_are_refused(tmp_path):
    path = tmp_path / "run.npz"

    def gan(**arguments):
        model = kg.DCGAN((8, 8, 1), latent_dim=2, base_filters=2, **arguments)
        model.compile()
        resume = kg.callbacks.Resume(path)
        resume.set_model(model)
        resume.set_params({"steps": 1})
        return resume

    resume = gan()
    resume.on_train_begin()
    resume._write(1, 0)
    for arguments in ({"loss": "hinge"}, {"penalties": {"r1": 1.0}}):
        (name,) = arguments
        with pytest.raises(ValueError, match=f"another run: its {name} is"):
            gan(**arguments).on_train_begin()


def test_a_rate_that_compile_was_given_anew_is_kept(tmp_path, stored, capsys):
    path = tmp_path / "run.npz"
    for rate, message in (
        (1e-2, r"batch 0\.$"),
        (1e-3, r"learning rate is 0\.001, as compiled; in the file it is 0\.01\.$"),
        (
            keras.optimizers.schedules.ExponentialDecay(1e-3, 10, 0.9),
            "learning rate is the schedule, as compiled; in the file it is 0.01",
        ),
    ):
        path.write_bytes(stored.read_bytes())
        model = go_on(small(rate, clipnorm=None if rate == 1e-2 else 1.0), path)
        assert re.search(message, capsys.readouterr().out.strip())
        if isinstance(rate, float):
            assert float(model.optimizer.learning_rate) == pytest.approx(rate)


def test_a_rate_that_a_callback_has_set_goes_on(tmp_path, capsys):
    path = tmp_path / "run.npz"

    class Lower(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.model.optimizer.learning_rate = 1e-4

    go_on(small(), path, epochs=1, callbacks=[Lower()])
    for epochs in (2, 3):  # also after it went on once
        model = go_on(small(), path, epochs=epochs)
        assert float(model.optimizer.learning_rate) == pytest.approx(1e-4)
        assert "learning rate" not in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_state_that_is_not_finite_is_not_stored(tmp_path, dtype, value):
    path = tmp_path / "run.npz"
    model = small(dtype=dtype)
    resume = kg.callbacks.Resume(path)
    resume.set_model(model)
    resume.set_params({"steps": 2})
    resume.on_train_begin()
    resume._write(1, 0)
    content = path.read_bytes()
    moment = model.optimizer._velocities[0]
    moment.assign(np.full(moment.shape, value))
    with pytest.warns(UserWarning, match=f"not written any more: .*{moment.name}"):
        resume._write(2, 0)
    resume._write(2, 0)  # said once
    assert path.read_bytes() == content


def test_two_runs_on_one_path_and_a_folder_that_cannot_be_written(tmp_path):
    path = tmp_path / "run.npz"

    class Other(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            go_on(small(seed=2), path, epochs=1)

    with pytest.raises(ValueError, match="another run: its seed is 2, here 0"):
        go_on(small(), path, callbacks=[Other()])
    (tmp_path / "file").touch()
    model = small()
    with pytest.raises(ValueError, match="file cannot be written"):
        go_on(model, tmp_path / "file" / "run.npz")
    assert int(keras.ops.convert_to_numpy(model.noise.step.value)) == 0


def test_what_is_no_stored_run_is_refused(tmp_path, stored):
    path = tmp_path / "run.npz"
    with np.load(stored) as file:
        arrays = dict(file)
    meta = json.loads(arrays["meta"].tobytes())
    model = small()

    def check(match, **changed):
        content = {k: v for k, v in {**arrays, **changed}.items() if v is not None}
        if isinstance(content["meta"], (dict, list, str)):
            text = json.dumps(content["meta"]).encode()
            content["meta"] = np.frombuffer(text, "uint8")
        np.savez(path, **content)
        with pytest.raises(ValueError, match=f"run.npz is damaged.*{match}"):
            go_on(model, path)

    for name in ("fingerprint", "epoch", "batch", "rates"):
        for value in (None, "x", [], -1):
            check("", meta={**meta, name: value})
    check("", meta=[])
    check("no item named|no file|There is no", **{"0": None})
    check("variable 0 is", **{"0": arrays["0"].astype("complex64")})
    weights = next(name for name, a in arrays.items() if a.dtype == "float32")
    check("not finite", **{weights: np.full_like(arrays[weights], np.nan)})
    with open(path, "wb") as file:
        np.save(file, arrays["0"])
    with pytest.raises(ValueError, match="run.npz is damaged"):
        go_on(model, path)
    with open(path, "wb") as file:
        np.savez_compressed(file, **{**arrays, "0": np.zeros(10**7)})
    with pytest.raises(ValueError, match="unpacks from"):
        go_on(model, path)
