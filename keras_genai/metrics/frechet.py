"""FID: the Fréchet distance of features (1706.08500)."""

import warnings

import numpy as np

from keras_genai.metrics.metric import Metric, checked_features, checked_pair
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import array

# Rows that wait until their products are added: one large product in place of many.
_ROWS = 1024


class Moments:
    """Mean and covariance of a stream of rows, in float64.

    Batches are joined by the pairwise update of Chan, Golub and LeVeque (1979): each
    batch is centred by its own mean, so that nothing cancels, and memory does not
    grow with the number of rows.
    """

    def __init__(self):
        self.count = 0
        self.mean = self._scatter = self._waiting = self._work = None
        self._filled = 0

    def add(self, rows: np.ndarray) -> None:
        """Adds rows `(B, F)`."""
        rows = np.asarray(rows)
        if self._scatter is None:
            size = rows.shape[1]
            self.mean = np.zeros(size)
            self._scatter = np.zeros((size, size))
            self._work = np.empty((size, size))
            self._waiting = np.empty((_ROWS, size))
        if rows.shape[1] != len(self.mean):
            raise ValueError(
                f"The features changed their number from {len(self.mean)} to "
                f"{rows.shape[1]}; call reset_state() before another extractor."
            )
        start = 0
        while start < len(rows):
            take = min(_ROWS - self._filled, len(rows) - start)
            self._waiting[self._filled : self._filled + take] = rows[
                start : start + take
            ]
            self._filled += take
            start += take
            if self._filled == _ROWS:
                self._join()

    def _join(self):
        rows = self._waiting[: self._filled]
        if not len(rows):
            return
        mean = rows.mean(0)
        rows -= mean  # the block is not needed again
        total = self.count + len(rows)
        shift = mean - self.mean
        self._scatter += np.matmul(rows.T, rows, out=self._work)
        if self.count:
            factor = self.count * len(rows) / total
            self._scatter += np.multiply.outer(shift * factor, shift, out=self._work)
        self.mean += shift * (len(rows) / total)
        self.count = total
        self._filled = 0

    def covariance(self) -> np.ndarray:
        """The unbiased covariance `(F, F)` of all rows so far."""
        self._join()
        return self._scatter / (self.count - 1)

    def __len__(self):
        return self.count + self._filled


@checked(
    mean1=array((0, 1)),
    cov1=array((0, 2)),
    mean2=array((0, 1)),
    cov2=array((0, 2)),
)
def frechet_distance(
    mean1: np.ndarray, cov1: np.ndarray, mean2: np.ndarray, cov2: np.ndarray
) -> float:
    """The squared Fréchet (2-Wasserstein) distance of two Gaussians.

    `|mu1 - mu2|^2 + Tr(S1 + S2 - 2 (S1^(1/2) S2 S1^(1/2))^(1/2))` (1706.08500, equation
    6, in the form of Dowson and Landau (1982)). The last trace is the sum of the
    singular values of `S1^(1/2) S2^(1/2)`: all real, and exact to rounding where the
    square root of a singular matrix is not. No SciPy is needed.

    Args:
        mean1: `(F,)`.
        cov1: `(F, F)`, symmetric, no negative eigenvalue but by rounding.
        mean2: `(F,)`.
        cov2: `(F, F)`.

    Returns:
        The distance, at least 0, in the features' units squared.

    Raises:
        ValueError: for other shapes, values that are not finite, or a matrix that is
            no covariance.

    Example:

    >>> import numpy as np
    >>> frechet_distance(np.zeros(2), np.eye(2), np.ones(2), 4 * np.eye(2))
    4.0
    """
    mean1, mean2 = (np.atleast_1d(np.asarray(m, "float64")) for m in (mean1, mean2))
    cov1, cov2 = (np.atleast_2d(np.asarray(c, "float64")) for c in (cov1, cov2))
    size = len(mean1)
    shapes = [a.shape for a in (mean1, cov1, mean2, cov2)]
    if shapes != [(size,), (size, size)] * 2:
        raise ValueError(
            "mean1, cov1, mean2 and cov2 must be means (F,) and covariances (F, F) of "
            f"one F; got {', '.join(map(str, shapes))}."
        )
    root1, root2 = _root(cov1), _root(cov2)  # (F, r), S = root root^T
    cross = np.linalg.svd(root1.T @ root2, compute_uv=False).sum()
    distance = np.sum((mean1 - mean2) ** 2) + np.trace(cov1) + np.trace(cov2)
    return max(float(distance - 2.0 * cross), 0.0)


