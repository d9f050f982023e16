"""`evaluate`: metrics of a model's samples beside real ones, batch by batch."""

from collections.abc import Iterable, Iterator

import keras
import numpy as np

from keras_genai.metrics.metric import Metric
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_integer
from keras_genai.utils.validation import array


@checked(x=array(finite=False), y=array((1, 2), finite=False))
def evaluate(
    model,
    metrics: Metric | Iterable[Metric],
    x,
    y=None,
    seed: int = 0,
    batch_size: int = 256,
    verbose: int = 0,
) -> dict[str, float]:
    """Judges as many samples of a model as there are real ones.

    Real images go to the metrics in batches; then `model.generate` makes one sample
    for each, `labels=y` where labels are given. The generated set is that of one whole
    `model.generate(len(x), seed=seed)`, whatever the batch size: a model with
    `generate_batches` makes it piece by piece, so that memory does not grow with
    `len(x)` beyond what the metrics keep; of another the whole set is held. Metrics
    with the same extractor object share one pass of it.

    Args:
        model: a model with `generate`.
        metrics: a metric or several; their state is reset first.
        x: real images, an array `(N, H, W, C)` of floats in the model's range, [-1, 1]
            where it has no `value_range`; a `np.memmap` is read in batches.
        y: labels `(N,)` to ask the model for.
        seed: of the generated samples.
        batch_size: images in one pass of generator and extractor.
        verbose: 1 shows a progress bar with the time left.

    Returns:
        Dict of every metric's results.

    Raises:
        ValueError: before any work, for metrics that need labels where none are given,
            two results of one name, or arrays that do not fit; during it, for images
            that an extractor does not take or values that are not finite.

    Example:

    ```python
    import keras_genai as kg

    _, (images, labels) = kg.datasets.load("fashion_mnist")
    model = kg.CGAN(image_shape=(28, 28, 1), num_classes=10)
    features = kg.metrics.fashion_mnist_features()
    print(kg.metrics.evaluate(
        model,
        [kg.metrics.FID(features), kg.metrics.PrecisionRecall(features),
         kg.metrics.ClassAgreement(kg.metrics.fashion_mnist_classifier())],
        images, labels, verbose=1))
    ```
    """
    metrics = _checked_metrics(metrics, y)
    check_integer("batch_size", batch_size)
    if not callable(getattr(model, "generate", None)):
        raise ValueError(
            f"evaluate samples by model.generate, which {type(model).__name__} does "
            "not have. Feed its samples to the metrics by update_generated."
        )
    if not hasattr(x, "shape") or len(x.shape) != 4 or not len(x):
        raise ValueError(
            "x must be an array of real images (N, H, W, C), floats in [-1, 1]; got "
            f"{getattr(x, 'shape', type(x).__name__)}."
        )
    if y is not None:
        y = np.asarray(y).reshape(-1)
        if len(y) != len(x):
            raise ValueError(
                f"y must be a label for each of the {len(x)} images; got {len(y)}."
            )
    for metric in metrics:
        metric.reset_state()
    judges = [metric for metric in metrics if metric.uses_real]
    total = (len(x) if judges else 0) + len(x)
    bar = keras.utils.Progbar(total, verbose=verbose, unit_name="image")
    done = 0
    for start in range(0, len(x) if judges else 0, batch_size):
        batch = _signed(model, x[start : start + batch_size])
        for metric, features in _extracted(judges, batch):
            metric.add_real(features)
        done += len(batch)
        bar.update(done)
    start = 0
    for batch in _generated(model, len(x), y, seed, batch_size):
        condition = None if y is None else y[start : start + len(batch)]
        for metric, features in _extracted(metrics, _signed(model, batch)):
            metric.add_generated(features, condition)
        start += len(batch)
        bar.update(done + start)
    results = {}
    for metric in metrics:
        results.update(metric.result())
    return results


def _checked_metrics(metrics, y):
    metrics = [metrics] if isinstance(metrics, Metric) else list(metrics)
    if not metrics:
        raise ValueError("evaluate needs at least one metric, such as kg.metrics.FID.")
    for metric in metrics:
        if not isinstance(metric, Metric):
            raise ValueError(
                f"metrics must be kg.metrics objects, such as kg.metrics.FID(features)"
                f"; got {metric!r}."
            )
        if metric.needs_condition and y is None:
            raise ValueError(
                f"{metric.name} judges samples by the label asked for: give y."
            )
    names = [metric.name for metric in metrics]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"Two metrics have the name {twice[0]!r}: give one another (name=...)."
        )
    return metrics


def _signed(model, images):
    """Images in the model's range as the metrics take them, in [-1, 1]."""
    low, high = getattr(model, "value_range", (-1.0, 1.0))
    if (low, high) == (-1.0, 1.0):
        return images
    return (images - low) * (2.0 / (high - low)) - 1.0


def _extracted(metrics, images):
    """Each metric with the features of the images, one pass for each extractor."""
    features = {}
    for metric in metrics:
        key = id(metric.extractor)
        if key not in features:
            features[key] = metric.extract(images)
        yield metric, features[key]


def _generated(model, n, labels, seed, batch_size) -> Iterator[np.ndarray]:
    """The set of one whole `model.generate(n, seed)`, in batches."""
    asked = {} if labels is None else {"labels": labels}
    batches = getattr(model, "generate_batches", None)
    if batches is not None:
        yield from batches(n, seed, batch_size=batch_size, **asked)
        return
    images = model.generate(n, seed, batch_size=batch_size, **asked)
    for start in range(0, n, batch_size):
        yield images[start : start + batch_size]
