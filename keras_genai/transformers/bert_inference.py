"""What a BERT is used for: hidden states, heads, vectors of texts, classes."""

import numpy as np
from keras import ops

from keras_genai.backend.precision import widen
from keras_genai.layers import lora
from keras_genai.training.inference import Range
from keras_genai.transformers.checks import check_tokens, filled
from keras_genai.utils.arguments import checked
from keras_genai.utils.validation import (
    array,
    either,
    integer,
    prompts,
    text,
    texts,
    word,
)

PARTS = ("tokens", "token_types", "mask", "words")


def _texts(name, value):
    """Strings, token ids `(N, T)`, or a dict of such arrays, for `checked`."""
    says = "strings, token ids (N, T), or a dict of such arrays with 'tokens'"
    if isinstance(value, dict) and "tokens" in value:
        return {key: array(2, "iub", says=says)(name, x) for key, x in value.items()}
    first = value[0] if isinstance(value, (list, tuple)) and value else value
    if isinstance(first, str):
        return prompts(name, value)
    return array((1, 2), "iu", says=says)(name, value)


class BERTInference:
    """The part of `BERT` that uses a trained one."""

    # The heads; those that are absent are None.

    @property
    def mlm(self):
        """Function: hidden states -> logits `(B, T, V)` of every token."""
        return self.network.mlm if self.masked_lm else None

    @property
    def nsp(self):
        """Function: hidden states -> logits `(B, 2)` of "follows", "does not"."""
        return self.network.nsp if self.next_sentence else None

    @property
    def pooled(self):
        """Function: hidden states -> `(B, C)`."""
        return self.network.pooled if self.pooler else None

    @property
    def classifier(self):
        """Function: hidden states -> logits `(B, K)`."""
        return self.network.classify if self.num_classes else None

    # Use

    def call(self, tokens, token_types=None, mask=None, training=False):
        """Hidden states `(B, T, C)` of tokens `(B, T)`, or of such a dict.

        Args:
            tokens: integers, or a dict with `tokens`.
            token_types: integers: which sentence; None: all the first.
            mask: zero where there is padding; by default at `pad_token`.
            training: whether there is dropout.
        """
        x = tokens if isinstance(tokens, dict) else {"tokens": tokens}
        mask = None if isinstance(mask, dict) else mask  # Keras's own, of a dict
        more = {"token_types": token_types, "mask": mask}
        x = {**x, **{name: part for name, part in more.items() if part is not None}}
        tokens, types, mask, _ = self._inputs(x)
        return self.network(tokens, types, mask, training=training)

    def _arrays_of(self, texts, pairs=None):
        """The arrays of texts or of tokens, checked: tokens, sentences, mask."""
        if isinstance(texts, str) or (
            isinstance(texts, (list, tuple)) and texts and isinstance(texts[0], str)
        ):
            if self.tokenizer is None:
                raise ValueError(
                    "Texts need a tokenizer: make the model with tokenizer=, or give "
                    "token ids."
                )
            texts = [texts] if isinstance(texts, str) else texts
            given, texts = texts, self.tokenizer.batch(texts, pairs)
            if texts["tokens"].shape[1] > self.context:
                texts = self.tokenizer.batch(given, pairs, length=self.context)
        x = {name: np.asarray(part) for name, part in parts_of(texts).items()}
        check_tokens(x["tokens"], self.vocabulary_size, self.context)
        tokens = x["tokens"].astype("int32")
        types = x.get("token_types", np.zeros_like(tokens))
        mask = x["mask"] if "mask" in x else self.seen(tokens)
        return [tokens, types, mask.astype("int32")]

    @checked(texts=_texts)
    def embed(self, texts, *, normalize=True, batch_size=32):
        """One vector for each text: the mean of the hidden states of its tokens.

        Args:
            texts: list of strings, with a tokenizer; or token ids `(N, T)`, or a dict
                of arrays.
            normalize: whether the vectors have length 1, so that their products are
                cosines.
            batch_size: texts in one pass.

        Returns:
            NumPy float32 `(N, C)`.
        """
        arrays = self._arrays_of(texts)

        def run(tokens, types, mask):
            return self._embedding(tokens, types, mask, normalize)

        return self._run(f"embed/{normalize}", run, arrays, batch_size)

    def _run(self, name, fn, arrays, batch_size):
        """`fn` of rows, which are filled up to a shape that many calls share."""
        how = ((arrays[0].shape[1],), batch_size, (self.context,))
        size, width = self.programs.shape(name, len(arrays[0]), *how)
        values = (self.pad_token, 0, 0)
        arrays = [filled(a, width, v) for a, v in zip(arrays, values, strict=True)]
        variables = self.network.variables
        return self.run_in_batches(name, fn, variables, arrays, batch_size, size)

    def _embedding(self, tokens, types, mask, normalize=True):
        hidden = widen(self.network(tokens, types, mask))
        counted = ops.expand_dims(ops.cast(mask, hidden.dtype), -1)  # (B, T, 1)
        total = ops.maximum(ops.sum(counted, axis=1), 1e-9)
        mean = ops.sum(hidden * counted, axis=1) / total  # (B, C)
        if not normalize:
            return mean
        length = ops.sqrt(ops.sum(ops.square(mean), axis=-1, keepdims=True))
        return mean / ops.maximum(length, 1e-12)

    @checked(texts=_texts, pairs=either(word, texts))
    def classify(self, texts, pairs=None, *, batch_size=32):
        """The probabilities of the classes of each text.

        Args:
            texts: see `embed`.
            pairs: the second sentence of each, with texts as strings; or None.
            batch_size: texts in one pass.

        Returns:
            NumPy float32 `(N, K)`.
        """
        if not self.num_classes:
            raise ValueError("This BERT has no classifier: make it with num_classes=.")

        def run(tokens, types, mask):
            return ops.softmax(self.network.classify(self.network(tokens, types, mask)))

        arrays = self._arrays_of(texts, pairs)
        return self._run("classify", run, arrays, batch_size)

    def input_ranges(self):
        return {
            **super().input_ranges(),
            "tokens": Range(least=0, most=self.vocabulary_size - 1),
            "token_types": Range(least=0, most=self.token_types - 1),
            "mask": Range(least=0, most=1),
        }

    def export_signatures(self):
        """`embed`: vectors of length 1; `hidden`; `logits` of the classes or tokens.

        Each takes `tokens`, `token_types` and `mask`, int32 `(B, T)`.
        """
        names = ("tokens", "token_types", "mask")
        inputs = [(name, (None, None), "int32") for name in names]
        head = self.classifier or self.mlm

        def embed(tokens, types, mask):
            return {"embeddings": self._embedding(tokens, types, mask)}

        def hidden(tokens, types, mask):
            return {"hidden": widen(self.network(tokens, types, mask))}

        def logits(tokens, types, mask):
            return {"logits": head(self.network(tokens, types, mask))}

        made = {"embed": (embed, inputs), "hidden": (hidden, inputs)}
        return made if head is None else {**made, "logits": (logits, inputs)}

    # Published weights

    @classmethod
    @checked()
    def from_pretrained(cls, source, *, subfolder=None, variant=None, **arguments):
        """A model with published weights, from a folder in transformers' layout.

        The heads are those that the file holds; with `num_classes` a file without a
        classifier gets a new one.

        Args:
            source: folder with `config.json` and `model.safetensors` (whole or in
                shards), or an id of the Hugging Face hub, `"owner/name"`. A tokenizer
                in it is taken along.
            subfolder: folder within it.
            variant: `"fp16"` for `model.fp16.safetensors`.
            **arguments: of the constructor, beside what the configuration says.

        Raises:
            ValueError: the configuration is of another network, tensors are missing,
                extra or misshapen (lists them), or the weights are a pickle.
            ImportError: `safetensors`, or `huggingface_hub` for an id, is missing.
            OSError: the hub cannot be reached.
        """
        from keras_genai.weights import bert

        return bert.load(cls, source, subfolder, variant, **arguments)

    @checked(dtype=text, max_shard_size=either(text, integer(1)))
    def save_pretrained(self, folder, dtype="float32", max_shard_size="50GB"):
        """Writes the model, and its tokenizer, in transformers' layout.

        Args:
            folder: it is made; the files of those names in it are replaced.
            dtype: of the weights' file: `"float32"`, `"float16"`, `"bfloat16"` or
                `"float64"`.
            max_shard_size: `"5GB"`, `"200MB"` or a number of bytes: larger weights are
                written in several files beside an index.
        """
        from keras_genai.weights import bert

        lora.check_merged(self.network)
        bert.save(self, folder, dtype, max_shard_size)


def parts_of(x):
    """The arrays of a batch as a dict; refuses names that are not known."""
    if not isinstance(x, dict):
        return {"tokens": x}
    unknown = sorted(set(x) - set(PARTS))
    if unknown or "tokens" not in x:
        raise ValueError(
            f"A dict of data holds 'tokens' and may hold {', '.join(PARTS[1:])}; got "
            f"{', '.join(sorted(x))}."
        )
    return x
