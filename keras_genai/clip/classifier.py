"""Classifiers of images that are linear in a CLIP's embeddings."""

import keras
import numpy as np
from keras import ops

from keras_genai.backend.precision import widen
from keras_genai.clip.captions import check_images_of
from keras_genai.clip.image_encoder import ImageEncoder
from keras_genai.layers import lora
from keras_genai.training.compiled import CompiledFunctions
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_labels
from keras_genai.utils.serialization import PACKAGE, Saving, deserialized
from keras_genai.utils.validation import (
    either,
    integer,
    network,
    number,
    one_of,
    optional,
    refuse,
    text,
    tuple_of,
)

_per_channel = tuple_of(number())


@keras.saving.register_keras_serializable(PACKAGE)
class ImageClassifier(ImageEncoder, CompiledFunctions, Saving, keras.Model):
    """The image tower of a CLIP with a linear map to classes, and no text tower.

    `ZeroShotClassifier.model()` and `LinearProbe.model()` make it, and what `save` of
    those writes is loaded as it: the vectors of the classes are weights here. Called on
    images it gives their logits.

    Args:
        image_tower: see `kg.CLIP`; shared with it, not copied.
        class_names: K names, strings or integers.
        embed_dim: E, channels of the embeddings.
        image_projection: the layer behind the tower, or None.
        activation: `"softmax"`, or `"sigmoid"`: each class is a question of its own.
        image_shape: `(H, W, C)`.
        mean, std: of each channel of images in [0, 1], tuples.

    Attributes:
        kernel: float32 weight `(E, K)`, zeros at first.
        bias: float32 weight `(K,)`, likewise.

    Example:

    ```python
    kg.clip.ZeroShotClassifier(clip, ["heart", "dog"]).save("classifier.keras")
    model = kg.load_model("classifier.keras")
    model.classify(images)                              # (N, 2)
    model.export("served")                              # signature: classify
    ```
    """

    @checked(
        image_tower=network,
        image_projection=optional(network),
        embed_dim=integer(1),
        class_names=tuple_of(either(text, integer())),
        activation=one_of("softmax", "sigmoid"),
        mean=_per_channel,
        std=_per_channel,
    )
    def __init__(
        self,
        image_tower,
        class_names,
        embed_dim=512,
        *,
        image_projection=None,
        activation="softmax",
        image_shape=(224, 224, 3),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.image_tower = image_tower
        self.image_projection = image_projection
        self.embed_dim = embed_dim
        self.class_names = class_names
        self.num_classes = len(class_names)
        self.activation = activation
        self.image_shape = image_shape
        self.mean = mean
        self.std = std
        self.kernel = self._zeros("kernel", embed_dim, self.num_classes)
        self.bias = self._zeros("bias", self.num_classes)
        self.built = True

    def _zeros(self, name, *shape):
        return self.add_weight(
            name=name,
            shape=shape,
            initializer="zeros",
            dtype="float32",
            autocast=False,
        )

    def call(self, images, training=False):
        """Logits `(B, K)` of images `(B, H, W, C)` in [-1, 1]."""
        x = widen(self.image_embeddings(images, training=training))
        return ops.matmul(x, self.kernel.value) + self.bias.value

    def probabilities(self, images):
        """The probabilities `(B, K)` of images: over the classes, or each by itself."""
        # Not by `self(images)`, which would cast the images before they are scaled.
        return getattr(ops, self.activation)(self.call(images))

    @checked()
    def classify(self, images, *, batch_size=64):
        """The probabilities of the classes of each image, NumPy float32 `(N, K)`.

        Args:
            images: floats `(N, H, W, C)` in [-1, 1].
            batch_size: images in one pass.
        """
        images = np.asarray(images)
        check_images_of(self, images)
        return self.run_in_batches(
            "classify",
            self.probabilities,
            self.variables,
            [images.astype("float32")],
            batch_size,
        )

    def export_signatures(self):
        """`classify`: `images` -> `probabilities`."""

        def classify(images):
            return {"probabilities": self.probabilities(images)}

        inputs = [("images", (None, *self.image_shape), "float32")]
        return {"classify": (classify, inputs)}

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        config = {
            "image_tower": serialize(self.image_tower),
            "embed_dim": self.embed_dim,
            "class_names": self.class_names,
            "activation": self.activation,
            "image_shape": self.image_shape,
            "mean": self.mean,
            "std": self.std,
            "name": self.name,
            "dtype": serialize(self.dtype_policy),
        }
        if self.image_projection is not None:
            config["image_projection"] = serialize(self.image_projection)
        return config

    @classmethod
    def from_config(cls, config):
        return cls(**deserialized(config))


class EmbeddingClassifier:
    """The part of a classifier that uses it, once a subclass has its weights.

    A subclass has `clip`, `class_names`, a tuple of K names, `activation`, and
    `weights()`, the kernel `(E, K)` and the bias `(K,)` of its logits.
    """

    def weights(self):
        raise NotImplementedError(f"{type(self).__name__} must define weights(self).")

    @checked()
    def logits(self, images, *, batch_size=64):
        """The logits of the classes of each image, NumPy float32 `(N, K)`.

        Args:
            images: floats `(N, H, W, C)` in [-1, 1].
            batch_size: images in one pass.
        """
        kernel, bias = self.weights()
        x = self.clip.encode_image(images, batch_size=batch_size)
        return (x @ kernel + bias).astype("float32")

    @checked()
    def classify(self, images, *, batch_size=64):
        """The probabilities of the classes of each image, NumPy float32 `(N, K)`.

        Args:
            images: floats `(N, H, W, C)` in [-1, 1].
            batch_size: images in one pass.
        """
        logits = self.logits(images, batch_size=batch_size).astype("float64")
        if self.activation == "sigmoid":
            made = np.exp(-np.logaddexp(0.0, -logits))
        else:
            made = np.exp(logits - logits.max(axis=1, keepdims=True))
            made /= made.sum(axis=1, keepdims=True)
        return made.astype("float32")

    @checked()
    def label(self, images, *, batch_size=64):
        """The name of the most likely class of each image, a list of N names.

        Args:
            images: floats `(N, H, W, C)` in [-1, 1].
            batch_size: images in one pass.
        """
        best = self.logits(images, batch_size=batch_size).argmax(axis=1)
        return [self.class_names[i] for i in best]

    @checked(labels=None)
    def evaluate(self, images, labels, *, batch_size=64):
        """How often the most likely class is the right one.

        Args:
            images: floats `(N, H, W, C)` in [-1, 1].
            labels: N names of classes; or, of classes that are named by strings, their
                numbers, integers `(N,)` in [0, K).
            batch_size: images in one pass.

        Returns:
            Dict of `"accuracy"`, the share of the images, and `"mean_class_accuracy"`,
            the mean over the classes that occur of each one's share.

        Raises:
            ValueError: for a label that is no class, or another number of labels.
        """
        self.weights()  # there are some
        numbers = self._numbers(labels, len(images))
        found = self.logits(images, batch_size=batch_size).argmax(axis=1)
        right = found == numbers
        shares = [right[numbers == i].mean() for i in np.unique(numbers)]
        return {
            "accuracy": float(right.mean()),
            "mean_class_accuracy": float(np.mean(shares)),
        }

    def _numbers(self, labels, count):
        """Labels as the numbers of their classes, integers `(N,)`."""
        labels = labels_of("labels", labels, count)
        if isinstance(self.class_names[0], str) and labels.dtype.kind in "iu":
            check_labels(labels, len(self.class_names), count)
            return labels
        places = {name: i for i, name in enumerate(self.class_names)}
        known = labels.tolist()
        wrong = next((x for x in known if x not in places), None)
        if wrong is not None:
            refuse("labels", f"among the {len(places)} class names", wrong)
        return np.array([places[x] for x in known])

    def model(self):
        """The classifier as a Keras model, an `ImageClassifier`.

        It has the image tower, which it shares with the CLIP, and the classes as they
        are now: after the CLIP has learned more, make another.

        Raises:
            ValueError: the image tower has LoRA: merge it before.
        """
        clip = self.clip
        lora.check_merged(clip.image_tower)
        model = ImageClassifier(
            clip.image_tower,
            self.class_names,
            clip.embed_dim,
            image_projection=clip.image_projection,
            activation=self.activation,
            image_shape=clip.image_shape,
            mean=clip.mean,
            std=clip.std,
            dtype=clip.dtype_policy,
        )
        for variable, value in zip(
            (model.kernel, model.bias), self.weights(), strict=True
        ):
            variable.assign(value)
        return model

    def save(self, path):
        """Writes a `.keras` file that `kg.load_model` reads as an `ImageClassifier`.

        It holds the image tower and the vectors of the classes, and no text tower.

        Args:
            path: the file; what stands there is replaced in one step.
        """
        self.model().save(path)

    def export(self, path, overwrite=False, format="tf_saved_model", signature=None):
        """Writes a SavedModel or an ONNX file, from images to probabilities.

        Its one signature is `classify`, `images` -> `probabilities`; the vectors of the
        classes are inside. See `kg.Model.export` for the arguments.
        """
        self.model().export(path, overwrite, format, signature)


def labels_of(name, labels, count):
    """Integers or strings `(N,)`, one for each of `count` images."""
    says = "integers or strings (N,), one for each image"
    try:
        found = np.asarray(labels)
    except ValueError:  # rows of two lengths
        refuse(name, says, labels)
    if found.ndim != 1 or found.dtype.kind not in "iuU":
        refuse(name, says, labels)
    if len(found) != count:
        raise ValueError(
            f"{name} must be one for each image; got {len(found)} labels and {count} "
            "images."
        )
    return found
