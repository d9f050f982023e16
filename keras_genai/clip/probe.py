"""Linear probes: what a logistic regression of the embeddings finds (2103.00020)."""

import warnings

import numpy as np

from keras_genai.clip.classifier import EmbeddingClassifier, labels_of
from keras_genai.export.child import check_installed
from keras_genai.training.fingerprint import fingerprint
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import having, integer, number, refuse

# Exponents of the penalty 1 / C, 2103.00020, appendix A.3.
_FIRST, _LAST, _STEP = -6.0, 6.0, 2.0
_FINEST = 1 / 8  # of a decade


class LinearProbe(EmbeddingClassifier):
    """A logistic regression of a CLIP's image embeddings (2103.00020, appendix A.3).

    The tower is not trained. scikit-learn fits the regression by L-BFGS, in at most
    1,000 iterations. Without `C` its penalty is swept over 1 / C from 1e-6 to 1e6, by
    two decades, then around the best in halves down to an eighth of a decade; what is
    best on validation data is fitted once more to both parts together.

    The embeddings are those of `encode_image`. (The paper takes its vision
    transformers' vectors before their projection.)

    Args:
        clip: `kg.CLIP`.
        C: inverse of the penalty, over 0; None sweeps it.
        max_iter: most iterations of a fit.

    Attributes:
        class_names: tuple of the labels, in order, once it is fitted.
        C: that of the fit.
        sweep: dict C -> accuracy on the validation data, of every C that was tried.

    Example:

    ```python
    probe = kg.clip.LinearProbe(model)
    probe.fit(images, labels, validation_data=(more_images, more_labels))
    probe.evaluate(test_images, test_labels)                # {"accuracy": ...}
    probe.classify(images)                                  # (N, K)
    ```
    """

    activation = "softmax"

    @checked(
        clip=having("encode_image image_variables", "a kg.CLIP"),
        C=number("> 0"),
        max_iter=integer(1),
    )
    def __init__(self, clip, C=None, max_iter=1000):
        self.clip = clip
        self.C = C
        self.max_iter = max_iter
        self.sweep = {}
        self.class_names = ()
        self._sweeps = C is None
        self._weights = self._made_with = None

    @checked(labels=None)
    def fit(self, images, labels, validation_data=None, *, batch_size=64):
        """Fits the regression.

        Args:
            images: floats `(N, H, W, C)` in [-1, 1].
            labels: N integers or strings.
            validation_data: `(images, labels)`, by which C is chosen. Where C is given
                it is no part of the fit.
            batch_size: images in one pass.

        Returns:
            The probe.

        Raises:
            ValueError: numbers that differ, labels of one class alone, or no
                validation data where C is to be chosen.
            ImportError: scikit-learn is not installed.
        """
        check_installed(["sklearn"], "A linear probe", "'keras-genai[clip]'")
        labels = labels_of("labels", labels, len(images))
        if len(set(labels.tolist())) < 2:
            raise ValueError("labels must be of two classes or more.")
        if self._sweeps and validation_data is None:
            raise ValueError(
                "validation_data is missing, by which C is chosen: give (images, "
                "labels), or LinearProbe(clip, C=1.0)."
            )
        held_out = None if validation_data is None else _pair(validation_data)
        x = self._encoded(images, batch_size)
        self.sweep = {}
        if self._sweeps:
            more = self._encoded(held_out[0], batch_size)
            self.C = self._best(x, labels, more, held_out[1])
            x = np.concatenate([x, more])
            labels = np.concatenate([labels, held_out[1]])
        fitted = self._fitted(x, labels, self.C)
        self.class_names = tuple(fitted.classes_.tolist())
        kernel, bias = fitted.coef_.T, fitted.intercept_
        if len(self.class_names) == 2:  # sigmoid(z) is a softmax of 0 and z
            kernel, bias = ([0.0 * a, a] for a in (kernel, bias))
            kernel, bias = np.concatenate(kernel, axis=1), np.concatenate(bias)
        self._weights = kernel.astype("float32"), bias.astype("float32")
        self._made_with = fingerprint(self.clip.image_variables())
        return self

    def _encoded(self, images, batch_size):
        return self.clip.encode_image(images, batch_size=batch_size).astype("float64")

    def _fitted(self, x, labels, C):
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=C, max_iter=self.max_iter).fit(x, labels)

    def _best(self, x, labels, more, more_labels):
        """The C of the highest accuracy; of equals the smallest, the simplest model."""
        from sklearn.exceptions import ConvergenceWarning

        shares = {}  # exponent of 1 / C -> accuracy

        def look(exponents):
            for exponent in exponents:
                if exponent in shares or not _FIRST <= exponent <= _LAST:
                    continue
                with warnings.catch_warnings():
                    # Of hardly any penalty; what is chosen is fitted again, and warns.
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    fitted = self._fitted(x, labels, 10.0**-exponent)
                shares[exponent] = float(fitted.score(more, more_labels))
            return max(shares, key=lambda exponent: (shares[exponent], exponent))

        best = look(np.arange(_FIRST, _LAST + 1, _STEP).tolist())
        step = _STEP / 2
        while step >= _FINEST:
            best = look([best - step, best + step])
            step /= 2
        self.sweep = {10.0**-e: shares[e] for e in sorted(shares, reverse=True)}
        return 10.0**-best

    def weights(self):
        if self._weights is None:
            raise ValueError("The probe is not fitted: call fit(images, labels) first.")
        if self._made_with != fingerprint(self.clip.image_variables()):
            raise ValueError(
                "The image tower's weights have changed since the probe was fitted: "
                "call fit again."
            )
        return self._weights


def _pair(data):
    """`(images, labels)` of the validation data."""
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        refuse("validation_data", "(images, labels)", data)
    images, labels = data
    return images, labels_of("validation_data's labels", labels, len(images))
