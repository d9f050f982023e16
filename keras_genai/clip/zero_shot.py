"""Classes by their names alone: zero-shot classification (2103.00020, section 3.1)."""

from collections import Counter

import numpy as np

from keras_genai.clip.classifier import EmbeddingClassifier
from keras_genai.training.fingerprint import fingerprint
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import having, text, texts, tuple_of


class ZeroShotClassifier(EmbeddingClassifier):
    """Images among classes that are given by names, without any training.

    A class's vector is the mean of the embeddings of its name in each of the templates,
    scaled to length 1 (2103.00020, section 3.1.4); an image's logits are the model's
    logits of the two, at its temperature. `classify` gives their softmax, or, of a
    model with the sigmoid loss (SigLIP), the sigmoid of each: the probability that the
    class is to be seen, whatever the others.

    Where the text tower's weights change, the vectors of the classes are computed anew
    at the next call.

    Args:
        clip: `kg.CLIP` with a tokenizer.
        class_names: list of K strings, two or more (with the sigmoid one or more).
        templates: a string or several, each with `{}` where the name stands.

    Attributes:
        class_names, templates: tuples of strings.

    Raises:
        ValueError: names that are equal or have the same tokens (such as "Dog" and
            "dog" of CLIP's tokenizer), a template without `{}`, a text that is too
            long, or no tokenizer.

    Example:

    ```python
    classifier = kg.clip.ZeroShotClassifier(
        model, ["a heart", "a dog"], ["an emoji of {}.", "a drawing of {}."])
    classifier.classify(images)                             # (N, 2)
    classifier.label(images)                                # ["a dog", ...]
    classifier.evaluate(images, labels)                     # {"accuracy": ...}
    classifier.export("served")                             # signature: classify
    ```
    """

    @checked(
        clip=having("encode_image encode_text tokenize logits_of", "a kg.CLIP"),
        class_names=texts,
    )
    def __init__(self, clip, class_names, templates=("a photo of a {}.",)):
        self.clip = clip
        self._class_names = tuple(str(name) for name in class_names)
        self._templates = _templates(templates)
        self.activation = "sigmoid" if clip.loss_name == "sigmoid" else "softmax"
        self._check_names()
        found = [t.replace("{}", n) for t in self._templates for n in self._class_names]
        self._tokens = clip.tokenize(found)  # (templates x K, T)
        self._check_tokens()
        self._vectors = self._made_with = None

    @property
    def class_names(self):
        return self._class_names

    @property
    def templates(self):
        return self._templates

    def _check_names(self):
        names = self.class_names
        empty = [name for name in names if not name.strip()]
        twice = [name for name, count in Counter(names).items() if count > 1]
        if empty or twice:
            raise ValueError(
                "class_names must be different strings that are not empty; got "
                + (f"{empty[0]!r}." if empty else f"{twice[0]!r} more than once.")
            )
        if len(names) < 2 and self.activation == "softmax":
            raise ValueError(
                "class_names must be two or more: of one class alone the softmax is 1 "
                "for every image."
            )

    def _check_tokens(self):
        """Refuses classes that the model cannot tell apart."""
        known = {}
        by_class = self._tokens.reshape(len(self.templates), len(self.class_names), -1)
        for i, name in enumerate(self.class_names):
            other = known.setdefault(by_class[:, i].tobytes(), name)
            if other is not name:
                raise ValueError(
                    f"The class names {other!r} and {name!r} have the same tokens: the "
                    "model cannot tell them apart."
                )

    @property
    def class_embeddings(self):
        """The vectors of the classes, NumPy float32 `(K, E)`, of length 1."""
        made_with = fingerprint(self.clip.text_variables())
        if self._made_with != made_with:
            vectors = self.clip.encode_text(self._tokens)
            vectors = vectors.reshape(len(self.templates), len(self.class_names), -1)
            mean = vectors.mean(axis=0)
            self._vectors = mean / np.linalg.norm(mean, axis=1, keepdims=True)
            self._made_with = made_with
        return self._vectors

    def weights(self):
        scale, bias = self.clip.scale.numbers()
        kernel = (scale * self.class_embeddings.T).astype("float32")
        return kernel, np.full(len(self.class_names), bias, "float32")


def _templates(given):
    """A tuple of the templates; refuses those without a place for the name."""
    given = (given,) if isinstance(given, str) else given
    several = tuple_of(text, says="a string with {}, or a list of such")
    given = several("templates", given)
    for template in given:
        if "{}" not in template:
            raise ValueError(
                "templates must have {} where the name of the class stands, such as "
                f"'a photo of a {{}}.'; got {template!r}."
            )
    return given