def _root(cov):
    """`R (F, r)` with `R R^T = cov`: its Cholesky factor, or one of lower rank."""
    scale = np.abs(cov).max()
    if np.abs(cov - cov.T).max() <= 1e-6 * scale:
        try:
            return np.linalg.cholesky(cov)
        except np.linalg.LinAlgError:  # singular: fewer samples than features
            values, vectors = np.linalg.eigh(cov)
            if values[0] >= -1e-6 * scale:
                # What is below rounding of the largest is 0; its root is not small.
                kept = values > len(values) * np.finfo("float64").eps * values[-1]
                return vectors[:, kept] * np.sqrt(values[kept])
    raise ValueError(
        "frechet_distance takes covariances: symmetric, without negative eigenvalues."
    )


@checked(real_features=array(finite=False), generated_features=array(finite=False))
def fid(real_features: np.ndarray, generated_features: np.ndarray) -> float:
    """The Fréchet distance of two sets of features (1706.08500, section 3).

    Args:
        real_features: `(N, F)`.
        generated_features: `(M, F)`.

    Returns:
        The distance, at least 0. It is biased upwards for small sets: compare values
        of equal N and M alone, and with the value of real against real samples.

    Raises:
        ValueError: for other shapes, fewer than two samples, or NaNs.

    Example:

    >>> import numpy as np
    >>> features = np.random.default_rng(0).normal(size=(100, 8))
    >>> round(fid(features, features + 1.0), 6)
    8.0
    """
    real, generated = checked_pair(real_features, generated_features)
    moments = []
    for rows in (real, generated):
        one = Moments()
        one.add(rows)
        moments.append(one)
    return _distance(*moments)


def _distance(real, generated):
    for which, moments in (("real", real), ("generated", generated)):
        if len(moments) < 2:
            raise ValueError(
                f"FID needs at least two {which} samples; got {len(moments)}."
            )
    size = len(real.mean)
    fewest = min(len(real), len(generated))
    if fewest <= size:
        warnings.warn(
            f"FID of {fewest} samples with {size} features: a covariance of n samples "
            "has a rank below n, so it misses directions, and the value is far too "
            "high. Use more samples than features (10,000 and more for Inception), or "
            "KID, which is unbiased.",
            stacklevel=3,
        )
    covs = real.covariance(), generated.covariance()
    return frechet_distance(real.mean, covs[0], generated.mean, covs[1])


class FrechetInceptionDistance(Metric):
    """FID (1706.08500): the Fréchet distance of the features' Gaussians.

    Keeps a mean and a matrix of `F x F` for each set, in float64, whatever the number
    of samples. Images are floats in [-1, 1]. With `kg.metrics.inception_v3()` the
    value is the published FID; with another extractor it is a distance of its own
    scale.

    Args:
        extractor: Keras model or callable, images -> features `(B, F)`.
        name: `"fid"`.

    `result()` gives `{"fid": value}`; it warns when a set has no more samples than
    features, and raises a `ValueError` below two samples.

    Example:

    ```python
    import keras_genai as kg

    (images, _), (test_images, _) = kg.datasets.load("fashion_mnist")
    fid = kg.metrics.FID(kg.metrics.fashion_mnist_features())
    fid.update_real(images[:2000])
    fid.update_generated(test_images[:2000])
    print(fid.result())
    ```
    """

    @checked()
    def __init__(self, extractor, name: str = "fid"):
        super().__init__(extractor, name)

    def reset_state(self) -> None:
        self._real, self._generated = Moments(), Moments()

    @checked(features=array(2, finite=False))
    def add_real(self, features: np.ndarray) -> None:
        self._real.add(checked_features(features, "fid: the features"))

    @checked(features=array(2, finite=False), condition=array((1, 2), finite=False))
    def add_generated(self, features: np.ndarray, condition=None) -> None:
        self._generated.add(checked_features(features, "fid: the features"))

    def result(self) -> dict[str, float]:
        return {self.name: _distance(self._real, self._generated)}


FID = FrechetInceptionDistance
