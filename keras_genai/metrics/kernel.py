"""KID: the kernel distance of features, without bias (1801.01401)."""

import warnings

import numpy as np

from keras_genai.metrics.metric import SampledMetric, checked_pair
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_integer
from keras_genai.utils.validation import array


def _mmd2(x, y):
    """The unbiased MMD^2 of 1801.01401, section 4, with its cubic kernel."""
    m, size = x.shape

    def kernel(a, b):
        k = a @ b.T  # (m, m)
        k /= size
        k += 1.0
        return k * k * k

    def others(a):  # k(x_i, x_j) over i != j
        k = kernel(a, a)
        return (k.sum() - np.trace(k)) / (m * (m - 1))

    return others(x) + others(y) - 2.0 * kernel(x, y).mean()


@checked(real_features=array(finite=False), generated_features=array(finite=False))
def kid(
    real_features: np.ndarray,
    generated_features: np.ndarray,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """The kernel distance: MMD^2 with `k(x, y) = (x.y / F + 1)^3` (1801.01401).

    The mean over random subsets of the unbiased estimator of section 4; unlike FID it
    is not biased by the number of samples, and may be a little below 0.

    Args:
        real_features: `(N, F)`.
        generated_features: `(M, F)`.
        subsets: how many.
        subset_size: samples of each set in a subset, drawn without repetition. Where a
            set has fewer, subsets are as large as the smaller set, with a warning.
        seed: of the subsets.

    Returns:
        `(mean, standard deviation)` over the subsets.

    Raises:
        ValueError: for other shapes, fewer than two samples, or NaNs.

    Example:

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> value, _ = kid(rng.normal(size=(2000, 4)), rng.normal(size=(2000, 4)))
    >>> abs(value) < 0.01
    True
    """
    real, generated = checked_pair(real_features, generated_features)
    check_integer("subsets", subsets)
    check_integer("subset_size", subset_size, 2)
    fewest = min(len(real), len(generated))
    if fewest < 2:
        raise ValueError(
            f"KID needs at least two samples of each set; got {len(real)} real and "
            f"{len(generated)} generated ones."
        )
    if fewest < subset_size:
        warnings.warn(
            f"KID of {fewest} samples with subset_size={subset_size}: the subsets have "
            f"{fewest}, so they overlap and kid_std is too small. Use more samples or "
            "a smaller subset_size.",
            stacklevel=2,
        )
        subset_size = fewest
    rng = np.random.default_rng(check_integer("seed", seed, 0))
    values = [
        _mmd2(
            real[rng.choice(len(real), subset_size, replace=False)],
            generated[rng.choice(len(generated), subset_size, replace=False)],
        )
        for _ in range(subsets)
    ]
    return float(np.mean(values)), float(np.std(values))


class KernelInceptionDistance(SampledMetric):
    """KID (1801.01401): the unbiased kernel distance of features; see `kid`.

    Keeps at most `max_samples` features of each set in float32, chosen by reservoir
    sampling, so that memory stays at `8 * max_samples * F` bytes (160 MB for 10,000 of
    2,048) and one subset's matrices.

    Args:
        extractor: Keras model or callable, images -> features `(B, F)`.
        subsets: how many random subsets are averaged.
        subset_size: samples of each set in a subset.
        max_samples: features kept of each set.
        seed: of the samples kept and of the subsets.
        name: `"kid"`.

    `result()` gives `{"kid": mean, "kid_std": standard deviation}`.

    Example:

    ```python
    import keras_genai as kg

    kid = kg.metrics.KID(kg.metrics.fashion_mnist_features())
    (images, _), (test_images, _) = kg.datasets.load("fashion_mnist")
    kid.update_real(images[:2000])
    kid.update_generated(test_images[:2000])
    print(kid.result())
    ```
    """

    @checked()
    def __init__(
        self,
        extractor,
        subsets: int = 100,
        subset_size: int = 1000,
        max_samples: int = 10_000,
        seed: int = 0,
        name: str = "kid",
    ):
        self.subsets = check_integer("subsets", subsets)
        self.subset_size = check_integer("subset_size", subset_size, 2)
        super().__init__(extractor, name, max_samples, seed)

    def result(self) -> dict[str, float]:
        mean, std = kid(
            self._real.rows,
            self._generated.rows,
            self.subsets,
            self.subset_size,
            self.seed,
        )
        return {self.name: mean, f"{self.name}_std": std}


KID = KernelInceptionDistance
