"""`Metric`: what every judge of generated samples has in common."""

import keras
import numpy as np
from keras import ops

from keras_genai import backend
from keras_genai.backend import programs
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_integer
from keras_genai.utils.validation import array


class Metric:
    """A judge of generated samples, fed batch by batch.

    ```
    metric.reset_state()
    metric.update_real(images)               # any number of batches
    metric.update_generated(images)
    metric.result()                          # dict name -> float
    ```

    Images are floats in [-1, 1], whatever the range of the model that made them: of a
    model of images in [0, 1] give `2 * images - 1`.

    A subclass takes features: `add_real(features)` and
    `add_generated(features, condition)`, NumPy float64 `(B, F)`.
    `kg.metrics.evaluate` runs an extractor once for all metrics that hold it.

    Args:
        extractor: any Keras model, or a callable, from images `(B, H, W, C)` to
            `(B, F)`. A model runs in inference mode, compiled where the backend does.
        name: what error messages call the metric.

    Attributes:
        uses_real: whether real samples change the result.
        needs_condition: whether generated samples come with what was asked for.
    """

    uses_real = True
    needs_condition = False

    @checked()
    def __init__(self, extractor, name: str):
        if not callable(extractor):
            raise ValueError(
                f"{name}: the extractor must be a Keras model or a function from "
                "images (B, H, W, C) to features (B, F), such as "
                f"kg.metrics.fashion_mnist_features(); got {extractor!r}."
            )
        self.extractor = extractor
        self.name = name
        self.reset_state()

    def reset_state(self) -> None:
        """Forgets every sample."""
        raise NotImplementedError(f"{type(self).__name__} must define reset_state.")

    def result(self) -> dict[str, float]:
        """The values, by name."""
        raise NotImplementedError(f"{type(self).__name__} must define result.")

    @checked(features=array(2, finite=False))
    def add_real(self, features: np.ndarray) -> None:
        """Adds the features of real samples."""

    @checked(features=array(2, finite=False), condition=array((1, 2), finite=False))
    def add_generated(self, features: np.ndarray, condition=None) -> None:
        """Adds the features of generated samples."""
        raise NotImplementedError(f"{type(self).__name__} must define add_generated.")

    @checked()
    def update_real(self, images) -> None:
        """Adds real images.

        Args:
            images: floats `(B, H, W, C)` in [-1, 1].

        Raises:
            ValueError: for images of another range or size than the extractor takes,
                or values that are not finite.
        """
        if self.uses_real:
            self.add_real(self.extract(images))

    @checked(condition=array((1, 2), finite=False))
    def update_generated(self, images, condition=None) -> None:
        """Adds generated images.

        Args:
            images: floats `(B, H, W, C)` in [-1, 1].
            condition: what each was asked to be (labels `(B,)`), for the metrics that
                judge it.

        Raises:
            ValueError: as `update_real`.
        """
        self.add_generated(self.extract(images), condition)

    def extract(self, images) -> np.ndarray:
        """The features of images: float64 `(B, F)`."""
        images = self._checked_images(images)
        if isinstance(self.extractor, keras.Model):
            model = self.extractor
            run = programs.compiled_once(
                model, "extract", lambda x: model(x, training=False), model.variables
            )
            features = run(backend.from_host(images))
        else:
            features = self.extractor(images)
        if not isinstance(features, np.ndarray):
            features = backend.to_host(features)
        features = np.asarray(features)
        if features.shape[:1] != images.shape[:1]:
            raise ValueError(
                f"{self.name}: the extractor gave {features.shape} for "
                f"{len(images)} images; it must give one row for each."
            )
        return checked_features(features, f"{self.name}: the extractor's output")

    def _checked_images(self, images):
        if not isinstance(images, np.ndarray):
            images = backend.to_host(ops.convert_to_tensor(images))
        if images.ndim != 4 or not np.issubdtype(images.dtype, np.floating):
            raise ValueError(
                f"{self.name}: images must be floats (B, H, W, C) in [-1, 1]; got "
                f"{images.dtype} {images.shape}. Bytes become floats by "
                "x / 127.5 - 1."
            )
        wanted = getattr(self.extractor, "input_shape", None)
        if isinstance(wanted, tuple) and len(wanted) == 4:
            pairs = zip(wanted[1:], images.shape[1:], strict=True)
            if any(want not in (None, got) for want, got in pairs):
                raise ValueError(
                    f"{self.name}: the extractor takes images "
                    f"{wanted[1:]} (None is any size); got {images.shape[1:]}. Resize "
                    "them (keras.ops.image.resize), repeat a grey channel "
                    "(np.repeat(x, 3, axis=-1)), or hand in another extractor."
                )
        low, high = (images.min(), images.max()) if images.size else (0.0, 0.0)
        # A NaN makes both of them NaN.
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError(
                f"{self.name}: the images hold values that are not finite (NaN or "
                "infinite). The model that made them has diverged, or the data is "
                "damaged."
            )
        if low < -1.001 or high > 1.001:
            raise ValueError(
                f"{self.name}: images must be in [-1, 1]; got values from {low:.4g} to "
                f"{high:.4g}. Bytes become floats by x / 127.5 - 1, images in [0, 1] "
                "images in [-1, 1] by 2 * x - 1."
            )
        return images.astype("float32", copy=False)


