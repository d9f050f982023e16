"""Translations while the model trains: BLEU, chrF and examples."""

import keras

from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import integer, texts


class Translations(keras.callbacks.Callback):
    """Translates held-out sentences every few epochs, and judges the translations.

    `val_bleu` and `val_chrf` are added to the epoch's `logs`: callbacks that stand
    behind this one (`kg.callbacks.TensorBoard`, Keras's `EarlyStopping`) and the
    history that `fit` returns see them; put it first.

    Args:
        sources: list of strings that the model was not trained on.
        references: list of strings, their translations.
        every: epochs between two.
        examples: how many translations are printed each time.
        **options: of `Translator.translate`, such as `num_beams`.

    Attributes:
        translations: list of strings, the latest.

    Example:

    ```python
    judge = kg.callbacks.Translations(sources[-200:], targets[-200:], every=5)
    model.fit(data, epochs=20, callbacks=[judge])
    ```
    """

    @checked(every=integer(1), examples=integer(0), sources=texts, references=texts)
    def __init__(self, sources, references, every=1, examples=0, **options):
        super().__init__()
        if len(sources) != len(references):
            raise ValueError(
                f"references must be one for each source; got {len(sources)} sources "
                f"and {len(references)} references."
            )
        self.sources = list(sources)
        self.references = list(references)
        self.every = every
        self.examples = examples
        self.options = options
        self.translations = None

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.every:
            return
        from keras_genai import metrics

        self.translations = self.model.translate(self.sources, **self.options)
        found = {
            "val_bleu": metrics.bleu(self.translations, self.references),
            "val_chrf": metrics.chrf(self.translations, self.references),
        }
        if logs is not None:
            logs.update(found)
        lines = zip(self.sources, self.translations, self.references, strict=True)
        for _, (source, made, wanted) in zip(range(self.examples), lines, strict=False):
            print(f"\n{source}\n  -> {made}\n   = {wanted}")
