"""Class agreement: is a generated sample what was asked for?"""

import numpy as np

from keras_genai.metrics.metric import Metric
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import array


class ClassAgreement(Metric):
    """Share of generated samples that a classifier gives the class asked for.

    The classifier's own accuracy on real images bounds what can be asked of generated
    ones. Keeps two counts for each class; real samples are not looked at.

    Args:
        classifier: Keras model or callable, images -> logits or probabilities
            `(B, K)`.
        name: `"class_agreement"`.

    `result()` gives `{"class_agreement": share}`; `by_class()` the share of each
    class. `update_generated` needs `condition`, the labels asked for: integers `(B,)`
    in [0, K).

    Example:

    ```python
    import keras_genai as kg

    agreement = kg.metrics.ClassAgreement(kg.metrics.fashion_mnist_classifier())
    _, (images, labels) = kg.datasets.load("fashion_mnist")
    agreement.update_generated(images, labels)      # here: the classifier's accuracy
    print(agreement.result(), agreement.by_class())
    ```
    """

    uses_real = False
    needs_condition = True

    @checked()
    def __init__(self, classifier, name: str = "class_agreement"):
        super().__init__(classifier, name)

    def reset_state(self) -> None:
        self._asked = self._found = None

    @checked(features=array(2, finite=False), condition=array((1, 2), finite=False))
    def add_generated(self, features: np.ndarray, condition=None) -> None:
        count, classes = features.shape
        if condition is None:
            raise ValueError(
                f"{self.name} judges samples by the class asked for: give it as "
                "condition=labels, integers (B,)."
            )
        labels = np.asarray(condition).reshape(-1)
        if len(labels) != count or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f"{self.name}: condition must be {count} integer labels, one for each "
                f"sample; got {labels.dtype} {np.shape(condition)}."
            )
        if count and not 0 <= labels.min() <= labels.max() < classes:
            raise ValueError(
                f"{self.name}: the classifier knows labels from 0 to {classes - 1}; "
                f"got {labels.min()} to {labels.max()}."
            )
        if self._asked is None:
            self._asked = np.zeros(classes, "int64")
            self._found = np.zeros(classes, "int64")
        right = features.argmax(1) == labels
        self._asked += np.bincount(labels, minlength=classes)
        self._found += np.bincount(labels[right], minlength=classes)

    def by_class(self) -> np.ndarray:
        """The share in each class: float64 `(K,)`, NaN where none was asked for."""
        self._check_asked()
        asked = np.where(self._asked > 0, self._asked, np.nan)
        return self._found / asked

    def result(self) -> dict[str, float]:
        self._check_asked()
        return {self.name: float(self._found.sum() / self._asked.sum())}

    def _check_asked(self):
        if self._asked is None or not self._asked.sum():
            raise ValueError(f"{self.name} needs at least one generated sample.")
