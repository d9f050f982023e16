"""Recall at k of held-out pairs while a joint space of images and texts trains."""

import keras

from keras_genai.metrics.retrieval import caption_groups, counts, recall_at_k
from keras_genai.utils.arguments import checked
from keras_genai.utils.checks import check_images
from keras_genai.utils.validation import array, integer


class Retrieval(keras.callbacks.Callback):
    """Looks for held-out images by their captions every few epochs, and the reverse.

    `val_image_to_text_recall@1`, `val_text_to_image_recall@1` and so on are added to
    the epoch's `logs`: callbacks that stand behind this one
    (`kg.callbacks.TensorBoard`, Keras's `EarlyStopping`) and the history that `fit`
    returns see them; put it first. Equal captions count as hits, see
    `kg.metrics.recall_at_k`. Recall depends on the number of candidates, which is
    printed when the training begins, unless it is silent.

    Args:
        images: floats `(N, H, W, C)` in [-1, 1] that the model was not trained on.
        captions: list of N strings, or of N lists of strings.
        k: integer of at least 1, or several.
        every: epochs between two.
        batch_size: images, and texts, in one pass.

    Attributes:
        results: the latest dict of `kg.metrics.recall_at_k`, with the numbers of
            candidates; None before the first.

    Raises:
        ValueError: the numbers differ; or, before the first step of training, images
            of another shape or range, or texts that are too long.

    Example:

    ```python
    judge = kg.callbacks.Retrieval(images[-300:], captions[-300:], every=5)
    model.fit(data, epochs=20, callbacks=[judge])
    ```
    """

    @checked(images=array(4), captions=None, k=counts, every=integer(1))
    def __init__(self, images, captions, k=(1, 5), every=1, batch_size=64):
        super().__init__()
        self.captions = caption_groups(captions)
        self.k = k
        if len(self.captions) != len(images):
            raise ValueError(
                f"captions must be one or several for each image; got {len(images)} "
                f"images and captions of {len(self.captions)}."
            )
        self.images = images
        self.every = every
        self.batch_size = batch_size
        self.results = None
        self._tokens = None

    def on_train_begin(self, logs=None):
        if not hasattr(self.model, "encode_image"):
            raise ValueError(
                "Retrieval needs a model of images and texts, with encode_image and "
                f"encode_text, such as kg.CLIP; got {type(self.model).__name__}."
            )
        check_images(self.images, self.model.image_shape)
        texts = [text for group in self.captions for text in group]
        self._tokens = self.model.tokenize(texts)
        if self.params.get("verbose"):
            print(
                f"Retrieval: {len(texts)} texts ({len(set(texts))} different) and "
                f"{len(self.images)} images are the candidates."
            )

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        self.results = recall_at_k(
            self.model.encode_image(self.images, batch_size=self.batch_size),
            self.model.encode_text(self._tokens, batch_size=self.batch_size),
            self.captions,
            self.k,
        )
        if logs is not None:
            recalls = {n: v for n, v in self.results.items() if "recall" in n}
            logs.update({f"val_{name}": value for name, value in recalls.items()})