def checked_features(features, what: str) -> np.ndarray:
    """Features as float64 `(N, F)`; a `ValueError` names `what` is wrong."""
    features = np.asarray(features, "float64")
    if features.ndim != 2 or not features.shape[1]:
        raise ValueError(
            f"{what} must be of shape (samples, features); got {features.shape}."
        )
    # The sum is not finite if a value is not: one pass without an array of booleans.
    with np.errstate(invalid="ignore", over="ignore"):
        total = features.sum()
    if not np.isfinite(total) and not np.isfinite(features).all():
        raise ValueError(f"{what} holds values that are not finite (NaN or infinite).")
    return features


def checked_pair(real, generated) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of features of one width, each with a sample at least."""
    real = checked_features(real, "real_features")
    generated = checked_features(generated, "generated_features")
    if real.shape[1] != generated.shape[1]:
        raise ValueError(
            "Both sets must have the same features; got "
            f"{real.shape[1]} real and {generated.shape[1]} generated ones."
        )
    return real, generated


class Sample:
    """At most `size` rows of a stream, each row equally likely to be among them.

    Algorithm R of Vitter (1985), with draws that depend on the seed and the number of
    the row alone: the same rows stay however the stream is cut into batches. They are
    kept in float32, in one array that is made at the first batch.
    """

    def __init__(self, size: int, seed: int):
        self.size, self.seed = size, seed
        self.reset()

    def reset(self):
        self.seen = 0
        self._kept = None
        self._rng = np.random.default_rng(self.seed)

    def add(self, rows):
        if self._kept is None:
            self._kept = np.empty((self.size, rows.shape[1]), "float32")
        if rows.shape[1] != self._kept.shape[1]:
            raise ValueError(
                f"The features changed their number from {self._kept.shape[1]} to "
                f"{rows.shape[1]}; call reset_state() before another extractor."
            )
        number = self.seen + np.arange(len(rows))
        drawn = (self._rng.random(len(rows)) * (number + 1)).astype("int64")
        place = np.where(number < self.size, number, drawn)
        stays = place < self.size
        # Of several rows for one place NumPy's assignment keeps the last, as a loop.
        self._kept[place[stays]] = rows[stays]
        self.seen += len(rows)

    @property
    def rows(self):
        if self._kept is None:
            return np.empty((0, 1), "float32")
        return self._kept[: min(self.seen, self.size)]


class SampledMetric(Metric):
    """A metric of two sets of features, of each of which a sample is kept.

    Args:
        extractor: see `Metric`.
        name: see `Metric`.
        max_samples: rows kept of each set; memory is
            `2 * 4 * max_samples * F` bytes, however many are seen.
        seed: of the choice of the rows.
    """

    def __init__(self, extractor, name: str, max_samples: int, seed: int):
        self.max_samples = check_integer("max_samples", max_samples, 2)
        self.seed = check_integer("seed", seed, 0)
        self._real = Sample(self.max_samples, self.seed)
        self._generated = Sample(self.max_samples, self.seed + 1)
        super().__init__(extractor, name)

    def reset_state(self) -> None:
        self._real.reset()
        self._generated.reset()

    @checked(features=array(2, finite=False))
    def add_real(self, features: np.ndarray) -> None:
        self._real.add(features)

    @checked(features=array(2, finite=False), condition=array((1, 2), finite=False))
    def add_generated(self, features: np.ndarray, condition=None) -> None:
        self._generated.add(features)
