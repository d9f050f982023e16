"""What every test run begins with, and what it starts once."""

import contextlib
import gc
import os

# As the package sets it where it is imported first, as in the processes of the tests.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras
import pytest

# So that a failed assertion in the battery shows the values it compared.
pytest.register_assert_rewrite("tests.support.conformance", "tests.support.processes")


def pytest_collection_finish(session):
    """What is imported stays: collections of garbage need not look at it again."""
    gc.collect()
    gc.freeze()


def pytest_generate_tests(metafunc):
    """The ways to divide a training that a class is run in."""
    if "way" in metafunc.fixturenames and hasattr(metafunc.cls, "ways"):
        name = metafunc.definition.parent.name
        metafunc.parametrize("way", metafunc.cls.ways(name))


def pytest_collection_modifyitems(items):
    """What has nothing to do with a backend is run with one, or with two in turn."""
    from tests.support.conformance import BACKEND, THOROUGH, in_turn

    if BACKEND == "torch" or THOROUGH:
        return
    once = pytest.mark.skip(reason="Run with PyTorch; elsewhere by --thorough.")
    turn = pytest.mark.skip(
        reason="Run with PyTorch and the other backend that compiles; here by "
        "--thorough."
    )
    for item in items:
        if item.get_closest_marker("once"):
            item.add_marker(once)
        elif item.get_closest_marker("in_turn") and not _chosen(item):
            name = f"{item.path.stem} {item.name}"
            if in_turn(name, ("tensorflow", "jax")) != BACKEND:
                item.add_marker(turn)


def _chosen(item):
    """Whether a test says by itself which backends run it."""
    return "way" in item.fixturenames or item.get_closest_marker("skipif") is not None


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item):
    """From here on the time is the test's (`tools/test.py --profile`)."""
    from tests.support import spent

    item.stash[_BEGAN] = spent.seconds()
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item):
    """Its time goes into the JUnit report, with what it set up for others."""
    from tests.support import spent

    try:
        return (yield)
    finally:
        seconds = spent.seconds() - item.stash[_BEGAN]
        item.user_properties.append(("process_seconds", round(seconds, 3)))


_BEGAN = pytest.StashKey[float]()


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """What a module's tests compiled goes with it: else it adds up to gigabytes."""
    yield
    if keras.backend.backend() == "jax":
        import jax

        jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def tensorflow_alone(tmp_path_factory):
    """The worker that runs SavedModels in TensorFlow alone."""
    from tests.support.processes import TensorFlowAlone

    worker = TensorFlowAlone(tmp_path_factory.mktemp("tensorflow_alone"))
    yield worker
    worker.close()


@pytest.fixture(scope="session")
def _tensorflow_writer(tmp_path_factory):
    from tests.support.processes import TensorFlowWriter

    worker = TensorFlowWriter(tmp_path_factory.mktemp("tensorflow_writer"))
    yield worker
    worker.close()


@pytest.fixture
def kept_child(request, monkeypatch):
    """Exports from JAX and PyTorch are written by one process for the whole run."""
    if keras.backend.backend() != "tensorflow":
        writer = request.getfixturevalue("_tensorflow_writer")
        monkeypatch.setattr("keras_genai.export.child.run", writer.ask)


@pytest.fixture(scope="session")
def device_folder(tmp_path_factory):
    """The folder of what the processes of divided trainings say."""
    return tmp_path_factory.mktemp("devices")


@pytest.fixture
def full_disk():
    """A function -> a context in which every file ends after so many bytes."""
    resource = pytest.importorskip("resource", reason="Windows limits no file's size.")

    @contextlib.contextmanager
    def limited(size=1000):
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
