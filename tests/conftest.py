"""What every test run begins with, and what it starts once."""

import pytest

# So that a failed assertion in the battery shows the values it compared.
pytest.register_assert_rewrite("tests.conformance", "tests.processes")


@pytest.fixture(scope="session")
def tensorflow_alone(tmp_path_factory):
    """The worker that runs SavedModels in TensorFlow alone."""
    from tests.processes import TensorFlowAlone

    worker = TensorFlowAlone(tmp_path_factory.mktemp("tensorflow_alone"))
    yield worker
    worker.close()


@pytest.fixture(scope="session")
def device_folder(tmp_path_factory):
    """The folder of what the processes of divided trainings say."""
    return tmp_path_factory.mktemp("devices")
