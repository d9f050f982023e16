"""Inception score: sharp classes, all of them (1606.03498, section 4)."""

import numpy as np

from keras_genai.metrics.metric import Metric, checked_features
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_integer
from keras_genai.utils.validation import array


class _Split:
    """What the score needs of a part of the samples: three sums."""

    def __init__(self):
        self.count, self.probabilities, self.negative_entropy = 0, 0.0, 0.0

    def add(self, p):
        self.count += len(p)
        self.probabilities = self.probabilities + p.sum(0)
        self.negative_entropy += _plogp(p)

    def score(self):
        # E KL(p(y|x) || p(y)) = E sum p(y|x) log p(y|x) - sum p(y) log p(y)
        marginal = self.probabilities / self.count
        return np.exp(self.negative_entropy / self.count - _plogp(marginal))


def _plogp(p):
    return float(np.sum(p * np.log(np.where(p > 0, p, 1.0))))


def _result(splits):
    filled = [split for split in splits if split.count]
    if not filled:
        raise ValueError("The inception score needs at least one generated sample.")
    scores = [split.score() for split in filled]
    return float(np.mean(scores)), float(np.std(scores))


def _checked_probabilities(p, what):
    p = checked_features(p, what)
    if p.size and (p.min() < -1e-6 or np.abs(p.sum(1) - 1.0).max() > 1e-3):
        raise ValueError(
            f"{what} must be probabilities: at least 0, each row with the sum 1. For a "
            "classifier that gives logits use from_logits=True, or a softmax."
        )
    return np.clip(p, 0.0, None)


@checked(probabilities=array(2))
def inception_score(probabilities: np.ndarray, splits: int = 10) -> tuple[float, float]:
    """`exp(E_x KL(p(y|x) || p(y)))` (1606.03498, section 4), at best the class count.

    Sample `i` goes to split `i mod splits`, where the paper's code cuts the samples
    into runs; so a set in the order of its labels has every class in every split.

    Args:
        probabilities: `(N, K)`, a classifier's `p(y|x)` of generated samples.
        splits: parts of which each has its score.

    Returns:
        `(mean, standard deviation)` of the scores of the splits.

    Raises:
        ValueError: for rows that are no probabilities, or no sample.

    Example:

    >>> import numpy as np
    >>> inception_score(np.tile(np.eye(10), (10, 1)), splits=1)[0].__round__(6)
    10.0
    """
    p = _checked_probabilities(probabilities, "probabilities")
    parts = [_Split() for _ in range(check_integer("splits", splits))]
    for i, part in enumerate(parts):
        part.add(p[i::splits])
    return _result(parts)


class InceptionScore(Metric):
    """The inception score of generated samples (1606.03498); see `inception_score`.

    Keeps three sums for each split, whatever the number of samples. Real samples are
    not looked at.

    Args:
        classifier: Keras model or callable, images -> `(B, K)`.
        from_logits: whether it gives logits; else probabilities.
        splits: parts of which each has its score.
        name: `"inception_score"`.

    `result()` gives `{"inception_score": mean, "inception_score_std": deviation}`.

    Example:

    ```python
    import keras_genai as kg

    score = kg.metrics.InceptionScore(kg.metrics.fashion_mnist_classifier())
    _, (images, _) = kg.datasets.load("fashion_mnist")
    score.update_generated(images)
    print(score.result())
    ```
    """

    uses_real = False

    @checked()
    def __init__(
        self,
        classifier,
        from_logits: bool = True,
        splits: int = 10,
        name: str = "inception_score",
    ):
        self.from_logits = from_logits
        self.splits = check_integer("splits", splits)
        super().__init__(classifier, name)

    def reset_state(self) -> None:
        self._parts = [_Split() for _ in range(self.splits)]
        self._seen = 0

    @checked(features=array(2, finite=False), condition=array((1, 2), finite=False))
    def add_generated(self, features: np.ndarray, condition=None) -> None:
        if self.from_logits:
            features = np.exp(features - features.max(1, keepdims=True))
            features /= features.sum(1, keepdims=True)
        p = _checked_probabilities(features, f"{self.name}: the classifier's output")
        number = (self._seen + np.arange(len(p))) % self.splits
        for i, part in enumerate(self._parts):
            part.add(p[number == i])
        self._seen += len(p)

    def result(self) -> dict[str, float]:
        mean, std = _result(self._parts)
        return {self.name: mean, f"{self.name}_std": std}
