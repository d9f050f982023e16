"""The recorder stands on private parts of PyTorch; without them steps run eagerly."""

import os
import subprocess
import sys

import keras
import pytest

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "torch", reason="Steps are recorded on PyTorch."
)
SCRIPT = """
import warnings
import numpy as np
import torch
if {without}:
    del torch._C._AutoDispatchBelowAutograd
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    import keras_genai as kg
told = [str(w.message) for w in said if "steps run eagerly" in str(w.message)]
assert len(told) == {without}, told
model = kg.VAE(image_shape=(4, 4, 1), latent_dim=2, hidden_units=(4,))
model.compile()
images = np.linspace(0, 1, 8 * 16, dtype="float32").reshape(8, 4, 4, 1)
model.fit(images, batch_size=2, epochs=4, verbose=0)
print(model.history.history["loss"], model.generate(2).tolist())
"""


@pytest.mark.processes
def test_without_what_it_needs_the_numbers_are_the_same():
    made = []
    for without in (0, 1):
        script = SCRIPT.format(without=without)
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "KERAS_BACKEND": "torch"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        made.append(done.stdout)
    assert made[0] == made[1]
