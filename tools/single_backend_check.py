"""Check that the package works where one backend is installed and no other.

    KERAS_BACKEND=torch .venv-torch/bin/python tools/single_backend_check.py

`tools/test.py` makes the environments and runs this in each. A tiny DCGAN trains,
generates, is saved and loaded; TensorFlow, keras-cv and the other backend cannot be
imported; the export, which needs TensorFlow, says so.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

BACKEND = os.environ.get("KERAS_BACKEND", "")
NEVER_NEEDED = {"tensorflow", "jax", "torch", "keras_cv"} - {BACKEND}


def main() -> None:
    """Run the checks; an assertion or any other error ends the process with 1."""
    check_absent()
    # Everything that the installed packages declare as needed is there.
    subprocess.run([sys.executable, "-P", "-m", "pip", "check"], check=True)

    import keras

    import keras_genai as kg

    assert keras.backend.backend() == BACKEND, keras.backend.backend()
    images = np.random.default_rng(0).uniform(-1, 1, (24, 16, 16, 1)).astype("float32")
    model = kg.DCGAN(image_shape=(16, 16, 1), latent_dim=8, base_filters=8, seed=0)
    model.compile()
    history = model.fit(images, batch_size=8, epochs=1, verbose=0).history
    for name in ("discriminator_loss", "generator_loss"):
        assert np.isfinite(history[name]).all(), history
    samples = model.generate(4, seed=0)
    assert isinstance(samples, np.ndarray), type(samples)
    assert samples.shape == (4, 16, 16, 1), samples.shape
    assert samples.dtype == np.float32, samples.dtype
    assert np.abs(samples).max() <= 1, np.abs(samples).max()

    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model.keras")
        loaded = kg.load_model(Path(folder) / "model.keras")
        np.testing.assert_allclose(loaded.generate(4, seed=0), samples, atol=1e-6)
        try:
            model.export(Path(folder) / "served")
        except ImportError as error:
            assert "tensorflow" in str(error).lower(), error
        else:
            raise AssertionError("export did not say that it needs TensorFlow")
    check_absent()
    print(f"{BACKEND} alone: trained, generated, saved and loaded")


def check_absent() -> None:
    """None of the packages that are never needed can be imported."""
    for name in sorted(NEVER_NEEDED):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            assert error.name == name, error
        else:
            raise AssertionError(f"{name} is installed here; the check means nothing")


if __name__ == "__main__":
    main()
