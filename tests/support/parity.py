"""How a network and its folder are compared with transformers' own."""

import pathlib
import tempfile

import numpy as np
from keras import ops

from keras_genai import backend
from tests.support.conformance import host


def shaken(network, scale=0.1, seed=0):
    """A reference whose weights are all random, biases and gains too."""
    import torch

    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "embed_positions" not in name:  # sines, which are in no file
                parameter.add_(scale * torch.randn_like(parameter))
    return network.eval()


def weighted(outputs, xp):
    """One number of several outputs that depends on each of their elements."""
    total = 0.0
    for i, y in enumerate(outputs):
        factors = np.random.default_rng(i).normal(size=tuple(y.shape))
        make = xp.convert_to_tensor if xp is ops else xp.from_numpy
        total = total + xp.sum(y * make(factors.astype("float32")))
    return total


def gradients_are_equal(run, entries, outputs, network, tolerance=1e-3):
    """The gradients of every weight against those that PyTorch gives of a reference.

    Args:
        run: function -> our outputs, a list of tensors.
        entries: the table of the family.
        outputs: the reference's outputs, still in its graph.
        network: the reference.
        tolerance: relative to each weight's own norm.
    """
    wanted = file_gradients(outputs, network)
    by_entry = {}
    for entry in entries:
        name = next(n for n in (entry.name, *entry.aliases) if n in wanted)
        by_entry[id(entry.variable)] = entry, wanted[name]
    # A file may hold several of our variables side by side, as one tensor.
    parts = [
        getattr(e.variable, "variables", [e.variable]) for e, _ in by_entry.values()
    ]
    variables = [variable for part in parts for variable in part]
    _, made = backend.value_and_gradients(lambda: weighted(run(), ops), variables)
    made = iter([host(ops.convert_to_tensor(g)) for g in made])
    gradients = [
        np.concatenate([next(made) for _ in part], -1) if len(part) > 1 else next(made)
        for part in parts
    ]
    largest = max(np.abs(g).max() for _, g in by_entry.values())
    for (entry, want), got in zip(by_entry.values(), gradients, strict=True):
        want = entry.ours(want.reshape(entry.shape))
        # A shift of the keys changes no softmax: that gradient is 0 but for rounding,
        # which is another on each machine. Then ours must be 0 in the same way.
        rounding = np.finfo("float32").eps * largest * np.sqrt(want.size)
        if np.linalg.norm(want) <= rounding:
            assert np.linalg.norm(got) <= rounding, entry.name
            continue
        scale = max(np.linalg.norm(want), 1e-4 * largest)
        error = np.linalg.norm(got - want) / scale
        assert error <= tolerance, f"{entry.name}: {error}"


def file_gradients(outputs, network):
    """PyTorch's gradients by the names that the weights have in a file."""
    import torch
    from safetensors.numpy import load_file

    network.zero_grad()
    weighted(outputs, torch).backward()
    kept = [(p, p.detach().clone()) for p in network.parameters()]
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        for parameter, _ in kept:
            gradient = parameter.grad
            parameter.copy_(torch.zeros(()) if gradient is None else gradient)
        network.save_pretrained(folder)
        for parameter, value in kept:
            parameter.copy_(value)
        return load_file(pathlib.Path(folder) / "model.safetensors")


def same_tensors(first, second):
    """Whether two folders hold the same tensors to the bit."""
    from safetensors.numpy import load_file

    a, b = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert set(a) == set(b)
    for name, array in a.items():
        np.testing.assert_array_equal(array, b[name], err_msg=name)
