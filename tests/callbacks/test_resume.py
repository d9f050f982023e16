"""A run that is cut off and resumed ends with the weights of one that is not."""

import keras
import numpy as np
import pytest

import keras_genai as kg
from tests.conformance import assert_same_state, host, state


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


class StopAt(keras.callbacks.Callback):
    def __init__(self, epoch, batch):
        super().__init__()
        self.at = (epoch, batch)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if (self.epoch, batch) == self.at:
            raise KeyboardInterrupt


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
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                layer = self.model.generator.layers[-2]
                layer.kernel.assign(np.full(layer.kernel.shape, np.nan))

    with (
        pytest.warns(UserWarning, match="run.npz is not written any more"),
        pytest.raises(FloatingPointError, match=r"at step 14.*run.npz holds the last"),
    ):
        model.fit(
            images,
            labels,
            batch_size=8,
            epochs=4,
            verbose=0,
            callbacks=[kg.callbacks.Resume(path, every=1), Break()],
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
