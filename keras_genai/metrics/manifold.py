"""Precision and recall (1904.06991), density and coverage (2002.09797).

All four ask which samples lie in balls around the samples of the other set, each ball
as large as the distance to the k-th nearest neighbour in its own set.
"""

import numpy as np

from keras_genai.metrics.metric import SampledMetric, checked_pair
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_integer
from keras_genai.utils.validation import array

_BLOCK_BYTES = 32 * 2**20  # of a block of distances; a few are alive at once


def _distances(rows, columns, norms):
    """The squared distance of each row to each column: `(N, M)`."""
    block = (-2.0 * rows) @ columns.T
    block += norms
    block += _norms(rows)[:, None]
    return np.maximum(block, 0.0, out=block)


def _norms(x):
    return np.einsum("ij,ij->i", x, x)


def _blocks(rows, columns):
    """Yields `(slice, squared distances of rows[slice] to all columns)`."""
    norms = _norms(columns)
    for part in _slices(len(rows), _BLOCK_BYTES // (8 * max(1, len(columns)))):
        yield part, _distances(rows[part], columns, norms)


def _slices(count, size):
    size = max(1, size)
    return [slice(start, start + size) for start in range(0, count, size)]


def _radii(x, k):
    """The squared distance of each row to its k-th nearest other row: `(N,)`."""
    nearest, norms = np.full((len(x), k), np.inf), _norms(x)
    parts = _slices(len(x), int((_BLOCK_BYTES / 8) ** 0.5))
    for i, a in enumerate(parts):
        for b in parts[i:]:  # a distance counts for both of its ends
            block = _distances(x[a], x[b], norms[b])
            if a is b:
                np.fill_diagonal(block, np.inf)  # not its own neighbour
            else:
                _keep_nearest(nearest[b], block.T)
            _keep_nearest(nearest[a], block)
    return nearest.max(1)


def _keep_nearest(nearest, distances):
    """Puts the smallest of each row's `distances` and `nearest` into `nearest`."""
    k = nearest.shape[1]
    if distances.shape[1] > k:
        distances = np.partition(distances, k - 1, axis=1)[:, :k]
    both = np.concatenate([nearest, distances], axis=1)
    both.partition(k - 1, axis=1)
    nearest[:] = both[:, :k]


def _prepared(real, generated, k, name):
    real, generated = checked_pair(real, generated)
    check_integer("k", k)
    if min(len(real), len(generated)) <= k:
        raise ValueError(
            f"{name} with k={k} needs more than {k} samples of each set; got "
            f"{len(real)} real and {len(generated)} generated ones."
        )
    # Distances do not change by it, and less cancels in |a|^2 + |b|^2 - 2 a.b.
    middle = real.mean(0)
    return real - middle, generated - middle


@checked(real_features=array(finite=False), generated_features=array(finite=False))
def precision_recall(
    real_features: np.ndarray, generated_features: np.ndarray, k: int = 3
) -> tuple[float, float]:
    """Improved precision and recall (1904.06991, section 2, equations 1 and 2).

    Precision is the share of generated samples inside the balls of real samples,
    recall the share of real samples inside the balls of generated ones. Distances are
    computed in blocks of at most 32 MB.

    Args:
        real_features: `(N, F)`.
        generated_features: `(M, F)`; the paper takes M = N.
        k: the neighbour whose distance is the radius.

    Returns:
        `(precision, recall)`, each in [0, 1].

    Raises:
        ValueError: for other shapes, no more than k samples in a set, or NaNs.

    Example:

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 2))
    >>> precision_recall(x, x + 100.0)
    (0.0, 0.0)
    """
    real, generated = _prepared(
        real_features, generated_features, k, "precision_recall"
    )
    real_radii, generated_radii = _radii(real, k), _radii(generated, k)
    precise = np.zeros(len(generated), bool)
    recalled = np.zeros(len(real), bool)
    for part, block in _blocks(real, generated):
        precise |= (block <= real_radii[part, None]).any(0)
        recalled[part] = (block <= generated_radii).any(1)
    return float(precise.mean()), float(recalled.mean())


@checked(real_features=array(finite=False), generated_features=array(finite=False))
def density_coverage(
    real_features: np.ndarray, generated_features: np.ndarray, k: int = 5
) -> tuple[float, float]:
    """Density and coverage (2002.09797, section 3, equations 3 and 4).

    Density counts, for each generated sample, the real balls around it, over k: about
    1 for equal distributions, and it may be more. Coverage is the share of real balls
    with a generated sample inside. Distances are computed in blocks of at most 32 MB.

    Args:
        real_features: `(N, F)`.
        generated_features: `(M, F)`.
        k: the neighbour whose distance is the radius.

    Returns:
        `(density, coverage)`, at least 0 and in [0, 1].

    Raises:
        ValueError: as `precision_recall`.

    Example:

    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(100, 2))
    >>> density_coverage(x, x + 100.0)
    (0.0, 0.0)
    """
    real, generated = _prepared(
        real_features, generated_features, k, "density_coverage"
    )
    radii = _radii(real, k)
    inside, covered = 0, 0
    for part, block in _blocks(real, generated):
        balls = block < radii[part, None]  # open ones, as in the authors' code
        inside += int(balls.sum())
        covered += int(balls.any(1).sum())
    return inside / (k * len(generated)), covered / len(real)


class _TwoShares(SampledMetric):
    """A function of both samples with two results.

    A name that the user gave goes before the results' own.
    """

    function = None  # static: (real features, generated features, k) -> two floats
    default_name = None
    results = ()

    def __init__(self, extractor, k, max_samples, seed, name):
        self.k = check_integer("k", k)
        super().__init__(extractor, name, max_samples, seed)

    def result(self) -> dict[str, float]:
        values = self.function(self._real.rows, self._generated.rows, self.k)
        prefix = "" if self.name == self.default_name else f"{self.name}_"
        return {prefix + n: v for n, v in zip(self.results, values, strict=True)}


class PrecisionRecall(_TwoShares):
    """Precision and recall of generated samples (1904.06991); see `precision_recall`.

    Keeps at most `max_samples` features of each set in float32, chosen by reservoir
    sampling, so that memory stays at `8 * max_samples * F` bytes while samples come
    in, and about four times as much during `result()`, which computes in float64.

    Args:
        extractor: Keras model or callable, images -> features `(B, F)`.
        k: the neighbour whose distance is a ball's radius; 3 in the paper.
        max_samples: features kept of each set.
        seed: of the choice of the samples kept.
        name: what errors call it; another than the default goes before the results'
            names.

    `result()` gives `{"precision": ..., "recall": ...}`.

    Example:

    ```python
    import keras_genai as kg

    metric = kg.metrics.PrecisionRecall(kg.metrics.fashion_mnist_features())
    (images, _), (test_images, _) = kg.datasets.load("fashion_mnist")
    metric.update_real(images[:2000])
    metric.update_generated(test_images[:2000])
    print(metric.result())
    ```
    """

    function = staticmethod(precision_recall)
    default_name = "precision_recall"
    results = ("precision", "recall")

    @checked()
    def __init__(
        self,
        extractor,
        k: int = 3,
        max_samples: int = 10_000,
        seed: int = 0,
        name: str = "precision_recall",
    ):
        super().__init__(extractor, k, max_samples, seed, name)


class DensityCoverage(_TwoShares):
    """Density and coverage of generated samples (2002.09797); see `density_coverage`.

    Memory is that of `PrecisionRecall`.

    Args:
        extractor: Keras model or callable, images -> features `(B, F)`.
        k: the neighbour whose distance is a ball's radius; 5 in the paper.
        max_samples: features kept of each set.
        seed: of the choice of the samples kept.
        name: what errors call it; another than the default goes before the results'
            names.

    `result()` gives `{"density": ..., "coverage": ...}`.

    Example:

    ```python
    import keras_genai as kg

    metric = kg.metrics.DensityCoverage(kg.metrics.fashion_mnist_features())
    (images, _), (test_images, _) = kg.datasets.load("fashion_mnist")
    metric.update_real(images[:2000])
    metric.update_generated(test_images[:2000])
    print(metric.result())
    ```
    """

    function = staticmethod(density_coverage)
    default_name = "density_coverage"
    results = ("density", "coverage")

    @checked()
    def __init__(
        self,
        extractor,
        k: int = 5,
        max_samples: int = 10_000,
        seed: int = 0,
        name: str = "density_coverage",
    ):
        super().__init__(extractor, k, max_samples, seed, name)
